"""Where servers and engines are: which hosts are this machine itself, and what a URL that people give begins with."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Does only this machine reach it? A name that would have to be looked up may lead anywhere, whatever it begins with."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def base_url(url: str) -> str:
    """Of a server or an engine, whether or not it was given as OpenAI's clients want it, with `/v1`."""
    return url.rstrip("/").removesuffix("/v1")

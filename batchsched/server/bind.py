"""Where the server may listen: nothing crosses a network in the clear, and nobody far away goes without a key."""

from __future__ import annotations

import ipaddress
import ssl

from batchsched.errors import InsecureBind, InvalidConfiguration
from batchsched.hosts import is_loopback
from batchsched.settings import Server


def is_exposed(server: Server) -> bool:
    """Can other machines reach the server, by its own address or through a proxy?"""
    return not is_loopback(server.host) or bool(server.trusted_proxies)


def check_bind(server: Server) -> None:
    """Refuse what would let keys and prompts cross a network in the clear. Raises InsecureBind, InvalidConfiguration."""
    for proxy in server.trusted_proxies:
        try:
            ipaddress.ip_network(proxy, strict=False)
        except ValueError:
            raise InvalidConfiguration(f"Key 'server.trusted_proxies': '{proxy}' is no address and no network.") from None
    if server.tls_cert:
        _check_certificate(server)
    elif not is_loopback(server.host) and not server.trusted_proxies:
        raise InsecureBind(
            f"Refusing to listen on {server.host} without TLS.",
            hint="Set server.tls_cert and server.tls_key, or name the proxy that does TLS in server.trusted_proxies, or listen on"
            " 127.0.0.1.",
        )


def _check_certificate(server: Server) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(server.tls_cert, server.tls_key or None, password="")
    except (OSError, ValueError) as problem:
        where = f"'server.tls_cert' ({server.tls_cert}) and 'server.tls_key' ({server.tls_key or 'in the same file'})"
        raise InvalidConfiguration(f"Keys {where} are no certificate and its unencrypted private key: {problem}.") from None

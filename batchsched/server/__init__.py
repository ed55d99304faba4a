"""The HTTP server: OpenAI's surface, our extensions, the workers' surface. `serve` is imported when first used."""

from __future__ import annotations

from typing import Any

__all__ = ["serve"]


def __getattr__(name: str) -> Any:
    if name != "serve":
        raise AttributeError(name)
    from batchsched.server.process import serve

    return serve

"""A small request of our own, asked of an engine that died before: one that cannot answer even that is ill by itself."""

from __future__ import annotations

from typing import Any

import aiohttp

from batchsched.errors import EngineFailed
from batchsched.executors.answers import Verdict, judge
from batchsched.executors.engine import Engine
from batchsched.lines import COMPLETIONS, EMBEDDINGS

TIMEOUT_S = 120.0
"""Engines warm up with their first request."""
_ASKED: tuple[tuple[str, dict[str, Any]], ...] = (
    (COMPLETIONS, {"prompt": "Well?", "max_tokens": 1}),
    (EMBEDDINGS, {"input": "Well?"}),
)


async def prove(session: aiohttp.ClientSession, engine: Engine, model: str) -> None:
    """Ask at the first endpoint that it has, before chunks are sent to it and one of their lines is blamed.

    Raises EngineFailed where it does not answer, or turns us away; it is stopped then.
    """
    status, content = await _answer(session, engine, model)
    verdict, _, meant = judge(status, content)
    if verdict is Verdict.OK or (verdict is Verdict.OVERLOADED and meant != 500):
        return
    said = f"status {status}: {content[:200].decode('utf-8', 'replace')}" if status else content.decode()
    await engine.stop()
    raise EngineFailed(
        f"After its death the engine is up again, but a small request of '{model}' is not answered ({said}).",
        hint="It is the engine, its driver or its hardware that is ill, not a request of a batch. See its log.",
    )


async def takes(session: aiohttp.ClientSession, engine: Engine, model: str) -> bool:
    """Does it answer one now?"""
    return judge(*await _answer(session, engine, model)).verdict is Verdict.OK


async def _answer(session: aiohttp.ClientSession, engine: Engine, model: str) -> tuple[int, bytes]:
    """Of the first endpoint that it has; 0 and why, where none came."""
    status, content = 0, b""
    for endpoint, body in _ASKED:
        status, content = await _ask(session, engine.url + endpoint, {"model": model, **body})
        if judge(status, content).verdict is not Verdict.REFUSED:
            break
    return status, content


async def _ask(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> tuple[int, bytes]:
    """Status and content; 0 and why, where none came."""
    try:
        async with session.post(url, json=body, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as answer:
            return answer.status, await answer.read()
    except (aiohttp.ClientError, TimeoutError, OSError) as problem:
        return 0, (str(problem) or type(problem).__name__).encode()

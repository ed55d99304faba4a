"""What an engine says about itself: which it is, its version, the numbers it computes with. It stands in every output line."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from batchsched.executors.probes import PROBE_TIMEOUT_S
from batchsched.fleet import words_of

_HEAD_BYTES = 262_144
_CONFIG = re.compile(r"Initializing a V\d LLM engine.*")
_DTYPE, _QUANTIZATION = re.compile(r"\bdtype=(?:torch\.)?(\w+)"), re.compile(r"\bquantization=(\w+)")
_SHORT = {"half": "float16", "float": "float32"}


class Identity(msgspec.Struct, frozen=True):
    """None: the engine does not tell, and no flag that we know of says so."""

    name: str | None = None
    version: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    """`none` where it is known that the weights are not quantized."""


def told_by_flags(engine_args: Sequence[str]) -> tuple[str | None, str | None]:
    """Dtype and quantization, where flags of vLLM name them (of one that comes twice the last holds)."""
    dtype = quantization = None
    for flag, value in itertools.pairwise(words_of(engine_args)):
        if flag == "--dtype" and value != "auto":
            dtype = _SHORT.get(value, value)
        elif flag in {"--quantization", "-q"}:
            quantization = value
    return dtype, quantization


def told_by_log(log: Path | None) -> tuple[str | None, str | None]:
    """Dtype and quantization as vLLM writes them at its start, `auto` resolved; from the log of an engine of ours."""
    if log is None:
        return None, None
    with contextlib.suppress(OSError), log.open("rb") as file:
        if line := _CONFIG.search(file.read(_HEAD_BYTES).decode("utf-8", "replace")):
            dtype, quantization = _DTYPE.search(line[0]), _QUANTIZATION.search(line[0])
            return dtype and dtype[1], quantization and quantization[1].lower()
    return None, None


async def told_by_routes(session: aiohttp.ClientSession, url: str) -> tuple[str | None, str | None]:
    """Name and version. vLLM tells its version at /version, llama.cpp at /props, llama-cpp-python in its OpenAPI document; other
    servers at least who owns their models."""
    said = (await _json(session, f"{url}/version")).get("version")
    data = (await _json(session, f"{url}/v1/models")).get("data")
    owner = data[0].get("owned_by") if isinstance(data, list) and data and isinstance(data[0], dict) else None
    name, version = _text(owner), _text(said)
    if version is not None or name == "vllm":
        return name, version
    if name == "llamacpp":
        return "llama.cpp", _text((await _json(session, f"{url}/props")).get("build_info"))
    about = (await _json(session, f"{url}/openapi.json")).get("info")
    if isinstance(about, dict) and "llama.cpp Python" in str(about.get("title")):
        return "llama-cpp-python", _text(about.get("version"))
    return name, version


def _text(found: object) -> str | None:
    return found if isinstance(found, str) else None


async def _json(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    """An object; empty where there is none."""
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)) as answer:
            found = await answer.json() if answer.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

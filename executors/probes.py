"""What an engine is asked beside its work: is it well, what does it serve, how much has it done?"""

from __future__ import annotations

import contextlib

import aiohttp

PROBE_TIMEOUT_S = 10.0
_TOKENS = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")


async def healthy(session: aiohttp.ClientSession, url: str, tries: int = 1) -> bool:
    """Does /health answer 200? No answer in time counts as no only after `tries` of them: a busy engine may be slow to say."""
    for _ in range(tries):
        with contextlib.suppress(TimeoutError):
            try:
                async with session.get(f"{url}/health", timeout=aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)) as answer:
                    return answer.status == 200
            except (aiohttp.ServerTimeoutError, TimeoutError):
                raise TimeoutError from None
            except (aiohttp.ClientError, OSError):
                return False
    return False


async def context_of(session: aiohttp.ClientSession, url: str, model: str) -> int | None:
    """The longest request that it takes for a model, prompt and answer together, in tokens; None where it does not say."""
    try:
        async with session.get(f"{url}/v1/models", timeout=aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)) as answer:
            found = [one["max_model_len"] for one in (await answer.json())["data"] if one["id"] == model]
            return int(found[0]) if found else None
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError):
        return None


async def models_of(session: aiohttp.ClientSession, url: str) -> list[str]:
    """The names under /v1/models; empty where that cannot be read."""
    try:
        async with session.get(f"{url}/v1/models", timeout=aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)) as answer:
            return [str(model["id"]) for model in (await answer.json())["data"]]
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError):
        return []


async def tokens_of(session: aiohttp.ClientSession, url: str) -> float | None:
    """Tokens that the engine has read and written since it started, for whomever; None where it does not say."""
    try:
        async with session.get(f"{url}/metrics", timeout=aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)) as answer:
            lines = (await answer.text()).splitlines()
            counts = [float(line.rsplit(maxsplit=1)[-1]) for line in lines if line.startswith(_TOKENS)]
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None
    return sum(counts) if counts else None

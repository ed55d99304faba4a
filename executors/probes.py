"""What an engine is asked beside its work: is it well, what does it serve, how much has it done?"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import NamedTuple

import aiohttp

from batchsched.executors.admission import Capacity, Load
from batchsched.measures import DRAFTED

PROBE_TIMEOUT_S = 10.0
_CACHE = "vllm:cache_config_info{"
_BYTES = "vllm:nixl_bytes_transferred_sum"
_FETCHES = ("vllm:nixl_xfer_time_seconds_count", "vllm:nixl_num_failed_transfers")
_FETCHING = re.compile(r'vllm:num_requests_kv_fetch_by_stage\{.*stage="in_progress"')
_FROM_ELSEWHERE = re.compile(r'vllm:prompt_tokens_by_source_total\{.*source="external_kv_transfer"')
_LABEL = re.compile(r'(\w+)="(\d+)"')


async def healthy(session: aiohttp.ClientSession, url: str, tries: int = 1, *, path: str = "/health") -> bool:
    """Does it answer 200 where it tells of its health?

    No answer in time counts as no only after `tries` of them: a busy engine may be slow to say.
    """
    for _ in range(tries):
        with contextlib.suppress(TimeoutError):
            try:
                async with session.get(f"{url}{path}", timeout=aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)) as answer:
                    return answer.status == 200
            except (aiohttp.ServerTimeoutError, TimeoutError):
                raise TimeoutError from None
            except (aiohttp.ClientError, OSError):
                return False
    return False


class Served(NamedTuple):
    """What stands under /v1/models: names, and the longest request of each in tokens. `turned_away`: we were not let in."""

    contexts: dict[str, int | None] = {}
    turned_away: bool = False

    def context(self, model: str) -> int | None:
        """Prompt and answer together; of an adapter, which does not say, that of the model beneath it."""
        return self.contexts.get(model) or max((each or 0 for each in self.contexts.values()), default=0) or None


async def served_by(session: aiohttp.ClientSession, url: str) -> Served:
    """Nothing where that cannot be read."""
    try:
        async with session.get(f"{url}/v1/models", timeout=aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)) as answer:
            if answer.status in {401, 403}:
                return Served(turned_away=True)
            return Served({str(one["id"]): one.get("max_model_len") for one in (await answer.json())["data"]})
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return Served()


async def context_of(session: aiohttp.ClientSession, url: str, model: str) -> int | None:
    """The longest request that it takes for a model, prompt and answer together, in tokens; None where it does not say."""
    return (await served_by(session, url)).context(model)


def tells_load(metrics: Mapping[str, str]) -> bool:
    """Does an engine that names what it tells of so say how it fares? Otherwise its page need not be read for that."""
    return {"waiting", "kv_usage", "preemptions"} <= metrics.keys()


class Drafts(NamedTuple):
    """What an engine has counted since it started: drafts, their tokens, and those of them that stayed."""

    drafts: float
    tokens: float
    accepted: float


class Fetching(NamedTuple):
    """Prompts whose keys and values an engine is fetching from another, and how many times that ended, well or not."""

    under_way: float
    over: float


class Page:
    """An engine's metrics, read once: several answers of one moment. `lines`: none where they cannot be read."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def tokens(self, counters: tuple[str, ...]) -> float | None:
        """Tokens that the engine has read and written since it started, for whomever; None where it does not say.

        `counters`: names of the metrics that tell, of which it is the sum.
        """
        return _sum(self._lines, *counters) if counters else None

    def drafts(self, metrics: Mapping[str, str]) -> Drafts | None:
        """None where it does not say, or makes none. `metrics`: how it names what it tells of."""
        names = [metrics.get(name) for name in DRAFTED]
        found = [_sum(self._lines, f"{name}{{", f"{name} ") if name else None for name in names]
        known = [count for count in found if count is not None]
        return Drafts(*known) if len(known) == len(names) else None

    def in_flight(self, metrics: Mapping[str, str]) -> float | None:
        """Requests that it has, running or waiting, for whomever; None where it does not say."""
        # With labels or without; other metrics have longer names that begin alike.
        names = [metrics[name] + end for name in ("running", "waiting") if name in metrics for end in "{ "]
        return _sum(self._lines, *names) if "running" in metrics else None

    def capacity(self, context: int | None) -> Capacity:
        """What it can hold, over all its data-parallel parts; what it does not say is left open. `context`: in tokens."""
        parts = [dict(_LABEL.findall(line)) for line in self._lines if line.startswith(_CACHE)]
        sizes = [{name: int(size) for name, size in part.items()} for part in parts]
        tokens = sum(_cache_tokens(each) for each in sizes)
        return (
            Capacity(tokens, max(each.get("block_size", 1) for each in sizes), context) if tokens else Capacity(context=context)
        )

    def handed(self) -> tuple[float, float]:
        """Bytes of keys and values, and tokens of prompts, that it took from another engine since it started; 0 where it does not
        say."""
        prompts = [line for line in self._lines if _FROM_ELSEWHERE.match(line)]
        return _sum(self._lines, _BYTES) or 0.0, _sum(prompts, "vllm:") or 0.0

    def fetching(self) -> Fetching | None:
        """None where it does not say, or fetches none."""
        under_way = _sum([line for line in self._lines if _FETCHING.match(line)], "vllm:")
        return None if under_way is None else Fetching(under_way, _sum(self._lines, *_FETCHES) or 0.0)

    def load(self, metrics: Mapping[str, str]) -> Load | None:
        """How it fares; None where it does not say. `metrics`: how it names what it tells of."""
        if not tells_load(metrics):
            return None
        waiting, usage = _sum(self._lines, f"{metrics['waiting']}{{"), _sum(self._lines, metrics["kv_usage"])
        preemptions = _sum(self._lines, metrics["preemptions"])
        return None if waiting is None or usage is None or preemptions is None else Load(waiting, usage, preemptions)


async def page_of(session: aiohttp.ClientSession, url: str) -> Page:
    """Its metrics as they are now."""
    try:
        async with session.get(f"{url}/metrics", timeout=aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)) as answer:
            return Page((await answer.text()).splitlines() if answer.status == 200 else [])
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return Page([])


def _cache_tokens(sizes: dict[str, int]) -> int:
    """Newer engines say it themselves: where layers differ, blocks are not all of one size."""
    return sizes.get("kv_cache_size_tokens") or sizes.get("num_gpu_blocks", 0) * sizes.get("block_size", 0)


def _sum(lines: list[str], *names: str) -> float | None:
    """The sum of the samples whose names begin so; None where there is none."""
    try:
        counts = [float(line.rsplit(maxsplit=1)[-1]) for line in lines if line.startswith(names)]
    except ValueError:
        return None
    return sum(counts) if counts else None

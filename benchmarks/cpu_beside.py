"""What online users of a server feel of an engine on the host's idle processors: p99 with and without it.

An online server answers users that come at random (Poisson, from a seed). Beside it stands nothing, or a vLLM on the processors
that is kept busy: once as any process, once bound as docs/host_cpus.md says (cores of its own, nice 19, idle class). The rounds
are paired: in each all three are run, in an order drawn anew, for as many seconds. Ratios are a round's p99 over that of the same
round without the engine.

Without --online-url the online server is a vLLM on these processors too, with the tiny model: the hardest neighbour there is,
since both want the very cores. What the host's work for a GPU feels is measured only with the URL of a server on this host's GPU.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from batchsched.executors.engine import VllmEngine
from batchsched.executors.engine_home import find_engine
from batchsched.fleet import HostCpu, Pool, ServedModel
from batchsched.hosts import base_url
from batchsched.settings import Worker

ROOT = Path(__file__).resolve().parent.parent
ONLINE_WORDS, ONLINE_TOKENS = 30, 24
BESIDE_WORDS, BESIDE_TOKENS, BESIDE_IN_FLIGHT = 60, 64, 8
CONTEXT_TOKENS = 512
SETTLE_S = 2.0
ARMS = ("alone", "unbound", "bound")
TEXT = "A batch of requests can wait for the wind to blow and for the sun to shine before it runs"
NOT_MEASURED = "no GPU server was given: what the host's work for a GPU feels was not measured"


class Answered(NamedTuple):
    """Of one online request, seconds: to the first token, and for each further one."""

    ttft_s: float
    tpot_s: float


Seen = tuple[list[Answered], float]
"""Of one arm in one round: the online answers, and tokens a second of the engine beside."""
Round = dict[str, Seen]


def main() -> int:
    """Run it; the last line printed is JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="two rounds of 15 s: a glance, not a figure")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each arm in each round")
    parser.add_argument("--rate", type=float, default=6.0, help="online requests a second")
    parser.add_argument("--online-url", default="", help="a vLLM server that runs already, on this host's GPU")
    parser.add_argument("--online-model", default="tiny", help="the model that it serves")
    parser.add_argument("--cores", default="", help="cores of the bound engine [default: the upper half]")
    parser.add_argument("--model", type=Path, default=ROOT / ".models" / "tiny")
    args = parser.parse_args()
    rounds, seconds = (2, 15.0) if args.quick else (args.rounds, args.seconds)
    cores = args.cores or _upper_half()
    print(f"Machine: {platform.machine()}, {os.cpu_count()} cores. The bound engine runs on cores {cores}.")
    print(f"Online: {args.rate:g} requests a second, {ONLINE_WORDS} words in, {ONLINE_TOKENS} tokens out; {rounds} rounds.")
    if not args.online_url:
        print(f"Note: {NOT_MEASURED}.")
    seen = asyncio.run(_measure(args, str(args.model.absolute()), rounds, seconds, cores))
    print(json.dumps(summary(seen, gpu=bool(args.online_url))))
    return 0


async def _measure(args: argparse.Namespace, model: str, rounds: int, seconds: float, cores: str) -> list[Round]:
    pools = {"unbound": Pool(), "bound": Pool(kind="cpu", cpu=HostCpu(cores=cores, nice=19, idle=True))}
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        online = base_url(args.online_url)
        if not online:
            online = await stack.enter_async_context(_engine(model, Pool()))
        beside = {arm: await stack.enter_async_context(_engine(model, pool)) for arm, pool in pools.items()}
        for url, model in [(online, args.online_model), *((url, "tiny") for url in beside.values())]:
            await _warm(session, url, model)
        found = []
        for number in range(rounds):
            draw, results = random.Random(number), dict[str, Seen]()
            for arm in draw.sample(ARMS, len(ARMS)):
                results[arm] = await _arm(session, online, args.online_model, beside.get(arm, ""), args.rate, seconds, number)
            found.append(results)
            _print_round(number, results)
        return found


async def _arm(
    session: aiohttp.ClientSession, online: str, model: str, beside: str, rate: float, seconds: float, seed: int
) -> Seen:
    """The same arrivals for each arm of a round."""
    counted = [0]
    busy = [asyncio.create_task(_keep_busy(session, beside, counted)) for _ in range(BESIDE_IN_FLIGHT if beside else 0)]
    await asyncio.sleep(SETTLE_S)
    began, before = time.monotonic(), counted[0]
    draw, asked = random.Random(1_000 + seed), list[asyncio.Task[Answered]]()
    at = draw.expovariate(rate)
    while at < seconds:
        await asyncio.sleep(max(0.0, began + at - time.monotonic()))
        asked.append(asyncio.create_task(_ask(session, online, model, draw)))
        at += draw.expovariate(rate)
    answers = await asyncio.gather(*asked)
    tokens_per_s = (counted[0] - before) / (time.monotonic() - began)
    for task in busy:
        task.cancel()
    await asyncio.gather(*busy, return_exceptions=True)
    return answers, tokens_per_s


async def _ask(session: aiohttp.ClientSession, url: str, model: str, draw: random.Random) -> Answered:
    """One online request, streamed."""
    body = _body(model, " ".join(draw.choices(TEXT.split(), k=ONLINE_WORDS)), ONLINE_TOKENS) | {"stream": True}
    began, marks = time.monotonic(), list[float]()
    async with session.post(f"{url}/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.content:
            if line.startswith(b"data: {"):
                marks.append(time.monotonic())
    return Answered(marks[0] - began, (marks[-1] - marks[0]) / max(1, ONLINE_TOKENS - 1))


async def _keep_busy(session: aiohttp.ClientSession, url: str, counted: list[int]) -> None:
    """One request after another, for as long as it may."""
    draw = random.Random(2)
    while True:
        body = _body("tiny", " ".join(draw.choices(TEXT.split(), k=BESIDE_WORDS)), BESIDE_TOKENS)
        async with session.post(f"{url}/v1/completions", json=body) as answer:
            usage = (await answer.json())["usage"]
        counted[0] += usage["prompt_tokens"] + usage["completion_tokens"]


def _body(model: str, prompt: str, tokens: int) -> dict[str, Any]:
    return {"model": model, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "temperature": 0}


async def _warm(session: aiohttp.ClientSession, url: str, model: str) -> None:
    for seed in range(5):
        await _ask(session, url, model, random.Random(seed))


@asynccontextmanager
async def _engine(model: str, pool: Pool) -> AsyncGenerator[str]:
    """A vLLM of our own on the processors; its URL."""
    with tempfile.TemporaryDirectory(prefix="bench-cpu-beside-") as folder:
        engine = VllmEngine(find_engine(), pool, Worker(state_dir=folder))
        try:
            await engine.start(ServedModel(model, max_model_len=CONTEXT_TOKENS), "tiny")
            yield engine.url
        finally:
            await engine.stop()


def summary(seen: Sequence[Round], *, gpu: bool) -> dict[str, Any]:
    """Medians over the rounds, in milliseconds; ratios are of a round's p99 over that of its arm `alone`, with their range."""
    told: dict[str, Any] = {}
    for arm in ARMS:
        p99 = [(_p99([a.ttft_s for a in round_[arm][0]]), _p99([a.tpot_s for a in round_[arm][0]])) for round_ in seen]
        base = [(_p99([a.ttft_s for a in r["alone"][0]]), _p99([a.tpot_s for a in r["alone"][0]])) for r in seen]
        told[arm] = {"requests": sum(len(round_[arm][0]) for round_ in seen)}
        for place, name in enumerate(("ttft", "tpot")):
            told[arm][f"{name}_p99_ms"] = round(1000 * statistics.median(pair[place] for pair in p99), 2)
            if arm != "alone":
                ratios = [pair[place] / alone[place] for pair, alone in zip(p99, base, strict=True)]
                told[arm][f"{name}_p99_ratio"] = round(statistics.median(ratios), 3)
                told[arm][f"{name}_p99_ratio_range"] = [round(min(ratios), 3), round(max(ratios), 3)]
        if arm != "alone":
            told[arm]["beside_tokens_per_s"] = round(statistics.median(round_[arm][1] for round_ in seen), 1)
    return {**told, "rounds": len(seen), "gpu": gpu, "not_measured": None if gpu else NOT_MEASURED}


def _p99(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


def _print_round(number: int, results: Round) -> None:
    for arm in ARMS:
        answers, tokens_per_s = results[arm]
        ttft_ms, tpot_ms = 1000 * _p99([a.ttft_s for a in answers]), 1000 * _p99([a.tpot_s for a in answers])
        print(
            f"round {number + 1}, {arm:8}: {len(answers):4} online requests, p99 {ttft_ms:7.1f} ms to the first token, "
            f"{tpot_ms:6.2f} ms each further; beside {tokens_per_s:7.1f} tokens/s",
            flush=True,
        )


def _upper_half() -> str:
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    return ",".join(map(str, usable[len(usable) // 2 :]))


if __name__ == "__main__":
    raise SystemExit(main())

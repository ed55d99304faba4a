"""Spare capacity: our governor against no guard, fixed caps, priority alone and AIMD, beside online load on a real vLLM.

The online load is half of what the server, saturated, answers on this machine: measured first, for machines differ and change.
Each cell is a load (steady, bursty) and a goal (loose: 3 times, tight: 1.5 times what the server alone does at p99). The online
load is half of what the server, saturated, answers on this machine: measured first, for machines differ and change. Every arm
meets the same online requests at the same times, in rounds of some twenty seconds: in each all arms have their turn, in an order
drawn anew, so that a machine that becomes slower or faster does so for all. What an arm has learnt it keeps from round to round;
ours begins from cold. `alone` is run twice, once to state the goals and once as an arm. The anchor is the best fixed cap that
keeps the goal (attainment at most 0.01 below alone), found by trying. Intervals are 95 % of a paired bootstrap over stretches of
25 requests. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from batchsched.executors.engine import VllmEngine
from batchsched.executors.engine_home import find_engine
from batchsched.fleet import Pool, ServedModel
from batchsched.settings import Worker
from benchmarks.spare.online import ROOT, Arrival, Felt, bursty, capacity_per_s, serve, steady

FLAGS = ["--max-num-seqs", "128", "--max-num-batched-tokens", "512", "--scheduling-policy", "priority"]
GOALS = {"loose": 3.0, "tight": 1.5}
CAPS = (2, 4, 8, 16, 32, 64)
CEILING = 96
NO_GUARD = 256
ALLOWED = 0.01
_STRETCH, _RESAMPLED = 25, 2000
_SETTLE_S = 1.5
_ROUND = 250
"""Requests of each arm in a round."""


class Ran(NamedTuple):
    """One arm beside one load."""

    felt: list[Felt]
    offline_tokens_per_s: float
    said: dict[str, Any]


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="500 requests a cell and three caps: a glance")
    parser.add_argument("--requests", type=int, default=1500, help="online requests of a cell")
    parser.add_argument("--load", type=float, default=0.5, help="online load, as a share of what the server can answer")
    parser.add_argument("--loads", default="steady,bursty")
    parser.add_argument("--arms", default="", help="only arms whose names begin so, comma between them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, default=ROOT / ".models" / "tiny")
    args = parser.parse_args()
    count, caps = (500, CAPS[1::2]) if args.quick else (args.requests, CAPS)
    print(f"{os.cpu_count()} x {_cpu()}, {platform.system()} {platform.release()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(prefix="bench-spare-") as folder:
        print(json.dumps(asyncio.run(_all(args, count, caps, folder))))
    return 0


async def _all(args: argparse.Namespace, count: int, caps: tuple[int, ...], folder: str) -> dict[str, Any]:
    home = find_engine()
    engine = VllmEngine(home, Pool(engine_args=FLAGS), Worker(state_dir=folder, startup_timeout_s=240))
    print(f"Engine: {home.describe()}, {' '.join(FLAGS)}", flush=True)
    await engine.start(ServedModel(str(args.model.absolute()), max_model_len=2048), "tiny")
    try:
        await capacity_per_s(engine.url, 98, 100)  # its first requests are slow
        can_per_s = await capacity_per_s(engine.url, 99)
        per_s = args.load * can_per_s
        print(
            f"Saturated it answers {can_per_s:.1f} requests a second; a cell: {count} of them, {per_s:.1f} a second.", flush=True
        )
        summary: dict[str, Any] = {}
        for load in args.loads.split(","):
            if load == "steady":
                arrivals = steady(count, per_s, args.seed)
            else:
                arrivals, source = bursty(count, per_s, args.seed)
                print(f"Bursts: {source}.")
            summary[load] = await _load(engine.url, load, arrivals, caps, args)
        return summary
    finally:
        await engine.stop()


async def _load(url: str, load: str, arrivals: list[Arrival], caps: tuple[int, ...], args: argparse.Namespace) -> dict[str, Any]:
    first = await serve(url, arrivals[: max(_ROUND, len(arrivals) // 2)], args.seed)
    goals = {name: tuple(multiple * _p99([each[i] for each in first]) for i in (0, 1)) for name, multiple in GOALS.items()}
    arms: dict[str, dict[str, Any] | None] = {"alone": None, "no guard": {"kind": "cap", "cap": NO_GUARD, "priority": False}}
    arms["priority"] = {"kind": "cap", "cap": NO_GUARD}
    arms |= {f"cap {cap}": {"kind": "cap", "cap": cap} for cap in caps}
    for goal, (ttft_s, tpot_s) in goals.items():
        for kind in ("aimd", "governed"):
            arms[f"{kind} {goal}"] = {"kind": kind, "ttft_s": ttft_s, "tpot_s": tpot_s, "ceiling": CEILING}
    wanted = tuple(args.arms.split(",")) if args.arms else ("",)
    arms = {name: arm for name, arm in arms.items() if name == "alone" or name.startswith(wanted)}
    ran = await _rounds(url, arrivals, arms, args.seed)
    for name, run in ran.items():
        print(f"{load:7}{name:15} {_times(run.felt)}  {_short(run.said)}", flush=True)
    return {goal: _cell(load, goal, limits, ran) for goal, limits in goals.items() if f"governed {goal}" in ran}


async def _rounds(url: str, arrivals: list[Arrival], arms: dict[str, dict[str, Any] | None], seed: int) -> dict[str, Ran]:
    """All arms beside the same online load, in turns."""
    rng, order = random.Random(seed), list(arms)
    felt: dict[str, list[Felt]] = {name: [] for name in arms}
    with ExitStack() as stack:
        sides = {name: stack.enter_context(OfflineSide(url, arm, seed + 1)) for name, arm in arms.items() if arm}
        for begin in range(0, len(arrivals), _ROUND):
            stretch = [each._replace(at_s=each.at_s - arrivals[begin].at_s) for each in arrivals[begin : begin + _ROUND]]
            rng.shuffle(order)
            for name in order:
                await asyncio.sleep(_SETTLE_S)
                async with sides[name].stretch() if name in sides else nullcontext():
                    felt[name] += await serve(url, stretch, seed + begin)
            print(f"  {begin + len(stretch)} of {len(arrivals)} requests of each arm", flush=True)
    return {name: Ran(felt[name], *sides[name].did) if name in sides else Ran(felt[name], 0.0, {}) for name in arms}


def _cell(load: str, goal: str, limits: tuple[float, ...], ran: dict[str, Ran]) -> dict[str, float | None]:
    kept = {name: [each.ttft_s <= limits[0] and each.tpot_s <= limits[1] for each in run.felt] for name, run in ran.items()}
    alone = kept["alone"]
    print(f"{load} {goal}: TTFT {limits[0] * 1e3:.1f} ms, TPOT {limits[1] * 1e3:.2f} ms; alone {_share(alone):.4f}")
    for name, run in ran.items():
        if name.startswith(("aimd", "governed")) and not name.endswith(goal):
            continue
        low, high = _interval(alone, kept[name])
        print(
            f"  {name:15} attainment {_share(kept[name]):.4f}, below alone {_share(alone) - _share(kept[name]):+.4f} "
            f"[{low:+.4f}, {high:+.4f}], offline {run.offline_tokens_per_s:7.0f} tok/s, missed by round {_missed(kept[name])}"
        )
    keep = [
        run.offline_tokens_per_s for name, run in ran.items() if name.startswith("cap ") and _loss(alone, kept[name]) <= ALLOWED
    ]
    ours, name = ran[f"governed {goal}"], f"governed {goal}"
    ratios = [_p99([each[i] for each in ours.felt]) / _p99([each[i] for each in ran["alone"].felt]) for i in (0, 1)]
    return {
        "attainment": round(_share(kept[name]), 4),
        "alone": round(_share(alone), 4),
        "offline_tokens_per_s": round(ours.offline_tokens_per_s, 1),
        "offline_vs_best_cap": round(ours.offline_tokens_per_s / max(keep), 3) if keep else None,
        "ttft_p99_ratio": round(ratios[0], 3),
        "tpot_p99_ratio": round(ratios[1], 3),
    }


class OfflineSide:
    """The process of an arm."""

    def __init__(self, url: str, arm: dict[str, Any], seed: int) -> None:
        command = [sys.executable, "-m", "benchmarks.spare.offline", url, json.dumps(arm), str(seed)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True, bufsize=1)
        self._said: dict[str, Any] = {}

    def __enter__(self) -> OfflineSide:
        if self._read() != "ready\n":
            raise SystemExit("The offline side did not start.")
        return self

    def __exit__(self, *how: object) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def did(self) -> tuple[float, dict[str, Any]]:
        """Tokens a second, and what else it told."""
        return float(self._said["tokens_per_s"]), self._said

    @asynccontextmanager
    async def stretch(self) -> AsyncGenerator[None]:
        """It works."""
        self._write()
        yield
        self._write()
        self._said = json.loads(await asyncio.to_thread(self._read))

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def _write(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")


def _interval(alone: list[bool], ours: list[bool]) -> tuple[float, float]:
    """Of how far ours is below alone."""
    rng, stretches = random.Random(0), math.ceil(len(alone) / _STRETCH)
    lost = [a - b for a, b in zip(alone, ours, strict=True)]
    sums = [sum(lost[at * _STRETCH : (at + 1) * _STRETCH]) for at in range(stretches)]
    found = sorted(sum(rng.choices(sums, k=stretches)) / len(alone) for _ in range(_RESAMPLED))
    return found[int(0.025 * _RESAMPLED)], found[int(0.975 * _RESAMPLED)]


def _missed(kept: list[bool]) -> str:
    """How many of each round: a stretch in which the machine stood still is told from a guard that lets too much in."""
    return " ".join(str(kept[at : at + _ROUND].count(False)) for at in range(0, len(kept), _ROUND))


def _loss(alone: list[bool], other: list[bool]) -> float:
    return _share(alone) - _share(other)


def _share(kept: list[bool]) -> float:
    return sum(kept) / len(kept)


def _p50(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _p99(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.99 * len(values)))]


def _times(felt: list[Felt]) -> str:
    ttft, tpot = ([each[i] * 1e3 for each in felt] for i in (0, 1))
    unanswered = sum(math.isinf(each.ttft_s) for each in felt)
    lost = f" ({unanswered} unanswered)" if unanswered else ""
    return f"TTFT p50 {_p50(ttft):6.1f} p99 {_p99(ttft):7.1f}  TPOT p50 {_p50(tpot):5.2f} p99 {_p99(tpot):6.2f} ms{lost}"


def _short(said: dict[str, Any]) -> str:
    return " ".join(f"{key} {value:.2f}" if isinstance(value, float) else f"{key} {value}" for key, value in said.items())


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())

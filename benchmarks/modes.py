"""The serving modes of GreenLLM on tiny models: each against the same engine alone, in turns, answers compared token by token.

The larger tiny model answers; the smaller one, which mostly agrees with it, drafts. speculative: vLLM drafts with it in the same
process. prefill_decode: a second engine reads the prompts and hands over keys and values by NIXL. draft_target: drafts come from
a second engine through the draft service. Both sides share this machine's cores, so slower is what to expect: it is the equality
of answers and the bytes that count here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from batchsched.executors.drafts import serve_drafts, target_args, target_environment
from batchsched.executors.engine_home import EngineHome, find_engine
from benchmarks.modes_engines import KEY, Engine, engine
from benchmarks.modes_load import Load, Send, Sent, differing, of_lengths, run, spread, to
from benchmarks.modes_split import by_two, missing, split_engines

ROOT = Path(__file__).resolve().parent.parent
TOKENS = 4
FURTHER = 4
PLAIN = ["--no-enable-prefix-caching"]  # a prompt that comes again is read again, as the first time
TARGET = "large"


class Plan(NamedTuple):
    """How much of it. `equal`: loads whose answers are compared; `rate`: the one that is timed."""

    equal: list[Load]
    rate: Load
    repetitions: int


class Mode(NamedTuple):
    """What came of one mode. `ratio`: its rate over standalone, in each repetition; `differ`: answers that were not alike."""

    ratios: list[float]
    differ: int
    compared: int
    lost: int
    figures: dict[str, float]


def main() -> int:
    """Run it; the last line printed is JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="few and short requests, one repetition: a glance, not a figure")
    parser.add_argument("--only", choices=("spec", "dpd", "dsd"), action="append", help="one mode; may come twice")
    parser.add_argument("--models", type=Path, default=ROOT / ".models", help="folder of the tiny models, made where they lack")
    args = parser.parse_args()
    home = find_engine()
    machine = f"{os.cpu_count()} x {platform.machine()}, {platform.system()} {platform.release()}"
    print(f"{machine}; engine: {home.describe()}", flush=True)
    small, large = _models(home, args.models.absolute())
    chosen = args.only or ["spec", "dpd", "dsd"]
    with tempfile.TemporaryDirectory(prefix="bench-modes-") as name:
        found = asyncio.run(_all(home, Path(name), small, large, _plan(args.quick), chosen))
    print(json.dumps(_summed(found)))
    return 0


def _plan(quick: bool) -> Plan:
    count, longest, answer = (6, 1000, 24) if quick else (32, 4000, 48)
    lengths = spread(20, longest, count)
    equal = [of_lengths(TARGET, lengths, answer, in_flight, seed) for seed, in_flight in enumerate((1, 32))]
    requests, each = (24, 48) if quick else (96, 128)
    return Plan(equal, of_lengths(TARGET, [20 + 9 * (index % 20) for index in range(requests)], each, 32, 7), 1 if quick else 5)


async def _all(home: EngineHome, folder: Path, small: Path, large: Path, plan: Plan, chosen: list[str]) -> dict[str, Mode | None]:
    found: dict[str, Mode | None] = {}
    with engine(home, folder, TARGET, large, PLAIN) as alone:
        await run(plan.rate, to(alone.url))  # warm
        reference = [await run(load, to(alone.url)) for load in plan.equal]
        again = [await run(load, to(alone.url)) for load in plan.equal]
        differ = sum(map(differing, reference, again))
        print(f"standalone: the same {_count(plan)} requests again, {differ} answers differ", flush=True)
        modes: dict[str, Callable[[], Any]] = {
            "spec": lambda: _speculative(home, folder, small, large, plan, alone, reference),
            "dpd": lambda: _prefill_decode(home, folder, large, plan, alone, reference),
            "dsd": lambda: _draft_target(home, folder, small, large, plan, alone, reference),
        }
        for name in chosen:
            try:
                found[name] = await modes[name]()
            except RuntimeError as problem:
                print(f"{name}: could not run: {problem}", flush=True)
                found[name] = None
    return found


async def _speculative(
    home: EngineHome, folder: Path, small: Path, large: Path, plan: Plan, alone: Engine, reference: list[Sent]
) -> Mode:
    drafts = {"method": "draft_model", "model": str(small), "num_speculative_tokens": TOKENS}
    flags = [*PLAIN, "--speculative-config", json.dumps(drafts)]
    with engine(home, folder / "spec", TARGET, large, flags) as target:
        mode = await _compare("spec", plan, alone, to(target.url), reference)
        return mode._replace(figures={"acceptance": _acceptance(target)})


async def _prefill_decode(
    home: EngineHome, folder: Path, large: Path, plan: Plan, alone: Engine, reference: list[Sent]
) -> Mode | None:
    if lacking := missing(home):
        print(f"dpd: not run: {lacking}", flush=True)
        return None
    with split_engines(home, folder / "dpd", large, TARGET, PLAIN) as both:
        mode = await _compare("dpd", plan, alone, by_two(both), reference)
        return mode._replace(figures=both.figures())


async def _draft_target(
    home: EngineHome, folder: Path, small: Path, large: Path, plan: Plan, alone: Engine, reference: list[Sent]
) -> Mode:
    told = folder / "drafts.json"
    with engine(home, folder / "drafter", "small", small) as drafter:
        async with serve_drafts(drafter.url, "small", key=KEY) as service:
            address = f"127.0.0.1:{service.port}"
            flags = [*PLAIN, *target_args(TOKENS)]
            extra = target_environment(address, KEY, told, always=True)
            with engine(home, folder / "dsd", TARGET, large, flags, extra) as target:
                equal = await _compare("dsd", plan._replace(repetitions=0), alone, to(target.url), reference)
                before = await _told(told, plan, target)
                mode = await _compare("dsd", plan._replace(equal=[]), alone, to(target.url), [])
                after, acceptance = await _told(told, plan, target), _acceptance(target)
            print(f"dsd: {json.dumps(after)}; service: {json.dumps(service.counters())}", flush=True)
            with engine(home, folder / "dsd-off", TARGET, large, flags, target_environment(address, KEY, told)) as target:
                own = await _compare("dsd, switching itself off", plan._replace(equal=[]), alone, to(target.url), [])
            print(f"dsd, switching itself off: {told.read_text('utf-8')}", flush=True)
    travelled, drafted = (
        sum(after[name] - before[name] for name in names) for names in (("sent_bytes", "received_bytes"), ("drafted",))
    )
    figures = {"acceptance": acceptance, "bytes_per_token": travelled / max(1, drafted)}
    compared, differ = equal.compared + mode.compared, equal.differ + mode.differ
    return Mode(mode.ratios, differ, compared, equal.lost + mode.lost + own.lost, figures)


async def _told(told: Path, plan: Plan, target: Engine) -> dict[str, Any]:
    """What the proposer counted so far, which it tells at a step that comes a second after the last time."""
    await asyncio.sleep(1.1)
    await run(plan.rate._replace(bodies=plan.rate.bodies[:1]), to(target.url))
    return _read(told)


def _read(told: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(told.read_text("utf-8"))
    return found


async def _compare(name: str, plan: Plan, alone: Engine, mode: Send, reference: list[Sent]) -> Mode:
    """Answers first, then rates: in turns, the first one alternating."""
    differ = lost = 0
    for load, before in zip(plan.equal, reference, strict=False):
        sent = await run(load, mode)
        differ, lost = differ + differing(before, sent), lost + sent.lost
    ratios: list[float] = []
    for index in range(plan.repetitions):
        ways = {"alone": to(alone.url), "mode": mode}
        order = ("alone", "mode") if index % 2 == 0 else ("mode", "alone")
        sent_by = {each: await run(plan.rate, ways[each]) for each in order}
        ratios.append(sent_by["alone"].seconds / sent_by["mode"].seconds)
        lost += sum(sent.lost for sent in sent_by.values())
        rates = {each: plan.rate.tokens / sent.seconds for each, sent in sent_by.items()}
        differ += differing(sent_by["alone"], sent_by["mode"])
        print(f"{name}: {rates['mode']:7.0f} tokens/s, alone {rates['alone']:7.0f}; ratio {ratios[-1]:.3f}", flush=True)
    compared = _count(plan) + plan.repetitions * len(plan.rate.bodies)
    print(f"{name}: {compared} answers compared, {differ} differ, {lost} requests lost", flush=True)
    return Mode(ratios, differ, compared, lost, {})


def _count(plan: Plan) -> int:
    return sum(len(load.bodies) for load in plan.equal)


def _acceptance(target: Engine) -> float:
    """Drafted tokens that the target took, as vLLM counts them."""
    drafted = target.counter("vllm:spec_decode_num_draft_tokens_total")
    return target.counter("vllm:spec_decode_num_accepted_tokens_total") / drafted if drafted else 0.0


def _models(home: EngineHome, folder: Path) -> tuple[Path, Path]:
    small, large = folder / "tiny", folder / "tiny-larger"
    maker = [home.python, str(ROOT / "executors" / "tiny_model.py")]
    subprocess.run([*maker, str(small)], check=True, capture_output=True)
    subprocess.run([*maker, str(large), "--further", str(FURTHER)], check=True, capture_output=True)
    return small, large


def _summed(found: dict[str, Mode | None]) -> dict[str, object]:
    def figure(name: str, key: str) -> float | None:
        mode = found.get(name)
        return round(mode.figures[key], 4) if mode and key in mode.figures else None

    def equal(name: str) -> bool | None:
        mode = found.get(name)
        return mode.differ == 0 and mode.lost == 0 if mode else None

    def ratio(name: str) -> float | None:
        mode = found.get(name)
        return round(statistics.median(mode.ratios), 4) if mode else None

    return {
        "dpd_equal_outputs": equal("dpd"),
        "dpd_bytes_per_token_measured": figure("dpd", "bytes_measured"),
        "dpd_bytes_per_token_computed": figure("dpd", "bytes_computed"),
        "dsd_equal_outputs": equal("dsd"),
        "dsd_bytes_per_token": figure("dsd", "bytes_per_token"),
        "dsd_acceptance": figure("dsd", "acceptance"),
        "throughput_vs_standalone": {name: ratio(name) for name in ("spec", "dpd", "dsd")},
        "lost": sum(mode.lost for mode in found.values() if mode),
    }


if __name__ == "__main__":
    raise SystemExit(main())

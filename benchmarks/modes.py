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
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import aiohttp

from batchsched.executors.drafts import DraftService, serve_drafts, target_args, target_environment
from batchsched.executors.engine_home import EngineHome, find_engine
from benchmarks.modes_engines import KEY, ROOT, Engine, engine, tiny_models
from benchmarks.modes_load import Load, Sent, of_lengths, run, spread, to
from benchmarks.modes_split import by_two, missing, split_engines
from benchmarks.modes_ties import Tie, tie_at
from benchmarks.modes_turns import Mode, Way, compare, table

TOKENS = 4
PLAIN = ["--no-enable-prefix-caching"]  # a prompt that comes again is read again, as the first time
TARGET = "large"
OWN_WILL = "dsd, switching itself off"


class Plan(NamedTuple):
    """How much of it. `equal`: loads whose answers are compared; `rate`: the one that is timed."""

    equal: list[Load]
    rate: Load
    repetitions: int


def main() -> int:
    """Run it; the last line printed is JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="few and short requests, one repetition: a glance, not a figure")
    parser.add_argument("--answers-only", action="store_true", help="compare answers and count bytes; time nothing")
    parser.add_argument("--only", choices=list(MODES), action="append", help="one mode; may come twice")
    parser.add_argument("--models", type=Path, default=ROOT / ".models", help="folder of the tiny models, made where they lack")
    args = parser.parse_args()
    home = find_engine()
    machine = f"{os.cpu_count()} x {platform.machine()}, {platform.system()} {platform.release()}"
    print(f"{machine}; engine: {home.describe()}", flush=True)
    models = tiny_models(home, args.models.absolute())
    chosen = args.only or list(MODES)
    plan = _plan(args.quick)
    plan = plan._replace(repetitions=0) if args.answers_only else plan
    with tempfile.TemporaryDirectory(prefix="bench-modes-") as name:
        found = asyncio.run(_all(home, Path(name), models, plan, chosen))
    if plan.repetitions:
        table(found, frozenset({"dpd", "dsd", OWN_WILL}))
    print(json.dumps(_summed(found)))
    return 0


def _plan(quick: bool) -> Plan:
    count, longest, answer = (6, 1000, 24) if quick else (32, 4000, 48)
    lengths = spread(20, longest, count)
    equal = [of_lengths(TARGET, lengths, answer, in_flight, seed) for seed, in_flight in enumerate((1, 32))]
    requests, each = (24, 48) if quick else (64, 96)
    return Plan(equal, of_lengths(TARGET, [20 + 9 * (index % 20) for index in range(requests)], each, 32, 7), 1 if quick else 5)


class Ground(NamedTuple):
    """What all modes share: where, with which models, the plan, the engine alone and what it answered; `timed`: to the load of
    the turns; `tie`: asks the engine alone."""

    home: EngineHome
    folder: Path
    small: Path
    large: Path
    plan: Plan
    alone: Way
    reference: list[Sent]
    timed: Sent
    tie: Tie

    async def compare(self, name: str, way: Way) -> Mode:
        """A mode with the engine alone: answers and turns."""
        equal = list(zip(self.plan.equal, self.reference, strict=True))
        return await compare(name, equal, (self.plan.rate, self.timed), self.plan.repetitions, self.alone, way, self.tie)


async def _all(home: EngineHome, folder: Path, models: tuple[Path, Path], plan: Plan, chosen: list[str]) -> dict[str, Mode]:
    found: dict[str, Mode] = {}
    with engine(home, folder, TARGET, models[1], PLAIN) as alone:
        timed = await run(plan.rate, to(alone.url)) if plan.repetitions else Sent([], 0.0)  # it is warm then, too
        reference = [await run(load, to(alone.url)) for load in plan.equal]
        ground = Ground(home, folder, *models, plan, Way(to(alone.url), [alone]), reference, timed, tie_at(alone.url))
        for name in chosen:
            try:
                found |= await MODES[name](ground)
            except (RuntimeError, OSError, aiohttp.ClientError) as problem:
                print(f"{name}: could not run: {problem}", flush=True)
    return found


async def _speculative(on: Ground) -> dict[str, Mode]:
    drafts = {"method": "draft_model", "model": str(on.small), "num_speculative_tokens": TOKENS}
    flags = [*PLAIN, "--speculative-config", json.dumps(drafts)]
    with engine(on.home, on.folder / "spec", TARGET, on.large, flags) as target:
        mode = await on.compare("spec", Way(to(target.url), [target]))
        return {"spec": mode._replace(figures={"acceptance": _acceptance(target)})}


async def _prefill_decode(on: Ground) -> dict[str, Mode]:
    if lacking := missing(on.home):
        print(f"dpd: not run: {lacking}", flush=True)
        return {}
    with split_engines(on.home, on.folder / "dpd", on.large, TARGET, PLAIN) as both:
        mode = await on.compare("dpd", Way(by_two(both), [both.answers, both.reads], both.sent))
        return {"dpd": mode._replace(figures=both.figures())}


async def _draft_target(on: Ground) -> dict[str, Mode]:
    """Drafts always, for what they are worth; then as it is meant to be, switching itself off."""
    told = on.folder / "drafts.json"
    found: dict[str, Mode] = {}
    with engine(on.home, on.folder / "drafter", "small", on.small) as drafter:
        async with serve_drafts(drafter.url, "small", key=KEY) as service:
            flags = [*PLAIN, *target_args(TOKENS)]
            for name in ("dsd", OWN_WILL) if on.plan.repetitions else ("dsd",):
                extra = target_environment(f"127.0.0.1:{service.port}", KEY, told, always=name == "dsd")
                with engine(on.home, on.folder / name.split()[-1], TARGET, on.large, flags, extra) as target:
                    way = Way(to(target.url), [target, drafter], lambda: service.passed()[0])
                    found[name] = await _drafted(on, name, way, target, service)
                print(f"{name}: {told.read_text('utf-8')}; service: {json.dumps(service.counters())}", flush=True)
    return found


async def _drafted(on: Ground, name: str, way: Way, target: Engine, service: DraftService) -> Mode:
    """Bytes a token are of the turns alone, if there are any: a long prompt goes out once, whatever is drafted for it."""
    none = Mode([], 0, 0, 0, 0, 0, {})
    lengths = on._replace(plan=on.plan._replace(repetitions=0))
    before = service.passed()
    equal = none if name == OWN_WILL else await lengths.compare(f"{name}, prompts of all lengths", way)
    before = service.passed() if on.plan.repetitions else before
    mode = await on._replace(plan=on.plan._replace(equal=[]), reference=[]).compare(name, way)
    travelled, drafted = (now - then for now, then in zip(service.passed(), before, strict=True))
    figures = {"acceptance": _acceptance(target), "bytes_per_token": travelled / max(1.0, drafted)}
    both = {key: getattr(equal, key) + getattr(mode, key) for key in ("differ", "tied", "compared", "lost")}
    return mode._replace(**both, figures=figures)


MODES: dict[str, Callable[[Ground], Awaitable[dict[str, Mode]]]] = {
    "spec": _speculative,
    "dpd": _prefill_decode,
    "dsd": _draft_target,
}


def _acceptance(target: Engine) -> float:
    """Drafted tokens that the target took, as vLLM counts them."""
    drafted = target.counter("vllm:spec_decode_num_draft_tokens_total")
    return target.counter("vllm:spec_decode_num_accepted_tokens_total") / drafted if drafted else 0.0


def _summed(found: dict[str, Mode]) -> dict[str, object]:
    def figure(name: str, key: str) -> float | None:
        return round(found[name].figures[key], 4) if name in found and key in found[name].figures else None

    def equal(name: str) -> bool | None:
        of_it = [mode for each, mode in found.items() if each.split(",")[0] == name]
        return all(mode.differ == mode.lost == 0 for mode in of_it) if of_it else None

    def median(name: str, values: Callable[[Mode], list[float]]) -> float | None:
        return round(statistics.median(values(found[name])), 4) if name in found and found[name].turns else None

    return {
        "dpd_equal_outputs": equal("dpd"),
        "dpd_bytes_per_token_measured": figure("dpd", "bytes_measured"),
        "dpd_bytes_per_token_computed": figure("dpd", "bytes_computed"),
        "dsd_equal_outputs": equal("dsd"),
        "dsd_bytes_per_token": figure("dsd", "bytes_per_token"),
        "dsd_acceptance": figure("dsd", "acceptance"),
        "throughput_vs_standalone": {name: median(name, lambda mode: mode.rates) for name in MODES},
        "energy_vs_standalone": {name: median(name, lambda mode: mode.energies) for name in MODES},
        "tied": sum(mode.tied for mode in found.values()),
        "lost": sum(mode.lost for mode in found.values()),
    }


if __name__ == "__main__":
    raise SystemExit(main())

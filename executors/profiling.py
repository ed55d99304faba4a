"""Profile a model on this machine's replica of a pool: drive the engine through probes, again and again, and measure each trial.

What is measured is kept on disk trial by trial. When a probe has been tried often enough is decided by the caller.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from batchsched.clock import IdSource
from batchsched.errors import EngineFailed
from batchsched.executors.meters import EnergyMeter, Reading
from batchsched.executors.probing import Asker, Ran
from batchsched.executors.trial_log import TrialLog
from batchsched.measures import DRAFTED
from batchsched.wire import PartnerUse, Probe, Trial

Partner = Callable[[], Awaitable[PartnerUse | None]]
"""Tells what the other engine of a mode of two pools took since it was first asked."""
REST_S = 2.0
LEAST_ARRIVALS = 10
_MOST_WAVES = 64


class Step(NamedTuple):
    """How far a profile run is: the trial that just ended, and how many its probe has by now."""

    probe: Probe
    number: int
    of: int
    trials: int
    trial: Trial


class Bench(msgspec.Struct, frozen=True):
    """What is profiled, and how. `seconds`: how long one trial should take."""

    pool: str
    model: str
    setting: str
    in_flight: int
    seconds: float = 20.0
    seed: int = 0


class Profiler:
    """One engine that runs already and nobody else uses."""

    def __init__(
        self,
        bench: Bench,
        asker: Asker,
        meter: EnergyMeter,
        log: TrialLog,
        ids: IdSource,
        now: Callable[[], datetime],
        partner: Partner | None = None,
    ) -> None:
        self._partner = partner
        self._bench, self._asker, self._meter, self._log, self._ids, self._now = bench, asker, meter, log, ids, now
        self._warm: set[Probe] = set()

    async def run(
        self, probes: Sequence[Probe], enough: Callable[[Sequence[Trial]], bool], tell: Callable[[Step], None]
    ) -> dict[Probe, list[Trial]]:
        """The trials of each probe, earlier runs' included. Raises EngineFailed where the engine answers next to nothing."""
        found: dict[Probe, list[Trial]] = {}
        for number, probe in enumerate(probes, 1):
            trials = found[probe] = self._log.of(probe, self._bench.setting)
            while not enough(trials):
                trial = await self._trial(probe, trials)
                self._log.add(trial)
                trials.append(trial)
                tell(Step(probe, number, len(probes), len(trials), trial))
        return found

    async def _trial(self, probe: Probe, before: Sequence[Trial]) -> Trial:
        """Rest, then work: what the engine draws in between must be told from what it draws anyway."""
        rng = random.Random(f"{self._bench.seed} {probe} {len(before)}")  # noqa: S311 - repeatable on purpose
        count = before[0].requests if before else 0
        if probe not in self._warm:
            warm = await self._warm_up(probe, rng)
            count = count or warm
            self._warm.add(probe)
        rest_w = await self._rest()
        drafts, aside = await self._asker.drafts(), await self._aside()
        counts, reading, started_at = await self._asker.means(), self._meter.read(), self._now()
        if probe.qps is None:
            ran = await self._asker.at_once(probe, count, self._bench.in_flight, rng)
        else:
            ran = await self._asker.at_rate(probe, self._bench.seconds, LEAST_ARRIVALS, rng)
        after = self._meter.read()
        _check(ran)
        trial = self._measured(probe, ran, reading, after, started_at, rest_w, await self._means(ran, counts))
        more: dict[str, Any] = {"partner": _between(aside, await self._aside())}
        if drafts and (drafted := await self._asker.drafts()):
            more |= {name: now - then for name, then, now in zip(DRAFTED, drafts, drafted, strict=True)}
        return msgspec.structs.replace(trial, **more)

    async def _aside(self) -> PartnerUse | None:
        return await self._partner() if self._partner else None

    async def _warm_up(self, probe: Probe, rng: random.Random) -> int:
        """Let the engine see such requests; how many of them fill a trial at full load."""
        wave = self._bench.in_flight if probe.qps is None else 1
        ran = await self._asker.at_once(probe, wave, wave, rng)
        _check(ran)
        waves = math.ceil(self._bench.seconds / max(ran.seconds, 1e-3))
        return wave * min(_MOST_WAVES, max(1, waves))

    async def _rest(self) -> float | None:
        before, began = self._meter.read(), time.monotonic()
        await asyncio.sleep(min(REST_S, self._bench.seconds))
        after = self._meter.read()
        known = "unmeasured" not in {before.source, after.source}
        return (after.total_j - before.total_j) / (time.monotonic() - began) if known else None

    async def _means(self, ran: Ran, before: dict[str, tuple[float, float]]) -> dict[str, float | None]:
        """Of streamed answers as they came here; of others as the engine counted them."""
        streamed = {
            "ttft_s": [answer.ttft_s for answer in ran.answers if answer.ttft_s is not None],
            "tpot_s": [answer.tpot_s for answer in ran.answers if answer.tpot_s is not None],
        }
        if streamed["ttft_s"]:
            return {name: sum(values) / len(values) for name, values in streamed.items()}
        after = await self._asker.means()
        rises = {name: (after[name][0] - before[name][0], after[name][1] - before[name][1]) for name in before if name in after}
        return {name: rises[name][0] / rises[name][1] if name in rises and rises[name][1] > 0 else None for name in streamed}

    def _measured(
        self,
        probe: Probe,
        ran: Ran,
        before: Reading,
        after: Reading,
        started_at: datetime,
        rest_w: float | None,
        means: dict[str, float | None],
    ) -> Trial:
        return Trial(
            id=self._ids.new("trial"),
            pool=self._bench.pool,
            model=self._bench.model,
            setting=self._bench.setting,
            probe=probe,
            started_at=started_at,
            seconds=ran.seconds,
            requests=len(ran.answers),
            unanswered=ran.unanswered,
            input_tokens=sum(answer.input_tokens for answer in ran.answers),
            output_tokens=sum(answer.output_tokens for answer in ran.answers),
            energy_j=max(0.0, after.energy_j - before.energy_j),
            energy_source="unmeasured" if before.source == "unmeasured" else after.source,
            host_j=max(0.0, after.host_j - before.host_j),
            host_source=after.host_source,
            mark=after.mark or before.mark,
            rest_w=rest_w,
            ttft_s=means["ttft_s"],
            tpot_s=means["tpot_s"],
            latencies=[
                (round(answer.ttft_s, 5), round(answer.tpot_s, 6))
                for answer in ran.answers
                if answer.ttft_s is not None and answer.tpot_s is not None
            ],
        )


def _between(before: PartnerUse | None, after: PartnerUse | None) -> PartnerUse | None:
    """What a partner took between two of its words."""
    if before is None or after is None:
        return None
    added = ("seconds", "energy_j", "host_j", "sent_bytes", "sent_tokens")
    return msgspec.structs.replace(after, **{name: max(0.0, getattr(after, name) - getattr(before, name)) for name in added})


def _check(ran: Ran) -> None:
    if len(ran.answers) <= ran.unanswered:
        raise EngineFailed(f"The engine answers too little to be profiled: {ran.problem or 'nothing at all came back'}.")

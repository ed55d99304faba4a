"""Ways to serve a model side by side, as profile runs measured them: what GreenLLM's Figure 4 (arXiv 2412.20322) shows.

A row is one way on one pool under one load: its throughput, the joules of a token on either side, the share of requests that kept
their latencies, how drafts fared, and what went over the link between two pools.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import fsum

import msgspec

from batchsched.fleet import Mode
from batchsched.measures import DRAFTED
from batchsched.profiles.slo import WORKLOADS
from batchsched.profiles.trials import summarise
from batchsched.wire import Probe, Trial


class Way(msgspec.Struct, frozen=True):
    """A model as it is served: its mode, of a variant the model that it stands for, and the other pool of a mode of two."""

    mode: Mode = "standalone"
    variant_of: str = ""
    partner_pool: str = ""


class Side(msgspec.Struct, frozen=True):
    """One way on one pool under one load. Figures of a token count those read and written alike; None: not measured.

    `seconds_per_token`: of a replica, `partner_s_per_token` of the other pool's engine. Joules of both sides make
    `energy_j_per_token`. `link_bytes_per_s`: what went between the pools while it worked, of what the link takes.
    """

    model: str
    pool: str
    way: Way
    probe: Probe
    trials: int
    tokens_per_s: float
    seconds_per_token: float
    partner_s_per_token: float
    energy_j_per_token: float | None
    own_j_per_token: float | None
    partner_j_per_token: float
    energy_source: str
    attainment: float | None = None
    acceptance: float | None = None
    tokens_per_step: float | None = None
    bytes_per_token: float | None = None
    link_bytes_per_s: float | None = None
    link_takes_bytes_per_s: float | None = None

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.model} on {self.pool}"

    @property
    def load(self) -> str:
        """Requests, and how they came."""
        return f"{self.probe.name}, {'full' if self.probe.qps is None else f'{self.probe.qps:g}/s'}"

    @property
    def modelled(self) -> bool:
        """Did no meter see all of its energy?"""
        return not {"modelled", "unmeasured"}.isdisjoint(self.energy_source.split(", "))


def sides(trials: Iterable[Trial], ways: Mapping[str, Way]) -> list[Side]:
    """Of each load every way that was measured, the plain one first; of each model on each pool its newest setting only."""
    settings: dict[tuple[str, str], str] = {}
    groups: dict[tuple[Probe, str, str], list[Trial]] = {}
    for trial in sorted(trials, key=lambda one: one.started_at, reverse=True):
        if trial.model in ways and settings.setdefault((trial.model, trial.pool), trial.setting) == trial.setting:
            groups.setdefault((trial.probe, trial.model, trial.pool), []).append(trial)
    found = [_side(some, ways[model]) for (_, model, _), some in groups.items()]
    return sorted(found, key=lambda one: (one.probe.name, one.probe.qps or 0.0, one.way.variant_of != "", one.model, one.pool))


def beside(side: Side, others: Sequence[Side]) -> Side | None:
    """The plain way to serve the same model on the same pool under the same load; None where that was not measured."""
    return next((one for one in others if (one.model, one.pool, one.probe) == (side.way.variant_of, side.pool, side.probe)), None)


def _side(some: Sequence[Trial], way: Way) -> Side:
    workload = WORKLOADS.get(some[0].probe.name.partition(" ")[0])
    told = summarise(some, slo=workload.slo if workload else None)
    tokens, seconds = _sum(some, "input_tokens") + _sum(some, "output_tokens"), _sum(some, "seconds")
    tokens = max(1.0, tokens)
    drafts, drafted, accepted = (_sum(some, name) for name in DRAFTED)
    partners = [one.partner for one in some if one.partner]
    sent, sent_tokens = fsum(one.sent_bytes for one in partners), fsum(one.sent_tokens for one in partners)
    joules = [one.total_j for one in some]
    known = [each for each in joules if each is not None]
    partner_j = fsum(one.energy_j + one.host_j for one in partners) / tokens
    energy_j = fsum(known) / tokens if len(known) == len(joules) else None
    sources = {one.energy_source for one in some} | {one.energy_source for one in partners}
    return Side(
        model=some[0].model,
        pool=some[0].pool,
        way=way,
        probe=some[0].probe,
        trials=len(some),
        tokens_per_s=tokens / seconds,
        seconds_per_token=seconds / tokens,
        partner_s_per_token=fsum(one.seconds for one in partners) / tokens,
        energy_j_per_token=energy_j,
        own_j_per_token=None if energy_j is None else energy_j - partner_j,
        partner_j_per_token=partner_j,
        energy_source=", ".join(sorted(sources)),
        attainment=told.attainment if some[0].probe.qps is not None else None,
        acceptance=accepted / drafted if drafted else None,
        tokens_per_step=1.0 + accepted / drafts if drafts else None,
        bytes_per_token=sent / sent_tokens if sent_tokens else None,
        link_bytes_per_s=sent / seconds if partners else None,
        link_takes_bytes_per_s=next((one.link_bytes_per_s for one in partners if one.link_bytes_per_s), None),
    )


def _sum(some: Sequence[Trial], name: str) -> float:
    return fsum(getattr(one, name) for one in some)

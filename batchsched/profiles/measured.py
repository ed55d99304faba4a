"""From a prior and what was measured to a profile: a Bayesian update of two unknowns.

The unknowns are the logarithms of the factors by which reading (prefill) and writing (decoding) take longer than the prior says.
The prior gives both the same spread and most of it in common (`TOGETHER`), so that chunks that are all alike move both, and
chunks of different mixes tell them apart. One chunk shows the logarithm of its time, around what the two factors make of its
tokens, with a spread of its own. Recent observations count more, longer ones count more up to a point; what was seen of the model
on another pool moves a pool not yet seen by a part of the way, since most of a prior's error is common to a model; and what was
seen before the pool changed its speed (`drift.py`) counts no more. A chunk may run for an hour: pieces of it tell of a change
before it ends.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from batchsched.measures import DRAFTED
from batchsched.profiles.drift import OF_CHUNKS, OF_PIECES, Caution, drifted
from batchsched.profiles.profile import Drafted, Drift, Profile, Sent, spread

Array = NDArray[np.float64]

SIGMA_FLOOR = 0.1
"""Speed varies this much from hour to hour however well it is known."""
OWN_SPREAD = 0.25
"""Standard deviation of log(seconds) of one observation around the truth: what a chunk's mix of lengths does."""
SHARED = 0.7
"""Share of a prior's log error that is common to a model on all pools."""
TOGETHER = 0.7
"""Correlation of the prior's errors in reading and in writing: the same engine, the same GPU, other bounds."""
HALF_LIFE_S = 7 * 86400.0
"""An observation this much older than the newest counts half: engines are updated, neighbours change."""
FULL_WEIGHT_S = 60.0
"""Shorter observations count less: ramp-up and ramp-down fill them."""
PIECE_S = 30.0
PIECE_ANSWERS = 4
"""A piece of a chunk has so many answers and replica-seconds at least."""
ROUNDS = 4
"""Of linearising the logarithm of a sum; two or three suffice."""


class Observation(msgspec.Struct, frozen=True):
    """What a worker saw while it was busy with one chunk."""

    model: str
    pool: str
    at: datetime
    busy_s: float
    """Replica-seconds, start-up not counted."""
    input_tokens: int
    output_tokens: int
    energy_j: float | None = None
    """Measured joules; None where nothing was measured."""
    startup_s: float | None = None
    """Where an engine was started for it."""
    drafted: Drafted | None = None
    sent: Sent | None = None
    piece: bool = False
    """A minute or so of a chunk that is an observation as well, whole: tells early that a pool has changed its speed."""


def observations_of(rows: Sequence[Mapping[str, Any]]) -> list[Observation]:
    """What was seen, as profiles take it: a chunk's stay on a pool, the start of an engine, a trial of a profile run."""
    return [
        Observation(row["model"], row["pool"], row["ended_at"], 0.0, 0, 0, startup_s=row["startup_s"])
        if row["startup_s"] > 0
        else Observation(
            model=row["model"],
            pool=row["pool"],
            at=row["ended_at"],
            busy_s=row["busy_s"],
            input_tokens=int(row["input_tokens"]),
            output_tokens=int(row["output_tokens"]),
            energy_j=row["energy_j"] if _metered(row) else None,
            drafted=_drafts_of(row),
            sent=_sent_of(row),
        )
        for row in rows
    ]


def _drafts_of(row: Mapping[str, Any]) -> Drafted | None:
    return Drafted(*(row[name] for name in DRAFTED)) if row.get("drafts") else None


def _sent_of(row: Mapping[str, Any]) -> Sent | None:
    return Sent(row["sent_bytes"] / row["sent_tokens"], row["link_bytes_per_s"]) if row.get("sent_tokens") else None


def pieces_of(rows: Sequence[Mapping[str, Any]]) -> list[Observation]:
    """Chunks in pieces, each long enough and of enough answers to tell a speed; what is left over goes to the last.

    `rows`: entries of the ledger in time order. Of a chunk that has not come so far there is none.
    """
    done: list[list[Mapping[str, Any]]] = []
    open_: dict[str, list[Mapping[str, Any]]] = {}
    last: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        piece = open_.setdefault(row["chunk_id"], [])
        piece.append(row)
        if _sum(piece, "busy_s") >= PIECE_S and _sum(piece, "requests") >= PIECE_ANSWERS:
            done.append(piece)
            last[row["chunk_id"]] = open_.pop(row["chunk_id"])
    for chunk_id, piece in open_.items():
        last.get(chunk_id, []).extend(piece)
    return [
        Observation(
            model=piece[0]["model"],
            pool=piece[0]["pool"],
            at=piece[-1]["ended_at"],
            busy_s=_sum(piece, "busy_s"),
            input_tokens=int(_sum(piece, "input_tokens")),
            output_tokens=int(_sum(piece, "output_tokens")),
            energy_j=_sum(piece, "energy_j") if all(map(_metered, piece)) else None,
            piece=True,
        )
        for piece in done
    ]


def _metered(row: Mapping[str, Any]) -> bool:
    return row["energy_source"] not in {"modelled", "unmeasured"}


def _sum(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return math.fsum(row[name] for row in rows)


def update(prior: Profile, observations: Sequence[Observation], priors: dict[str, Profile] | None = None) -> Profile:
    """The profile of `prior.model` on `prior.pool` after these observations; others' models are ignored.

    `priors`: the prior of the same model on other pools, so that what was seen there can be compared.
    """
    return update_all({**(priors or {}), prior.pool: prior}, [o for o in observations if o.model == prior.model])[prior.pool]


def update_all(priors: Mapping[str, Profile], observations: Iterable[Observation]) -> dict[str, Profile]:
    """The same of a model on each pool: what was seen of it, on all of them, is gone through once. `priors`: by pool."""
    seen: dict[str, list[Observation]] = defaultdict(list)
    for o in observations:
        seen[o.pool].append(o)
    here = {name: _Here(prior, seen.get(name, [])) for name, prior in priors.items()}
    elsewhere = {name: found for name, one in here.items() if (found := one.glance())}
    return {
        name: _updated(priors[name], one, [found for other, found in elsewhere.items() if other != name])
        for name, one in here.items()
    }


class _Work(NamedTuple):
    """Observations of work. An entry of an array for each."""

    times: list[datetime]
    at_s: Array
    """The same in seconds since 1970."""
    busy_s: Array
    read_s: Array
    """What its reading takes by the prior."""
    write_s: Array
    energy_j: Array
    """NaN where nothing was measured."""

    @staticmethod
    def of(prior: Profile, seen: Sequence[Observation]) -> _Work:
        """As the prior of its pool sees it."""
        return _Work(
            [o.at for o in seen],
            np.array([o.at.timestamp() for o in seen], float),
            np.array([o.busy_s for o in seen], float),
            np.array([o.input_tokens for o in seen], float) / prior.input_tokens_per_s,
            np.array([o.output_tokens for o in seen], float) / prior.output_tokens_per_s,
            np.array([o.energy_j or np.nan for o in seen], float),
        )

    def only(self, such: NDArray[np.bool_]) -> _Work:
        """Those for which it holds."""
        rest = (self.at_s, self.busy_s, self.read_s, self.write_s, self.energy_j)
        return _Work([time for time, holds in zip(self.times, such.tolist(), strict=True) if holds], *(one[such] for one in rest))

    def since(self, at: datetime) -> _Work:
        """What was seen from then on."""
        return self.only(self.at_s >= at.timestamp())

    def weights(self) -> Array:
        """Long and new observations count most."""
        age = (self.at_s.max() - self.at_s) / HALF_LIFE_S
        weights: Array = np.minimum(1.0, self.busy_s / FULL_WEIGHT_S) * 0.5**age
        return weights

    def logs(self, factors: tuple[float, float] = (0.0, 0.0)) -> Array:
        """Of the time over what it takes where reading and writing take these log factors longer than the prior says."""
        expected_s = self.read_s * math.exp(factors[0]) + self.write_s * math.exp(factors[1])
        logs: Array = np.log(self.busy_s / expected_s)
        return logs

    def drifted(self, factors: tuple[float, float], caution: Caution = OF_CHUNKS) -> Drift | None:
        """Has the pool changed its speed, against these?"""
        return drifted(list(zip(self.times, self.logs(factors).tolist(), strict=True)), caution)


class _Here:
    """What was seen of a model on one pool: whole stays of chunks, pieces of them, starts of engines."""

    def __init__(self, prior: Profile, seen: Sequence[Observation]) -> None:
        usable = [o for o in seen if _usable(o)]
        self.own = _Work.of(prior, [o for o in usable if not o.piece])
        self.pieces = _Work.of(prior, [o for o in usable if o.piece])
        self._drafted = [(o.at, o.drafted) for o in usable if o.drafted and not o.piece]
        sent = sorted(((o.at, o.sent) for o in usable if o.sent), key=lambda each: each[0])
        self.sent = sent[-1][1] if sent else None
        """As it was measured last."""
        self.starts = [(o.at, o.startup_s) for o in seen if o.startup_s is not None and o.startup_s > 0]

    def drafted(self, change: Drift | None) -> Drafted | None:
        """All drafts since the pool changed its speed, if it did; None where none were made."""
        some = [drafted for at, drafted in self._drafted if change is None or at >= change.since]
        sums = [math.fsum(getattr(one, name) for one in some) for name in Drafted.__struct_fields__]
        return Drafted(*sums) if some else None

    def glance(self) -> _Glance | None:
        """For other pools."""
        if not self.own.times:
            return None
        weights = self.own.weights()
        return _Glance(max(self.own.times), float(weights.sum()), float((weights * self.own.logs()).sum()))


class _Glance(NamedTuple):
    """What a pool shows to others: its newest observation, the sum of their weights by then, and that of their log factors."""

    newest: datetime
    weight: float
    moved: float


def _updated(prior: Profile, here: _Here, elsewhere: Sequence[_Glance]) -> Profile:
    own, pieces = here.own, here.pieces
    start, variance = _other_pools(prior, elsewhere)
    factors, apart = _posterior(own, start, variance)
    # Held against what all of it says: against the prior, a batch of other mixes would look like a change of the pool.
    change = own.drifted(factors)
    if change is not None:
        own, pieces = own.since(change.since), pieces.since(change.since)
        factors, apart = _posterior(own, start, variance)
    sudden = pieces.drifted(factors, OF_PIECES)
    if sudden is not None:  # in the middle of a chunk, which says nothing by itself then
        change, own = sudden, pieces.since(sudden.since)
        factors, apart = _posterior(own, start, variance)
    known, reading = len(own.times), _reading(own)
    sigma = (
        min(prior.sigma, max(SIGMA_FLOOR, math.sqrt(spread(apart, reading)))) if known else min(prior.sigma, math.sqrt(variance))
    )
    watts, trust = _power_factor(prior, own)
    return msgspec.structs.replace(
        prior,
        input_tokens_per_s=prior.input_tokens_per_s * math.exp(-factors[0]),
        output_tokens_per_s=prior.output_tokens_per_s * math.exp(-factors[1]),
        sigma=max(sigma, min(SIGMA_FLOOR, prior.sigma)),
        apart=(max(apart[0], SIGMA_FLOOR**2), max(apart[1], SIGMA_FLOOR**2), max(apart[2], SIGMA_FLOOR**2)) if known else None,
        power_w=prior.power_w * watts,
        input_power_w=None if prior.input_power_w is None else prior.input_power_w * watts,
        startup_s=_startup(prior, here.starts),
        source="measured" if known else prior.source,
        observations=known,
        drift=change,
        with_host=prior.with_host + (1.0 - prior.with_host) * trust,
        drafted=here.drafted(change),
        sent=here.sent,
    )


def _usable(o: Observation) -> bool:
    return o.busy_s > 0 and o.input_tokens + o.output_tokens > 0


def _reading(own: _Work) -> float:
    """Share of the time that the observed work reads, by the prior; half where nothing was observed."""
    total_s = float(own.read_s.sum() + own.write_s.sum())
    return float(own.read_s.sum()) / total_s if own.times else 0.5


def _posterior(own: _Work, start: float, variance: float) -> tuple[tuple[float, float], tuple[float, float, float]]:
    """Log factors of reading and writing, and their variances and covariance: the normal closest to the posterior at its mode.

    Each observation is a line in the two unknowns, its slopes being the shares of its time that read and write.
    """
    both = TOGETHER * variance
    if not own.times or variance <= 0:
        return (start, start), (variance, variance, both)
    sure = own.weights() / OWN_SPREAD**2
    precision = _inverse((variance, variance, both))
    at = (start, start)
    covariance = (variance, variance, both)
    for _ in range(ROUNDS):
        a, d, b = precision
        read_s, write_s = own.read_s * math.exp(at[0]), own.write_s * math.exp(at[1])
        reads = read_s / (read_s + write_s)
        writes = 1 - reads
        level = np.log(own.busy_s / (read_s + write_s)) + reads * at[0] + writes * at[1]
        pulls = (
            a * start + b * start + float((sure * reads * level).sum()),
            b * start + d * start + float((sure * writes * level).sum()),
        )
        a, d, b = (
            known + float((sure * of_both).sum()) for known, of_both in ((a, reads**2), (d, writes**2), (b, reads * writes))
        )
        covariance = _inverse((a, d, b))
        at = (covariance[0] * pulls[0] + covariance[2] * pulls[1], covariance[2] * pulls[0] + covariance[1] * pulls[1])
    return at, covariance


def _inverse(matrix: tuple[float, float, float]) -> tuple[float, float, float]:
    """Of a symmetric two by two matrix: both entries of the diagonal, then the other."""
    a, d, b = matrix
    determinant = a * d - b * b
    return d / determinant, a / determinant, -b / determinant


def _other_pools(prior: Profile, elsewhere: Sequence[_Glance]) -> tuple[float, float]:
    """The log factor to start from and its variance, given what the model did on other pools."""
    variance = prior.sigma**2
    if not elsewhere or variance <= 0:
        return 0.0, variance
    newest = max(one.newest for one in elsewhere)
    kept = [0.5 ** ((newest - one.newest).total_seconds() / HALF_LIFE_S) for one in elsewhere]
    weight = sum(share * one.weight for share, one in zip(kept, elsewhere, strict=True))
    mean = sum(share * one.moved for share, one in zip(kept, elsewhere, strict=True)) / weight
    common = SHARED * variance
    # What another pool shows of the common part is blurred by that pool's own part, however often it is observed.
    gain = common / (variance + OWN_SPREAD**2 / weight)
    return gain * mean, variance - gain * common


def _power_factor(prior: Profile, own: _Work) -> tuple[float, float]:
    """Measured watts over the prior's for the same mix of work, as far as the evidence goes; and how far that is."""
    measured = own.energy_j > 0
    if not measured.any():
        return 1.0, 0.0
    own = own.only(measured)
    weights = own.weights()
    reading_w = prior.power_w if prior.input_power_w is None else prior.input_power_w
    watts = (reading_w * own.read_s + prior.power_w * own.write_s) / (own.read_s + own.write_s)
    total = float(weights.sum())
    mean, trust = float((weights * own.energy_j / own.busy_s / watts).sum()) / total, total / (total + 0.25)
    return 1.0 + trust * (mean - 1.0), trust


def _startup(prior: Profile, starts: Sequence[tuple[datetime, float]]) -> float:
    """The slower of the mean and the latest: a start that is planned too short costs a deadline."""
    return max(sum(s for _, s in starts) / len(starts), max(starts)[1]) if starts else prior.startup_s

"""Our members and a provider's forecast made one: corrected by their own late errors, weighed by what came true.

Two steps, each by bins of lead. A ridge regression, each zone's own shrunk towards that of all zones, says how far to move from
our mean towards a member, the provider, and the errors of the last hours (the nowcast). Then that answer, the members, the
provider, our mean and halves of these are averaged by exp(-s x (error / least error - 1)) of their decayed errors. Both steps
learn only from targets that lie before the issue that they are used for.

What comes out is the harmonic mean: half the variance of the logarithms lower than their mean. It errs less in per cent than the
arithmetic one, and far hours, of which less is known, keep some of the hope that waiting for them is worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from batchsched.forecasts.models.history import DAY_H, WEEK_H, Floats, Integers
from batchsched.forecasts.models.model import HORIZON_H, mean_log

VERSION = "2"
_EDGES = np.array([0, 1, 2, 3, 5, 8, 12, 18, 24, 36, 48, 60, 72, 84])
_BIN = np.searchsorted(_EDGES, np.arange(HORIZON_H), side="right") - 1
_SHARP = np.where(_EDGES < 18, 40.0, 12.0)[:, None]  # near leads have many outcomes to go by
_HALF_LIFE_DAYS = 60.0
_SPREAD = 1.25  # the standard deviation over the mean error, where errors are normal
_ZONE_DAYS, _PRIOR_DAYS = 20.0, 10.0  # how many days of its own move a zone away from all, and all away from the beginning
_PRIOR_PROVIDER = 0.35
BACK_H = 8 * DAY_H  # how many rows before the first issue the recent errors look back on


@dataclass(frozen=True)
class Rows:
    """Hourly issues of one zone, one after the other without a gap, logarithms, [rows, 96] from the hour of the row on.

    `provider`: the newest issue that was out by then, NaN where it does not reach, and how old it is in days. `outcome[i]`: what
    came true in the hour of row i, NaN where unknown; a row is only ever given outcomes of rows before it.
    """

    members: Mapping[str, Floats]
    outcome: Floats
    provider: Floats | None = None
    provider_age_days: Floats | None = None

    def cut(self, first: int, last: int) -> Rows:
        """Some of the rows."""
        provider = None if self.provider is None else self.provider[first:last]
        age = None if self.provider_age_days is None else self.provider_age_days[first:last]
        return Rows({name: values[first:last] for name, values in self.members.items()}, self.outcome[first:last], provider, age)


@dataclass
class Learnt:
    """Of one zone, by bin of lead: decayed sums of products, squares and errors, how many; and the weights from them."""

    gram: Floats
    cross: Floats
    square: Floats
    errors: Floats
    count: Floats
    weights: Floats


@dataclass
class Blend:
    """What was learnt of all zones so far. `learn` takes what newly came true, `weigh` concludes, `logs` uses it."""

    zones: dict[str, Learnt] = field(default_factory=dict[str, Learnt])

    def learn(self, zone: str, rows: Rows, first: int, last: int) -> None:
        """Outcomes of the rows [first, last), each once and in order; what is older counts half as much every 30 days.

        `rows` reaches `BACK_H` and 96 rows before `first`.
        """
        begin = max(first - HORIZON_H + 1, 0)
        inputs, own = _inputs(rows, begin, last)
        state = self.zones.get(zone) or _empty(inputs.shape[2], len(_candidates(rows, 0, 1, own[:1], own[:1])))
        self.zones[zone] = state
        target, lead = np.meshgrid(np.arange(first, last), np.arange(HORIZON_H), indexing="ij")
        usable = (target - lead >= begin) & np.isfinite(rows.outcome[target])
        row, lead = (target - lead - begin)[usable], lead[usable]
        x, response = inputs[row, lead], rows.outcome[target[usable]] - own[row, lead]
        stacked = own + _stacked(state, inputs)
        found = _candidates(rows, begin, last, own, stacked)
        wrong = np.abs(rows.outcome[target[usable]][:, None] - found[:, row, lead].T)
        decay = 0.5 ** ((last - first) / DAY_H / _HALF_LIFE_DAYS)
        for number in range(len(_EDGES)):
            here = _BIN[lead] == number
            state.gram[number] = state.gram[number] * decay + x[here].T @ x[here]
            state.cross[number] = state.cross[number] * decay + x[here].T @ response[here]
            state.square[number] = state.square[number] * decay + (response[here] ** 2).sum()
            state.errors[number] = state.errors[number] * decay + wrong[here].sum(0)
            state.count[number] = state.count[number] * decay + here.sum()

    def weigh(self) -> None:
        """Solve for the weights of every zone, each shrunk towards the weights of all."""
        states = list(self.zones.values())
        if not states:
            return
        scale = [np.maximum(state.square, 1e-9) / np.maximum(state.count, 1) for state in states]
        gram = np.sum([state.gram / s[:, None, None] for state, s in zip(states, scale, strict=True)], axis=0)
        cross = np.sum([state.cross / s[:, None] for state, s in zip(states, scale, strict=True)], axis=0)
        count = np.maximum(np.sum([state.count for state in states], axis=0), 1)
        each = gram / count[:, None, None] + 1e-6 * np.eye(gram.shape[2])
        a_day = np.bincount(_BIN) * float(DAY_H)
        start = np.zeros(gram.shape[2])
        start[0] = _PRIOR_PROVIDER
        prior = (_PRIOR_DAYS * a_day)[:, None, None] * each
        pooled = np.linalg.solve(gram + prior, (cross + prior @ start)[..., None])[..., 0]
        pull = (_ZONE_DAYS * a_day)[:, None, None] * each
        for state, s in zip(states, scale, strict=True):
            right = state.cross / s[:, None] + np.einsum("bij,bj->bi", pull, pooled)
            state.weights = np.linalg.solve(state.gram / s[:, None, None] + pull, right[..., None])[..., 0]

    def logs(self, zone: str, rows: Rows, first: int, last: int) -> Floats:
        """Logarithms of the harmonic means of the rows [first, last), [last - first, 96]. Not learnt: our members' mean."""
        inputs, own = _inputs(rows, first, last)
        state = self.zones.get(zone)
        if state is None:
            return own
        found = _candidates(rows, first, last, own, own + _stacked(state, inputs))
        error = state.errors / np.maximum(state.count, 1)[:, None]
        weight = np.exp(-_SHARP * (error / np.maximum(error.min(1, keepdims=True), 1e-9) - 1))
        share = (weight / weight.sum(1, keepdims=True))[_BIN]
        variance = (_SPREAD * error.min(1)[_BIN]) ** 2
        return np.asarray(np.einsum("crl,lc->rl", found, share) - variance / 2, np.float32)


def _empty(inputs: int, candidates: int) -> Learnt:
    bins = len(_EDGES)
    weights = np.zeros((bins, inputs))
    weights[:, 0] = _PRIOR_PROVIDER
    return Learnt(
        np.zeros((bins, inputs, inputs)),
        np.zeros((bins, inputs)),
        np.zeros(bins),
        np.zeros((bins, candidates)),
        np.zeros(bins),
        weights,
    )


def _stacked(state: Learnt, inputs: Floats) -> Floats:
    return np.asarray(np.einsum("rlp,lp->rl", inputs, state.weights[_BIN]))


def _candidates(rows: Rows, first: int, last: int, own: Floats, stacked: Floats) -> Floats:
    """[candidates, rows, leads]; where the provider does not reach, ours stands for it."""
    members = [values[first:last] for values in rows.members.values()]
    provider = own if rows.provider is None else np.where(np.isnan(rows.provider[first:last]), own, rows.provider[first:last])
    half = (own + provider) / 2
    halves = [half, *((stacked + other) / 2 for other in (own, provider, half))]
    return np.stack([*members, own, provider, stacked, *halves])


def _inputs(rows: Rows, first: int, last: int) -> tuple[Floats, Floats]:
    """What the regression sees of the rows [first, last): [rows, leads, inputs]; and our mean."""
    begin = max(first - BACK_H, 0)
    near = rows.cut(begin, last)
    own = mean_log(dict(near.members))
    day_ahead = np.full(len(own), np.nan)
    day_ahead[DAY_H:] = own[:-DAY_H, DAY_H]
    late = [np.nan_to_num(near.outcome - day_ahead)]
    provider = np.full_like(own, np.nan) if near.provider is None else near.provider
    late.append(np.nan_to_num(near.outcome - provider[:, 0]))
    place = np.arange(first - begin, last - begin)
    here = own[place]
    beyond = np.nan_to_num(provider[place] - here)
    age = np.zeros(len(place)) if near.provider_age_days is None else near.provider_age_days[place]
    columns: list[Floats] = [beyond, beyond * age[:, None]]
    columns += [values[place] - here for values in near.members.values()]
    columns += [part for errors in late for part in _recent(errors, place)]
    columns.append(np.ones_like(here))
    return np.stack(columns, 2).astype(np.float32), here


def _recent(errors: Floats, place: Integers) -> list[Floats]:
    """Errors known at each row, for each lead: of the last 3 h, day and week, and at this hour of the last day and week."""
    sums = np.concatenate([[0.0], np.cumsum(errors)])
    means = [(sums[place] - sums[np.maximum(place - hours, 0)]) / hours for hours in (3, DAY_H, WEEK_H)]
    lead = np.arange(HORIZON_H)
    same = place[:, None] + lead - DAY_H * (lead // DAY_H + 1)
    days = [errors[np.maximum(same - DAY_H * day, 0)] for day in range(7)]
    return [*(np.repeat(mean[:, None], HORIZON_H, 1) for mean in means), days[0], np.mean(days, axis=0)]

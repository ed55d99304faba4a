"""Quantiles that mean what they say: one adaptive conformal calibrator a zone and lead, learning only from what is known.

A point forecast gets five `QUANTILES`, read off its own past errors (logarithms of outcome over forecast) of the same lead and
its neighbours. Which quantile of the errors is read adapts: after each outcome the level of every one of the five moves by a
step towards the promised share (Gibbs and Candès 2021, each side by itself). Errors are taken relative to how large they
have been of late, so that a grid that changes its ways widens the band of every lead within days, before long leads mature.

Hours are whole hours since the epoch. Outcomes enter by `learn` alone, whenever they become known, in any order.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from batchsched.forecasts.evaluation import Array
from batchsched.forecasts.port import QUANTILES

VERSION = 1
LEADS_H = 96
PATIENCE_H = 48  # so long after a forecast's end its outcomes are still taken
LEAST_G = 0.5  # below this an intensity counts as this much: logarithms of next to nothing mean nothing

_F32 = np.float32


class Knobs(msgspec.Struct, frozen=True):
    """How the calibrator learns. Chosen on forecasts of before July 2022.

    `window`: errors of so many issues count. `spacing_h`: the first issue in so many hours counts, the same hours for all zones
    (23, so that of hourly issues those counted wander round the clock, and daily ones all count).
    `step`: how far an outcome moves a level.
    `nominal`: what the outer quantiles aim at to hold 90 %, since with late news they fall a little short of their aim.
    `neighbours`: leads to either side that lend their errors. `least`: with fewer errors at a lead a wide guess stands in.
    `recent_h`: over which the size of late errors is taken; `surge`: the power of it that scales the band, 0 switches it off.
    """

    window: int = 90
    spacing_h: int = 23
    step: float = 0.02
    nominal: float = 0.91
    neighbours: int = 4
    least: int = 10
    recent_h: int = 96
    surge: float = 0.5
    calmest: float = 0.7
    wildest: float = 3.0


class Issue(msgspec.Struct):
    """A counted issue: how large errors were when it was made, its own, NaN until known, and while that can be, what it said.

    All in logarithms.
    """

    hour: int
    scale: float
    errors: NDArray[np.float32]
    points: NDArray[np.float32] | None
    band: NDArray[np.float32] | None


class _State(msgspec.Struct):
    version: int
    knobs: Knobs
    levels: bytes
    issues: list[tuple[int, float, bytes, bytes | None, bytes | None]]


class Calibrator:
    """One zone's calibrator; as many leads as the forecasts given have hours, 96 at most."""

    def __init__(self, knobs: Knobs | None = None) -> None:
        self.knobs = knobs or Knobs()
        tail = (1 - self.knobs.nominal) / 2
        self._aims = np.array([tail, *QUANTILES[1:-1], 1 - tail])
        self.levels: Array = np.tile(self._aims, (LEADS_H, 1))
        self.issues: list[Issue] = []

    def issue(self, hour: int, points: Array) -> Array:
        """The quantiles of a forecast issued at `hour` for that hour and those after it, g/kWh: [leads, 5], never falling.

        NaN where the point is NaN. The issue is remembered, to learn from its outcomes.
        """
        logs = np.full(LEADS_H, np.nan)
        logs[: len(points)] = np.log(np.maximum(points[:LEADS_H], LEAST_G))
        scale = self._scale(hour)
        band = logs[:, None] + self._offsets() * scale
        if not self.issues or hour // self.knobs.spacing_h != self.issues[-1].hour // self.knobs.spacing_h:
            self._remember(Issue(hour, scale, np.full(LEADS_H, np.nan, _F32), logs.astype(_F32), band.astype(_F32)))
        quantiles: Array = np.exp(band[: len(points)])
        return quantiles

    def _remember(self, issue: Issue) -> None:
        self.issues.append(issue)
        del self.issues[: -self.knobs.window]
        for old in self.issues:
            if old.hour < issue.hour - LEADS_H - PATIENCE_H:
                old.points = old.band = None

    def learn(self, hour: int, values: Array) -> None:
        """What came true from `hour` on, g/kWh, NaN where it is still unknown.

        A value that was known before changes nothing, nor does one that comes more than two days after its forecast has ended.
        """
        logs = np.log(np.maximum(values, LEAST_G))
        for issue in self.issues:
            since = max(hour - issue.hour, 0)
            until = min(hour - issue.hour + len(values), LEADS_H)
            if since < until and issue.points is not None and issue.band is not None:
                outcomes = logs[issue.hour + since - hour : issue.hour + until - hour]
                self._learn(issue.errors, issue.points, issue.band, since, outcomes)

    def _learn(
        self, errors: NDArray[np.float32], points: NDArray[np.float32], band: NDArray[np.float32], since: int, outcomes: Array
    ) -> None:
        leads = slice(since, since + len(outcomes))
        news = np.isfinite(outcomes) & np.isfinite(points[leads]) & np.isnan(errors[leads])
        at = np.flatnonzero(news) + since
        errors[at] = outcomes[news] - points[at]
        below = outcomes[news][:, None] <= band[at]
        self.levels[at] = np.clip(self.levels[at] + self.knobs.step * (self._aims - below), 0.001, 0.999)

    def _offsets(self) -> Array:
        """What is added to the logarithm of a point for each quantile when errors are of their usual size: [96, 5]."""
        guess: Array = np.linspace(0.15, 0.4, LEADS_H)[:, None] * np.array([-1.0, -0.4, 0.0, 0.4, 1.0])
        if not self.issues:
            return guess
        errors = np.stack([issue.errors / issue.scale for issue in self.issues])
        reach = self.knobs.neighbours
        padded = np.pad(errors, ((0, 0), (reach, reach)), constant_values=np.nan)
        pools = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=1)
        pools = np.sort(pools.transpose(1, 0, 2).reshape(LEADS_H, -1), axis=1)
        counts = np.isfinite(pools).sum(axis=1)
        own = np.sort(_read(pools, counts, self.levels), axis=1)
        offsets: Array = np.where(self.known_leads()[:, None], own, guess)
        return offsets

    def known_leads(self) -> NDArray[np.bool_]:
        """The leads at which enough has come true to say how wide the band is; at the others a guess stands in: [96]."""
        if not self.issues:
            return np.zeros(LEADS_H, bool)
        known: NDArray[np.bool_] = np.isfinite([issue.errors for issue in self.issues]).sum(axis=0) >= self.knobs.least
        return known

    def _scale(self, hour: int) -> float:
        """How large errors were over the last hours, against the usual size at their leads; 1 where that is not known."""
        if not self.knobs.surge or len(self.issues) < self.knobs.least:
            return 1.0
        size = np.abs(np.stack([issue.errors for issue in self.issues]))
        known = np.isfinite(size)
        usual = np.where(known, size, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        targets = np.array([issue.hour for issue in self.issues])[:, None] + np.arange(LEADS_H)
        ratios = (size / np.maximum(usual, 1e-6))[(targets >= hour - self.knobs.recent_h) & known]
        if ratios.size < self.knobs.recent_h // 2:
            return 1.0
        return float(np.clip(ratios.mean() ** self.knobs.surge, self.knobs.calmest, self.knobs.wildest))

    def to_bytes(self) -> bytes:
        """The state, some 50 kB; `from_bytes` goes on from it exactly."""
        issues = [(i.hour, i.scale, i.errors.tobytes(), _packed(i.points), _packed(i.band)) for i in self.issues]
        return msgspec.msgpack.encode(_State(VERSION, self.knobs, self.levels.tobytes(), issues))

    @classmethod
    def from_bytes(cls, stored: bytes, knobs: Knobs | None = None) -> Calibrator:
        """The calibrator that was stored; a new one where it was stored by another version or with other knobs."""
        made = cls(knobs)
        state = msgspec.msgpack.decode(stored, type=_State)
        if (state.version, state.knobs) == (VERSION, made.knobs):
            made.levels = np.frombuffer(state.levels).reshape(made.levels.shape).copy()
            made.issues = [
                Issue(hour, scale, np.frombuffer(errors, _F32).copy(), _unpacked(points), _unpacked(band, len(QUANTILES)))
                for hour, scale, errors, points, band in state.issues
            ]
        return made


def _packed(array: NDArray[np.float32] | None) -> bytes | None:
    return None if array is None else array.tobytes()


def _unpacked(stored: bytes | None, columns: int = 0) -> NDArray[np.float32] | None:
    if stored is None:
        return None
    flat = np.frombuffer(stored, _F32)
    return flat.reshape(-1, columns) if columns else flat


def _read(pools: Array, counts: NDArray[Any], levels: Array) -> Array:
    """Quantiles of sorted rows of which the first `counts` are known, between the samples by straight lines."""
    at = np.clip(levels * (counts[:, None] + 1) - 1, 0, np.maximum(counts[:, None] - 1, 0))
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, np.maximum(counts[:, None] - 1, 0))
    below, above = np.take_along_axis(pools, low, axis=1), np.take_along_axis(pools, high, axis=1)
    read: Array = below + (above - below) * (at - low)
    return read


def walk(
    calibrator: Calibrator, issued: Array, values: Array, start: int, *, every_h: int = 24, delay_h: int = 0, origin: int = 0
) -> Array:
    """Play issues through a calibrator: row i of `issued` [issues, leads] at hour `start` + i x `every_h` of `values`.

    At each issue the hours before it are known, the last `delay_h` of them not yet. `origin`: the hour that `values` starts at.
    Gives [issues, leads, 5].
    """
    bands = np.empty((*issued.shape, len(QUANTILES)))
    learnt = start
    for number, points in enumerate(issued):
        hour = start + number * every_h
        if hour - delay_h > learnt:
            calibrator.learn(origin + learnt, values[learnt : hour - delay_h])
            learnt = hour - delay_h
        bands[number] = calibrator.issue(origin + hour, points)
    return bands

"""What every carbon-intensity provider gives: forecasts as issued, what came true, and which signal the figures are.

Intensities are gCO2e per kWh at the grid. A value that is not known is None, never zero; instants are aware UTC datetimes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, Literal, Protocol

import msgspec

from batchsched.errors import InvalidValue, SignalMismatch
from batchsched.feeds import OWN
from batchsched.units import iso

CLIMATOLOGY = "climatology"
# The worst power stations emit a fifth of this.
MOST_G_PER_KWH = 10_000.0
FUELS = (
    "coal",
    "gas",
    "oil",
    "biomass",
    "geothermal",
    "hydro",
    "marine",
    "nuclear",
    "solar",
    "wind",
    "other",
    "storage",
)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Signal(msgspec.Struct, frozen=True):
    """Which carbon figure an intensity is. Two signals are never mixed within one decision or one sum."""

    kind: Literal["average", "marginal"] = "average"
    scope: Literal["direct", "lifecycle"] = "direct"

    def __str__(self) -> str:
        return f"{self.kind} {self.scope}"

    @classmethod
    def parse(cls, text: str) -> Signal:
        """The signal of a text such as `average direct`. Raises InvalidValue, saying what is allowed."""
        kind, _, scope = text.strip().partition(" ")
        try:
            return msgspec.convert({"kind": kind, "scope": scope.strip()}, cls)
        except msgspec.ValidationError:
            raise InvalidValue(f"'{text}' is not a signal; write average or marginal, then direct or lifecycle.") from None


class ForecastSlot(msgspec.Struct, frozen=True):
    """One step of a forecast, of any length; `quantiles` belong to `QUANTILES`, None where the spread is not known."""

    start: datetime
    end: datetime
    mean_g_per_kwh: float | None
    quantiles: tuple[float, ...] | None = None


class IntensityForecast(msgspec.Struct, frozen=True):
    """What a provider expected at `issued_at`. Slots are in order and do not overlap; they may leave gaps.

    `continued_by` and `continued_from` say who filled in the time after the provider's own forecast had ended, and from when;
    `note` what else is no longer as the provider said it, and of our own what it was made from.
    """

    zone: str
    issued_at: datetime
    provider: str
    signal: Signal
    slots: tuple[ForecastSlot, ...]
    licence: str = ""
    continued_by: str | None = None
    continued_from: datetime | None = None
    note: str = ""

    def mean_over(self, start: datetime, end: datetime) -> float | None:
        """Time-weighted mean of [start, end), or the value at `start` where the span is empty; None if any part is unknown."""
        return self._weighted(start, end, lambda slot: slot.mean_g_per_kwh)

    def quantile_over(self, q: float, start: datetime, end: datetime) -> float | None:
        """Time-weighted mean of each slot's quantile `q`: the spread of hours that err together, so on the wide side.

        Between two levels of `QUANTILES` the value is interpolated. None if any part has no quantiles. Raises InvalidValue for
        a level outside of them: tails are not guessed.
        """
        if not QUANTILES[0] <= q <= QUANTILES[-1]:
            raise InvalidValue(f"Quantile {q} is not known; a forecast carries {QUANTILES[0]} to {QUANTILES[-1]}.")
        return self._weighted(start, end, lambda slot: _interpolate(slot.quantiles, q) if slot.quantiles else None)

    def to_rows(self) -> dict[str, Any]:
        """Plain JSON-able data, so that a plan can keep what was known when it was made."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    @classmethod
    def from_rows(cls, rows: dict[str, Any]) -> IntensityForecast:
        """The forecast that `to_rows` wrote."""
        return msgspec.convert(rows, cls)

    def _weighted(self, start: datetime, end: datetime, value: Callable[[ForecastSlot], float | None]) -> float | None:
        end = max(end, start + timedelta(microseconds=1))
        first = bisect_right(self.slots, start, key=lambda slot: slot.end)
        last = bisect_left(self.slots, end, key=lambda slot: slot.start)
        mean, share = weighted_mean([(slot.start, slot.end, value(slot)) for slot in self.slots[first:last]], start, end)
        return mean if share > 1 - 1e-9 else None


class Realised(msgspec.Struct, frozen=True):
    """What came true over [start, end)."""

    zone: str
    start: datetime
    end: datetime
    intensity_g_per_kwh: float
    provider: str
    signal: Signal
    estimated: bool = False
    """The provider itself says that it was not measured; a measurement may follow."""
    licence: str = ""


class Generation(msgspec.Struct, frozen=True):
    """What generated power in a zone over [start, end): megawatts by fuel. A fuel of FUELS that is not there is unknown."""

    zone: str
    start: datetime
    end: datetime
    provider: str
    mw: Mapping[str, float]


class Provider(Protocol):
    """A source of carbon intensity."""

    @property
    def name(self) -> str:
        """Who speaks, as reports name it."""
        ...

    def zones(self) -> list[str]:
        """Names of the zones that it knows now."""
        ...

    def signal_of(self, zone: str) -> Signal:
        """Which figure its values are for a zone. Raises ForecastUnavailable for an unknown zone."""
        ...

    def forecast(self, zone: str, now: datetime, until: datetime) -> IntensityForecast:
        """What was expected at `now` for [now, until); nothing issued later than `now` is used. It may end before `until`.

        Raises ForecastUnavailable where nothing is known for the zone and the time.
        """
        ...

    def realised(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Realised]:
        """What came true in [start, end) as far as it was known at `now`, in order, without overlaps."""
        ...


def mean_realised(values: Iterable[Realised], start: datetime, end: datetime) -> tuple[float | None, float]:
    """The time-weighted mean over the known part of [start, end), None if no part is known; and the known share, 0 to 1."""
    return weighted_mean([(value.start, value.end, value.intensity_g_per_kwh) for value in values], start, end)


def known(number: float | None) -> float | None:
    """An intensity as a provider gave it, with NaN, infinite, negative and absurdly high values made what they are: unknown."""
    return number if number is not None and 0 <= number <= MOST_G_PER_KWH else None


# No grid falls from this to nothing within one slot.
IMPLAUSIBLE_BESIDE_G_PER_KWH = 100.0


def plausible(values: Sequence[float | None], signal: Signal) -> list[float | None]:
    """Values of slots in their order, with zeros that cannot be true made unknown.

    That is zero where the whole life of power stations counts, or as an average right beside a high value.
    """
    if signal.kind == "marginal":
        return list(values)
    found: list[float | None] = []
    for zero, run in groupby(values, lambda value: value == 0):
        same = list(run)
        done = len(found) + len(same)
        beside = max((value or 0.0 for value in (*found[-1:], *values[done : done + 1])), default=0.0)
        if zero and (signal.scope == "lifecycle" or beside > IMPLAUSIBLE_BESIDE_G_PER_KWH):
            same = [None] * len(same)
        found += same
    return found


def one_signal(provider: Provider, zones: Iterable[str]) -> Signal:
    """The signal that all these zones share. Raises SignalMismatch where they do not, and ForecastUnavailable."""
    by_zone = {zone: provider.signal_of(zone) for zone in zones}
    if len(set(by_zone.values())) > 1:
        listed = ", ".join(f"{zone}: {signal}" for zone, signal in by_zone.items())
        raise SignalMismatch(
            f"{provider.name} gives different carbon signals for these zones ({listed}); they cannot be compared."
        )
    return next(iter(by_zone.values()), Signal())


def licences(*given: Iterable[IntensityForecast | Realised]) -> str:
    """Under which all of these were given, each named once."""
    return "; ".join(dict.fromkeys(one.licence for some in given for one in some if one.licence))


def describe(forecast: IntensityForecast) -> str:
    """One line that names the source of a forecast, for reports."""
    if forecast.provider == CLIMATOLOGY:
        return f"{CLIMATOLOGY}, a typical day"
    if forecast.continued_from and forecast.continued_from <= forecast.issued_at:
        return f"{forecast.continued_by}, where {forecast.provider} has no forecast"
    by = f"our own models ({forecast.note})" if forecast.provider == OWN else forecast.provider
    text = f"forecast by {by}, issued {iso(forecast.issued_at)}"
    if forecast.note and forecast.provider != OWN:
        text += f", {forecast.note}"
    if forecast.continued_by and forecast.continued_from:
        text += f", continued by {forecast.continued_by} from {iso(forecast.continued_from)}"
    return text


def weighted_mean(
    pieces: Iterable[tuple[datetime, datetime, float | None]], start: datetime, end: datetime
) -> tuple[float | None, float]:
    """The time-weighted mean of what is known in [start, end), None if nothing is; and the known share, 0 to 1."""
    total = known_s = 0.0
    for piece_start, piece_end, value in pieces:
        overlap_s = (min(piece_end, end) - max(piece_start, start)).total_seconds()
        if overlap_s > 0 and value is not None:
            total += overlap_s * value
            known_s += overlap_s
    span_s = (end - start).total_seconds()
    return (total / known_s, known_s / span_s) if known_s else (None, 0.0)


def _interpolate(quantiles: tuple[float, ...], q: float) -> float:
    upper = next(i for i, level in enumerate(QUANTILES) if level >= q)
    lower = max(upper - 1, 0) if QUANTILES[upper] != q else upper
    if lower == upper:
        return quantiles[upper]
    weight = (q - QUANTILES[lower]) / (QUANTILES[upper] - QUANTILES[lower])
    return quantiles[lower] * (1 - weight) + quantiles[upper] * weight

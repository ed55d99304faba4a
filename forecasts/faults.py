"""Is a feed to be trusted? What is wrong with a forecast, by its age, by its own values, and by what came true of earlier ones.

Pure: all that is known enters as arguments, and of that nothing later than `now` is looked at. So a judgement can be repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from batchsched.forecasts.persistence import expected, hour_of, hours_of, truth_of
from batchsched.forecasts.port import ForecastSlot, IntensityForecast, Realised, known
from batchsched.units import format_duration

Kind = Literal["stale", "stuck", "gaps", "out_of_range", "biased", "wrong"]
Verdict = Literal["use", "widen", "refuse"]
FEW_G = 5.0


class Limits(msgspec.Struct, frozen=True):
    """From where on a feed is at fault. The defaults were not tuned on the feeds of the tests."""

    fresh_s: float = 36 * 3600.0
    """Age of a forecast from which it does not serve; from two thirds of it on its spread is widened."""
    stuck_h: int = 6
    """Hours of one value in a row, where the zone's own history has no longer run."""
    near_h: int = 48
    """The hours ahead that are compared with what came true, and of which gaps are counted."""
    gaps: float = 0.5
    """Share of the near hours that may be unknown."""
    strays: float = 0.25
    """Share of the near hours that may lie out of range, each of them unknown then."""
    history_h: int = 28 * 24
    """What came true so far back says what range is plausible."""
    least_h: int = 48
    """Hours of history without which no range, and of outcomes without which no skill, is judged."""
    reach: float = 1.0
    """How far beyond the range of history a value may lie, in widths of that range (and tenths of its middle)."""
    widen_at: float = 1.3
    """Error, in errors of persistence over the same hours, from which the spread is widened."""
    refuse_at: float = 1.8
    """The same, from which the feed does not serve."""
    bias: float = 0.8
    """Share of the error that is one-sided, from which it counts as a bias."""
    noise: float = 0.03
    """Relative error below which a feed is right, whatever persistence would have reached."""


class Fault(msgspec.Struct, frozen=True):
    """One thing that is wrong, and what follows from it alone."""

    kind: Kind
    verdict: Verdict
    text: str
    widen: float = 1.0


class Judgement(msgspec.Struct, frozen=True):
    """What was found, and the forecast with its implausible values unknown."""

    cleaned: IntensityForecast
    faults: tuple[Fault, ...]

    @property
    def forecast(self) -> IntensityForecast:
        """The forecast as it may be passed on: cleaned, the spread widened."""
        if self.widen == 1:
            return self.cleaned
        slots = tuple(_widened(slot, self.widen) for slot in self.cleaned.slots)
        return msgspec.structs.replace(self.cleaned, slots=slots)

    @property
    def verdict(self) -> Verdict:
        """The worst of all faults' verdicts."""
        found = {fault.verdict for fault in self.faults}
        return "refuse" if "refuse" in found else "widen" if "widen" in found else "use"

    @property
    def trust(self) -> float:
        """1 for a feed without a fault, 0 for one that must not serve."""
        return 0.0 if self.verdict == "refuse" else 1 / self.widen

    @property
    def widen(self) -> float:
        """The factor by which the spread was widened."""
        return max((fault.widen for fault in self.faults), default=1.0)

    def __str__(self) -> str:
        return "; ".join(f"{fault.kind.replace('_', ' ')}: {fault.text}" for fault in self.faults) or "sound"


def judge(
    forecast: IntensityForecast,
    now: datetime,
    earlier: Sequence[IntensityForecast] = (),
    realised: Iterable[Realised] = (),
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> Judgement:
    """What is wrong with the newest forecast of a feed at `now`.

    `earlier`: what the same feed said before, for this zone and signal, in the order of issue. `realised`: what came true.
    """
    truth = truth_of(realised, now)
    since = hour_of(now) - limits.history_h
    recent = {hour: value for hour, value in truth.items() if hour >= since}
    cleaned, strays = _cleaned(forecast, recent, limits)
    before = [one for one in earlier if one.issued_at < forecast.issued_at and one.issued_at <= now]
    found = (
        _strays(strays, now, limits),
        _stuck(hours_of(forecast), recent, limits),
        _same_again(forecast, before),
        _gaps(cleaned, now, limits),
        _wrong(before, truth, now, limits),
    )
    return aged(Judgement(cleaned, tuple(fault for fault in found if fault)), now, limits)


def believable(
    forecast: IntensityForecast,
    recent: Mapping[int, float],
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> IntensityForecast | None:
    """The forecast with its implausible values unknown; None where these are many, or where it is stuck.

    `recent`: what came true in the last weeks, by hour.
    """
    cleaned, strays = _cleaned(forecast, recent, limits)
    stuck = _stuck(hours_of(forecast), recent, limits)
    many = len(strays) > limits.strays * len(forecast.slots)
    return None if many or (stuck and stuck.verdict == "refuse") else cleaned


def aged(judgement: Judgement, now: datetime, limits: Limits) -> Judgement:
    """A judgement with the forecast's age as it is now."""
    stale = _stale(judgement.cleaned, now, limits)
    others = tuple(fault for fault in judgement.faults if fault.kind != "stale")
    return Judgement(judgement.cleaned, (stale, *others) if stale else others)


def _stale(forecast: IntensityForecast, now: datetime, limits: Limits) -> Fault | None:
    age_s = (now - forecast.issued_at).total_seconds()
    if age_s <= limits.fresh_s * 2 / 3:
        return None
    text = f"issued {format_duration(age_s)} ago, {format_duration(limits.fresh_s)} is the limit"
    return Fault("stale", "refuse", text) if age_s > limits.fresh_s else Fault("stale", "widen", text, 1.25)


# -- single values --


def _cleaned(
    forecast: IntensityForecast, recent: Mapping[int, float], limits: Limits
) -> tuple[IntensityForecast, list[ForecastSlot]]:
    """The forecast with its implausible values unknown, and those slots."""
    low, high = _range(recent, limits)
    no_zero = low > 0 or not _knows_zero(recent.values() if recent else filter(None, hours_of(forecast).values()))
    slots: list[ForecastSlot] = []
    strays: list[ForecastSlot] = []
    for slot in forecast.slots:
        mean = known(slot.mean_g_per_kwh)
        if mean is not None and (not low <= mean <= high or (mean == 0 and no_zero)):
            strays.append(slot)
            mean = None
        ok = mean is not None and (slot.quantiles is None or all(known(level) is not None for level in slot.quantiles))
        slots.append(slot if ok else ForecastSlot(slot.start, slot.end, mean))
    return msgspec.structs.replace(forecast, slots=tuple(slots)), strays


def _range(recent: Mapping[int, float], limits: Limits) -> tuple[float, float]:
    """What a zone's values may be, from what they were: all but the hundredth part at each end, and room beyond."""
    if len(recent) < limits.least_h:
        return 0.0, float("inf")
    ordered = sorted(recent.values())
    low, high = ordered[len(ordered) // 100], ordered[-1 - len(ordered) // 100]
    room = limits.reach * (high - low) + 0.1 * (high + low)
    return max(low - room, 0.0), high + room


def _knows_zero(values: Iterable[float]) -> bool:
    """May a grid with these values be at zero? Only where a few grams are nothing new to it."""
    listed = sorted(values)
    return bool(listed) and listed[len(listed) // 20] < FEW_G


def _strays(strays: list[ForecastSlot], now: datetime, limits: Limits) -> Fault | None:
    if not strays:
        return None
    share = len([slot for slot in strays if _is_near(slot, now, limits)]) / limits.near_h
    values = sorted(slot.mean_g_per_kwh or 0.0 for slot in strays)
    text = f"{len(strays)} values, {values[0]:.0f} to {values[-1]:.0f} g/kWh, are implausible here and count as unknown"
    return Fault("out_of_range", "refuse" if share > limits.strays else "use", text)


def _is_near(slot: ForecastSlot, now: datetime, limits: Limits) -> bool:
    return now < slot.end and slot.start < now + timedelta(hours=limits.near_h)


def _gaps(cleaned: IntensityForecast, now: datetime, limits: Limits) -> Fault | None:
    """Hours that the feed leaves unknown between now and its own end, or the end of the near hours."""
    hours = hours_of(cleaned)
    first = hour_of(now) + 1
    last = first + limits.near_h
    if cleaned.slots:
        last = max(min(last, hour_of(cleaned.slots[-1].end)), first + 1)
    missing = sum(hour not in hours for hour in range(first, last))
    if not missing:
        return None
    text = f"{missing} of the next {last - first} hours are unknown"
    return Fault("gaps", "refuse" if missing > limits.gaps * (last - first) else "use", text)


# -- values that do not move --


def _stuck(hours: Mapping[int, float], recent: Mapping[int, float], limits: Limits) -> Fault | None:
    run = _longest_run(hours)
    if run < limits.stuck_h or run <= _longest_run(recent):
        return None
    text = f"{run} hours in a row have one value"
    sure_h = limits.stuck_h * (2 if len(recent) >= limits.least_h else 4)  # who knows a grid's past knows that it never did that
    return Fault("stuck", "refuse", text) if run >= sure_h else Fault("stuck", "widen", text, 1.5)


def _longest_run(hours: Mapping[int, float]) -> int:
    longest = run = before = 0
    last: float | None = None
    for hour, value in sorted(hours.items()):
        run = run + 1 if hour == before + 1 and value == last else 1
        longest, before, last = max(longest, run), hour, value
    return longest


def _same_again(forecast: IntensityForecast, before: Sequence[IntensityForecast]) -> Fault | None:
    """The same list of values under a new time of issue: a feed that is alive in form only."""
    if not before or len(forecast.slots) < 6 or len({slot.mean_g_per_kwh for slot in forecast.slots}) < 3:
        return None
    mine, theirs = ([slot.mean_g_per_kwh for slot in one.slots] for one in (forecast, before[-1]))
    if forecast.slots[0].start == before[-1].slots[0].start or mine != theirs:
        return None
    return Fault("stuck", "refuse", "the values of the issue before, moved to later hours")


# -- against what came true --


def _wrong(before: Sequence[IntensityForecast], truth: Mapping[int, float], now: datetime, limits: Limits) -> Fault | None:
    """The feed's errors over the last week, beside those of persistence as it could have been issued at the same moments."""
    errors: list[float] = []
    plain: list[float] = []
    level = 0.0
    for one in _thinned(before, now):
        issued = hour_of(one.issued_at)
        for hour, value in hours_of(one).items():
            if issued <= hour < issued + limits.near_h and (true := truth.get(hour)) is not None:
                errors.append(value - true)
                level += true
                if (guess := expected(truth, issued, hour)) is not None:
                    plain.append(abs(guess - true))
    if len(errors) < limits.least_h or len(plain) < limits.least_h // 2:
        return None
    level /= len(errors)
    error = sum(map(abs, errors)) / len(errors)
    bias = sum(errors) / len(errors)
    ratio = error / max(sum(plain) / len(plain), limits.noise * level, 1e-9)
    if ratio <= limits.widen_at:
        return None
    kind: Kind = "biased" if abs(bias) > limits.bias * error else "wrong"
    text = f"off by {error:.0f} g/kWh over the last week ({bias:+.0f} on the mean), {ratio:.1f} times as far as persistence"
    return Fault(kind, "refuse", text) if ratio > limits.refuse_at else Fault(kind, "widen", text, ratio)


def _thinned(before: Sequence[IntensityForecast], now: datetime) -> list[IntensityForecast]:
    """At most one issue of every six hours of the last nine days: they say no more than that about the feed."""
    newest = {int(one.issued_at.timestamp() // 21600): one for one in before if now - one.issued_at < timedelta(days=9)}
    return list(newest.values())


def _widened(slot: ForecastSlot, factor: float) -> ForecastSlot:
    if slot.quantiles is None:
        return slot
    middle = slot.quantiles[len(slot.quantiles) // 2]
    quantiles = tuple(max(middle + factor * (level - middle), 0.0) for level in slot.quantiles)
    return ForecastSlot(slot.start, slot.end, slot.mean_g_per_kwh, quantiles)

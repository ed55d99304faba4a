"""The sources of a zone in order: the first whose newest forecast is fresh and trusted serves.

Everything is read from the archive as of `now`, so what served then, and why, can be found again at any time. After the sources
comes the zone's own history (persistence), and last the typical one (climatology or the file), where it is of the same signal.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

import msgspec

from batchsched.errors import ForecastUnavailable, SignalMismatch
from batchsched.feeds import OWN
from batchsched.forecasts.faults import Judgement, Limits, aged, judge
from batchsched.forecasts.persistence import PERSISTENCE, persisted
from batchsched.forecasts.port import IntensityForecast, Provider, Realised, Signal
from batchsched.units import start_of_hour

if TYPE_CHECKING:
    from batchsched.forecasts.nowcast import Nowcast

_DAY = timedelta(days=1)
_MOMENT = timedelta(microseconds=1)
# What the faults of a feed are judged by: so many half days of its issues, and of what came true so much.
_EARLIER, _HISTORY = 18, 28 * _DAY
_OLDEST_HISTORY = timedelta(hours=36)


class Links(msgspec.Struct, frozen=True):
    """The sources of one zone, the best one first, their one signal, and how old a forecast of each may be."""

    sources: tuple[str, ...]
    signal: Signal
    fresh_s: Mapping[str, float] = {}


class Choice(msgspec.Struct, frozen=True):
    """Who serves a zone, how far it is trusted (0 to 1), what is wrong with it, and why those before it do not serve."""

    zone: str
    at: datetime
    source: str
    forecast: IntensityForecast
    trust: float
    faults: str
    passed_over: tuple[tuple[str, str], ...] = ()

    @property
    def why(self) -> str:
        """In words, why it is this one."""
        passed_over = "; ".join(f"{name}: {reason}" for name, reason in self.passed_over)
        return passed_over or ("the first of its sources" if self.trust else "no source of it has a forecast yet")


class Known(Protocol):
    """What a chain needs of the archive: what was known at an instant, and nothing that came later."""

    def newest(
        self, zone: str, *, as_of: datetime, provider: str | None = None, signal: Signal | None = None
    ) -> IntensityForecast | None:
        """The forecast that was issued last of those that were there."""
        ...

    def realised(
        self,
        zone: str,
        start: datetime,
        end: datetime,
        *,
        as_of: datetime,
        provider: str | None = None,
        signal: Signal | None = None,
    ) -> list[Realised]:
        """What had come true in [start, end)."""
        ...


class Chain:
    """The chains of all zones, as one provider. Zones without sources are the typical provider's alone."""

    def __init__(self, archive: Known, links: Mapping[str, Links], typical: Provider) -> None:
        self._archive = archive
        self._links = links
        self._typical = typical
        self._judged: dict[tuple[str, str], tuple[IntensityForecast, datetime, Judgement]] = {}
        self._nowcasts: dict[tuple[str, str], Nowcast] = {}

    def relink(self, links: Mapping[str, Links]) -> None:
        """From now on these are the zones, and the sources of each."""
        self._links = links

    def afresh(self) -> Chain:
        """The same with a memory of its own, so that looking back does not drive out what plans need again soon."""
        return Chain(self._archive, self._links, self._typical)

    @property
    def name(self) -> str:
        """All sources' names."""
        return ", ".join(dict.fromkeys(name for links in self._links.values() for name in links.sources))

    def name_of(self, zone: str) -> str:
        """The names of a zone's sources, else the typical provider's."""
        links = self._links.get(zone)
        return ", ".join(links.sources) if links else self._typical.name

    def chained(self) -> list[str]:
        """The zones that have sources."""
        return sorted(self._links)

    def zones(self) -> list[str]:
        """Those and the typical provider's."""
        return sorted({*self._links, *self._typical.zones()})

    def signal_of(self, zone: str) -> Signal:
        """The one signal of a zone's sources, else the typical provider's."""
        links = self._links.get(zone)
        return links.signal if links else self._typical.signal_of(zone)

    def forecast(self, zone: str, now: datetime, until: datetime) -> IntensityForecast:
        """The forecast of whoever serves at `now`, another's than our own corrected by what has come true since its issue.

        Raises ForecastUnavailable, with what is wrong with each source.
        """
        if zone not in self._links:
            return self._typical.forecast(zone, now, until)
        choice = self.choose(zone, now, until)
        given = choice.forecast
        if choice.source in self._links[zone].sources and choice.source != OWN:
            given = self._nowcast(zone, choice.source).of(given, now, wider=1 / choice.trust)
        slots = tuple(slot for slot in given.slots if slot.end > now and slot.start < until)
        return msgspec.structs.replace(given, slots=slots)

    def realised(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Realised]:
        """What the archive had by `now`."""
        links = self._links.get(zone)
        if links is None:
            return self._typical.realised(zone, start, end, now)
        try:
            found = self._archive.realised(zone, start, min(end, now), as_of=now, signal=links.signal)
        except SignalMismatch:  # it has been gathered by another signal only
            return []
        return [value for value in found if value.end <= now]

    def choose(self, zone: str, now: datetime, until: datetime) -> Choice:
        """Who serves a zone that has sources. Raises ForecastUnavailable where nobody does."""
        links = self._links[zone]
        passed_over: list[tuple[str, str]] = []
        for name in links.sources:
            judgement = self._judgement(zone, name, links, now)
            if judgement is None and name == OWN:
                continue  # it holds back until it has learnt something
            if judgement is None:
                passed_over.append((name, "nothing was received yet"))
            elif judgement.verdict == "refuse":
                passed_over.append((name, str(judgement)))
            else:
                return Choice(zone, now, name, judgement.forecast, judgement.trust, str(judgement), tuple(passed_over))
        instead = self._persisted(zone, now, until) or self._typical_of(zone, links.signal, now, until, passed_over)
        return Choice(zone, now, instead.provider, instead, 0.0, "stands in", tuple(passed_over))

    def _nowcast(self, zone: str, name: str) -> Nowcast:
        from batchsched.forecasts.nowcast import Nowcast

        if (found := self._nowcasts.get((zone, name))) is None:
            signal = self._links[zone].signal

            def issued(at: datetime) -> IntensityForecast | None:
                return self._archive.newest(zone, as_of=at, provider=name, signal=signal)

            def came(start: datetime, end: datetime, now: datetime) -> list[Realised]:
                return self.realised(zone, start, end, now)

            found = self._nowcasts.setdefault((zone, name), Nowcast(issued, came))
        return found

    def _judgement(self, zone: str, name: str, links: Links, now: datetime) -> Judgement | None:
        """What is wrong with a source's newest forecast, by what was known when the hour began; its age is as it is now."""
        try:
            newest = self._archive.newest(zone, as_of=now, provider=name, signal=links.signal)
        except SignalMismatch:
            return None
        if newest is None:
            return None
        limits = Limits(fresh_s=links.fresh_s[name]) if name in links.fresh_s else Limits()
        hour = start_of_hour(now)
        before = self._judged.get((zone, name))
        if not before or before[:2] != (newest, hour):
            realised = self.realised(zone, hour - _HISTORY, hour, hour)
            before = newest, hour, judge(newest, hour, self._earlier(newest, hour), realised, limits)
            self._judged[zone, name] = before
        return aged(before[2], now, limits)

    def _earlier(self, newest: IntensityForecast, hour: datetime) -> list[IntensityForecast]:
        """The issue before, and those that were the newest every twelve hours back from now, in the order of issue."""
        instants = [min(newest.issued_at - _MOMENT, hour), *(hour - n * _DAY / 2 for n in range(_EARLIER))]
        found: dict[datetime, IntensityForecast] = {}
        for at in instants:
            one = self._archive.newest(newest.zone, as_of=at, provider=newest.provider, signal=newest.signal)
            if one is not None:
                found[one.issued_at] = one
        return [found[issued_at] for issued_at in sorted(found)]

    def _persisted(self, zone: str, now: datetime, until: datetime) -> IntensityForecast | None:
        """The zone's own history carried on, where it is fresh and knows each hour of the day ahead."""
        found = persisted(zone, self.realised(zone, now - 9 * _DAY, now, now), now, until)
        if found is None or now - found.issued_at > _OLDEST_HISTORY:
            return None
        whole = found.mean_over(now, min(until, now + _DAY)) is not None
        return msgspec.structs.replace(found, provider=PERSISTENCE) if whole else None

    def _typical_of(
        self, zone: str, signal: Signal, now: datetime, until: datetime, passed_over: list[tuple[str, str]]
    ) -> IntensityForecast:
        try:
            theirs = self._typical.signal_of(zone)
        except ForecastUnavailable as problem:
            passed_over.append((self._typical.name, problem.message))
        else:
            if theirs == signal:
                return self._typical.forecast(zone, now, until)
            passed_over.append((self._typical.name, f"it gives {theirs}, which never stands in for {signal}"))
        tried = "; ".join(f"{name}: {reason}" for name, reason in passed_over)
        raise ForecastUnavailable(f"No source has a forecast of '{zone}' that may be used ({tried}).")

"""Asks each source for news at its own pace, one thread a source, and puts what comes into the archive.

A source that fails is left alone for longer each time, at least as long as it asks for itself; the others do not wait for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from batchsched.clock import Clock
from batchsched.errors import (
    BatchschedError,
    ForecastUnavailable,
    InvalidConfiguration,
    InvalidValue,
    SignalMismatch,
    SourceLimited,
    SourceRefused,
)
from batchsched.feeds import OWN
from batchsched.forecasts.failing import FAILING, Failing, State
from batchsched.forecasts.sources.port import Generating

if TYPE_CHECKING:
    from batchsched.forecasts.archive import Archive
    from batchsched.forecasts.chain import Chain
    from batchsched.forecasts.sources import Source
    from batchsched.forecasts.switches import Switches

log = logging.getLogger(__name__)
POLL_S = 1.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 60.0, 3600.0
# What came true is asked for again while it may still be revised; where some of the weeks that faults are judged by is missing,
# that is asked for once a day.
REVISED = timedelta(days=2)
WANTED = timedelta(days=28)
FILL_EVERY_S = 86400.0
AHEAD = timedelta(days=1)
NOT_KNOWN = 401
LONGEST_BACKFILL = timedelta(days=31)


class Backfilled(msgspec.Struct, frozen=True):
    """What a source gave for a span that lies behind: values received, how many of them were news, or why it gave none."""

    source: str
    received: int
    added: int
    problem: str = ""


class Feed:
    """One source. `after` is called after each try, with whether it brought news and whether it failed."""

    def __init__(
        self,
        source: Source,
        refresh_s: float,
        archive: Archive,
        clock: Clock,
        leading: Callable[[], bool],
        after: Callable[[bool, bool], None],
    ) -> None:
        self.source = source
        self._refresh_s = refresh_s
        self._archive = archive
        self._clock = clock
        self._leading = leading
        self._after = after
        self._asking = threading.Lock()
        self._stopping = threading.Event()
        self._due = -float("inf")
        self._filled: dict[str, float] = {}
        self._woken = self._has_brought_news = False
        self._state = State(source.name, 0, "", None)
        self._thread = threading.Thread(target=self._run, name=f"feed {source.name}", daemon=True)

    @property
    def state(self) -> State:
        """How it is doing."""
        return self._state

    def wake(self, *, again: bool = False) -> None:
        """Ask at once, where it has not brought any news yet, or `again`."""
        self._woken |= again or not self._has_brought_news

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Ask for nothing more. A question that is under way is left to itself."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=2 * POLL_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            if self._leading() and self.is_due():
                self.round()
            self._stopping.wait(POLL_S)

    def is_due(self) -> bool:
        """Is it time to ask?"""
        return self._woken or self._clock.monotonic() >= self._due

    def round(self) -> float:
        """Ask about every zone once. Returns the seconds until it is due again."""
        before, self._woken = self._state, False
        try:
            news, problem = self._ask(self._clock.now())
            now = self._clock.now()
            self._state = State(self.source.name, 0, problem, now, (before.since or now) if problem else None)
            pause_s = self._refresh_s
        except Exception as raised:
            news, pause_s = False, self._failed(raised)
        if self._state.problem and self._state.problem != before.problem:
            log.warning("The source '%s': %s", self.source.name, self._state.problem)
        self._due = self._clock.monotonic() + pause_s
        self._has_brought_news |= news
        try:
            self._after(news, self._state.failures > 0)
        except Exception:
            log.exception("What follows from the news of '%s' failed.", self.source.name)
        return pause_s

    def _failed(self, raised: Exception) -> float:
        if not isinstance(raised, BatchschedError):
            log.exception("The source '%s' failed in a way of its own.", self.source.name)
        problem = raised.message if isinstance(raised, BatchschedError) else type(raised).__name__
        failures = self._state.failures + 1
        since = self._state.since or self._clock.now()
        self._state = State(self.source.name, failures, problem, self._state.answered_at, since)
        if isinstance(raised, InvalidConfiguration):  # of a file, which nobody minds being looked at
            return self._refresh_s
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(failures - 1, 20), max(LONGEST_PAUSE_S, self._refresh_s))
        if isinstance(raised, SourceLimited):
            return max(pause_s, raised.retry_after_s)
        return max(pause_s, LONGEST_PAUSE_S) if isinstance(raised, SourceRefused) else pause_s

    def _ask(self, now: datetime) -> tuple[bool, str]:
        """Was there news, and what went wrong with single zones (a plan may lack one). Raises where nothing went right."""
        news, answered, problem = 0, False, None
        with self._asking:
            for zone in self.source.zones():
                for wanted, pull in ((self.source.has_forecast, self._forecast), (self.source.has_history, self._recent)):
                    try:
                        if wanted and not self._stopping.is_set():
                            news += pull(zone, now)
                            answered = True
                    except SourceLimited:
                        raise
                    except (ForecastUnavailable, SignalMismatch) as raised:
                        if isinstance(raised, SourceRefused) and raised.status == NOT_KNOWN and not answered:
                            raise  # the key itself, for whatever zone; what it only may not have is a 403
                        problem = raised
        if problem and not answered:
            raise problem
        return news > 0, problem.message if problem else ""

    def _forecast(self, zone: str, now: datetime) -> int:
        return self._archive.add_forecast(self.source.fetch_forecast(zone, now), self._clock.now)

    def _recent(self, zone: str, now: datetime) -> int:
        since = now - REVISED
        if self._clock.monotonic() >= self._filled.get(zone, -float("inf")):
            since = min(self._known_to(zone, now), since)
        _, added = self._measured(zone, since, now, now)
        if since < now - REVISED:
            self._filled[zone] = self._clock.monotonic() + FILL_EVERY_S
        return added

    def _known_to(self, zone: str, now: datetime) -> datetime:
        """Up to when the archive has this source's values without a gap, of the weeks that are wanted."""
        at = now - WANTED
        signal = self.source.signal_of(zone)
        for value in self._archive.realised(zone, at, now, as_of=now, provider=self.source.name, signal=signal):
            if value.start > at:
                break
            at = max(at, value.end)
        return at

    def is_asked_about(self, zone: str) -> bool:
        """Also where a file that cannot be read might have the zone."""
        try:
            return zone in self.source.zones()
        except InvalidConfiguration:
            return True

    def backfill(self, zone: str, start: datetime, end: datetime) -> Backfilled:
        """Ask what came true in [start, end) and keep it."""
        name, now = self.source.name, self._clock.now()
        if not self.source.has_history:
            return Backfilled(name, 0, 0, "it has no history")
        try:
            with self._asking:
                received, added = self._measured(zone, start, min(end, now), now)
        except (ForecastUnavailable, InvalidConfiguration, SignalMismatch) as problem:
            return Backfilled(name, 0, 0, problem.message)
        return Backfilled(name, received, added)

    def _measured(self, zone: str, start: datetime, end: datetime, now: datetime) -> tuple[int, int]:
        """Ask and keep: how many values came true, and how many of them were news."""
        if isinstance(self.source, Generating):
            values, generation = self.source.fetch_generation(zone, start, end, now)
            self._archive.add_generation(generation, self._clock.now)
        else:
            values = self.source.fetch_realised(zone, start, end, now)
        return len(values), self._archive.add_realised(values, self._clock.now)


class Feeds:
    """All sources, and who serves each zone because of what they say."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        refresh_s: Mapping[str, float],
        archive: Archive,
        chain: Chain,
        switches: Switches,
        clock: Clock,
        *,
        leading: Callable[[], bool],
        news: Callable[[], None],
        failed: Callable[[], None],
        switched: Callable[[], None],
        relink: Callable[[], None] = lambda: None,
    ) -> None:
        """`leading`: may this server ask? `news`: something was learnt. `failed`, `switched`: one more of these.

        `relink`: called after each round, for a source's zones may be others now.
        """
        self._chain = chain
        self._switches = switches
        self._failing = Failing(archive.folder / FAILING)
        self._clock = clock
        self._news = news
        self._failed = failed
        self._switched = switched
        self._relink = relink
        self.feeds = {
            name: Feed(source, refresh_s[name], archive, clock, leading, self._after) for name, source in sources.items()
        }

    def start(self) -> None:
        """Begin to ask."""
        for feed in self.feeds.values():
            feed.start()

    def stop(self) -> None:
        """Ask for nothing more."""
        for feed in self.feeds.values():
            feed.stop()

    def look_again(self) -> None:
        """Let our own models look at once: something was imported, or learnt."""
        if OWN in self.feeds:
            self.feeds[OWN].wake(again=True)

    def backfill(self, zone: str, start: datetime, end: datetime) -> list[Backfilled]:
        """What each source of a zone has of [start, end). Raises ForecastUnavailable, and InvalidValue for a longer span."""
        if end - start > LONGEST_BACKFILL:
            raise InvalidValue(f"At most {LONGEST_BACKFILL.days} days are asked for at once.", param="to")
        able = [feed for name, feed in self.feeds.items() if name != OWN and feed.is_asked_about(zone)]
        if not able:
            raise ForecastUnavailable(f"No source is asked about the zone '{zone}'.", hint="Declare one under forecast.sources.")
        found = [feed.backfill(zone, start, end) for feed in able]
        if any(one.added for one in found):
            self._news()
        return found

    def _after(self, news: bool, failed: bool) -> None:
        if failed:
            self._failed()
        self._failing.note([feed.state for feed in self.feeds.values()])
        self._relink()
        if news and OWN in self.feeds:
            self.feeds[OWN].wake()  # it looked when nothing had been measured yet
        now = self._clock.now()
        for zone in self._chain.chained():
            try:
                switch = self._switches.record(self._chain.choose(zone, now, now + AHEAD))
            except ForecastUnavailable:
                continue  # planning says so itself
            if switch and switch.before is not None:
                log.warning("'%s' is now served by %s instead of %s (%s).", zone, switch.source, switch.before, switch.why)
                self._switched()
        if news:
            self._news()

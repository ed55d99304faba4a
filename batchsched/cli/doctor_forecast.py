"""`batchsched doctor` on forecasts: who serves each declared zone, how old what it said is, and whether the sources answer."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from batchsched.cli.printed import Finding
from batchsched.errors import BatchschedError, ForecastUnavailable

if TYPE_CHECKING:
    from batchsched.feeds import FeedSource
    from batchsched.forecasts.archive import Archive
    from batchsched.forecasts.chain import Chain
    from batchsched.forecasts.opened import Opened
    from batchsched.forecasts.port import IntensityForecast
    from batchsched.settings import Forecast, Loaded

STALE = timedelta(hours=36)
"""Age of a forecast file's newest issue from which it is warned of: the default limit of sources, `fresh_s`."""
PATIENCE_S = 5.0
"""For one answer of a source that is asked from here."""


def forecast(loaded: Loaded) -> Iterator[Finding]:
    """Opening an archive makes its folders, which is the server's business: where it has not, an empty one stands in."""
    folder = loaded.settings.archive_folder()
    with TemporaryDirectory() as empty:
        yield from _forecasts(loaded, folder if folder.is_dir() else Path(empty))


def _forecasts(loaded: Loaded, folder: Path) -> Iterator[Finding]:
    """Does the source know each declared zone, and for how long from now? Who serves those that have sources, and why?"""
    from batchsched.clock import SystemClock
    from batchsched.forecasts.opened import open_forecasts

    settings, now = loaded.settings, datetime.now(UTC)
    opened = open_forecasts(settings.forecast, loaded.base_dir, lambda: _archive(folder, settings.forecast), SystemClock())
    zones = sorted({site.zone for site in settings.sites.values()})
    for zone in zones:
        if opened.chain and zone in opened.chain.chained():
            yield _served(opened.chain, zone, now, folder)
        else:
            yield _given(opened, zone, now, settings.planner.horizon_h, loaded)
    if settings.forecast.sources:
        yield from _sources(settings.forecast, loaded.base_dir, folder, now)
    if not zones:
        yield Finding("forecast", "ok", f"{opened.provider.name}; no site is declared")


def _archive(folder: Path, settings: Forecast) -> Archive:
    from batchsched.forecasts.archive import Archive

    return Archive(folder, order=settings.order_for)


def _given(opened: Opened, zone: str, now: datetime, horizon_h: float, loaded: Loaded) -> Finding:
    """What the one provider of a zone without sources says."""
    check, path = f"forecast {zone}", loaded.settings.forecast.path
    try:
        found = opened.provider.forecast(zone, now, now + timedelta(hours=horizon_h))
    except BatchschedError as problem:
        what = problem.hint or f"Bring a newer one: {path or 'forecast.path'}; or declare sources (docs/forecast_sources.md)."
        return Finding(check, "broken", problem.message, what)
    text = _told(found.provider, found, now)
    if found.continued_by and found.continued_from:
        text += f"; from {found.continued_from:%Y-%m-%d %H:%M} UTC on continued by {found.continued_by}"
    if now - found.issued_at > STALE:
        return Finding(check, "warning", f"{text}, which is old", f"Write a newer one to {path or 'forecast.path'}.")
    return Finding(check, "ok", text)


def _told(by: str, found: IntensityForecast, now: datetime) -> str:
    """By whom, what, and how old."""
    from batchsched.forecasts.port import CLIMATOLOGY

    if found.provider == CLIMATOLOGY:
        return f"{by}, {found.signal}: typical days by month and hour, which do not age"
    return f"{by}, {found.signal}, issued {found.issued_at:%Y-%m-%d %H:%M} UTC, {_ago(now - found.issued_at)}"


def _ago(age: timedelta) -> str:
    from batchsched.units import format_duration

    return f"{format_duration(max(60.0, age.total_seconds()))} ago"


def _served(chain: Chain, zone: str, now: datetime, folder: Path) -> Finding:
    from batchsched.forecasts.switches import SWITCHES, Switches

    check = f"forecast {zone}"
    mend = "See the lines about its sources. A running server asks them; `batchsched forecast zones` shows what came."
    try:
        choice = chain.choose(zone, now, now + timedelta(days=1))
    except ForecastUnavailable as problem:
        return Finding(check, "broken", problem.message, mend)
    text = _told(choice.source, choice.forecast, now)
    if choice.trust < 1:
        text += f", trust {choice.trust:.1f} ({choice.faults})"
    if choice.passed_over:
        text += f"; before it: {choice.why}"
    switch = Switches(folder / SWITCHES).newest().get(zone)
    if switch and switch.before:
        text += f"; since {switch.at:%Y-%m-%d %H:%M} UTC {switch.source} instead of {switch.before} ({switch.why})"
    sound = choice.trust == 1 and not choice.passed_over
    return Finding(check, "ok" if sound else "warning", text, "" if sound else mend)


def _sources(settings: Forecast, base_dir: Path, folder: Path, now: datetime) -> Iterator[Finding]:
    """Does each answer? A server says so of those it asks; one that nobody has heard of lately is asked here, once."""
    from batchsched.forecasts.failing import FAILING, Failing

    failing, heard = Failing(folder / FAILING).all(), dict[str, datetime]()
    for feed, *ends in _archive(folder, settings).summaries(now):
        heard[feed.provider] = max([*filter(None, ends), heard.get(feed.provider, datetime.min.replace(tzinfo=UTC))])
    for name, declared in settings.sources.items():
        check, key = f"source {name}", f"forecast.sources.{name}"
        mend = f"Look at {key}: its key, zones and base_url; is its provider reached from the server's machine?"
        if state := failing.get(name):
            what = f"no answer in {state.failures} tries" if state.failures else "no answer about some zone"
            text = f"{what} since {state.since:%Y-%m-%d %H:%M} UTC: {state.problem}"
            yield Finding(check, "warning", text, mend)
        elif name in heard and now - heard[name] < 2 * timedelta(seconds=declared.refresh_s) + timedelta(hours=1):
            yield Finding(check, "ok", f"its newest value is of {heard[name]:%Y-%m-%d %H:%M} UTC, {_ago(now - heard[name])}")
        else:
            yield _asked(name, declared, base_dir, now, mend)


def _asked(name: str, declared: FeedSource, base_dir: Path, now: datetime, mend: str) -> Finding:
    """One question about one of its zones, with little patience."""
    from msgspec.structs import replace

    from batchsched.clock import SystemClock
    from batchsched.forecasts.sources import open_source

    hasty = replace(declared, timeout_s=min(declared.timeout_s, PATIENCE_S), min_interval_s=0.0)
    try:
        source = open_source(name, hasty, base_dir, SystemClock(), sleep=lambda _: None)
        zone = next(iter(source.zones()), "")
        if not zone:
            return Finding(f"source {name}", "warning", "it has no zone", mend)
        if source.has_forecast:
            issued_at = source.fetch_forecast(zone, now).issued_at
            said = f"a forecast of {zone} issued {issued_at:%Y-%m-%d %H:%M} UTC, {_ago(now - issued_at)}"
        else:
            values = source.fetch_realised(zone, now - timedelta(days=2), now, now)
            said = f"{len(values)} measurements of {zone} in the last two days"
    except BatchschedError as problem:
        return Finding(f"source {name}", "warning", f"asked now: {problem.message}", problem.hint or mend)
    return Finding(f"source {name}", "ok", f"asked now: {said}")

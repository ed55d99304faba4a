"""Routes about the grid: forecasts as they were known at any instant, what came true, and what the archive has."""

from __future__ import annotations

import re
import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from batchsched.errors import (
    ForecastUnavailable,
    InvalidConfiguration,
    InvalidInputFile,
    InvalidValue,
    MissingParameter,
    PayloadTooLarge,
)
from batchsched.feeds import OWN
from batchsched.forecasts import QUANTILES, IntensityForecast, Realised, Signal
from batchsched.forecasts.figures import Skill, Trained
from batchsched.forecasts.layouts import Content, read_file
from batchsched.forecasts.persistence import PERSISTENCE
from batchsched.forecasts.port import CLIMATOLOGY
from batchsched.server.accounting import MEDIA
from batchsched.server.auth import GUARDED, Caller, Who
from batchsched.server.batches import json_body
from batchsched.server.files import body
from batchsched.server.forecast_answers import (
    Backfill,
    Backfilled,
    BackfillSpan,
    Evaluation,
    Forecast,
    ForecastFeed,
    ForecastFeeds,
    Imported,
    Measurement,
)
from batchsched.server.instants import EARLIEST, instant
from batchsched.server.options import form_of
from batchsched.server.runtime import Runtime
from batchsched.server.uploads import Form
from batchsched.wire import PREFIX

MOST_HOURS = 168
MOST_IMPORT_BYTES = 1 << 28
EVALUATED = timedelta(days=28)
TAKEN = frozenset({OWN, CLIMATOLOGY, PERSISTENCE})


def router(runtime: Runtime) -> APIRouter:
    """The routes, bound to a server."""
    routes = APIRouter(prefix=f"{PREFIX}/forecasts", tags=["batchsched"], dependencies=GUARDED)
    desk = Forecasts(runtime)
    hours_ = Query(96, ge=1, le=MOST_HOURS)

    @routes.get("")
    def list_forecasts() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Who says what about which zone: the source that plans rest on, and all that the archive has."""
        found: dict[str, Any] = msgspec.to_builtins(ForecastFeeds("list", desk.feeds()))
        return found

    one_at_a_time = CapacityLimiter(1)

    @routes.post("/import")
    async def import_forecasts(request: Request, who: Who) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Put a file's forecasts and measurements into the archive, as known from now on."""
        found: dict[str, Any] = msgspec.to_builtins(await to_thread.run_sync(desk.take_in, request, who, limiter=one_at_a_time))
        return found

    @routes.get("/{zone}")
    def show_forecast(  # pyright: ignore[reportUnusedFunction]
        zone: str, as_of: str | None = None, hours: int = hours_, provider: str | None = None, signal: str | None = None
    ) -> dict[str, Any]:
        """What was known about a zone at an instant (now, unless `as_of` names one): the forecast, and the day that lay behind.

        Without `provider` and `signal`: what plans rest on; with one of them: what the archive has of it.
        """
        shown: dict[str, Any] = msgspec.to_builtins(desk.show(zone, as_of, hours, provider, signal))
        return shown

    @routes.get("/{zone}/plot")
    def plot_forecast(  # pyright: ignore[reportUnusedFunction]
        zone: str,
        as_of: str | None = None,
        hours: int = hours_,
        provider: str | None = None,
        signal: str | None = None,
        format: str = "svg",  # noqa: A002 - the parameter's public name
    ) -> Response:
        """A picture of the same, with what has come true since."""
        picture = desk.plot(zone, as_of, hours, provider, signal, format)
        return Response(picture, media_type=MEDIA.get(format))

    @routes.post("/{zone}/backfill")
    async def backfill(zone: str, request: Request, who: Who) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Ask a zone's sources what came true in a span of at most 31 days, and keep it. It may take minutes."""
        span = form_of(BackfillSpan, await json_body(request))
        answer: dict[str, Any] = msgspec.to_builtins(await run_in_threadpool(desk.backfill, zone, span, who))
        return answer

    @routes.post("/{zone}/train")
    async def train(zone: str, who: Who) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Let our models learn a zone anew, from what is known now. It takes seconds to a minute."""
        learnt: dict[str, Any] = msgspec.to_builtins(await to_thread.run_sync(desk.train, zone, who, limiter=one_at_a_time))
        return learnt

    @routes.get("/{zone}/evaluation")
    def evaluate(  # pyright: ignore[reportUnusedFunction]
        zone: str, start: str | None = None, end: str | None = None
    ) -> dict[str, Any]:
        """How good each provider's forecasts were that were issued in [start, end), by days of lead: by default, four weeks."""
        found: dict[str, Any] = msgspec.to_builtins(Evaluation("list", desk.evaluate(zone, start, end)))
        return found

    @routes.get("/{zone}/evaluation/plot")
    def plot_evaluation(  # pyright: ignore[reportUnusedFunction]
        zone: str,
        start: str | None = None,
        end: str | None = None,
        format: str = "svg",  # noqa: A002 - the parameter's public name
    ) -> Response:
        """A picture of the same: error and coverage by hours of lead."""
        from batchsched.server.plot import draw_skill

        picture = draw_skill(desk.evaluate(zone, start, end, bin_h=6), format)
        return Response(picture, media_type=MEDIA.get(format))

    return routes


class Forecasts:
    """What the routes do."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def feeds(self) -> list[ForecastFeed]:
        """The archive's feeds, and the zones of the provider in force that the archive has nothing of."""
        archived = [
            ForecastFeed(*summary.feed, summary.newest_issue_at, summary.realised_until)
            for summary in self._runtime.archive.summaries(self._runtime.clock.now())
        ]
        provider, chain, known = self._runtime.provider, self._runtime.chain, {feed.zone for feed in archived}
        others = [
            ForecastFeed(zone, chain.name_of(zone) if chain else provider.name, str(provider.signal_of(zone)), None, None)
            for zone in provider.zones()
            if zone not in known
        ]
        return sorted(archived + others, key=lambda feed: (feed.zone, feed.provider, feed.signal))

    def take_in(self, request: Request, who: Caller) -> Imported:
        """In a thread of its own. Raises InvalidInputFile, PayloadTooLarge, StorageFull."""
        form = Form(request.headers, body(request))
        content, name = _content(form)
        provider = form.fields.get("provider") or content.provider
        if provider in TAKEN:
            raise InvalidValue(f"'{provider}' is the name of forecasts made here; give the file's another.", param="provider")
        archive, clock = self._runtime.archive, self._runtime.clock
        now = clock.now()
        issues = (msgspec.structs.replace(issue, provider=provider) for issue in content.issues())
        values = (msgspec.structs.replace(value, provider=provider) for value in content.measurements() if value.end <= now)
        generation = (msgspec.structs.replace(one, provider=provider) for one in content.generation() if one.end <= now)
        weather = (msgspec.structs.replace(run, provider=provider) for run in content.weather if run.issued_at <= now)
        counts = {
            "forecasts": archive.add_forecasts(issues, clock.now),
            "measurements": archive.add_realised(values, clock.now),
            "generation": archive.add_generation(generation, clock.now),
            "weather": archive.add_weather(weather, clock.now),
        }
        with self._runtime.database.write() as connection:
            who.did(connection, name, provider=provider, **counts)
        if self._runtime.feeds:
            self._runtime.feeds.look_again()
        self._runtime.scheduler.poke()
        signal = "" if content.weather else str(content.signal)
        return Imported("batchsched.import", name, provider, signal, content.zones, **counts)

    def show(self, zone: str, as_of: str | None, hours: int, provider: str | None, signal: str | None) -> Forecast:
        """Raises ForecastUnavailable, SignalMismatch, InvalidValue."""
        now = self._instant(as_of)
        forecast, received_at = self._forecast(zone, now, now + hours * timedelta(hours=1), provider, signal)
        realised = self._realised(forecast, now - timedelta(days=1), now, now, archived=received_at is not None)
        return Forecast(
            zone=zone,
            as_of=now,
            issued_at=forecast.issued_at,
            received_at=received_at,
            provider=forecast.provider,
            signal=str(forecast.signal),
            licence=forecast.licence,
            continued_by=forecast.continued_by,
            continued_from=forecast.continued_from,
            note=forecast.note,
            levels=list(QUANTILES),
            slots=list(forecast.slots),
            realised=[
                Measurement(value.start, value.end, value.intensity_g_per_kwh, value.provider, value.estimated, value.licence)
                for value in realised
            ],
        )

    def plot(self, zone: str, as_of: str | None, hours: int, provider: str | None, signal: str | None, kind: str) -> bytes:
        """Raises as `show` does."""
        from batchsched.server.plot import draw_forecast

        at, now = self._instant(as_of), self._runtime.clock.now()
        end = at + hours * timedelta(hours=1)
        forecast, received_at = self._forecast(zone, at, end, provider, signal)
        since = at - timedelta(days=1)
        realised = self._realised(forecast, since, min(end, now), now, archived=received_at is not None)
        return draw_forecast(forecast, realised, at, now, kind)

    def backfill(self, zone: str, span: BackfillSpan, who: Caller) -> Backfill:
        """Raises ForecastUnavailable where the zone has no source, InvalidValue."""
        start = self._instant(span.start, "start")
        end = self._instant(span.end, "end")
        if start >= end:
            raise InvalidValue("'end' must lie after 'start'.", param="end")
        if self._runtime.feeds is None:
            raise ForecastUnavailable("No source is declared that could be asked.", hint="Declare one under forecast.sources.")
        found = self._runtime.feeds.backfill(zone, start, end)
        with self._runtime.database.write() as connection:
            who.did(connection, zone, start=span.start, end=span.end)
        return Backfill("list", [Backfilled(**msgspec.structs.asdict(one)) for one in found])

    def train(self, zone: str, who: Caller) -> Trained:
        """Raises ForecastUnavailable where the zone has no sources, or nothing of it is known."""
        if self._runtime.own is None:
            raise ForecastUnavailable(
                "Our models forecast no zone here.",
                hint="Declare forecast.sources, or a zone under forecast.zones, and leave forecast.own on.",
            )
        trained, _ = self._runtime.own.train(zone, self._runtime.clock.now())
        with self._runtime.database.write() as connection:
            who.did(connection, zone, model=trained.model)
        if self._runtime.feeds:
            self._runtime.feeds.look_again()
        return trained

    def evaluate(self, zone: str, start: str | None, end: str | None, *, bin_h: int = 24) -> list[Skill]:
        """Nothing where no forecast of that span can be judged yet. Raises ForecastUnavailable (no such zone), InvalidValue."""
        from batchsched.forecasts.skill import skill_of

        until = self._instant(end, "end")
        since = self._instant(start, "start") if start else until - EVALUATED
        if since >= until:
            raise InvalidValue("'end' must lie after 'start'.", param="end")
        if not self._runtime.archive.feeds(zone):
            raise ForecastUnavailable(
                f"The archive has nothing of the zone '{zone}'.", hint="`batchsched forecast zones` lists what it has."
            )
        runtime = self._runtime
        return skill_of(runtime.archive, zone, since, until, runtime.clock.now(), bin_h=bin_h, chain=runtime.chain)

    def _forecast(
        self, zone: str, now: datetime, until: datetime, provider: str | None, signal: str | None
    ) -> tuple[IntensityForecast, datetime | None]:
        """The forecast, and where the archive was asked itself, when it had come."""
        if provider is None and signal is None:
            return self._runtime.provider.forecast(zone, now, until), None
        wanted = Signal.parse(signal) if signal is not None else None
        found = self._runtime.archive.newest_receipt(zone, as_of=now, provider=provider, signal=wanted)
        slots = tuple(slot for slot in found.forecast.slots if slot.end > now and slot.start < until) if found else ()
        if found is None or not slots:
            whose = f" by '{provider}'" if provider is not None else ""
            raise ForecastUnavailable(f"The archive has no forecast for '{zone}'{whose} that was known then and reached as far.")
        return msgspec.structs.replace(found.forecast, slots=slots), found.received_at

    def _realised(
        self, forecast: IntensityForecast, start: datetime, end: datetime, now: datetime, *, archived: bool
    ) -> list[Realised]:
        if archived:
            return self._runtime.archive.realised(forecast.zone, start, end, as_of=now, signal=forecast.signal)
        return self._runtime.provider.realised(forecast.zone, start, end, now)

    def _instant(self, text: str | None, param: str = "as_of") -> datetime:
        now = self._runtime.clock.now()
        if text is None:
            return now
        at = instant(text, param)
        if not EARLIEST <= at <= now:
            raise InvalidValue(f"'{param}' lies in the future, or before the year 2000.", param=param)
        return at


def _content(form: Form) -> tuple[Content, str]:
    """What is in a form's file, and the file's name."""
    with tempfile.TemporaryDirectory(prefix="batchsched-") as folder:
        path, size = Path(folder) / "import", 0
        with path.open("wb") as handle:
            for block in form.file_blocks():
                size += len(block)
                if size > MOST_IMPORT_BYTES:
                    raise PayloadTooLarge(f"The file is larger than {MOST_IMPORT_BYTES} bytes.", param="file")
                handle.write(block)
        if form.filename is None:
            raise MissingParameter("Missing required parameter: 'file'.", param="file")
        name = re.sub(r"[^\w. -]", "_", form.filename)[-100:].lstrip(". ") or "file"
        wanted = Signal.parse(form.fields["signal"]) if form.fields.get("signal") else None
        try:
            return read_file(path.rename(path.with_name(name)), wanted), name
        except InvalidConfiguration as problem:
            raise InvalidInputFile(problem.message.replace(f"{folder}/", ""), hint=problem.hint) from None
        except (ValueError, OverflowError) as problem:
            raise InvalidInputFile(f"{name} cannot be read: {problem}.") from None

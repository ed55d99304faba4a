"""`client.forecasts`, blocking and not."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from batchsched.client import forecasts
from batchsched.client.calls import PlotFormat
from batchsched.client.forecasts import Backfilled, Forecast, ForecastFeed, Imported, Skill, Trained, Which

if TYPE_CHECKING:
    from batchsched.client.asynchronous import AsyncClient
    from batchsched.client.blocking import Client


class Forecasts:
    """`client.forecasts`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self) -> tuple[ForecastFeed, ...]:
        """Who says what about which zone."""
        return self._client.send(forecasts.feeds())

    def retrieve(self, zone: str, **which: Unpack[Which]) -> Forecast:
        """A zone's forecast as it is known now, or was known at `as_of`."""
        return self._client.send(forecasts.forecast(zone, which))

    def plot(self, zone: str, image_format: PlotFormat = "png", **which: Unpack[Which]) -> bytes:
        """An image of it: the band, what came true, the present hour."""
        return self._client.send(forecasts.forecast_plot(zone, image_format, which))

    def import_file(self, file: str | Path, *, provider: str | None = None, signal: str | None = None) -> Imported:
        """Put a file's forecasts and measurements into the server's archive, as known from now on.

        `provider`: the name to keep them under, if not the file's own. `signal`: which to take, where the file has several.
        """
        path = Path(file)
        with path.open("rb") as stream:
            return self._client.send(forecasts.import_file(path, stream, provider, signal))

    def backfill(self, zone: str, start: datetime | str, end: datetime | str | None = None) -> tuple[Backfilled, ...]:
        """Let the server ask the zone's sources what came true in [start, end), at most 31 days, and keep it.

        It may take minutes. The end that is left out is now.
        """
        return self._client.send(forecasts.backfill(zone, start, end))

    def train(self, zone: str) -> Trained:
        """Let the server's own models learn a zone anew from what is known now; seconds to a minute."""
        return self._client.send(forecasts.train(zone))

    def evaluate(self, zone: str, start: datetime | str | None = None, end: datetime | str | None = None) -> tuple[Skill, ...]:
        """How good each provider's forecasts of [start, end) were (default: of the last four weeks), by days of lead."""
        return self._client.send(forecasts.evaluate(zone, start, end))

    def plot_evaluation(
        self,
        zone: str,
        image_format: PlotFormat = "png",
        start: datetime | str | None = None,
        end: datetime | str | None = None,
    ) -> bytes:
        """An image of it: error and coverage by hours of lead."""
        return self._client.send(forecasts.evaluation_plot(zone, image_format, start, end))


class AsyncForecasts:
    """`client.forecasts`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self) -> tuple[ForecastFeed, ...]:
        """Who says what about which zone."""
        return await self._client.send(forecasts.feeds())

    async def retrieve(self, zone: str, **which: Unpack[Which]) -> Forecast:
        """A zone's forecast as it is known now, or was known at `as_of`."""
        return await self._client.send(forecasts.forecast(zone, which))

    async def plot(self, zone: str, image_format: PlotFormat = "png", **which: Unpack[Which]) -> bytes:
        """An image of it: the band, what came true, the present hour."""
        return await self._client.send(forecasts.forecast_plot(zone, image_format, which))

    async def import_file(self, file: str | Path, *, provider: str | None = None, signal: str | None = None) -> Imported:
        """Put a file's forecasts and measurements into the server's archive, as known from now on.

        `provider`: the name to keep them under, if not the file's own. `signal`: which to take, where the file has several.
        """
        path = Path(file)
        with path.open("rb") as stream:  # noqa: ASYNC230 - httpx reads it block by block
            return await self._client.send(forecasts.import_file(path, stream, provider, signal))

    async def backfill(self, zone: str, start: datetime | str, end: datetime | str | None = None) -> tuple[Backfilled, ...]:
        """Let the server ask the zone's sources what came true in [start, end), at most 31 days, and keep it.

        It may take minutes. The end that is left out is now.
        """
        return await self._client.send(forecasts.backfill(zone, start, end))

    async def train(self, zone: str) -> Trained:
        """Let the server's own models learn a zone anew from what is known now; seconds to a minute."""
        return await self._client.send(forecasts.train(zone))

    async def evaluate(
        self, zone: str, start: datetime | str | None = None, end: datetime | str | None = None
    ) -> tuple[Skill, ...]:
        """How good each provider's forecasts of [start, end) were (default: of the last four weeks), by days of lead."""
        return await self._client.send(forecasts.evaluate(zone, start, end))

    async def plot_evaluation(
        self,
        zone: str,
        image_format: PlotFormat = "png",
        start: datetime | str | None = None,
        end: datetime | str | None = None,
    ) -> bytes:
        """An image of it: error and coverage by hours of lead."""
        return await self._client.send(forecasts.evaluation_plot(zone, image_format, start, end))

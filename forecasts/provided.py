"""What others forecast of a zone, as our models are blended with it: an issue an hour, in hours, and none that is broken."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from batchsched.forecasts.archive import Receipt
from batchsched.forecasts.faults import believable
from batchsched.forecasts.persistence import hours_of, instant_of, truth_of
from batchsched.forecasts.port import ForecastSlot, IntensityForecast, Realised, Signal

if TYPE_CHECKING:
    from batchsched.forecasts.archive import Archive

LONGEST = timedelta(hours=96)


def first_that_forecasts(
    archive: Archive, zone: str, signal: Signal, names: Sequence[str], since: datetime, now: datetime
) -> str:
    """The first of these sources that has issued something since then; empty where none has."""
    archived = {feed.provider for feed in archive.feeds(zone) if feed.signal == str(signal)}
    for name in names:
        newest = archive.newest(zone, as_of=now, provider=name, signal=signal) if name in archived else None
        if newest and newest.issued_at >= since:
            return name
    return ""


def provided(
    archive: Archive, zone: str, signal: Signal, name: str, since: datetime, now: datetime, known: Sequence[Realised]
) -> list[Receipt]:
    """The issues of [since, now) by one source, in order. Of those that came within an hour only the newest counts.

    What is implausible beside what is `known` is unknown; an issue that is mostly that, or stuck, is left out.
    """
    truth = truth_of(known, now)
    found: list[Receipt] = []
    for receipt in archive.each_hour(zone, since, now, as_of=now, provider=name, signal=signal):
        forecast = believable(in_hours(receipt.forecast), truth)
        if forecast is not None:
            found.append(Receipt(receipt.received_at, forecast))
    return found


def in_hours(forecast: IntensityForecast) -> IntensityForecast:
    """The same in whole hours, means alone: a tenth of a forecast of five minutes."""
    until = forecast.issued_at + LONGEST
    means = sorted(hours_of(forecast).items())
    slots = tuple(ForecastSlot(at, instant_of(hour + 1), mean) for hour, mean in means if (at := instant_of(hour)) < until)
    return msgspec.structs.replace(forecast, slots=slots)

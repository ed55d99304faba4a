"""An archive's writer that is killed in the middle of it, and the values that it writes."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from batchsched.forecasts import ForecastSlot, IntensityForecast, Realised, Signal
from batchsched.forecasts.archive import Archive

NOW = datetime(2026, 5, 31, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def forecast(
    issued: float = 0, *, zone: str = "DE", provider: str = "grid", mean: float = 100.0, **more: Any
) -> IntensityForecast:
    """Four hours from the hour of issue."""
    at = NOW + issued * HOUR
    spread = tuple(round(mean * factor, 2) for factor in (0.8, 0.9, 1.0, 1.1, 1.2))
    slots = tuple(ForecastSlot(at + h * HOUR, at + (h + 1) * HOUR, mean + h, spread) for h in range(4))
    given: dict[str, Any] = {"signal": Signal(), "slots": slots, "licence": "CC0", **more}
    return IntensityForecast(zone, at, provider, **given)


def measured(hour: float, grams: float, *, provider: str = "grid", length: timedelta = HOUR, zone: str = "DE") -> Realised:
    """What came true in an hour."""
    return Realised(zone, NOW + hour * HOUR, NOW + hour * HOUR + length, grams, provider, Signal())


def write_until_killed(folder: Path, start: int) -> None:
    """Add one forecast and one measurement after another, and acknowledge each pair on stdout."""
    archive = Archive(folder, fold_bytes=3000)
    for n in range(start, 9999):
        archive.add_forecast(forecast(n), NOW + n * HOUR)
        archive.add_realised([measured(n, n)], NOW + n * HOUR)
        print(n, flush=True)


if __name__ == "__main__":
    write_until_killed(Path(sys.argv[1]), int(sys.argv[2]))

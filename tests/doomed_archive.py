"""An archive's writer that is killed in the middle of it, and the values that it writes."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

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


def write_until_killed(folder: Path, start: int, end: int, told: TextIO) -> None:
    """Add one forecast and one measurement after another, folding all the time, and say of each pair that it is kept."""
    archive = Archive(folder, fold_bytes=700)
    for n in range(start, end):
        archive.add_forecast(forecast(n), NOW + n * HOUR)
        archive.add_realised([measured(n, n)], NOW + n * HOUR)
        print(n, file=told, flush=True)


def die_at_every_step(folder: Path, steps: int) -> None:
    """For each step that touches the disk: a process that kills itself just before it, in a folder of its own."""
    with (folder / "first").open("w") as told:
        write_until_killed(folder / "warm", 0, 5, told)  # so that no child has to load what it needs
    for step in range(steps):
        if not (child := os.fork()):
            left = itertools.count(step, -1)

            def doomed(act: Callable[..., Any], left: Iterator[int] = left) -> Callable[..., Any]:
                def wrapped(*args: Any, **named: Any) -> Any:
                    if next(left) == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return act(*args, **named)

                return wrapped

            for owner, name in ((os, "fsync"), (os, "write"), (Path, "replace"), (Path, "unlink"), (Path, "touch")):
                setattr(owner, name, doomed(getattr(owner, name)))
            with (folder / f"{step}.acknowledged").open("w", buffering=1) as told:
                write_until_killed(folder / str(step), 0, 5, told)
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    if sys.argv[1] == "steps":
        die_at_every_step(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        write_until_killed(Path(sys.argv[1]), int(sys.argv[2]), 9999, sys.stdout)

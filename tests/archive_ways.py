"""An archive of forecasts as it is, folded, opened again, folded by another: its tests hold for each; and small helpers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from batchsched.forecasts import Signal
from batchsched.forecasts.archive import Archive
from batchsched.forecasts.port import Generation
from tests.doomed_archive import HOUR, NOW, forecast

MARGINAL = Signal("marginal", "direct")
Later = Callable[[Archive], Archive]


def known(archive: Archive, as_of: datetime = NOW + 99 * HOUR) -> list[float]:
    """All that came true, as far as it had reached us."""
    found = archive.realised("DE", NOW - 99 * HOUR, NOW + 99 * HOUR, as_of=as_of)
    return [value.intensity_g_per_kwh for value in found]


def write_many(folder: Path, count: int) -> None:
    """Forecasts of so many hours, folded every few."""
    archive = Archive(folder, fold_bytes=2000)
    for issued in range(count):
        archive.add_forecast(forecast(issued), NOW)


def as_it_is(archive: Archive, _: Path) -> Archive:
    return archive


def folded(archive: Archive, _: Path) -> Archive:
    archive.fold()
    return archive


def reopened(_: Archive, folder: Path) -> Archive:
    return Archive(folder)


def folded_elsewhere(archive: Archive, folder: Path) -> Archive:
    archive.feeds()  # so that it has read the journal that is folded now
    Archive(folder).fold()
    return archive


@pytest.fixture(params=[as_it_is, folded, reopened, folded_elsewhere], ids=lambda way: way.__name__)
def later(request: pytest.FixtureRequest, tmp_path: Path) -> Later:
    """The same archive, looked at later: whatever became of the journal, the answers are the same."""
    return lambda archive: request.param(archive, tmp_path)


def generated(hour: float, provider: str = "grid", length: timedelta = HOUR, **mw: float) -> Generation:
    """What an hour was generated from."""
    return Generation("DE", NOW + hour * HOUR, NOW + hour * HOUR + length, provider, mw)

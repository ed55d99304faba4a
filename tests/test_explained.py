"""What is said of where a batch ran: once a place, however many chunks it had there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from batchsched.carbon.report import Intensity, Row
from batchsched.server.reports import ran_there

NOW = datetime(2026, 5, 1, 6, 0, tzinfo=UTC)
ROW = Row(
    pool="local",
    model="",
    site="home",
    zone="DE",
    started_at=NOW,
    ended_at=NOW + timedelta(minutes=20),
    busy_s=1200.0,
    requests=5,
    energy_j=100.0,
    energy_source="modelled",
    energy_how="",
    pue=1.0,
    intensity=Intensity(100.0, "realised, x", "average"),
    operational_g=None,
)


def later(hours: float, g_per_kwh: float | None, energy_j: float) -> Row:
    shift = timedelta(hours=hours)
    return msgspec.structs.replace(
        ROW,
        started_at=ROW.started_at + shift,
        ended_at=ROW.ended_at + shift,
        energy_j=energy_j,
        intensity=Intensity(g_per_kwh, "realised, x", "average"),
    )


def test_one_stretch_is_told_as_it_was() -> None:
    assert ran_there([ROW]) == (
        "It ran on pool local in DE from 01 May 06:00:00 to 06:20:00 UTC, at 100 gCO2e/kWh (realised, x)."
    )
    tuned = msgspec.structs.replace(ROW, model="tuned", intensity=Intensity(None, "nobody", "average"))
    assert ran_there([tuned]) == (
        "It ran on pool local with tuned in DE from 01 May 06:00:00 to 06:20:00 UTC, at an unknown intensity (nobody)."
    )


def test_many_are_counted_and_their_mean_is_by_energy() -> None:
    assert ran_there([ROW, later(1, 100.0, 50.0)]) == (
        "It ran on pool local in DE in 2 stretches, 10 requests, from 01 May 06:00:00 to 07:20:00 UTC, "
        "at 100 gCO2e/kWh (realised, x)."
    )
    assert ran_there([ROW, later(24, 200.0, 300.0)]) == (
        "It ran on pool local in DE in 2 stretches, 10 requests, from 01 May 06:00:00 to 02 May 06:20:00 UTC, "
        "at 100 to 200, on average 175 gCO2e/kWh (realised, x)."
    )


def test_where_not_all_joules_are_known_the_mean_is_by_time() -> None:
    assert ran_there([ROW, later(1, 300.0, 0.0)]).endswith("at 100 to 300, on average 200 gCO2e/kWh (realised, x).")

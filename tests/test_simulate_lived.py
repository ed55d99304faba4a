"""What batches came to in life, worked by hand from rows of the database, and what is told of it; on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Table, insert

from batchsched.cli.simulate_table import beside
from batchsched.clock import ManualClock
from batchsched.errors import ForecastUnavailable, InvalidValue
from batchsched.fleet import Pool, PoolWindow, ServedModel, Site, Slo
from batchsched.forecasts.climatology import Climatology
from batchsched.forecasts.port import IntensityForecast, Provider, Realised
from batchsched.forecasts.wrapped import Wrapped
from batchsched.queue import tables, windows
from batchsched.queue.database import Database
from batchsched.settings import Carbon, Loaded, Server, Settings
from batchsched.simulate import POLICIES, Grid, Outcome, backtest
from batchsched.simulate.about import LeftOut, whose
from batchsched.simulate.history import history
from batchsched.simulate.outcome import Work
from batchsched.simulate.paid import worked

START = datetime(2021, 7, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
KWH = 3.6e6
G_PER_KWH = 100.0
LATER = ManualClock(START + 2 * timedelta(days=1) + timedelta(minutes=20))


class Flat(Wrapped):
    """A grid that is the same for ever, measured hour by hour; or without a forecast."""

    def __init__(self, *, mute: bool = False) -> None:
        super().__init__(Climatology())
        self._mute = mute

    def forecast(self, zone: str, now: datetime, until: datetime) -> IntensityForecast:
        """Of typical days."""
        if self._mute:
            raise ForecastUnavailable
        return self._inner.forecast(zone, now, until)

    def realised(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Realised]:
        """The hours that had ended."""
        hours = range((min(end, now) - start) // HOUR)
        signal = self.signal_of(zone)
        return [Realised(zone, start + n * HOUR, start + (n + 1) * HOUR, G_PER_KWH, "flat", signal) for n in hours]


@pytest.fixture
def loaded(database_url: str, tmp_path: Path) -> Loaded:
    """Of a server that had a past."""
    settings = Settings(
        server=Server(data_dir=str(tmp_path), database_url=database_url),
        carbon=Carbon(home_site="home"),
        sites={"home": Site("DE", pue=1.0)},
        pools={"local": Pool(site="home", gpu="T4"), "other": Pool(site="home", gpu="T4")},
        models={"tiny": ServedModel(parameters_b=0.5)},
    )
    database = Database(database_url or tmp_path / "batchsched.db")
    for table, rows in _past():
        with database.write() as connection:
            connection.execute(insert(table), rows)
    database.close()
    return Loaded(settings, {}, None)


def _past() -> list[tuple[Table, list[dict[str, Any]]]]:
    """`whole` took 1 of the 4 kWh of pool local; `short` expired half done, on a pool that is gone; `open_` is due much later."""
    return [
        (
            tables.batches,
            [
                _batch("whole", 1, 10, "completed", completed=10, completed_at=START + 3 * HOUR),
                _batch("short", 2, 12, "expired", completed=5, expired_at=START + 12 * HOUR),
                _batch("open_", 2, 40 * 24, "completed", completed=10, completed_at=START + 4 * HOUR),
                _batch("none", 2, 12, "expired", completed=0, expired_at=START + 12 * HOUR),
                _batch("alien", 2, 12, "completed", completed=10, completed_at=START + 3 * HOUR, model="unheard-of"),
            ],
        ),
        (
            tables.ledger,
            [
                _span("whole", "local", 2, 1.0),
                _span("open_", "local", 3, 3.0),
                _span("short", "old", 4, 1.5),
                _span("short", "old", 6, 0.5),
                {**_span("short", "local", 8, 0.0), "energy_source": "unmeasured"},
            ],
        ),
        (
            tables.spending,
            [
                _spent("local", 4, "idle", 0.4),
                _spent("local", 5, "waste", 0.2, "whole"),
                _spent("local", 5, "waste", 0.2, "open_"),
                _spent("other", 5, "idle", 0.1),
                _spent("local", 5, "metered", 9.0),
                _spent("local", 30, "idle", 7.0),
                _spent("old", 5, "idle", 0.25),
            ],
        ),
        (tables.books, [{"batch_id": "short", "number": 1, "due_at": None}]),
        (tables.postings, [_posting("short", "old", 4, 1.5, 300.0)]),
    ]


def _batch(name: str, came_h: float, due_h: float, state: str, **values: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": name,
        "tenant": "default",
        "endpoint": "/v1/chat/completions",
        "input_file_id": "file",
        "completion_window": "24h",
        "state": state,
        "model": "tiny",
        "created_at": START + came_h * HOUR,
        "deadline_at": START + due_h * HOUR,
        "meta": {},
        "options": {},
        "total": 10,
        "failed": 0,
        "priority": 0,
        "round": 0,
        "cached_tokens": 0,
        "input_bytes": 1000,
        "input_tokens": 1000,
        "output_tokens": 200,
        "completed_at": None,
        "expired_at": None,
    }
    return {**row, **values}


def _span(batch: str, pool: str, at_h: float, kwh: float) -> dict[str, Any]:
    return {
        "tenant": "default",
        "endpoint": "/v1/chat/completions",
        "host_j": 0.0,
        "host_source": "unmeasured",
        "mark": "",
        "startup_s": 0.0,
        "batch_id": batch,
        "chunk_id": f"chunk_{batch}",
        "pool": pool,
        "model": "tiny",
        "started_at": START + at_h * HOUR,
        "ended_at": START + (at_h + 1) * HOUR,
        "busy_s": 3600.0,
        "energy_j": kwh * KWH,
        "energy_source": "nvml_counter",
        "requests": 5,
        "input_tokens": 500,
        "cached_tokens": 0,
        "output_tokens": 100,
    }


def _spent(pool: str, at_h: float, kind: str, kwh: float, batch: str = "") -> dict[str, Any]:
    row: dict[str, Any] = {"pool": pool, "hour": START + at_h * HOUR, "kind": kind, "batch_id": batch}
    return {**row, "energy_source": "nvml_counter", "seconds": 600.0, "energy_j": kwh * KWH}


def _posting(batch: str, pool: str, at_h: float, kwh: float, grams: float) -> dict[str, Any]:
    row: dict[str, Any] = {"batch_id": batch, "number": 1, "posted_at": START, "kind": "work", "pool": pool, "site": "gone"}
    row |= {"zone": "FR", "hour": START + at_h * HOUR, "energy_source": "nvml_counter", "energy_j": kwh * KWH, "pue": 2.0}
    row |= {"intensity_g_per_kwh": 100.0, "intensity_source": "then", "signal": "average direct", "grams": grams, "why": "ended"}
    return row


def test_what_it_was_is_what_these_batches_took(loaded: Loaded) -> None:
    past = history(loaded, START, 1, LATER, provider=Flat())
    assert [one.batch_id for one in past.scene.arrivals] == ["whole", "short"]
    assert [one.requests for one in past.scene.arrivals] == [10, 5]
    assert past.grid.end == START + 48 * HOUR  # what is measured by then, and all of it
    assert "Never measured, so assumed: tiny on other." in past.about.remarks()
    was = past.was
    # 1 kWh of work, a quarter of the idle 0.4, its own waste, all of the pool where nobody worked; and what the books say.
    assert was.grams == pytest.approx(G_PER_KWH * (1.0 + 0.1 + 0.2 + 0.1) + 300.0)
    assert was.missed == ["short"]
    assert was.unfinished == []
    assert was.batches == 2


def test_what_is_left_out_and_lacking_is_told(loaded: Loaded) -> None:
    past = history(loaded, START, 1, LATER, ["other"], Flat())
    about = past.about
    told = "\n".join([*about.remarks(), whose(past.heard.shares())])
    assert about.left_out == LeftOut(unanswered=1, too_late=1, no_pool=1)
    assert about.cut_short == 1
    assert [(one.pool, one.grams) for one in about.gone] == [("old", 300.0)]
    assert about.gone[0].kwh == pytest.approx(2.25)
    assert about.gone[0].unknown_kwh == pytest.approx(0.75)
    for text in (
        "2 of the 5 batches that came from 2021-07-01 00:00 UTC to 2021-07-02 00:00 UTC",
        "Left out: 1 due or ended after 2021-07-03 00:00 UTC",
        "1 without an answered request; 1 that no pool which is left may run.",
        "Pools: local (DE); taken away: other.",
        "1 ended before all was answered",
        "Pool old is declared no more. It took 2.25 kWh",
        "lacks 0.75 kWh whose grid is unknown",
        "lacks what 1h of work took, which nothing measured",
        "Forecasts as they were known then: climatology 100%.",
    ):
        assert text in told


@pytest.mark.slow
def test_windows_by_name_hold_in_simulated_rows_too(loaded: Loaded, database_url: str, tmp_path: Path) -> None:
    """Those of the configuration, and those that operators made by command."""
    early, made = (PoolWindow(cron="0 5 * * *", duration="6h", pool=name) for name in ("local", "other"))
    database = Database(database_url or tmp_path / "batchsched.db")
    with database.write() as connection:
        windows.add(connection, "mornings", made, START)
    database.close()
    shut = Loaded(msgspec.structs.replace(loaded.settings, windows={"early": early}), {}, None)
    assert history(shut, START, 1, LATER, ["other"], Flat()).scene.windows == {"early": early}
    past = history(shut, START, 1, LATER, provider=Flat())
    assert past.scene.windows == {"early": early, "mornings": made}
    cold = msgspec.structs.replace(past.conditions, warm_up_h=0.0)
    always, shut_at_night = (
        backtest(scene, past.grid, POLICIES["run now"], cold)[0]
        for scene in (msgspec.structs.replace(past.scene, windows={}), past.scene)
    )
    assert min(one.at_s for one in always.work if one.batch_id) < 5 * 3600.0
    assert min(one.at_s for one in shut_at_night.work if one.batch_id) >= 5 * 3600.0


def test_what_cannot_be_is_said_in_words(loaded: Loaded) -> None:
    def asked(at: datetime, *without: str, provider: Provider | None = None, clock: ManualClock = LATER) -> None:
        history(loaded, at, 1, clock, without, provider or Flat())

    with pytest.raises(InvalidValue, match="No batch came in the 1 days from 2021-08-01"):
        asked(START + timedelta(days=31))
    with pytest.raises(InvalidValue, match="No pool is left"):
        asked(START, "local", "other")
    with pytest.raises(InvalidValue, match=r"There is no pool 'nowhere'\. There are: local, other"):
        asked(START, "nowhere")
    with pytest.raises(InvalidValue, match=r"None of the 5 batches .* 5 due or ended after 2021-07-01 02:00"):
        asked(START, clock=ManualClock(START + 2 * HOUR))
    with pytest.raises(ForecastUnavailable, match="no forecast of those days was kept"):
        asked(START, provider=Flat(mute=True))
    with pytest.raises(ForecastUnavailable, match="Nothing is known of what came true in zone DE"):
        asked(START, provider=Climatology())


def test_of_work_that_was_not_done_no_saving_is_said() -> None:
    rows = {name: Outcome(name, 2) for name in ("run now", "greedy", "EDF")}
    for number, one in enumerate(rows.values(), start=1):
        one.work = [Work(0.0, "p", "b", 1.0, 0.0, 1.0, 100.0 / number)]
    rows["EDF"].unfinished.append("b")
    assert beside(rows, rows["greedy"])["saved"] == pytest.approx(0.5)
    assert beside(rows, rows["EDF"]) == {"saved": None, "captured": None}
    rows["run now"].unfinished.append("b")
    assert beside(rows, rows["greedy"])["saved"] is None


def test_on_a_spare_pool_only_what_was_added_counts() -> None:
    slo = Slo(ttft_ms=500.0, tpot_ms=50.0)
    pools = {"own": Pool(gpu="L4"), "online": Pool(gpu="L4", kind="spare", slo=slo, ceiling=8)}
    fleet = Settings(sites={"home": Site("DE", pue=2.0)}, pools=pools).fleet()
    grid = Grid(Flat(), ["DE"], START, 4)
    own, spare = (worked(_span("whole", name, 1, 0.05), fleet, grid, "whole") for name in pools)
    assert own.grams == pytest.approx(0.05 * 2.0 * G_PER_KWH)
    assert own.energy_j - spare.energy_j == pytest.approx(2.0 * 3600.0 * fleet.gpus["L4"].idle_w)


class Late(Flat):
    """Every quarter of an hour is measured, and known an hour later."""

    def realised(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Realised]:
        """What is known of it by then."""
        quarters = [start + n * HOUR / 4 for n in range(4 * ((end - start) // HOUR))]
        signal = self.signal_of(zone)
        return [
            Realised(zone, at, at + HOUR / 4, 100.0 * (at.minute // 15), "late", signal)
            for at in quarters
            if at + HOUR / 4 + HOUR <= now
        ]


def test_what_was_measured_late_and_in_quarters_of_an_hour_counts() -> None:
    with pytest.raises(ForecastUnavailable, match="was measured for 3 of the 4 hours"):
        Grid(Late(), ["DE"], START, 4)
    found = Grid(Late(), ["DE"], START, 4, known_at=START + 5 * HOUR)
    assert found.truth["DE"].tolist() == [150.0] * 4
    assert found.filled_h == 0

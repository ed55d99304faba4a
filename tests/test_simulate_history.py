"""An operator's own history as a scene: what came and what it took is read from the database, and simulated again."""

from __future__ import annotations

import csv
import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batchsched.catalogue import builtin
from batchsched.cli.main import main
from batchsched.clock import ManualClock
from batchsched.errors import DatabaseUnavailable, ForecastUnavailable, InvalidValue
from batchsched.forecasts import Provider, Realised
from batchsched.queue.copying import copy_of
from batchsched.settings import Loaded, load
from batchsched.simulate import POLICIES, Outcome, backtest
from batchsched.simulate.backtests import Backtest
from batchsched.simulate.grid import HOUR
from batchsched.simulate.history import history
from tests.live import HTTP, wait_for
from tests.processes import Stage, tagged
from tests.test_backtest import COARSE, START, ZONES, grid, scene

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Loaded, Outcome]:
    """A day of a server, which a backtest left in its data folder."""
    made = Backtest(scene(), grid(), POLICIES["greedy"], COARSE, tmp_path_factory.mktemp("data"))
    try:
        return Loaded(made.runtime.settings, {}, None), made.run()
    finally:
        made.close()


def test_what_came_comes_again(lived: tuple[Loaded, Outcome]) -> None:
    loaded, outcome = lived
    late = ManualClock(START + timedelta(days=30))
    past = history(loaded, START, 1, late, provider=grid().provider)
    drawn = {arrival.batch_id: arrival for arrival in scene().arrivals}
    assert len(past.scene.arrivals) == len(drawn)
    assert [one.deadline_s for one in past.scene.arrivals] == pytest.approx(
        [drawn[name].deadline_s for name in sorted(drawn, key=lambda name: drawn[name].at_s)], abs=1.0
    )
    assert past.was.grams == pytest.approx(outcome.grams, rel=0.02)
    assert past.was.unfinished == []
    again, _ = backtest(past.scene, past.grid, POLICIES["greedy"], COARSE)
    assert again.grams == pytest.approx(outcome.grams, rel=0.25)
    assert again.unfinished == []


def test_what_is_not_over_yet_is_left_out(lived: tuple[Loaded, Outcome]) -> None:
    """So whatever a policy puts off, it is paid for."""
    due = sorted(arrival.deadline_s for arrival in scene().arrivals)
    middle_s = due[len(due) // 2] + 3600.0
    clock = ManualClock(START + timedelta(seconds=middle_s))
    past = history(lived[0], START, 1, clock, provider=grid().provider)
    end_s = past.grid.hours * 3600.0
    assert middle_s - 3600.0 < end_s <= middle_s
    assert 0 < past.about.left_out.too_late == len(due) - past.about.simulated
    assert all(arrival.deadline_s <= end_s for arrival in past.scene.arrivals)
    put_off, records = backtest(past.scene, past.grid, POLICIES["lowest window"], COARSE)
    assert put_off.unfinished == []
    assert all((one.finished_s or math.inf) <= end_s for one in records.completions)


def test_a_pool_may_be_taken_away(lived: tuple[Loaded, Outcome]) -> None:
    loaded, _ = lived
    late, gone = ManualClock(START + timedelta(days=30)), next(iter(scene().fleet.pools))
    past = history(loaded, START, 1, late, [gone], grid().provider)
    assert gone not in past.scene.fleet.pools
    assert past.scene.arrivals
    assert all(gone not in arrival.pools for arrival in past.scene.arrivals)
    with pytest.raises(InvalidValue, match="no pool 'nowhere'"):
        history(loaded, START, 1, late, ["nowhere"], grid().provider)


class Unmeasured:
    """A provider that does not know what came true in one zone."""

    def __init__(self, provider: Provider, zone: str) -> None:
        self._provider, self._zone = provider, zone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)

    def realised(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Realised]:
        return [] if zone == self._zone else self._provider.realised(zone, start, end, now)


def test_a_grid_on_which_no_pool_is_left_need_not_be_measured(lived: tuple[Loaded, Outcome]) -> None:
    late, fleet = ManualClock(START + timedelta(days=30)), scene().fleet
    there = [name for name in fleet.pools if fleet.zone_of(name) == "DE"]
    provider: Any = Unmeasured(grid().provider, "DE")
    with pytest.raises(ForecastUnavailable, match="in zone DE"):
        history(lived[0], START, 1, late, there[:1], provider)
    past = history(lived[0], START, 1, late, there, provider)
    assert past.grid.zones == ("CISO",)
    assert {one.pool for one in past.about.gone} <= set(there), "what they emitted is known by their books alone"
    assert past.scene.arrivals


def test_an_operators_own_hardware_and_network_are_simulated(lived: tuple[Loaded, Outcome], tmp_path: Path) -> None:
    loaded, (mine, declared) = lived[0], next(iter(scene().fleet.pools.items()))
    ours = builtin()
    own = msgspec.structs.replace(ours, gpus={**ours.gpus, "Own": msgspec.structs.replace(ours.gpus[declared.gpu], name="Own")})
    settings = msgspec.structs.replace(
        loaded.settings,
        pools={**loaded.settings.pools, mine: msgspec.structs.replace(declared, gpu="Own")},
        carbon=msgspec.structs.replace(loaded.settings.carbon, network_kwh_per_gb=7.0),
    )
    asked = msgspec.structs.replace(loaded, settings=settings, own=own)
    past = history(asked, START, 1, ManualClock(START + timedelta(days=30)), provider=grid().provider)
    made = Backtest(past.scene, past.grid, POLICIES["greedy"], COARSE, tmp_path)
    try:
        assert made.runtime.settings.carbon.network_kwh_per_gb == 7.0
        assert made.runtime.fleet.newness(mine) == scene().fleet.newness(mine) > (0.0, 0.0)
    finally:
        made.close()


def test_the_command_reads_the_configured_server(
    lived: tuple[Loaded, Outcome], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = lived[0].settings
    text = [f"[server]\ndata_dir = '{settings.server.data_dir}'\n[forecast]\nsource = 'file'\npath = 'grid.csv'\n"]
    for section in ("sites", "pools", "models"):
        for name, declared in getattr(settings, section).items():
            plain = msgspec.to_builtins(declared)
            wanted = {key: plain[key] for key in ("zone", "site", "gpu", "count", "parameters_b") if plain.get(key) is not None}
            text.append(f"[{section}.{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in wanted.items()))
    config = tmp_path / "batchsched.toml"
    config.write_text("".join(text))
    _write_grid(tmp_path / "grid.csv", START)
    arguments = ["simulate", "--from-archive", "--config", str(config), "--start", f"{START:%Y-%m-%d}", "--days", "1"]
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--policy", "greedy", "--json", "--out", str(tmp_path / "out")])
    assert left.value.code == 0
    said = json.loads(capsys.readouterr().out)
    assert [(one["policy"], one["simulated"]) for one in said["policies"]] == [
        ("as it was", False), ("run now", True), ("greedy", True)
    ]  # fmt: skip
    assert said["came"] == said["simulated"] == len(scene().arrivals)
    assert said["start"] == f"{START:%Y-%m-%dT%H:%M:%SZ}"
    assert said["remarks"][-1].startswith("Forecasts as they were known then: ")
    assert said["policies"][0]["grams"] == pytest.approx(lived[1].grams, rel=0.1)
    assert (tmp_path / "out" / "greedy" / "decisions.parquet").is_file()
    for wrong, code, complaint in (
        (["--days", "0"], 2, "0 is not in the range"),
        (["--without", "nowhere"], 2, "There is no pool 'nowhere'"),
        (["--zones", "DE"], 2, "--zones is for drawn batches"),
        (["--start", "2021-09-01"], 2, "No batch came in the 1 days from 2021-09-01"),
    ):
        with pytest.raises(SystemExit) as left:
            main([*arguments, *wrong])
        assert left.value.code == code
        assert complaint in capsys.readouterr().err
    for wrong_config, code, complaint in (
        (config.read_text().replace(settings.server.data_dir, "/nothing"), 75, "Is it the data folder of a batchsched server?"),
        (f"[server]\ndata_dir = '{settings.server.data_dir}'\n", 2, "The configuration declares no pool."),
    ):
        config.write_text(wrong_config)
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == code
        assert complaint in capsys.readouterr().err


def test_a_day_of_real_processes_comes_again(tmp_path: Path) -> None:
    """A real server, a real worker and the counting engine; asked three hours later what it was and what it could have been."""
    began = datetime.now(UTC)
    with Stage(tmp_path) as stage:
        grid_file = tmp_path / "grid.csv"
        _write_grid(grid_file, began.replace(hour=0, minute=0, second=0, microsecond=0))
        text = stage.config.read_text().replace("zone = 'WORLD'", "zone = 'DE'")
        stage.config.write_text(f"{text}[forecast]\nsource = 'file'\npath = '{grid_file}'\n")
        stage.server()
        stage.engine()
        stage.worker()
        ids = [_submitted(stage, f"day{n}") for n in range(3)]
        wait_for(lambda: all(_status(stage, one) == "completed" for one in ids))
        later = ManualClock(datetime.now(UTC) + 3 * HOUR)
        past = history(load(stage.config, env={}), began, 2, later)  # while the server runs
        assert sorted(arrival.batch_id for arrival in past.scene.arrivals) == sorted(ids)
        assert [arrival.requests for arrival in past.scene.arrivals] == [20, 20, 20]
        assert past.was.batches == 3
        assert past.was.missed == past.was.unfinished == []
        assert past.was.grams > 0
        assert past.about.attached
        now, records = backtest(past.scene, past.grid, POLICIES["run now"], past.conditions)
    assert now.unfinished == []
    assert {one.batch for one in records.completions} == set(ids)
    # Seconds of work on a machine that others use too: what an engine took of them differs by a factor, not by a power of ten.
    assert past.was.grams / 4 < now.grams < past.was.grams * 4


def _submitted(stage: Stage, prefix: str) -> str:
    files: Any = {"file": ("input.jsonl", tagged(20, prefix))}
    uploaded = HTTP.post(f"{stage.url}/v1/files", files=files, data={"purpose": "batch"}).raise_for_status().json()
    asked = {"input_file_id": uploaded["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    answer = HTTP.post(f"{stage.url}/v1/batches", json={**asked, "batchsched": {"deadline": "2m"}}).raise_for_status().json()
    return str(answer["id"])


def _status(stage: Stage, batch_id: str) -> str:
    return str(HTTP.get(f"{stage.url}/v1/batches/{batch_id}").json()["status"])


def _write_grid(path: Path, start: datetime) -> None:
    """The drawn weather as a file that begins then."""
    with path.open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["zone", "start", "end", "issued_at", "mean", "realised"])
        for zone in ZONES:
            for n, value in enumerate(grid().truth[zone].tolist()):
                at = start + n * HOUR
                table.writerow([zone, at.isoformat(), (at + HOUR).isoformat(), (start - HOUR).isoformat(), value, value])


def test_what_is_no_database_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="cannot be read"):
        copy_of(tmp_path / "nothing.db", tmp_path / "copy.db")

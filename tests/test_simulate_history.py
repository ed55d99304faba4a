"""An operator's own history as a scene: what came and what it took is read from the database, and simulated again."""

from __future__ import annotations

import csv
import json
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from batchsched.cli.main import main
from batchsched.clock import ManualClock
from batchsched.errors import DatabaseUnavailable, InvalidValue
from batchsched.queue.copying import copy_of
from batchsched.settings import Loaded
from batchsched.simulate import POLICIES, Outcome, backtest
from batchsched.simulate.backtests import Backtest
from batchsched.simulate.grid import HOUR
from batchsched.simulate.history import history
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
    with history(loaded, START, 1, late, provider=grid().provider) as past:
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


def test_a_pool_may_be_taken_away(lived: tuple[Loaded, Outcome]) -> None:
    loaded, _ = lived
    late, gone = ManualClock(START + timedelta(days=30)), next(iter(scene().fleet.pools))
    with history(loaded, START, 1, late, [gone], grid().provider) as past:
        assert gone not in past.scene.fleet.pools
        assert past.scene.arrivals
        assert all(gone not in arrival.pools for arrival in past.scene.arrivals)
    with pytest.raises(InvalidValue, match="no pool 'nowhere'"), history(loaded, START, 1, late, ["nowhere"], grid().provider):
        pass
    with (
        pytest.raises(InvalidValue, match="No batch"),
        history(loaded, START + timedelta(days=20), 1, late, provider=grid().provider),
    ):
        pass


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
    _write_grid(tmp_path / "grid.csv")
    arguments = ["simulate", "--from-archive", "--config", str(config), "--start", f"{START:%Y-%m-%d}", "--days", "1"]
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--policy", "greedy", "--json", "--out", str(tmp_path / "out")])
    assert left.value.code == 0
    said = json.loads(capsys.readouterr().out)
    assert [one["policy"] for one in said["policies"]] == ["as it was", "run now", "greedy"]
    assert said["policies"][0]["grams"] == pytest.approx(lived[1].grams, rel=0.1)
    assert (tmp_path / "out" / "greedy" / "decisions.parquet").is_file()


def _write_grid(path: Path) -> None:
    """The drawn weather as a file."""
    with path.open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["zone", "start", "end", "issued_at", "mean", "realised"])
        for zone in ZONES:
            for n, value in enumerate(grid().truth[zone].tolist()):
                at = START + n * HOUR
                table.writerow([zone, at.isoformat(), (at + HOUR).isoformat(), (START - HOUR).isoformat(), value, value])


def test_what_is_no_database_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="cannot be read"):
        copy_of(tmp_path / "nothing.db", tmp_path / "copy.db")

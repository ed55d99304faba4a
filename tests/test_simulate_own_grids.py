"""Drawn batches on an operator's own grids: of one file, and of what the configured server's archive kept."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from batchsched.cli.main import main
from batchsched.forecasts.archive import Archive
from batchsched.forecasts.layouts import read_file
from batchsched.simulate.drawn import Drawn
from batchsched.simulate.grid import HOUR

ZONES = ("CISO", "DE")
T = TypeVar("T", bound=msgspec.Struct)
START, BEFORE, AFTER = datetime(2026, 3, 2, tzinfo=UTC), timedelta(days=2), timedelta(days=6)
SERVER = """
[forecast]
own = false
archive_dir = 'kept'
[forecast.sources.mine]
kind = "file"
path = "grid.csv"
[sites.coast]
zone = "CISO"
[sites.river]
zone = "DE"
[pools.a]
site = "coast"
gpu = "H100"
count = 1
[pools.b]
site = "river"
gpu = "T4"
count = 2
"""
ASKED = ["simulate", "--quick", "--days", "1", "--load", "0.1", "--policy", "greedy", "--json", "--start", f"{START:%Y-%m-%d}"]


@cache
def weather() -> Drawn:
    """Its zones have truths and forecasts of their own."""
    return Drawn(START - BEFORE, (BEFORE + AFTER) // HOUR, 5)


def grid_file(path: Path, *, measured_only: bool = False) -> Path:
    """As an operator may have it: what was measured, and an issue a day."""
    with path.open("w", newline="") as handle:
        handle.write("# provider: my grid\n")
        table = csv.writer(handle)
        table.writerow(["zone", "start", "end", "issued_at", "mean", "realised"])
        end = START + AFTER
        for zone in ZONES:
            for one in weather().realised(zone, START - BEFORE, end, end):
                table.writerow([zone, one.start.isoformat(), one.end.isoformat(), "", "", one.intensity_g_per_kwh])
            for day in range(0 if measured_only else (BEFORE + AFTER).days):
                at = START - BEFORE + timedelta(days=day)
                for slot in weather().forecast(zone, at, min(at + 48 * HOUR, end)).slots:
                    table.writerow([zone, slot.start.isoformat(), slot.end.isoformat(), at.isoformat(), slot.mean_g_per_kwh, ""])
    return path


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """What the command says as JSON."""
    monkeypatch.delenv("BATCHSCHED_DATA", raising=False)

    def run(*more: str) -> dict[str, Any]:
        with pytest.raises(SystemExit) as left:
            main([*ASKED, *more])
        printed = capsys.readouterr()
        assert left.value.code == 0, printed.err
        found: dict[str, Any] = json.loads(printed.out)
        return found

    return run


def grams(found: dict[str, Any]) -> dict[str, float]:
    return {one["policy"]: one["grams"] for one in found["policies"]}


def test_a_file_of_ones_own(tmp_path: Path, said: Callable[..., dict[str, Any]]) -> None:
    zones = ["--zones", "CISO,DE", "--data"]
    found = said(*zones, str(grid_file(tmp_path / "grid.csv")))
    assert (found["drawn"], found["truth"], found["zones"]) == (False, "my grid", ["CISO", "DE"])
    assert grams(found)["greedy"] < grams(found)["run now"]
    blind = said(*zones, str(grid_file(tmp_path / "measured.csv", measured_only=True)))
    assert grams(blind)["run now"] == pytest.approx(grams(found)["run now"]), "the same truth"
    assert grams(blind)["greedy"] != grams(found)["greedy"], "by its own history, where nobody forecast anything"


def test_what_the_configured_server_kept(tmp_path: Path, said: Callable[..., dict[str, Any]]) -> None:
    path, config = grid_file(tmp_path / "grid.csv"), tmp_path / "batchsched.toml"
    config.write_text(SERVER.replace("'kept'", f"'{tmp_path}/kept'"))
    kept, content = Archive(tmp_path / "kept"), read_file(path)
    for issue in content.issues():
        kept.add_forecast(mine(issue), issue.issued_at)
    for zone in ZONES:
        measured = weather().realised(zone, START - BEFORE, START + AFTER, START + AFTER)
        kept.add_realised([mine(one) for one in measured], START + 2 * AFTER)  # it came late, and counts
    found = said("--own-grids", "--config", str(config))
    assert (found["drawn"], found["zones"]) == (False, ["CISO", "DE"]), "those of the configured sites"
    assert "mine" in found["forecasts"]
    assert grams(found)["greedy"] < grams(found)["run now"]
    assert said("--own-grids", "--config", str(config), "--zones", "DE")["zones"] == ["DE"]


def mine(one: T) -> T:
    """As from the configured source."""
    return msgspec.structs.replace(one, provider="mine")


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--zones", "CISO,FR", "--data", "grid.csv"], "has no zone 'FR'"),
        (["--zones", "DE", "--start", "2026-03-06", "--data", "grid.csv"], "was measured for"),
        (["--own-grids", "--data", "grid.csv"], "leave --data out"),
        (["--own-grids", "--from-archive"], "--own-grids is for drawn batches"),
    ],
)
def test_what_cannot_be_is_said(
    more: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    grid_file(tmp_path / "grid.csv")
    monkeypatch.chdir(tmp_path)
    asked = ASKED if "--from-archive" not in more else [one for one in ASKED if one not in ("--quick", "--load", "0.1")]
    with pytest.raises(SystemExit) as left:
        main([*asked, *more])
    assert left.value.code != 0
    assert complaint in capsys.readouterr().err

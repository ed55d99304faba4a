"""What is not known yet is told as that, never as zero, wherever people read of a batch; and idle pools stand by themselves."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from sqlalchemy import insert

from batchsched.cli.common import so_far
from batchsched.cli.main import cli
from batchsched.cli.progress import describe
from batchsched.cli.report import show_report
from batchsched.client import results
from batchsched.client.showing import report_html
from batchsched.queue import tables
from tests.live import LiveServer, live_server, requests

CONFIG = """
[sites.home]
zone = "DE"
[sites.dark]
zone = "NOWHERE"
[pools.local]
gpu = "T4"
[pools.far]
site = "dark"
gpu = "T4"
[models.tiny]
[planner]
solver = "greedy"
"""


@pytest.mark.parametrize(
    ("grams", "unknown_j", "unmeasured_s", "said"),
    [
        (1.5, 0, 0, "1.5 g CO2e"),
        (1.5, 3.6e6, 0, "1.5 g CO2e, without 1 kWh whose grid is not yet known"),
        (None, 3.6e6, 60, "unknown: 1 kWh whose grid is not yet known and 1m of work that nothing measured"),
        (None, 0, 0, "unknown"),
        (2.0, 0, 60, "2 g CO2e, without 1m of work that nothing measured"),
    ],
)
def test_grams_so_far(grams: float | None, unknown_j: float, unmeasured_s: float, said: str) -> None:
    assert so_far(grams, unknown_j, unmeasured_s) == said


def worked(server: LiveServer, *rows: dict[str, Any]) -> str:
    """A batch with these rows in the ledger."""
    batch_id = str(server.submit(requests(1))["id"])
    began = datetime.now(UTC) - timedelta(hours=2)
    usual = {
        "tenant": "default", "batch_id": batch_id, "model": "tiny", "started_at": began, "ended_at": began + timedelta(hours=1),
        "busy_s": 3600.0, "energy_j": 3.6e6, "energy_source": "nvml_counter", "startup_s": 0.0, "requests": 1, "input_tokens": 1,
        "cached_tokens": 0, "output_tokens": 1,
    }  # fmt: skip
    with server.runtime.database.write() as connection:
        connection.execute(insert(tables.ledger), [{**usual, "chunk_id": f"c{n}", **row} for n, row in enumerate(rows)])
    return batch_id


def test_late_joules_in_every_table_and_file(tmp_path: Path) -> None:
    with live_server(tmp_path, CONFIG) as server:

        def said(*args: str) -> str:
            done = CliRunner().invoke(cli, [*args, "--server", server.url], catch_exceptions=False)
            assert done.exit_code == 0, done.output
            return done.stdout

        partly = worked(server, {"pool": "local"}, {"pool": "far"})
        carbon = server.batch(partly)["batchsched"]["carbon"]
        assert (carbon["unknown_energy_j"], carbon["unmeasured_s"]) == (3.6e6, 0)
        assert carbon["grams"] > 0
        report = said("report", partly)
        assert "without 1 kWh whose grid is not yet known" in report
        assert [line.split("\t")[-2:] for line in report.splitlines() if line.startswith("far\t")] == [["unknown", "unknown"]]
        assert "without 1 kWh whose grid is not yet known" in said("show", partly)
        assert "at least" in said("explain", partly)
        (whole,) = [line for line in said("report", "--by", "batch").splitlines() if line.startswith(partly)][:1]
        assert " g +" in whole
        path = tmp_path / "pools.json"
        said("report", partly, "--by", "pool", "--export", str(path))
        far, local = sorted(json.loads(path.read_text()), key=lambda row: str(row["name"]))
        assert (far["operational_g"], far["unknown_energy_j"]) == (None, 3.6e6)
        assert local["operational_g"] > 0
        alone = said("report", worked(server, {"pool": "far"}))
        assert "unknown: 1 kWh whose grid is not yet known" in alone


def test_work_that_nothing_measured_is_no_zero_joules(tmp_path: Path) -> None:
    with live_server(tmp_path, CONFIG) as server:
        batch_id = worked(server, {"pool": "local", "energy_j": 0.0, "energy_source": "unmeasured"})
        for args in (("report", batch_id), ("report", batch_id, "--by", "pool")):
            done = CliRunner().invoke(cli, [*args, "--server", server.url], catch_exceptions=False)
            (line,) = [line for line in done.stdout.splitlines() if line.startswith("local\t")][:1]
            assert "0 J" not in line
            assert "unknown" in line


def test_progress_says_at_least() -> None:
    batch = results.Batch("b", "/v1/chat/completions", "f", "24h", "completed", 0)
    carbon = results.Carbon(grams=2.0, unknown_energy_j=5.0)
    batch = msgspec.structs.replace(batch, batchsched=results.Scheduling(carbon=carbon))
    assert "at least 2 g CO2e" in describe(batch)


def test_idle_pools_stand_by_themselves_and_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    beside = (
        results.Beside("storage", 1.0, 0.1, results.Band(1, 2, 3), "files"),
        results.Beside("idle", 7.2e6, None, results.Band(1, 2, 3), "by busy time"),
    )
    show_report(results.Report(operational_g=1.0, beside=beside))
    table, _, idle = capsys.readouterr().out.partition("Idle pools, ")
    assert "storage" in table
    assert "idle" not in table
    assert idle.startswith("in none of the figures above: 2 kWh, unknown CO2e, embodied 1 g / 2 g / 3 g.")
    assert "ran alone bears the whole day's" in idle


def test_sources_of_what_was_kept_stand_once(capsys: pytest.CaptureFixture[str]) -> None:
    kept = [results.Beside("storage", 1.0, 1.0, how=how, source="1.2 W a TB") for how in ("input file", "output file")]
    show_report(results.Report(operational_g=1.0, beside=tuple(kept)))
    assert capsys.readouterr().out.count("1.2 W a TB") == 1


def test_a_saving_that_is_rounding_alone_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    """A batch that ran at once: the difference of two equal sums."""
    report = results.Report(operational_g=0.3, saved_g=-5.6e-17, saved_fraction=-1.8e-16, saving=results.Saving())
    show_report(report)
    printed = capsys.readouterr().out
    assert "0 g (0%)" in printed
    assert not [line for line in printed.splitlines() if line.strip() == "by"]
    assert "(0%)" in report_html(report)

"""Two runs beside each other, from the tables that they wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from batchsched.cli.main import main
from batchsched.errors import InvalidValue
from batchsched.simulate import Outcome
from batchsched.simulate.comparing import compared
from batchsched.simulate.outcome import Work
from batchsched.simulate.records import Completion, Decision, Leased, Records

START = "2021-07-01T00:00:00Z"
ABOUT = {"policy": "greedy", "start": START, "days": 1, "risk": 0.0, "grams": 30.0}


def written(folder: Path, *, moved: bool = False, start: str = START) -> Path:
    """A run of two batches; `moved`: the second one goes to the other pool, four hours later, after a plan more."""
    pool, at_s = ("q", 18000.0) if moved else ("p", 3600.0)
    records = Records()
    records.decisions = [Decision(1, 0.0, "one", "p", 0.0, 3600.0, 5.0, 900.0)]
    records.decisions += [Decision(3 if moved else 2, 3600.0, "two", pool, at_s, at_s + 3600.0, 5.0, 900.0)]
    records.leases = [Leased(0.0, "leased", "one", "c1", 1, "p/0", 0.0), Leased(at_s, "leased", "two", "c2", 1, f"{pool}/0", 0.0)]
    records.completions = [
        Completion("one", "tiny", 5, 0.0, 9000.0, 900.0, True, 0.99, None, 10.0),
        Completion("two", "tiny", 5, 60.0, 90000.0, at_s + 900.0, True, 0.99, 7.0, 12.0 if moved else 20.0),
    ]
    work = [Work(0.0, "p", "one", 900.0, 0.0, 3.6e6, 10.0), Work(at_s, pool, "two", 900.0, 0.0, 3.6e6, 12.0 if moved else 20.0)]
    records.write(folder, work, {**ABOUT, "start": start})
    return folder


def test_a_run_is_like_itself(tmp_path: Path) -> None:
    found = compared(written(tmp_path / "a"), written(tmp_path / "b"))
    assert found.same
    assert found.batches == []
    assert [(one.table, one.lines, one.in_both, one.first_s) for one in found.tables] == [
        (name, (2, 2), 2, None) for name in ("decisions", "leases", "completions", "work")
    ]


def test_what_is_otherwise_is_found(tmp_path: Path) -> None:
    found = compared(written(tmp_path / "a"), written(tmp_path / "b", moved=True))
    assert not found.same
    decisions, leases, completions, work = found.tables
    assert (decisions.lines, decisions.in_both, decisions.first_s) == ((2, 2), 1, 3600.0)
    assert [line and line["pool"] for line in decisions.first] == ["p", "q"]
    assert (leases.in_both, leases.first_s) == (1, 3600.0)
    assert (completions.in_both, work.in_both) == (1, 1)
    [two] = found.batches
    assert (two.batch, two.grams, two.finished_s) == ("two", (20.0, 12.0), (4500.0, 18900.0))
    assert [(one.pool, one.kwh, one.grams) for one in found.pools] == [
        ("p", (2.0, 1.0), (30.0, 10.0)),
        ("q", (0.0, 1.0), (0.0, 12.0)),
    ]


def test_an_empty_run_has_its_tables_too(tmp_path: Path) -> None:
    Records().write(tmp_path / "a", Outcome("nothing").work, ABOUT)
    found = compared(tmp_path / "a", written(tmp_path / "b"))
    assert [one.lines for one in found.tables] == [(0, 2)] * 4
    assert [one.grams for one in found.batches] == [(None, 20.0), (None, 10.0)]


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "out" / "greedy")
    written(tmp_path / "late", start="2021-07-02T00:00:00Z")
    with pytest.raises(InvalidValue, match=r"no folder of one policy's run") as refused:
        compared(tmp_path / "out", tmp_path / "late")
    assert refused.value.hint == "Name one of those in it: greedy."
    with pytest.raises(InvalidValue, match="begin at different times"):
        compared(tmp_path / "out" / "greedy", tmp_path / "late")
    (tmp_path / "late" / "work.parquet").unlink()
    with pytest.raises(InvalidValue, match=r"work\.parquet is missing"):
        compared(tmp_path / "late", tmp_path / "late")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(written(tmp_path / "a")), str(written(tmp_path / "b", moved=True))]
    with pytest.raises(SystemExit) as left:
        main(["simulate", "compare", *folders])
    assert left.value.code == 0
    said = capsys.readouterr()
    assert "A: greedy, risk 0, 1 days from 2021-07-01T00:00:00Z on: 30 g CO2e" in said.err
    assert "decisions\t2\t2\t1\t1h" in said.out
    assert "two\t20 g\t12 g\t1h 15m\t5h 15m" in said.out
    with pytest.raises(SystemExit):
        main(["simulate", "compare", *folders, "--json"])
    assert json.loads(capsys.readouterr().out)["batches"][0]["batch"] == "two"

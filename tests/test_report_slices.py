"""Slices of what work cost: they add up, each with its SCI score; requests, meters, and files for other programs."""

from __future__ import annotations

import csv
import json
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from batchsched import Client
from batchsched.carbon.hardware import Range
from batchsched.carbon.ledger import account
from batchsched.carbon.slices import Answered, sci, shared, sliced
from batchsched.cli.common import energy
from batchsched.cli.main import cli
from batchsched.cli.report_tables import Table
from batchsched.client import results
from batchsched.errors import Conflict, InvalidValue, NotFound
from batchsched.server.breakdown import answered
from tests.live import LiveServer, live_server, requests, wait_for
from tests.test_carbon_ledger import KWH, entry, truth


def test_sci_is_operational_and_embodied_over_the_unit() -> None:
    report = account([entry(), entry(1)], truth, None)
    score = sci(report)
    assert score
    assert report.operational_g is not None
    assert report.embodied_g
    assert score.g_per_request == (report.embodied_g + Range(720, 720, 720)).scaled(1 / 20)
    assert score.g_per_1000_tokens == (report.embodied_g + Range(720, 720, 720)).scaled(1000 / 2400)
    assert sliced("x", report).sci == score


def test_a_request_that_was_answered_twice_is_one_request() -> None:
    report = account([entry(), entry(1)], truth, None)  # ten answers each
    once, part, none = (sci(report, answered) for answered in (15, 25, 0))
    assert report.operational_g is not None
    assert report.embodied_g
    whole = report.embodied_g + Range(report.operational_g, report.operational_g, report.operational_g)
    assert once
    assert part
    assert none
    assert once.g_per_request == whole.scaled(1 / 15)
    assert part.g_per_request == whole.scaled(1 / 20)
    assert none.g_per_request is None
    assert once.g_per_1000_tokens == part.g_per_1000_tokens


@pytest.mark.parametrize("part", [{"zone": "DARK"}, {"energy_source": "unmeasured", "energy_j": 0.0}, {"gpu": "H200"}])
def test_there_is_no_score_where_something_is_unknown(part: dict[str, Any]) -> None:
    assert sci(account([entry(), entry(**part)], truth, None)) is None


def test_embeddings_have_a_score_by_request_alone() -> None:
    score = sci(account([entry(requests=0, input_tokens=0, output_tokens=0)], truth, None))
    assert score
    assert (score.g_per_request, score.g_per_1000_tokens) == (None, None)


TOKENS = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 6000), st.integers(0, 5000)), min_size=1, max_size=20)


@given(TOKENS, st.floats(1, 1e9))
def test_the_shares_of_requests_add_up_to_their_chunk(tokens: list[tuple[int, int, int]], energy_j: float) -> None:
    report = account([entry(energy_j=energy_j)], truth, None)
    shares = shared(sliced("c1", report), [Answered(f"r{n}", *each) for n, each in enumerate(tokens)])
    assert [share.custom_id for share in shares] == [f"r{n}" for n in range(len(tokens))]
    assert sum(share.energy_j for share in shares) == pytest.approx(report.energy_j)
    assert sum(share.operational_g or 0.0 for share in shares) == pytest.approx(report.operational_g)


def test_computed_tokens_weigh_and_cached_ones_do_not() -> None:
    report = account([entry(energy_j=KWH)], truth, None)
    cheap, dear = shared(sliced("c1", report), [Answered("a", 100, 100, 10), Answered("b", 20, 0, 10)])
    assert (cheap.energy_j, dear.energy_j) == (KWH / 4, KWH * 3 / 4)
    dark = shared(sliced("c1", account([entry(zone="DARK")], truth, None)), [Answered("a", 1, 0, 1)])
    assert dark[0].operational_g is None


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}, (7, 4, 3)),
        ({"input_tokens": 7, "output_tokens": 3, "input_tokens_details": {"cached_tokens": None}}, (7, 0, 3)),
        ({"prompt_tokens": 7, "total_tokens": 7, "prompt_tokens_details": None}, (7, 0, 0)),
        (None, (0, 0, 0)),
    ],
)
def test_tokens_of_an_answer_of_any_endpoint(usage: dict[str, Any] | None, tokens: tuple[int, int, int]) -> None:
    line = {"custom_id": "x", "response": {"status_code": 200, "body": {"usage": usage} if usage else {}}, "error": None}
    assert answered(json.dumps(line).encode()) == Answered("x", *tokens)
    assert answered(b'{"custom_id":"x","response":null,"error":{"code":"c"}}') == Answered("x", 0, 0, 0)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[LiveServer, str]]:
    """A server with one batch of three chunks that has ended, a line of it with an error."""
    with live_server(tmp_path_factory.mktemp("slices"), server__chunk_lines=2) as server:
        batch_id = server.submit(requests(6))["id"]
        worker = server.worker()
        for number in range(3):
            lease = worker.lease()
            worker.record(lease, [lease["first_line"]], ok=number != 1)
            worker.record(lease, [lease["first_line"] + 1])
        server.until(batch_id, "completed")
        yield server, batch_id


def test_slices_of_a_real_batch_add_up(done: tuple[LiveServer, str]) -> None:
    server, batch_id = done
    with Client(server.url) as client:
        report = client.batches.report(batch_id)
        assert report.energy_j
        for by, count in (("batch", 1), ("tenant", 1), ("pool", 1), ("site", 1), ("chunk", 3)):
            for slices in (client.slices(by, batch_id=batch_id), client.slices(by)):  # type: ignore[arg-type]
                assert len(slices) == count
                assert sum(each.energy_j for each in slices) == pytest.approx(report.energy_j)
                assert sum(each.requests for each in slices) == 6
        shares = list(client.batches.request_shares(batch_id))
        assert sorted(share.custom_id for share in shares) == [f"r{n}" for n in range(6)]
        assert sum(share.energy_j for share in shares) == pytest.approx(report.energy_j)
        of_chunk = {share.custom_id: share.chunk_id for share in shares}
        assert of_chunk["r2"] == of_chunk["r3"] != of_chunk["r4"]
        assert client.slices(start=datetime(2030, 1, 1, tzinfo=UTC)) == ()
        with pytest.raises(NotFound):
            client.slices(batch_id="batch_none")
        with pytest.raises(InvalidValue, match="after"):
            client.slices(start=datetime(2030, 1, 1, tzinfo=UTC), end=datetime(2029, 1, 1, tzinfo=UTC))
        running = server.submit(requests(2))["id"]
        with pytest.raises(Conflict, match="when it has ended"):
            list(client.batches.request_shares(running))
        server.post(f"/v1/batches/{running}/cancel")


def test_meters_say_where_all_energy_went(done: tuple[LiveServer, str]) -> None:
    server, batch_id = done
    worker = server.worker()
    charged_j = server.get(f"/v1/batchsched/batches/{batch_id}/report")["energy_j"]

    def part(kind: str, energy_j: float) -> dict[str, Any]:
        where = {"batch_id": batch_id if kind == "waste" else "", "started_at": "2026-01-01T00:10:00Z"}
        return {"kind": kind, **where, "seconds": 1.0, "energy_j": energy_j, "energy_source": "modelled"}

    spent = {"number": 1, "parts": [part("metered", charged_j + 60), part("idle", 40.0), part("waste", 15.0)]}
    server.post(f"/v1/batchsched/workers/{worker.worker_id}/bye", {"spent": [spent]})
    with Client(server.url) as client:
        (pool,) = client.meters()
        assert (pool.metered_j, pool.modelled_j, pool.charged_j) == pytest.approx((0, charged_j + 60, charged_j))
        assert "CPU time used" in pool.power_model
        assert (pool.idle_j, pool.waste_j, pool.others_j, pool.unaccounted_j) == pytest.approx((40, 15, 0, 5))
        assert pool.idle_g
        assert pool.waste_g == pytest.approx(pool.idle_g * 15 / 40)
        assert client.meters(start=datetime(2026, 1, 2, tzinfo=UTC)) == ()


def test_tables_go_into_files(done: tuple[LiveServer, str], tmp_path: Path) -> None:
    server, batch_id = done

    def run(*args: str) -> str:
        ran = CliRunner().invoke(cli, ["report", *args, "--server", server.url], catch_exceptions=False)
        assert ran.exit_code == 0, ran.output
        return ran.output

    wait_for(lambda: server.get(f"/v1/batchsched/batches/{batch_id}/books")["entries"])
    for args in (["--by", "chunk"], ["--by", "request"], ["--books"], []):
        for suffix in (".csv", ".json", ".parquet"):
            path = tmp_path / f"table{suffix}"
            run(batch_id, *args, "--export", str(path))
            rows: Any
            match suffix:
                case ".csv":
                    rows = list(csv.DictReader(path.read_text().splitlines()))
                case ".json":
                    rows = json.loads(path.read_text())
                case _:
                    rows = pd.read_parquet(path).to_dict("records")
            energy_j = server.get(f"/v1/batchsched/batches/{batch_id}/report")["energy_j"]
            assert sum(float(row["energy_j"]) for row in rows) == pytest.approx(energy_j)
    assert "r5" in run(batch_id, "--by", "request")
    assert "SCI a request" in run("--by", "pool", "--from", "2020-01-01")
    assert "unaccounted" in run("--meters")
    assert "No meter" in run("--meters", "--from", "2030-01-01")


@pytest.mark.parametrize(
    ("joules", "said"), [(-1.0, "-1 J"), (7200.0, "2 Wh"), (-7.2e6, "-2 kWh"), (None, "unknown"), (0.0, "0 J")]
)
def test_energy_for_people(joules: float | None, said: str) -> None:
    assert energy(joules) == said


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--by", "request"], "needs a batch ID"),
        (["--books"], "needs a batch ID"),
        (["--books", "--meters"], "exclude each other"),
        (["batch_1", "--meters"], "leave the ID out"),
        (["batch_1", "--books", "--plot", "x.svg"], "draws the report"),
        (["--export", "x.txt"], ".parquet"),
        (["batch_1", "--from", "2026-01-01"], "leave the ID out"),
        (["--export", "no/such/table.csv"], "no folder no/such"),
        (["batch_1", "--plot", "no/such/plot.svg"], "no folder no/such"),
    ],
)
def test_wrong_options_are_named(args: list[str], said: str) -> None:
    ran = CliRunner().invoke(cli, ["report", *args, "--server", "http://127.0.0.1:9"])
    assert ran.exit_code == 2
    assert said in ran.output


def test_what_is_unknown_leaves_its_columns_empty(tmp_path: Path) -> None:
    """Every row has every column, whatever is unknown of it."""
    known = results.Slice("a", embodied_g=results.Band(1, 2, 0.1 + 0.2), sci=results.Sci(results.Band(4, 5, 6), None))
    path = tmp_path / "slices.csv"
    Table((), [results.Slice("b"), known], "").write(path)
    first, second = csv.DictReader(path.read_text().splitlines())
    assert list(first) == list(second)
    assert (first["embodied_g_mid"], second["embodied_g_mid"]) == ("", "2")
    assert second["embodied_g_high"] == "0.3"
    assert (second["sci_g_per_request_high"], second["sci_g_per_1000_tokens_low"]) == ("6", "")
    assert not {"embodied_g", "sci", "sci_g_per_1000_tokens"} & first.keys()

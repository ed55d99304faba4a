"""What the server knows of speed, power and answers, over HTTP, by the SDK and on the command line."""

from __future__ import annotations

import json
from collections.abc import Generator
from datetime import timedelta
from typing import Any, get_origin, get_type_hints

import pytest
from click.testing import CliRunner
from msgspec import Struct
from sqlalchemy import insert

from batchsched.cli.main import cli
from batchsched.client import Client
from batchsched.client import profiles as sdk
from batchsched.errors import NotFound
from batchsched.queue import tables
from batchsched.server import profile_answers as answers
from tests.live import LiveServer, live_server, requests

CONFIG = """
[sites.home]
zone = "NL"
[sites.away]
zone = "DE"
pue = 1.1
[pools.local]
gpu = "cpu"
[pools.large]
site = "away"
gpu = "A100-80"
[models.tiny]
parameters_b = 8
[planner]
solver = "greedy"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("profiles"), CONFIG) as found:
        yield found


def run(server: LiveServer, *args: str) -> Any:
    """A command that must succeed."""
    outcome = CliRunner().invoke(cli, ["profile", *args, "--server", server.url])
    assert outcome.exit_code == 0, outcome.output
    return outcome


def test_before_anything_ran_the_prior_speaks(server: LiveServer) -> None:
    with Client(server.url, "") as client:
        found = client.profiles()
    assert [(one.model, one.pool, one.source) for one in found.profiles] == [
        ("tiny", "large", "prior"),
        ("tiny", "local", "prior"),
    ]
    large, local = found.profiles
    assert large.seconds(500, 200) < local.seconds(500, 200)
    assert large.energy_j(500, 200) < local.energy_j(500, 200)
    assert large.input_power_w > large.output_power_w > large.idle_w
    assert (large.zone, large.pue, large.drift_since) == ("DE", 1.1, None)
    (chat,) = found.answers
    assert (chat.endpoint, chat.answers) == ("/v1/chat/completions", 0)
    assert chat.p50_tokens < chat.p90_tokens < chat.p99_tokens


def test_shown_and_compared(server: LiveServer) -> None:
    shown = run(server, "show").stdout
    assert "A100-80" in shown
    assert "/v1/chat/completions" in shown
    compared = json.loads(run(server, "compare", "tiny", "--output-tokens", "100", "--json").stdout)
    assert [pool["pool"] for pool in compared["pools"]] == ["large", "local"]
    best = compared["pools"][0]
    assert best["grams"] == pytest.approx(best["energy_j"] / 3.6e6 * 1.1 * best["g_per_kwh"])
    assert "of least" in run(server, "compare", "tiny").stdout
    only = json.loads(run(server, "show", "tiny", "--pool", "local", "--json").stdout)
    assert [one["pool"] for one in only["profiles"]] == ["local"]


def test_a_model_that_is_not_served_has_none(server: LiveServer) -> None:
    outcome = CliRunner().invoke(cli, ["profile", "show", "other", "--server", server.url])
    assert isinstance(outcome.exception, NotFound)
    assert "tiny on large" in outcome.exception.message


def test_what_ran_is_learnt(server: LiveServer) -> None:
    """Answers of a batch that ended are what the next one's are expected to be like."""
    worker = server.worker()
    before = server.submit(requests(50), batchsched={"sites": ["home"], "deadline": "1m", "on_deadline": "finish"})["id"]
    worker.drain(before)
    with Client(server.url, "") as client:
        (chat,) = client.profiles().answers
    assert chat.answers == 50
    assert chat.p50_tokens < 10  # each had five tokens


def test_a_change_of_speed_is_said(server: LiveServer) -> None:
    """Twenty chunks, then twenty that take twice as long: the command says so, and so does the plan."""
    now = server.runtime.clock.now()
    batch_id = server.submit(requests(1))["id"]
    rows = [
        {
            "tenant": "default", "batch_id": batch_id, "chunk_id": f"x{n}", "pool": "large", "model": "tiny",
            "started_at": now - timedelta(minutes=60 - n), "ended_at": now - timedelta(minutes=59 - n),
            "busy_s": (50.0 if n < 20 else 100.0) * (1 + 0.02 * (n % 3)), "energy_j": 1.0, "energy_source": "nvml",
            "startup_s": 0.0, "requests": 1, "input_tokens": 100_000, "cached_tokens": 0, "output_tokens": 50_000,
        }
        for n in range(40)
    ]  # fmt: skip
    with server.runtime.database.write() as connection:
        connection.execute(insert(tables.ledger), rows)
    outcome = run(server, "show", "--pool", "large")
    assert "takes 2.0" in outcome.stderr
    view = server.runtime.scheduler.observer.look(now)
    assert any("Pool large: tiny takes 2.0" in note for note in view.notes)
    found = json.loads(CliRunner().invoke(cli, ["doctor", "--quick", "--server", server.url, "--json"]).stdout)["checks"]
    (told,) = [one for one in found if one["check"].startswith("speed of")]
    assert (told["check"], told["level"]) == ("speed of large", "warning")
    assert "tiny takes 2.0" in told["text"]
    assert "throttling" in told["next_step"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(answers.PoolProfile, sdk.PoolProfile), (answers.AnswerLengths, sdk.AnswerLengths), (answers.Profiles, sdk.Profiles)],
)
def test_the_sdk_has_every_field_that_the_server_answers(ours: type[Struct], theirs: type[Struct]) -> None:
    ours_have = {name: kind for name, kind in get_type_hints(ours).items() if name != "object"}
    theirs_have = get_type_hints(theirs)
    assert ours_have.keys() == theirs_have.keys()
    for name, kind in ours_have.items():
        if get_origin(kind) is None:
            assert theirs_have[name] == kind, name

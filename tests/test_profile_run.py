"""`batchsched profile run` from its command line to the server, with a fake engine."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from batchsched.cli.main import cli
from batchsched.errors import UnknownModel
from batchsched.wire import PREFIX
from tests.fake_engine import fake_home
from tests.live import LiveServer, live_server, wait_for
from tests.processes import BATCHSCHED, ROOT

TEXT = """
[sites.home]
zone = "WORLD"
[pools.local]
gpu = "cpu"
max_in_flight = 4
[models.tiny]
[planner]
solver = "greedy"
"""


WHERE = ["--pool", "local", "--model", "tiny"]
FEW = ["--workload=sharegpt", "--size=p25", "--rate=40", "--seconds=0.1", "--spread=1", "--least=2", "--most=3"]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveServer]:
    monkeypatch.setenv("FAKE_ENGINE_COUNT_FILE", str(tmp_path / "counts"))
    monkeypatch.setenv("FAKE_ENGINE_DELAY_S", "0.002")
    with live_server(tmp_path, TEXT) as running:
        home = fake_home(tmp_path / "engine")
        worker = f'[worker]\nengine_python = "{home}"\nstate_dir = "{tmp_path / "state"}"\nserver_url = "{running.url}"\n'
        (tmp_path / "here.toml").write_text(TEXT + worker)
        yield running


def asked(folder: Path) -> int:
    """Requests that engines have computed so far."""
    return len((folder / "counts").read_text().splitlines())


def profile(folder: Path, *more: str) -> Result:
    return CliRunner().invoke(
        cli, ["profile", "run", *WHERE, "--config", str(folder / "here.toml"), *FEW, *more], catch_exceptions=False
    )


@pytest.mark.parametrize("wrong", ["--rate=nan", "--rate=inf", "--seconds=nan", "--seconds=0", "--spread=nan", "--least=9"])
def test_numbers_that_are_none_are_refused(wrong: str) -> None:
    done = CliRunner().invoke(cli, ["profile", "run", "--pool", "local", "--model", "tiny", wrong])
    assert done.exit_code == 2
    assert wrong.partition("=")[0] in done.output


@pytest.mark.slow
def test_what_is_measured_is_shown_kept_and_told_to_the_server_once(server: LiveServer, tmp_path: Path) -> None:
    first = profile(tmp_path, "--json")
    assert first.exit_code == 0, first.stderr
    shown = json.loads(first.stdout)
    assert [(one["probe"]["name"], one["probe"]["qps"]) for one in shown["probes"]] == [
        ("sharegpt p25", None), ("sharegpt p25 prefill", None), ("decode only", None), ("sharegpt p25", 40.0),
    ]  # fmt: skip
    assert "[1/4] sharegpt p25, trial 1" in first.stderr
    measured = sum(one["trials"] for one in shown["probes"])
    clear = sum(one["trials"] for one in shown["probes"] if not one["noise"])
    kept = [line for line in Path(shown["kept_in"]).read_text().splitlines() if line]
    assert len(kept) == measured >= 8
    told = server.get(f"{PREFIX}/trials")["trials"]
    assert len(told) == clear
    assert {one["energy_source"] for one in told} <= {"modelled", "rapl"}
    before = asked(tmp_path)
    again = profile(tmp_path)
    assert "sharegpt p25" in again.stdout
    assert asked(tmp_path) == before  # nothing is measured twice
    assert server.get(f"{PREFIX}/trials")["trials"] == told


def _writing_below(folder: Path) -> list[Path]:
    """The processes whose output goes to a file there."""
    found: list[Path] = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "fd/1").readlink().is_relative_to(folder):
                found.append(process)
    return found


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_and_no_engine_is_left(server: LiveServer, tmp_path: Path) -> None:
    """kill -9 of the command once two trials are on disk: they are neither lost nor measured again."""
    log = tmp_path / "state" / "profile-local-tiny.jsonl"
    command = [*BATCHSCHED, "profile", "run", *WHERE, *FEW, "--config", str(tmp_path / "here.toml")]
    with (tmp_path / "first.log").open("wb") as said:
        first = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)
    wait_for(lambda: (log.is_file() and log.read_bytes().count(b"\n{") >= 2) or first.poll() is not None)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL, (tmp_path / "first.log").read_text()
    before = [json.loads(line)["id"] for line in log.read_text().splitlines() if line.endswith("}")]
    second = profile(tmp_path, "--json")
    assert second.exit_code == 0, second.stderr
    assert f"{len(before)} trials of earlier runs in this setting count" in second.stderr
    after = [json.loads(line)["id"] for line in log.read_text().splitlines() if line.endswith("}")]
    assert after[: len(before)] == before
    assert sum(one["trials"] for one in json.loads(second.stdout)["probes"]) == len(after)
    wait_for(lambda: not _writing_below(tmp_path))


@pytest.mark.slow
def test_noise_is_named_and_not_told(server: LiveServer, tmp_path: Path) -> None:
    ran = profile(tmp_path, "--full-load", "--spread", "0.000001")
    assert "Too noisy: sharegpt p25: throughput is known to" in ran.stdout
    assert "the server is told nothing" in ran.stderr
    assert server.get(f"{PREFIX}/trials")["trials"] == []


@pytest.mark.slow
def test_without_a_server_the_pool_is_the_one_declared_here(server: LiveServer, tmp_path: Path) -> None:
    ran = profile(tmp_path, "--no-server", "--full-load", "--json")
    assert json.loads(ran.stdout)["probes"]
    assert server.get(f"{PREFIX}/trials")["trials"] == []
    unreachable = profile(tmp_path, "--server", "http://127.0.0.1:9", "--full-load")
    assert "taken as it is declared here" in unreachable.stderr
    assert "tells the server later" in unreachable.stderr or "told nothing" in unreachable.stderr


def test_a_model_that_the_pool_does_not_serve_is_refused(server: LiveServer, tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="it serves: tiny"):
        profile(tmp_path, "--model", "large")
    with pytest.raises(UnknownModel, match="declared: local"):
        profile(tmp_path, "--pool", "far", "--no-server")

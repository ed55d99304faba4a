"""`batchsched run` as real processes, against a small server that speaks vLLM's wire format and counts what it computes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest

from batchsched import settings
from batchsched.cli import exits
from batchsched.cli.embedded import Embedded
from batchsched.queue.database import Database
from tests.live import PATIENCE_S
from tests.processes import acknowledged

pytestmark = pytest.mark.slow
FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")


class Engine:
    """The counting engine as a process."""

    def __init__(self, folder: Path) -> None:
        self._counts = folder / "counts"
        command = [
            sys.executable,
            str(FAKE_ENGINE),
            "--port",
            "0",
            "--served-model-name",
            "tiny",
            "--count-file",
            str(self._counts),
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{json.loads(self.process.stdout.readline())['port']}"

    def computed(self) -> Counter[str]:
        """How often each tagged request was computed."""
        return Counter(self._counts.read_text("utf-8").split()) if self._counts.exists() else Counter()

    def has_computed(self, least: int) -> Callable[[], bool]:
        """To wait for."""
        return lambda: len(self.computed()) >= least


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    running = Engine(tmp_path)
    yield running
    running.process.kill()
    running.process.communicate()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, with no configuration of this machine; plans that cost no second of a solver."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("BATCHSCHED_PLANNER_SOLVER", "greedy")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_requests(path: Path, count: int, steer: str = "") -> Path:
    """A batch file; each prompt carries a tag that the engine counts by."""
    lines = [
        {
            "custom_id": f"r{n}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "tiny", "messages": [{"role": "user", "content": f"[[tag r{n}]] {steer} word{n} more"}]},
        }
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def start(file: Path, engine: Engine, *more: str) -> subprocess.Popen[str]:
    """With an hour to do it, on a grid that never changes: nothing is worth waiting for."""
    command = [sys.executable, "-m", "batchsched.cli", "run", str(file), "--model", "tiny", "--deadline", "1h", *more]
    command += ["--engine-url", engine.url, "--json"]
    if not (file.parent / "batchsched.toml").exists():
        command += ["--zone", "WORLD"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any], str]:
    """Exit code, the JSON on stdout, stderr."""
    out, err = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in err
    return process.returncode, json.loads(out) if out else {}, err


def results(folder: Path, name: str = "output.jsonl") -> list[str]:
    """The custom_ids in a result file."""
    path = folder / name
    return sorted(json.loads(line)["custom_id"] for line in path.read_text("utf-8").splitlines()) if path.exists() else []


def wait_until(condition: Callable[[], bool], pause_s: float = 0.05) -> None:
    """What happens in other processes can only be looked at."""
    limit = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < limit
        time.sleep(pause_s)


def children(process: subprocess.Popen[str]) -> dict[str, psutil.Process]:
    """The server and the worker of a run."""
    found: dict[str, psutil.Process] = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.ZombieProcess):  # one that was killed, and not yet started again
            words = child.cmdline()
            found |= {name: child for name in ["serve", "worker"] if name in words and "--config" in words}
    return found


def test_a_run_from_start_to_end_and_again(place: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BATCHSCHED_PLANNER_SOLVER")
    file = write_requests(place / "in.jsonl", 8)
    code, said, _ = finish(start(file, engine))
    folder = place / "in.batchsched"
    assert code == exits.OK
    assert said["batch"]["request_counts"] == {"total": 8, "completed": 8, "failed": 0}
    assert results(folder) == sorted(f"r{n}" for n in range(8))
    assert json.loads((folder / "report.json").read_text())["energy_j"] > 0
    assert b"<svg" in (folder / "report.svg").read_bytes()
    assert not (folder / "errors.jsonl").exists()

    engine.process.kill()  # the finished result needs neither the engine nor a server
    code, again, _ = finish(start(file, engine))
    assert (code, again) == (exits.OK, said)

    with file.open("a") as more:
        more.write("\n")
    code, _, err = finish(start(file, engine))
    assert code == exits.USAGE
    assert "has changed since this run began" in err
    assert "--out" in err


def test_a_configuration_that_lies_there_is_used_wholly_and_named(place: Path, engine: Engine) -> None:
    (place / "batchsched.toml").write_text('[sites.a]\nzone = "PL"\n[pools.shed]\nsite = "a"\n', "utf-8")
    code, said, err = finish(start(write_requests(place / "in.jsonl", 2), engine, "--deadline", "2m"))
    assert code == exits.OK, err
    assert "Configuration: batchsched.toml." in err
    assert {(row["pool"], row["zone"]) for row in said["report"]["rows"]} == {("shed", "PL")}


def test_failed_lines_end_with_their_own_exit_code(place: Path, engine: Engine) -> None:
    file = write_requests(place / "in.jsonl", 3)
    with file.open("a") as more:
        more.write(file.read_text().splitlines()[0].replace("r0", "bad").replace("[[tag bad]]", "[[400]]") + "\n")
    code, said, _ = finish(start(file, engine, "--out", "out"))
    assert code == exits.FAILED_LINES
    assert said["batch"]["request_counts"] == {"total": 4, "completed": 3, "failed": 1}
    assert (results(place / "out"), results(place / "out", "errors.jsonl")) == (["r0", "r1", "r2"], ["bad"])


def test_a_run_stops_when_its_window_closes_and_goes_on_in_the_next(place: Path, engine: Engine) -> None:
    until = ("--until-window-closes",)
    file, out = write_requests(place / "in.jsonl", 100, "[[slow 1]]"), place / "in.batchsched"

    def opens(minutes_ago: float, minutes: float) -> None:
        """The window of the day begins so long before now, at a whole minute."""
        since = datetime.now(UTC) - timedelta(minutes=minutes_ago)
        cron, length_s = f"{since.minute} {since.hour} * * *", round(since.second + 60 * minutes)
        window = f'[pools.shed.window]\ncron = "{cron}"\nduration = "{length_s}s"\n'
        pool = '[pools.shed]\nsite = "a"\nmax_in_flight = 4\n'
        (place / "batchsched.toml").write_text(f'[sites.a]\nzone = "WORLD"\n{pool}{window}', "utf-8")

    opens(60, 30)
    code, said, err = finish(start(file, engine, *until))
    assert code == exits.WINDOW_CLOSED
    assert "The window is closed; requests done so far: 0. The same command goes on when it opens next" in err
    assert engine.computed() == {}
    opens(5, 5 + 1 / 3)  # for twenty seconds; a busy machine needs that to begin
    code, said, err = finish(start(file, engine, *until))
    assert code == exits.WINDOW_CLOSED, err
    assert said["batch"]["status"] in {"validating", "in_progress"}
    assert results(out) == []
    opens(5, 30)
    code, said, err = finish(start(file, engine, *until))
    assert code == exits.OK, err
    assert results(out) == sorted(f"r{n}" for n in range(100))
    assert set(engine.computed().values()) == {1}
    (place / "batchsched.toml").write_text("")
    code, _, err = finish(start(write_requests(place / "other.jsonl", 1), engine, *until))
    assert code == exits.USAGE
    assert "has no window, so it never closes" in err


def test_what_failed_is_retried_on_request_and_nothing_else(place: Path, engine: Engine) -> None:
    file = write_requests(place / "in.jsonl", 3)
    text = file.read_text().splitlines(keepends=True)
    file.write_text(text[0] + text[1].replace("word1", "[[400 1]] word1") + text[2])
    code, said, err = finish(start(file, engine))
    assert (code, said["batch"]["request_counts"]["failed"]) == (exits.FAILED_LINES, 1)
    assert "--retry" in err
    assert results(place / "in.batchsched", "errors.jsonl") == ["r1"]
    code, said, err = finish(start(file, engine, "--retry"))
    assert (code, said["batch"]["batchsched"]["round"]) == (exits.OK, 1)
    assert said["batch"]["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    assert results(place / "in.batchsched") == ["r0", "r1", "r2"]
    assert not (place / "in.batchsched" / "errors.jsonl").exists()
    assert engine.computed() == Counter(["r0", "r1", "r2"])
    assert finish(start(file, engine, "--retry"))[0] == exits.OK  # nothing is left to do


def test_ctrl_c_stops_cleanly_and_the_same_command_continues(place: Path, engine: Engine) -> None:
    file = write_requests(place / "in.jsonl", 300, "[[slow 1.5]]")
    first = start(file, engine)
    wait_until(lambda: len(engine.computed()) >= 80)
    family = list(children(first).values())
    assert len(family) == 2
    first.send_signal(signal.SIGINT)
    code, said, err = finish(first)
    assert (code, said) == (exits.INTERRUPTED, {})
    assert "To continue: batchsched run" in err
    assert not any(process.is_running() for process in family)
    code, said, _ = finish(start(file, engine))
    assert code == exits.OK
    assert results(place / "in.batchsched") == sorted(f"r{n}" for n in range(300))
    assert set(engine.computed().values()) == {1}  # what was in flight came back before the worker stopped


@pytest.mark.parametrize("at", [0, 80])
def test_kill_9_of_the_whole_run_loses_nothing_and_repeats_nothing(at: int, place: Path, engine: Engine) -> None:
    file = write_requests(place / "in.jsonl", 300, "[[slow 0.5]]")
    first = start(file, engine)
    folder = place / "in.batchsched"
    wait_until(lambda: (folder / "run.json").exists() and len(engine.computed()) >= at)
    wait_until(lambda: not at or len(acknowledged(folder / ".state")) >= at)
    safe = acknowledged(folder / ".state") if at else set[str]()
    first.kill()
    again = start(file, engine)  # at once: nobody cleans up after the first
    first.communicate()
    code, said, err = finish(again)
    assert code == exits.OK, err
    assert said["batch"]["request_counts"]["completed"] == 300
    assert results(folder) == sorted(f"r{n}" for n in range(300))
    computed = engine.computed()
    assert {custom_id: computed[custom_id] for custom_id in safe} == dict.fromkeys(safe, 1)


def test_a_server_that_dies_during_the_upload_does_not_end_the_run(place: Path, engine: Engine) -> None:
    file = write_requests(place / "in.jsonl", 60, "x" * 900_000)
    process = start(file, engine)
    state = place / "in.batchsched" / ".state"
    wait_until(lambda: any(path.stat().st_size for path in state.glob("files/*")), pause_s=0.002)
    children(process)["serve"].kill()
    code, said, err = finish(process)
    assert code == exits.OK, err
    assert "The server ended and was started again." in err
    assert said["batch"]["request_counts"]["completed"] == 60
    assert results(place / "in.batchsched") == sorted(f"r{n}" for n in range(60))


def test_a_server_waits_for_the_folder_that_a_dying_one_still_holds(place: Path) -> None:
    state = place / "state"
    state.mkdir()
    other = Database(state / "batchsched.db")
    log = state / "server.log"

    def let_go() -> None:
        wait_until(lambda: log.exists() and "in use by another server" in log.read_text("utf-8"))
        other.close()

    holder = Thread(target=let_go)
    holder.start()
    with Embedded(settings.Settings(), state) as house:
        assert list(house.start_server().batches.list()) == []
    holder.join()


def test_a_part_that_dies_is_started_again(place: Path, engine: Engine) -> None:
    file = write_requests(place / "in.jsonl", 300, "[[slow 0.5]]")
    process = start(file, engine)
    for victim, at in (("serve", 50), ("worker", 150)):
        wait_until(engine.has_computed(at))
        children(process)[victim].kill()
    code, _, err = finish(process)
    assert code == exits.OK
    assert err.count("ended and was started again") >= 2
    assert results(place / "in.batchsched") == sorted(f"r{n}" for n in range(300))


def test_two_runs_cannot_share_a_folder(place: Path, engine: Engine) -> None:
    file = write_requests(place / "in.jsonl", 2, "[[slow 3]]")
    first = start(file, engine)
    wait_until((place / "in.batchsched" / "run.json").exists)
    code, _, err = finish(start(file, engine))
    assert code == exits.TRY_AGAIN
    assert "Another `batchsched run` is at work" in err
    first.send_signal(signal.SIGTERM)
    assert finish(first)[0] == exits.INTERRUPTED


LATER = """
import sys
if "serve" in sys.orig_argv:
    from datetime import timedelta
    from pathlib import Path
    from batchsched.clock import SystemClock
    now, later = SystemClock.now, Path(__file__).with_name("later")
    SystemClock.now = lambda clock: now(clock) + timedelta(hours=2 * later.exists())
"""


@pytest.fixture
def later(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Once it is there two hours have passed for the server."""
    (place / "clock").mkdir()
    (place / "clock" / "sitecustomize.py").write_text(LATER, "utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(place / "clock"), *filter(None, [os.environ.get("PYTHONPATH")])]))
    return place / "clock" / "later"


def with_one_more(file: Path, instead_of_its_tag: str) -> Path:
    with file.open("a") as more:
        more.write(file.read_text().splitlines()[0].replace("r0", "last").replace("[[tag last]]", instead_of_its_tag) + "\n")
    return file


def test_at_the_deadline_what_is_done_is_kept(place: Path, engine: Engine, later: Path) -> None:
    file = with_one_more(write_requests(place / "in.jsonl", 2), "[[hang]]")
    process, folder = start(file, engine), place / "in.batchsched"
    wait_until(engine.has_computed(2))
    wait_until(lambda: acknowledged(folder / ".state") == {"r0", "r1"})
    later.touch()
    code, said, _ = finish(process)
    assert code == exits.NOT_FINISHED
    assert said["batch"]["status"] == "expired"
    assert results(folder) == ["r0", "r1"]
    assert results(folder, "errors.jsonl") == ["last"]


def test_a_run_may_finish_after_its_deadline(place: Path, engine: Engine, later: Path) -> None:
    file = with_one_more(write_requests(place / "in.jsonl", 2), "[[slow 8]]")
    process, folder = start(file, engine, "--on-deadline", "finish"), place / "in.batchsched"
    wait_until(engine.has_computed(2))
    later.touch()
    code, said, _ = finish(process)
    assert code == exits.OK
    assert said["batch"]["status"] == "completed"
    assert results(folder) == ["last", "r0", "r1"]


def test_an_engine_that_serves_another_model_is_told_before_anything_starts(place: Path, engine: Engine) -> None:
    file = write_requests(place / "in.jsonl", 1)
    command = [sys.executable, "-m", "batchsched.cli", "run", str(file), "--model", "org/other", "--deadline", "1m"]
    command += ["--served-model-name", "tiny2", "--engine-url", engine.url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == exits.USAGE  # the file names 'tiny', not 'tiny2'
    file.write_text(file.read_text().replace('"tiny"', '"tiny2"'))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == exits.NOT_FOUND
    assert "does not serve 'tiny2'; it serves tiny." in done.stderr
    assert not (place / "in.batchsched").exists()

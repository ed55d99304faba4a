"""A real launcher of real workers, at a real server: started by the plan, killed, changed, taken back, and no request lost.

To start a process is what takes the time here: a test goes on with the launcher and the workers that the one before it left, and
starts those that are not there.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batchsched.wire import PREFIX
from tests.live import HTTP, wait_for
from tests.processes import BATCHSCHED, Stage, end, tagged
from tests.test_executors_engine import gone, linux

pytestmark = [linux, pytest.mark.slow]
STAY_S = 600.0


class Launched(Stage):
    """A stage whose workers a launcher starts; it leaves none behind."""

    serving: subprocess.Popen[bytes]
    answering: subprocess.Popen[bytes]
    launching: subprocess.Popen[bytes] | None = None
    batches = 0
    heard = 0

    def __init__(self, folder: Path, replicas: int, **how: Any) -> None:
        super().__init__(folder, **how)
        self._basic = self.config.read_text().replace("[pools.local]", f"[pools.local]\ncount = {replicas}")
        self.replicas = replicas
        self.configure()

    def configure(self, more: str = "", linger_s: float = STAY_S) -> None:
        """The launch of the pool; a launcher that runs takes it over."""
        fresh = self.config.with_suffix(".new")
        basic = self._basic.replace("[worker]\n", f"[worker]\nengine_url = '{self.engine_url}'\n")
        times = f"lead_s = 0\ngrace_s = 30\nprobation_s = 60\nlinger_s = {linger_s}\n"
        fresh.write_text(f"{basic}[launch.local]\nreplicas = {self.replicas}\n{times}{more}")
        fresh.replace(self.config)

    def launcher(self, *more: str) -> subprocess.Popen[bytes]:
        arguments = ["--server", self.url, "--launch", "--pool", "local", "--config", str(self.config)]
        return self.start([*BATCHSCHED, "worker", *arguments, *more], "launcher")

    def launched(self) -> subprocess.Popen[bytes]:
        """A launcher that runs; what was said before does not count."""
        self.heard = len(self._log())
        if self.launching is None or self.launching.poll() is not None:
            self.launching = self.launcher()
        return self.launching

    def said(self) -> str:
        return self._log()[self.heard :]

    def _log(self) -> str:
        path = self.folder / "launcher.log"
        return path.read_text() if path.exists() else ""

    def pids(self) -> dict[str, int]:
        """Of the replicas that live, by name."""
        found: dict[str, int] = {}
        for lock in (self.folder / "worker" / "launcher").glob("*/lock"):
            with contextlib.suppress(FileNotFoundError, ValueError):  # it was forgotten just now, or is on its way
                found[lock.parent.name] = int(lock.read_text())
        return {name: pid for name, pid in found.items() if not gone(pid)}

    def pool(self) -> Any:
        """As the server tells of it."""
        return HTTP.get(f"{self.url}{PREFIX}/pools").json()["data"][0]

    def submit(self, count: int) -> str:
        """A batch that can wait no longer; its requests carry its number, so that the engine's counts tell them apart."""
        self.batches += 1
        data = tagged(count).replace(b'": "r', b'": "b%d-r' % self.batches).replace(b"[[tag r", b"[[tag b%d-r" % self.batches)
        file_id = HTTP.post(f"{self.url}/v1/files", files={"file": ("in.jsonl", data)}, data={"purpose": "batch"}).json()["id"]
        body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        late = {"deadline": "1s", "on_deadline": "finish"}
        return str(HTTP.post(f"{self.url}/v1/batches", json={**body, "batchsched": late}).json()["id"])

    def mine(self, names: Iterable[str]) -> set[str]:
        """Those of the newest batch."""
        return {name for name in names if name.startswith(f"b{self.batches}-")}

    def computed_most(self) -> int:
        """How often any request of the newest batch was computed."""
        computed = self.computed()
        return max(computed[name] for name in self.mine(computed))

    def at_work(self, count: int) -> str:
        """Submit a batch, and wait until both workers are there and something of it stands acknowledged."""
        batch_id = self.submit(count)
        wait_for(lambda: len(self.pids()) == 2 and len(self.mine(self.acknowledged())) > 5)
        return batch_id

    def batch(self, batch_id: str) -> Any:
        return HTTP.get(f"{self.url}/v1/batches/{batch_id}").json()

    def done(self, batch_id: str) -> list[str]:
        """Wait for the end, which nothing holds up any more; custom_ids of the output."""
        self.answering.send_signal(signal.SIGUSR1)

        def over() -> Any:
            batch = self.batch(batch_id)
            return batch if batch["status"] in {"completed", "failed", "expired"} else None

        batch = wait_for(over)
        self.answering.send_signal(signal.SIGUSR2)
        assert batch["status"] == "completed", batch
        text = HTTP.get(f"{self.url}/v1/files/{batch['output_file_id']}/content").text
        return sorted(json.loads(line)["custom_id"] for line in text.splitlines())

    def __exit__(self, *how: Any) -> None:
        super().__exit__(*how)
        for pid in self.pids().values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        wait_for(lambda: not self.pids())


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    stage = Launched(tmp_path_factory.mktemp("launched"), 2, lease_s=8.0, delay_s=0.4, chunk_lines=10)
    with stage:
        stage.serving = stage.server()
        stage.answering = stage.engine()
        yield stage


def ids(stage: Launched, count: int) -> list[str]:
    return sorted(f"b{stage.batches}-r{i}" for i in range(count))


def test_workers_come_with_the_work_and_go_when_it_is_done(stage: Launched) -> None:
    stage.configure(linger_s=0.5)
    stage.launched()
    wait_for(lambda: stage.pool()["startable"] == 2)
    assert stage.pids() == {}
    assert stage.done(stage.submit(60)) == ids(stage, 60)
    assert "is started: 2 are wanted" in stage.said()
    wait_for(lambda: stage.pids() == {})
    assert stage.pool()["workers"] == 0, "each said goodbye"
    assert stage.computed_most() == 1
    stage.configure()


def test_a_launcher_that_is_killed_leaves_its_workers_and_the_next_one_finds_them(stage: Launched) -> None:
    """kill -9 of the launcher, then of a worker while nobody watches, in the middle of a batch."""
    launcher, batch_id = stage.launched(), stage.at_work(300)
    end(launcher, signal.SIGKILL)
    before = stage.pids()
    killed, kept = sorted(before)
    os.kill(before[killed], signal.SIGKILL)
    wait_for(lambda: gone(before[killed]))
    acknowledged = stage.mine(stage.acknowledged())
    wait_for(lambda: len(stage.mine(stage.acknowledged())) > len(acknowledged) + 5)
    assert stage.pids() == {kept: before[kept]}
    stage.launched()
    wait_for(lambda: len(stage.pids()) == 2)
    assert stage.pids()[kept] == before[kept], "it was left alone"
    assert f"Worker {killed} died: nobody saw how" in stage.said()
    assert stage.done(batch_id) == ids(stage, 300)
    computed = stage.computed()
    assert all(computed[name] == 1 for name in acknowledged), "none that was acknowledged ran again"


def test_workers_are_left_alone_while_the_server_is_away(stage: Launched) -> None:
    stage.launched()
    batch_id = stage.at_work(200)
    before = stage.pids()
    end(stage.serving, signal.SIGKILL)
    wait_for(lambda: "Workers are left as they are meanwhile." in stage.said())
    assert stage.pids() == before
    stage.serving = stage.server()
    assert stage.done(batch_id) == ids(stage, 200)
    assert stage.pids() == before


def own(stage: Launched, *more: str) -> str:
    """The workers' own command, in TOML, with something about it that is new."""
    line = [*BATCHSCHED, "worker", "--pool", "local", "--server", stage.url, "--config", str(stage.config), *more]
    return f"command = {json.dumps(line)}\n"


def test_a_changed_launch_replaces_workers_one_by_one_without_loss(stage: Launched) -> None:
    """Killed in the middle of it, the launcher goes on."""
    launcher, batch_id = stage.launched(), stage.at_work(600)
    before = stage.pids()
    stage.configure(own(stage, "--engine-url", stage.engine_url))
    wait_for(lambda: set(stage.pids()) - set(before))
    end(launcher, signal.SIGKILL)
    stage.launched()
    wait_for(lambda: "run by the changed launch: each has finished a chunk" in stage.said())
    after = stage.pids()
    assert (len(after), set(after) & set(before)) == (2, set())
    assert stage.done(batch_id) == ids(stage, 600)
    assert stage.computed_most() == 1, "workers that were let go gave back what they had not begun"


def test_a_changed_launch_that_does_not_work_is_taken_back(stage: Launched) -> None:
    stage.launched()
    batch_id = stage.at_work(450)
    stage.configure(own(stage, "--no-such-option"))
    wait_for(lambda: "is taken back" in stage.said())
    assert "No such option" in stage.said()
    assert "its replicas died 2 times" in stage.said()
    wait_for(lambda: len(stage.pids()) == 2)
    assert stage.done(batch_id) == ids(stage, 450)
    assert stage.computed_most() == 1


def test_all_are_let_go_when_that_is_asked_for(stage: Launched) -> None:
    launcher, batch_id = stage.launched(), stage.at_work(300)
    second = stage.launcher()
    assert second.wait(60) == 1
    assert "Another launcher keeps its replicas" in stage.said()
    assert end(launcher) == 0
    assert len(stage.pids()) == 2
    assert stage.launcher("--let-go").wait(60) == 0
    assert stage.pids() == {}
    assert stage.batch(batch_id)["status"] == "in_progress"
    assert stage.computed_most() == 1

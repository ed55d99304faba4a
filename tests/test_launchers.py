"""The launcher's port: one contract, over processes of this machine and over a slow cluster in memory."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from click.testing import CliRunner

from batchsched.cli.main import cli
from batchsched.clock import ManualClock, SystemClock
from batchsched.errors import LaunchFailed
from batchsched.executors.launchers.port import NAME_ENV, Launcher, Replica, Spec
from batchsched.executors.launchers.processes import ProcessLauncher
from tests.fake_launcher import Cluster, FakeLauncher
from tests.live import PATIENCE_S
from tests.test_executors_engine import gone, linux
from tests.test_migrations import NOW

FOREVER = Spec(["sleep", "600"])
LONG_S = 60.0


class Ground(Protocol):
    """Where a launcher launches: it outlives the launcher, and its time passes."""

    @property
    def launcher(self) -> Launcher:
        """The one at work now."""
        ...

    def restart(self) -> None:
        """The launcher is gone without a word, and another takes its place."""
        ...

    async def passes(self) -> None:
        """A little time."""
        ...

    def kill(self, name: str) -> None:
        """A replica ends without having been told to."""
        ...

    def stubborn(self) -> Spec:
        """One that does not end when it is told to."""
        ...

    def started(self) -> list[str]:
        """The names of all that were ever started."""
        ...


class Machine:
    """This machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.launcher = self._made()

    def _made(self) -> ProcessLauncher:
        return ProcessLauncher(self.folder / "launcher", SystemClock(), os.environ)

    def restart(self) -> None:
        self.launcher.close()
        self.launcher = self._made()

    async def passes(self) -> None:
        await asyncio.sleep(0.02)

    def pid(self, name: str) -> int:
        return int((self.folder / "launcher" / name / "lock").read_text())

    def kill(self, name: str) -> None:
        os.kill(self.pid(name), signal.SIGKILL)

    def stubborn(self) -> Spec:
        return Spec(["sh", "-c", f"trap '' TERM; touch {self.folder}/deaf; while true; do sleep 600; done"])

    def started(self) -> list[str]:
        return sorted(path.stem for path in (self.folder / "launcher" / "logs").glob("*.log"))

    def clear(self) -> None:
        self.launcher.close()
        for lock in (self.folder / "launcher").glob("*/lock"):
            if lock.read_text() and not gone(int(lock.read_text())):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(lock.read_text()), signal.SIGKILL)


class Clouds:
    """A cluster that does not exist."""

    def __init__(self) -> None:
        self.clock = ManualClock(NOW)
        self.cluster = Cluster(self.clock)
        self.restart()

    def restart(self) -> None:
        self.launcher = FakeLauncher(self.cluster)

    async def passes(self) -> None:
        self.clock.advance(0.5)

    def kill(self, name: str) -> None:
        self.cluster.die(name)

    def stubborn(self) -> Spec:
        self.cluster.stubborn = True
        return FOREVER

    def started(self) -> list[str]:
        return self.cluster.starts


@pytest.fixture(params=["machine", "clouds"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    if request.param == "clouds":
        yield Clouds()
        return
    machine = Machine(tmp_path)
    yield machine
    machine.clear()


async def until(ground: Ground, name: str, state: str) -> Replica:
    """Let time pass until a replica stands so."""
    found: dict[str, Replica] = {}
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        found = await ground.launcher.replicas()
        if name in found and found[name].state == state:
            return found[name]
        await ground.passes()
    raise AssertionError(f"{name} is never {state}: {found}")


async def test_what_was_asked_for_comes_up_runs_and_ends_when_told(ground: Ground) -> None:
    assert await ground.launcher.replicas() == {}
    await ground.launcher.start("a", FOREVER)
    assert (await ground.launcher.replicas())["a"].state in {"waiting", "running"}
    await until(ground, "a", "running")
    await ground.launcher.stop("a", LONG_S)
    ended = await until(ground, "a", "ended")
    assert (ended.clean, ended.why) == (True, "it was told to end.")
    await ground.launcher.forget("a")
    assert await ground.launcher.replicas() == {}


async def test_a_name_is_started_once_however_often_it_is_asked_for(ground: Ground) -> None:
    for _ in range(3):
        await ground.launcher.start("a", FOREVER)
    ground.restart()
    await ground.launcher.start("a", FOREVER)
    await until(ground, "a", "running")
    await ground.launcher.start("a", FOREVER)
    ground.kill("a")
    await until(ground, "a", "ended")
    await ground.launcher.start("a", FOREVER)
    assert (await ground.launcher.replicas())["a"].state == "ended"
    assert ground.started() == ["a"]


async def test_another_launcher_takes_over_what_runs_and_what_died_meanwhile(ground: Ground) -> None:
    for name in ("a", "b", "c"):
        await ground.launcher.start(name, FOREVER)
    for name in ("a", "b", "c"):
        await until(ground, name, "running")
    await ground.launcher.stop("c", LONG_S)
    ground.restart()
    ground.kill("b")
    died = await until(ground, "b", "ended")
    assert (died.clean, bool(died.why)) == (False, True)
    assert (await until(ground, "a", "running")).since == (await ground.launcher.replicas())["a"].since
    assert (await until(ground, "c", "ended")).clean
    await ground.launcher.stop("a", LONG_S)
    await until(ground, "a", "ended")


async def test_one_that_does_not_listen_is_ended_by_force_also_by_another_launcher(ground: Ground) -> None:
    await ground.launcher.start("a", ground.stubborn())
    await until(ground, "a", "running")
    if isinstance(ground, Machine):
        while not (ground.folder / "deaf").exists():
            await ground.passes()
    await ground.launcher.stop("a", LONG_S)
    for _ in range(5):
        await ground.passes()
        assert (await ground.launcher.replicas())["a"].state == "stopping"
    ground.restart()
    assert (await ground.launcher.replicas())["a"].state == "stopping"
    await ground.launcher.stop("a", 2 * LONG_S)  # not later than it was told
    await ground.launcher.stop("a", 0.1)
    await until(ground, "a", "ended")


async def test_one_is_stopped_before_it_ran_and_forgotten_only_once_it_ended(ground: Ground) -> None:
    await ground.launcher.start("a", FOREVER)
    await ground.launcher.stop("a", LONG_S)
    assert (await until(ground, "a", "ended")).clean
    await ground.launcher.start("b", FOREVER)
    await until(ground, "b", "running")
    await ground.launcher.forget("b")
    assert (await ground.launcher.replicas())["b"].state == "running"
    for nobody in (ground.launcher.forget("nobody"), ground.launcher.stop("nobody", 1.0)):
        await nobody


async def test_an_end_of_its_own_is_told_with_its_last_words(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    try:
        said = "import sys; print('ValueError: no such model'); sys.exit(3)"
        await machine.launcher.start("bad", Spec([sys.executable, "-c", said]))
        await machine.launcher.start("good", Spec([sys.executable, "-c", "print('Stopped.')"]))
        await machine.launcher.start("none", Spec(["/no/such/command"]))
        bad, good, none = [await until(machine, name, "ended") for name in ("bad", "good", "none")]
        assert (bad.clean, bad.why) == (False, "with exit code 3; its log ends: ValueError: no such model.")
        assert (good.clean, good.why) == (True, "with exit code 0; its log ends: Stopped.")
        assert none.why.startswith("with exit code 127; its log ends: Error: '/no/such/command' cannot be run")
    finally:
        machine.clear()


async def test_a_replica_has_its_environment_its_folder_and_its_name(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    try:
        spec = Spec(
            ["sh", "-c", f"echo {{place}} $GPUS ${NAME_ENV} $(pwd); exec sleep 600"], {"GPUS": "{devices}"}, str(tmp_path)
        )
        await machine.launcher.start("a.1", spec.placed("a.1", 1, "2,3"))
        log: Callable[[], str] = lambda: machine.launcher.log("a.1").read_text()  # noqa: E731
        await until(machine, "a.1", "running")
        while not log():
            await machine.passes()
        assert log() == f"1 2,3 a.1 {tmp_path}\n"
        assert (tmp_path / "launcher").stat().st_mode & 0o077 == 0  # the environment may hold a key
        for path in (tmp_path / "launcher" / "a.1").iterdir():
            assert path.stat().st_mode & 0o077 == 0
    finally:
        machine.clear()


def test_specs_differ_where_anything_differs() -> None:
    one = Spec(["a"], {"x": "1", "y": "2"})
    assert one.digest == Spec(["a"], {"y": "2", "x": "1"}).digest
    assert len({one.digest, Spec(["a"], {"x": "1"}).digest, Spec(["b"], one.env).digest, Spec(["a"], one.env, "/").digest}) == 4


async def test_a_folder_has_one_launcher_and_names_are_names(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    try:
        with pytest.raises(LaunchFailed, match="Another launcher"):
            ProcessLauncher(tmp_path / "launcher", SystemClock(), os.environ)
        for name in ("", "..", "logs", "a/b"):
            with pytest.raises(LaunchFailed, match="cannot be the name"):
                await machine.launcher.start(name, FOREVER)
    finally:
        machine.clear()
    (tmp_path / "file").touch()
    with pytest.raises(LaunchFailed, match="cannot keep its replicas"):
        ProcessLauncher(tmp_path / "file" / "launcher", SystemClock(), os.environ)


def descriptor(path: Path) -> int:
    """By which this process has a file open."""
    for number in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one that lists them
            if number.readlink() == path:
                return int(number.name)
    raise AssertionError(f"{path} is not open")


@linux
def test_a_folder_is_free_once_its_launcher_lets_go_whoever_inherited_its_lock(tmp_path: Path) -> None:
    """A process that another thread forks has all that was open, until it becomes its command: close-on-exec comes then."""
    machine = Machine(tmp_path)
    heir = subprocess.Popen(["sleep", "600"], pass_fds=[descriptor(tmp_path / "launcher" / "launcher.lock")])
    try:
        machine.restart()
    finally:
        heir.kill()
        heir.wait()
        machine.clear()


def test_a_folder_is_waited_for_where_its_launcher_was_killed_in_the_middle_of_a_start(tmp_path: Path) -> None:
    (tmp_path / "launcher").mkdir()
    held = (tmp_path / "launcher" / "launcher.lock").open("w")
    fcntl.flock(held, fcntl.LOCK_EX)

    class Releasing(SystemClock):
        looks = 0

        def monotonic(self) -> float:
            self.looks += 1
            if self.looks == 2:  # it was found taken: the child becomes its command
                held.close()
            return super().monotonic()

    ProcessLauncher(tmp_path / "launcher", Releasing(), os.environ).close()
    assert held.closed


@linux
@pytest.mark.slow
async def test_replicas_outlive_a_launcher_that_is_killed_in_any_moment(tmp_path: Path) -> None:
    """kill -9 between any two steps of a start: the next launcher finishes it, and one process runs."""
    code = """if True:
        import asyncio, os, sys
        from pathlib import Path
        from batchsched.clock import SystemClock
        from batchsched.executors.launchers import processes
        from batchsched.executors.launchers.port import Spec
        left = int(sys.argv[2])
        def counted(event, args):
            global left
            if event in ("open", "os.mkdir", "os.rename", "os.posix_spawn", "fcntl.flock") and sys.argv[1] in str(args):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), 9)
        launcher = processes.ProcessLauncher(Path(sys.argv[1]), SystemClock(), os.environ)
        sys.addaudithook(counted)
        asyncio.run(launcher.start("a", Spec(["sh", "-c", f"echo x >> {sys.argv[1]}/../ran; exec sleep 600"])))
        os.kill(os.getpid(), 9)
    """
    for steps in range(12):
        folder = tmp_path / str(steps)
        folder.mkdir()
        process = subprocess.run([sys.executable, "-c", code, str(folder / "launcher"), str(steps)], check=False)
        assert process.returncode == -signal.SIGKILL
        machine = Machine(folder)
        try:
            await machine.launcher.start("a", Spec(["sh", "-c", f"echo x >> {folder}/ran; exec sleep 600"]))
            await until(machine, "a", "running")
            while not ((folder / "ran").exists() and (folder / "ran").read_text()):  # a shell opens it first, and writes then
                await machine.passes()
            await machine.launcher.stop("a", LONG_S)
            await until(machine, "a", "ended")
            assert (folder / "ran").read_text() == "x\n", steps
        finally:
            machine.clear()


def test_doctor_looks_at_what_is_to_be_launched(tmp_path: Path) -> None:
    config = tmp_path / "batchsched.toml"
    config.write_text(
        "[sites.home]\nzone = 'WORLD'\n[pools.a]\n[pools.b]\n[pools.c]\n[launch.a]\n[launch.b]\ndevices = ['0', '1']\n"
        "[launch.c]\ncommand = ['/no/such/worker']\n"
    )
    done = CliRunner().invoke(cli, ["doctor", "--quick", "--config", str(config), "--json"])
    found = {check["check"]: (check["level"], check["text"]) for check in json.loads(done.output)["checks"]}
    assert found["launch a"] == ("ok", f"1 worker(s) by {sys.executable}")
    assert found["launch b"] == ("warning", "2 workers, of which the pool runs 1 at once at most")
    assert found["launch c"] == ("broken", "there is no '/no/such/worker' that could be run")

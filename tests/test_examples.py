"""Every example, run as its own comment says: against a real server, with a real worker on the tests' counting engine.

With the real vLLM: tests/test_runs_vllm.py, and embed.py in tests/test_executors_vllm.py. The notebook:
tests/test_public_surface.py, and in a real kernel tests/test_wheel.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator
from configparser import ConfigParser
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from batchsched import Client
from batchsched.cli import exits
from batchsched.cli.common import load_checked
from batchsched.clock import ManualClock
from batchsched.executors.worker import run_worker
from batchsched.settings import Worker
from tests.fake_engine import FakeEngine, serve
from tests.live import BASIC, LiveServer, live_server
from tests.test_schedules import later

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
TIMERS = EXAMPLES / "timers"
ELSEWHERE = {"notebook.ipynb": "tests/test_public_surface.py"}
"""Examples that another file runs."""

slow = pytest.mark.slow


def test_every_example_is_listed_and_run() -> None:
    tests = Path(__file__).read_text()
    page = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        if path.is_file() and path.suffix in {".py", ".ipynb"}:
            assert f"]({path.name})" in page, f"examples/README.md does not list {path.name}"
            where = ROOT / ELSEWHERE[path.name] if path.name in ELSEWHERE else None
            assert path.name in (where.read_text() if where else tests)
    for name in re.findall(r"\]\(([^)#]+)", page):
        assert (EXAMPLES / name).exists(), name


@asynccontextmanager
async def served(
    folder: Path, clock: ManualClock | None = None, engine: FakeEngine | str = "", **flags: object
) -> AsyncGenerator[LiveServer]:
    """A server, and a worker on an engine that says prompts backwards, or on the one at a URL."""
    stop, runner = asyncio.Event(), None
    if isinstance(engine, FakeEngine) or not engine:
        runner, port = await serve(engine if isinstance(engine, FakeEngine) else FakeEngine())
        engine = f"http://127.0.0.1:{port}"
    try:
        with live_server(folder / "server", BASIC, clock, **flags) as server:
            worker = asyncio.create_task(run_worker(Worker(engine_url=engine), "local", server.url, stop=stop))
            try:
                yield server
            finally:
                stop.set()
                await asyncio.gather(worker, return_exceptions=True)
    finally:
        if runner:
            await runner.cleanup()


async def said(*command: str | Path, status: int = 0) -> list[str]:
    """The lines that an example prints."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=pipe, stderr=pipe, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    out, err = await process.communicate()
    assert process.returncode == status, err.decode()
    return out.decode().splitlines()


@slow
async def test_a_folder_is_summarised_and_then_only_what_changed(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "one.txt").write_text("The wind blows.")
    (texts / "two.txt").write_text("The sun shines.")
    async with served(tmp_path) as server:
        command = ("examples/summarise.py", texts, "tiny", server.url)
        first = await said(*command)
        assert first[:2] == ["one.txt: summarised", "two.txt: summarised"]
        assert re.fullmatch(r"[\d.e-]+ g; run at once it would have been [\d.e-]+ g", first[2])
        assert (texts / "summaries" / "one.txt").read_text() == "blows. wind The sentences: two in Summarise"
        assert await said(*command) == [f"Nothing is new in {texts}."]
        (texts / "two.txt").write_text("The moon shines.")
        os.utime(texts / "two.txt", (2e9, 2e9))
        assert (await said(*command))[0] == "two.txt: summarised"
        assert "moon" in (texts / "summaries" / "two.txt").read_text()
        with Client(server.url) as client:
            assert len(list(client.batches.list())) == 2


@slow
async def test_loops_prompts_files_and_the_openai_client(tmp_path: Path) -> None:
    (tmp_path / "one.md").write_text("The wind blows.")
    async with served(tmp_path) as server:
        loop, prompts, sdk, openai = await asyncio.gather(
            said("examples/loop.py", tmp_path, "tiny", server.url),
            said("examples/run.py", "tiny", server.url),
            said("examples/sdk.py", server.url),
            said("examples/openai_client.py", f"{server.url}/v1"),
        )
    assert loop == ["one.md: blows. wind The sentence: one in Summarise"]
    assert prompts[1:] == [
        "Why is the sky blue? blue? sky the is Why",
        "Why is the sea salt? salt? sea the is Why",
        "Why do cats purr? purr? cats do Why",
    ]
    assert "run at once it would have been" in sdk[-1]
    assert sum(line.startswith("summary-") for line in sdk) == sum(line.startswith("summary-") for line in openai) > 0
    assert "completed" in openai[0]


@slow
async def test_a_corpus_is_embedded(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("the wind\nthe sun\nthe rain\n")
    async with served(tmp_path, engine=FakeEngine(embedding=True)) as server:
        lines = await said("examples/embed.py", corpus, "tiny", server.url)
    assert [line.partition(" -> ")[0] for line in lines] == corpus.read_text().splitlines()
    assert all(line.partition(" -> ")[2] in {"the wind", "the sun", "the rain"} for line in lines)


@slow
async def test_a_nightly_evaluation_is_set_up_runs_and_is_scored(tmp_path: Path) -> None:
    inputs = tmp_path / "inputs" / "default"
    inputs.mkdir(parents=True)
    clock = ManualClock(datetime.now(UTC))
    opens = clock.now() + timedelta(minutes=30)
    async with served(tmp_path, clock, server__inputs_dir=str(inputs.parent), server__inputs_settle_s=0) as server:
        where = ("--server", server.url, "--pool", "local", "--model", "tiny", "--inputs", inputs)
        lines = await said("examples/nightly.py", "set-up", *where, "--opens", f"{opens:%H:%M}", "--zone", "UTC")
        assert lines[0].startswith(f"nights: local is open for 8h each day from {opens:%H:%M}, next at {opens:%Y-%m-%dT%H:%M}:00")
        assert lines[1].startswith(f"nightly-evaluation: 3 questions, next at {opens:%Y-%m-%dT%H:%M}:00")
        await asyncio.to_thread(later, server, 0.5)
        with Client(server.url) as client:
            (night,) = client.schedules.history("nightly-evaluation")
            await asyncio.to_thread(server.until, night.batch_id or "", "completed")
        (line,) = await said("examples/nightly.py", "score", "--server", server.url)
        assert re.fullmatch(rf"{opens:%Y-%m-%d}: 1 of 3 right \(larger\), [\d.e-]+ g", line)
    assert await said("examples/nightly.py", "set-up", status=2) == []


@slow
async def test_two_regions_are_simulated() -> None:
    lines = await said("examples/two_regions.py", "DE,SE", "1")
    assert lines[0] == "40 batches, home DE, typical days with drawn weather"
    kg = [float(line.rpartition(" kg")[0].rpartition(" ")[2]) for line in lines[1:]]
    assert len(kg) == 4
    assert kg[0] > kg[1] > kg[3] > 0


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """/srv/evaluation of examples/timers, with five prompts in it."""
    lines = (EXAMPLES / "requests.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "prompts.jsonl").write_text("".join(lines[:5]))
    shutil.copy(TIMERS / "batchsched.toml", tmp_path)
    return tmp_path


def _cron() -> tuple[str, dict[str, str], str]:
    """The times, the environment and the command of the crontab."""
    lines = [line for line in (TIMERS / "crontab").read_text().splitlines() if line and not line.startswith("#")]
    *settings, entry = lines
    *times, command = entry.split(None, 5)
    return " ".join(times), dict(line.split("=", 1) for line in settings), command


def _unit(name: str) -> ConfigParser:
    parser = ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(TIMERS / name)
    return parser


def test_cron_systemd_and_the_window_say_the_same() -> None:
    window = load_checked(TIMERS / "batchsched.toml").settings.pools["nights"].window
    assert window
    times, environment, command = _cron()
    assert (times, environment["CRON_TZ"]) == (window.cron, window.timezone)
    service, timer = _unit("evaluation.service")["Service"], _unit("evaluation.timer")["Timer"]
    assert timer["OnCalendar"] == "Mon..Fri 22:00 Europe/Berlin"
    assert service["SuccessExitStatus"] == str(exits.WINDOW_CLOSED)
    program, *words = shlex.split(service["ExecStart"])
    assert Path(program).parent == Path(environment["PATH"].partition(":")[0])
    assert shlex.split(command.partition(">>")[0].partition("&& batchsched")[2]) == words
    assert f"cd {service['WorkingDirectory']} && " in command
    assert (
        f"useradd --system --home-dir {service['WorkingDirectory']} {service['User']}`"
        in (TIMERS / "evaluation.service").read_text()
    )


def test_the_pages_show_what_the_timers_are() -> None:
    """docs/windows.md and the how-to, where the model is M: the same times, folder, program, and lines of the units."""
    times, environment, command = _cron()
    program = f"{environment['PATH'].partition(':')[0]}/batchsched"
    shown = f"{times}  {command.partition(' >>')[0]}".replace("batchsched run", f"{program} run").replace(
        "--model tiny", "--model M"
    )
    for page in ("docs/windows.md", "docs/how-to/nights.md"):
        assert f"\n{shown}\n" in (ROOT / page).read_text()
    (block,) = re.findall(r"^```ini\n(.*?)^```$", (ROOT / "docs/windows.md").read_text(), re.MULTILINE | re.DOTALL)
    for part in re.split(r"^# /etc/systemd/system/", block, flags=re.MULTILINE)[1:]:
        name, *lines = part.splitlines()
        unit = (TIMERS / name).read_text().replace("--model tiny", "--model M").splitlines()
        assert set(lines) <= set(unit), name


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not here: apt-get install systemd")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    (tmp_path / "batchsched").write_text("#!/bin/sh\n")
    (tmp_path / "batchsched").chmod(0o755)
    for name in ("evaluation.service", "evaluation.timer"):
        text = (TIMERS / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/batchsched/bin", str(tmp_path)).replace("User=batchsched", "User=root"))
    command = ["systemd-analyze", "verify", *map(str, tmp_path.glob("evaluation.*"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@slow
def test_the_crontabs_command_runs_in_its_window_alone(evaluation: Path) -> None:
    _, _, command = _cron()
    bin_folder = evaluation / "bin"
    bin_folder.mkdir()
    (bin_folder / "batchsched").write_text(f'#!/bin/sh\nexec {sys.executable} -m batchsched.cli "$@"\n')
    (bin_folder / "batchsched").chmod(0o755)
    engine = [sys.executable, "tests/fake_engine.py", "--port", "0", "--served-model-name", "tiny"]
    with subprocess.Popen(engine, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            env = {
                "PATH": f"{bin_folder}:/usr/bin:/bin",
                "HOME": str(evaluation),
                "PYTHONPATH": str(ROOT),
                "BATCHSCHED_WORKER_ENGINE_URL": f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}",
                "BATCHSCHED_PLANNER_SOLVER": "greedy",
            }
            now = datetime.now(ZoneInfo("Europe/Berlin"))
            for hour, status in (((now.hour + 12) % 24, exits.WINDOW_CLOSED), ((now.hour - 1) % 24, exits.OK)):
                text = (TIMERS / "batchsched.toml").read_text().replace("0 22 * * mon-fri", f"0 {hour} * * *")
                text = text.replace('zone = "DE"', 'zone = "WORLD"')  # a grid that never changes: nothing to wait for
                (evaluation / "batchsched.toml").write_text(text)
                shell = ["/bin/sh", "-c", command.replace("/srv/evaluation", str(evaluation))]
                done = subprocess.run(shell, cwd="/", env=env, check=False)
                assert done.returncode == status, (evaluation / "run.log").read_text()
        finally:
            process.kill()
    assert len((evaluation / "prompts.batchsched" / "output.jsonl").read_text().splitlines()) == 5

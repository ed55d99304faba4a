"""Other people's programs against our real server: each example of examples/integrations, in an environment of its own.

`make integrations-env` makes those. The engine is the counting one of the tests, whose answer is the prompt's words in reverse;
what is asked to fill a form is answered by the real vLLM.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from batchsched import Batch, Client
from batchsched.executors.engine import VllmEngine
from batchsched.executors.worker import run_worker
from batchsched.settings import Worker
from tests.live import live_server
from tests.processes import ROOT, Stage

pytestmark = pytest.mark.long

EXAMPLES = Path("examples/integrations")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with Stage(tmp_path_factory.mktemp("integrations"), delay_s=0.0) as made:
        made.engine()
        made.server()
        made.worker()
        yield made


def said(name: str, url: str, folder: Path, *command: str | Path) -> str:
    """What a program in the environment `name` prints; its files go to `folder`. Skips the test, loudly, where it is not made."""
    inside = ROOT / ".venv-integrations" / name / "bin"
    if not inside.exists():
        pytest.skip(f"{name} is NOT tested: `make integrations-env` makes its environment")
    ours = {
        "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "none", "HOME": str(folder), "PYTHONPATH": str(ROOT),
        "LANGASYNC_BASE_STORAGE_PATH": str(folder), "INSPECT_LOG_DIR": str(folder), "PREFECT_HOME": str(folder),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1",
    }  # fmt: skip
    program, *arguments = command
    done = subprocess.run(
        [inside / program, *arguments], env={**os.environ, **ours}, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def only_new_batch(stage: Stage, before: set[str]) -> Batch:
    """The one batch that was not there before."""
    with Client(stage.url, "") as client:
        (batch,) = (batch for batch in client.batches.list() if batch.id not in before)
    return batch


@pytest.fixture
def before(stage: Stage) -> set[str]:
    """The batches that there are already."""
    with Client(stage.url, "") as client:
        return {batch.id for batch in client.batches.list()}


def test_what_a_program_awaits_at_one_time_is_one_batch(stage: Stage, before: set[str], tmp_path: Path) -> None:
    told = said("autobatcher", stage.url, tmp_path, "python", EXAMPLES / "autobatcher_gather.py", "tiny", f"{stage.url}/v1")
    assert "Why do cats purr? purr? cats do Why\n" in told
    assert only_new_batch(stage, before).request_counts.completed == 3


def test_a_chain_of_langchain_is_one_batch(stage: Stage, before: set[str], tmp_path: Path) -> None:
    told = said("langchain", stage.url, tmp_path, "python", EXAMPLES / "langchain_batch.py", "tiny")
    assert told.endswith("wind: wind about word a Say\nsun: sun about word a Say\nrain: rain about word a Say\n")
    assert only_new_batch(stage, before).request_counts.completed == 3


def test_an_evaluation_of_inspect_is_one_batch(stage: Stage, before: set[str], tmp_path: Path) -> None:
    command: list[Any] = ["inspect", "eval", EXAMPLES / "inspect_eval.py", "--model", "openai/tiny", "--batch"]
    told = said("inspect", stage.url, tmp_path, *command, "--display", "plain")
    assert re.search(r"Created batch batch_\w+ with 3 requests", told)
    assert "capitals (3 samples): openai/tiny" in told
    assert "accuracy" in told
    assert only_new_batch(stage, before).request_counts.completed == 3


def test_a_task_of_prefect_is_one_batch(stage: Stage, before: set[str], tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(f"the text {name}")
    said("prefect", stage.url, tmp_path, "python", EXAMPLES / "prefect_flow.py", "tiny", tmp_path, stage.url)
    batch = only_new_batch(stage, before)
    assert (batch.status, batch.request_counts.completed) == ("completed", 2)


@pytest.mark.engine
async def test_instructor_gets_objects_of_its_type(vllm: VllmEngine, tmp_path: Path) -> None:
    """A schema goes through the batch file to the engine, which is held to it, and what comes back is read by it."""
    stop = asyncio.Event()
    with live_server(tmp_path / "server") as server:
        worker = asyncio.create_task(run_worker(Worker(engine_url=vllm.url), "local", server.url, stop=stop))
        try:
            command = ("python", EXAMPLES / "instructor_extract.py", "tiny")
            told = await asyncio.to_thread(said, "instructor", server.url, tmp_path, *command)
        finally:
            stop.set()
            await asyncio.gather(worker, return_exceptions=True)
    assert len(re.findall(r"[.] (?:good|bad)$", told, re.MULTILINE)) == 3, told

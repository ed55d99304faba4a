"""The wheel as a stranger gets it: in clean environments, by extras, from an empty folder. Needs a package registry."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine_fixture import real_engine
from tests.test_examples import served
from tools.make_env import uv

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.long
CLEAN = {key: value for key, value in os.environ.items() if not key.startswith(("BATCHSCHED_", "PYTHON", "VIRTUAL_ENV"))}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (made,) = folder.iterdir()
    return made


class Stranger:
    """An empty folder with an environment in it."""

    def __init__(self, folder: Path, *requirements: str) -> None:
        self.folder = folder
        self.python = folder / ".venv" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
        uv(self.python, "install", *requirements)

    def types(self, *words: str) -> subprocess.CompletedProcess[str]:
        """What comes of a command."""
        environment = {**CLEAN, "HOME": str(self.folder)}
        command = [str(self.python.with_name("batchsched")), *words]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    def brings(self) -> set[str]:
        """The packages in the environment."""
        listed = subprocess.run(
            [self.python, "-c", "import importlib.metadata as m; print(*{d.name.lower() for d in m.distributions()})"],
            capture_output=True,
            text=True,
            check=True,
        )
        return set(listed.stdout.split())


ROLES = {
    "": (["list", "--help"], ["worker", "--pool", "x"], "worker"),
    "[worker]": (["worker", "--help"], ["serve"], "server"),
    "[server]": (["serve", "--help"], ["worker", "--pool", "x"], "worker"),
    "[server,postgres,s3]": (["serve", "--help"], ["worker", "--pool", "x"], "worker"),
}


@pytest.mark.parametrize("extras", ROLES)
def test_each_extra_is_enough_for_its_role_and_brings_no_more(wheel: Path, extras: str, tmp_path: Path) -> None:
    works, lacks, needed = ROLES[extras]
    stranger = Stranger(tmp_path, f"{wheel}{extras}")
    for words in (["--version"], ["--help"], ["doctor"], works):
        done = stranger.types(*words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
    refused = stranger.types(*lacks)
    assert (refused.returncode, refused.stderr.splitlines()[-1]) == (2, f"Hint: pip install 'batchsched[{needed}]'")
    brings = stranger.brings()
    assert ("fastapi" in brings, "ortools" in brings) == (("server" in extras),) * 2
    assert ("aiohttp" in brings) == ("worker" in extras or "s3" in extras)
    assert ("psycopg" in brings, "s3fs" in brings) == ("postgres" in extras, "s3" in extras)
    assert not brings & {"vllm", "torch", "pytest", "openai"}


@pytest.mark.engine
def test_the_demo_runs_from_the_wheel_beside_an_engine(wheel: Path, tmp_path: Path) -> None:
    engine = Path(real_engine().python)
    stranger = Stranger(tmp_path, f"{wheel}[all]")
    without = stranger.types("demo")
    assert without.returncode == 1
    assert json.loads(without.stdout.splitlines()[-1])["demo"] == "failed"
    assert "Install one in an environment of its own: " in without.stdout
    (tmp_path / ".venv-engine").symlink_to(engine.parent.parent)
    done = stranger.types("demo")
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["demo"] == "ok", done.stdout[-4000:] + done.stderr[-4000:]
    assert last["requests"] == last["completed"] == 128
    assert b"<svg" in (tmp_path / ".demo" / "report.svg").read_bytes()


EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient

book = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(book, timeout=120).execute()
nbformat.write(book, sys.argv[2])
"""


async def test_the_notebook_runs_in_a_real_kernel(wheel: Path, tmp_path: Path) -> None:
    stranger = await asyncio.to_thread(Stranger, tmp_path, str(wheel), "nbclient", "ipykernel", "pandas")
    seen = tmp_path / "seen.ipynb"
    async with served(tmp_path) as server:
        environment = {**CLEAN, "HOME": str(tmp_path), "BATCHSCHED_WORKER_SERVER_URL": server.url}
        command = [str(stranger.python), "-c", EXECUTE, str(ROOT / "examples" / "notebook.ipynb"), str(seen)]
        process = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, env=environment)
        assert await process.wait() == 0
    shown = [
        "".join(output["data"].get("text/html") or output["data"]["text/plain"])
        for cell in json.loads(seen.read_text())["cells"]
        if cell["cell_type"] == "code"
        for output in cell["outputs"]
    ]
    told = ("tiny", "Batch batch_", "completed", "request-2", "<b>Report</b>", "data:image/svg+xml")
    assert len(shown) == len(told)
    for text, html in zip(told, shown, strict=True):
        assert text in html

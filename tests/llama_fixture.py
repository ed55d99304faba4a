"""llama.cpp's server by llama-cpp-python, on the tiny model as a GGUF file: one a session, started as a worker starts it."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from batchsched.executors.engine import VllmEngine
from batchsched.executors.engine_home import find_engine
from batchsched.fleet import Pool, ServedModel
from batchsched.settings import Worker
from tests.engine_fixture import ROOT

PYTHON = ROOT / ".venv-llama" / "bin" / "python"
KEY = "a key of this engine"


@pytest.fixture(scope="session")
def llama(tiny_model: ServedModel, tmp_path_factory: pytest.TempPathFactory) -> Generator[VllmEngine]:
    """A running server of llama-cpp-python that serves the tiny model as `tiny`."""
    yield from started(tiny_model, tmp_path_factory.mktemp("llama"))


@pytest.fixture
def guarded_llama(tiny_model: ServedModel, tmp_path: Path) -> Generator[VllmEngine]:
    """One that asks for a key."""
    yield from started(tiny_model, tmp_path, KEY)


def started(model: ServedModel, folder: Path, key: str = "") -> Generator[VllmEngine]:
    """A running server of its own; skips the test, loudly, where it is not installed."""
    if not PYTHON.exists():
        pytest.skip("llama.cpp is NOT tested: `make llama-env` makes .venv-llama (it compiles for some minutes)")
    file = folder / "tiny.gguf"
    subprocess.run([PYTHON, ROOT / "tests" / "tiny_gguf.py", model.path, file], check=True, capture_output=True)
    settings = Worker(state_dir=str(folder / "state"), startup_timeout_s=600, engine_api_key=key)
    engine = VllmEngine(find_engine(str(PYTHON)), Pool(engine="llama-cpp-python"), settings)
    asyncio.run(engine.start(ServedModel(str(file), max_model_len=512), "tiny"))
    yield engine
    asyncio.run(engine.stop())

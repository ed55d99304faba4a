"""How quickly the command line starts, and what an installation takes. The last line is JSON.

`python -m benchmarks.cli [--rounds 40] [--no-server]`. A wheel is built from this checkout and installed into environments of
their own, as by a user: once for the clients alone, once with `[server]`; `install_mb_*` is what their packages take, compiled
files included (pip and setuptools, which come with an environment, left out). In the first, `batchsched --help` is timed against
`python -c "import click"`, and `batchsched list` at a server with one batch against `python -c "import click, httpx"`: by turns,
whole processes, compiled files warm. Ratios are of medians, with a 95 % interval by drawing rounds again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from benchmarks.accept import server

ROOT = Path(__file__).resolve().parent.parent
DRAWS = 2000
OF_ANY = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence")
LINE = (
    b'{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", '
    b'"body": {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}}\n'
)


def main() -> int:
    """Install, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--no-server", action="store_true", help="leave out the size of the server's installation")
    asked = parser.parse_args()
    print(f"{os.cpu_count()} CPUs, {platform.system()} {platform.release()}, Python {platform.python_version()}")
    figures: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory(prefix="bench-cli-") as name:
        folder = Path(name)
        wheel = built(folder / "dist")
        python = installed(folder / "client", wheel)
        ours = str(python.parent / "batchsched")
        with server(folder / "server") as (url, _):
            submit(url)
            pairs = {
                "help": ((ours, "--help"), (str(python), "-c", "import click")),
                "list": ((ours, "list", "--server", url), (str(python), "-c", "import click, httpx")),
            }
            for key, (mine, bare) in pairs.items():
                figures[f"{key}_ratio"] = compared(key, mine, bare, asked.rounds, folder)
        figures["install_mb_client"] = size_mb(python)
        figures["install_mb_server"] = None if asked.no_server else size_mb(installed(folder / "full", f"{wheel}[server]"))
    for key in ("install_mb_client", "install_mb_server"):
        print(f"{key:<18} {figures[key]}")
    print(json.dumps(figures))
    return 0


def built(folder: Path) -> str:
    """The wheel of this checkout."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True, stdout=sys.stderr
    )
    (wheel,) = folder.iterdir()
    return str(wheel)


def installed(folder: Path, what: str) -> Path:
    """The Python of a fresh environment with it."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", what], check=True)
    return python


def size_mb(python: Path) -> float:
    """Megabytes of an environment's packages, without pip and setuptools."""
    packages = next((python.parent.parent / "lib").glob("python*")) / "site-packages"
    parts = [part for part in packages.iterdir() if not part.name.lower().startswith(OF_ANY)]
    files = (file for part in parts for file in (part.rglob("*") if part.is_dir() else [part]))
    return round(sum(file.stat().st_size for file in files if file.is_file()) / 1e6, 1)


def submit(url: str) -> None:
    """One batch, so that there is something to list."""
    with httpx.Client(base_url=url, timeout=60) as client:
        sent = client.post("/v1/files", files={"file": ("one.jsonl", LINE)}, data={"purpose": "batch"}).raise_for_status()
        asked = {"input_file_id": sent.json()["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        client.post("/v1/batches", json=asked).raise_for_status()


def compared(key: str, mine: Sequence[str], bare: Sequence[str], rounds: int, folder: Path) -> float:
    """The ratio of the medians of the two."""
    for command in (mine, bare):
        timed(command, folder)  # writes compiled files, warms the disk's cache
    pairs = [(timed(mine, folder), timed(bare, folder)) for _ in range(rounds)]
    ratio = _ratio(pairs)
    rng = random.Random(0)
    again = sorted(_ratio(rng.choices(pairs, k=rounds)) for _ in range(DRAWS))
    low, high = again[DRAWS // 40], again[-DRAWS // 40]
    ours_ms, bare_ms = (1000 * statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"{key:<6} {ours_ms:6.0f} ms against {bare_ms:6.0f} ms: {ratio:.2f} [{low:.2f}, {high:.2f}]", flush=True)
    return round(ratio, 3)


def _ratio(pairs: Sequence[tuple[float, float]]) -> float:
    ours, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    return float(ours / bare)


def timed(command: Sequence[str], folder: Path) -> float:
    """Seconds of a process from start to end."""
    environment = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE"}}
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, env=environment)
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())

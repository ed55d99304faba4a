"""Our worker, durable writes included, against vLLM's own run_batch: requests per second on the same engine settings.

Paired and alternating: each repetition runs both on the same file, in turn first. A fresh engine each time; its start-up is left
out of both. Theirs: from its log line "Reading batch from" to "Writing outputs to". Ours: a real server and a real worker, from
the creation of the batch (file uploaded, model loaded by a batch of one line before) until it is completed, result merged.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil

from batchsched.executors.engine_home import EngineHome, find_engine
from batchsched.executors.launch import environment
from batchsched.executors.tether import tethered
from benchmarks.executor_requests import Workload, chats, questions

ROOT = Path(__file__).resolve().parent.parent
WARM_UP = json.dumps(
    {
        "custom_id": "warm-up",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "tiny", "messages": [{"role": "user", "content": "Ready?"}], "max_tokens": 1},
    }
).encode()
_EAGER = {"cpu": ["--enforce-eager"], "gpu": []}


class Rate(NamedTuple):
    """Requests per second, and what the worker itself took of a core meanwhile, in per cent (0 for theirs)."""

    requests_per_s: float
    worker_cpu_pct: float = 0.0


def main() -> int:
    """Run it; the last line printed is JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="one repetition of 300 and 150 requests: a glance, not a figure")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only", choices=("chats", "questions"), help="one workload")
    parser.add_argument("--model", type=Path, default=ROOT / ".models" / "tiny")
    args = parser.parse_args()
    count, repetitions = (300, 1) if args.quick else (args.requests, args.repetitions)
    home = find_engine()
    _print_machine(home)
    summary: dict[str, float] = {"requests": count}
    with tempfile.TemporaryDirectory(prefix="bench-executor-") as name:
        folder = Path(name)
        for workload in (chats(folder, count), questions(folder, count // 2)):
            if args.only in {None, workload.name}:
                print(f"{workload.words}; {workload.tokens} tokens to write. Both sides: {' '.join(workload.flags)}", flush=True)
                pairs = [_pair(home, args.model.absolute(), folder, workload, index) for index in range(repetitions)]
                summary |= _summed(workload, pairs)
    print(json.dumps({key: round(value, 4) for key, value in summary.items()}))
    return 0


def _summed(workload: Workload, pairs: list[tuple[Rate, Rate]]) -> dict[str, float]:
    ratios = [ours.requests_per_s / theirs.requests_per_s for ours, theirs in pairs]
    name = "ratio" if workload.name == "chats" else "shared_prefix_ratio"
    figures = {name: statistics.median(ratios), f"{name}_min": min(ratios), f"{name}_max": max(ratios)}
    if workload.name == "chats":
        figures["worker_cpu_pct"] = statistics.median(ours.worker_cpu_pct for ours, _ in pairs)
        figures["requests_per_s"] = statistics.median(ours.requests_per_s for ours, _ in pairs)
    return figures


def _pair(home: EngineHome, model: Path, folder: Path, workload: Workload, index: int) -> tuple[Rate, Rate]:
    """One repetition: ours and theirs; who goes first alternates."""
    runs = {"ours": _ours, "theirs": _theirs}
    order = ("theirs", "ours") if index % 2 == 0 else ("ours", "theirs")
    rates: dict[str, Rate] = {}
    for name in order:
        here = folder / f"{workload.name}-{index}-{name}"
        here.mkdir()
        rates[name] = runs[name](home, model, workload, here)
    ours, theirs = rates["ours"], rates["theirs"]
    print(
        f"repetition {index + 1}: ours {ours.requests_per_s:7.2f} req/s   run_batch {theirs.requests_per_s:7.2f} req/s   "
        f"ratio {ours.requests_per_s / theirs.requests_per_s:.3f}   our worker {ours.worker_cpu_pct:.1f} % of a core, "
        f"{10 * ours.worker_cpu_pct / ours.requests_per_s:.2f} ms a request",
        flush=True,
    )
    return ours, theirs


def _theirs(home: EngineHome, model: Path, workload: Workload, folder: Path) -> Rate:
    """By run_batch."""
    command = [home.python, "-m", "vllm.entrypoints.openai.run_batch", "-i", str(workload.path), "-o", str(folder / "out.jsonl")]
    command += ["--model", str(model), "--served-model-name", "tiny", *_EAGER[home.device], *workload.flags]
    began = ended = 0.0
    tail: list[str] = []
    streams: dict[str, Any] = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(tethered(command), cwd=folder, env=environment(home, os.environ), **streams) as process:
        assert process.stdout is not None
        for line in process.stdout:
            tail = [*tail[-20:], line]
            if "Reading batch from" in line:
                began = time.monotonic()
            elif "Writing outputs to" in line:
                ended = time.monotonic()
    lines = (folder / "out.jsonl").read_text("utf-8").splitlines() if ended else []
    if sum(json.loads(line)["error"] is None for line in lines) != workload.requests or not began:
        raise SystemExit("run_batch did not answer every request:\n" + "".join(tail))
    return Rate(workload.requests / (ended - began))


def _ours(home: EngineHome, model: Path, workload: Workload, folder: Path) -> Rate:
    """From the creation of the batch to its completion."""
    config = folder / "batchsched.toml"
    flags = ", ".join(json.dumps(flag) for flag in workload.flags)
    config.write_text(
        f"""
[server]
port = 0
data_dir = {json.dumps(str(folder / "data"))}
[worker]
engine_python = {json.dumps(home.python)}
state_dir = {json.dumps(str(folder / "worker"))}
engine_tries = 1
[sites.home]
zone = "DE"
[pools.local]
gpu = "cpu"
engine_args = [{flags}]
[models.tiny]
path = {json.dumps(str(model))}
""",
        "utf-8",
    )
    with _process(folder, "serve", "--config", str(config)) as server:
        assert server.stdout is not None
        url = next(word for word in server.stdout.readline().split() if word.startswith("http"))
        arguments = ("worker", "--config", str(config), "--server", url, "--pool", "local")
        with _process(folder, *arguments) as worker, httpx.Client(base_url=url, timeout=60) as client:
            _run(client, _upload(client, WARM_UP), 1)
            file_id = _upload(client, workload.path.read_bytes())
            before_s = _cpu_s(worker)
            took_s = _run(client, file_id, workload.requests)
            return Rate(workload.requests / took_s, 100 * (_cpu_s(worker) - before_s) / took_s)


def _cpu_s(worker: subprocess.Popen[str]) -> float:
    """Seconds of a core that it has taken, the engine under it left out."""
    times = psutil.Process(worker.pid).cpu_times()
    return float(times.user + times.system)


@contextmanager
def _process(folder: Path, *arguments: str) -> Generator[subprocess.Popen[str]]:
    with (folder / f"{arguments[0]}.log").open("w", encoding="utf-8") as log:
        command = tethered([sys.executable, "-P", "-m", "batchsched.cli", *arguments])
        process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _upload(client: httpx.Client, data: bytes) -> str:
    answer = client.post("/v1/files", files={"file": ("requests.jsonl", data)}, data={"purpose": "batch"})
    return str(answer.raise_for_status().json()["id"])


def _run(client: httpx.Client, file_id: str, count: int) -> float:
    began = time.monotonic()
    request = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "1h"}
    batch: dict[str, Any] = client.post("/v1/batches", json=request).raise_for_status().json()
    client.post(f"/v1/batchsched/batches/{batch['id']}/start").raise_for_status()  # at once, whatever the plan would say
    while batch["status"] not in {"completed", "failed", "expired", "cancelled"}:
        time.sleep(0.1)
        batch = client.get(f"/v1/batches/{batch['id']}").raise_for_status().json()
        if time.monotonic() - began > 1800:
            raise SystemExit(f"Ours hangs: {batch}")
    took_s = time.monotonic() - began
    if batch["request_counts"] != {"total": count, "completed": count, "failed": 0}:
        raise SystemExit(f"Ours did not answer every request: {batch}")
    return took_s


def _print_machine(home: EngineHome) -> None:
    cpu = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    print(f"{os.cpu_count()} x {cpu}, {platform.system()} {platform.release()}, Python {platform.python_version()}")
    print(f"Engine: {home.describe()}", flush=True)


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


if __name__ == "__main__":
    sys.exit(main())

"""Our worker, durable writes included, against vLLM's own run_batch: requests per second on the same engine settings.

Paired and alternating: each repetition runs both on the same file, in turn first. A fresh engine each time; its start-up is left
out of both. Theirs: from its log line "Reading batch from" to "Writing outputs to". Ours: a real server and a real worker, from
the creation of the batch (file uploaded, model loaded by a batch of one line before) until it is completed, result merged.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from batchsched.executors.engine_home import EngineHome, find_engine
from batchsched.executors.launch import environment
from batchsched.executors.tether import tethered

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("BATCHSCHED_DATA", ROOT.parent / "shared" / "data"))
CONTEXT_TOKENS = 512
CHAT_TOKENS = 20  # what the chat template adds to a prompt, rounded up
FLAGS = ["--max-model-len", str(CONTEXT_TOKENS), "--max-num-seqs", "128", "--no-enable-prefix-caching"]
TEXT = "A batch of requests can wait for the wind to blow and for the sun to shine before it runs"
# Helix's sample of ShareGPT (Apache-2.0), as in token_length_percentiles.csv: for a machine that has not got the data folder.
SHAREGPT = {
    "input": {"p5": 5, "p10": 7, "p25": 10, "p50": 20, "p75": 56, "p90": 198, "p95": 384, "p99": 780, "max": 1023},
    "output": {"p5": 30, "p10": 60, "p25": 128, "p50": 217, "p75": 308, "p90": 409, "p95": 483, "p99": 607, "max": 1046},
}


def main() -> int:
    """Run it; the last line printed is JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="one repetition of 300 requests: a glance, not a figure")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--model", type=Path, default=ROOT / ".models" / "tiny")
    args = parser.parse_args()
    count, repetitions = (300, 1) if args.quick else (args.requests, args.repetitions)
    home = find_engine()
    _print_machine(home)
    with tempfile.TemporaryDirectory(prefix="bench-executor-") as name:
        folder = Path(name)
        tokens = write_requests(folder / "requests.jsonl", count)
        print(f"{count} chat requests, lengths as ShareGPT's scaled to a context of {CONTEXT_TOKENS}; {tokens} tokens to write.")
        pairs = [_pair(home, args.model.absolute(), folder, index, count) for index in range(repetitions)]
    ratios = [ours / theirs for ours, theirs in pairs]
    summary = {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios), "requests": count}
    print(json.dumps({key: round(value, 4) for key, value in summary.items()}))
    return 0


def _pair(home: EngineHome, model: Path, folder: Path, index: int, count: int) -> tuple[float, float]:
    """One repetition: requests per second of ours and of theirs; who goes first alternates."""
    runs = {"ours": _ours, "theirs": _theirs}
    order = ("theirs", "ours") if index % 2 == 0 else ("ours", "theirs")
    rates: dict[str, float] = {}
    for name in order:
        here = folder / f"{index}-{name}"
        here.mkdir()
        rates[name] = count / runs[name](home, model, folder / "requests.jsonl", here, count)
    ours, theirs = rates["ours"], rates["theirs"]
    print(
        f"repetition {index + 1}: ours {ours:7.2f} req/s   run_batch {theirs:7.2f} req/s   ratio {ours / theirs:.3f}", flush=True
    )
    return ours, theirs


def write_requests(path: Path, count: int) -> int:
    """A batch file of greedy requests of fixed lengths, drawn from a seed; returns the tokens that they ask for."""
    draw = random.Random(0)
    lengths = _lengths()
    scale = (CONTEXT_TOKENS - CHAT_TOKENS) / (lengths["input"]["max"] + lengths["output"]["max"])
    asked = 0
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            words = draw.choices(TEXT.split(), k=max(1, round(scale * _draw(lengths["input"], draw.random()))))
            output = max(1, round(scale * _draw(lengths["output"], draw.random())))
            asked += output
            body = {"model": "tiny", "messages": [{"role": "user", "content": " ".join(words)}], "max_tokens": output}
            body |= {"temperature": 0, "ignore_eos": True}
            line = {"custom_id": f"request-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")
    return asked


def _lengths() -> dict[str, dict[str, float]]:
    path = DATA / "token_length_percentiles.csv"
    if not path.is_file():
        print(f"{path} is not there (set BATCHSCHED_DATA): using the same percentiles as written down in this file.")
        return {what: dict(row) for what, row in SHAREGPT.items()}
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"].startswith("ShareGPT")]
    return {row["what"]: {name: float(row[name]) for name in SHAREGPT["input"]} for row in rows}


def _draw(percentiles: dict[str, float], u: float) -> float:
    """The value at quantile `u`, straight lines between the percentiles."""
    points = [(0.0, 1.0)]
    points += [(1.0 if name == "max" else float(name[1:]) / 100, value) for name, value in percentiles.items()]
    for (low, at_low), (high, at_high) in itertools.pairwise(points):
        if u <= high:
            return at_low + (at_high - at_low) * (u - low) / (high - low)
    raise AssertionError("a quantile is at most 1")


def _theirs(home: EngineHome, model: Path, requests: Path, folder: Path, count: int) -> float:
    """Seconds that run_batch took."""
    command = [home.python, "-m", "vllm.entrypoints.openai.run_batch", "-i", str(requests), "-o", str(folder / "out.jsonl")]
    command += ["--model", str(model), "--served-model-name", "tiny", *(["--enforce-eager"] * (home.device == "cpu")), *FLAGS]
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
    if sum(json.loads(line)["error"] is None for line in lines) != count or not began:
        raise SystemExit("run_batch did not answer every request:\n" + "".join(tail))
    return ended - began


def _ours(home: EngineHome, model: Path, requests: Path, folder: Path, count: int) -> float:
    """Seconds from the creation of the batch to its completion."""
    config = folder / "batchsched.toml"
    flags = ", ".join(json.dumps(flag) for flag in FLAGS)
    config.write_text(
        f"""
[server]
port = 0
data_dir = {json.dumps(str(folder / "data"))}
[worker]
engine_python = {json.dumps(home.python)}
state_dir = {json.dumps(str(folder / "worker"))}
engine_tries = 1
[planner]
slot_s = 86400  # one slot: the whole run lies in it, so there is nothing to wait for
long_slot_s = 86400
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
        with _process(folder, *arguments), httpx.Client(base_url=url, timeout=60) as client:
            first = requests.read_bytes().split(b"\n", 1)[0]
            _run(client, _upload(client, first), 1)
            file_id = _upload(client, requests.read_bytes())
            return _run(client, file_id, count)


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
    print(f"Engine: {home.describe()}; both sides: {' '.join(FLAGS)}", flush=True)


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


if __name__ == "__main__":
    sys.exit(main())

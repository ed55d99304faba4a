"""How long a server takes to accept a large batch, and in how much memory, against a bare loop that parses the same lines.

`python benchmarks/accept.py --requests 1000000`: the last line is JSON. In each repetition, on the same file and machine:
a real `batchsched serve` gets the file through the SDK, over HTTP, until the batch is `in_progress`: sent, checked, synced to the
disk, cut into chunks. Then a tenth of the chunks is answered and the batch is cancelled, so that as many results are merged as
there were requests; the results are read before that, and from there on after it. The loop, before and after it, reads every line
and parses it with the standard library's json. The memory is the server's resident set, sampled all along.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx

from batchsched.client import Batch, Client

ROOT = Path(__file__).resolve().parent.parent
PREFIX = "/v1/batchsched"
SAMPLE_S = 0.02
WORDS = "the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which one you"

CONFIG = """
[server]
port = {port}
data_dir = "{data}"
[sites.home]
zone = "WORLD"
[pools.local]
gpu = "cpu"
[models.tiny]
[planner]
solver = "greedy"
"""


def measure(requests: int, repetitions: int, folder: Path) -> dict[str, Any]:
    """Medians over the repetitions: `accept_ratio` (our seconds / the loop's), peaks of memory (`..._rss_mb`)."""
    path = folder / "accept.jsonl"
    write_requests(path, requests)
    runs: list[dict[str, float]] = []
    for number in range(repetitions):
        with server(folder / f"accept-{number}") as (url, process):
            before_s = loop_s(path)
            ours = accept(url, process.pid, path)
            runs.append({"loop_s": (before_s + loop_s(path)) / 2, **ours})
        shutil.rmtree(folder / f"accept-{number}")
        print("  " + ", ".join(f"{name} {value:.2f}" for name, value in runs[-1].items()), flush=True)
    ratios = [run["accept_s"] / run["loop_s"] for run in runs]
    size_mb = path.stat().st_size / 1e6
    path.unlink()
    return {
        "accept_ratio": round(statistics.median(ratios), 3),
        "accept_ratio_spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "accept_rss_mb": round(max(run["accept_rss_mb"] for run in runs), 1),
        "merge_rss_mb": round(max(run["merge_rss_mb"] for run in runs), 1),
        "read_rss_mb": round(max(run["read_rss_mb"] for run in runs), 1),
        "requests": requests,
        "file_mb": round(size_mb, 1),
    }


def write_requests(path: Path, count: int) -> None:
    """Chat requests of about 600 bytes, their lengths spread as those of conversations are."""
    choose = random.Random(7)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            text = " ".join(choose.choices(WORDS.split(), k=max(3, min(600, int(choose.lognormvariate(4.3, 0.7))))))
            body = {"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 256, "temperature": 0.7}
            line = {"custom_id": f"request-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")


def loop_s(path: Path) -> float:
    """Seconds of the bare loop."""
    began = time.perf_counter()
    with path.open("rb") as file:
        for line in file:
            json.loads(line)
    return time.perf_counter() - began


def accept(url: str, pid: int, path: Path) -> dict[str, float]:
    """Upload and submit, then answer some and cancel."""
    with Client(url, "") as client, httpx.Client(base_url=url, timeout=600) as http:
        with peak(pid) as accept_mb:
            began = time.perf_counter()
            file = client.files.create(path)
            uploaded = time.perf_counter()
            batch = client.batches.create(input_file_id=file.id)
            batch = until(client, batch.id, "in_progress")
            accept_s = time.perf_counter() - began
        answer(http, max(1, batch.request_counts.total // 200 // 10))
        with peak(pid) as early_mb:
            cursor = read(http, batch.id, "")
        with peak(pid) as merge_mb:
            began_merge = time.perf_counter()
            client.batches.cancel(batch.id)
            until(client, batch.id, "cancelled")
            merge_s = time.perf_counter() - began_merge
        with peak(pid) as late_mb:
            for since in (cursor, ""):
                read(http, batch.id, since)
    peaks = {"accept_rss_mb": max(accept_mb), "merge_rss_mb": max(merge_mb), "read_rss_mb": max(*early_mb, *late_mb)}
    return {"accept_s": accept_s, "upload_s": uploaded - began, "merge_s": merge_s, **peaks}


def until(client: Client, batch_id: str, status: str) -> Batch:
    """Look until it has this status; the pause is a thousandth of what is measured."""
    while (batch := client.batches.retrieve(batch_id)).status != status:
        if batch.done:
            raise RuntimeError(f"the batch is {batch.status}: {batch.errors}")
        time.sleep(0.01)
    return batch


def answer(http: httpx.Client, chunks: int) -> None:
    """Play the worker: deliver a result for every line of so many chunks."""
    worker = http.post(f"{PREFIX}/workers", json={"pool": "local", "host": "bench", "pid": os.getpid()}).json()["worker_id"]
    text = "an answer of some words " * 20
    while chunks > 0:
        asked = {"worker_id": worker, "max_chunks": 10, "ready_models": ["tiny"]}
        for lease in http.post(f"{PREFIX}/leases", json=asked).json()["leases"]:
            results = [result(line, text) for line in range(lease["first_line"], lease["first_line"] + lease["lines"])]
            message = {"token": lease["token"], "results": results}
            http.post(f"{PREFIX}/leases/{lease['chunk_id']}/results", json=message).raise_for_status()
            http.post(f"{PREFIX}/leases/{lease['chunk_id']}/finish", json={"token": lease["token"]}).raise_for_status()
            chunks -= 1


def read(http: httpx.Client, batch_id: str, cursor: str) -> str:
    """Read a batch's results from a cursor on; the next cursor."""
    with http.stream("GET", f"{PREFIX}/batches/{batch_id}/results", params={"cursor": cursor} if cursor else {}) as answer:
        answer.raise_for_status()
        for _ in answer.iter_bytes():
            pass
        return str(answer.headers["x-batchsched-cursor"])


def result(line: int, text: str) -> dict[str, Any]:
    """One finished request."""
    body = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}
    output: dict[str, Any] = {"id": f"batch_req_{line}", "custom_id": f"request-{line - 1}", "error": None}
    output |= {"response": {"status_code": 200, "request_id": str(line), "body": body}}
    return {"line": line, "ok": True, "input_tokens": 90, "cached_tokens": 0, "output_tokens": 100, "output": output}


@contextlib.contextmanager
def server(folder: Path) -> Generator[tuple[str, subprocess.Popen[bytes]]]:
    """A server process of its own, with its data in `folder`."""
    folder.mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    (folder / "batchsched.toml").write_text(CONFIG.format(port=port, data=folder / "data"), "utf-8")
    command = [sys.executable, "-m", "batchsched.cli", "serve", "--config", str(folder / "batchsched.toml")]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        ready(url, process)
        yield url, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until it answers."""
    while process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        time.sleep(0.1)
    raise RuntimeError("the server did not start; see server.log")


@contextlib.contextmanager
def peak(pid: int) -> Generator[list[float]]:
    """Samples of a process's resident megabytes."""
    samples, over = [0.0], threading.Event()
    page_mb = os.sysconf("SC_PAGE_SIZE") / 1e6

    def sample() -> None:
        while not over.wait(SAMPLE_S):
            samples.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page_mb)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--repetitions", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(asked.requests, asked.repetitions, Path(folder))))


if __name__ == "__main__":
    main()

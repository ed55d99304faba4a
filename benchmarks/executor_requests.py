"""The requests of the executor's benchmark: chats of many lengths, and questions about documents that many of them share."""

from __future__ import annotations

import csv
import itertools
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("BATCHSCHED_DATA", ROOT.parent / "shared" / "data"))
CONTEXT_TOKENS = 512
CHAT_TOKENS = 20  # what the chat template adds to a prompt, rounded up
DOCUMENTS, QUESTIONS, DOCUMENT_TOKENS = 50, 4, 390
"""Four questions about each of fifty documents, question by question, then fifty others. A document fills three blocks of 128."""
CACHE_BLOCKS = 128
"""Of 128 tokens: room for some thirty requests that share nothing, as long documents leave on a GPU."""
_FLAGS = ["--max-model-len", str(CONTEXT_TOKENS), "--max-num-seqs", "128"]
TEXT = "A batch of requests can wait for the wind to blow and for the sun to shine before it runs"
# Helix's sample of ShareGPT (Apache-2.0), as in token_length_percentiles.csv: for a machine that has not got the data folder.
SHAREGPT = {
    "input": {"p5": 5, "p10": 7, "p25": 10, "p50": 20, "p75": 56, "p90": 198, "p95": 384, "p99": 780, "max": 1023},
    "output": {"p5": 30, "p10": 60, "p25": 128, "p50": 217, "p75": 308, "p90": 409, "p95": 483, "p99": 607, "max": 1046},
}


class Workload(NamedTuple):
    """A batch file and the flags of the engine that runs it, on both sides. `tokens`: what its answers have in all."""

    name: str
    path: Path
    flags: list[str]
    requests: int
    tokens: int
    words: str


def chats(folder: Path, count: int) -> Workload:
    """Chats that share nothing, of fixed lengths drawn from a seed as ShareGPT's; no prefix cache."""
    draw, lengths = random.Random(0), _lengths()
    scale = (CONTEXT_TOKENS - CHAT_TOKENS) / (lengths["input"]["max"] + lengths["output"]["max"])

    def prompts() -> Iterator[tuple[str, int]]:
        for _ in range(count):
            words = draw.choices(TEXT.split(), k=max(1, round(scale * _draw(lengths["input"], draw.random()))))
            yield " ".join(words), max(1, round(scale * _draw(lengths["output"], draw.random())))

    tokens = _write(folder / "chats.jsonl", prompts())
    words = f"{count} chats, lengths as ShareGPT's scaled to a context of {CONTEXT_TOKENS}, no prefix cache"
    return Workload("chats", folder / "chats.jsonl", [*_FLAGS, "--no-enable-prefix-caching"], count, tokens, words)


def questions(folder: Path, count: int) -> Workload:
    """Questions about documents that do not all fit into the KV cache at once; prefix cache on."""
    draw = random.Random(1)

    def prompts() -> Iterator[tuple[str, int]]:
        while True:
            documents = [" ".join(draw.choices(TEXT.split(), k=DOCUMENT_TOKENS)) for _ in range(DOCUMENTS)]
            for _, document in itertools.product(range(QUESTIONS), documents):
                yield f"{document} {' '.join(draw.choices(TEXT.split(), k=10))}", draw.randint(8, 64)

    tokens = _write(folder / "questions.jsonl", itertools.islice(prompts(), count))
    words = (
        f"{count} questions about {-(-count // QUESTIONS)} documents of {DOCUMENT_TOKENS} tokens, {QUESTIONS} about each, "
        f"{DOCUMENTS} questions apart; prefix cache on, of {CACHE_BLOCKS} blocks"
    )
    flags = [*_FLAGS, "--enable-prefix-caching", "--num-gpu-blocks-override", str(CACHE_BLOCKS)]
    return Workload("questions", folder / "questions.jsonl", flags, count, tokens, words)


def _write(path: Path, prompts: Iterator[tuple[str, int]]) -> int:
    """A batch file of greedy requests; returns the tokens that they ask for."""
    asked = 0
    with path.open("w", encoding="utf-8") as file:
        for number, (prompt, output) in enumerate(prompts):
            asked += output
            body: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": prompt}], "max_tokens": output}
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

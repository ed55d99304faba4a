"""The files that the executor's benchmark runs are what it says they are."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from batchsched.executors.demand import demand_of
from batchsched.executors.order import arranged
from batchsched.lines import CHAT
from benchmarks.executor_requests import CONTEXT_TOKENS, DOCUMENT_TOKENS, DOCUMENTS, QUESTIONS, Workload, chats, questions

CHUNK = DOCUMENTS * QUESTIONS


def bodies(workload: Workload) -> list[dict[str, object]]:
    """Of its requests."""
    return [json.loads(line)["body"] for line in workload.path.read_text("utf-8").splitlines()]


def prompt(body: dict[str, object]) -> list[str]:
    """Its words, each about a token of the tiny model."""
    messages = body["messages"]
    assert isinstance(messages, list)
    return str(messages[0]["content"]).split()


def test_chats_fit_into_the_context_and_are_the_same_each_time(tmp_path: Path) -> None:
    workload = chats(tmp_path, 300)
    made = bodies(workload)
    assert len(made) == workload.requests == 300
    assert sum(int(str(body["max_tokens"])) for body in made) == workload.tokens
    assert all(len(prompt(body)) + int(str(body["max_tokens"])) < CONTEXT_TOKENS for body in made)
    before = workload.path.read_bytes()
    assert chats(tmp_path, 300).path.read_bytes() == before


def test_questions_about_a_document_lie_apart_in_the_file_and_our_order_brings_them_together(tmp_path: Path) -> None:
    made = bodies(questions(tmp_path, 2 * CHUNK))
    documents = [" ".join(prompt(body)[:DOCUMENT_TOKENS]) for body in made]
    assert len(set(documents)) == 2 * DOCUMENTS
    assert documents[:DOCUMENTS] == documents[DOCUMENTS : 2 * DOCUMENTS]
    assert len({str(body["messages"]) for body in made}) == 2 * CHUNK
    openings = [demand_of(json.dumps(body).encode(), CHAT)[1] for body in made[:CHUNK]]
    order = arranged(enumerate(openings))
    runs = [len(list(run)) for _, run in itertools.groupby(documents[number] for number in order)]
    assert runs == [QUESTIONS] * DOCUMENTS

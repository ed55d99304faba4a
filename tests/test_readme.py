"""README.md, typed from an empty folder: its commands and its programs, the tests' counting engine in the place of vLLM."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.pages import ROOT, blocks
from tests.processes import Stage
from tests.test_how_tos import Reader

pytestmark = pytest.mark.slow
MODEL = "Qwen/Qwen3-8B"


@pytest.fixture
def reader(tmp_path: Path) -> Generator[Reader]:
    """Somebody who has README.md alone."""
    with Stage(tmp_path, delay_s=0.02) as stage:
        stage.config.unlink()
        stage.engine()
        yield Reader(stage, str(ROOT / "README.md"))


def typed(reader: Reader, text: str) -> str:
    """What the page says, with the counting engine's model, the reader's own port, and less patience."""
    return text.replace(MODEL, "tiny").replace("http://127.0.0.1:8424", reader.stage.url).replace('"6h"', '"2m"')


def test_a_stranger_gets_answers_from_a_file_a_client_and_a_loop(reader: Reader) -> None:
    folder = reader.stage.folder
    _, one_file, server = (typed(reader, text) for text in reader.blocks(""))
    of_openai, ours = (typed(reader, block.text) for block in blocks(ROOT / "README.md", "python"))
    said = reader.types(f"set -e\n{one_file.replace('--deadline 6h', '--deadline 2m')}")
    assert "engine" in said
    assert (folder / "requests.batchsched" / "output.jsonl").read_text().count("\n") == 2
    init, model, serve, worker = server.strip().splitlines()
    reader.types(init)
    reader.types(model)
    assert serve.startswith("batchsched serve")
    reader.serves()
    reader.starts(worker.partition("   #")[0], "worker")
    (folder / "of_openai.py").write_text(of_openai)
    reader.types(f"{sys.executable} of_openai.py")
    (batch_id,) = reader.types("batchsched list -q").split()
    assert "completed" in reader.types(f"batchsched wait {batch_id}")
    (folder / "ours.py").write_text(ours)
    assert len(reader.types(f"{sys.executable} ours.py").splitlines()) == 2

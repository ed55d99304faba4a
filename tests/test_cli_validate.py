"""`batchsched validate`: one test a rule of the batch file's contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from batchsched.cli import exits
from batchsched.cli.main import main
from batchsched.fleet import GPU_TYPES

CHAT, EMBED = "/v1/chat/completions", "/v1/embeddings"


def line(number: int = 1, *, body: dict[str, Any] | None = None, without: str = "", **changes: Any) -> str:
    """A sound chat request, changed as asked."""
    made: dict[str, Any] = {
        "custom_id": f"r{number}",
        "method": "POST",
        "url": CHAT,
        "body": {"model": "m", "messages": [{"role": "user", "content": "hi"}], **(body or {})},
        **changes,
    }
    made["body"] = {key: value for key, value in made["body"].items() if value is not ...}
    return json.dumps({key: value for key, value in made.items() if key != without})


def verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, *flags: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of `validate` on a file with this content."""
    file = tmp_path / "in.jsonl"
    file.write_text(content, "utf-8")
    with pytest.raises(SystemExit) as stop:
        main(["validate", str(file), "--json", *flags])
    printed = capsys.readouterr().out
    assert isinstance(stop.value.code, int)
    return stop.value.code, json.loads(printed)


def test_a_sound_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = verdict(tmp_path, capsys, f"{line(1)}\n\n{line(2)}\n")
    assert code == exits.OK
    assert (found["valid"], found["requests"], found["endpoint"], found["model"], found["errors"]) == (True, 2, CHAT, "m", [])


RULES = [
    ("invalid_json_line", None, "{not json"),
    ("invalid_json_line", None, '["an array"]'),
    ("missing_required_parameter", "custom_id", line(2, without="custom_id")),
    ("missing_required_parameter", "method", line(2, without="method")),
    ("missing_required_parameter", "url", line(2, without="url")),
    ("missing_required_parameter", "body", line(2, without="body")),
    ("invalid_value", "method", line(2, method="GET")),
    ("invalid_url", "url", line(2, url=EMBED)),
    ("streaming_unsupported", "body.stream", line(2, body={"stream": True})),
    ("invalid_request", "body.model", line(2, body={"model": ...})),
    ("invalid_request", "body.messages", line(2, body={"messages": ...})),
    ("duplicate_custom_id", "custom_id", line(1)),
    ("model_mismatch", "body.model", line(2, body={"model": "other"})),
    ("invalid_type", "custom_id", line(2, custom_id=7)),
    ("invalid_type", "body", '{"custom_id": "r2", "method": "POST", "url": "/v1/chat/completions", "body": "text"}'),
]


@pytest.mark.parametrize(("code", "param", "bad"), RULES, ids=[f"{code}-{param}-{n}" for n, (code, param, _) in enumerate(RULES)])
def test_a_bad_line_is_named_with_its_number(
    code: str, param: str | None, bad: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code, found = verdict(tmp_path, capsys, f"{line(1)}\n\n{bad}\n{line(3)}\n")
    assert exit_code == exits.USAGE
    assert found["valid"] is False
    [error] = found["errors"]
    assert (error["code"], error["param"], error["line"]) == (code, param, 3)


def test_a_model_that_is_not_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exit_code, found = verdict(tmp_path, capsys, line(1), "--model", "served")
    assert exit_code == exits.USAGE
    assert (found["errors"][0]["code"], found["errors"][0]["param"]) == ("model_not_found", "body.model")


def test_an_empty_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exit_code, found = verdict(tmp_path, capsys, "\n \n")
    assert exit_code == exits.USAGE
    assert found["errors"][0]["code"] == "empty_file"


def test_a_url_that_is_not_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exit_code, found = verdict(tmp_path, capsys, line(1, url="/v1/moderations"))
    assert exit_code == exits.USAGE
    assert found["errors"][0]["code"] == "invalid_url"


def test_the_configuration_says_what_is_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "batchsched.toml"
    config.write_text('[server]\nallow_fields = ["vllm_xargs"]\nmax_lines = 2\n', "utf-8")
    odd = line(1, body={"vllm_xargs": {}})
    assert verdict(tmp_path, capsys, odd)[1]["errors"][0]["code"] == "forbidden_field"
    assert verdict(tmp_path, capsys, odd, "--config", str(config))[0] == exits.OK
    _, found = verdict(tmp_path, capsys, "\n".join(map(line, range(4))), "--config", str(config))
    assert [(error["code"], error["line"]) for error in found["errors"]] == [("too_many_requests", 3)]


def test_all_errors_are_counted_and_a_hundred_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, found = verdict(tmp_path, capsys, "\n".join(["{"] * 250))
    assert found["error_count"] == 250 + (found["endpoint"] is None and not found["errors"])
    assert len(found["errors"]) == 100


def test_people_read_line_and_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text("{\n", "utf-8")
    with pytest.raises(SystemExit):
        main(["validate", str(file)])
    assert capsys.readouterr().out.startswith("line 1: The line is not valid JSON")


OLD = """
[sites.home]
zone = "DE"
[models.m]
engine_args = ["--dtype bfloat16"]
[pools.volta]
gpu = "{gpu}"
engine_version = "0.9.2"
"""


@pytest.mark.parametrize(
    ("more", "content", "code", "told"),
    [
        ("", line(), exits.USAGE, {"volta": "bfloat16 needs compute capability 8.0"}),
        ('[pools.new]\ngpu = "H100"\n', line(), exits.OK, {"volta": "bfloat16 needs compute capability 8.0"}),
        ("", line(body={"model": "unknown"}), exits.OK, {}),
    ],
)
def test_what_no_pool_can_run_is_refused_with_the_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: str, content: str, code: int, told: dict[str, str]
) -> None:
    config = tmp_path / "batchsched.toml"
    names = {start: next(name for name in GPU_TYPES if name.startswith(start)) for start in ("V100", "H100")}
    config.write_text(OLD.format(gpu=names["V100"]) + more.replace("H100", names["H100"]), "utf-8")
    said, answer = verdict(tmp_path, capsys, content, "--config", str(config))
    assert (said, answer["valid"]) == (code, code == exits.OK)
    assert answer["cannot_run"].keys() == told.keys()
    assert all(why in answer["cannot_run"][pool] for pool, why in told.items())


def test_an_endpoint_that_an_older_engine_lacks_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "batchsched.toml"
    config.write_text('[sites.home]\nzone = "DE"\n[models.m]\n[pools.old]\nengine_version = "0.9.2"\n', "utf-8")
    body = {"messages": ..., "input": "hi"}
    _, answer = verdict(tmp_path, capsys, line(url="/v1/responses", body=body), "--config", str(config))
    assert "vLLM 0.9.2 does not have it" in answer["cannot_run"]["old"]


def test_lines_whose_answers_would_likely_be_cut_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "batchsched.toml"
    config.write_text("[models.tiny]\nmax_model_len = 100\n", "utf-8")
    long = [{"role": "user", "content": "word " * 40}]  # 200 bytes, about 50 tokens
    lines = [line(1, body={"model": "tiny", "messages": long, "max_tokens": tokens}) for tokens in (20, 60, 90)]
    lines = [text.replace('"r1"', f'"r{number}"') for number, text in enumerate(lines, 1)]
    exit_code, found = verdict(tmp_path, capsys, "\n".join(lines), "--config", str(config))
    assert (exit_code, found["valid"], found["likely_cut"]) == (exits.OK, True, 2)
    with pytest.raises(SystemExit):
        main(["validate", str(tmp_path / "in.jsonl"), "--config", str(config)])
    assert "2 line(s), the first is line 2" in capsys.readouterr().out


def test_a_limit_that_no_context_holds_is_an_error_as_it_is_at_the_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "batchsched.toml"
    config.write_text("[models.tiny]\nmax_model_len = 100\n", "utf-8")
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100}
    exit_code, found = verdict(tmp_path, capsys, line(1, body=body), "--config", str(config))
    assert (exit_code, found["valid"], found["errors"][0]["param"]) == (exits.USAGE, False, "body.max_tokens")
    assert verdict(tmp_path, capsys, line(1, body={**body, "max_tokens": 99}), "--config", str(config))[0] == exits.OK

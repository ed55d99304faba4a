"""Uploads as a server sees them: what is not a plain file of lines, what is kept of one, and what a batch then need not read."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchsched.queue import files
from batchsched.queue.tenancy import ANY
from tests.live import PATIENCE_S, LiveServer, live_server, requests


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("uploads"), server__chunk_lines=3) as live:
        yield live


def sent(server: LiveServer, data: bytes, headers: dict[str, str] | None = None, **fields: str) -> tuple[int, dict[str, Any]]:
    """Status and body of an upload's answer."""
    form = {"purpose": "batch", **fields}
    answer = server.http.post("/v1/files", files={"file": ("in.jsonl", data)}, data=form, headers=headers)
    return answer.status_code, answer.json()


@pytest.mark.parametrize("data", [gzip.compress(requests(3)), b"\x28\xb5\x2f\xfd123", b"PK\x03\x04123", b"BZh91AY"])
def test_a_compressed_file_is_answered_415(server: LiveServer, data: bytes) -> None:
    status, body = sent(server, data)
    assert (status, body["error"]["code"], body["error"]["param"]) == (415, "unsupported_media_type", "file")
    assert sent(server, data, purpose="user_data")[0] == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "x; y"])
def test_a_compressed_body_is_answered_415(server: LiveServer, encoding: str) -> None:
    status, body = sent(server, requests(3), {"content-encoding": encoding})
    assert (status, body["error"]["code"]) == (415, "unsupported_media_type")
    assert sent(server, requests(3), {"content-encoding": "identity"})[0] == 200


def test_a_compressed_part_is_answered_415(server: LiveServer) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\nContent-Encoding: br\r\n\r\n'
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = server.http.post("/v1/files", content=head + b"abc\r\n--x--\r\n", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


def test_a_form_has_one_file_and_few_fields(server: LiveServer) -> None:
    for extra in ([("file", ("b.jsonl", requests(1)))], [(f"field{number}", (None, b"x")) for number in range(30)]):
        parts: Any = [("purpose", (None, b"batch")), ("file", ("a.jsonl", requests(1))), *extra]
        answer = server.http.post("/v1/files", files=parts)
        assert answer.status_code == 400, answer.text
        assert "too many parts" in answer.json()["error"]["message"]


@given(st.one_of(st.binary(max_size=400), st.binary(max_size=100).map(lambda data: requests(2)[:-20] + data)), st.booleans())
@settings(max_examples=30)
def test_no_bytes_bring_the_server_down(server: LiveServer, data: bytes, whole_form: bool) -> None:
    if whole_form:
        answer = server.http.post("/v1/files", content=data, headers={"content-type": "multipart/form-data; boundary=x"})
        assert answer.status_code == 400
        return
    status, body = sent(server, data)
    assert status in {200, 415}, body
    if status == 200:
        asked = {"input_file_id": body["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = server.until(server.post("/v1/batches", asked)["id"], "in_progress", "failed")
        assert (batch["status"] == "failed") is (body["status_details"] is not None)


def test_senders_that_stand_still_are_given_up_and_keep_nobody_waiting(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchsched.server.files.IDLE_S", 1.0)
    head = b"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999\r\n"
    head += b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    port = int(server.url.rsplit(":", 1)[1])
    with ExitStack() as stack:
        senders = [stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE_S)) for _ in range(45)]
        for sender in senders:
            sender.sendall(head + b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n{"cus')
        assert server.get("/v1/files")["object"] == "list"
        answer = b""
        while block := senders[0].recv(65_536):
            answer += block
            if b"nothing was kept" in answer:
                break
        assert answer.startswith(b"HTTP/1.1 400")


def test_what_is_wrong_with_a_file_is_told_at_upload(server: LiveServer) -> None:
    _, body = sent(server, requests(2) + b"{nonsense\n" + requests(1))
    assert body["status_details"].startswith("2 error(s); line 3: The line is not valid JSON")
    assert sent(server, requests(2) + requests(1))[1]["status_details"].startswith(
        "1 error(s); line 3: The custom_id 'r0' was used"
    )
    assert sent(server, requests(2))[1]["status_details"] is None
    assert sent(server, b"{nonsense", purpose="user_data")[1]["status_details"] is None


def test_a_sound_file_is_not_read_again_and_cut_as_it_was(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    data = requests(7)
    file_id = server.upload(data)
    with server.runtime.database.read() as connection:
        facts = files.facts(connection, file_id, ANY)
    assert [lines for lines, _, _ in facts["cuts"]] == [3, 3, 1]
    assert b"".join(data[start:end] for _, start, end in facts["cuts"]) == data

    def unread(*_: object) -> Any:
        raise AssertionError("the file was read again")

    with monkeypatch.context() as patch:
        patch.setattr("batchsched.queue.cutting.Checker", unread)
        body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = server.until(server.post("/v1/batches", body)["id"], "in_progress", "failed")
    assert batch["request_counts"]["total"] == 7
    done = server.worker().drain(batch["id"])
    assert sorted(line["custom_id"] for line in server.content(done["output_file_id"])) == [f"r{i}" for i in range(7)]


def test_a_file_that_came_before_its_rules_is_held_against_them(tmp_path: Path) -> None:
    line = json.loads(requests(1))
    line["body"]["mm_processor_kwargs"] = {}
    with live_server(tmp_path, server__allow_fields=["mm_processor_kwargs"]) as server:
        file_id = server.upload(json.dumps(line).encode())
        body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        server.until(server.post("/v1/batches", body)["id"], "in_progress")
    with live_server(tmp_path) as server:
        batch = server.until(server.post("/v1/batches", body)["id"], "in_progress", "failed")
        assert [error["code"] for error in batch["errors"]["data"]] == ["forbidden_field"]

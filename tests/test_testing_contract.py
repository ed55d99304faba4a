"""The fake server of batchsched.testing under the real server's own contract tests, and under those of the clients."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import httpx
import openai
import pytest

from batchsched import Client
from batchsched.errors import Conflict
from batchsched.testing import Asked, FakeServer
from batchsched.testing.answering import Said
from tests.live import PATIENCE_S, LiveServer, live_server, requests
from tests.test_openai_contract import (
    test_a_bad_create_request_is_refused_with_its_parameter,
    test_a_bad_file_says_so_at_upload,
    test_a_batch_goes_its_whole_way_through_the_openai_client,
    test_a_body_that_is_no_json_is_refused,
    test_a_finished_batch_cannot_be_cancelled,
    test_a_missing_input_file_fails_the_batch,
    test_an_upload_that_is_no_form_is_refused,
    test_any_window_is_echoed_and_our_deadline_wins,
    test_cancelling,
    test_every_bad_line_is_listed,
    test_file_expiry,
    test_files_list_filter_order_and_delete,
    test_lists_page_newest_first,
    test_one_bad_line_fails_the_batch_and_is_named,
    test_the_input_of_an_open_batch_cannot_be_deleted,
    test_unknown_objects_are_404,
)

__all__ = [
    "test_a_bad_create_request_is_refused_with_its_parameter",
    "test_a_bad_file_says_so_at_upload",
    "test_a_batch_goes_its_whole_way_through_the_openai_client",
    "test_a_body_that_is_no_json_is_refused",
    "test_a_finished_batch_cannot_be_cancelled",
    "test_a_missing_input_file_fails_the_batch",
    "test_an_upload_that_is_no_form_is_refused",
    "test_any_window_is_echoed_and_our_deadline_wins",
    "test_cancelling",
    "test_every_bad_line_is_listed",
    "test_file_expiry",
    "test_files_list_filter_order_and_delete",
    "test_lists_page_newest_first",
    "test_one_bad_line_fails_the_batch_and_is_named",
    "test_the_input_of_an_open_batch_cannot_be_deleted",
    "test_unknown_objects_are_404",
]


class Drain:
    """Takes the place of a worker that is driven by hand."""

    def __init__(self, live: FakeLive) -> None:
        self._live = live

    def drain(self, batch_id: str) -> dict[str, Any]:
        """Work until all is done."""
        self._live.fake.work()
        return self._live.batch(batch_id)


class FakeLive(LiveServer):
    """What the contract tests ask of a server, by the fake one."""

    def __init__(self, fake: FakeServer) -> None:
        self.url, self.fake = fake.url, fake
        self.http = httpx.Client(base_url=fake.url, timeout=PATIENCE_S, verify=False)

    def worker(self, pool: str = "local", **how: Any) -> Any:
        """It has no workers; the test says when it works."""
        return Drain(self)


def three_in_five_out(asked: Asked) -> Said:
    """With the tokens that the contract tests expect."""
    details = {"cached_tokens": 1}
    usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8, "prompt_tokens_details": details}
    return {"choices": [{"message": {"role": "assistant", "content": asked.prompt}}], "usage": usage}


@pytest.fixture(scope="module")
def server() -> Generator[FakeLive]:
    with FakeServer(three_in_five_out, models=["tiny"], by_hand=True) as fake:
        live = FakeLive(fake)
        yield live
        live.http.close()


@pytest.fixture(scope="module")
def client(server: FakeLive) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


def _shape(value: Any) -> Any:
    """Which keys stand where; of lists, of their first."""
    if isinstance(value, dict):
        return {key: _shape(part) for key, part in value.items() if key not in {"verdict", "carbon"}}
    return [_shape(part) for part in value[:1]] if isinstance(value, list) else None


@pytest.mark.parametrize(("data", "status"), [(requests(2), "completed"), (requests(1) + b"{", "failed")])
def test_every_object_has_the_fields_of_the_real_one(
    server: FakeLive, tmp_path_factory: pytest.TempPathFactory, data: bytes, status: str
) -> None:
    """Verdicts and grams apart, which the fake server has none of."""
    shapes: list[Any] = []
    with live_server(tmp_path_factory.mktemp("real")) as real:
        for one in (real, server):
            batch = one.submit(data, metadata={"a": "b"}, batchsched={"deadline": "6h", "models": ["tiny"]})
            if status == "completed":
                one.worker().drain(batch["id"])
            done = one.until(batch["id"], status)
            file = one.get(f"/v1/files/{batch['input_file_id']}")
            output = one.content(done["output_file_id"]) if done["output_file_id"] else []
            page, missing = one.get("/v1/batches", limit=1), one.http.get("/v1/files/none").json()
            for line in output:
                line["response"]["body"] = None
            shapes.append(_shape([{"done": done, "file": file, "page": page, "missing": missing, "output": output}]))
            one.until(batch["id"], status)
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("kind", ["real", "fake"])
def test_our_own_client_sees_the_same_in_both(kind: str, tmp_path_factory: pytest.TempPathFactory, server: FakeLive) -> None:
    with live_server(tmp_path_factory.mktemp("real")) as real:
        live = real if kind == "real" else server
        with Client(live.url, "") as client:
            _act(client, live)


def _act(client: Client, live: LiveServer) -> None:
    """All that is done with one batch, from its submission to its deletion."""
    first, again = (
        client.run(["a", "b", "c"], model="tiny", deadline="6h", idempotency_key="once", priority=3) for _ in range(2)
    )
    assert (first.batch.status, again.id) == ("validating", first.id)
    live.until(first.id, "in_progress")
    assert client.batches.pause(first.id).paused
    assert not client.batches.resume(first.id).paused
    assert client.batches.start(first.id).batchsched.started is not None
    changed = client.batches.update(first.id, deadline="4h", metadata={"who": "test"})
    assert (changed.metadata, changed.batchsched.priority) == ({"who": "test"}, 3)
    assert list(client.batches.results(first.id)) == []
    live.worker().drain(first.id)
    assert [(found.index, found.ok) for found in first] == [(0, True), (1, True), (2, True)]
    assert first.wait(progress=False).status == "completed"
    assert first.batch.request_counts.completed == 3
    assert client.batches.explain(first.id).sentences
    with pytest.raises(Conflict, match="nothing to retry"):
        client.batches.retry(first.id)
    second = client.run(["d"], model="tiny", deadline="6h")
    live.until(second.id, "in_progress")
    client.batches.cancel(second.id)
    assert live.until(second.id, "cancelled")["request_counts"]["failed"] == 1
    retried = client.batches.retry(second.id, deadline="2h")
    assert (retried.status, retried.request_counts.failed, retried.error_file_id) == ("in_progress", 0, None)
    assert retried.batchsched.round == 1
    live.worker().drain(second.id)
    assert [found.ok for found in client.attach(second.id)] == [True]
    client.batches.delete(first.id)
    assert client.batches.retrieve(first.id).metadata == {}

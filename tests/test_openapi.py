"""The published document is complete, and the server keeps to it: no server error, no answer that it does not declare."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from batchsched.server.contract import CONTRACT, Error
from batchsched.server.rules import RULES
from batchsched.wire import PREFIX
from tests.live import PATIENCE_S, LiveServer, live_server, requests

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
ENDING = re.compile(r"^DELETE|/cancel$|/fail$|/bye$")
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much, HealthCheck.large_base_example]
KEY = {"Authorization": "Bearer k"}
EXAMPLES = int(os.environ.get("BATCHSCHED_EXAMPLES", "12"))


class Api:
    """A server with something of everything, and its document."""

    def __init__(self, server: LiveServer) -> None:
        self.server = server
        # Without a static key the server would ask nobody for one until a generated request creates a key, and everybody after.
        server.http.headers.update(KEY)
        self.document = server.get("/openapi.json")
        self.schema = schemathesis.openapi.from_dict(self.document)
        self.schema.config.update(base_url=server.url)
        file_id = server.upload(requests(3))
        worker = server.worker()
        batch_id = server.submit(requests(2), metadata={"a": "b"})["id"]
        done = worker.drain(batch_id)
        failed = server.submit(b"nonsense\n")["id"]
        server.until(failed, "failed")
        waiting = server.submit(requests(2), batchsched={"deadline": "3h"})["id"]
        server.submit(requests(2), batchsched={"deadline": "1s", "on_deadline": "finish"})  # it can wait no longer
        lease = worker.lease()
        server.post(f"{PREFIX}/windows", {"name": "always", "pool": "local", "cron": "0 * * * *", "duration": "1h"})
        yearly = {"name": "yearly", "cron": "0 0 1 1 *", "file": "in.jsonl", "batchsched": {"deadline": "1h"}}
        server.post(f"{PREFIX}/schedules", yearly)
        for zone, signal in (("DE", "average direct"), ("WORLD", "average lifecycle")):
            measured = f"# signal: {signal}\nzone,start,end,realised\n{zone},2026-05-01T00:00:00Z,2026-05-01T01:00:00Z,300\n"
            file = {"file": ("measured.csv", measured)}
            answer = server.http.post(f"{PREFIX}/forecasts/import", files=file)
            assert answer.status_code == 200, answer.text
        self.real: dict[str, list[str]] = {
            "file_id": [file_id, done["output_file_id"]],
            "batch_id": [batch_id, failed, waiting],
            "worker_id": [worker.worker_id],
            "chunk_id": [lease["chunk_id"]],
            "name": ["tiny"],
            "zone": ["DE", "WORLD"],
            "pool": ["local"],
            "window": ["always"],
            "schedule": ["yearly"],
        }
        self.sound: dict[str, Any] = {
            "input_file_id": file_id, "completion_window": "24h", "deadline": "4h", "sites": ["home"], "zones": None,
            "models": None,
            "pool": "local", "worker_id": worker.worker_id, "token": lease["token"], "protocol": 2, "expires": "1d",
            "cron": "0 0 1 1 *", "duration": "1h", "file": "in.jsonl", "timezone": "UTC", "until": "1d", "by": None,
        }  # fmt: skip

    def mended(self, body: dict[str, Any]) -> dict[str, Any]:
        """A generated body with what must exist, or be more than text, put right: so that some come through."""
        inner = {key: self.mended(value) for key, value in body.items() if isinstance(value, dict)}
        return {**body, **inner, **{key: value for key, value in self.sound.items() if key in body}}

    def paths(self) -> list[str]:
        """A path for each GET, with real ids."""
        found: list[str] = []
        for key in CONTRACT:
            method, path = key.split(" ")
            ids = next((self.real.get(name, []) for name in re.findall(r"{(\w+)", path)), [""])
            found += [re.sub(r"{[^}]*}", each, path) for each in ids if method == "GET" and "chunks" not in path]
        return found


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder: Path = tmp_path_factory.mktemp("openapi")
    if request.param == "sqlite":
        with live_server(folder, server__api_key="k", server__inputs_dir=str(folder)) as server:
            yield Api(server)
    else:
        with (
            request.getfixturevalue("postgres").fresh() as url,
            live_server(folder, server__database_url=url, server__api_key="k", server__inputs_dir=str(folder)) as server,
        ):
            yield Api(server)


def test_every_route_is_in_the_document_with_what_it_takes_and_gives(api: Api) -> None:
    assert set(CONTRACT) == set(RULES) - {"GET /openapi.json"}
    paths = api.document["paths"]
    found = {(method, path) for path, operations in paths.items() for method in operations}
    assert found == {(key.split(" ")[0].lower(), re.sub(r":\w+}", "}", key.split(" ")[1])) for key in CONTRACT}
    for method, path in found:
        operation = paths[path][method]
        assert operation["summary"]
        assert operation["responses"]["200"]["content"], path
        declared = {parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "path"}
        assert declared == set(re.findall(r"{(\w+)}", path))
        for status, answer in operation["responses"].items():
            if status != "200":
                assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Error"}
    assert not re.search(r"HTTPValidationError|batchsched_server", json.dumps(api.document))


def test_the_document_needs_a_key_where_everything_does(tmp_path: Path) -> None:
    with live_server(tmp_path, server__api_key="k") as server:
        assert server.http.get("/openapi.json").status_code == 401
        document = server.http.get("/openapi.json", headers={"authorization": "Bearer k"}).json()
    assert document["security"] == [{"key": []}]
    assert document["paths"]["/livez"]["get"]["security"] == []


def test_real_answers_are_as_declared(api: Api) -> None:
    """Random ids mostly give 404; these do not."""
    for path in api.paths():
        answer = api.server.http.get(path)
        if path.endswith("/report/requests") and answer.status_code == 409:  # of a batch that has not ended
            continue
        assert answer.status_code == 200, (path, answer.text)
        template = next(
            key.split(" ")[1]
            for key in CONTRACT
            if key.startswith("GET ") and re.fullmatch(re.sub(r"{[^}]*}", "[^/]+", key.split(" ")[1]), path)
        )
        api.schema[re.sub(r":\w+}", "}", template)]["GET"].validate_response(answer)
        exactly(f"GET {template}", answer)


def exactly(route: str, response: Any) -> None:
    """No field that is not declared: schemathesis lets those pass."""
    kind = Error if response.status_code >= 400 else CONTRACT[route].answer
    if not isinstance(kind, tuple):
        msgspec.json.decode(response.content, type=kind)


@pytest.mark.slow
@pytest.mark.parametrize("route", sorted(CONTRACT, key=lambda route: bool(ENDING.search(str(route)))))
def test_whatever_comes_is_answered_as_declared(api: Api, route: str) -> None:
    method, path = route.split(" ")
    operation = api.schema[re.sub(r":\w+}", "}", path)][method]

    @given(data=st.data())
    @settings(max_examples=EXAMPLES, derandomize=True, database=None, suppress_health_check=SLOW)
    def check(data: st.DataObject) -> None:
        case: Any = data.draw(operation.as_strategy())
        for name, ids in api.real.items():
            if name in (case.path_parameters or {}) and ids and data.draw(st.booleans()):
                case.path_parameters[name] = data.draw(st.sampled_from(ids))
        if isinstance(case.body, dict) and data.draw(st.booleans()):
            case.body = api.mended(case.body)
        response = case.call_and_validate(checks=CHECKS, headers=KEY, timeout=PATIENCE_S)
        assert response.status_code != 401
        exactly(route, response)

    check()


def test_an_answer_that_is_not_declared_is_found(api: Api) -> None:
    """The checks bite: without a status, a field or a media type in it they complain."""
    spoils: list[Callable[[Any], object]] = [
        lambda document: document["paths"]["/v1/files/{file_id}"]["get"]["responses"].pop("404"),
        lambda document: document["components"]["schemas"]["ErrorDetail"]["required"].append("colour"),
        lambda document: document["paths"]["/v1/files/{file_id}"]["get"]["responses"]["404"]["content"].update(
            {"text/plain": document["paths"]["/v1/files/{file_id}"]["get"]["responses"]["404"]["content"].pop("application/json")}
        ),
    ]
    for spoil in spoils:
        document = copy.deepcopy(api.document)
        spoil(document)
        schema = schemathesis.openapi.from_dict(document)
        schema.config.update(base_url=api.server.url)
        operation: Any = schema["/v1/files/{file_id}"]["GET"]
        case = operation.Case(path_parameters={"file_id": "none"})
        with pytest.raises(BaseExceptionGroup):
            case.call_and_validate(checks=CHECKS, headers=KEY, timeout=PATIENCE_S)


AWKWARD = [
    "\x00",
    "a\x00b",
    "%00",
    "é",
    "\U0001f33f",
    "'; DROP TABLE batches; --",
    "../../etc/passwd",
    "x" * 5000,
    "batch_" + "9" * 400,
]


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_ids_and_cursors_are_just_not_found(api: Api, text: str) -> None:
    with httpx.Client(base_url=api.server.url, headers=KEY) as http:
        quoted = httpx.QueryParams({"after": text})
        for path in ("/v1/batches", "/v1/files", f"{PREFIX}/keys"):
            assert http.get(path, params=quoted).status_code in {400, 404}
        for path in ("/v1/batches/{}", "/v1/files/{}", "/v1/files/{}/content", f"{PREFIX}/batches/{{}}/report"):
            from urllib.parse import quote

            assert http.get(path.format(quote(text, safe=""))).status_code in {400, 404}


@pytest.mark.parametrize("number", [2**31, 2**63, 2**200, -(2**63) - 1])
def test_numbers_beyond_a_column_are_refused(api: Api, number: int) -> None:
    server = api.server
    chunk = api.real["chunk_id"][0]
    register = {"pool": "local", "host": "h", "pid": number}
    answers = {
        "register": server.http.post(f"{PREFIX}/workers", json=register),
        "results": server.http.post(f"{PREFIX}/leases/{chunk}/results", json={"token": number, "results": []}),
        "input": server.http.get(f"{PREFIX}/chunks/{chunk}/input", params={"token": number}),
        "audit": server.http.get(f"{PREFIX}/audit", params={"after": number}),
        "limit": server.http.get("/v1/batches", params={"limit": number}),
    }
    assert {name: answer.status_code for name, answer in answers.items() if answer.status_code >= 500} == {}

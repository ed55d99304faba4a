"""Who may do what: every route and method, with every kind of key that should not do."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from fastapi.routing import iter_route_contexts
from sqlalchemy import Executable, delete, text, update
from sqlalchemy.exc import DBAPIError

from batchsched.cli.main import main
from batchsched.clock import ManualClock
from batchsched.errors import InsecureBind, InvalidConfiguration
from batchsched.queue import audit, keys
from batchsched.queue import tables as t
from batchsched.queue.database import Database
from batchsched.queue.tenancy import ANY
from batchsched.server import auth, models
from batchsched.server.app import create_app
from batchsched.server.auth import check_keys, digest_of
from batchsched.server.rules import RULES, SCOPES
from batchsched.settings import Server
from batchsched.wire import PREFIX
from tests.live import BASIC, HTTP, LiveServer, live_server, requests, wait_for

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Keyed:
    """A server that asks for keys, and one key of each kind."""

    def __init__(self, server: LiveServer) -> None:
        self.server = server
        self.operator = self.make(*SCOPES, tenant="default")
        server.http.headers["authorization"] = f"Bearer {self.operator}"
        self.alice = self.make("submit", "read", tenant="alice")
        self.bob = self.make("submit", "read", tenant="bob")

    def make(self, *scopes: str, tenant: str = "alice", **more: Any) -> str:
        """A new key."""
        made: str = self.server.post(f"{PREFIX}/keys", {"scopes": scopes, "tenant": tenant, **more})["key"]
        return made

    def over(self, **stamps: datetime) -> str:
        """A key with every scope that expired or was revoked."""
        key = self.make(*SCOPES)
        with self.server.runtime.database.write() as connection:
            connection.execute(update(t.keys).where(t.keys.c.digest == digest_of(key)).values(**stamps))
        return key

    def call(self, method: str, path: str, key: str | None, **options: Any) -> httpx.Response:
        """One request with a key, or with none."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return HTTP.request(method, self.server.url + path, headers=headers, **options)

    def upload(self, key: str, data: bytes) -> str:
        """A file of whoever holds the key."""
        answer = self.call("POST", "/v1/files", key, files={"file": ("f", data)}, data={"purpose": "batch"})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def submit(self, key: str, file_id: str) -> dict[str, Any]:
        """A batch of whoever holds the key."""
        body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        answer = self.call("POST", "/v1/batches", key, json=body)
        assert answer.status_code == 200, answer.text
        made: dict[str, Any] = answer.json()
        return made


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    folder = tmp_path_factory.mktemp("auth")
    (folder / "f.csv").write_text("zone,start,end,realised\nDE,2026-05-01T06:00:00Z,2026-05-01T07:00:00Z,100\n")
    text = BASIC + '[forecast.sources.mine]\nkind = "file"\npath = "f.csv"\n'
    with live_server(folder, text, server__inputs_dir=str(folder)) as server:
        yield Keyed(server)


@pytest.fixture(scope="module")
def things(keyed: Keyed) -> dict[str, str]:
    """An object of alice's for each parameter that stands in a path."""
    file_id = keyed.upload(keyed.alice, requests(2))
    batch_id = keyed.submit(keyed.alice, file_id)["id"]
    key_id = keyed.server.get(f"{PREFIX}/keys")["data"][0]["id"]
    assert keyed.call("POST", f"{PREFIX}/schedules", keyed.alice, json=SCHEDULE).status_code == 200
    return {
        "file_id": file_id,
        "batch_id": batch_id,
        "key_id": key_id,
        "name:path": "tiny",
        "worker_id": "w",
        "chunk_id": "c",
        "zone": "DE",
        "pool": "local",
        "window": "w",
        "schedule": "s",
    }


def served(server: LiveServer) -> set[str]:
    """Every `METHOD path` that the application answers."""
    found = {
        f"{method} {route.path}"
        for route in iter_route_contexts(create_app(server.runtime).routes)
        for method in route.methods or ()
    }
    assert len(found) > 30
    return found


def closed_routes() -> list[str]:
    return [route for route, rule in RULES.items() if rule.scope is not None]


def at(route: str, things: dict[str, str]) -> tuple[str, str]:
    method, path = route.split(" ")
    return method, re.sub(r"\{([^}]*)\}", lambda found: things[found[1]], path)


def test_every_route_has_a_rule_and_every_rule_a_route(keyed: Keyed) -> None:
    assert served(keyed.server) == set(RULES)
    assert {route for route, rule in RULES.items() if rule.scope is None} == {"GET /livez", "GET /readyz", "GET /version"}


def test_a_route_without_a_rule_is_refused(keyed: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    # A table of its own: what is taken out of RULES comes back in another place, and a page made later is in another order.
    less = {route: rule for route, rule in RULES.items() if route != "GET /v1/models"}
    monkeypatch.setattr(auth, "RULES", less)
    assert keyed.call("GET", "/v1/models", keyed.operator).status_code == 403


def test_no_server_starts_with_a_route_that_asks_for_no_key(keyed: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = APIRouter()
    bare.add_api_route("/v1/bare", lambda: None)
    monkeypatch.setattr(models, "router", lambda _: bare)
    with pytest.raises(RuntimeError, match="without the key check: /v1/bare"):
        create_app(keyed.server.runtime)


@pytest.mark.parametrize("route", closed_routes())
def test_without_a_good_key_nothing_is_answered(keyed: Keyed, things: dict[str, str], route: str) -> None:
    now = keyed.server.runtime.clock.now()
    genuine = keyed.operator
    bad = {
        "none": None,
        "wrong": "wrong",
        "another secret": genuine[:-1] + ("x" if genuine[-1] != "x" else "y"),
        "an unknown id": genuine.replace(genuine.split("_")[1], "0" * 24),
        "expired": keyed.over(expires_at=now - timedelta(seconds=1)),
        "revoked": keyed.over(revoked_at=now),
    }
    for what, key in bad.items():
        answer = keyed.call(*at(route, things), key)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key"), what


@pytest.mark.parametrize("route", closed_routes())
def test_every_scope_but_the_right_one_is_not_enough(keyed: Keyed, things: dict[str, str], route: str) -> None:
    key = keyed.make(*(scope for scope in SCOPES if scope != RULES[route].scope))
    answer = keyed.call(*at(route, things), key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
    assert str(RULES[route].scope) in answer.json()["error"]["message"]


@pytest.mark.parametrize("route", [route for route in closed_routes() if "{" in route and not RULES[route].any_tenant])
def test_what_belongs_to_another_tenant_is_not_there(keyed: Keyed, things: dict[str, str], route: str) -> None:
    body: dict[str, Any] = {"json": {"priority": 1} if route.endswith("{batch_id}") else {}} if route.startswith("POST") else {}
    answer = keyed.call(*at(route, things), keyed.bob, **body)
    assert answer.status_code == 404, answer.text
    unknown = keyed.call(*at(route, {**things, "file_id": "file-x", "batch_id": "batch_x"}), keyed.bob, **body)
    ours, theirs = (str(a.json()["error"]) for a in (unknown, answer))
    for name in ("file_id", "batch_id"):
        ours, theirs = ours.replace("file-x" if name == "file_id" else "batch_x", ""), theirs.replace(things[name], "")
    assert ours == theirs  # not even that it exists can be told


def test_lists_and_inputs_keep_to_the_tenant(keyed: Keyed, things: dict[str, str]) -> None:
    own = keyed.submit(keyed.bob, keyed.upload(keyed.bob, requests(1)))
    for path, mine in (("/v1/batches", own["id"]), ("/v1/files", own["input_file_id"])):
        assert [row["id"] for row in keyed.call("GET", path, keyed.bob).json()["data"]] == [mine]
        theirs = things["batch_id"] if path == "/v1/batches" else things["file_id"]
        assert keyed.call("GET", path, keyed.bob, params={"after": theirs}).status_code == 404
        assert theirs in [row["id"] for row in keyed.call("GET", path, keyed.alice).json()["data"]]
    assert keyed.call("GET", f"{PREFIX}/report", keyed.bob).status_code == 404  # nothing of bob's has run
    slices = f"{PREFIX}/report/slices"
    assert keyed.call("GET", slices, keyed.bob).json()["data"] == []
    assert keyed.call("GET", slices, keyed.bob, params={"batch_id": things["batch_id"]}).status_code == 404
    stolen = keyed.submit(keyed.bob, things["file_id"])
    assert stolen["status"] == "failed"
    assert "Cannot find file" in stolen["errors"]["data"][0]["message"]
    assert keyed.call("POST", f"/v1/batches/{own['id']}/cancel", keyed.bob).status_code == 200


def test_workers_serve_every_tenant_and_results_go_to_the_right_one(keyed: Keyed, things: dict[str, str]) -> None:
    server = keyed.server
    worker = server.worker()

    def done() -> dict[str, Any] | None:
        for lease in worker.claim():
            worker.finish(lease)
        found: dict[str, Any] = keyed.call("GET", f"/v1/batches/{things['batch_id']}", keyed.alice).json()
        return found if found["status"] == "completed" else None

    output = wait_for(done)["output_file_id"]
    assert keyed.call("GET", f"/v1/files/{output}/content", keyed.alice).status_code == 200
    assert keyed.call("GET", f"/v1/files/{output}/content", keyed.bob).status_code == 404
    with server.runtime.database.read() as connection:
        assert set(connection.scalars(t.ledger.select().with_only_columns(t.ledger.c.tenant))) == {"alice"}
    assert keyed.call("GET", f"{PREFIX}/report", keyed.alice).status_code == 200
    assert keyed.call("GET", f"{PREFIX}/report", keyed.bob).status_code == 404
    assert keyed.call("GET", f"{PREFIX}/report", keyed.operator).status_code == 200


# -- keys --


def test_a_server_without_keys_asks_for_none_and_the_first_key_must_operate(tmp_path: Path) -> None:
    with live_server(tmp_path) as server:
        assert server.get("/v1/batches")["data"] == []
        server.http.headers["authorization"] = "Bearer anything"
        assert server.get("/v1/batches")["data"] == []
        error = server.post(f"{PREFIX}/keys", {"scopes": ["submit", "read"]}, 409)["error"]
        assert "operate" in error["message"]
        made = server.post(f"{PREFIX}/keys", {"scopes": ["operate"], "name": "root"})
        assert server.http.get("/v1/batches").status_code == 401
        server.http.headers["authorization"] = f"Bearer {made['key']}"
        assert re.fullmatch(r"bs_[0-9a-f]{24}_[0-9A-Za-z]{43}", made["key"])
        (listed,) = server.get(f"{PREFIX}/keys")["data"]
        assert (listed["id"], listed["name"], listed["tenant"], "key" in listed) == (made["id"], "root", "default", False)
        assert listed["last_used_at"]
        refused = server.post(f"{PREFIX}/keys/{made['id']}/revoke", status=409)["error"]
        assert "last key" in refused["message"]
        server.post(f"{PREFIX}/keys", {"scopes": ["operate"]})
        assert server.post(f"{PREFIX}/keys/{made['id']}/revoke")["revoked_at"]
        assert server.http.get(f"{PREFIX}/keys").status_code == 401  # at once


def test_the_command_makes_lists_and_revokes_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(*arguments: str, key: str = "") -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as stop:
            main(["key", *arguments, "--server", server.url, "--api-key", key])
        said = capsys.readouterr()
        return stop.value.code, said.out.strip(), said.err

    monkeypatch.chdir(tmp_path)
    with live_server(tmp_path / "server") as server:
        code, out, said = call("create")
        assert (code, out, "first key" in said, "Hint:" in said) == (1, "", True, True)
        code, root, said = call("create", "--name", "root", "--scope", "operate")
        assert (code, "shown this once" in said) == (0, True)
        code, text, _ = call("create", "--tenant", "vision", "--expires", "90d", "--json", key=root)
        made = json.loads(text)
        assert (made["tenant"], made["scopes"], made["expires_at"] - made["created_at"]) == (
            "vision",
            ["read", "submit"],
            90 * 86400,
        )
        assert call("list", key=made["key"])[0] == 4
        assert call("revoke", made["id"], key=root)[0] == 0
        code, table, _ = call("list", key=root)
        assert [line.split("\t")[1::5] for line in table.splitlines()] == [
            ["tenant", "state"],
            ["default", "active"],
            ["vision", "revoked"],
        ]
        listed = [json.loads(line) for line in call("list", "--json", key=root)[1].splitlines()]
        assert [row["id"] for row in listed][1] == made["id"]
        assert call("list", key=made["key"])[0] == 4


def test_a_key_ends_when_it_was_told_to(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    with live_server(tmp_path, clock=clock) as server:
        key = server.post(f"{PREFIX}/keys", {"scopes": ["operate"], "expires": "30d"})["key"]
        server.http.headers["authorization"] = f"Bearer {key}"
        clock.set_wall(NOW + timedelta(days=30) - timedelta(seconds=1))
        assert server.get(f"{PREFIX}/keys")["data"]
        clock.set_wall(NOW + timedelta(days=30))
        assert server.http.get(f"{PREFIX}/keys").status_code == 401


def test_a_revocation_holds_at_once_on_every_server(tmp_path: Path, postgres_url: str) -> None:
    shared: dict[str, Any] = {"server__database_url": postgres_url, "server__data_dir": str(tmp_path / "data")}
    with live_server(tmp_path / "a", **shared) as one, live_server(tmp_path / "b", **shared) as other:
        root = one.post(f"{PREFIX}/keys", {"scopes": ["operate"]})["key"]
        assert other.http.get("/v1/models").status_code == 401  # there is a key now
        one.http.headers["authorization"] = f"Bearer {root}"
        made = one.post(f"{PREFIX}/keys", {"scopes": ["read"], "tenant": "t"})
        other.http.headers["authorization"] = f"Bearer {made['key']}"
        assert other.get("/v1/batches")["data"] == []
        one.post(f"{PREFIX}/keys/{made['id']}/revoke")
        assert other.http.get("/v1/batches").status_code == 401


def test_the_configured_key_may_do_everything_beside_the_others(tmp_path: Path) -> None:
    with live_server(tmp_path, server__api_key="s3cret") as server:
        assert server.http.get("/v1/models").status_code == 401
        server.http.headers["authorization"] = "Bearer s3cret"
        key = server.post(f"{PREFIX}/keys", {"scopes": ["read"], "tenant": "x"})["key"]  # no operator needed: there is one
        server.http.headers["authorization"] = f"Bearer {key}"
        assert server.get("/v1/batches")["data"] == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"scopes": []}, "scopes"),
        ({"scopes": ["root"]}, "scopes[0]"),
        ({}, None),
        ({"scopes": ["read"], "tenant": "a b"}, "tenant"),
        ({"scopes": ["read"], "expires": "soon"}, "expires"),
        ({"scopes": ["read"], "admin": True}, None),
    ],
)
def test_a_bad_key_request_is_refused(keyed: Keyed, body: dict[str, Any], param: str | None) -> None:
    assert keyed.server.post(f"{PREFIX}/keys", body, 400)["error"]["param"] == param


def test_the_last_use_is_written_at_most_once_a_minute(database: Database) -> None:
    with database.write() as connection:
        keys.add(connection, id="k", tenant="t", name="", digest="d", scopes=["read"], created_at=NOW, expires_at=None)
        for seconds, noted in ((0, 0), (59, 0), (60, 60)):
            keys.used(connection, "k", NOW + timedelta(seconds=seconds))
            assert keys.get(connection, "k")["last_used_at"] == NOW + timedelta(seconds=noted)


def test_no_key_reaches_the_log(keyed: Keyed, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        keyed.call("GET", "/v1/models", keyed.alice)
        keyed.call("GET", "/v1/models", keyed.alice + "x")
    # httpx writes its own requests' headers at debug level; what counts is what the server says.
    said = "\n".join(r.getMessage() for r in caplog.records if not r.name.startswith(("httpcore", "httpx")))
    assert keyed.alice not in said


def test_other_machines_are_not_served_without_a_usable_key(database: Database) -> None:
    def add(key_id: str, expires_at: datetime | None) -> None:
        with database.write() as connection:
            row = {"id": key_id, "tenant": "t", "name": "", "digest": "d", "scopes": ["operate"], "created_at": NOW}
            keys.add(connection, **row, expires_at=expires_at)  # type: ignore[arg-type]

    exposed, proxied = Server(host="0.0.0.0", tls_cert="x"), Server(trusted_proxies=["127.0.0.1"])
    check_keys(Server(), database, NOW)
    check_keys(Server(host="0.0.0.0", api_key="k"), database, NOW)
    for server in (exposed, proxied):
        with pytest.raises(InsecureBind, match="without an API key"):
            check_keys(server, database, NOW)
    add("k1", NOW)
    with pytest.raises(InsecureBind):
        check_keys(exposed, database, NOW)
    add("k2", None)
    check_keys(exposed, database, NOW)
    check_keys(proxied, database, NOW)


def test_a_tenants_key_is_not_taken_for_the_operators(keyed: Keyed) -> None:
    """Commands read their key from the variable that sets the server's."""
    with pytest.raises(InvalidConfiguration, match="a key of tenant 'alice'"):
        check_keys(Server(api_key=keyed.alice), keyed.server.runtime.database, NOW)


# -- the audit log --


SCHEDULE = {"name": "s", "cron": "0 0 1 1 *", "file": "in.jsonl", "batchsched": {"deadline": "1h"}}
WINDOW = {"name": "w", "pool": "local", "cron": "0 0 1 1 *", "duration": "1h"}


def acts(keyed: Keyed) -> dict[str, Callable[[], str]]:
    """One deed for each route that changes something; each returns the id of what it changed."""
    server = keyed.server
    file_id, spare = (server.upload(requests(1)) for _ in range(2))
    batch_id = server.submit(requests(1))["id"]

    def retried() -> str:
        server.until(batch_id, "cancelled")
        return did(f"{PREFIX}/batches/{batch_id}/retry")

    def deleted() -> str:
        ended = did("/v1/batches", {"input_file_id": "file-none", "endpoint": "/v1/embeddings", "completion_window": "24h"})
        return str(server.http.delete(f"{PREFIX}/batches/{ended}").json()["id"])

    def filled() -> str:
        span = {"start": "2026-05-01T00:00:00Z", "end": "2026-05-02T00:00:00Z"}
        assert server.post(f"{PREFIX}/forecasts/DE/backfill", span)["data"][0]["received"] == 1
        return "DE"

    def did(path: str, body: Any = None) -> str:
        return str(server.post(path, body)["id"])

    return {
        "file.create": lambda: server.upload(requests(1)),
        "file.delete": lambda: str(server.http.delete(f"/v1/files/{spare}").json()["id"]),
        "batch.create": lambda: did(
            "/v1/batches", {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        ),
        "batch.pause": lambda: did(f"{PREFIX}/batches/{batch_id}/pause"),
        "batch.resume": lambda: did(f"{PREFIX}/batches/{batch_id}/resume"),
        "batch.start": lambda: did(f"{PREFIX}/batches/{batch_id}/start"),
        "batch.update": lambda: did(f"{PREFIX}/batches/{batch_id}", {"metadata": {"a": "b"}}),
        "batch.cancel": lambda: did(f"/v1/batches/{batch_id}/cancel"),
        "batch.retry": retried,
        "batch.delete": deleted,
        "forecast.backfill": filled,
        "forecast.import": lambda: str(
            server.http.post(f"{PREFIX}/forecasts/import", files={"file": ("f.csv", "zone,start,end\n")}).json()["id"]
        ),
        "forecast.train": lambda: str(server.post(f"{PREFIX}/forecasts/{filled()}/train")["zone"]),
        "plan.freeze": lambda: did(f"{PREFIX}/plan/freeze", {"until": "1h"}),
        "plan.unfreeze": lambda: did(f"{PREFIX}/plan/unfreeze"),
        "pool.cordon": lambda: did(f"{PREFIX}/pools/local/cordon"),
        "pool.drain": lambda: did(f"{PREFIX}/pools/local/drain"),
        "pool.open": lambda: did(f"{PREFIX}/pools/local/open"),
        "window.add": lambda: did(f"{PREFIX}/windows", WINDOW),
        "window.pause": lambda: did(f"{PREFIX}/windows/w/pause"),
        "window.resume": lambda: did(f"{PREFIX}/windows/w/resume"),
        "window.skip": lambda: did(f"{PREFIX}/windows/w/skip"),
        "window.extend": lambda: did(f"{PREFIX}/windows/w/extend", {"by": "1h"}),
        "window.remove": lambda: str(server.http.delete(f"{PREFIX}/windows/w").json()["id"]),
        "schedule.add": lambda: did(f"{PREFIX}/schedules", SCHEDULE),
        "schedule.pause": lambda: did(f"{PREFIX}/schedules/s/pause"),
        "schedule.resume": lambda: did(f"{PREFIX}/schedules/s/resume"),
        "schedule.remove": lambda: str(server.http.delete(f"{PREFIX}/schedules/s").json()["id"]),
        "key.create": lambda: did(f"{PREFIX}/keys", {"scopes": ["read"]}),
        "key.revoke": lambda: did(f"{PREFIX}/keys/{did(f'{PREFIX}/keys', {'scopes': ['read']})}/revoke"),
    }


def test_whatever_changes_something_is_in_the_audit_log(keyed: Keyed) -> None:
    changing = {r: rule for r, rule in RULES.items() if not r.startswith("GET ") and rule.scope != "worker"}
    assert all(rule.action for rule in changing.values()), changing
    deeds = acts(keyed)
    assert set(deeds) == {rule.action for rule in changing.values()}
    for action, deed in deeds.items():
        with keyed.server.runtime.database.read() as connection:
            before = audit.page(connection, ANY, limit=10_000)[-1]["id"]
        changed = deed()
        since = keyed.server.get(f"{PREFIX}/audit", after=before)["data"]
        (*_, entry) = (each for each in since if each["actor"] != "scheduler")  # it may find a batch at risk just then
        assert (entry["action"], entry["object_id"], entry["tenant"]) == (action, changed, "default")
        assert entry["actor"].startswith("key_")
        assert entry["detail"]["address"] == "127.0.0.1"


def test_a_refused_act_is_not_in_the_audit_log(keyed: Keyed) -> None:
    before = keyed.server.get(f"{PREFIX}/audit", limit=1000)["data"][-1]["id"]
    assert keyed.server.http.delete("/v1/files/file-none").status_code == 404
    assert keyed.server.http.post("/v1/batches/batch_none/cancel").status_code == 404
    since = keyed.server.get(f"{PREFIX}/audit", after=before)["data"]
    assert [entry for entry in since if entry["actor"] != "scheduler"] == []  # it may find a batch at risk just then


def test_the_audit_log_pages_and_filters(keyed: Keyed) -> None:
    page = keyed.server.get(f"{PREFIX}/audit", limit=2)
    assert page["has_more"]
    later = keyed.server.get(f"{PREFIX}/audit", limit=2, after=page["last_id"])
    assert later["first_id"] > page["last_id"]
    only = keyed.server.get(f"{PREFIX}/audit", tenant="bob")["data"]
    assert {entry["tenant"] for entry in only} <= {"bob"}


def test_the_audit_log_cannot_be_changed(database: Database) -> None:
    entry = {"at": NOW, "actor": "local", "tenant": "t", "action": "batch.create", "object_id": "b", "detail": {}}
    with database.write() as connection:
        audit.add(connection, **entry)
    statements: list[Executable] = [update(t.audit).values(actor="somebody else"), delete(t.audit)]
    with database.read() as connection:
        statements += [text("TRUNCATE audit")] if connection.dialect.name == "postgresql" else []
    for statement in statements:
        with pytest.raises(DBAPIError, match="append-only"), database.write() as connection:
            connection.execute(statement)
    with database.read() as connection:
        (kept,) = audit.page(connection, "t", limit=10)
        assert (kept["actor"], kept["at"]) == ("local", NOW)
        assert audit.page(connection, "u", limit=10) == []


@pytest.fixture
def log(keyed: Keyed) -> Keyed:
    """A server on which a key was revoked, and a pool drained and opened, whatever else happened there."""
    spare = keyed.server.post(f"{PREFIX}/keys", {"scopes": ["read"]})["id"]
    keyed.server.post(f"{PREFIX}/keys/{spare}/revoke")
    keyed.server.post(f"{PREFIX}/pools/local/drain")
    keyed.server.post(f"{PREFIX}/pools/local/open")
    return keyed


def test_the_audit_log_is_picked_from_by_act_actor_object_and_time(log: Keyed) -> None:
    def asked(**params: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = log.server.get(f"{PREFIX}/audit", limit=1000, **params)["data"]
        return found

    opened = asked(action="pool.open")
    assert {entry["action"] for entry in opened} == {"pool.open"}
    assert {entry["action"] for entry in asked(action="pool")} >= {"pool.open", "pool.drain"}
    assert asked(action="poo") == []
    both = asked(action=["pool.open", "key"])
    assert {entry["action"] for entry in both} == {"pool.open", "key.create", "key.revoke"}
    last = opened[-1]
    assert asked(object_id="local", newest=True)[0] == last
    assert asked(actor=last["actor"])
    assert asked(actor="key_nobody") == []
    hour_later = datetime.fromtimestamp(last["at"] + 3600, UTC).isoformat()
    assert asked(**{"from": hour_later}) == []
    assert asked(to=hour_later)[-1]["id"] >= last["id"]
    newest = asked(newest=True)
    assert [entry["id"] for entry in newest] == sorted((entry["id"] for entry in asked()), reverse=True)
    assert log.server.http.get(f"{PREFIX}/audit", params={"from": "yesterday"}).status_code == 400


def test_operators_read_the_audit_log_by_a_command(
    log: Keyed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as stop:
            main(["audit", "--server", log.server.url, *arguments])
        assert stop.value.code == code
        return capsys.readouterr().out

    monkeypatch.setenv("BATCHSCHED_SERVER_API_KEY", log.operator)
    heads, *rows = [line.split("\t") for line in told("--act", "pool", "--limit", "2").splitlines()]
    assert heads == ["when", "who", "tenant", "act", "on", "with"]
    assert [row[3] for row in rows] == ["pool.drain", "pool.open"]
    assert rows[1][4] == "local"
    assert "address 127.0.0.1" in rows[1][5]
    monkeypatch.setattr("batchsched.cli.audit.PAGE", 3)
    entries = [json.loads(line) for line in told("--limit", "7", "--json").splitlines()]
    assert len(entries) == 7
    assert [entry["id"] for entry in entries] == sorted(entry["id"] for entry in entries)
    assert told("--on", "nothing").count("\n") == 1
    assert told("--from", "2026-05-02", "--to", "2026-05-01", code=2) == ""
    monkeypatch.setenv("BATCHSCHED_SERVER_API_KEY", log.alice)
    assert told(code=4) == ""

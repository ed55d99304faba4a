"""Webhooks: a real receiver on loopback hears of every end, signed as the openai client wants it, whatever fails on the way."""

from __future__ import annotations

import signal
import socket
import ssl
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai
import pytest

from batchsched.clock import ManualClock, RandomIds
from batchsched.errors import InvalidConfiguration
from batchsched.queue import batches, deliveries, ledger
from batchsched.queue.database import Database
from batchsched.server.webhooks import GIVE_UP_AFTER, Webhooks, is_public
from batchsched.settings import Webhook, load
from tests.live import BASIC, PATIENCE_S, live_server, requests, wait_for
from tests.processes import Stage, end

SECRET = "whsec_" + "YmF0Y2hzY2hlZCBzaWducyBpdHMgZXZlbnRzIHdpdGggdGhpcw=="


class Receiver:
    """Somebody's web server: keeps what it was sent, answers as it is told."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.heard: list[tuple[bytes, dict[str, str], str]] = []
        self.came = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.heard.append((body, dict(self.headers.items()), self.path))
                status = receiver.answers.pop(0) if receiver.answers else 204
                self.send_response(status)
                if status == 302:
                    self.send_header("location", "/elsewhere")
                self.end_headers()
                receiver.came.set()

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}/hook?team=x"

    def events(self) -> list[Any]:
        """What it heard, each checked and read by the openai client."""
        client = openai.OpenAI(api_key="unused", webhook_secret=SECRET)
        with client:
            return [client.webhooks.unwrap(body.decode(), headers) for body, headers, _ in self.heard]


@pytest.fixture
def receiver() -> Generator[Receiver]:
    made = Receiver()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture
def silent_port() -> Generator[int]:
    """A port that is taken, though nobody listens there."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


class Desk:
    """The delivering part alone, on a clock that is moved by hand."""

    def __init__(self, database: Database, *, look_up: Callable[[str, int], list[str]] | None = None, **hook: Any) -> None:
        self.began = datetime.now(UTC).replace(microsecond=0)  # the openai client takes no event that is minutes old
        self.clock = ManualClock(self.began)
        self.database = database
        fields: dict[str, Any] = {"secret": SECRET, "allow_private": True, **hook}
        hooks = {"mine": Webhook(**fields)}
        more: dict[str, Any] = {"look_up": look_up} if look_up else {}
        self.webhooks = Webhooks(database, hooks, RandomIds(), self.clock, lambda: True, **more)

    def ended(self, batch_id: str = "batch_1", state: str = "completed", tenant: str = "default") -> None:
        """A batch that ended just now."""
        path = {"completed": ["in_progress", "finalizing", "completed"], "cancelled": ["cancelling", "cancelled"]}
        now = self.clock.now()
        with self.database.write() as connection:
            batches.add(
                connection, id=batch_id, tenant=tenant, endpoint="/v1/embeddings", input_file_id="file-1", completion_window="1h",
                state="validating", created_at=now, deadline_at=now, meta={}, options={},
            )  # fmt: skip
            for step in path.get(state, ["in_progress", state] if state == "expired" else [state]):
                batches.move(connection, batch_id, step, now)

    def rows(self, batch_id: str = "batch_1") -> list[dict[str, Any]]:
        """Its deliveries."""
        with self.database.read() as connection:
            return deliveries.of_batch(connection, batch_id)

    def counted(self) -> dict[str, int]:
        """The counters of webhooks."""
        with self.database.read() as connection:
            return {name: count for name, count in ledger.counted(connection).items() if name.startswith("webhook")}


def test_the_openai_client_accepts_every_kind_of_event(database: Database, receiver: Receiver) -> None:
    desk = Desk(database, url=receiver.url)
    for state in ("completed", "failed", "expired", "cancelled"):
        desk.ended(f"batch_{state}", state)
    desk.webhooks.round()
    desk.webhooks.round()  # nothing is left
    events = {event.type: event for event in receiver.events()}
    assert set(events) == {"batch.completed", "batch.failed", "batch.expired", "batch.cancelled"}
    assert len(receiver.heard) == 4
    event = events["batch.expired"]
    assert (event.data.id, event.object, event.created_at) == ("batch_expired", "event", int(desk.began.timestamp()))
    body, headers, path = receiver.heard[0]
    assert path == "/hook?team=x"
    assert headers["host"] == f"127.0.0.1:{receiver.port}"
    with pytest.raises(openai.InvalidWebhookSignatureError), openai.OpenAI(api_key="x", webhook_secret=SECRET) as client:
        client.webhooks.unwrap(body.decode().replace("batch_", "batch-"), headers)
    assert desk.counted()["webhooks_delivered_total"] == 4
    assert [row["state"] for row in desk.rows("batch_expired")] == ["delivered"]


def test_only_what_was_asked_for_and_only_of_ones_own_tenant(database: Database, receiver: Receiver) -> None:
    desk = Desk(database, url=receiver.url, tenant="acme", events=["batch.failed"])
    desk.ended("batch_1", "failed", "acme")
    desk.ended("batch_2", "completed", "acme")
    desk.ended("batch_3", "failed", "other")
    desk.webhooks.round()
    assert [event.data.id for event in receiver.events()] == ["batch_1"]
    with database.read() as connection:
        assert deliveries.waiting(connection) == {}


@pytest.mark.parametrize("trouble", [500, 429, 302, 404])
def test_a_receiver_that_fails_hears_it_again_by_the_same_id(database: Database, receiver: Receiver, trouble: int) -> None:
    desk = Desk(database, url=receiver.url)
    desk.ended()
    receiver.answers = [trouble, trouble]
    pauses: list[float] = []
    for _ in range(3):
        desk.webhooks.round()
        row = desk.rows()[0]
        pauses.append((row["due_at"] - desk.clock.now()).total_seconds())
        desk.webhooks.round()  # before its time nothing is sent
        desk.clock.advance(20)
    assert len(receiver.heard) == 3
    assert len({headers["webhook-id"] for _, headers, _ in receiver.heard}) == 1
    assert {path for *_, path in receiver.heard} == {"/hook?team=x"}  # a redirect is not followed
    assert 3 < pauses[0] < 7 < 11 < pauses[1] < 19
    row = desk.rows()[0]
    assert (row["state"], row["attempts"], row["last_error"]) == ("delivered", 3, None)
    assert desk.counted() == {"webhook_failures_total": 2, "webhooks_delivered_total": 1}


def test_after_three_days_it_is_given_up(database: Database, silent_port: int) -> None:
    desk = Desk(database, url=f"http://127.0.0.1:{silent_port}/hook")
    desk.ended()
    desk.webhooks.round()
    row = desk.rows()[0]
    while row["state"] == "pending":
        desk.clock.set_wall(row["due_at"])
        desk.webhooks.round()
        row = desk.rows()[0]
    assert 10 < row["attempts"] < 20
    assert row["state"] == "given_up"
    assert "cannot be reached" in row["last_error"]
    assert GIVE_UP_AFTER / 2 < row["ended_at"] - desk.began <= GIVE_UP_AFTER
    assert desk.counted()["webhooks_given_up_total"] == 1


def test_gone_means_gone(database: Database, receiver: Receiver) -> None:
    desk = Desk(database, url=receiver.url)
    desk.ended()
    receiver.answers = [410]
    desk.webhooks.round()
    assert [(row["state"], row["last_error"]) for row in desk.rows()] == [("given_up", "it answered 410")]


def test_a_webhook_that_was_taken_out_is_given_up(database: Database, receiver: Receiver) -> None:
    desk = Desk(database, url=receiver.url)
    desk.ended()
    receiver.answers = [500]
    desk.webhooks.round()
    desk.clock.advance(60)
    Webhooks(database, {}, RandomIds(), desk.clock, lambda: True).round()
    assert [row["state"] for row in desk.rows()] == ["given_up"]


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"], ["10.1.2.3"], ["192.168.0.1"], ["169.254.169.254"], ["100.64.0.1"], ["0.0.0.0"], ["::1"], ["fe80::1%eth0"],
        ["fd00::1"], ["::ffff:127.0.0.1"], ["2002:7f00:1::"], ["64:ff9b::a01:203"], ["224.0.0.1"], ["93.184.216.34", "127.0.0.1"],
    ],
)  # fmt: skip
def test_a_private_address_is_never_called(database: Database, receiver: Receiver, addresses: list[str]) -> None:
    asked: list[tuple[str, int]] = []

    def look_up(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return addresses

    desk = Desk(database, look_up=look_up, url=f"https://hooks.example:{receiver.port}/", allow_private=False)
    desk.ended()
    desk.webhooks.round()
    (row,) = desk.rows()
    assert asked == [("hooks.example", receiver.port)]
    assert "not a public address" in row["last_error"]
    assert (row["state"], row["attempts"], receiver.heard) == ("pending", 1, [])


def test_a_receiver_that_cannot_be_called_at_all_holds_up_nobody(database: Database, receiver: Receiver) -> None:
    def unheard_of(host: str, _port: int) -> list[str]:
        raise RuntimeError(host)

    desk = Desk(database, look_up=unheard_of, url=receiver.url)
    desk.ended()
    desk.webhooks.round()
    (row,) = desk.rows()
    assert (row["state"], row["attempts"]) == ("pending", 1)
    assert row["due_at"] > desk.clock.now()


def test_public_addresses_are_public() -> None:
    assert all(map(is_public, ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"]))


def test_a_name_that_changes_its_mind_is_asked_once_and_taken_at_its_word(database: Database, receiver: Receiver) -> None:
    """DNS rebinding: what was checked is what is called. The name itself does not exist, so nobody else resolved it either."""
    answers = [["127.0.0.1"], ["10.0.0.1"]]
    desk = Desk(
        database, look_up=lambda *_: answers.pop(0), url=f"http://rebound.invalid:{receiver.port}/hook"
    )  # allow_private: a test can only listen on loopback
    desk.ended()
    desk.webhooks.round()
    assert len(answers) == 1
    assert receiver.heard[0][1]["host"] == f"rebound.invalid:{receiver.port}"


@pytest.mark.parametrize(("name", "heard"), [("hooks.example", True), ("other.example", False)])
def test_the_certificate_must_be_of_the_name_though_the_address_is_called(
    database: Database, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, heard: bool
) -> None:
    certificate = self_signed("hooks.example", tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    receiver.server.socket = context.wrap_socket(receiver.server.socket, server_side=True)
    desk = Desk(database, look_up=lambda *_: ["127.0.0.1"], url=f"https://{name}:{receiver.port}/hook")
    desk.ended()
    desk.webhooks.round()
    assert (desk.rows()[0]["state"] == "delivered", len(receiver.heard) == 1) == (heard, heard)


def self_signed(name: str, folder: Path) -> Path:
    """A certificate for a name, with its key in the same file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    path = folder / "certificate.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


def test_a_receiver_that_drips_is_left_after_a_while(
    database: Database, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    del receiver
    with dripping() as port:
        monkeypatch.setattr("batchsched.server.webhooks.TIMEOUT_S", 0.5)
        desk = Desk(database, url=f"http://127.0.0.1:{port}/")
        desk.ended()
        desk.webhooks.round()
    (row,) = desk.rows()
    assert (row["state"], row["attempts"]) == ("pending", 1)
    assert "cannot be reached" in row["last_error"]


@contextmanager
def dripping() -> Generator[int]:
    """A server that sends its head a byte at a time, for ever."""
    import socket

    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
                while not over.wait(0.1):
                    try:
                        connection.sendall(b"a")
                    except OSError:
                        return

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        over.set()
        thread.join()


@pytest.mark.slow
def test_a_batch_that_fails_at_once_is_told_too(tmp_path: Path, receiver: Receiver) -> None:
    with live_server(tmp_path, BASIC + hook(receiver)) as server:
        body = {"input_file_id": "file-none", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        missing = server.post("/v1/batches", body)["id"]
        wait_for(lambda: len(receiver.heard) == 1)
        done = server.worker().drain(server.submit(requests(2))["id"])["id"]
        wait_for(lambda: len(receiver.heard) == 2)
        wait_for(lambda: "batchsched_webhooks_delivered_total 2.0" in server.http.get("/metrics").text)
        assert "batchsched_webhooks_pending 0.0" in server.http.get("/metrics").text
    assert [(event.type, event.data.id) for event in receiver.events()] == [("batch.failed", missing), ("batch.completed", done)]


def hook(receiver: Receiver) -> str:
    """The configuration of a webhook there."""
    return f"[webhooks.mine]\nurl = '{receiver.url}'\nsecret = '{SECRET}'\nallow_private = true\n"


@pytest.mark.slow
def test_a_server_killed_between_the_end_and_the_delivery_delivers_after_its_restart(tmp_path: Path, receiver: Receiver) -> None:
    import httpx

    with Stage(tmp_path, more=hook(receiver)) as stage:
        server = stage.server(("completed", 1))  # it dies once a batch's end is committed
        stage.engine()
        stage.worker()
        with httpx.Client(base_url=stage.url) as http:
            file = http.post("/v1/files", files={"file": ("in.jsonl", requests(3))}, data={"purpose": "batch"}).json()["id"]
            body: dict[str, Any] = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
            body["batchsched"] = {"deadline": "30s", "on_deadline": "finish"}
            batch_id = http.post("/v1/batches", json=body).json()["id"]
        assert server.wait(timeout=PATIENCE_S) == -signal.SIGKILL
        assert receiver.heard == []
        again = stage.server()
        wait_for(lambda: receiver.heard)
        assert [(event.type, event.data.id) for event in receiver.events()] == [("batch.completed", batch_id)]
        end(again)


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"url": "http://example.com/"}, "url"),
        ({"url": "ftp://example.com/"}, "url"),
        ({"url": "https:///nowhere"}, "url"),
        ({"url": "https://user:pw@example.com/"}, "url"),
        ({"url": "https://example..com/"}, "url"),
        ({"url": "https://exämple.com/"}, "url"),
        ({"secret": "whsec_c2hvcnQ="}, "secret"),
        ({"secret": SECRET.removeprefix("whsec_")}, "secret"),
        ({"events": ["batch.done"]}, "events"),
    ],
)
def test_a_webhook_that_is_not_sound_is_refused_at_the_start(tmp_path: Path, changed: dict[str, Any], word: str) -> None:
    fields = {"url": "https://example.com/", "secret": SECRET, **changed}
    path = tmp_path / "batchsched.toml"
    path.write_text("[webhooks.mine]\n" + "".join(f"{key} = {value!r}\n" for key, value in fields.items()))
    with pytest.raises(InvalidConfiguration, match=rf"webhooks\.mine\.{word}"):
        load(path, env={})

"""TLS on a real server process, with a certificate of the test's own; and what proxies may say about a caller."""

from __future__ import annotations

import datetime
import ipaddress
import os
import subprocess
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from batchsched import Client
from batchsched.errors import InsecureBind, InvalidConfiguration, ServerUnreachable
from batchsched.queue import audit
from batchsched.queue.database import Database
from batchsched.queue.tenancy import ANY
from batchsched.server.bind import check_bind, is_exposed
from batchsched.settings import Server
from tests.live import PATIENCE_S, requests
from tests.processes import BATCHSCHED, ROOT, Stage


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and localhost, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key_file.write_bytes(key.private_bytes(*plain))
    return cert_file, key_file


def configure(stage: Stage, lines: str) -> None:
    stage.config.write_text(stage.config.read_text().replace("[server]", f"[server]\n{lines}"))


@pytest.mark.slow
def test_https_works_from_end_to_end_and_plain_http_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = certificate(tmp_path)
    with Stage(tmp_path, delay_s=0.0) as stage:
        configure(stage, f"host = '0.0.0.0'\ntls_cert = '{cert}'\ntls_key = '{key}'\napi_key = 'k'")
        stage.url = stage.url.replace("http://", "https://")
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))  # for httpx here, and for the processes that the stage starts
        stage.server()
        assert httpx.get(f"{stage.url}/v1/models").status_code == 401
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{stage.port}/livez")
        monkeypatch.delenv("SSL_CERT_FILE")
        with Client(stage.url, "k") as client, pytest.raises(ServerUnreachable, match="CERTIFICATE_VERIFY_FAILED") as caught:
            client.plan()
        assert "SSL_CERT_FILE" in str(caught.value.hint)
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        stage.engine()
        asked = {"headers": {"authorization": "Bearer k"}, "json": {"scopes": ["worker"], "name": "gpu-01"}}
        worker_key = httpx.post(f"{stage.url}/v1/batchsched/keys", **asked).json()["key"]  # type: ignore[arg-type]
        arguments = ["--server", stage.url, "--pool", "local", "--engine-url", stage.engine_url, "--api-key", worker_key]
        stage.start([*BATCHSCHED, "worker", *arguments, "--config", str(stage.config)], "worker")
        (tmp_path / "in.jsonl").write_bytes(requests(3))
        arguments = ["submit", str(tmp_path / "in.jsonl"), "--deadline", "1h", "--wait", "--config", str(stage.config)]
        done = subprocess.run(
            [*BATCHSCHED, *arguments, "--server", stage.url],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_what_forwards_for_a_caller_is_believed_only_of_trusted_proxies(tmp_path: Path) -> None:
    headers = {"authorization": "Bearer k", "x-forwarded-for": "203.0.113.7", "x-forwarded-proto": "https"}
    for trusted, seen in (("trusted_proxies = ['127.0.0.0/8']", "203.0.113.7"), ("", "127.0.0.1")):
        folder = tmp_path / seen
        folder.mkdir()
        with Stage(folder) as stage:
            configure(stage, f"api_key = 'k'\n{trusted}")
            stage.server()
            data = {"files": {"file": ("f", requests(1))}, "data": {"purpose": "batch"}}
            assert httpx.post(f"{stage.url}/v1/files", headers=headers, **data).status_code == 200  # type: ignore[arg-type]
        database = Database(folder / "data" / "batchsched.db")
        with database.read() as connection:
            (entry,) = audit.page(connection, ANY, limit=10)
        database.close()
        assert entry["detail"]["address"] == seen


def test_off_loopback_there_is_tls_or_a_proxy_that_does_it(tmp_path: Path) -> None:
    cert, key = map(str, certificate(tmp_path))
    check_bind(Server())
    check_bind(Server(host="0.0.0.0", tls_cert=cert, tls_key=key))
    check_bind(Server(host="10.0.0.1", trusted_proxies=["10.0.0.0/24"]))
    with pytest.raises(InsecureBind, match="without TLS"):
        check_bind(Server(host="0.0.0.0", api_key="k"))
    assert [is_exposed(server) for server in (Server(), Server(host="::1"), Server(host="::"))] == [False, False, True]
    assert is_exposed(Server(trusted_proxies=["127.0.0.1"]))


def test_what_cannot_serve_tls_is_told_by_its_key(tmp_path: Path) -> None:
    cert, key = map(str, certificate(tmp_path))
    (tmp_path / "other").mkdir()
    _, stranger = map(str, certificate(tmp_path / "other"))
    for server in (
        Server(tls_cert=str(tmp_path / "none.pem")),
        Server(tls_cert=cert),
        Server(tls_cert=cert, tls_key=stranger),
        Server(tls_cert=key, tls_key=cert),
    ):
        with pytest.raises(InvalidConfiguration, match=r"server\.tls_cert"):
            check_bind(server)
    for proxy in ("*", "proxy.example", ""):
        with pytest.raises(InvalidConfiguration, match=r"server\.trusted_proxies"):
            check_bind(Server(trusted_proxies=[proxy]))
    check_bind(Server(tls_cert=cert, tls_key=key))

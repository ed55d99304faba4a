"""The container's own scripts with real processes: roles by command, the health check, the certificate."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from batchsched import Client
from tests.live import PATIENCE_S, wait_for
from tests.processes import BATCHSCHED, ROOT, Stage, end, tagged

CONTAINER = ROOT / "deploy" / "container"
ENTRYPOINT = [sys.executable, str(CONTAINER / "entrypoint.py")]

pytestmark = pytest.mark.skipif(
    not Path(sys.executable).with_name("batchsched").exists(), reason="batchsched is not installed beside this Python (make env)"
)


def _environment(stage: Stage) -> dict[str, str]:
    return {"BATCHSCHED_CONFIG": str(stage.config), "BATCHSCHED_SERVER_PORT": str(stage.port)}


def _healthy(**variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*ENTRYPOINT, "healthy"], env=os.environ | variables, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_both_roles_in_one_container_work_and_stop_in_order(tmp_path: Path) -> None:
    with Stage(tmp_path) as stage:
        stage.engine()
        process = stage.start(
            [*ENTRYPOINT, "both", "--pool", "local", "--engine-url", stage.engine_url], "both", _environment(stage)
        )
        wait_for(lambda: stage.answers(stage.url, "/readyz") or process.poll() is not None)
        assert _healthy(BATCHSCHED_SERVER_PORT=str(stage.port)).returncode == 0
        (tmp_path / "in.jsonl").write_bytes(tagged(5))
        with Client(stage.url) as client:
            batch = client.batches.create(file=tmp_path / "in.jsonl", endpoint="/v1/chat/completions", deadline="1h")
            assert client.batches.wait(batch.id).request_counts.completed == 5
        assert end(process) == 0
        said = (tmp_path / "both.log").read_text()
        assert "Stopped." in said  # the worker said goodbye while the server was there
        assert "could not be given back" not in said


@pytest.mark.slow
def test_where_one_of_both_ends_the_other_does_too(tmp_path: Path) -> None:
    with Stage(tmp_path) as stage:
        process = stage.start([*ENTRYPOINT, "both", "--pool", "nowhere"], "both", _environment(stage))
        assert process.wait(timeout=PATIENCE_S) != 0
        assert "There is no pool 'nowhere'" in (tmp_path / "both.log").read_text()
        assert not stage.answers(stage.url)


def test_a_role_becomes_its_command_and_a_server_that_is_away_is_not_healthy(tmp_path: Path) -> None:
    done = subprocess.run([*ENTRYPOINT, "worker", "--help"], capture_output=True, text=True, check=True)
    assert "Run a worker beside a GPU" in done.stdout
    done = subprocess.run([*ENTRYPOINT, "key", "create", "--help"], capture_output=True, text=True, check=True)
    assert "--scope" in done.stdout
    with Stage(tmp_path) as stage:
        for variables in ({"BATCHSCHED_SERVER_PORT": str(stage.port)}, {"BATCHSCHED_WORKER_SERVER_URL": stage.url}):
            away = _healthy(**variables)
            assert (away.returncode, f"127.0.0.1:{stage.port}/readyz" in away.stderr) == (1, True)


@pytest.mark.slow
def test_the_certificate_that_is_made_at_the_first_start_serves_and_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    (tmp_path / "tls").mkdir()
    (tmp_path / "ca").mkdir()
    command = [str(CONTAINER / "make-tls.sh"), str(tmp_path / "tls"), str(tmp_path / "ca"), "server"]
    subprocess.run(command, check=True, capture_output=True)
    first = (tmp_path / "tls/tls.crt").read_bytes()
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "tls/tls.crt").read_bytes() == first == (tmp_path / "ca/ca.crt").read_bytes()
    assert stat.S_IMODE((tmp_path / "tls/tls.key").stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "ca").iterdir()] == ["ca.crt"]
    names = subprocess.run(["openssl", "x509", "-noout", "-ext", "subjectAltName"], input=first, capture_output=True, check=True)
    assert b"DNS:localhost, IP Address:127.0.0.1, DNS:server" in names.stdout
    with Stage(tmp_path) as stage:
        tls = {"TLS_CERT": str(tmp_path / "tls/tls.crt"), "TLS_KEY": str(tmp_path / "tls/tls.key")}
        variables = {f"BATCHSCHED_SERVER_{name}": value for name, value in {**tls, "API_KEY": "k", "HOST": "0.0.0.0"}.items()}
        process = stage.start([*ENTRYPOINT, "server"], "server", variables | _environment(stage))
        wait_for(
            lambda: _healthy(**variables, BATCHSCHED_SERVER_PORT=str(stage.port)).returncode == 0 or process.poll() is not None
        )
        assert process.poll() is None, (tmp_path / "server.log").read_text()
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca/ca.crt"))
        url = f"https://localhost:{stage.port}"
        assert _healthy(BATCHSCHED_WORKER_SERVER_URL=url).returncode == 0
        assert _healthy(BATCHSCHED_WORKER_SERVER_URL=url, SSL_CERT_FILE="/dev/null").returncode == 1
        done = subprocess.run(
            [*BATCHSCHED, "list", "--server", url, "--api-key", "k"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        end(process, signal.SIGTERM)

"""`doctor` on this machine: what it finds sound, what it warns of, and that it says what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from batchsched.cli import doctor_machine, exits
from batchsched.cli.doctor_forecast import STALE
from batchsched.executors.engine_home import EngineHome
from batchsched.executors.flaws import flaws_of
from tests.commands import call, checks
from tests.fake_providers import FakeProvider


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration of this machine takes part."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))


def test_doctor_finds_this_machine_sound(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("doctor", "--quick", "--json", *AWAY) == exits.OK
    found = checks(capsys)
    assert found["python"]["level"] == "ok"
    assert found["server"]["level"] == "warning"
    assert "fsync takes" in found["data folder"]["text"]


def test_doctor_names_published_flaws_of_an_old_engine(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def level(version: str) -> str | None:
        home = EngineHome("/engine/bin/python", "vllm", version)
        monkeypatch.setattr("batchsched.executors.engine_home.find_engine", lambda _="": home)
        assert call("doctor", "--quick", "--json", *AWAY) == exits.OK
        found = checks(capsys).get("engine flaws")
        assert found is None or "Use 0.18 or newer" in found["next_step"]
        return None if found is None else str(found["level"])

    assert level("0.13.0") == "warning"
    assert level("0.32.0+cpu") is None
    assert [flaw.number for flaw in flaws_of("0.8.0")] == ["CVE-2026-24779", "CVE-2025-59425"]
    assert flaws_of("dev") == []


def test_doctor_calls_an_exposed_server_without_tls_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "batchsched.toml").write_text('[server]\nhost = "0.0.0.0"\n', "utf-8")
    assert call("doctor", "--quick", "--json", *AWAY) == exits.FAILURE
    assert checks(capsys)["bind"]["level"] == "broken"


def test_doctor_warns_of_sqlite_with_the_wal_reset_bug(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, level in (((3, 51, 2), "warning"), ((3, 51, 3), "ok")):
        monkeypatch.setattr("sqlite3.sqlite_version_info", version)
        call("doctor", "--quick", "--json", *AWAY)
        assert checks(capsys)["SQLite"]["level"] == level


def test_doctor_reports_a_configuration_that_does_not_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "batchsched.toml").write_text("[server]\nprot = 1", "utf-8")
    assert call("doctor", "--json") == exits.FAILURE
    assert checks(capsys)["configuration"]["level"] == "broken"


AWAY = ("--server", "http://127.0.0.1:9")
FILE = '[sites.home]\nzone = "DE"\n[forecast]\nsource = "file"\npath = "grid.csv"\n'


@pytest.mark.parametrize(("age", "level"), [(timedelta(hours=2), "ok"), (STALE + timedelta(hours=1), "warning")])
def test_doctor_says_how_old_a_forecast_is(
    age: timedelta, level: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = datetime.now(UTC)
    start, end, issued = ((now + by).strftime("%Y-%m-%dT%H:%M:%SZ") for by in (-age, timedelta(days=5), -age))
    (tmp_path / "grid.csv").write_text(f"zone,start,end,issued_at,mean\nDE,{start},{end},{issued},100\n", "utf-8")
    (tmp_path / "batchsched.toml").write_text(FILE, "utf-8")
    call("doctor", "--quick", "--json", *AWAY)
    found = checks(capsys)["forecast DE"]
    assert (found["level"], " ago" in found["text"]) == (level, True), found
    assert ("grid.csv" in found["next_step"]) == (level == "warning")


@pytest.fixture
def grid() -> Iterator[FakeProvider]:
    fake = FakeProvider("gb", "", datetime.now(UTC))
    yield fake
    fake.close()


def test_doctor_asks_a_source_that_nobody_has_heard(
    grid: FakeProvider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = f'[forecast.sources.grid]\nkind = "gb"\nzones = {{ GB = "national" }}\nbase_url = "{grid.url}"\n'
    (tmp_path / "batchsched.toml").write_text(source, "utf-8")
    call("doctor", "--quick", "--json", *AWAY)
    found = checks(capsys)["source grid"]
    assert (found["level"], found["text"].startswith("asked now: a forecast of GB issued ")) == ("ok", True), found
    grid.moods.extend(["403"] * 9)
    call("doctor", "--quick", "--json", *AWAY)
    found = checks(capsys)["source grid"]
    assert (found["level"], "403" in found["text"]) == ("warning", True), found


class _Vllm(BaseHTTPRequestHandler):
    """As much of a running vLLM as doctor asks."""

    def do_GET(self) -> None:
        body = b'{"version": "0.13.0"}' if self.path == "/version" else b""
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        pass


def test_doctor_asks_a_running_engine_for_its_version(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Vllm) as engine:
        Thread(target=engine.serve_forever, daemon=True).start()
        monkeypatch.setenv("BATCHSCHED_WORKER_ENGINE_URL", f"http://127.0.0.1:{engine.server_port}/v1")
        call("doctor", "--quick", "--json", *AWAY)
        engine.shutdown()
    found = checks(capsys)
    assert (found["engine"]["level"], "version 0.13.0" in found["engine"]["text"]) == ("ok", True)
    assert found["engine flaws"]["level"] == "warning"


def test_doctor_warns_of_a_slow_disk(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_machine, "fsync_ms", lambda _: 21.0)
    call("doctor", "--quick", "--json", *AWAY)
    found = checks(capsys)["data folder"]
    assert (found["level"], "which is slow" in found["text"]) == ("warning", True)


def test_doctor_tells_people_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("doctor", "--quick", *AWAY) == exits.OK
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["check", "", "finding", "what to do"]
    (server,) = [row for row in rows if row[0] == "server"]
    assert "`batchsched serve`" in server[3]

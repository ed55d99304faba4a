"""`doctor` on the database: what it finds sound, what it warns of, what it calls broken."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from batchsched.cli import exits
from batchsched.queue import checkup
from batchsched.queue.database import Database
from tests.commands import call, checks
from tests.postgres import PostgresServer

HOSTLESS = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))


def examined(capsys: pytest.CaptureFixture[str], url: str, code: int) -> dict[str, tuple[str, str]]:
    Path("batchsched.toml").write_text(f"[server]\ndatabase_url = {url!r}\n")
    assert call("doctor", "--quick", "--json", "--server", HOSTLESS) == code
    return {name: (check["level"], check["text"]) for name, check in checks(capsys).items()}


def test_postgresql_that_does_not_sync_is_broken(capsys: pytest.CaptureFixture[str], postgres_url: str) -> None:
    found = examined(capsys, postgres_url, exits.FAILURE)  # the tests' own server is a fast one
    assert found["PostgreSQL"][0] == "ok"
    assert found["PostgreSQL settings"][0] == "broken"
    assert "fsync and full_page_writes" in found["PostgreSQL settings"][1]
    assert found["schema"][0] == "ok"
    assert "SQLite" not in found


def test_schemas_old_new_and_none(
    capsys: pytest.CaptureFixture[str], postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgres.fresh(template="template0") as url:
        assert "is empty" in examined(capsys, url, exits.FAILURE)["schema"][1]
        Database(url).close()
        name = url.partition("?")[0].rpartition("/")[2]
        postgres.execute("UPDATE alembic_version SET version_num = '0001'", name)
        level, text = examined(capsys, url, exits.FAILURE)["schema"]
        assert (level, "pending, 0002, 0003" in text) == ("warning", True)
        postgres.execute("UPDATE alembic_version SET version_num = '9999'", name)
        assert examined(capsys, url, exits.FAILURE)["schema"][0] == "broken"
        monkeypatch.setattr(checkup, "SOUND", (99,))
        assert examined(capsys, url, exits.FAILURE)["PostgreSQL"][0] == "warning"
        monkeypatch.setattr(checkup, "OLDEST", (99,))
        assert examined(capsys, url, exits.FAILURE)["PostgreSQL"][0] == "broken"


def test_a_database_that_does_not_answer_is_broken_and_its_password_stays_hidden(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    level, text = examined(capsys, f"postgresql://u:secret@/x?host={tmp_path}", exits.FAILURE)["database"]
    assert (level, "does not answer" in text, "secret" in text) == ("broken", True, False)


def test_migrations_of_sqlite_that_are_pending_are_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "batchsched-data" / "batchsched.db"
    for said, level in (("", "ok"), ("0001", "warning"), ("9999", "broken")):
        Database(path).close() if not said else None
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE alembic_version SET version_num = ? WHERE ? <> ''", (said, said))
        connection.close()
        call("doctor", "--quick", "--json", "--server", HOSTLESS)
        found = checks(capsys)
        assert found["schema"]["level"] == level, found["schema"]
        assert ("batchsched migrate" in found["schema"]["next_step"]) == (level == "warning")
        assert (found["SQLite sync"]["level"], "synchronous=FULL" in found["SQLite sync"]["text"]) == ("ok", True)


def test_sqlite_has_to_be_in_write_ahead_mode(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "batchsched-data" / "batchsched.db"
    Database(path).close()
    assert call("doctor", "--quick", "--json", "--server", HOSTLESS) == exits.OK
    assert checks(capsys)["database"]["level"] == "ok"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()
    assert call("doctor", "--quick", "--json", "--server", HOSTLESS) == exits.FAILURE
    assert checks(capsys)["database"]["level"] == "broken"

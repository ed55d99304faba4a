"""Machines as docs/deploy means them, for tests that follow its pages.

Their folders lie in the test's. What systemd or compose would start and end are a stage's processes, with the environment that
the files of deploy/ give them.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.processes import ROOT, Stage, end

PAGES = ROOT / "docs" / "deploy"
UNITS = ROOT / "deploy" / "systemd"


def blocks(page: str, heading: str) -> list[list[str]]:
    """The commands of a page under a heading, block by block."""
    text = (PAGES / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [block.strip().splitlines() for block in re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


class Site:
    """One machine with systemd. Data folder and database are known to the units alone, as deploy.md leaves them."""

    server, worker = "batchsched-server", "batchsched-worker@local"

    def __init__(self, stage: Stage, env: dict[str, str], secrets: dict[str, str]) -> None:
        """`env`: how PostgreSQL's programs find the server. `secrets`: what stands in server.env."""
        self.stage = stage
        self.data = self.state = stage.folder / "data"
        self.programs, etc = stage.folder / "programs", stage.folder / "etc"
        self.programs.mkdir()
        program = self.programs / "batchsched"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m batchsched.cli "$@"\n')
        program.chmod(0o755)
        etc.mkdir()
        config = stage.config.rename(etc / "batchsched.toml")
        config.write_text(re.sub(r"^data_dir = .*\n", "", config.read_text(), flags=re.MULTILINE))
        stage.config = config
        (etc / "as-server.sh").write_text(self.here((UNITS / "as-server.sh").read_text()))
        if secrets:
            (etc / "server.env").write_text("".join(f"{name}='{value}'\n" for name, value in secrets.items()))
        ours = {name: value for name, value in os.environ.items() if not name.startswith("BATCHSCHED_")}
        self.env = {**ours, "PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": str(ROOT), **env}
        variables = {**self.environment("batchsched-server.service"), **secrets}
        self._start: dict[str, Callable[[], subprocess.Popen[bytes]]] = {
            self.server: lambda: stage.server(extra=variables),
            self.worker: stage.worker,
        }
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def here(self, text: str) -> str:
        """With the test's folders for the machine's."""
        places = {
            "/var/lib/batchsched": self.state,
            "/backups": self.stage.folder / "backups",
            "/opt/batchsched/bin": self.programs,
            "/etc/batchsched": self.stage.folder / "etc",
        }
        for path, place in places.items():
            text = text.replace(path, str(place))
        return text

    def environment(self, unit: str) -> dict[str, str]:
        """What a unit's own lines set of ours."""
        text = self.here((UNITS / unit).read_text().replace("%S", "/var/lib"))
        return dict(re.findall(r"^Environment=.*?(BATCHSCHED_\w+)=(\S+)", text, re.MULTILINE))

    def follow(self, lines: Sequence[str]) -> str:
        """Do what the lines say, in one shell; what they print."""
        printed, shell = "", "set -e\n"
        for line in lines:
            if line.startswith("systemctl "):
                printed += self.systemctl(*line.split()[1:])
            elif line.startswith(". "):
                shell += f"{self.here(line)}\n"
            elif "pip install" not in line:  # the new version is the one that is tested
                printed += self.run(shell + self.here(line))
        return printed

    def run(self, shell: str, env: dict[str, str] | None = None) -> str:
        """What the commands print; they must succeed. `env` is what a unit sets beside."""
        done = subprocess.run(
            shell, shell=True, cwd=self.stage.folder, env=self.env | (env or {}), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{shell}\n{done.stdout}{done.stderr}"
        return done.stdout

    def systemctl(self, act: str, *words: str) -> str:
        """Start and end a service; a timer that is enabled goes off at once."""
        name = words[-1]
        if name.endswith(".timer"):
            assert (act, words[0]) == ("enable", "--now")
            return self._once(name.replace(".timer", ".service"))
        if act in {"stop", "restart"} and name in self._running:
            end(self._running.pop(name))
        if act in {"start", "restart"}:
            self._running[name] = self._start[name]()
        return ""

    def _once(self, unit: str) -> str:
        """What a unit of one command does."""
        text = (UNITS / unit).read_text()
        (command,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
        (secrets,) = re.findall(r"^EnvironmentFile=-(.*)$", text, re.MULTILINE)
        file = Path(self.here(secrets))
        lines = re.findall(r"^(\w+)='(.*)'$", file.read_text(), re.MULTILINE) if file.exists() else []
        return self.run(self.here(command), self.environment(unit) | dict(lines))

    def lose_everything(self) -> None:
        """The machine burns: processes by kill -9, the data folder with them."""
        for process in self._running.values():
            end(process, signal.SIGKILL)
        self._running.clear()
        shutil.rmtree(self.state)


class ComposeSite(Site):
    """The services of compose.yaml: the volume `server` is a folder, `postgres` the PostgreSQL that runs here."""

    def __init__(self, stage: Stage, env: dict[str, str], secrets: dict[str, str]) -> None:
        super().__init__(stage, env, secrets)
        text = (ROOT / "deploy/container/Containerfile").read_text()
        (self.data,) = (Path(self.here(found)) for found in re.findall(r"BATCHSCHED_SERVER_DATA_DIR=(\S+)", text))
        self._start[self.server] = lambda: stage.server(extra={"BATCHSCHED_SERVER_DATA_DIR": str(self.data), **secrets})
        self.state.mkdir()

    def run(self, shell: str, env: dict[str, str] | None = None) -> str:
        """A line of the page, each command of docker's in its place."""
        *_, line = shell.splitlines()
        if not line.startswith("docker "):
            return super().run(shell, env)
        words = line.removeprefix("docker compose ")
        if found := re.fullmatch(r"(start|stop) server", words):
            return self.systemctl(found[1], self.server)
        if words == "up --detach --wait postgres":
            return ""
        if words == "up --detach":
            return self.systemctl("start", self.server) + self.systemctl("start", self.worker)
        if found := re.fullmatch(r"exec -T postgres (.*)", words):
            return super().run(found[1], env)
        found = re.fullmatch(r"run --rm --no-deps -T --entrypoint (\w+) server (.*)", words)
        assert found, line
        return super().run(f"{found[1]} {found[2]}", env)

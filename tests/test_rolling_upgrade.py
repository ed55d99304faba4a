"""docs/deploy/upgrade.md, two servers on one PostgreSQL: one after the other gets the next version, and the work goes on."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.deploy_site import blocks
from tests.live import HTTP, PATIENCE_S, wait_for
from tests.processes import BATCHSCHED, ROOT, Stage, end, free_port, tagged
from tests.test_migrations import REVISIONS

NEXT = "99.0.0"
MIGRATION = f'''"""What the next version adds: a column, and a table."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "9999", "{REVISIONS[-1]}"


def upgrade() -> None:
    """Older servers know of neither."""
    op.add_column("batches", sa.Column("of_the_next_version", sa.String(), nullable=True))
    op.add_column("chunks", sa.Column("of_the_next_version", sa.String(), nullable=False, server_default="none"))
    op.create_table("of_the_next_version", sa.Column("id", sa.Integer(), primary_key=True))
'''


def next_version(folder: Path) -> Path:
    """This code with another version and one more migration."""
    shutil.copytree(ROOT / "batchsched", folder / "batchsched", ignore=shutil.ignore_patterns("__pycache__"))
    init = folder / "batchsched" / "__init__.py"
    init.write_text(init.read_text().replace("__version__ = ", f'__version__ = "{NEXT}"  # not '))
    (folder / "batchsched/queue/migrations/versions/9999_next.py").write_text(MIGRATION)
    return folder


class Machine:
    """One of the two: its server, of the version that is installed, and a worker that knows this server alone."""

    def __init__(self, stage: Stage, name: str, newer: Path, url: str) -> None:
        self._stage, self._name, self._newer = stage, name, newer
        self._env = {"BATCHSCHED_SERVER_DATABASE_URL": url}
        self._installed, self._port = ROOT, free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._server = self._serve()
        worker = ["worker", "--server", self.url, "--pool", "local", "--engine-url", stage.engine_url]
        stage.start([*BATCHSCHED, *worker, "--config", str(stage.config)], f"worker-{name}")

    def follow(self, lines: list[str]) -> None:
        """Do as the page says."""
        for line in lines:
            words = line.split()
            if words[0] == "systemctl":
                self._systemctl(words[1])
            elif words[0] == ".":
                continue  # what it sets, this machine's environment has
            elif "pip" in words[0]:
                self._installed = self._newer
            else:
                assert words == ["batchsched", "migrate"], line
                migrate = [*BATCHSCHED, "migrate", "--config", str(self._stage.config)]
                done = self._stage.start(migrate, f"migrate-{self._name}", self._env, cwd=self._installed)
                assert done.wait(PATIENCE_S) == 0, (self._stage.folder / f"migrate-{self._name}.log").read_text()

    def _systemctl(self, act: str) -> None:
        if act == "stop":
            end(self._server)
        else:
            self._server = self._serve()

    def _serve(self) -> subprocess.Popen[bytes]:
        serve = [*BATCHSCHED, "serve", "--config", str(self._stage.config), "--port", str(self._port)]
        process = self._stage.start(serve, f"server-{self._name}", self._env, cwd=self._installed)
        wait_for(lambda: self._stage.answers(self.url, "/readyz") or process.poll() is not None)
        assert process.poll() is None, (self._stage.folder / f"server-{self._name}.log").read_text()
        return process

    def submit(self, prefix: str) -> str:
        """A batch's id."""
        file = HTTP.post(f"{self.url}/v1/files", files={"file": ("f", tagged(24, prefix))}, data={"purpose": "batch"}).json()
        body = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        made: str = HTTP.post(f"{self.url}/v1/batches", json=body).raise_for_status().json()["id"]
        return made

    def batch(self, batch_id: str) -> dict[str, Any]:
        """As it is now."""
        found: dict[str, Any] = HTTP.get(f"{self.url}/v1/batches/{batch_id}").raise_for_status().json()
        return found

    def answers(self, batch_id: str) -> list[str]:
        """The custom_ids of a batch's output."""
        text = HTTP.get(f"{self.url}/v1/files/{self.batch(batch_id)['output_file_id']}/content").raise_for_status().text
        return sorted(json.loads(line)["custom_id"] for line in text.splitlines())

    @property
    def version(self) -> str:
        """Of the server that answers."""
        return str(HTTP.get(f"{self.url}/version").json()["version"])


@pytest.mark.slow
def test_servers_are_upgraded_one_after_the_other_and_nothing_is_lost(postgres_url: str, tmp_path: Path) -> None:
    (lines,) = blocks("upgrade.md", "Several servers on PostgreSQL")
    newer = next_version(tmp_path / "next")
    with Stage(tmp_path, lease_s=60, delay_s=0.4, chunk_lines=4) as stage:
        stage.engine()
        first, second = (Machine(stage, name, newer, postgres_url) for name in ("first", "second"))
        made = {prefix: machine.submit(prefix) for prefix, machine in (("a", first), ("b", second))}
        wait_for(lambda: second.batch(made["a"])["request_counts"]["completed"] >= 4)
        for prefix, machine, other in (("c", first, second), ("d", second, first)):
            machine.follow(lines[:-1])
            assert stage.answers(other.url, "/readyz"), "the other one must go on, on whichever schema"
            made[prefix] = other.submit(prefix)
            wait_for(lambda: other.batch(made[prefix])["request_counts"]["completed"] > 0)  # noqa: B023 - it is asked at once
            machine.follow(lines[-1:])
            assert (machine.version, other.version == NEXT) == (NEXT, machine is second)
        for prefix, batch_id in made.items():
            done = wait_for(lambda: found if (found := first.batch(batch_id))["status"] == "completed" else None)  # noqa: B023
            assert done["request_counts"] == {"total": 24, "completed": 24, "failed": 0}
            assert second.answers(batch_id) == sorted(f"{prefix}{number}" for number in range(24))
        assert set(stage.computed().values()) == {1}, "what was under way was computed again"
        assert HTTP.get(f"{first.url}/metrics").text.count("batchsched_chunk_failures_total") == 0

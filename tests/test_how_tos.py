"""The how-tos, followed as they stand: real servers and workers, the tests' counting engine in the place of vLLM."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from batchsched.cli import exits
from tests.live import PATIENCE_S, requests, wait_for
from tests.pages import ROOT, blocks
from tests.postgres import PostgresServer, find_binaries
from tests.processes import BATCHSCHED, Stage, free_port

pytestmark = pytest.mark.slow
PAGES = ROOT / "docs" / "how-to"
BATCH = re.compile(r"batch_[0-9a-f]+")


class Reader:
    """Somebody who follows a page in a folder of their own."""

    def __init__(self, stage: Stage, page: str) -> None:
        self.stage, self._page = stage, PAGES / page
        programs = stage.folder / "programs"
        programs.mkdir()
        for name, does in (("batchsched", f'exec {shlex.join(BATCHSCHED)} "$@"'), ("pip", "true")):
            (programs / name).write_text(f"#!/bin/sh\n{does}\n")
            (programs / name).chmod(0o755)
        self.env = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "BATCHSCHED_SERVER_PORT": str(stage.port),
            "BATCHSCHED_WORKER_SERVER_URL": stage.url,
            "BATCHSCHED_WORKER_ENGINE_URL": stage.engine_url,
            "OPENAI_BASE_URL": f"{stage.url}/v1",
        }

    def commands(self, language: str = "") -> list[str]:
        """What the page says to type, command by command."""
        text = "\n".join(block.text for block in blocks(self._page, language)).replace("\\\n", " ")
        return [line.partition("   #")[0].strip() for line in text.splitlines() if line.strip()]

    def blocks(self, language: str) -> list[str]:
        """Its blocks in a language."""
        return [block.text for block in blocks(self._page, language)]

    def configures(self, text: str) -> None:
        """The page's configuration, with what keeps this reader's server to a folder and a port of its own."""
        own = f"[server]\nport = {self.stage.port}\ndata_dir = 'data'\nlease_s = 5\n[worker]\nstate_dir = 'worker'\n"
        self.stage.config.write_text(f"{own}[planner]\nsolver = 'greedy'\n{text}")

    def types(self, line: str, code: int = 0, **more: str) -> str:
        """What a command prints, in both streams. It must end with this exit code."""
        env = {**os.environ, **self.env, **more}
        env.pop("BATCHSCHED_CONFIG", None)
        done = subprocess.run(line, shell=True, cwd=self.stage.folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == code, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def starts(self, line: str, name: str, **more: str) -> subprocess.Popen[bytes]:
        """A command that goes on."""
        return self.stage.start(["sh", "-c", f"cd {self.stage.folder} && exec {line}"], name, {**self.env, **more})

    def serves(self) -> subprocess.Popen[bytes]:
        """`batchsched serve`, until it answers."""
        process = self.starts("batchsched serve", "server")
        wait_for(lambda: self.stage.answers(self.stage.url, "/readyz") or process.poll() is not None)
        assert process.poll() is None, (self.stage.folder / "server.log").read_text()
        return process

    def has(self, name: str, lines: int = 5, model: str = "tiny") -> None:
        """A file of requests."""
        (self.stage.folder / name).write_bytes(requests(lines, model=model))

    def submits(self, line: str) -> str:
        """The id of the batch that this makes."""
        found = BATCH.search(self.types(line))
        assert found
        return found[0]


@pytest.fixture
def stage(tmp_path: Path) -> Generator[Stage]:
    """An empty folder but for a configuration, and the counting engine."""
    with Stage(tmp_path, delay_s=0.02) as made:
        made.engine()
        yield made


def test_a_bill_of_grams_is_explained(stage: Stage) -> None:
    reader = Reader(stage, "bill.md")
    reader.serves()
    reader.starts("batchsched worker --pool local", "worker")
    reader.has("requests.jsonl")
    batch_id = reader.submits("batchsched submit requests.jsonl --deadline 10m")
    reader.types(f"batchsched wait {batch_id}")
    today = datetime.now(UTC).date()
    dates = {"2026-11-01": f"{today - timedelta(days=1)}", "2026-12-01": f"{today + timedelta(days=2)}", "ID": batch_id}
    said = ""
    for line in reader.commands():
        said += reader.types(re.sub(r"\b(?:2026-11-01|2026-12-01|ID)\b", lambda found: dates[found[0]], line))
    for word in ("Where the figures come from", "run at once", "tenant", "pool"):
        assert word in said
    for name in (f"{batch_id}.svg", "requests.csv"):
        assert (stage.folder / name).stat().st_size > 0
    reader.types("batchsched report --meters")
    assert "H100" in reader.types("batchsched carbon hardware H100 --explain")
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert "plan" in reader.types(f"batchsched plan replay {now}")


@pytest.mark.long
def test_nights_only(stage: Stage) -> None:
    reader = Reader(stage, "nights.md")
    (window,) = reader.blocks("toml")
    fleet = "[sites.home]\nzone = 'DE'\n[pools.old-t4]\nsite = 'home'\ngpu = 'T4'\n[models.M]\nparameters_b = 1\n"
    reader.configures(fleet)
    reader.has("requests.jsonl", model="M")
    reader.serves()
    add, submit, cron = reader.commands()
    reader.types(add)
    batch_id = reader.submits(submit)
    shown = reader.types("batchsched window show nights")
    assert shown.count("Europe/Berlin") + shown.count("22:00") >= 10
    wait_for(lambda: "nights" in reader.types(f"batchsched show {batch_id}") or None)
    reader.types("batchsched plan show")
    for act in ("skip nights", "extend nights --by 2h", "pause nights", "resume nights"):
        reader.types(f"batchsched window {act}")
    # Without a server: the window stands in the file, and it is noon.
    closed = window.replace("0 22 * * mon-fri", f"0 {(datetime.now(UTC).hour + 8) % 24} * * *").replace("Europe/Berlin", "UTC")
    reader.configures(fleet.replace("models.M", "models.tiny") + closed)
    reader.has("prompts.jsonl")
    line = cron.partition("&& /opt/batchsched/bin/")[2].replace(
        "--model M", "--model tiny"
    )  # as installed from the page on servers
    assert line.startswith("batchsched run")
    reader.types(line, code=exits.WINDOW_CLOSED)


@pytest.mark.long
def test_several_regions(stage: Stage) -> None:
    reader = Reader(stage, "regions.md")
    (text,) = reader.blocks("toml")
    reader.configures(text.replace("models.small", "models.tiny"))  # as the engine here names it
    for name in ("personal.jsonl", "public.jsonl"):
        reader.has(name)
    reader.serves()
    first, second, *submits = [line.replace("https://server:8424", stage.url) for line in reader.commands()]
    for number, line in enumerate((first, second)):
        reader.starts(line, f"worker-{number}")
    wait_for(lambda: re.findall(r"(?:L4|T4)\s+\d+\s+1\b", reader.types("batchsched pool list"))[1:])
    personal, public = map(reader.submits, submits)
    for zone in ("SE", "DE"):
        assert zone in reader.types(f"batchsched forecast show {zone}")
    wait_for(lambda: "stockholm" in reader.types(f"batchsched explain {public}") or None)
    assert "stockholm" not in reader.types(f"batchsched explain {personal}")
    assert "stockholm" in reader.types("batchsched plan what-if --without-site stockholm")
    reader.types(f"batchsched start {public}; batchsched wait {public}")
    # Told to start, it goes to who asks first, wherever that is.
    assert re.search(
        r"^(stockholm-t4\ttiny\tSE|berlin-l4\ttiny\tDE)\t", reader.types(f"batchsched report {public}"), re.MULTILINE
    )


@pytest.mark.long
def test_keys_and_tenants(stage: Stage) -> None:
    reader = Reader(stage, "tenants.md")
    (quotas,) = reader.blocks("toml")
    stage.config.write_text(f"{stage.config.read_text()}{quotas}")
    reader.serves()
    reader.has("requests.jsonl")
    make_root, export, *makes = reader.commands()
    assert export.startswith("export BATCHSCHED_SERVER_API_KEY=")
    keys = [re.search(r"bs_\w+", reader.types(make_root))]
    assert keys[0]
    reader.env["BATCHSCHED_SERVER_API_KEY"] = keys[0][0]
    keys += [re.search(r"bs_\w+", reader.types(line)) for line in makes]
    assert all(keys)
    root, vision, search, worker = (found[0] for found in keys if found)
    reader.starts(f"batchsched worker --pool local --api-key {worker}", "worker")
    made = BATCH.search(reader.types("batchsched submit requests.jsonl --deadline 5m", BATCHSCHED_SERVER_API_KEY=vision))
    assert made
    reader.types(f"batchsched wait {made[0]}", BATCHSCHED_SERVER_API_KEY=vision)
    assert made[0] in reader.types("batchsched list", BATCHSCHED_SERVER_API_KEY=vision)
    assert made[0] not in reader.types("batchsched list", BATCHSCHED_SERVER_API_KEY=search)
    reader.types(f"batchsched show {made[0]}", code=exits.NOT_FOUND, BATCHSCHED_SERVER_API_KEY=search)
    listed = reader.types("batchsched key list")
    assert not any(key in listed for key in (root, vision, search, worker))
    assert "vision" in reader.types("batchsched report --by tenant")
    reader.types("batchsched audit")
    leaked = re.search(r"key_\w+(?=.*evaluations)", listed)
    assert leaked
    reader.types(f"batchsched key revoke {leaked[0]}")
    reader.types("batchsched list", code=exits.UNAUTHORIZED, BATCHSCHED_SERVER_API_KEY=search)


def test_an_openai_batch_job(stage: Stage) -> None:
    reader = Reader(stage, "openai-batch.md")
    (model,) = reader.blocks("toml")
    reader.configures(f"[sites.home]\nzone = 'DE'\n[pools.local]\nsite = 'home'\ngpu = 'cpu'\n{model}")
    reader.has("requests.jsonl", model="gpt-4o-mini")
    reader.serves()
    (validate,) = reader.commands()
    assert "valid" in reader.types(validate)
    create, more = reader.blocks("python")
    script = f"{create}{more}print(batch.id)\n".replace("http://127.0.0.1:8424", stage.url)
    (stage.folder / "job.py").write_text(script)
    said = reader.types(f"{sys.executable} job.py")
    assert "feasible" in said
    batch_id = BATCH.findall(said)[-1]
    assert "gpt-4o-mini" in reader.types(f"batchsched show {batch_id}")


@pytest.mark.long
def test_old_gpus(stage: Stage) -> None:
    reader = Reader(stage, "old-gpus.md")
    pool, model = reader.blocks("toml")
    small = "[models.chat-small]\npath = 'org/chat-small'\nparameters_b = 1\n"
    reader.configures(f"[sites.home]\nzone = 'DE'\n{pool}{model}parameters_b = 13\n{small}")
    doctor, recipe, *installs, submit, _measure = reader.commands()
    reader.types(doctor)
    said = reader.types(recipe, code=exits.FAILURE)  # for this machine is not as the recipe has it
    (install,) = [line for line in installs if "pip install" in line]
    assert install.partition("pip install ")[2] in said
    reader.serves()
    reader.has("requests.jsonl", model="chat")
    batch_id = reader.submits(submit)
    assert "volta" in reader.types("batchsched pool list")
    reader.types(f"batchsched explain {batch_id}")
    reader.types("batchsched profile compare chat")
    reader.types("batchsched plan show")
    reader.types("batchsched pool open volta")


@pytest.mark.long
def test_an_online_server_is_shared(stage: Stage) -> None:
    reader = Reader(stage, "online-server.md")
    (text,) = reader.blocks("toml")
    reader.configures(text)
    reader.has("requests.jsonl", model="chat")
    reader.serves()
    worker, submit = reader.commands()
    reader.starts(worker.replace("http://127.0.0.1:8000", stage.engine_url), "worker")
    batch_id = reader.submits(submit)
    wait_for(lambda: "chat-servers" in reader.types("batchsched pool list") or None)
    reader.types(f"batchsched show {batch_id}")


@pytest.mark.long
def test_postgresql(stage: Stage, postgres: PostgresServer) -> None:
    reader = Reader(stage, "postgresql.md")
    postgres.execute("DROP DATABASE IF EXISTS batchsched WITH (FORCE)")
    _pip, createdb, url, store, doctor, serve = reader.commands()
    client = {"PGHOST": str(postgres.folder), "PGUSER": "postgres", "PATH": f"{find_binaries()}:{reader.env['PATH']}"}
    reader.env |= client
    reader.types(createdb)
    assert url.startswith("export BATCHSCHED_SERVER_DATABASE_URL=")
    assert store.startswith("export BATCHSCHED_SERVER_STORE_URL=")
    reader.env["BATCHSCHED_SERVER_DATABASE_URL"] = postgres.url("batchsched")
    reader.env["BATCHSCHED_SERVER_STORE_URL"] = f"file://{stage.folder / 'shared'}"
    (stage.folder / "shared").mkdir()
    said = reader.types(doctor, code=exits.FAILURE)  # for the PostgreSQL of the tests does not sync
    assert re.findall(r"^(.+)\tbroken\t", said, re.MULTILINE) == ["PostgreSQL settings"]
    leader, other = serve.replace(" --host 0.0.0.0", ""), free_port()
    first = reader.starts(leader, "first")
    wait_for(lambda: stage.answers(stage.url, "/readyz"))
    reader.starts(f"{leader} --port {other}", "second")
    wait_for(lambda: stage.answers(f"http://127.0.0.1:{other}", "/readyz"))
    rows = postgres.execute("select epoch, server_id from leadership", "batchsched")
    first.terminate()
    first.wait(PATIENCE_S)
    wait_for(lambda: postgres.execute("select epoch, server_id from leadership", "batchsched") != rows)
    assert postgres.execute("select epoch from leadership", "batchsched") == [(rows[0][0] + 1,)]


def test_my_gpu(stage: Stage) -> None:
    """Without a GPU, and with the counting engine in the place of one that `run` would start."""
    reader = Reader(stage, "gpu.md")
    stage.config.unlink()
    reader.has("requests.jsonl", model="tiny")
    doctor, validate, run = [line for line in reader.commands() if line.startswith("batchsched")]
    assert "engine" in reader.types(doctor)
    assert "valid" in reader.types(validate.replace("Qwen/Qwen3-8B", "tiny"))
    reader.types(run.replace("Qwen/Qwen3-8B", "tiny").replace("8h", "2m"))
    output = stage.folder / "requests.batchsched"
    assert {path.name for path in output.iterdir()} >= {"output.jsonl", "report.json"}
    assert (output / "output.jsonl").read_text().count("\n") == 5

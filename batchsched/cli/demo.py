"""`batchsched demo`: in a few minutes, batches wait for clean hours, run on a real vLLM and show what that saved."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from batchsched.cli.common import grams, load, need
from batchsched.cli.manners import quiet
from batchsched.cli.named_files import InFile
from batchsched.errors import ServerError

if TYPE_CHECKING:
    from batchsched.cli.embedded import Child
    from batchsched.client import Batch, Client, Report

MODEL = "tiny"
MODEL_FOLDER = Path(".models/tiny")
DEADLINE = "5m"
ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
PATIENCE_S = 900.0
"""Where the machine is busy the work outlasts its deadline, is done all the same, and called late."""
REQUESTS = Path(__file__).with_name("requests.jsonl")

T = TypeVar("T")


@click.command()
@click.option(
    "--file",
    type=InFile(),
    default=REQUESTS,
    help="Chat requests to send [default: 64 that come with batchsched].",
)
@click.option(
    "--dir", "folder", type=click.Path(file_okay=False, path_type=Path), default=".demo", show_default=True, help="Where to work."
)
@click.pass_context
def demo(ctx: click.Context, file: Path, folder: Path) -> None:
    """Show a batch move to cleaner hours, in minutes, on a tiny model.

    The engine and the durations are real. The forecast is an example with slots of 20 seconds, so that a shift can be seen while
    you watch. The last line on stdout is JSON.
    """
    need("server", "worker")
    try:
        with ExitStack() as stack:
            result = Demo(file, folder, stack).play()
    except Exception as problem:  # whatever it was, the last line says so
        step(f"That went wrong: {problem}")
        if hint := getattr(problem, "hint", None):
            step(f"Hint: {hint}")
        result = {"demo": "failed", "reason": f"{type(problem).__name__}: {problem}"}
    click.echo(json.dumps(result))
    ctx.exit(0 if result["demo"] == "ok" else 1)


def step(text: str) -> None:
    """One line that says what is going on."""
    if not quiet():
        click.echo(text)


class Demo:
    """One performance. Everything that it starts ends with `stack`."""

    def __init__(self, file: Path, folder: Path, stack: ExitStack) -> None:
        from batchsched.cli import stage

        self.file, self.folder, self.stack = file, stage.clean_folder(folder), stack
        self.requests = stage.read_requests(file)
        self.gpu = "cpu"
        self.house: list[Child] = []
        self.tell = Teller()
        self.sender = "openai client" if find_spec("openai") else "batchsched's client"

    def play(self) -> dict[str, Any]:
        """All of it; what goes on the last line."""
        from batchsched.cli import stage

        engine_url = self.start_engine()
        config = stage.write_set(self.folder, MODEL, MODEL_FOLDER, self.gpu)
        step(f"Forecast: {stage.PROVIDER}, dirty now, clean in about {stage.clean_in_s():.0f} s, in slots of {stage.SLOT_S} s.")
        step("Two sites, each with a worker: home, and north on another grid. North is simulated: the one engine serves both.")
        server_url = self.start_server(config, engine_url)
        runner = self.start_run(config, engine_url)
        ours, text = self.send(server_url)
        check = stage.Check(self.requests, stage.tokens_by(engine_url, MODEL))
        done = check.lines(text)
        step(f"{self.sender}: {done} answers, each held against the prompt of its custom_id.")
        theirs = self.finish_run(runner)
        done_too = check.lines((self.folder / "run" / "output.jsonl").read_text("utf-8"))
        step(f"batchsched run: {done_too} answers, each held against the prompt of its custom_id.")
        return self.reckon(done + done_too, [ours, theirs])

    def start_engine(self) -> str:
        """The tiny model behind a real vLLM of our own; its URL."""
        from batchsched.cli import stage
        from batchsched.cli.local import gpu_here
        from batchsched.executors.engine import VllmEngine
        from batchsched.executors.engine_home import find_engine
        from batchsched.fleet import Pool, ServedModel
        from batchsched.settings import Worker

        home = find_engine(load().settings.worker.engine_python)
        self.gpu = "cpu" if home.device == "cpu" else gpu_here([])
        step(f"Engine: {home.describe()}.")
        if not (MODEL_FOLDER / "config.json").is_file():
            step("Making a tiny model with random weights; its answers are gibberish, serving it is real work ...")
            maker = Path(sys.modules[find_engine.__module__].__file__ or "").with_name("tiny_model.py")
            stage.make_model([home.python, str(maker), str(MODEL_FOLDER)])
        engine = VllmEngine(home, Pool(), Worker(state_dir=str(self.folder / "engine")))
        self.stack.callback(lambda: asyncio.run(engine.stop()))
        step("Starting the engine; this takes a quarter of a minute ...")
        asyncio.run(engine.start(ServedModel(path=str(MODEL_FOLDER), max_model_len=2048), MODEL))
        step(f"The engine answers after {engine.startup_s:.0f} s, at {engine.url}.")
        return engine.url

    def start_server(self, config: Path, engine_url: str) -> str:
        """`batchsched serve` with a worker for each site; the server's URL."""
        from batchsched.cli import stage

        server = self.child("server", "serve", "--port", "0", config=config)
        url = server.wait_for_url()
        worker = ("worker", "--server", url, "--engine-url", engine_url)
        self.house = [server, *(self.child(f"worker-{pool}", *worker, "--pool", pool, config=config) for pool in stage.POOLS)]
        step(f"Server and workers run: {url}.")
        return url

    def look(self, batch: Batch) -> None:
        """Say how the batch is; give up where a part of the house has ended. Raises ChildFailed."""
        self.tell(batch)
        for child in self.house:
            if not child.alive():
                raise child.failure()

    def start_run(self, config: Path, engine_url: str) -> Child:
        """The same file by the one command that needs no server; it works beside the rest."""
        command = ["run", str(self.file), "--model", MODEL, "--deadline", DEADLINE, "--on-deadline", "finish"]
        command += ["--engine-url", engine_url]
        step(f"$ batchsched {' '.join(command)}")
        return self.child("run", *command, "--out", str(self.folder / "run"), config=config)

    def child(self, name: str, *args: str, config: Path) -> Child:
        """A batchsched command of its own, ended with the stack."""
        from batchsched.cli.embedded import Child

        child = Child(name, [*args, "--config", str(config)], self.folder / f"{name}.log", dict(os.environ))
        self.stack.callback(child.kill)
        self.stack.callback(child.wait, 60.0)
        self.stack.callback(child.ask_to_stop)
        child.start()
        return child

    def send(self, server_url: str) -> tuple[Report, str]:
        """The file through the stock openai client, where it is installed; its report and its output file."""
        from batchsched.cli.report import show_report
        from batchsched.client import Client

        with Client(server_url) as client:
            batch_id = self.submit(client, server_url)
            step(f"{self.sender}: {len(self.requests)} requests sent as {batch_id}, to be done within {DEADLINE}.")
            batch = client.batches.wait(batch_id, on_progress=self.look, poll_s=1.0, patience_s=PATIENCE_S)
            if batch.status != "completed" or not batch.output_file_id:
                raise ServerError(f"The batch ended as {batch.status}: {batch.errors or batch.request_counts}.")
            if batch.completed_at and batch.deadline_at and batch.completed_at > batch.deadline_at.timestamp():
                step(f"It came after its deadline of {DEADLINE}: this machine is too slow, or too busy, for a plan in minutes.")
            text = self.fetch(client, server_url, batch.output_file_id)
            step("Why then and there:")
            for sentence in client.batches.explain(batch.id).sentences:
                step(f"  {sentence}")
            report = self.settled(lambda: client.batches.report(batch.id))
            show_report(report)
            for suffix in ("svg", "png"):
                (self.folder / f"report.{suffix}").write_bytes(client.batches.plot(batch.id, suffix))
            step(f"Picture: {self.folder / 'report.svg'}")
        return report, text

    def submit(self, client: Client, server_url: str) -> str:
        """The file as a batch; its id."""
        if not find_spec("openai"):
            return client.batches.create(file=self.file, endpoint=ENDPOINT, deadline=DEADLINE, on_deadline="finish").id
        from openai import OpenAI

        with OpenAI(base_url=f"{server_url}/v1", api_key="none") as openai:
            uploaded = openai.files.create(file=self.file, purpose="batch")
            return openai.batches.create(
                input_file_id=uploaded.id,
                endpoint=ENDPOINT,
                completion_window="24h",
                extra_body={"batchsched": {"deadline": DEADLINE, "on_deadline": "finish"}},
            ).id

    def fetch(self, client: Client, server_url: str, file_id: str) -> str:
        """A file's text, by whoever sent the batch."""
        if not find_spec("openai"):
            return client.files.content(file_id).decode()
        from openai import OpenAI

        with OpenAI(base_url=f"{server_url}/v1", api_key="none") as openai:
            return openai.files.content(file_id).text

    def settled(self, read: Callable[[], T]) -> T:
        """Read again once the slot that the batch ran in is over: what came true is known only then."""
        from batchsched.cli import stage

        time.sleep(stage.left_of_slot_s() + 1.0)
        return read()

    def finish_run(self, runner: Child) -> Report:
        """Wait for `batchsched run`; its report."""
        from batchsched.client.calls import read_report

        runner.wait(PATIENCE_S)
        report = self.folder / "run" / "report.json"
        if not report.is_file():
            raise runner.failure()
        return read_report(report.read_bytes())

    def reckon(self, completed: int, reports: list[Report]) -> dict[str, Any]:
        """The sum over everything that was sent. Raises where a figure is unknown or nothing was saved."""
        figures = {
            "energy_j": [report.energy_j for report in reports],
            "grams": [report.operational_g for report in reports],
            "grams_run_now": [report.grams_run_now for report in reports],
        }
        sums = {name: sum(value for value in values if value is not None) for name, values in figures.items()}
        if any(value is None for values in figures.values() for value in values):
            raise ServerError(f"A figure of the report is unknown: {figures}.")
        requests = 2 * len(self.requests)
        if completed != requests or not sums["energy_j"] > 0 or not sums["grams"] < sums["grams_run_now"]:
            raise ServerError(f"{completed} of {requests} requests; nothing was saved: {sums}.")
        saved = 1 - sums["grams"] / sums["grams_run_now"]
        now = grams(sums["grams_run_now"])
        step(f"Both batches: {grams(sums['grams'])} CO2e; run at once: {now}. Saved {saved:.0%}, by an example forecast.")
        return {"demo": "ok", "requests": requests, "completed": completed, **sums}


class Teller:
    """Says how a batch is, in a line whenever something other than a count has changed."""

    def __init__(self) -> None:
        self._phase: object = None
        self._verdict_told = False

    def __call__(self, batch: Batch) -> None:
        """Look at the batch."""
        from batchsched.cli.progress import describe

        if batch.verdict and not self._verdict_told:
            self._verdict_told = True
            step(f"  verdict: {batch.verdict.reason}")
        reason, _, _ = (batch.progress.waiting_for or "").partition(" (")
        phase = (batch.status, batch.progress.state, reason)
        if phase != self._phase:
            step(f"  {describe(batch)}")
        self._phase = phase

"""`batchsched run`: one file from start to end, and on from where it stopped."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import click

from batchsched import __version__
from batchsched.cli import exits
from batchsched.cli.common import (
    config_option,
    deadline_option,
    error_line,
    json_option,
    load_checked,
    need,
    on_deadline_option,
    plain,
    print_facts,
    print_json,
    say,
    summary,
    when,
)
from batchsched.cli.infile import check, fingerprint
from batchsched.cli.named_files import InFile, from_stdin
from batchsched.cli.printed import Ran, WouldRun
from batchsched.errors import Conflict
from batchsched.lines import ENDPOINTS
from batchsched.units import iso

if TYPE_CHECKING:
    from batchsched.cli.closing import Closing
    from batchsched.cli.embedded import Embedded
    from batchsched.cli.progress import ProgressLine
    from batchsched.cli.runstate import Folder, Run
    from batchsched.client import Batch, Client
    from batchsched.client.calls import OnDeadline
    from batchsched.lines.rules import Rules
    from batchsched.settings import Loaded, Settings

RUN_KEY = "batchsched_run"
POLL_S = 0.5
LINE_EVERY_S = 5.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ask:
    """What the command line asked for."""

    file: Path
    model: str
    deadline: str
    on_deadline: OnDeadline | None
    out: Path | None
    engine_url: str | None
    zone: str | None
    config: Path | None
    confidence: float | None
    endpoint: str | None
    served_model_name: str | None
    retry: bool
    until_close: bool
    dry_run: bool
    as_json: bool


@click.command()
@click.argument("file", type=InFile())
@click.option("--model", required=True, help="A folder, a hub name, or a model that the configuration declares.")
@deadline_option
@on_deadline_option
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Output folder [default: FILE's name with .batchsched]."
)
@click.option("--engine-url", metavar="URL", help="Use this running vLLM server instead of starting one.")
@click.option("--zone", help="Grid zone of this machine, such as DE [default: guessed from the time zone].")
@click.option("--confidence", type=click.FloatRange(0.5, 1, max_open=True), help="Asked probability of keeping the deadline.")
@click.option("--endpoint", type=click.Choice(ENDPOINTS), help="The requests' endpoint [default: the first line's url].")
@click.option("--served-model-name", metavar="NAME", help="The model's name in FILE [default: the folder's name].")
@click.option(
    "--retry", is_flag=True, help="Take a run that ended up again: what failed or was left undone, by the new deadline."
)
@click.option(
    "--until-window-closes", "until_close", is_flag=True, help="Stop when the windows of the configuration close; for cron."
)
@click.option("--dry-run", is_flag=True, help="Start and write nothing; check file, model and engine, and say what would be.")
@config_option
@json_option
def run(**options: object) -> int:
    """Run every request in FILE (- is stdin, and needs --out) by the deadline, at the cleanest time, on this machine.

    Needs no set-up: starts a server, a worker and the engine, and stops them at the end. Where a configuration declares sites and
    pools, they are used, with a worker here for each. Results, the report and all state are in the output folder. The
    same command again continues where it stopped; nothing that was done is done again.

    Exits 0 when all is done, 5 where some lines failed, 6 at the deadline, 7 where the window closed first, 130 when stopped by
    Ctrl-C.
    """
    from batchsched.cli.closing import WindowsClosed
    from batchsched.cli.runstate import Folder

    ask = Ask(**options)  # type: ignore[arg-type]
    need("server", "worker")
    if from_stdin(ask.file) and ask.out is None:
        raise click.UsageError("A run of standard input needs --out: the same command continues from there.")
    folder = Folder(ask.out or ask.file.with_name(f"{ask.file.stem}.batchsched"))
    if ask.dry_run:
        return _only_said(ask, folder)
    signal.signal(signal.SIGTERM, _interrupt)
    with folder.held():
        try:
            return _run(ask, folder)
        except KeyboardInterrupt:
            say(f"Stopped; nothing that was done is lost. To continue: {shlex.join(['batchsched', *sys.argv[1:]])}")
            return exits.INTERRUPTED
        except WindowsClosed as closed:
            say(closed.said)
            if ask.as_json:
                print_json(Ran(plain(closed.batch), str(folder.root), None))
            return exits.WINDOW_CLOSED


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _run(ask: Ask, folder: Folder) -> int:
    from batchsched.cli.local import served_name
    from batchsched.cli.runstate import refuse_change, retriable

    loaded = load_checked(ask.config, worker__engine_url=ask.engine_url, planner__confidence=ask.confidence)
    served = served_name(ask.model, ask.served_model_name, loaded.settings)
    state = folder.load()
    if state:
        refuse_change(state, fingerprint(ask.file), served, ask.endpoint, ask.on_deadline, folder.root)
        if state.result and folder.complete(state):
            if not (ask.retry and retriable(state.result)):
                return _show(ask, folder, state.result)
            state.take_up(ask.deadline, datetime.now(UTC))
        say(f"Continuing in {folder.root}; the deadline is {when(state.deadline_at)}.")
    elif (state := _begin(ask, served, loaded.settings.server.rules())) is None:
        return exits.USAGE
    settings = _arrange(ask, loaded, served)
    if from_stdin(Path(state.file)):
        state.file = str(folder.keep(ask.file))
    folder.save(state)
    state.result = _carry_out(settings, state, folder, until_close=ask.until_close)
    folder.save(state)
    return _show(ask, folder, state.result)


def _only_said(ask: Ask, folder: Folder) -> int:
    """What would be done: everything that is looked at before something starts is looked at."""
    from batchsched.cli.local import served_name
    from batchsched.cli.runstate import refuse_change, retriable

    loaded = load_checked(ask.config, worker__engine_url=ask.engine_url, planner__confidence=ask.confidence)
    served = served_name(ask.model, ask.served_model_name, loaded.settings)
    what = "begin a run"
    if state := folder.load():
        refuse_change(state, fingerprint(ask.file), served, ask.endpoint, ask.on_deadline, folder.root)
        again = ask.retry and state.result is not None and retriable(state.result)
        ended = state.result is not None and folder.complete(state)
        what = "take the run up again" if again else "show how it ended" if ended else "continue the run"
    elif (state := _begin(ask, served, loaded.settings.server.rules())) is None:
        return exits.USAGE
    settings = _arrange(ask, loaded, served)
    pools = [name for name, pool in settings.pools.items() if pool.serves(served)]
    zones = sorted({settings.sites[settings.pools[name].site].zone for name in pools})
    found = WouldRun(
        would=what, file=str(ask.file), requests=state.requests, endpoint=state.endpoint, model=served,
        deadline_at=iso(state.deadline_at), pools=tuple(pools), zones=tuple(zones), out=str(folder.root),
    )  # fmt: skip
    if ask.as_json:
        print_json(found)
        return exits.OK
    say("Nothing is started and nothing written. It would be as follows.")
    facts = {**plain(found), "deadline_at": when(state.deadline_at), "pools": ", ".join(pools), "zones": ", ".join(zones)}
    print_facts((name.removesuffix("_at"), str(value)) for name, value in facts.items())
    return exits.OK


def _carry_out(settings: Settings, state: Run, folder: Folder, *, until_close: bool) -> Batch:
    """Start everything, see the batch to its end, fetch its results, stop everything. Raises WindowsClosed."""
    from batchsched.cli.closing import Closing
    from batchsched.cli.embedded import Embedded
    from batchsched.cli.progress import ProgressLine

    pools = [name for name, pool in settings.pools.items() if pool.serves(state.model)]
    closing = Closing(settings, pools) if until_close else None
    with ProgressLine(LINE_EVERY_S) as line, Embedded(settings, folder.state) as house:
        line.note("starting the server")
        client = house.start_server()
        batch = _insist(house, lambda: _submit(client, state, folder))
        if not batch.done:
            if closing:
                _insist(house, lambda: closing(client, batch))
            house.start_workers(pools)
            batch = _follow(house, client, batch, line, closing)
        _insist(house, lambda: _collect(client, batch, folder))
        line.note("stopping")
    return batch


def _insist(house: Embedded, do: Callable[[], T]) -> T:
    """Do it, however often the server has to be started again meanwhile."""
    from batchsched.errors import ServerUnreachable

    while True:
        try:
            return do()
        except ServerUnreachable:
            time.sleep(POLL_S)
            _keep_alive(house)


def _keep_alive(house: Embedded) -> None:
    for name in house.keep_alive():
        say(f"The {name} ended and was started again.")


def _begin(ask: Ask, served: str, rules: Rules) -> Run | None:
    """A new run; None where the file is not valid, after saying why."""
    from batchsched.cli.runstate import Run
    from batchsched.clock import RandomIds
    from batchsched.units import parse_deadline

    now = datetime.now(UTC)
    deadline_at = parse_deadline(ask.deadline, now)
    found = check(ask.file, rules, ask.endpoint, [served])
    if found.errors:
        for error in found.errors[:20]:
            say(error_line(error))
        say(f"Error: {ask.file} is not a valid batch file (errors: {found.error_count}); nothing was started.")
        say(f"Hint: `batchsched validate {ask.file}` shows all; requests must name the model '{served}'.")
        return None
    return Run(
        run_id=RandomIds().new("run"),
        file=str(ask.file.resolve()),
        size=found.size,
        sha256=found.sha256,
        model=served,
        endpoint=found.endpoint or "",
        requests=found.requests,
        deadline=ask.deadline,
        deadline_at=deadline_at,
        on_deadline=ask.on_deadline or "expire",
        started_at=now,
        versions={"batchsched": __version__, "python": sys.version.split()[0]},
    )


def _arrange(ask: Ask, loaded: Loaded, served: str) -> Settings:
    """Settings for the server and the worker; looks for the engine, so that a missing one is told before anything starts."""
    from batchsched.cli.local import arrange, check_engine

    if engine_url := loaded.settings.worker.engine_url:
        check_engine(engine_url, served)
        device, found = "gpu", f"the running one at {engine_url}"
    else:
        from batchsched.executors.engine_home import find_engine

        home = find_engine(loaded.settings.worker.engine_python)
        device, found = home.device, home.describe()
    settings, notes = arrange(loaded, ask.model, served, zone=ask.zone, device=device)
    for note in (f"Configuration: {loaded.path or 'no file, only defaults'}.", f"Engine: {found}.", *notes):
        say(note)
    return settings


def _submit(client: Client, state: Run, folder: Folder) -> Batch:
    """The run's batch: the one that it made before, even if it was cut off before it could note the id; else a new one."""
    if state.batch_id is None:
        made = next((b for b in client.batches.list() if (b.metadata or {}).get(RUN_KEY) == state.run_id), None)
        made = made or client.batches.create(
            file=state.file,
            endpoint=state.endpoint,
            deadline=state.deadline_at,
            completion_window=state.deadline,
            on_deadline=state.on_deadline,
            metadata={RUN_KEY: state.run_id},
        )
        state.batch_id = made.id
        folder.save(state)
        return made
    batch = client.batches.retrieve(state.batch_id)
    if batch.done and batch.batchsched.round < state.round:
        try:
            return client.batches.retry(batch.id, deadline=state.deadline_at)
        except Conflict as problem:  # such as an input whose time is over: what there is stays as it was
            say(f"It cannot be retried. {problem.message} {problem.hint or ''}".strip())
    return batch


def _follow(house: Embedded, client: Client, batch: Batch, line: ProgressLine, closing: Closing | None) -> Batch:
    """Wait for the batch's end; keep the server and the workers up meanwhile. Raises WindowsClosed."""
    from batchsched.errors import ServerUnreachable

    told = False
    while not batch.done:
        time.sleep(POLL_S)
        _keep_alive(house)
        try:
            batch = client.batches.retrieve(batch.id)
            if closing:
                closing(client, batch)
        except ServerUnreachable:
            continue
        if batch.verdict and not told:
            told = True
            _tell_verdict(batch)
        line(batch)
    return batch


def _tell_verdict(batch: Batch) -> None:
    verdict = batch.verdict
    if verdict is None:
        return
    answer = "feasible" if verdict.feasible else "NOT feasible"
    say(f"Deadline {when(batch.deadline_at)}: {answer}. {verdict.reason}".strip())


def _collect(client: Client, batch: Batch, folder: Folder) -> None:
    """Results first, then what is said about them."""
    import msgspec

    from batchsched.cli.runstate import write_durably

    for file_id, path in ((batch.output_file_id, folder.output), (batch.error_file_id, folder.errors)):
        if file_id:
            client.files.download(file_id, path)
        else:
            path.unlink(missing_ok=True)  # of the round before
    report = plain(client.batches.report(batch.id))
    write_durably(folder.report, msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    write_durably(folder.plot, client.batches.plot(batch.id, "svg"))


def _show(ask: Ask, folder: Folder, batch: Batch) -> int:
    """Print how it ended, from the output folder alone; the exit code."""
    from batchsched.cli.report import show_report
    from batchsched.cli.runstate import retriable
    from batchsched.client.calls import read_report

    report = read_report(folder.report.read_bytes())
    if ask.as_json:
        print_json(Ran(plain(batch), str(folder.root), plain(report)))
    else:
        print_facts([*summary(batch), ("results", str(folder.root))])
        click.echo()
        show_report(report)
    if retriable(batch):
        say(f"The same command with --retry runs the {batch.request_counts.failed} failed or unfinished requests again.")
    return exits.for_batch(batch)

"""One small day both ways: real server, worker and engine on the clock of the wall, and as a backtest. They must agree.

With the tests' counting engine an hour of that day has ten seconds. A short day, which the real vLLM lives with the tiny model
too (test_backtest_agrees_vllm.py), has four of eight.
Stated bounds: the same order of completions; each within 8 s (no more than an hour of that day) of the other; grams of each batch
by a factor of 1.25, of all 1.1; in a short day 3 and 2.
"""

from __future__ import annotations

import csv
import json
import math
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from batchsched.carbon.models import Hardware
from batchsched.fleet import Fleet
from batchsched.forecasts.file import FileProvider
from batchsched.observe import Observer
from batchsched.profiles.profile import Profile
from batchsched.queue import batches, ledger
from batchsched.queue.copying import copy_of
from batchsched.queue.database import Database
from batchsched.queue.states import BATCH_TRANSITIONS
from batchsched.queue.tenancy import ANY, DEFAULT
from batchsched.settings import Loaded, load
from batchsched.simulate import Arrival, Conditions, Grid, Policy, Scene
from batchsched.simulate.backtests import Backtest
from batchsched.simulate.drawn import Drawn
from batchsched.simulate.policies import planned
from tests.live import HTTP, wait_for
from tests.processes import Stage

TOKENS = 8


class Asked(NamedTuple):
    """A batch of the day: seconds from its beginning."""

    name: str
    at_s: float
    deadline_s: float


class Day(NamedTuple):
    """Of which an hour has `step_s` seconds; `grid`: g/kWh, hour by hour; what comes true is a tenth more. `bounds`: seconds
    between completions, the factor between grams of a batch, and of all."""

    step_s: float
    grid: tuple[int, ...]
    asked: tuple[Asked, ...]
    requests: int
    warm: int
    bounds: tuple[float, float, float]


# The latest safe start leaves room for the start of an engine, a minute as long as none was seen: only one of them can wait, for
# the cleanest hours.
LONG = Day(
    10.0,
    (500, 500, 500, 50, 50, 500, 500, 400, 20, 20, 400, 400),
    (Asked("urgent", 4.0, 27.0), Asked("patient", 12.0, 240.0), Asked("second", 20.0, 45.0), Asked("late", 52.0, 78.0)),
    60,
    3,
    (8.0, 1.25, 1.1),
)
SHORT = Day(
    8.0,
    (500, 500, 20, 400),
    (Asked("urgent", 2.0, 30.0), Asked("patient", 4.0, 240.0), Asked("late", 25.0, 55.0)),
    40,
    2,
    (8.0, 3.0, 2.0),
)
"""For a machine that others use too: what a second of its work does differs from one minute to the next."""
STALL_S = 0.25
"""Who wakes so much later than he wanted to is on a machine whose seconds prove nothing."""


class Lived(NamedTuple):
    """What became of a batch."""

    began_s: float
    finished_s: float
    grams: float


@pytest.mark.long  # it lives by the clock of the wall: beside other tests a machine that stalls for a moment would fail it
def test_a_day_with_a_counting_engine(tmp_path: Path) -> None:
    with Stage(tmp_path, delay_s=0.4) as stage:
        stage.engine()
        agree(stage, LONG)


@pytest.mark.slow
def test_a_short_day_with_a_counting_engine(tmp_path: Path) -> None:
    """Both go by the clock of the wall: on a machine that stalled meanwhile, a day on which they differ is lived again."""
    for _ in range(3):
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        with Stage(folder, delay_s=0.4) as stage, _latest_waking() as late_s:
            try:
                stage.engine()
                agree(stage, SHORT)
            except AssertionError:
                if max(late_s) < STALL_S:
                    raise
            else:
                return
    pytest.skip("whether backtests agree with what is lived is NOT tested: this machine stalled on each of three days")


@contextmanager
def _latest_waking() -> Generator[list[float]]:
    """By how many seconds somebody here woke too late, each time."""
    late_s, over = [0.0], threading.Event()

    def nap() -> None:
        while not over.is_set():
            began = time.monotonic()
            over.wait(0.05)
            late_s.append(time.monotonic() - began - 0.05)

    napping = threading.Thread(target=nap)
    napping.start()
    try:
        yield late_s
    finally:
        over.set()
        napping.join()


def agree(stage: Stage, day: Day) -> None:
    """Live the day on a stage that has an engine, and simulate it. Raises AssertionError where they differ too much."""
    start, lived = _live(stage, day)
    loaded = load(stage.config, env={})
    simulated = _simulate(loaded, start, stage.folder, day)
    told = {name: (lived[name], simulated[name]) for name in lived}
    print(told)
    assert _in_order(lived, lambda one: one.began_s) == _in_order(simulated, lambda one: one.began_s), told
    assert _in_order(lived, lambda one: one.finished_s) == _in_order(simulated, lambda one: one.finished_s), told
    seconds, each, every = day.bounds
    for name, (real, ours) in told.items():
        assert ours.finished_s == pytest.approx(real.finished_s, abs=seconds), (name, told)
        assert 1 / each <= ours.grams / real.grams <= each, (name, told)
    real_g, ours_g = (math.fsum(one.grams for one in run.values()) for run in (lived, simulated))
    assert 1 / every <= ours_g / real_g <= every, told


def _in_order(run: Mapping[str, Lived], at_s: Callable[[Lived], float]) -> list[str]:
    return sorted(run, key=lambda name: at_s(run[name]))


# -- the real one --


def _live(stage: Stage, day: Day) -> tuple[datetime, dict[str, Lived]]:
    """Run the day on the clock of the wall; when it began, and what became of its batches."""
    forecast = stage.folder / "grid.csv"
    _write_config(stage, forecast, day.step_s)
    _write_grid(forecast, datetime.now(UTC) - timedelta(hours=1), day)  # to begin with
    stage.server()
    stage.worker()
    for n in range(day.warm):  # so that speeds and lengths are known
        warm = _submit(stage, f"warm{n}", 40, timedelta(minutes=5))
        HTTP.post(f"{stage.url}/v1/batchsched/batches/{warm}/start").raise_for_status()
        _ended(stage, warm)
    start = datetime.fromtimestamp(math.ceil(time.time() / day.step_s + 0.2) * day.step_s, UTC)
    _write_grid(forecast, start, day)
    ids: dict[str, str] = {}
    for asked in sorted(day.asked, key=lambda one: one.at_s):
        _sleep_until(start + timedelta(seconds=asked.at_s))
        ids[asked.name] = _submit(
            stage, asked.name, day.requests, start + timedelta(seconds=asked.deadline_s) - datetime.now(UTC)
        )
    found: dict[str, Lived] = {}
    for name, batch_id in ids.items():
        batch = _ended(stage, batch_id)
        _sleep_until(start + timedelta(seconds=(len(day.grid) + 1) * day.step_s))  # all is measured by then
        report = HTTP.get(f"{stage.url}/v1/batchsched/batches/{batch_id}/report").raise_for_status().json()
        found[name] = Lived(_began_s(report, start), batch["completed_at"] - start.timestamp(), report["operational_g"])
    return start, found


def _began_s(report: Mapping[str, Any], start: datetime) -> float:
    """When the first of its work began."""
    return min((_at(row["started_at"]) - start).total_seconds() for row in report["rows"])


def _at(told: str | datetime) -> datetime:
    return datetime.fromisoformat(told) if isinstance(told, str) else told


def _write_config(stage: Stage, forecast: Path, step_s: float) -> None:
    stage.config.write_text(
        f"""
[server]
port = {stage.port}
data_dir = '{stage.folder / "data"}'
chunk_lines = 10
[sites.home]
zone = 'DE'
[pools.local]
max_in_flight = 8
power_w = 100
[models.tiny]
[planner]
solver = 'greedy'
slot_s = {step_s}
replan_s = {step_s}
fine_h = 1
[forecast]
source = 'file'
path = '{forecast}'
[worker]
state_dir = '{stage.folder / "worker"}'
"""
    )


def _write_grid(path: Path, start: datetime, day: Day) -> None:
    """Hours from `start` on, known long before; before and after them all is dirty."""
    step, grid = timedelta(seconds=day.step_s), [float(g) for g in day.grid]
    rows: list[tuple[datetime, datetime, float]] = [(start - timedelta(hours=2), start, grid[0])]
    rows += [(start + n * step, start + (n + 1) * step, g) for n, g in enumerate(grid)]
    rows.append((rows[-1][1], rows[-1][1] + timedelta(hours=2), grid[-1]))
    half = path.with_suffix(".half")
    with half.open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["zone", "start", "end", "issued_at", "mean", "realised"])
        for since, to, mean in rows:
            table.writerow(["DE", since.isoformat(), to.isoformat(), (start - timedelta(hours=3)).isoformat(), mean, 1.1 * mean])
    half.rename(path)


def _submit(stage: Stage, name: str, requests: int, within: timedelta) -> str:
    body = {"model": "tiny", "max_tokens": TOKENS, "ignore_eos": True}
    lines = [
        {
            "custom_id": f"{name}-{n}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {**body, "messages": [{"role": "user", "content": f"one two three four five six seven {n % 10}"}]},
        }
        for n in range(requests)
    ]
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    files: Any = {"file": ("input.jsonl", data)}
    uploaded = HTTP.post(f"{stage.url}/v1/files", files=files, data={"purpose": "batch"}).raise_for_status().json()
    ours = {"deadline": f"{within.total_seconds():.0f}s", "on_deadline": "finish"}
    asked = {"input_file_id": uploaded["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h", "batchsched": ours}
    return str(HTTP.post(f"{stage.url}/v1/batches", json=asked).raise_for_status().json()["id"])


def _ended(stage: Stage, batch_id: str) -> dict[str, Any]:
    def completed() -> dict[str, Any] | None:
        batch: dict[str, Any] = HTTP.get(f"{stage.url}/v1/batches/{batch_id}").json()
        return batch if batch["status"] == "completed" else None

    return wait_for(completed)


def _sleep_until(at: datetime) -> None:
    time.sleep(max(0.0, (at - datetime.now(UTC)).total_seconds()))  # the day goes by the clock of the wall


# -- the simulated one --


def _simulate(loaded: Loaded, start: datetime, folder: Path, day: Day) -> dict[str, Lived]:
    data, place = Path(loaded.settings.server.data_dir), folder / "simulated"
    place.mkdir()
    provider, fleet = FileProvider(Path(loaded.settings.forecast.path)), loaded.settings.fleet()
    with _copied(data / "batchsched.db", folder / "copy.db") as database:
        profiles = Observer(database, loaded.settings, provider, Hardware(loaded.catalogue)).current_profiles()
        tokens, request_s = _measured(database)
        profiles = {key: _as_fast(known, request_s / known.seconds(*tokens)) for key, known in profiles.items()}
    scene = Scene(fleet, profiles, [_arrival(asked, fleet, tokens, day.requests) for asked in day.asked], 1, 0)
    exact = Conditions(sigma_own=0.0, sigma_chunk=0.0, sigma_watts=0.0, failures_per_replica_h=0.0)
    attached = msgspec.structs.replace(
        exact, tick_s=1.0, slot_s=day.step_s, fine_h=1.0, chunk_s=1e-6, warm_up_h=0.02, attached=True
    )
    policy = Policy("greedy", planned("greedy"), replan_s=day.step_s)
    made = Backtest(scene, Grid(Drawn(start, 24, 0), ["DE"], start, 24), policy, attached, place, provider)
    try:
        made.run()
        finished = {one.batch: one.finished_s for one in made.records.completions}
        reports = {name: made.runtime.reports.report(batch_id, DEFAULT) for batch_id, name in made.names.items()}
        return {
            name: Lived(_began_s(report, start), finished[name] or math.inf, report["operational_g"])
            for name, report in reports.items()
        }
    finally:
        made.close()


@contextmanager
def _copied(source: Path, target: Path) -> Generator[Database]:
    database = Database(copy_of(source, target))
    try:
        yield database
    finally:
        database.close()


def _as_fast(known: Profile, factor: float) -> Profile:
    """Taking so many times as long."""
    speeds = {name: getattr(known, name) / factor for name in ("input_tokens_per_s", "output_tokens_per_s")}
    return msgspec.structs.replace(known, **speeds)


def _measured(database: Database) -> tuple[tuple[float, float], float]:
    """Of a request, tokens in and out, and seconds, as they were on the real engine: chunks of a second teach profiles little."""
    with database.read() as connection:
        rows = batches.in_state(connection, sorted(BATCH_TRANSITIONS))
        spans = ledger.spans(
            connection, ANY, rows[0]["created_at"] - timedelta(days=1), rows[0]["created_at"] + timedelta(days=1)
        )
    done = sum(row["completed"] for row in rows)
    tokens = sum(row["input_tokens"] for row in rows) / done, sum(row["output_tokens"] for row in rows) / done
    return tokens, math.fsum(row["busy_s"] for row in spans) / done


def _arrival(asked: Asked, fleet: Fleet, tokens: tuple[float, float], requests: int) -> Arrival:
    return Arrival(asked.name, asked.at_s, asked.deadline_s, "tiny", requests, tuple(fleet.pools), tokens[1], 1.0, *tokens)

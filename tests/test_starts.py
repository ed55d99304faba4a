"""Which idle workers are told to start an engine: as many as work waits for or the plan has; and what frees one that was told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batchsched.clock import ManualClock
from batchsched.planner import Problem, make_plan
from batchsched.published import Coming, Published
from batchsched.queue import spending, windows, workers
from batchsched.units import iso
from batchsched.wire import PREFIX
from tests.inprocess import InProcess, in_process
from tests.live import requests
from tests.planner_cases import job, pool, slots
from tests.test_models_accepted import NOW, write_forecast
from tests.test_planner_holding import START_S, gap

CONFIG = """
[sites.home]
zone = "Z"
[pools.local]
gpu = "L4"
count = 8
[models.tiny]
parameters_b = 1
[models.other]
parameters_b = 8
[models.polite]
adapter_of = "tiny"
adapter = "adapters/polite"
[forecast]
source = "file"
path = "forecast.csv"
[planner]
solver = "greedy"
[server]
chunk_lines = 5
"""
MANY = 8
STARTUP_S = 65.0
"""More than an engine of a model takes here by its profile, and less than twice that."""


class Pool:
    """A server on a flat grid, where nothing is gained by waiting, and workers that speak the protocol by hand."""

    def __init__(self, server: InProcess, clock: ManualClock) -> None:
        self.server, self._clock = server, clock

    def worker(self, **more: Any) -> str:
        """A new one; its id."""
        said = {"pool": "local", "host": "h", "pid": 1, "protocol": 2, "adapters": True, **more}
        return str(self.server.post(f"{PREFIX}/workers", said).json()["worker_id"])

    def ask(self, worker: str, ready: str = "", **more: Any) -> dict[str, Any]:
        """The whole answer to a claim."""
        said = {"worker_id": worker, "ready_models": [ready] if ready else [], "renames": True, **more}
        answer = self.server.post(f"{PREFIX}/leases", said)
        assert answer.is_success, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def told(self, worker: str, ready: str = "", **more: Any) -> str | None:
        """The model that it is told to get ready."""
        found: str | None = self.ask(worker, ready, **more)["prepare"]
        return found

    def bye(self, worker: str) -> None:
        self.server.post(f"{PREFIX}/workers/{worker}/bye")

    def pass_time(self, seconds: float, *alive: str) -> None:
        """These workers go on to give signs of life."""
        for _ in range(int(seconds // 10) + 1):
            self._clock.advance(seconds / (int(seconds // 10) + 1))
            for worker in alive:
                assert self.server.post(f"{PREFIX}/workers/{worker}/heartbeat", {"leases": []}).is_success

    def submit(self, count: int, model: str = "tiny", *, now: bool = False, **body: Any) -> str:
        """A batch in progress, in chunks of five, and planned; `now`: told to start at once."""
        data = requests(count, model=model, **body)
        upload = self.server.request("POST", "/v1/files", files={"file": ("f", data)}, data={"purpose": "batch"}).json()["id"]
        asked = {"input_file_id": upload, "endpoint": "/v1/chat/completions", "completion_window": "12h"}
        batch_id = str(self.server.post("/v1/batches", asked).json()["id"])
        self.server.round()
        if now:
            assert self.server.post(f"{PREFIX}/batches/{batch_id}/start").is_success
        self.server.plan()
        return batch_id

    @property
    def published(self) -> Published:
        """The plan in force."""
        found = self.server.runtime.scheduler.published
        assert found is not None
        return found


@pytest.fixture
def make(tmp_path: Path) -> Generator[Callable[..., Pool]]:
    """Makes the server, with or without an own database."""
    write_forecast(tmp_path, {"Z": 300})
    clock, made = ManualClock(NOW), list[InProcess]()
    with in_process() as open_server:

        def pool_on(database_url: str = "", more: str = "") -> Pool:
            made.append(open_server(tmp_path, clock, CONFIG + more, server__database_url=database_url))
            return Pool(made[0], clock)

        yield pool_on
        for server in made:
            server.close()


@pytest.fixture
def local(make: Callable[..., Pool]) -> Pool:
    return make()


def test_of_workers_that_ask_at_once_as_many_are_told_as_chunks_wait(make: Callable[..., Pool], database_url: str) -> None:
    local = make(database_url)
    crew = [local.worker() for _ in range(MANY)]
    local.submit(15, now=True)
    with ThreadPoolExecutor(MANY) as together:
        first = dict(zip(crew, together.map(local.told, crew), strict=True))
        assert Counter(first.values()) == {"tiny": 3, None: MANY - 3}
        again = dict(zip(crew, together.map(local.told, crew), strict=True))
        assert again == first, "who comes back without it is told again, and counts once"
        loading = [worker for worker, model in first.items() if model]
        answers = list(together.map(lambda worker: local.ask(worker, "tiny" if worker in loading else ""), crew))
    assert [worker for worker, answer in zip(crew, answers, strict=True) if answer["leases"]] == loading
    assert {answer["prepare"] for answer in answers} == {None}


def test_an_idle_worker_that_has_the_model_takes_the_chunk_and_no_other_starts_for_it(local: Pool) -> None:
    has, empty = local.worker(), local.worker()
    assert local.ask(has, "tiny")["leases"] == []
    local.submit(10, now=True)
    assert local.told(empty) == "tiny"  # for the second chunk
    assert local.told(local.worker()) is None
    assert len(local.ask(has, "tiny")["leases"]) == 1
    assert local.told(local.worker()) is None


def test_pools_that_may_serve_the_same_batch_start_no_more_engines_for_it_than_chunks_wait(
    make: Callable[..., Pool], database_url: str
) -> None:
    local = make(database_url, '[pools.second]\ngpu = "L4"\ncount = 4\n')
    crew = [local.worker(pool=name) for name in ("local", "second") * 4]
    local.submit(15, now=True)
    with ThreadPoolExecutor(MANY) as together:
        first = list(together.map(local.told, crew))
        assert Counter(first) == {"tiny": 3, None: MANY - 3}
        assert list(together.map(local.told, crew)) == first
    local.bye(crew[first.index("tiny")])
    rest = [worker for worker, model in zip(crew, first, strict=True) if model is None]
    assert [local.told(worker) for worker in rest] == ["tiny", *[None] * (MANY - 4)]


def test_where_a_part_of_a_pool_is_open_no_more_start_than_may_work(make: Callable[..., Pool]) -> None:
    quarter = '[windows.quarter]\npool = "local"\ncron = "0 * * * *"\nduration = "1h"\nshare = 0.25\n'
    local = make(more=quarter)
    crew = [local.worker() for _ in range(MANY)]
    local.submit(5 * MANY, now=True)
    assert [local.told(worker) for worker in crew] == ["tiny"] * 2 + [None] * (MANY - 2)
    assert [local.told(worker) for worker in crew] == ["tiny"] * 2 + [None] * (MANY - 2)
    assert [len(local.ask(worker, "tiny")["leases"]) for worker in crew[:2]] == [1, 1]
    assert [local.told(worker) for worker in crew[2:]] == [None] * (MANY - 2)
    local.bye(crew[0])
    assert [local.told(worker) for worker in crew[2:]] == ["tiny"] + [None] * (MANY - 3)


def test_windows_that_operators_made_are_read_as_they_were_made(make: Callable[..., Pool], database_url: str) -> None:
    """By claims, heartbeats and what else is decided on them: shares and limits are numbers on every database."""
    local = make(database_url)
    ours = {"pool": "local", "cron": "0 * * * *", "duration": "1h"}
    asked = {"name": "part", **ours, "share": 0.25, "max_intensity_g_per_kwh": 500.5, "only_if_below_forecast_percentile": 99.5}
    answer = local.server.post(f"{PREFIX}/windows", asked)
    assert answer.is_success, answer.text
    assert local.server.post(f"{PREFIX}/windows/part/extend", {"by": "30m"}).is_success
    crew = [local.worker() for _ in range(MANY)]
    local.submit(5 * MANY, now=True)
    assert [local.told(worker) for worker in crew] == ["tiny"] * 2 + [None] * (MANY - 2)
    leases = [lease for worker in crew[:2] for lease in local.ask(worker, "tiny")["leases"]]
    held = [{"chunk_id": lease["chunk_id"], "token": lease["token"]} for lease in leases]
    beats = [
        local.server.post(f"{PREFIX}/workers/{worker}/heartbeat", {"leases": [one]})
        for worker, one in zip(crew, held, strict=False)
    ]
    assert [(beat.json()["stale"], beat.json()["stop"]) for beat in beats] == [([], {})] * 2
    with local.server.runtime.database.read() as connection:
        (kept,) = windows.every(connection)
    assert kept.window is not None
    numbers = kept.window.share, kept.window.max_intensity_g_per_kwh, kept.window.only_if_below_forecast_percentile
    assert (numbers, [type(number) for number in numbers]) == ((0.25, 500.5, 99.5), [float] * 3)


def test_who_says_goodbye_or_falls_silent_starts_nothing(local: Pool) -> None:
    first, second, third = (local.worker() for _ in range(3))
    local.submit(5, now=True)
    assert [local.told(worker) for worker in (first, second)] == ["tiny", None]
    local.bye(first)
    assert [local.told(worker) for worker in (second, third)] == ["tiny", None]
    local.pass_time(STARTUP_S, third)
    assert local.told(third) == "tiny", "nobody has heard of the second for longer than a lease lasts"


def test_who_takes_twice_as_long_as_a_start_should_counts_no_more(local: Pool) -> None:
    first, second, third = (local.worker() for _ in range(3))
    local.submit(5, now=True)
    assert local.told(first) == "tiny"
    local.pass_time(STARTUP_S, first, second, third)
    assert local.told(first) == "tiny"  # its engine did not start; since when it is told so stands
    assert local.told(second) is None
    local.pass_time(STARTUP_S, first, second, third)
    assert [local.told(worker) for worker in (second, third, first)] == ["tiny", None, None]
    assert len(local.ask(first, "tiny")["leases"]) == 1


def test_who_starts_on_a_slower_pool_is_waited_for_as_long_as_that_takes(make: Callable[..., Pool]) -> None:
    local = make(more='[pools.second]\ngpu = "L4"\ncount = 4\n')
    slow, fast = local.worker(pool="second"), local.worker()
    local.submit(5, now=True)
    (lease,) = local.ask(slow, "tiny")["leases"]
    took = {"busy_s": 300.0, "startup_s": 300.0, "energy_j": 0.0, "energy_source": "unmeasured"}
    meter = {**took, "started_at": iso(NOW - timedelta(seconds=300)), "ended_at": iso(NOW)}
    body = {"token": lease["token"], "reason": "preempted", "meter": meter}
    assert local.server.post(f"{PREFIX}/leases/{lease['chunk_id']}/release", body).is_success
    local.server.plan()
    assert local.told(slow) == "tiny"
    local.pass_time(2 * STARTUP_S, slow, fast)
    assert local.told(fast) is None, "the engine of the other pool is on its way, as slow as it was before"
    local.pass_time(600, slow, fast)
    assert local.told(fast) == "tiny"


def test_an_engine_that_failed_is_not_waited_for(local: Pool) -> None:
    first, second = local.worker(), local.worker()
    local.submit(5, now=True)
    (lease,) = local.ask(first, "tiny")["leases"]
    body = {"token": lease["token"], "message": "it died", "suspects": [1]}
    assert local.server.post(f"{PREFIX}/leases/{lease['chunk_id']}/fail", body).is_success
    local.pass_time(5, first, second)
    assert local.told(second) == "tiny"


@pytest.mark.parametrize("reason", ["preempted", "window_closed"])
def test_who_gave_work_back_for_want_of_its_engine_is_not_waited_for(local: Pool, reason: str) -> None:
    first, second = local.worker(), local.worker()
    local.submit(5, now=True)
    (lease,) = local.ask(first, "tiny")["leases"]
    body = {"token": lease["token"], "reason": reason}
    assert local.server.post(f"{PREFIX}/leases/{lease['chunk_id']}/release", body).is_success
    assert local.told(second) == ("tiny" if reason == "preempted" else None)


def test_what_can_wait_gets_as_many_engines_as_the_plan_has(local: Pool) -> None:
    crew = [local.worker() for _ in range(MANY)]
    local.submit(1500, "other", max_tokens=4000)
    engines = local.published.engines("local", NOW)["other"]
    assert 1 < engines < MANY
    assert [local.told(worker) for worker in crew] == ["other"] * engines + [None] * (MANY - engines)
    local.server.plan()
    (known,) = local.published.problem.pools
    assert known.loaded == ["other"] * engines  # a plan that is made meanwhile pays for no further start
    for worker in crew[:engines]:
        assert local.ask(worker, "other")["leases"]
    assert {local.told(worker) for worker in crew[engines:]} == {None}


def test_an_engine_that_the_plan_keeps_is_not_given_up_while_another_worker_idles(local: Pool) -> None:
    kept, idle = local.worker(), local.worker()
    local.submit(400)
    assert len(local.ask(kept, "tiny")["leases"]) == 1
    local.submit(5, "other", now=True)
    busy = local.ask(kept, "tiny")
    assert (len(busy["leases"]), busy["prepare"]) == (1, None)
    assert local.told(idle) == "other"
    local.bye(idle)
    assert local.ask(kept, "tiny")["prepare"] == "other"  # now there is nobody else


def test_an_idle_worker_of_which_the_engine_died_takes_no_chunk(local: Pool) -> None:
    """It asks for no work until that answers again; its heartbeats say so."""
    dead, other = local.worker(), local.worker()
    assert local.ask(dead, "tiny")["leases"] == []
    local.submit(5, now=True)
    assert local.told(other) is None, "it idles, with the model ready"
    assert local.server.post(f"{PREFIX}/workers/{dead}/heartbeat", {"leases": [], "ready_models": []}).is_success
    assert local.told(other) == "tiny"


def test_who_registers_anew_goes_on_with_what_it_loads_and_holds(local: Pool) -> None:
    first, second = local.worker(), local.worker()
    batch_id = local.submit(5, now=True)
    assert local.told(first) == "tiny"
    again = local.worker(was=first)
    assert [local.told(worker) for worker in (second, again)] == [None, "tiny"]
    (lease,) = local.ask(again, "tiny")["leases"]
    third = local.worker(was=again)
    local.bye(third)
    (taken,) = local.ask(second, "tiny")["leases"]
    assert (taken["chunk_id"], taken["batch_id"]) == (lease["chunk_id"], batch_id), "it went back with its last name"


def test_who_registers_anew_is_not_counted_as_lost_and_says_nothing_twice(local: Pool) -> None:
    first = local.worker()
    part = {"kind": "metered", "batch_id": "", "started_at": iso(NOW), "seconds": 10.0, "energy_j": 50.0, "energy_source": "rapl"}
    said = {"leases": [], "spent": {"number": 1, "parts": [part]}}
    assert local.server.post(f"{PREFIX}/workers/{first}/heartbeat", said).is_success  # its answer was lost
    again = local.worker(was=first)
    assert local.server.post(f"{PREFIX}/workers/{again}/heartbeat", said).is_success
    assert local.worker(was="worker_unknown") != local.worker(was=first)
    with local.server.runtime.database.read() as connection:
        (metered,) = spending.of_pools(connection, NOW - timedelta(days=1), NOW + timedelta(days=1))
        assert metered["energy_j"] == 50.0
        silent_since = NOW + timedelta(hours=1)
        lost, _ = workers.lost(connection, NOW - timedelta(days=1), silent_since)["local"]
        assert lost == 3, "of five names two are others' new ones"


def test_of_two_that_have_a_model_one_is_kept_where_the_plan_has_one(local: Pool) -> None:
    crew = [local.worker() for _ in range(3)]
    batch_id = local.submit(20)
    assert local.published.kept("local", NOW) == {"tiny": 1}
    assert local.server.post(f"{PREFIX}/batches/{batch_id}/pause").is_success  # the plan that is out still has it
    answers = [local.ask(worker, "tiny") for worker in crew * 2]
    assert [answer["leases"] for answer in answers] == [[]] * 6
    assert sum(answer["keep"] for answer in answers[3:]) == 1


def test_who_knows_of_no_adapters_is_offered_none(local: Pool) -> None:
    older, newer = local.worker(adapters=False), local.worker()
    local.submit(5, "polite", now=True)
    assert local.ask(older, "tiny") | {"next_at": None, "poll_s": 0} == {
        "leases": [], "prepare": None, "next_at": None, "poll_s": 0, "keep": False, "ceiling": None,
    }  # fmt: skip
    assert local.told(newer, lacking=["polite"]) is None
    assert local.told(newer) == "polite"
    local.bye(newer)
    local.server.plan()
    said = [note for note in local.published.notes if "Upgrade batchsched on the workers of local" in note]
    assert len(said) == 1
    assert "polite is an adapter, and its workers know of none" in said[0]


def test_the_engines_that_begin_next_are_told_of_in_time_each_with_its_number() -> None:
    problem = gap(4)
    published = Published(NOW, problem, make_plan(problem, "greedy"), {})
    starts_s = 5 * 900.0

    def coming(at_s: float, *unfinished: str) -> tuple[datetime | None, dict[str, Coming]]:
        return published.coming("a", NOW + timedelta(seconds=at_s), frozenset(unfinished))

    at = NOW + timedelta(seconds=starts_s)
    assert coming(starts_s - START_S - 1, "x") == (at, {})
    assert coming(starts_s - START_S, "x") == (at, {"m": Coming(1, START_S)})
    assert coming(starts_s - START_S, "another") == (None, {})
    assert published.engines("a", NOW) == {"m": 1}
    assert published.engines("a", NOW + timedelta(seconds=1000)) == published.engines("a", NOW + timedelta(days=9)) == {}


def test_all_models_of_an_instant_are_told_of_with_their_numbers() -> None:
    settings = {"startup_s_on": {"a": START_S}, "max_replicas": 9}
    jobs = [job(name, 900.0 * n, 3600.0, model=name, **settings) for name, n in (("m", 3.0), ("n", 1.5), ("late", 0.2))]
    problem = Problem(slots(2), [pool("a", [900.0, 100.0], replicas=7)], jobs)
    plan = make_plan(problem, "greedy")
    moved = [msgspec.structs.replace(a, slot_index=1, start_s=900.0, end_s=1800.0) for a in plan.allotments]
    published = Published(NOW, problem, msgspec.structs.replace(plan, allotments=moved, loads=[], holds=[]), {})
    _, found = published.coming("a", NOW + timedelta(seconds=850), frozenset({"m", "n"}))
    assert {model: one.engines for model, one in found.items()} == {"m": 3, "n": 2}


def test_as_many_engines_are_kept_as_have_work_before_any_starts() -> None:
    settings = {"startup_s_on": {"a": START_S}, "max_replicas": 9}
    problem = Problem(slots(3), [pool("a", [100.0, 100.0, 100.0], replicas=4)], [job("x", 900.0, 2700.0, **settings)])
    (first,) = make_plan(problem, "greedy").allotments[:1]
    wide = [
        msgspec.structs.replace(first, slot_index=t, start_s=900.0 * t, end_s=900.0 * t + 900.0, seconds=seconds)
        for t, seconds in enumerate((900.0, 1700.0, 2600.0))
    ]
    (load,) = make_plan(problem, "greedy").loads[:1]
    later = msgspec.structs.replace(load, slot_index=2, starts=2, seconds=2 * START_S)
    plan = msgspec.structs.replace(make_plan(problem, "greedy"), allotments=wide, loads=[later])
    published = Published(NOW, problem, plan, {})
    assert [published.kept("a", NOW + timedelta(seconds=900.0 * t)).get("m") for t in range(4)] == [2, 2, 4, None]


def test_a_server_that_was_restarted_knows_whom_it_told(make: Callable[..., Pool]) -> None:
    local = make()
    first, second = local.worker(), local.worker()
    local.submit(5, now=True)
    assert local.told(first) == "tiny"
    local.server.restart()
    local.server.plan()
    assert local.told(second) is None

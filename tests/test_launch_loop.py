"""The launcher's loop over a simulated cluster and a simulated server: by a clock that moves only when told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchsched.clock import ManualClock
from batchsched.errors import LaunchFailed, NotFound, ServerUnreachable, Unauthorized
from batchsched.executors.launchers.loop import LaunchLoop, Setup
from batchsched.executors.launchers.memory import Notebook
from batchsched.executors.launchers.names import Name
from batchsched.executors.launchers.port import NAME_ENV, Spec
from batchsched.executors.launchers.roll import Scene, Seen, moves
from batchsched.executors.launchers.watch import Watch
from batchsched.wire import Able, Launched, LaunchedWorker, Launching, Wanted
from tests.fake_launcher import Cluster, FakeLauncher
from tests.test_migrations import NOW

OLD, NEW, BAD = Spec(["worker", "old", "{place}"]), Spec(["worker", "new"]), Spec(["worker", "bad"])
NEWEST = Spec(["worker", "newest"])
ROUND_S, CHUNK_S = 2.0, 10.0


class World:
    """A cluster, a server that knows of the workers in it, and a launcher between them. Workers of `BAD` do as `bad` says."""

    def __init__(self, folder: Path, places: int = 3) -> None:
        self.folder, self.places = folder, places
        self.devices: list[str] = []
        self.grace_s = 30.0
        self.pools = ["a"]
        self.broken: set[int] = set()
        self.others: list[LaunchedWorker] = []
        self.clock = ManualClock(NOW)
        self.cluster = Cluster(self.clock, queue_s=3.0)
        self.spec, self.want, self.work, self.bad = OLD, 0, True, "dies"
        self.busy = False
        self.hung: set[str] = set()
        self.away: Exception | None = None
        self.heard: Launching | None = None
        self.worked_s: dict[str, float] = {}
        self.answered_s = 0.0
        self.keep: list[str] = []
        self.ready: dict[str, list[str]] = {}
        self.stopped: list[str] = []
        self.restart()

    def restart(self) -> None:
        """The launcher is gone without a word, and another takes its place."""
        launcher = FakeLauncher(self.cluster)
        self.loop = LaunchLoop("me", self.setups, launcher, Notebook(self.folder), self, self.clock)

    def setups(self) -> dict[str, Setup]:
        devices = self.devices or [str(place) for place in range(self.places)]
        setup = Setup(self.spec, devices, lead_s=5.0, grace_s=self.grace_s, linger_s=20.0, probation_s=120.0)
        return dict.fromkeys(self.pools, setup)

    async def call(self, method: str, path: str, message: msgspec.Struct | None = None) -> bytes:
        """What the server answers."""
        assert (method, path) == ("POST", "/launchers")
        assert isinstance(message, Launching)
        self.heard = message
        if self.away:
            raise self.away
        workers = self._workers()
        wanted = {pool: Wanted(min(self.want, able.replicas), self.keep, workers) for pool, able in message.pools.items()}
        return msgspec.json.encode(Launched(wanted, ROUND_S))

    def _workers(self) -> list[LaunchedWorker]:
        found = list(self.others)
        for name, job in self.cluster.jobs.items():
            there = job.runs_at_s + 1.0 <= self.clock.monotonic() and (job.gone_at_s or 1e9) > self.clock.monotonic()
            bad = job.spec.command[1] == "bad"
            if not there or (bad and self.bad == "silent") or name in self.hung:
                continue
            busy = int((self.work and self.want > 0) or self.busy)
            self.worked_s[name] = self.worked_s.get(name, 0.0) + busy * (self.clock.monotonic() - self.answered_s)
            chunks = int(self.worked_s[name] / CHUNK_S)
            finished, failed = (0, chunks if self.bad == "fails" else 0) if bad and self.bad != "mended" else (chunks, 0)
            found.append(LaunchedWorker(name, job.spec.env[NAME_ENV], NOW, self.ready.get(name, []), busy, finished, failed))
        self.answered_s = self.clock.monotonic()
        return found

    @staticmethod
    def _place(name: str) -> int:
        found = Name.parse(name)
        assert found is not None
        return found.place

    def running(self, spec: Spec | None = None) -> list[str]:
        """Names of those that are there and were not told to end."""
        jobs = self.cluster.jobs.items()
        return [name for name, job in jobs if job.gone_at_s is None and (spec is None or job.spec.command[1] == spec.command[1])]

    async def passes(self, seconds: float, each: Callable[[], None] = lambda: None) -> None:
        """So long, a round every two seconds. What runs in a broken place dies."""
        for _ in range(round(seconds / ROUND_S)):
            doomed = [name for name in self.running() if self._place(name) in self.broken]
            for name in [*doomed, *(self.running(BAD) if self.bad == "dies" else [])]:
                if self.cluster.jobs[name].runs_at_s < self.clock.monotonic():
                    self.cluster.die(name)
            before = set(self.running())
            await self.loop.round()
            self.stopped += sorted(before - set(self.running()))
            each()
            self.clock.advance(ROUND_S)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_names_say_what_replicas_are() -> None:
    for pool in ("a", "a.b/c", "ein Pool", ".."):
        name = Name(pool, 2, "0123456789", 7)
        assert Name.parse(str(name)) == name
        assert "/" not in str(name)
    assert Name.parse("something else") is None
    assert Name.parse("a.x.0123456789.7") is None


async def test_replicas_follow_what_is_wanted(world: World) -> None:
    await world.passes(10)
    assert world.running() == []
    world.want = 2
    await world.passes(10)
    assert [name.split(".")[:2] for name in world.running()] == [["a", "0"], ["a", "1"]]
    spec = world.cluster.jobs[world.running()[1]].spec
    assert (spec.command, set(spec.env)) == (["worker", "old", "1"], {NAME_ENV})
    assert spec.env[NAME_ENV].endswith(f"#{world.running()[1]}")
    assert world.heard is not None
    assert (world.heard.name, world.heard.lead_s, world.heard.pools["a"]) == ("me", 5.0, Able(3))
    world.want, world.work = 0, False
    await world.passes(16)
    assert len(world.running()) == 2, "they linger"
    await world.passes(10)
    assert world.cluster.jobs.keys() == set()


async def test_those_with_work_in_their_hands_or_a_wanted_engine_are_let_go_last(world: World) -> None:
    world.want = 3
    await world.passes(10)
    world.want = 2
    await world.passes(50)
    assert len(world.running()) == 3, "all have chunks in their hands"
    await world.passes(20)
    assert len(world.running()) == 2, "but two would do, and have them in its place"
    kept = world.running()[1]
    world.want, world.work, world.keep, world.ready = 1, False, ["m"], {kept: ["m"]}
    await world.passes(30)
    assert world.running() == [kept]
    world.want, world.busy = 0, True
    await world.passes(200)
    assert world.running() == [kept], "the pool is cordoned, and what it has in hand goes on"


async def test_one_that_died_is_started_again_with_growing_pauses_and_a_crash_loop_is_told(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.spec, world.want = BAD, 3
    able: list[int] = []
    with caplog.at_level(logging.INFO):
        await world.passes(400, lambda: able.append(world.heard.pools["a"].replicas if world.heard else -1))
    assert 18 <= len(world.cluster.starts) <= 24
    assert world.heard is not None
    assert (able[0], able[-1]) == (3, 0)
    assert "Workers in place 2 died 8 times in a row, the last with exit code 1" in world.heard.pools["a"].trouble
    assert "Its place is left empty for 64 s" in caplog.text
    world.bad = "mended"
    await world.passes(400)
    assert world.heard.pools["a"] == Able(3)
    assert len(world.running()) == 3


async def test_a_place_where_workers_die_does_not_hold_up_the_others(world: World) -> None:
    """As where one of three GPUs is broken."""
    world.want, world.broken, fewest, failing = 3, {2}, [3], {0}

    def look() -> None:
        assert world.heard is not None
        fewest.append(world.heard.pools["a"].replicas)
        failing.add(world.heard.pools["a"].failing)

    await world.passes(1000, look)
    assert (min(fewest), failing) == (2, {0, 1}), "plans count on the others"
    assert len({name for name in world.running() if ".2." not in name}) == 2
    assert len(world.cluster.starts) < 2 + 12


async def test_one_that_hangs_is_ended_and_another_started(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.want = 2
    await world.passes(30)
    (hung, well) = world.running()
    world.hung.add(hung)
    world.away = ServerUnreachable("It is away.")
    await world.passes(300)
    world.away = None
    await world.passes(100)
    assert world.running() == [hung, well], "while the server was away nobody could show anything"
    await world.passes(60)
    assert well in world.running()
    assert hung not in world.running()
    assert "fell silent for" in caplog.text
    assert len(world.running()) == 2


async def test_a_restarted_launcher_goes_on_with_what_there_is(world: World) -> None:
    world.want = 3
    await world.passes(1)
    for _ in range(5):
        world.restart()
        await world.passes(4)
    assert len(world.cluster.starts) == 3
    died = world.running()[1]
    world.cluster.die(died)
    world.restart()
    await world.passes(10)
    assert len(world.running()) == 3
    assert died not in world.cluster.jobs
    assert len(set(world.cluster.starts)) == 4


@pytest.mark.parametrize("where", ["server", "cluster"])
async def test_nothing_is_done_while_server_or_cluster_is_away(world: World, where: str) -> None:
    world.want = 2
    await world.passes(20)
    before = world.running()
    if where == "server":
        world.away = ServerUnreachable("It is away.")
    else:
        world.cluster.down = True
    world.want = 0
    await world.passes(200)
    assert world.running() == before
    world.away, world.cluster.down = None, False
    world.work = False
    await world.passes(30)
    assert world.running() == []


async def test_what_the_server_has_against_us_ends_the_launcher_at_the_first_contact_only(world: World) -> None:
    for problem in (Unauthorized("Who are you?"), NotFound("The server answered 404: Unknown request URL: POST /launchers.")):
        world.away = problem
        with pytest.raises(type(problem)):
            await world.loop.round()
    assert isinstance(world.away, NotFound)
    assert "upgrade" in (world.away.hint or "")
    world.away, world.want = None, 1
    await world.passes(10)
    world.away = Unauthorized("Who are you?")
    await world.passes(10)
    assert len(world.running()) == 1


async def test_a_changed_launch_is_tried_on_one_and_then_goes_from_one_to_the_next(world: World) -> None:
    world.want = 3
    await world.passes(30)
    world.spec = NEW
    fewest = [3]
    await world.passes(200, lambda: fewest.append(len(world.running())))
    assert len(world.running(NEW)) == 3
    assert min(fewest) == 2, "one at a time"
    assert len(world.stopped) == 3
    assert Notebook(world.folder).memory.pools["a"].good == NEW


@pytest.mark.parametrize(
    ("bad", "why"), [("dies", "died 2 times"), ("silent", "present itself"), ("fails", "engine fail"), ("idles", "no chunk")]
)
async def test_a_changed_launch_that_does_not_do_well_is_taken_back(world: World, bad: str, why: str) -> None:
    world.want, world.bad = 3, bad
    await world.passes(30)
    world.spec = BAD
    most = [0]
    await world.passes(400, lambda: most.append(len(world.running(BAD))))
    assert max(most) == 1
    assert len(world.running(OLD)) == 3
    launch = Notebook(world.folder).memory.pools["a"]
    assert launch.good == OLD
    assert why in launch.refused[BAD.digest]
    tries = len(world.cluster.starts)
    world.restart()
    await world.passes(100)
    assert len(world.cluster.starts) == tries, "it is not tried again by itself"
    world.spec = NEW
    await world.passes(200)
    assert len(world.running(NEW)) == 3


async def test_a_place_that_is_broken_says_nothing_about_a_changed_launch(world: World) -> None:
    world.want = 3
    await world.passes(30)
    world.broken = {2}
    await world.passes(60)
    world.spec = NEW
    await world.passes(400)
    launch = Notebook(world.folder).memory.pools["a"]
    assert (launch.good, launch.refused) == (NEW, {})
    assert len(world.running(NEW)) == 2


def test_deaths_in_a_place_that_was_broken_never_count_against_a_launch_also_once_it_is_mended() -> None:
    watch = Watch()
    watch.aims("new", "old")
    for number, digest in enumerate(("old", "old", "new", "new")):
        watch.died(Name("a", 2, digest, number), "exit code 1", 0.0)
    watch.died(Name("a", 1, "new", 4), "exit code 1", 0.0)
    assert watch.target_deaths == [1]
    watch.renewed([1, 2])
    assert watch.target_deaths == [1], "place 1 was not broken: what died there still says something"


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_launch_that_was_refused_for_a_broken_place_is_tried_again_once_that_shows(
    world: World, caplog: pytest.LogCaptureFixture, restarted: bool
) -> None:
    world.want = 3
    await world.passes(30)
    world.spec, world.broken = NEW, {2}  # it breaks just as the first is changed there
    while not (refused := Notebook(world.folder).memory.pools["a"].refused):
        await world.passes(2)
    assert "died 2 times" in refused[NEW.digest]
    if restarted:
        world.restart()
    await world.passes(400)
    assert "is tried again" in caplog.text
    launch = Notebook(world.folder).memory.pools["a"]
    assert (launch.good, launch.refused, launch.refused_in) == (NEW, {}, {})
    assert len(world.running(NEW)) == 2


async def test_one_that_is_bad_is_refused_also_where_the_old_one_died_by_chance_or_a_place_is_broken(tmp_path: Path) -> None:
    world = World(tmp_path, places=2)
    world.want = 2
    await world.passes(30)
    world.cluster.die(world.running()[0])
    world.broken = {1}
    await world.passes(60)
    world.spec = BAD
    await world.passes(400)
    assert "died 2 times" in Notebook(world.folder).memory.pools["a"].refused[BAD.digest]
    assert [name.split(".")[1] for name in world.running(OLD)] == ["0"]


async def test_replicas_of_a_pool_that_is_not_served_any_more_are_let_go(world: World) -> None:
    """Once the server was heard: as long as it is away, all stay."""
    world.want = 2
    await world.passes(20)
    before = world.running()
    world.pools, world.away = ["b"], ServerUnreachable("It is away.")
    world.restart()
    await world.passes(10)
    assert world.running() == before
    world.away = None
    await world.passes(20)
    assert {name.split(".")[0] for name in world.running()} == {"b"}
    assert len(world.running()) == 2
    assert not set(before) & world.cluster.jobs.keys()


async def test_replicas_of_a_pool_that_is_not_served_any_more_have_the_time_that_was_declared_for_them(world: World) -> None:
    world.want, world.grace_s = 1, 45.0
    await world.passes(20)
    world.grace_s = 600.0  # changed while they run: the last word holds
    await world.passes(4)
    (name,) = world.running()
    world.pools, world.cluster.stubborn = ["b"], True
    world.restart()
    told_s = world.clock.monotonic()
    await world.loop.round()
    assert world.cluster.jobs[name].gone_at_s == told_s + 600.0


async def test_a_changed_launch_with_nothing_to_do_is_taken_once_it_stayed(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.want, world.work = 1, False
    await world.passes(30)
    world.spec = NEW
    with caplog.at_level(logging.INFO):
        await world.passes(200)
    assert "they had nothing to do, and stayed" in caplog.text
    assert Notebook(world.folder).memory.pools["a"].good == NEW


async def test_a_pool_that_opens_with_a_launch_on_trial_gets_one_of_it_and_else_what_works(world: World) -> None:
    world.want = 1
    await world.passes(30)
    world.work, world.want = False, 0
    await world.passes(30)
    world.spec, world.work, world.want = NEW, True, 3
    await world.passes(4)
    assert (len(world.running(NEW)), len(world.running(OLD))) == (1, 2)
    await world.passes(200)
    assert len(world.running(NEW)) == 3


async def test_another_machines_worker_of_the_same_name_is_not_taken_for_ours(world: World) -> None:
    """Launchers that are configured alike number their replicas alike."""
    world.want = 1
    await world.passes(10)
    (name,) = world.running()
    world.hung = {name}
    world.others = [LaunchedWorker("theirs", f"them#{name}", NOW, [], 1, 5, 0)]
    await world.passes(140)
    assert name not in world.running(), "nothing was heard of it"


async def test_places_with_other_gpus_are_emptied_before_anything_is_started_there(world: World) -> None:
    world.spec, world.want, world.devices = Spec(["worker", "old", "{devices}"]), 3, ["a", "b", "c"]
    await world.passes(30)
    before = world.running()

    def sound() -> None:
        now_s = world.clock.monotonic()
        held = [job.spec.command[2] for job in world.cluster.jobs.values() if (job.gone_at_s or 1e9) > now_s]
        assert len(held) == len(set(held)), "each GPU is one replica's"

    world.devices = ["a", "c", "d"]
    await world.passes(4, sound)
    world.restart()
    await world.passes(30, sound)
    assert sorted(world.cluster.jobs[name].spec.command[2] for name in world.running()) == ["a", "c", "d"]
    assert (world.stopped, world.running()[0]) == (before[1:], before[0])
    world.devices = ["a"]
    await world.passes(4, sound)
    assert world.running() == before[:1]


async def test_one_that_never_presents_itself_is_ended_and_counts_as_dead(world: World) -> None:
    world.spec, world.bad, world.want = BAD, "silent", 1
    await world.passes(150)
    assert len(world.cluster.starts) == 2


async def test_all_are_let_go_on_request(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.want = 3
    await world.passes(20)

    async def sleep(seconds: float) -> None:
        world.clock.advance(seconds)

    monkeypatch.setattr("asyncio.sleep", sleep)
    assert await world.loop.let_go() == 0
    assert world.cluster.jobs == {}


def test_a_memory_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "launches.json").write_text("{")
    with pytest.raises(LaunchFailed, match="cannot be read"):
        Notebook(tmp_path)


EVENTS = st.lists(
    st.sampled_from(
        ["want 0", "want 1", "want 3", "spec old", "spec new", "spec bad", "kill", "restart", "away", "back", "rest", "break 0"]
    ),
    min_size=5,
    max_size=25,
)


@pytest.mark.slow
@given(events=EVENTS, bad=st.sampled_from(["dies", "silent", "fails", "idles"]))
@settings(max_examples=25, deadline=None)
async def test_whatever_happens_places_are_held_once_and_in_the_end_all_is_as_wanted(
    tmp_path_factory: pytest.TempPathFactory, events: list[str], bad: str
) -> None:
    world = World(tmp_path_factory.mktemp("world"))
    world.bad = bad

    def sound() -> None:
        held = [Name.parse(name) for name, job in world.cluster.jobs.items() if (job.gone_at_s or 1e9) > world.clock.monotonic()]
        places = [name.place for name in held if name]
        assert len(places) == len(set(places)) <= world.places
        assert len(world.running(BAD)) <= 1

    await world.passes(4)
    for event in events:
        what, _, value = event.partition(" ")
        _HAPPENS[what](world, value)
        await world.passes(6, sound)
    world.away, world.spec, world.want, world.broken = None, NEWEST, 2, set()  # what died twice may have been refused
    await world.passes(1600, sound)
    assert len(world.running()) == len(world.running(NEWEST)) == 2


def _kill(world: World, _: str) -> None:
    for name in world.running()[:1]:
        world.cluster.die(name)


_HAPPENS: dict[str, Callable[[World, str], Any]] = {
    "want": lambda world, value: setattr(world, "want", int(value)),
    "spec": lambda world, value: setattr(world, "spec", {"old": OLD, "new": NEW, "bad": BAD}[value]),
    "kill": _kill,
    "break": lambda world, value: world.broken.add(int(value)),
    "restart": lambda world, _: world.restart(),
    "away": lambda world, _: setattr(world, "away", ServerUnreachable("It is away.")),
    "back": lambda world, _: setattr(world, "away", None),
    "rest": lambda world, _: setattr(world, "work", not world.work),
}


def test_a_place_is_free_only_once_its_replica_has_ended() -> None:
    ending = Seen(Name("a", 0, "good", 1), stopping=True, for_s=9.0)
    assert moves(Scene([ending], want=1, places=1, good="good", target="good")).starts == []
    assert moves(Scene([ending], want=1, places=2, good="good", target="good")).starts == [(1, "good")]

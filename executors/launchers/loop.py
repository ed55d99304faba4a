"""The launcher's loop: ask the server what is wanted of each pool, look at what runs, start what is lacking and let go what is
not wanted; change replicas one at a time where their launch changed. While the server is away all stays as it is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from batchsched.clock import Clock
from batchsched.errors import BatchschedError, NotFound, ServerUnreachable
from batchsched.executors.launchers.memory import Launch, Notebook
from batchsched.executors.launchers.names import Name
from batchsched.executors.launchers.port import Launcher, Replica, Spec
from batchsched.executors.launchers.roll import Scene, judge, moves, spent
from batchsched.executors.launchers.watch import Watch
from batchsched.fleet import Launch as Declared
from batchsched.wire import Able, Launched, Launching, Wanted, replica_title

log = logging.getLogger(__name__)
_AWAY_S = 2.0
_SOON_S = 0.5
"""Between two looks while a replica is on its way, or on its way out."""
_PATIENCE = 3
"""So many times as long as others may linger one that is not wanted, but never without a chunk in its hands."""


class Setup(msgspec.Struct, frozen=True):
    """How one pool's workers are launched here. `devices`: what each place has of the machine, by place."""

    spec: Spec
    devices: list[str]
    lead_s: float
    grace_s: float
    linger_s: float
    probation_s: float


class Asked(Protocol):
    """Who answers: a ServerLink."""

    async def call(self, method: str, path: str, message: msgspec.Struct | None = None) -> bytes:
        """One question. Raises ServerUnreachable where that may pass, our other errors where it will not."""
        ...


Setups = Mapping[str, Setup]


class LaunchLoop:
    """One launcher's pools. `setups` is asked at each round, so that a changed configuration holds from then on."""

    def __init__(
        self, name: str, setups: Callable[[], Setups], launcher: Launcher, notebook: Notebook, link: Asked, clock: Clock
    ) -> None:
        self.stop = asyncio.Event()
        self._name, self._setups, self._launcher, self._notebook = name, setups, launcher, notebook
        self._link, self._clock = link, clock
        self._watches: dict[str, Watch] = {}
        self._met = self._away = False

    async def run(self) -> int:
        """Until told to stop; 0. What runs goes on running. Raises what the server has against us at the first contact."""
        while not self.stop.is_set():
            pause_s = await self.round()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), pause_s)
        log.info("The launcher stops; its workers go on, and the next launcher here finds them.")
        return 0

    async def let_go(self) -> int:
        """Tell every replica of these pools to end, and wait for it; 0."""
        setups = self._setups()
        while mine := {name: one for name, one in (await self._mine()).items() if name.pool in setups}:
            for name, replica in mine.items():
                if replica.state == "ended":
                    log.info("Worker %s is gone: %s", name, replica.why)
                    await self._launcher.forget(str(name))
                else:
                    await self._launcher.stop(str(name), setups[name.pool].grace_s)
            await asyncio.sleep(0.2)
        return 0

    async def round(self) -> float:
        """One look at everything; seconds until the next."""
        setups = self._setups()
        try:
            mine = await self._mine()
            await self._bury(mine)
            answer = await self._ask(setups)
            for pool, setup in setups.items():
                if answer is not None and pool in answer.pools:
                    await self._tend(pool, setup, mine, answer.pools[pool])
            if answer is not None:
                await self._release(mine, setups)
        except BatchschedError as problem:
            if not self._met:
                raise
            log.error("%s%s", problem.message, f" {problem.hint}" if problem.hint else "")
            return _AWAY_S
        if answer is None:
            return _AWAY_S
        there = {worker.replica for wanted in answer.pools.values() for worker in wanted.workers}
        settled = all(replica.state == "running" and self._title(name) in there for name, replica in mine.items())
        return answer.poll_s if settled else min(answer.poll_s, _SOON_S)

    # What runs.

    async def _mine(self) -> dict[Name, Replica]:
        found = await self._launcher.replicas()
        return {name: replica for text, replica in found.items() if (name := Name.parse(text)) is not None}

    async def _bury(self, mine: dict[Name, Replica]) -> None:
        """See who ended, and forget them."""
        for name, replica in list(mine.items()):
            if replica.state != "ended":
                continue
            watch = self._watch(name.pool)
            if replica.clean:
                log.info("Worker %s is gone: %s", name, replica.why)
            else:
                pause_s = watch.died(name, replica.why, self._clock.monotonic())
                log.warning("Worker %s died: %s Its place is left empty for %.0f s.", name, replica.why, pause_s)
            await self._launcher.forget(str(name))
            watch.gone(name)
            del mine[name]

    async def _release(self, mine: Mapping[Name, Replica], setups: Setups) -> None:
        """Let go of replicas of pools that this launcher served once and does not serve now: nobody else ever would."""
        for name, replica in mine.items():
            if name.pool not in setups and replica.state != "stopping":
                log.warning("Worker %s is let go: this launcher does not serve pool %s any more.", name, name.pool)
                known = self._notebook.memory.pools.get(name.pool)
                grace_s = known.grace_s if known and known.grace_s is not None else Declared().grace_s
                await self._launcher.stop(str(name), grace_s)

    def _title(self, name: Name) -> str:
        """By which the server knows a replica: another launcher's, on a machine like ours, may have the same name."""
        return replica_title(self._name, str(name))

    def _watch(self, pool: str) -> Watch:
        return self._watches.setdefault(pool, Watch())

    # The server.

    async def _ask(self, setups: Setups) -> Launched | None:
        """What is wanted; None while the server is away."""
        able = {pool: self._able(pool, setup) for pool, setup in setups.items()}
        message = Launching(self._name, able, max((setup.lead_s for setup in setups.values()), default=0.0))
        try:
            answer = msgspec.json.decode(await self._link.call("POST", "/launchers", message), type=Launched)
        except ServerUnreachable as problem:
            if not self._away:
                log.warning("%s Workers are left as they are meanwhile.", problem.message)
            self._away = True
            return None
        except NotFound as problem:
            if "request URL" in problem.message:
                problem.hint = "The server is older than launchers are: upgrade it."
            raise
        if self._away:
            log.info("The server answers again.")
        self._away, self._met = False, True
        return answer

    def _able(self, pool: str, setup: Setup) -> Able:
        """All places, but those where workers die again and again, until the next is tried there."""
        watch, places = self._watch(pool), len(setup.devices)
        hopeless = sum(place < places for place in watch.hopeless(self._clock.monotonic()))
        troubles = watch.troubles()
        return Able(places - hopeless, " ".join(troubles)[:2000], len(troubles))

    # One pool.

    async def _tend(self, pool: str, setup: Setup, mine: Mapping[Name, Replica], wanted: Wanted) -> None:
        launch, target = self._launch(pool, setup), setup.spec.digest
        if launch.devices != setup.devices and await self._moving(pool, launch, setup, mine):
            return
        watch, now_s = self._watch(pool), self._clock.monotonic()
        self._pardon(pool, launch, watch)
        if target in launch.refused:
            target = launch.good.digest
        watch.aims(target, launch.good.digest)
        replicas = {name: replica for name, replica in mine.items() if name.pool == pool}
        known = {worker.replica: worker for worker in wanted.workers}
        workers = {str(name): worker for name in replicas if (worker := known.get(self._title(name)))}
        seen = watch.look(replicas, workers, now_s)
        surplus = sum(not one.stopping for one in seen) - wanted.replicas
        too_many_s = watch.surplus_s(surplus, now_s)
        scene = Scene(
            seen,
            want=wanted.replicas,
            places=len(setup.devices),
            good=launch.good.digest,
            target=target,
            keep=wanted.keep,
            deaths=watch.target_deaths,
            broken=watch.broken,
            probation_s=setup.probation_s,
            paused=watch.paused(now_s),
            may_shrink=too_many_s >= setup.linger_s,
            may_drain=too_many_s >= _PATIENCE * setup.linger_s,
        )
        if target != scene.good and self._judged(pool, launch, setup, scene):
            return  # the next round goes by the judgement
        for one in scene.alive:
            if why := spent(one, scene):
                log.error("Worker %s %s, and is ended.", one.name, why)
                watch.died(one.name, f"since it {why}.", now_s)
                await self._launcher.stop(str(one.name), setup.grace_s)
                return
        todo = moves(scene)
        for name in todo.stops:
            why = f"{wanted.replicas} are wanted" if surplus > 0 else "one of the launch as it is now takes its place"
            log.info("Worker %s is let go: %s.", name, why)
            await self._launcher.stop(str(name), setup.grace_s)
        for place, digest in todo.starts:
            spec = setup.spec if digest == setup.spec.digest else launch.good
            name = Name(pool, place, digest, self._notebook.next_number())
            log.info("Worker %s is started: %d are wanted.", name, wanted.replicas)
            await self._launcher.start(str(name), spec.placed(str(name), place, setup.devices[place], self._title(name)))

    def _launch(self, pool: str, setup: Setup) -> Launch:
        launch = self._notebook.memory.pools.setdefault(pool, Launch(setup.spec, devices=setup.devices))
        if launch.grace_s != setup.grace_s:  # as it is when the pool is new here
            launch.grace_s = setup.grace_s
            self._notebook.keep()
        return launch

    async def _moving(self, pool: str, launch: Launch, setup: Setup, mine: Mapping[Name, Replica]) -> bool:
        """Are replicas still there whose places have other GPUs now, or are no more? They end first: a GPU is one replica's."""
        same = {place for place, (old, new) in enumerate(zip(launch.devices, setup.devices, strict=False)) if old == new}
        moved = [name for name in mine if name.pool == pool and name.place not in same]
        for name in moved:
            if mine[name].state != "stopping":
                log.info("Worker %s is let go: its place has other GPUs now, or is gone.", name)
                await self._launcher.stop(str(name), setup.grace_s)
        if not moved:
            self._watch(pool).renewed([place for place in range(len(launch.devices)) if place not in same])
            launch.devices = setup.devices
            self._notebook.keep()
        return bool(moved)

    def _pardon(self, pool: str, launch: Launch, watch: Watch) -> None:
        """Was a launch refused for what happened in a place where the one that works dies too? It was not to blame."""
        if launch.pardon(watch.broken):
            log.warning("The changed launch of pool %s is tried again: where it did badly the one that works dies too.", pool)
            self._notebook.keep()

    def _judged(self, pool: str, launch: Launch, setup: Setup, scene: Scene) -> bool:
        """Is the trial of a changed launch over? Then write down how."""
        verdict = judge(scene)
        if verdict.refused:
            launch.refuse(scene.target, verdict.refused, verdict.place)
            log.error(
                "The changed launch of pool %s is taken back, and its workers with it: %s. It is tried again once it changes.",
                pool, verdict.refused,
            )  # fmt: skip
        elif verdict.over:
            launch.good = setup.spec
            how = "each has finished a chunk" if verdict.tested else "they had nothing to do, and stayed"
            log.info("All workers of pool %s run by the changed launch: %s.", pool, how)
        else:
            return False
        self._notebook.keep()
        return True

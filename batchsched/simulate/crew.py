"""All modelled executors: they lease chunks by the calls of real workers, and hold them for as long as the truth says."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import NamedTuple

import msgspec

from batchsched.errors import StaleLease
from batchsched.queue.spare import QUARTER_S
from batchsched.server.workers import LeaseDesk
from batchsched.simulate.conditions import Conditions
from batchsched.simulate.events import Events
from batchsched.simulate.replica import Held, Replica
from batchsched.simulate.rooms import ALONE
from batchsched.simulate.scene import Arrival, Scene
from batchsched.simulate.truth import Lines, Truth
from batchsched.wire import (
    Bye,
    Claim,
    EnergySource,
    Fail,
    Finish,
    Heartbeat,
    HeldLease,
    Lease,
    Meter,
    Register,
    Release,
    ReleaseReason,
    Result,
    Results,
    SpareSeen,
    Spent,
    SpentKind,
    SpentPart,
)

SOURCE: EnergySource = "nvml_counter"
"""What the modelled meters stand for."""
LATE_S = 0.5
"""After the instant for which a worker was told to ask again it does, about."""
_ANSWER = msgspec.Raw(b'{"id":"batch_req","custom_id":"r","response":null,"error":null}')
Told = Callable[[str, Replica, Held, int], None]
"""What became of a lease (`leased`, `recorded`, `finished`, `released`, `failed`), on which replica, lines that were recorded."""


class Moved(NamedTuple):
    """Files of a chunk that went between the home site and a pool's."""

    at_s: float
    pool: str
    batch_id: str
    gigabytes: float


class Crew:
    """Replicas of all pools."""

    def __init__(
        self,
        scene: Scene,
        conditions: Conditions,
        truth: Truth,
        desk: LeaseDesk,
        events: Events,
        batch_of: Callable[[str], tuple[Arrival, Lines]],
        told: Told,
    ) -> None:
        """`batch_of`: what a batch of the queue is in the scene."""
        self._conditions, self._truth, self._desk, self._events = conditions, truth, desk, events
        self._batch_of, self._told = batch_of, told
        self._asks: dict[str, float] = {}
        self.moved: list[Moved] = []
        self.starts = 0
        """Of engines, since the start of the simulation."""
        self.wasted = 0
        """Of those, engines that were stopped without any work."""
        self.replicas = [
            self._registered(f"{name}/{n}", name) for name, pool in scene.fleet.pools.items() for n in range(pool.count)
        ]
        self._of_pool: dict[str, list[Replica]] = {}
        for replica in self.replicas:
            self._of_pool.setdefault(replica.pool, []).append(replica)
        self._spare = {name: truth.alone_tokens_per_s(name) for name in scene.rooms}
        """What a server of each spare pool does alone, in tokens a second."""
        for replica in self.replicas:
            replica.model = truth.stands(replica.pool) or None
        for outage in conditions.outages:
            goes, comes = (self._cut, self.ask) if outage.silent else (self._away, self._back)
            events.at(outage.start_s, partial(goes, outage.pool, outage.end_s))
            events.at(outage.end_s, partial(comes, outage.pool))

    def _registered(self, name: str, pool: str) -> Replica:
        return Replica(name, pool, self._register(name, pool), seen_s=self._events.now_s, left_s=self._truth.fails_in_s(name, 0))

    def _register(self, name: str, pool: str) -> str:
        return self._desk.register(Register(pool, name, 1, shares=True, adapters=True)).worker_id

    # -- asking --

    def ask_all(self) -> None:
        """Whoever has nothing to do asks for work."""
        for pool in self._of_pool:
            self.ask(pool)

    def ask(self, pool: str) -> None:
        """The same of one pool, in the order in which the server knows its workers. Where one gets nothing whose engine the plan
        does not keep, others after it with the same engine would get nothing either."""
        groups: dict[str, list[Replica]] = {}
        for replica in self._of_pool[pool]:
            if replica.state == "idle" and not self._is_cut(replica):
                groups.setdefault(replica.model or "", []).append(replica)
        for model in sorted(groups, key=lambda name: (name == "", name)):
            group = sorted(groups[model], key=lambda one: one.worker_id)
            for n, replica in enumerate(group):
                if self._claim(replica):
                    continue
                self._rest(replica)
                if not replica.keep:
                    for other in group[n + 1 :]:
                        other.keep = False
                        self._rest(other)
                    break

    def _claim(self, replica: Replica) -> bool:
        """Ask for one; has it something to do now?"""
        replica.seen_s = self._events.now_s
        claimed = self._desk.claim(Claim(replica.worker_id, 1, replica.ready, renames=True))
        replica.keep = claimed.keep
        if claimed.leases:
            self._begin(replica, claimed.leases[0])
            return True
        if claimed.prepare and claimed.prepare != replica.model and not self._truth.stands(replica.pool):
            self._start(replica, claimed.prepare)
            return True
        if claimed.next_at:
            self._ask_at(replica.pool, self._events.seconds(claimed.next_at) + LATE_S)
        return False

    def _ask_at(self, pool: str, at_s: float) -> None:
        due_s = self._asks.get(pool)
        if due_s is None or at_s < due_s or due_s <= self._events.now_s:
            self._asks[pool] = at_s
            self._events.at(at_s, partial(self._ask_then, pool, at_s))

    def _ask_then(self, pool: str, at_s: float) -> None:
        if self._asks.get(pool) == at_s:
            del self._asks[pool]
            self.ask(pool)

    def _ask_soon(self, arrival: Arrival) -> None:
        """Those ask that may work on a batch: once, however many of its chunks were given back meanwhile."""
        for pool in arrival.pools:
            self._ask_at(pool, self._events.now_s + LATE_S)

    def _next(self, replica: Replica) -> None:
        """It is free again."""
        replica.state, replica.held = "idle", None
        replica.free_s = replica.idle_s = self._events.now_s
        replica.turn += 1
        if not self._claim(replica):
            self._rest(replica)
            if replica.keep:  # what it was passed over for may be another's
                self._ask_at(replica.pool, self._events.now_s + LATE_S)

    # -- engines --

    def _rest(self, replica: Replica) -> None:
        """Without work: its engine is stopped after a while, unless the plan keeps it."""
        if replica.model is not None and not replica.keep and not self._truth.stands(replica.pool):
            stop_s = replica.free_s + self._conditions.idle_stop_s
            self._events.at(stop_s, partial(self._stopped, replica, replica.turn))

    def _stopped(self, replica: Replica, turn: int) -> None:
        if replica.turn == turn and not replica.keep and replica.model is not None:
            self._unload(replica)
            if not self._is_cut(replica):
                self._claim(replica)  # as it asks every second: the server counts on no engine that is gone

    def _unload(self, replica: Replica) -> None:
        """Its engine is gone."""
        self._idled(replica)
        self._started_in_vain(replica)
        replica.model = None
        replica.turn += 1

    def _started_in_vain(self, replica: Replica) -> None:
        """What a start took that no chunk was charged for is waste, also of one that is not over."""
        if replica.state == "starting" and replica.model is not None:
            replica.startup = self._start_meter(replica, replica.model)
        startup, replica.startup = replica.startup, None
        if startup is not None and startup.busy_s > 0:
            replica.unsaid.append(_part("waste", startup.started_at, startup.busy_s, startup.energy_j))
            self.wasted += self._events.now_s >= 0

    def _start(self, replica: Replica, model: str) -> None:
        if replica.model is not None:
            self._unload(replica)
            self._ask_at(replica.pool, self._events.now_s + LATE_S)  # others may have left work to that engine
        seconds = self._truth.start_s(model, replica.pool, replica.name, replica.starts, self._events.now_s)
        replica.state, replica.model = "starting", model
        replica.starts += 1
        self.starts += self._events.now_s >= 0
        replica.turn += 1
        replica.began_s = self._events.now_s
        self._events.at(replica.began_s + seconds, partial(self._started, replica, replica.turn))

    def _started(self, replica: Replica, turn: int) -> None:
        if replica.turn != turn or replica.model is None or self._later(replica, self._started, turn):
            return
        replica.startup = self._start_meter(replica, replica.model)
        self._next(replica)

    def _start_meter(self, replica: Replica, model: str) -> Meter:
        """What its engine's start took until now."""
        seconds = self._events.now_s - replica.began_s
        energy_j = seconds * self._truth.start_w(model, replica.pool)
        return self._meter(replica.began_s, seconds, energy_j, startup_s=seconds)

    # -- chunks --

    def _begin(self, replica: Replica, lease: Lease) -> None:
        now_s = self._events.now_s
        self._idled(replica)
        arrival, lines = self._batch_of(lease.batch_id)
        done = set(lease.done)
        todo = [n for n in range(lease.first_line, lease.first_line + lease.lines) if n not in done]
        moved_s = self._truth.moved_s(replica.pool, lines, len(todo))
        self.moved.append(Moved(now_s, replica.pool, lease.batch_id, self._truth.moved_gb(replica.pool, lines, len(todo))))
        luck = self._truth.luck(arrival, lease.first_line)
        held = Held(
            lease,
            arrival,
            lines,
            todo,
            now_s + moved_s,
            luck,
            self._truth.line_s(arrival, replica.pool, lines, luck),
            self._truth.power_w(arrival, replica.pool),
            now_s,
            room=self._truth.room(replica.pool),
        )
        replica.state, replica.held = "working", held
        replica.turn += 1
        if (startup := replica.startup) is not None:
            replica.startup = None
            startup.ended_at = self._events.instant(now_s)  # with the wait for a chunk, as a worker has it
            self._desk.record(lease.chunk_id, Results(lease.token, [], startup))
        self._told("leased", replica, held, 0)
        fails_s, takes_s = replica.left_s, held.ends_s - now_s
        replica.left_s -= takes_s
        if takes_s < fails_s:
            self._events.at(held.ends_s, partial(self._finished, replica, replica.turn))
        else:
            self._events.at(now_s + fails_s, partial(self._failed, replica, replica.turn))

    def report(self) -> None:
        """Lines that are done are recorded."""
        for replica in self.replicas:
            if replica.held is not None and not self._is_cut(replica):
                self._record(replica, replica.held)

    def _record(self, replica: Replica, held: Held, *, whole: bool = False) -> None:
        count = len(held.todo) if whole else held.due(self._events.now_s)
        if count <= 0:
            return
        now, lines = held.todo[:count], held.lines
        results = [Result(n, True, lines.input_tokens, 0, lines.output_tokens, _ANSWER) for n in now]
        held.todo, held.done = held.todo[count:], held.done + count
        # A line stands for thousands of requests, whose answers would have come all along: with the time of one that is half done
        # but without its tokens, a pool would look as if it changed its speed.
        message = Results(held.lease.token, results, self._worked(held, held.done_s))
        replica.seen_s = self._events.now_s
        try:
            self._desk.record(held.lease.chunk_id, message)
        except StaleLease:  # its batch has ended without it, or it was not heard of for too long
            held.todo, held.lost = [], True
            self._wasted(replica, message.meter)
            return
        self._told("recorded", replica, held, count)

    def _worked(self, held: Held, until_s: float = math.inf) -> Meter:
        """What it took since the server last heard of it, until now or until then; beside other users its share of the time, by
        what its work would take alone."""
        until_s = min(until_s, self._events.now_s, held.ends_s)
        since_s, held.metered_s = held.metered_s, max(held.metered_s, until_s)
        busy_s = held.room.worked_s(since_s, held.metered_s)
        began, ended = self._events.instant(since_s), self._events.instant(held.metered_s)
        return Meter(began, ended, busy_s, busy_s * held.power_w, SOURCE)

    def _wasted(self, replica: Replica, meter: Meter | None) -> None:
        """What it took is nobody's."""
        if meter is not None and meter.busy_s > 0:
            replica.unsaid.append(_part("waste", meter.started_at, meter.busy_s, meter.energy_j))

    def _meter(self, since_s: float, seconds: float, energy_j: float, startup_s: float = 0.0) -> Meter:
        began, ended = self._events.instant(since_s), self._events.instant(since_s + seconds)
        return Meter(began, ended, seconds, energy_j, SOURCE, startup_s=startup_s)

    def _finished(self, replica: Replica, turn: int) -> None:
        if replica.turn != turn or (held := replica.held) is None or self._later(replica, self._finished, turn):
            return
        self._record(replica, held, whole=True)
        self._end(replica, held)
        self._next(replica)

    def _end(self, replica: Replica, held: Held) -> None:
        """All of its lines are recorded."""
        if not held.lost:
            self._desk.finish(held.lease.chunk_id, Finish(held.lease.token))
            self._told("finished", replica, held, 0)

    def _failed(self, replica: Replica, turn: int) -> None:
        """Its engine dies under a chunk, and is away until it is repaired."""
        if replica.turn != turn or (held := replica.held) is None or self._later(replica, self._failed, turn):
            return
        self._record(replica, held)
        if not held.lost:
            message = Fail(held.lease.token, "The engine died (simulated).", [], self._worked(held))
            try:
                self._desk.fail(held.lease.chunk_id, message)
            except StaleLease:
                self._wasted(replica, message.meter)
            else:
                self._told("failed", replica, held, 0)
        replica.failures += 1
        replica.left_s = self._truth.fails_in_s(replica.name, replica.failures)
        replica.goes_down()
        self._events.at(self._events.now_s + self._conditions.repair_s, partial(self._repaired, replica, replica.turn))
        self._ask_soon(held.arrival)  # the rest of the chunk is free

    def _repaired(self, replica: Replica, turn: int) -> None:
        if replica.turn == turn and not self._later(replica, self._repaired, turn):
            self._works_again(replica)

    def _works_again(self, replica: Replica) -> None:
        """With the engine that others keep, where they do."""
        replica.model = self._truth.stands(replica.pool) or None
        self._next(replica)

    # -- heartbeats --

    def beat(self, lease_s: float) -> None:
        """Who works, who has something to say of its meter, and whom the server has not heard of for long, gives a sign of life;
        and lets go of what it is told to, with the line in hand."""
        for replica in self.replicas:
            if replica.state == "idle" and replica.model is not None:
                self._idled(replica)
            silent = self._events.now_s - replica.seen_s > lease_s / 3
            if (replica.held is not None or replica.unsaid or silent) and replica.worker_id and not self._is_cut(replica):
                self._beat(replica)

    def watch(self, until_s: float) -> None:
        """Of each quarter of an hour that ends by then the workers of spare pools will tell what was left."""
        quarter = int(self._events.now_s // QUARTER_S) + 1
        while self._spare and quarter * QUARTER_S <= until_s:
            self._events.at(quarter * QUARTER_S - LATE_S, partial(self._saw, (quarter - 1) * QUARTER_S))
            quarter += 1

    def _saw(self, since_s: float) -> None:
        seconds = self._events.now_s - since_s
        for name, tokens_per_s in self._spare.items():
            left = self._truth.room(name).mean(since_s, self._events.now_s)
            for replica in self._of_pool[name]:
                if replica.worker_id and replica.state != "down" and not self._is_cut(replica):
                    if replica.held is not None:
                        self._record(replica, replica.held)
                    self._beat(replica, SpareSeen(replica.name, seconds, left * tokens_per_s))

    def _beat(self, replica: Replica, seen: SpareSeen | None = None) -> None:
        held = replica.held
        leases = [HeldLease(held.lease.chunk_id, held.lease.token)] if held else []
        replica.seen_s = self._events.now_s
        answer = self._desk.heartbeat(replica.worker_id, Heartbeat(leases, self._spent(replica), spare=seen))
        if held is None:
            return
        if answer.stale:
            self._wasted(replica, self._worked(held))
            held.lost = True
            self._next(replica)
        elif (reason := answer.stop.get(held.lease.chunk_id)) and not held.stopping and held.todo:
            held.stopping = True
            line_ends_s = held.began_s + (held.done + held.due(self._events.now_s) + 1) * held.line_s
            if held.room is not ALONE:  # beside other users everything leaves at once, and what is half done is lost
                line_ends_s = self._events.now_s
            replica.left_s += held.ends_s - line_ends_s
            replica.turn += 1
            self._events.at(line_ends_s, partial(self._released, replica, replica.turn, reason))

    def _released(self, replica: Replica, turn: int, reason: ReleaseReason) -> None:
        if replica.turn != turn or (held := replica.held) is None or self._later(replica, self._released, turn, reason):
            return
        self._give_back(replica, held, reason)
        self._next(replica)
        self._ask_soon(held.arrival)  # the rest of the chunk is free

    def _give_back(self, replica: Replica, held: Held, reason: ReleaseReason) -> None:
        """What it has done of a chunk is recorded, and the rest is free again."""
        self._record(replica, held)
        if not held.todo:
            self._end(replica, held)
            return
        meter = self._worked(held) if held.metered_s < self._events.now_s else None
        try:
            self._desk.release(held.lease.chunk_id, Release(held.lease.token, reason, meter))
        except StaleLease:
            self._wasted(replica, meter)
        else:
            self._told("released", replica, held, 0)

    def _idled(self, replica: Replica) -> None:
        """What its engine drew without work until now is to be told."""
        since_s, replica.idle_s = replica.idle_s, self._events.now_s
        seconds = self._events.now_s - since_s
        if replica.model is not None and replica.state == "idle" and seconds > 0 and not self._truth.stands(replica.pool):
            energy_j = seconds * self._truth.idle_w(replica.model, replica.pool)
            replica.unsaid.append(_part("idle", self._events.instant(since_s), seconds, energy_j))

    def _spent(self, replica: Replica) -> Spent | None:
        if not replica.unsaid:
            return None
        parts, replica.unsaid = replica.unsaid, []
        replica.said += 1
        return Spent(replica.said, parts)

    # -- pools that go away --

    def _away(self, pool: str, _until_s: float) -> None:
        """All of its workers stop, and what they hold goes back."""
        for replica in self._of_pool[pool]:
            if replica.held is not None:
                self._give_back(replica, replica.held, "shutdown")
            self._idled(replica)
            self._started_in_vain(replica)
            spent = self._spent(replica)
            self._desk.bye(replica.worker_id, Bye([spent] if spent else []))
            replica.goes_down()
            replica.worker_id = ""
        self.ask_all()

    def _back(self, pool: str) -> None:
        for replica in self._of_pool[pool]:
            replica.worker_id, replica.said = self._register(replica.name, pool), 0
            self._works_again(replica)

    def _cut(self, pool: str, until_s: float) -> None:
        """Nothing is heard of its workers until then; what they hold they go on with."""
        for replica in self._of_pool[pool]:
            replica.cut_s = until_s

    def _is_cut(self, replica: Replica) -> bool:
        return self._events.now_s < replica.cut_s

    def _later(self, replica: Replica, act: Callable[..., None], *about: object) -> bool:
        """Must it wait with this, since nobody would hear of it now? Then it is done once it is heard again."""
        if self._is_cut(replica):
            self._events.at(replica.cut_s, partial(act, replica, *about))
            return True
        return False


def _part(kind: SpentKind, started_at: datetime, seconds: float, energy_j: float) -> SpentPart:
    return SpentPart(kind, "", started_at, seconds, energy_j, SOURCE)

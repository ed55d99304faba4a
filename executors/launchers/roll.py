"""Which replicas of a pool to start and which to let go: a pure choice, made anew at each look.

A changed launch is tried on one replica at a time, and the next one is changed only when those before it have finished a chunk
with an answer in it, or have been there for the whole probation with nothing to do. See `judge` for when it is taken back.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import msgspec

from batchsched.executors.launchers.names import Name
from batchsched.wire import LaunchedWorker

DEATHS = 2
"""So often may replicas of a changed launch die before it is taken back: the first time may be chance."""
_FAILURES = 2


class Seen(msgspec.Struct, frozen=True):
    """A replica that has not ended."""

    name: Name
    stopping: bool
    for_s: float
    """How long we have seen it."""
    worker: LaunchedWorker | None = None
    """As the server knows it; None: it has not presented itself, or fell silent."""
    worked_s: float = 0.0
    """Of these with a chunk in its hands."""
    silent_s: float = 0.0
    """How long the server has not heard of it."""

    @property
    def proven(self) -> bool:
        """It has finished a chunk with an answer in it."""
        return self.worker is not None and self.worker.finished > 0


class Scene(NamedTuple):
    """A pool as it stands. `good`, `target`: digests of the launch that works, and of the one that is asked for."""

    seen: Sequence[Seen]
    want: int
    places: int
    good: str
    target: str
    keep: Collection[str] = ()
    """Models whose engines should stay ready."""
    deaths: Sequence[int] = ()
    """Places in which replicas of the target died since it was asked for, once for each death."""
    broken: Collection[int] = ()
    """Places in which what is known to work dies too: how the target does there says nothing about it."""
    probation_s: float = 900.0
    paused: Collection[int] = ()
    """Places to be left empty for now: replicas died there."""
    may_shrink: bool = True
    """There were too many for long enough to let those go that have nothing in their hands,"""
    may_drain: bool = False
    """or even those that have: each takes what the others would have had."""

    @property
    def alive(self) -> list[Seen]:
        """Those that were not told to end."""
        return [one for one in self.seen if not one.stopping]


class Moves(NamedTuple):
    """What to do: `starts` are places with digests."""

    starts: list[tuple[int, str]]
    stops: list[Name]


class Judgement(NamedTuple):
    """Of a launch on trial. `over`: it is the good one from now on; `refused`: why it is to be taken back; `place`: where all
    that spoke against it happened, if that was in one place."""

    over: bool = False
    refused: str = ""
    tested: bool = True
    place: int | None = None


def judge(scene: Scene) -> Judgement:
    """Is the trial over, and how?"""
    new = [one for one in scene.alive if one.name.digest == scene.target]
    for one in new:
        if one.name.place not in scene.broken and (why := _bad(one, scene.probation_s)):
            return Judgement(refused=f"replica {one.name} {why}", place=one.name.place)
    if len(scene.deaths) >= DEATHS:
        place = scene.deaths[0] if len(set(scene.deaths)) == 1 else None
        return Judgement(refused=f"its replicas died {len(scene.deaths)} times", place=place)
    all_new = len(new) == len(scene.seen) >= max(1, min(scene.want, scene.places))
    done = all_new and all(_settled(one, scene.probation_s) for one in new)
    return Judgement(over=done, tested=all(one.proven for one in new))


def _bad(one: Seen, probation_s: float) -> str:
    if one.proven:
        return ""
    if one.silent_s > probation_s:
        return _silence(one)
    if one.worker is None:
        return ""
    if one.worker.failed >= _FAILURES:
        return f"saw its engine fail under {one.worker.failed} chunks and finished none"
    return f"finished no chunk with an answer in it in {probation_s:.0f} s of work" if one.worked_s > probation_s else ""


def spent(one: Seen, scene: Scene) -> str:
    """Why it is to be ended and counts as dead; empty where it is not. The server does not hear of it; or it is on trial in a
    broken place and does badly, which is no judgement."""
    if one.silent_s > scene.probation_s:
        return _silence(one)
    on_trial = one.name.digest == scene.target != scene.good
    return _bad(one, scene.probation_s) if on_trial and one.name.place in scene.broken else ""


def _silence(one: Seen) -> str:
    return f"{'fell silent' if one.worker else 'did not present itself to the server'} for {one.silent_s:.0f} s"


def _settled(one: Seen, probation_s: float) -> bool:
    idle_s = one.for_s - one.worked_s
    return one.proven or (one.worker is not None and not one.worker.failed and idle_s > probation_s)


def moves(scene: Scene) -> Moves:
    """What to do now: fill what is lacking, let go what is too much, else change the next one."""
    lacking = scene.want - len(scene.alive)
    if lacking > 0:
        return Moves(_starts(scene, lacking), [])
    if lacking < 0:
        drain = (
            scene.may_drain and scene.want > 0
        )  # a pool that closes takes back what they hold; a cordoned one lets them end it
        able = [one for one in scene.alive if drain or not (one.worker and one.worker.leases)]
        ranked = sorted(able, key=lambda one: _worth(one, scene))
        return Moves([], [one.name for one in ranked[:-lacking]] if scene.may_shrink else [])
    return Moves([], _next_change(scene))


def _starts(scene: Scene, lacking: int) -> list[tuple[int, str]]:
    """In places that nobody holds; of a launch on trial one at a time."""
    held = {one.name.place for one in scene.seen}.union(scene.paused)
    free = [place for place in range(scene.places) if place not in held]
    trying = scene.target != scene.good
    unsettled = any(one.name.digest == scene.target and not _settled(one, scene.probation_s) for one in scene.seen)
    chosen: list[tuple[int, str]] = []
    for place in free[:lacking]:
        on_trial = trying and not unsettled
        chosen.append((place, scene.target if on_trial or not trying else scene.good))
        unsettled = unsettled or on_trial
    return chosen


def _next_change(scene: Scene) -> list[Name]:
    """The next replica to be let go so that another takes its place, once all that were changed do well."""
    old = [one for one in scene.alive if one.name.digest != scene.target]
    new = [one for one in scene.alive if one.name.digest == scene.target]
    ready = all(one.worker is not None if scene.target == scene.good else _settled(one, scene.probation_s) for one in new)
    if not old or not ready or len(scene.alive) < len(scene.seen):
        return []
    return [min(old, key=lambda one: _worth(one, scene)).name]


def _worth(one: Seen, scene: Scene) -> tuple[bool, bool, bool, int]:
    """The least worth goes first: nothing in its hands, none of the wanted engines ready, not of the target, the newest."""
    busy = one.worker is not None and one.worker.leases > 0
    ready = one.worker is not None and not set(one.worker.ready_models).isdisjoint(scene.keep)
    return busy, ready, one.name.digest == scene.target, -one.name.number

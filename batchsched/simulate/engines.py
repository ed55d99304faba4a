"""Engines on a virtual clock: a replica at a time, which starts with one model, works, stands ready, and is stopped when idle."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

_EPS = 1e-6


class Engine(msgspec.Struct):
    """One replica. `left_s`: of the present piece of time, counted in work; `share`: of its server, as it is left by others;
    `starting_s`: what its start still takes; `stood_s`: for how long it stood ready at the end of the piece before; `kept`:
    because the plan has it so."""

    model: str | None = None
    starting_s: float = 0.0
    left_s: float = 0.0
    share: float = 1.0
    stood_s: float = 0.0
    used: bool = False
    kept: bool = False


class Served(msgspec.Struct):
    """What a pool did: replica-seconds of work and of starting, on how many engines, how many of them started, and when the last
    one was done, in seconds from the beginning of the piece."""

    work_s: float = 0.0
    starting_s: float = 0.0
    engines: int = 0
    starts: int = 0
    until_s: float = 0.0


class Engines:
    """All replicas. Time passes in pieces: `begin`, any number of `serve`, `end`."""

    def __init__(self, replicas: Mapping[str, int]) -> None:
        self._pools = {name: [Engine() for _ in range(count)] for name, count in replicas.items()}
        self._piece_s = 0.0

    def loaded(self, pool: str) -> list[str]:
        """The model of each engine that is ready."""
        return [one.model for one in self._pools[pool] if one.model is not None and one.starting_s <= _EPS]

    def begin(self, seconds: float, shares: Mapping[str, float] = {}) -> None:
        """A piece of time begins. `shares`: of the servers of a pool what is ours, where it is not all."""
        self._piece_s = seconds
        for pool, engines in self._pools.items():
            for one in engines:
                one.share, one.used = shares.get(pool, 1.0), False
                one.left_s = seconds * one.share

    def gone(self, pool: str) -> None:
        """All of its engines are."""
        self._pools[pool] = [Engine() for _ in self._pools[pool]]

    def serve(self, pool: str, model: str, seconds: float, startup_s: float, width: int) -> Served:
        """Up to so many replica-seconds of work, on at most `width` engines: first on those that have the model, then on empty
        ones, then in place of another model that is not in use; later on one whose time left is short of it by more than a start
        takes."""
        done = Served()
        each = min(seconds / max(1, width), self._piece_s)

        def lost_s(one: Engine) -> float:
            starting = 0.0 if one.model == model else startup_s
            return starting + max(0.0, each - (one.left_s - starting))

        able = [one for one in self._pools[pool] if one.left_s > _EPS and (one.model == model or not one.used)]
        able.sort(key=lambda one: (round(lost_s(one)), one.model != model, not one.used, one.model is not None))
        for one in able[: max(0, width)]:
            if seconds - done.work_s <= _EPS:
                break
            if one.model != model:
                one.model, one.starting_s, one.stood_s = model, startup_s, 0.0
                done.starts += 1
            one.used = True
            done.engines += 1
            starting = min(one.left_s, one.starting_s)
            one.starting_s -= starting
            work = min(one.left_s - starting, seconds - done.work_s)
            one.left_s -= starting + work
            done.starting_s += starting
            done.work_s += work
            done.until_s = max(done.until_s, self._piece_s - one.left_s / one.share)
        return done

    def room_s(self, pool: str) -> float:
        """Replica-seconds of the piece that nobody has taken."""
        return math.fsum(one.left_s for one in self._pools[pool])

    def end(self, keep: Mapping[tuple[str, str], int] | None = None) -> dict[tuple[str, str], float]:
        """The piece is over: for how long engines stood ready in the piece before, by pool and model. What has no work in the
        next piece was stopped after its last, unless it is among those that the plan keeps (`keep`: how many)."""
        idle: dict[tuple[str, str], float] = {}
        left = dict(keep or {})
        for pool, engines in self._pools.items():
            for one in engines:
                of = (pool, one.model or "")
                stays = not one.used and one.model is not None and left.get(of, 0) > 0
                if stays:
                    left[of] -= 1
                if one.model is not None and one.stood_s > _EPS and (one.used or stays or one.kept):
                    idle[of] = idle.get(of, 0.0) + one.stood_s
                if not (one.used or stays):
                    one.model, one.starting_s = None, 0.0
                one.stood_s, one.kept = (one.left_s if one.used or stays else 0.0), stays
        return idle

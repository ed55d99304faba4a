"""Servers that others use too, for the planner alone: what it has learnt of them by an instant, and what then is really left."""

from __future__ import annotations

from datetime import datetime

from batchsched.simulate.online import Learnt, alone_tokens_per_s
from batchsched.simulate.scene import Scene
from batchsched.spare import USUAL_MIX, Share, shares


class Servers:
    """Of the spare pools of a scene."""

    def __init__(self, scene: Scene, start: datetime) -> None:
        self._scene = scene
        alone = {name: self._alone_tokens_per_s(name) for name in scene.rooms}
        self._learnt = Learnt(start, scene.rooms, alone)

    def known(self, now_s: float) -> dict[str, Share]:
        """What is expected of each pool. Ask in order of time."""
        return shares(self._scene.fleet, self._learnt.until(now_s), self._scene.profiles)

    def left(self, from_s: float, to_s: float) -> dict[str, float]:
        """The share of each pool's servers that is left over a stretch of time."""
        return {name: room.mean(from_s, to_s) for name, room in self._scene.rooms.items()}

    def _alone_tokens_per_s(self, pool: str) -> float:
        model = next(model for model in self._scene.fleet.models if (model, pool) in self._scene.profiles)
        return alone_tokens_per_s(self._scene.profiles[model, pool], *USUAL_MIX)

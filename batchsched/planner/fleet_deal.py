"""From classes to batches: in every slot the released batch that is due first is served first."""

from __future__ import annotations

import heapq

import numpy as np

from batchsched.planner.fleet_model import FleetModel, Floats, Ints

_NOTHING = 1e-6
"""Share of the class's mean batch that is rounding."""


def deal(model: FleetModel, run: Floats) -> tuple[Ints, Floats, Floats]:
    """[N, 3] batch, arc and slot of each allotment, its replica-seconds [N], and the work of each batch that is late [B]."""
    left = model.work.copy()
    out: list[tuple[int, int, int]] = []
    seconds: list[float] = []
    for c in range(model.classes):
        mine = np.flatnonzero(model.batch_class == c)
        if not mine.size:
            continue
        arcs = np.flatnonzero(model.arc_class == c)
        dust = _NOTHING * float(model.work[mine].mean())
        comes = mine[np.argsort(model.release[mine], kind="stable")].tolist()[::-1]
        waiting: list[tuple[int, int]] = []
        for t in range(model.slots):
            while comes and model.release[comes[-1]] <= t:
                b = comes.pop()
                heapq.heappush(waiting, (int(model.due[b]), b))
            for a in arcs[run[arcs, t] > 0].tolist():
                room, rate = float(run[a, t]), float(model.rate[a])
                while room > 0 and waiting:
                    due, b = waiting[0]
                    taken = min(room, left[b] / rate) if due > t else 0.0
                    if taken > 0:
                        out.append((b, a, t))
                        seconds.append(taken)
                    room -= taken
                    left[b] -= taken * rate
                    if due > t and left[b] > dust:
                        break
                    heapq.heappop(waiting)
        left[mine[left[mine] <= dust]] = 0.0
    return np.array(out, np.int64).reshape(-1, 3), np.array(seconds), np.maximum(0.0, left)

"""From an answer or an older plan to a state that keeps all rules: what fits is taken over, the rest is placed anew."""

from __future__ import annotations

from batchsched.planner.compiled import lean
from batchsched.planner.fleet_model import Floats, Ints
from batchsched.planner.search_insert import Taste, insert, trim
from batchsched.planner.search_state import Fleet, State, has_room, hold, idle_s, keep, open_s, place, ready, start


@lean
def adopt(m: Fleet, s: State, starts: Ints, held: Ints) -> None:
    """Begin and keep these replicas where there are GPUs for it, slot by slot."""
    for t in range(m.slot_s.size):
        for k in range(m.loaded.size):
            for _ in range(min(held[k, t - 1] if t > 0 else 0, ready(m, s, k, t - 1) if t > 0 else 0)):
                if has_room(m, s, k, t - 1):
                    hold(m, s, k, t - 1, 1)
        for k in range(m.loaded.size):
            asked = starts[k, t] + ((held[k, t - 1] - s.held[k, t - 1]) if t > 0 else 0)
            for _ in range(asked):
                if not _begins(m, s, k, t):
                    break
                start(m, s, k, t, 1)


@lean
def _begins(m: Fleet, s: State, k: int, t: int) -> bool:
    """Whether a start that is over within its slot has GPUs for it."""
    return m.fresh_from[k, t] == t and open_s(m, s, k, t) >= m.band[k, t, 0]


@lean
def put(m: Fleet, s: State, rows: Ints, seconds: Floats) -> None:
    """Place work on arcs and slots (rows of batch, arc, slot), as far as replicas idle there."""
    for i in range(rows.shape[0]):
        b, a, t = rows[i]
        k = m.arc_config[a]
        spent = min(seconds[i], idle_s(m, s, k, t), open_s(m, s, k, t), s.left[b] / m.rate[a])
        if spent > 1e-6 * m.slot_s[t]:
            place(m, s, b, a, t, spent)


@lean
def fill(m: Fleet, s: State, order: Ints) -> None:
    """Place all that is late, in this order, then let go what idles."""
    taste = Taste(4.0, 0.7, 1.0, 0.0)
    for b in order:
        if s.left[b] > 0:
            insert(m, s, b, taste)
    for k in range(m.loaded.size):
        trim(m, s, k)
    keep(m, s)

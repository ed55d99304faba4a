"""From an answer or an older plan to a state that keeps all rules: what fits is taken over, the rest is placed anew."""

from __future__ import annotations

from batchsched.planner.compiled import lean, lean_inner
from batchsched.planner.fleet_model import Floats, Ints
from batchsched.planner.search_insert import Taste, insert
from batchsched.planner.search_state import State
from batchsched.planner.search_steps import has_room, hold, idle_s, keep, open_s, place, ready, start
from batchsched.planner.search_trim import trim


@lean
def adopt(s: State, starts: Ints, held: Ints) -> None:
    """Begin and keep these replicas where there are GPUs for it, slot by slot."""
    for t in range(s.slot_s.size):
        for k in range(s.config.size):
            for _ in range(min(held[k, t - 1] if t > 0 else 0, ready(s, k, t - 1) if t > 0 else 0)):
                if has_room(s, k, t - 1):
                    hold(s, k, t - 1, 1)
        for k in range(s.config.size):
            asked = starts[k, t] + ((held[k, t - 1] - s.cell[k, t - 1].held) if t > 0 else 0)
            for _ in range(asked):
                if not _begins(s, k, t):
                    break
                start(s, k, t, 1)


@lean_inner
def _begins(s: State, k: int, t: int) -> bool:
    """Whether a start that is over within its slot has GPUs for it."""
    return bool(s.term[k, t].fresh_from == t and open_s(s, k, t) >= s.band[k, t, 0])


@lean
def put(s: State, rows: Ints, seconds: Floats) -> None:
    """Place work on arcs and slots (rows of batch, arc, slot), as far as replicas idle there."""
    for i in range(rows.shape[0]):
        b, a, t = rows[i]
        k = s.arc[a].config
        spent = min(seconds[i], idle_s(s, k, t), open_s(s, k, t), s.batch[b].left / s.arc[a].rate)
        if spent > 1e-6 * s.slot_s[t]:
            place(s, b, a, t, spent)


@lean
def fill(s: State, order: Ints) -> None:
    """Place all that is late, in this order, then let go what idles."""
    taste = Taste(4.0, 0.7, 1.0, 0.0)
    for b in order:
        if s.batch[b].left > 0:
            insert(s, b, taste)
    for k in range(s.config.size):
        trim(s, k, 0, s.slot_s.size)
    keep(s)

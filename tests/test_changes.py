"""What changed since a plan: what cannot wait for a solver, and what is worth little of its work."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from batchsched.changes import cannot_wait, little
from batchsched.observe import View
from batchsched.planner import Job, Problem, make_plan
from batchsched.published import Published
from batchsched.queue.overrides import Override, Overrides
from tests.planner_cases import job, pool, slots

NOW = datetime(2026, 5, 1, tzinfo=UTC)
LATER = NOW + timedelta(seconds=60)
JOBS = [job(f"b{n}", 60.0, 7200.0) for n in range(100)]
OLD = Problem(slots(8), [pool("a", [100.0, 100.0, 300.0, 300.0] * 2, 20), pool("b", [None] * 8)], JOBS)
BEFORE = Published(NOW, OLD, make_plan(OLD, "greedy"), {}, connected=["a"])


def view(change: Any = None, connected: str = "a", **more: Any) -> View:
    """A minute later; `change`: of each job."""
    moved = [msgspec.structs.replace(one, deadline_s=one.deadline_s - 60) for one in JOBS]
    problem = msgspec.structs.replace(OLD, **{"jobs": [change(one) if change else one for one in moved], **more})
    return View(LATER, problem, [], {}, {}, {}, frozenset(connected), Overrides(), [], lambda _: JOBS[0])


def only(number: int, **fields: Any) -> Any:
    """A change of so many jobs."""
    few = {one.batch_id for one in JOBS[:number]}

    def change(one: Job) -> Job:
        return msgspec.structs.replace(one, **fields) if one.batch_id in few else one

    return change


@pytest.mark.parametrize(
    ("seen", "urgent", "few"),
    [
        (view(), False, True),
        (view(only(1, deadline_s=3600.0)), True, True),
        (view(only(1, at_once=True)), True, True),
        (view(only(1, batch_id="new")), True, True),
        (view(only(9, batch_id="new")), True, False),
        (view(only(50, remaining_requests=50, seconds_on={"a": 30.0})), False, True),
        (view(only(50, seconds_on={"a": 90.0})), False, False),
        (view(jobs=JOBS[:50]), True, False),
        (view(connected=""), True, False),
        (view(connected="ab"), False, False),
        (view(pools=[pool("a", [100.0, 100.0, 310.0, 300.0] * 2, 20), OLD.pools[1]]), False, True),
        (view(pools=[pool("a", [100.0, 100.0, 500.0, 300.0] * 2, 20), OLD.pools[1]]), False, False),
        (view(pools=[pool("a", [100.0, 100.0, 300.0, 300.0] * 2, 19), OLD.pools[1]]), False, False),
        (view(pools=[OLD.pools[0], pool("b", [100.0] * 8)]), False, False),
        (view(pools=OLD.pools[:1]), False, False),
    ],
)
def test_what_changed(seen: View, urgent: bool, few: bool) -> None:
    assert (cannot_wait(BEFORE, seen), little(BEFORE, seen)) == (urgent, few)


def test_what_operators_decide_never_waits() -> None:
    closed = msgspec.structs.replace(view(), overrides=Overrides(pools={"a": Override("drained", NOW)}))
    assert (cannot_wait(BEFORE, closed), little(BEFORE, closed)) == (True, False)
    assert cannot_wait(None, view())

"""Work is leased in chunks: what is left to the last moment leaves room for the last of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsched.planner import Problem, make_plan
from batchsched.planner.latest_start import OpenPool, latest_safe_starts
from batchsched.planner.pieces import in_pieces
from batchsched.published import Published
from tests.planner_cases import job, pool, slots

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("work_on", "pieces", "replicas", "expected"),
    [
        ({"a": 300.0}, 3, {"a": 3}, {"a": 300.0}),
        ({"a": 400.0}, 4, {"a": 3}, {"a": 600.0}),  # two rounds of 100 s on three replicas
        ({"a": 300.0, "slow": 900.0}, 3, {"a": 2, "slow": 6}, {"a": 400.0}),  # 200 s; a piece takes 300 s there
        ({"a": 300.0, "slow": 600.0}, 3, {"a": 1, "slow": 6}, {"a": 400.0, "slow": 800.0}),  # all in 200 s, not in 150
        ({"a": 300.0}, 3, {}, {"a": 300.0}),
        ({"a": 300.0}, 100_000, {"a": 3}, {"a": 300.0}),
    ],
)
def test_the_last_chunk_takes_as_long_as_any(
    work_on: dict[str, float], pieces: int, replicas: dict[str, float], expected: dict[str, float]
) -> None:
    assert in_pieces(work_on, pieces, replicas) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("largest", "expected_s"),
    [
        (0.0, 100.0),  # four pieces on four replicas, all alike
        (0.25, 100.0),
        (0.4, 160.0),  # one of them is all of one replica's work
        (0.6, 240.0),
    ],
)
def test_of_unlike_pieces_the_largest_says_how_long_it_takes(largest: float, expected_s: float) -> None:
    assert in_pieces({"a": 400.0}, 4, {"a": 4}, largest) == pytest.approx({"a": 4 * expected_s})


def test_a_job_whose_chunks_were_given_back_in_part_leaves_room_for_the_one_that_is_whole() -> None:
    left = job("x", {"a": 400.0}, 1e4, remaining_requests=20, max_replicas=4, confidence=0.5)
    pools = [OpenPool("a", 4, [(0.0, 1e4)])]
    assert latest_safe_starts([left], pools)["x"] == pytest.approx(1e4 - 100.0, abs=1.0)
    assert latest_safe_starts([msgspec.structs.replace(left, most_in_piece=10)], pools)["x"] == pytest.approx(
        1e4 - 200.0, abs=1.0
    )


def by_hand_s(work_on: dict[str, float], pieces: int, replicas: dict[str, float]) -> float:
    """When the last of them is done if each is given to the replica that has it done first."""
    free = [(0.0, work_on[name] / pieces) for name, count in replicas.items() for _ in range(int(count))]
    for _ in range(pieces):
        n = min(range(len(free)), key=lambda n: sum(free[n]))
        free[n] = (sum(free[n]), free[n][1])
    return max(at for at, _ in free)


@given(
    st.dictionaries(st.sampled_from("abc"), st.tuples(st.integers(1, 4), st.integers(10, 200)), min_size=1),
    st.integers(1, 30),
)
def test_so_many_chunks_take_as_long_as_dealt_out_by_hand(drawn: dict[str, tuple[int, int]], pieces: int) -> None:
    replicas = {name: float(count) for name, (count, _) in drawn.items()}
    work_on = {name: float(each_s * pieces) for name, (_, each_s) in drawn.items()}
    found = in_pieces(work_on, pieces, replicas)
    divided = job("x", found, 1e6, remaining_requests=pieces)  # on no more replicas than there are pieces
    starts = latest_safe_starts([divided], [OpenPool(name, replicas[name], [(0.0, 1e6)]) for name in replicas])
    assert 1e6 - starts["x"] == pytest.approx(by_hand_s(work_on, pieces, replicas), rel=1e-6)


def test_a_job_in_chunks_starts_early_enough_for_the_last_one() -> None:
    """Three chunks on two fast replicas take two rounds; a slow one would not be done with the third in that time."""
    pools = [OpenPool("a", 2, [(0.0, 1e4)]), OpenPool("slow", 6, [(0.0, 1e4)])]
    divided = job("x", {"a": 300.0, "slow": 900.0}, 1e4)
    assert latest_safe_starts([divided], pools)["x"] == pytest.approx(1e4 - 1 / (2 / 300 + 6 / 900))
    in_three = msgspec.structs.replace(divided, max_replicas=3, confidence=0.5)
    assert latest_safe_starts([in_three], pools)["x"] == pytest.approx(1e4 - 200.0, abs=1.0)


def test_a_job_starts_early_enough_for_engines_that_have_others_chunks_in_hand() -> None:
    one, other = (job(name, {"a": 300.0}, 1e4, confidence=0.5) for name in ("x", "y"))
    pools = [OpenPool("a", 3, [(0.0, 2e4)])]
    alone = msgspec.structs.replace(one, max_replicas=3)
    assert latest_safe_starts([alone], pools)["x"] == pytest.approx(1e4 - 100.0, abs=1.0)
    later = msgspec.structs.replace(other, max_replicas=1, deadline_s=2e4)  # its only chunk takes 300 s
    assert latest_safe_starts([alone, later], pools)["x"] == pytest.approx(1e4 - 100.0 - 150.0, abs=1.0)


class InForce:
    """One batch in three chunks that can wait no longer, on fast hardware (`a`: 100 s a chunk) and slow (300 s)."""

    def __init__(self, deadline_s: float, startup_s: float = 0.0, count: int = 4, **more: object) -> None:
        on = {"a": 300.0, "slow": 900.0}
        settings: dict[str, object] = {
            "max_replicas": 3,
            "startup_s_on": dict.fromkeys(on, startup_s),
            "confidence": 0.9,
            "sigma": 0.01,
        }
        work = job("x", on, deadline_s, **settings)
        problem = Problem(slots(count), [pool("a", [100.0] * count, 2), pool("slow", [100.0] * count, 6)], [work])
        values = {"latest_start_at": {"x": NOW}, "connected": ["a", "slow"], **more}
        self.published = msgspec.convert(
            {"made_at": NOW, "problem": problem, "plan": make_plan(problem, "greedy"), **values}, Published
        )

    def may(self, at_s: float = 0.0) -> list[str]:
        """Which pools may begin a chunk of it then."""
        at = NOW + timedelta(seconds=at_s)
        return [name for name in ("a", "slow") if not self.published.turns(name, at, {"x": "m"}, {}, {}, {}).over]


def test_where_a_chunk_would_end_too_late_none_begins_while_it_can_end_in_time_elsewhere() -> None:
    assert InForce(1000.0).may() == ["a", "slow"]
    work = InForce(320.0)
    assert work.may() == ["a"], "nine of ten chunks may take up to 335 s there"
    assert work.may(150.0) == ["a"]
    assert work.may(215.0) == ["a"], "as expected it ends in time there, if nowhere surely"
    assert work.may(230.0) == ["a", "slow"], "it will be late in any case"
    engines = InForce(320.0, startup_s=60.0)
    assert engines.may() == ["a", "slow"], "its latest safe start left that for engines"
    assert engines.may(15.0) == ["a", "slow"], "as expected it ends in time there"
    assert engines.may(25.0) == ["a"], "it is expected to end 5 s too late there"
    assert engines.may(230.0) == ["a", "slow"], "it will be late in any case"


def test_nothing_is_held_back_for_pools_that_are_not_there_or_where_all_is_late_anyway() -> None:
    assert InForce(200.0, connected=["slow"]).may() == ["a", "slow"]
    assert InForce(200.0, contested=["x"]).may() == ["a", "slow"]
    assert InForce(200.0, latest_start_at={"x": None}).may() == ["a", "slow"]


def test_a_plan_cuts_slots_finer_than_its_problem() -> None:
    """At the deadline here: two slots where the pools' capacity has one."""
    work = InForce(320.0, count=1)
    assert len(work.published.plan.slots) > len(work.published.problem.slots) == 1
    assert work.may(330.0) == ["a", "slow"], "it is late in any case"

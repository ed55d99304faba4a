"""Work is leased in chunks: what is left to the last moment leaves room for the last of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsched.planner import Job, Plan, Problem, make_plan
from batchsched.planner.latest_start import OpenPool, latest_safe_starts
from batchsched.planner.pieces import in_pieces
from batchsched.planner.problem import Configuration
from batchsched.published import Published
from batchsched.queue.overrides import Override, Overrides
from batchsched.timing import RELIED_ON_S
from batchsched.wanted import crew
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

    def __init__(
        self,
        deadline_s: float,
        startup_s: float = 0.0,
        count: int = 4,
        shared: tuple[float, ...] = (),
        sigma: float = 0.01,
        grams: tuple[list[float], list[float]] | None = None,
        **more: object,
    ) -> None:
        """`shared`: how much of each replica of `slow` others leave, by slot. `grams`: intensities of both, for a plan by which
        it goes; None: nothing is planned."""
        on = {"a": 300.0, "slow": 900.0}
        settings: dict[str, object] = {
            "max_replicas": 3,
            "startup_s_on": dict.fromkeys(on, startup_s),
            "confidence": 0.9,
            "sigma": sigma,
        }
        work = job("x", on, deadline_s, **settings)
        at_a, at_slow = grams or ([100.0] * count, [100.0] * count)
        slow = pool("slow", at_slow, 6)
        if shared:
            slow = msgspec.structs.replace(slow, speed=list(shared), capacity=[6 * part for part in shared])
        problem = Problem(slots(count), [pool("a", at_a, 2), slow], [work])
        plan = make_plan(problem, "greedy")
        values = {"latest_start_at": {"x": NOW}, "connected": ["a", "slow"], **more}
        values["plan"] = plan if grams else Plan(plan.slots, [])
        self.published = msgspec.convert({"made_at": NOW, "problem": problem, **values}, Published)

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


def test_a_chunk_takes_longer_where_others_have_a_part_of_each_server() -> None:
    hour_s = slots(4)[0].length_s
    assert InForce(1000.0, shared=(1.0,) * 4).may() == ["a", "slow"]
    assert InForce(1000.0, shared=(0.25,) * 4).may() == ["a"], "300 s of work take 1,200 there"
    assert InForce(1000.0, shared=(0.25,) * 4, connected=["slow"]).may() == ["a", "slow"], "better late than never"
    night = InForce(hour_s + 1000.0, shared=(0.0, 1.0, 1.0, 1.0))
    assert night.may() == ["a", "slow"], "nothing is left in this hour, all in the next"


@pytest.mark.parametrize("deadline_s", [200.0, 299.0, 310.0, 400.0, 449.0, 500.0, 2000.0])
def test_a_shared_pool_alone_begins_whatever_is_left(deadline_s: float) -> None:
    """300 s a chunk: from 450 s on it would be in time with room to spare, below 300 s too late."""
    assert "slow" in InForce(deadline_s, shared=(1.0,) * 4, connected=["slow"]).may()


@given(
    st.floats(50.0, 2500.0),
    st.sampled_from([0.0, 60.0, 120.0]),
    st.sampled_from([0.1, 0.25, 0.5, 1.0]),
    st.sampled_from([0.01, 0.3, 0.8]),
    st.sampled_from([("a",), ("slow",), ("a", "slow")]),
)
def test_somebody_who_is_there_may_always_begin(
    deadline_s: float, startup_s: float, left: float, sigma: float, there: tuple[str, ...]
) -> None:
    """Pools do not refuse a chunk for each other's sake."""
    for grams in (None, ([100.0] * 4, [100.0] * 4)):  # without a plan, and with one that has no reason to wait
        work = InForce(deadline_s, startup_s, shared=(left,) * 4, connected=list(there), sigma=sigma, grams=grams)
        assert set(work.may()) & set(there)


def test_others_leave_a_part_by_the_hour() -> None:
    """Half of a replica in the first slot, nothing in the second, a tenth from then on."""
    state, hours = msgspec.structs.replace(pool("a", [1.0] * 3), speed=[0.5, 0.0, 0.1]), slots(3)
    hour_s = hours[0].length_s
    assert state.takes_s(hours, 0.0, 10.0) == pytest.approx(20.0)
    assert state.takes_s(hours, hour_s - 10.0, 5.0 + 1.0) == pytest.approx(10.0 + hour_s + 10.0)
    assert state.takes_s(hours, 2.5 * hour_s, hour_s) == pytest.approx(10 * hour_s)
    assert state.takes_s(hours, 0.0, 0.0) == 0.0
    assert pool("a", [1.0] * 3).takes_s(hours, 7.0, 10.0) == 10.0


def test_what_is_in_hand_there_is_let_go_of_where_it_would_end_too_late_and_in_time_elsewhere() -> None:
    """100 requests in three chunks: each request takes 9 s of a whole replica of `slow`, 36 s of a quarter."""
    quarters = (0.25,) * 4
    work = InForce(1000.0, shared=quarters).published
    assert [n for n in range(25, 31) if work.belated("x", "slow", n, NOW)] == [28, 29, 30]
    assert not work.belated("x", "a", 30, NOW), "nobody else uses it"
    assert not InForce(1000.0, shared=quarters, connected=["slow"]).published.belated("x", "slow", 30, NOW), (
        "nobody else is there"
    )
    assert not InForce(90.0, shared=quarters).published.belated("x", "slow", 30, NOW), "it would be late elsewhere too"
    assert work.belated("x", "slow", 14, NOW, chunks=2), "its worker has another in hand"
    started = InForce(400.0, startup_s=120.0, shared=(1.0,) * 4, connected=["slow"]).published
    assert not started.belated("x", "slow", 33, NOW), "297 s of 400: it is in time where it is"
    assert InForce(250.0, startup_s=120.0, shared=(1.0,) * 4).published.belated("x", "slow", 33, NOW), (
        "99 s elsewhere, and a start"
    )
    assert not InForce(200.0, startup_s=120.0, shared=(1.0,) * 4).published.belated("x", "slow", 33, NOW), "no time for a start"
    assert not work.belated("y", "slow", 30, NOW), "nothing is known of it"


def test_a_start_is_early_enough_for_chunks_on_servers_that_others_use_too() -> None:
    """Three chunks of 100 s on four servers of which half is left, which is as much as two whole ones: all end after 200 s."""
    in_three = job("x", {"a": 300.0}, 1e4, remaining_requests=3, max_replicas=3, confidence=0.5)
    layers = [OpenPool("a", 2, [(0.0, 1e4)], speed=0.5), OpenPool("a", 2, [], speed=0.5)]
    assert latest_safe_starts([in_three], layers)["x"] == pytest.approx(1e4 - 200.0, abs=1.0)


def test_nothing_is_held_back_for_pools_that_are_not_there_or_where_all_is_late_anyway() -> None:
    assert InForce(200.0, connected=["slow"]).may() == ["a", "slow"]
    assert InForce(200.0, contested=["x"]).may() == ["a", "slow"]
    assert InForce(200.0, latest_start_at={"x": None}).may() == ["a", "slow"]


def chosen(deadline_s: float) -> Job:
    """One that may be served in two ways on the same pool."""
    ways = {name: Configuration(f"m-{name}", {"a": 1.0}) for name in ("thrifty", "fast")}
    both = {"thrifty": 60.0, "fast": 30.0}
    watts = {"thrifty": 100.0, "fast": 1000.0}
    made = job("x", both, deadline_s, confidence=0.9, sigma=0.01, max_replicas=6, configurations=ways)
    return msgspec.structs.replace(made, power_w_on=watts)


SLOT_S = slots(1)[0].length_s
CLEAN_SOON = ([100.0, 10.0, 100.0, 100.0], [1000.0] * 4)


def test_what_can_wait_no_longer_is_left_to_a_plan_that_has_it_in_time() -> None:
    """Three chunks one after the other take 336 s on `a`, with the asked confidence."""
    now = InForce(SLOT_S, grams=([10.0] * 4, [100.0] * 4))
    assert now.may() == ["a"], "the plan has all of it there now"
    assert now.may(SLOT_S - 350.0) == ["a"]
    at = [NOW + timedelta(seconds=SLOT_S - s) for s in (350.0, 330.0)]
    assert [now.published.left_to_plan("x", "slow", one) for one in at] == [True, False], "there is time for three no longer"
    soon = InForce(2 * SLOT_S, grams=CLEAN_SOON)
    assert {a.start_s for a in soon.published.plan.of("x")} == {SLOT_S}
    assert soon.may() == soon.may(SLOT_S - 1.0) == [], "the plan has it in the next slot"
    assert soon.may(RELIED_ON_S + 1.0) == ["a", "slow"], "nobody plans any more"


@pytest.mark.parametrize(
    "more",
    [
        {"connected": ["slow"]},
        {"engineless": {"a": "its engine does not start"}},
        {"contested": ["x"]},
        {"latest_start_at": {"x": None}},
        {"startup_s": SLOT_S - 300.0},
    ],
    ids=["nobody is there", "no engine", "late with others", "late in any case", "no time for an engine"],
)
def test_it_is_not_left_to_a_plan_that_will_not_have_it_in_time(more: dict[str, Any]) -> None:
    assert InForce(2 * SLOT_S, grams=CLEAN_SOON, **more).may() == ["a", "slow"]


@pytest.mark.parametrize("due_s", [{}, {"x": SLOT_S + 10.0}], ids=["there is no time for it", "there is, but it is not left"])
def test_nor_to_one_that_has_it_by_the_deadline_but_not_what_may_come_on_top(due_s: dict[str, float]) -> None:
    work = InForce(2 * SLOT_S, grams=CLEAN_SOON).published
    assert work.waits("x", NOW)
    late = msgspec.structs.replace(work, plan=msgspec.structs.replace(work.plan, due_s=due_s))
    assert not late.waits("x", NOW)


def test_nor_where_its_deadline_lies_beyond_what_is_planned() -> None:
    """Due times leave room for nothing there."""
    work = InForce(2 * SLOT_S, grams=CLEAN_SOON).published
    (job_,) = work.problem.jobs
    far = msgspec.structs.replace(job_, deadline_s=work.problem.end_s + 1.0)
    assert not msgspec.structs.replace(work, problem=msgspec.structs.replace(work.problem, jobs=[far])).waits("x", NOW)


def test_what_is_left_to_the_plan_is_served_as_it_has_it() -> None:
    """In the planned configuration, not in the fastest one."""
    problem = Problem(slots(4), [pool("a", [10.0] * 4)], [chosen(2 * SLOT_S)])
    plan = make_plan(problem, "greedy")
    work = Published(NOW, problem, plan, {"x": NOW}, connected=["a"])
    assert {a.key for a in plan.of("x")} == {"thrifty"}
    soon, late = (NOW + timedelta(seconds=s) for s in (1.0, 2 * SLOT_S - 10.0))
    assert (work.waits("x", soon), work.waits("x", late)) == (True, False)
    assert (work.key("x", "a", soon), work.key("x", "a", late)) == ("thrifty", "fast")


def test_a_crumb_is_no_place_to_wait_for() -> None:
    work = InForce(2 * SLOT_S, grams=CLEAN_SOON).published
    (all_,) = work.plan.allotments
    most = msgspec.structs.replace(all_, requests=99.8, start_s=0.0, end_s=SLOT_S, slot_index=0)
    crumb = msgspec.structs.replace(all_, requests=0.2, seconds=1.0)
    cut = msgspec.structs.replace(work, plan=msgspec.structs.replace(work.plan, allotments=[most, crumb]))
    then = [NOW + timedelta(seconds=s) for s in (SLOT_S - 1.0, SLOT_S + 1.0)]
    assert [cut.waits("x", at) for at in then] == [True, False]


def test_a_plan_that_has_but_a_part_of_it_is_not_waited_for() -> None:
    work = InForce(2 * SLOT_S, grams=CLEAN_SOON).published
    part = [msgspec.structs.replace(a, requests=0.9 * a.requests) for a in work.plan.allotments]
    less = msgspec.structs.replace(work, plan=msgspec.structs.replace(work.plan, allotments=part))
    assert less.left_to_plan("x", "a", NOW) is less.left_to_plan("x", "slow", NOW) is False
    assert work.left_to_plan("x", "a", NOW) is work.left_to_plan("x", "slow", NOW) is True


def test_what_was_told_to_start_or_may_not_be_shifted_is_left_to_nobody() -> None:
    work = InForce(2 * SLOT_S, grams=CLEAN_SOON).published
    (job_,) = work.problem.jobs
    told = msgspec.structs.replace(work.problem, jobs=[msgspec.structs.replace(job_, at_once=True)])
    assert not msgspec.structs.replace(work, problem=told).left_to_plan("x", "slow", NOW)
    frozen = Overrides(frozen=Override("frozen", NOW))
    assert not msgspec.structs.replace(work, overrides=frozen).left_to_plan("x", "slow", NOW)


def test_no_workers_are_wanted_for_what_is_left_to_the_plan_elsewhere() -> None:
    work = InForce(SLOT_S, grams=([10.0] * 4, [1000.0] * 4)).published
    assert {name: crew(work, name, NOW, count=6, lead_s=0.0, unfinished={"x"}).replicas for name in ("a", "slow")} == {
        "a": 3,
        "slow": 0,
    }


def test_a_plan_cuts_slots_finer_than_its_problem() -> None:
    """At the deadline here: two slots where the pools' capacity has one."""
    work = InForce(320.0, count=1)
    assert len(work.published.plan.slots) > len(work.published.problem.slots) == 1
    assert work.may(330.0) == ["a", "slow"], "it is late in any case"

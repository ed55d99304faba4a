"""Plans: verified, no worse than greedy, near what brute force finds, and sane on degenerate input."""

from __future__ import annotations

import itertools
from typing import Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchsched.errors import UnsafePlan
from batchsched.planner import Plan, PoolState, Problem, Slot, make_plan, make_slots, open_share
from batchsched.planner.problem import cut
from batchsched.planner.verify import verify, violations
from batchsched.units import JOULES_PER_KWH

from .planner_cases import fleet_problem, job, pool, seeds, slots


def grams(plan: Plan) -> float:
    """All expected grams of a plan; fails where one is unknown."""
    known = [g for g in plan.grams_expected.values() if g is not None]
    assert len(known) == len(plan.grams_expected)
    return sum(known)


@settings(max_examples=40)
@given(seeds, st.floats(0.2, 8.0))
def test_greedy_plans_are_safe(seed: int, load: float) -> None:
    problem = fleet_problem(seed, load=load)
    verify(problem, make_plan(problem, "greedy"))


@pytest.mark.slow
@settings(max_examples=12)
@given(seeds)
def test_cp_sat_is_safe_and_never_worse_than_greedy(seed: int) -> None:
    problem = fleet_problem(seed, jobs=4, pools=2, count=16)
    base, plan = make_plan(problem, "greedy"), make_plan(problem, work_s=0.5, seed=seed)
    verify(problem, plan)
    assert plan.objective <= base.objective * (1 + 1e-12)


@settings(max_examples=15)
@given(st.lists(st.integers(50, 500), min_size=8, max_size=8), st.lists(st.integers(1, 4), min_size=2, max_size=2))
def test_cp_sat_meets_brute_force(intensity: list[int], lengths: list[int]) -> None:
    """Whole slots on one replica, no start-up: every way to give the slots to the two jobs is tried."""
    problem = Problem(
        slots(8),
        [pool("a", [float(g) for g in intensity])],
        [job("x", lengths[0] * 900.0, 3600.0), job("y", lengths[1] * 900.0, 7200.0)],
    )
    best = min(
        sum(intensity[t] for t in (*early, *late))
        for early in itertools.combinations(range(4), lengths[0])
        for late in itertools.combinations([t for t in range(8) if t not in early], lengths[1])
    )
    plan = make_plan(problem)
    assert not plan.late
    assert grams(plan) == pytest.approx(best * 900 * 1000 / JOULES_PER_KWH, rel=2e-3)


def test_cp_sat_saves_an_engine_start_that_greedy_pays() -> None:
    """Two cheap slots far apart on a cold pool cost more than staying on the warm one, once starts count."""
    cold = pool("a", [100.0, 900.0, 900.0, 100.0])
    warm = pool("b", [120.0, 130.0, 130.0, 120.0], loaded=["m"])
    tasks = [job(f"j{i}", {"a": 300.0, "b": 300.0}, 3600.0, startup_s_on={"a": 800.0, "b": 800.0}) for i in range(4)]
    plan = make_plan(Problem(slots(4), [cold, warm], tasks))
    assert {a.pool for a in plan.allotments} == {"b"}
    assert not plan.loads
    assert not plan.late


def test_same_seed_same_plan() -> None:
    problem = fleet_problem(3, jobs=4, pools=2, count=16)
    one, two = (msgspec.json.encode(make_plan(problem, work_s=20, seed=5)) for _ in range(2))
    assert one == two


def test_plan_survives_json() -> None:
    plan = make_plan(fleet_problem(1), "greedy")
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


def test_waits_for_the_clean_slots_and_keeps_the_margin() -> None:
    clean_late: list[float | None] = [500.0, 500.0, 500.0, 100.0]
    sure = make_plan(Problem(slots(4), [pool("a", clean_late)], [job("x", 300.0, 3600.0)]))
    assert {a.slot_index for a in sure.allotments} == {3}
    unsure = make_plan(Problem(slots(4), [pool("a", clean_late)], [job("x", 300.0, 3600.0, sigma=1.0)]))
    assert max(a.end_s for a in unsure.allotments) <= unsure.due_s["x"] < 2700.0


def test_independent_errors_pool_and_common_ones_do_not() -> None:
    def first_due(**spread: float) -> float:
        jobs = [job(f"j{i}", 300.0, 36000.0, **spread) for i in range(9)]
        return min(make_plan(Problem(slots(40), [pool("a", [100.0] * 40)], jobs), "greedy").due_s.values())

    alone = make_plan(Problem(slots(40), [pool("a", [100.0] * 40)], [job("j", 300.0, 36000.0, sigma=0.4)]), "greedy").due_s["j"]
    assert 36000 - first_due(sigma=0.4) == pytest.approx(9 * (36000 - alone), rel=0.01)
    assert 36000 - first_due(sigma_own=0.4) < 5 * (36000 - alone)


def test_unknown_intensity_is_never_preferred_and_all_unknown_is_early() -> None:
    half = make_plan(Problem(slots(4), [pool("a", [None, 400.0, 400.0, None])], [job("x", 300.0, 3600.0)]))
    assert {a.slot_index for a in half.allotments} == {1}
    none = make_plan(Problem(slots(4), [pool("a", [None] * 4)], [job("x", 300.0, 3600.0)]))
    assert {a.slot_index for a in none.allotments} == {0}
    assert none.grams_expected == {"x": None}


@pytest.mark.parametrize("level", [0.0, 1e-9, 250.0])
@pytest.mark.parametrize("solver", ["cp-sat", "greedy"])
def test_equal_intensity_means_early(level: float, solver: str) -> None:
    plan = make_plan(Problem(slots(8), [pool("a", [level] * 8)], [job("x", 1200.0, 7200.0)]), solver)  # type: ignore[arg-type]
    assert sorted({a.slot_index for a in plan.allotments}) == [0, 1]


@pytest.mark.parametrize("solver", ["cp-sat", "greedy"])
@pytest.mark.parametrize(
    "problem",
    [
        Problem([], [], []),
        Problem(slots(4), [], []),
        Problem(slots(4), [], [job("x", 100.0, 3600.0)]),
        Problem(slots(4), [pool("a", [100.0] * 4)], [job("x", {}, 3600.0)]),
        Problem(slots(4), [pool("a", [100.0] * 4, capacity=[0.0] * 4)], [job("x", 100.0, 3600.0)]),
        Problem(slots(4), [pool("a", [100.0] * 4)], [job("x", 100.0, -5.0)]),
        Problem(slots(4), [pool("a", [100.0] * 4)], [job("x", 100000.0, 3600.0)]),
    ],
)
def test_what_cannot_be_done_is_late(problem: Problem, solver: str) -> None:
    plan = make_plan(problem, solver)  # type: ignore[arg-type]
    verify(problem, plan)
    assert set(plan.late) == {j.batch_id for j in problem.jobs}


@pytest.mark.parametrize("solver", ["cp-sat", "greedy"])
def test_late_jobs_that_finish_go_first_thing(solver: str) -> None:
    problem = Problem(slots(8), [pool("a", [500.0] * 4 + [10.0] * 4)], [job("x", 900.0, -60.0, finish_late=True)])
    plan = make_plan(problem, solver)  # type: ignore[arg-type]
    assert {a.slot_index for a in plan.allotments} == {0}
    assert plan.late == {"x": 100.0}


@pytest.mark.parametrize("solver", ["cp-sat", "greedy"])
@pytest.mark.parametrize(("requests", "seconds"), [(1, 0.5), (1_000_000, 40_000.0)])
def test_one_request_and_a_million(requests: int, seconds: float, solver: str) -> None:
    problem = Problem(
        slots(96), [pool("a", [100.0 + t for t in range(96)])], [job("x", seconds, 86400.0, remaining_requests=requests)]
    )
    plan = make_plan(problem, solver)  # type: ignore[arg-type]
    assert not plan.late
    assert sum(a.requests for a in plan.allotments) == pytest.approx(requests)


def test_one_chunk_uses_one_replica() -> None:
    problem = Problem(slots(4), [pool("a", [100.0] * 4, 8)], [job("x", 1800.0, 3600.0, max_replicas=1)])
    plan = make_plan(problem)
    assert not plan.late
    assert max(a.seconds for a in plan.allotments) <= 900.0 + 1e-6


@pytest.mark.parametrize("solver", ["cp-sat", "greedy"])
def test_an_engine_start_may_take_longer_than_a_slot(solver: str) -> None:
    problem = Problem(slots(12, 20.0), [pool("a", [100.0] * 12)], [job("x", 30.0, 200.0, startup_s_on={"a": 50.0})])
    plan = make_plan(problem, solver)  # type: ignore[arg-type]
    assert not plan.late
    assert sum(load.seconds for load in plan.loads) == pytest.approx(50.0)
    assert min(a.slot_index for a in plan.allotments) >= 2
    assert plan.bound is None or plan.bound <= plan.objective * 1.01


def test_nothing_left_to_do_is_neither_planned_nor_late() -> None:
    plan = make_plan(Problem(slots(2), [pool("a", [100.0] * 2)], [job("x", 100.0, 1800.0, remaining_requests=0)]))
    assert (plan.allotments, plan.late) == ([], {})


def test_weight_decides_where_not_all_fits() -> None:
    problem = Problem(
        slots(2), [pool("a", [100.0] * 2)], [job("light", 1800.0, 1800.0), job("heavy", 1800.0, 1800.0, weight=5.0)]
    )
    plan = make_plan(problem)
    assert set(plan.late) == {"light"}


def test_work_beyond_the_horizon_is_later_not_late() -> None:
    plan = make_plan(Problem(slots(2), [pool("a", [100.0] * 2)], [job("x", 3600.0, 1e6)]))
    assert plan.late == {}
    assert plan.later["x"] == pytest.approx(50.0, abs=1)


def test_solver_failure_leaves_the_greedy_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    import batchsched.planner.cpsat as cpsat

    def broken(*_: object, **__: object) -> Plan:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(cpsat, "improve", broken)
    problem = fleet_problem(1)
    plan = make_plan(problem)
    assert plan.solver == "greedy"
    assert "out of luck" in plan.notes[0]


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(seeds)
def test_what_is_too_large_for_cp_sat_is_planned_as_a_fleet(seed: int) -> None:
    import batchsched.planner.cpsat as cpsat

    problem = fleet_problem(seed, startup_s=20.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpsat, "MOST_VARIABLES", 10)
        plan = make_plan(problem, work_s=0.2)
    verify(problem, plan)
    assert plan.objective <= make_plan(problem, "greedy").objective * (1 + 1e-12)
    assert plan.solver == "fleet" or any("nothing better" in note for note in plan.notes)


def _broken(plan: Plan) -> dict[str, Plan]:
    """Plans that are wrong in one way each."""
    a = plan.allotments[0]

    def first(**changes: object) -> Plan:
        return msgspec.structs.replace(plan, allotments=[msgspec.structs.replace(a, **changes), *plan.allotments[1:]])

    return {
        "too much": first(seconds=a.seconds + 5000, requests=a.requests + 500),
        "negative": first(seconds=-1.0),
        "nan": first(seconds=float("nan")),
        "wrong pool": first(pool="nowhere"),
        "wrong slot": first(slot_index=10_000),
        "outside its slot": first(end_s=a.end_s + 100),
        "unknown job": first(batch_id="nobody"),
        "requests out of step": first(requests=a.requests * 2 + 1),
        "dropped": msgspec.structs.replace(plan, allotments=plan.allotments[1:]),
        "twice": msgspec.structs.replace(plan, allotments=[a, *plan.allotments]),
        "uncounted": msgspec.structs.replace(plan, late={a.batch_id: 1e6}),
        "no loading": msgspec.structs.replace(plan, loads=[]),
        "gap": msgspec.structs.replace(plan, slots=[Slot(50.0, 850.0), *plan.slots[1:]]),
    }


@pytest.mark.parametrize(
    "fault", list(_broken(make_plan(Problem(slots(4), [pool("a", [1.0] * 4)], [job("x", 900.0, 3600.0)]), "greedy")))
)
def test_verifier_catches(fault: str) -> None:
    problem = Problem(
        slots(8),
        [pool("a", [100.0] * 8)],
        [job("x", 900.0, 3600.0, startup_s_on={"a": 60.0}), job("y", 500.0, 7200.0, startup_s_on={"a": 60.0})],
    )
    plan = make_plan(problem, "greedy")
    assert violations(problem, plan) == []
    assert violations(problem, _broken(plan)[fault])
    with pytest.raises(UnsafePlan):
        verify(problem, _broken(plan)[fault])


def test_verifier_catches_closed_pools_missed_deadlines_and_width() -> None:
    problem = Problem(slots(4), [pool("a", [100.0] * 4)], [job("x", 900.0, 3600.0)])
    plan = make_plan(problem, "greedy")
    closed = Problem(problem.slots, [pool("a", [100.0] * 4, capacity=[0.0, 1.0, 1.0, 1.0])], problem.jobs)
    early = Problem(problem.slots, problem.pools, [job("x", 900.0, 600.0)])
    narrow = Problem(slots(4), [pool("a", [100.0] * 4, 4)], [job("x", 1800.0, 3600.0)])
    wide = make_plan(narrow, "greedy")
    thin = Problem(narrow.slots, narrow.pools, [job("x", 1800.0, 3600.0, max_replicas=1)])
    assert "are open" in violations(closed, plan)[0]
    assert "after the deadline" in violations(early, plan)[0]
    assert "replicas at once" in violations(thin, wide)[0]


@given(st.lists(st.floats(-100, 8000), max_size=8))
def test_cut_keeps_time_capacity_and_intensity(instants: list[float]) -> None:
    problem = Problem(slots(8), [pool("a", [float(t) for t in range(8)])], [])
    fine = cut(problem, instants)
    assert fine.slots[0].start_s == 0
    assert fine.end_s == problem.end_s
    assert all(a.end_s == pytest.approx(b.start_s) for a, b in itertools.pairwise(fine.slots))
    assert all(slot.length_s > 0.99 for slot in fine.slots)
    for slot, intensity in zip(fine.slots, fine.pools[0].intensity_g_per_kwh, strict=True):
        assert intensity == int((slot.start_s + slot.end_s) / 2 // 900)


def test_slots_and_windows() -> None:
    made = make_slots(7200, slot_s=900, long_slot_s=3600, fine_s=3600, offset_s=300, cuts=[450.0, 99999.0])
    assert [s.start_s for s in made][:4] == [0.0, 300.0, 450.0, 1200.0]
    assert made[-1].end_s == 7200
    assert open_share(slots(3), [(450.0, 1800.0)], 2) == [1.0, 2.0, 0.0]
    assert PoolState("a", "s", "z", 1, [1.0], 1.0, [None]).intensity_g_per_kwh == [None]


class TestEmbodiedCarbon:
    """A new pool that draws a tenth less, and took much more to make."""

    def problem(self, new_g_per_s: float | None, old_g_per_s: float | None) -> Problem:
        pools = [pool("new", [90.0] * 8, embodied_g_per_s=new_g_per_s), pool("old", [100.0] * 8, embodied_g_per_s=old_g_per_s)]
        return Problem(slots(8), pools, [job("x", {"new": 1800.0, "old": 1800.0}, 7200.0)])

    @pytest.mark.parametrize("solver", ["greedy", "cp-sat"])
    @pytest.mark.parametrize(
        ("new", "old", "chosen"),
        [
            (0.0, 0.0, "new"),
            (0.02, 0.001, "old"),
            (0.002, 0.001, "new"),  # 2.8 mg a second are saved by running it
            (None, 0.001, "new"),
            (None, 0.01, "old"),
            (None, None, "new"),
        ],
    )
    def test_it_decides_where_it_is_weighed(
        self, solver: Literal["greedy", "cp-sat"], new: float, old: float, chosen: str
    ) -> None:
        problem = self.problem(new, old)
        plan = make_plan(problem, solver)
        verify(problem, plan)
        assert {allotment.pool for allotment in plan.allotments} == {chosen}
        running = 1800 * 1000 / JOULES_PER_KWH * (90 if chosen == "new" else 100)
        assert grams(plan) == pytest.approx(running), "what is expected is what running emits"

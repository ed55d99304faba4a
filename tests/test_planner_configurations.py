"""What is assigned is a configuration: of several models on one pool the plan chooses; one may take two pools and their link."""

from __future__ import annotations

import random
from typing import Literal

import msgspec
import pytest
from hypothesis import given, settings

from batchsched.errors import UnsafePlan
from batchsched.planner import Configuration, Job, Link, Plan, Problem, make_plan
from batchsched.planner.classes import classes
from batchsched.planner.due import due_times
from batchsched.planner.fleet_problem import fleet_plan
from batchsched.planner.latest_start import OpenPool, latest_safe_starts
from batchsched.planner.pieces import piece_s
from batchsched.planner.problem import standalone
from batchsched.planner.room import room
from batchsched.planner.verify import verify
from tests.planner_cases import fleet_problem, job, pool, seeds, slots

SOLVERS: tuple[Literal["greedy", "cp-sat"], ...] = ("greedy", "cp-sat")
FAST, CLEAN = standalone("fast", "a"), standalone("clean", "a")
PAIR = Configuration("m", {"a": 1.0, "b": 1.0}, {"a-b": 5.0}, "prefill_decode")


def choosy(deadline_s: float) -> Problem:
    """One job that names `fast` and accepts `clean`, which takes twice as long at a fourth of the watts."""
    one = Job("j", "fast", 100, {"a": 600.0, CLEAN.name: 1200.0}, {"a": 1000.0, CLEAN.name: 250.0}, {"a": 0.0, CLEAN.name: 0.0},
              deadline_s, configurations={CLEAN.name: CLEAN}, max_replicas=1)  # fmt: skip
    return Problem(slots(8, 300.0), [pool("a", [100.0] * 8)], [one])


def models(problem: Problem, plan: Plan) -> dict[str, float]:
    """Requests by model."""
    jobs = {one.batch_id: one for one in problem.jobs}
    done: dict[str, float] = {}
    for a in plan.allotments:
        model = jobs[a.batch_id].configuration(a.key).model
        done[model] = done.get(model, 0.0) + a.requests
    return done


@pytest.mark.parametrize("solver", SOLVERS)
def test_of_two_models_on_a_pool_the_plan_takes_the_clean_one_unless_the_deadline_is_too_near(
    solver: Literal["greedy", "cp-sat"],
) -> None:
    assert models(choosy(2400.0), make_plan(choosy(2400.0), solver)) == pytest.approx({"clean": 100.0})
    tight = models(choosy(600.0), make_plan(choosy(600.0), solver))
    assert tight == pytest.approx({"fast": 100.0})


def test_where_neither_model_alone_will_do_both_share_the_work() -> None:
    mixed = models(choosy(900.0), make_plan(choosy(900.0)))
    assert mixed == pytest.approx({"clean": 50.0, "fast": 50.0}, abs=1.0)  # 300 s and 600 s


def test_no_deadline_is_promised_by_what_is_not_sure_to_be_there() -> None:
    apart = Configuration("apart", {"a": 1.0}, {"partners": 1.0}, "prefill_decode")
    on = {apart.name: 3 * 3600.0, "a": 6 * 3600.0}
    there = job("j", on, 8 * 3600.0, sigma=0.1, configurations={apart.name: apart})
    unsure = msgspec.structs.replace(there, sure_s={apart.name: 4 * 3600.0})
    alone = msgspec.structs.replace(unsure, seconds_on={apart.name: 3 * 3600.0})
    always = [OpenPool("a", 1, [(-1e6, 1e6)])]
    latest_s = [latest_safe_starts([one], always)["j"] for one in (there, unsure, alone)]
    assert latest_s[1] == pytest.approx(2 * latest_s[0] - 8 * 3600.0)
    assert latest_s[2] == latest_s[0]  # nothing else can do it
    assert msgspec.structs.replace(unsure, deadline_s=4 * 3600.0).work_on == there.work_on  # till then it is
    problems = [Problem(slots(32), [pool("a", [100.0] * 32)], [one]) for one in (there, unsure)]
    due_s = [due_times(problem)["j"] for problem in problems]
    assert 8 * 3600.0 - due_s[1] == pytest.approx(2 * (8 * 3600.0 - due_s[0]))
    soon = [room(problem, problem.jobs[0], 5 * 3600.0).probability for problem in problems]
    assert soon[0] > 0.99
    assert soon[1] < 0.1
    assert piece_s(unsure) == {"a": pytest.approx(6 * 36.0)}


def pair_problem(bandwidth: float = 5.0) -> Problem:
    """Two jobs that need both pools and 5 of the link at once, and one that needs the first pool alone."""
    pools = [pool("a", [100.0] * 4, 2), pool("b", [100.0] * 4, 2)]
    pair = {"configurations": {PAIR.name: PAIR}}
    jobs = [job(name, {PAIR.name: 900.0}, 3600.0, **pair) for name in ("p", "q")] + [job("alone", 900.0, 3600.0)]
    return Problem(slots(4), pools, jobs, links=[Link("a-b", [bandwidth] * 4)])


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_configuration_takes_of_two_pools_and_of_their_link(solver: Literal["greedy", "cp-sat"]) -> None:
    plan = make_plan(pair_problem(), solver)
    assert not plan.late
    assert {a.pool for a in plan.allotments} == {"a"}
    for t in range(4):
        on_link = sum(a.seconds for a in plan.allotments if a.slot_index == t and a.config)
        assert on_link <= 900.0 * (1 + 1e-9), "one replica has room on the link"
    assert make_plan(pair_problem(0.0), solver).late == {"p": pytest.approx(100.0), "q": pytest.approx(100.0)}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("making_g_per_s", "takes"), [(0.0, "a + partner"), (0.001, "a"), (None, "a")])
def test_what_a_unit_of_a_link_took_to_make_is_weighed(
    solver: Literal["greedy", "cp-sat"], making_g_per_s: float | None, takes: str
) -> None:
    """With a partner the work takes one watt of 1,000 less: 0.025 g at 100 g/kWh. Its making comes to 0.9 g where it is known."""
    apart = Configuration("m", {"a": 1.0}, {"partner": 1.0}, "prefill_decode")
    pools = [msgspec.structs.replace(pool("a", [100.0] * 4, 1), embodied_g_per_s=0.1)]
    ways = {"configurations": {apart.name: apart}}
    one = job("j", {"a": 900.0, apart.name: 900.0}, 3600.0, **ways)
    watts = {"a": 1000.0, apart.name: 999.0}
    partner = Link("partner", [1.0] * 4, embodied_g_per_s=making_g_per_s)
    plan = make_plan(Problem(slots(4), pools, [msgspec.structs.replace(one, power_w_on=watts)], links=[partner]), solver)
    assert {a.config for a in plan.allotments} == ({apart.name} if takes != "a" else {""})


@pytest.mark.parametrize(("what", "where"), [("pools", "b in slot"), ("links", "a-b in slot")])
def test_the_check_knows_what_a_configuration_takes(what: str, where: str) -> None:
    problem = pair_problem(10.0)
    plan = make_plan(problem, "greedy")
    less = [
        msgspec.structs.replace(one, capacity=[0.1] * 4) if one.name in {"b", "a-b"} else one for one in getattr(problem, what)
    ]
    with pytest.raises(UnsafePlan, match=where):
        verify(msgspec.structs.replace(problem, **{what: less}), plan)


def test_the_check_refuses_a_configuration_that_the_job_does_not_have() -> None:
    problem = pair_problem()
    plan = make_plan(problem, "greedy")
    other = [msgspec.structs.replace(a, config="") for a in plan.allotments]
    with pytest.raises(UnsafePlan, match="the job may not run there"):
        verify(problem, msgspec.structs.replace(plan, allotments=other))


def varied(seed: int, jobs: int = 6) -> Problem:
    """A random fleet whose jobs have, here and there, a second model on a pool or two pools at once."""
    draw, plain = random.Random(seed), fleet_problem(seed, jobs=jobs, count=12)
    made = []
    for one in plain.jobs:
        first, last = next(iter(one.seconds_on)), plain.pools[-1].name
        other = standalone("m1" if one.model == "m0" else "m0", first)
        both = Configuration(
            one.model, {first: 1.0, last: draw.choice([0.5, 1.0])}, {"link": draw.choice([0.3, 1.0])}, "draft_target"
        )
        more = {config.name: config for config in (other, both) if config.pool != last and draw.random() < 0.6}
        times = {name: draw.uniform(0.4, 1.5) for name in more}
        made.append(msgspec.structs.replace(
            one,
            configurations=more,
            seconds_on=one.seconds_on | {name: one.seconds_on[first] * x for name, x in times.items()},
            power_w_on=one.power_w_on | {name: 1000.0 * draw.uniform(0.4, 1.5) for name in more},
            startup_s_on=one.startup_s_on | dict.fromkeys(more, 60.0),
        ))  # fmt: skip
    return Problem(plain.slots, plain.pools, made, links=[Link("link", [1.0] * 12)])


@pytest.mark.slow
@settings(max_examples=8)
@given(seeds)
def test_plans_of_any_configurations_keep_every_rule(seed: int) -> None:
    problem = varied(seed)
    first, best = make_plan(problem, "greedy"), make_plan(problem, work_s=0.5, seed=seed)
    verify(problem, best)
    assert best.objective <= first.objective * (1 + 1e-9)
    assert not any("unsafe" in note or "failed" in note for note in best.notes), best.notes


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_the_fleets_solver_knows_configurations_as_well(seed: int) -> None:
    problem = varied(seed, jobs=12)
    due = due_times(problem)
    plan = fleet_plan(problem, due, classes(problem, due), most_work=2000)
    assert plan is not None
    verify(problem, plan)
    assert any(a.config for a in plan.allotments)

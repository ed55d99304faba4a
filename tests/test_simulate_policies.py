"""Each policy by its definition, on cases worked by hand; and what holds of all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings

from batchsched.cli.simulate import CHOICES
from batchsched.planner import Configuration, Job, Link, Plan, PoolState, Problem
from batchsched.simulate.policies import POLICIES, Planner, cheapest_gpus
from batchsched.simulate.policies.policy import Queue
from tests.planner_cases import fleet_problem, job, pool, seeds, slots

HOUR_S = 3600.0
SIMPLE = [name for name in POLICIES if "planner" not in name]


def hourly(pools: Sequence[PoolState], *jobs: Job) -> Problem:
    """Slots of an hour; a job's hour on one replica emits as many grams as its slot's intensity."""
    return Problem(slots(len(pools[0].capacity), HOUR_S), list(pools), list(jobs))


def hours(name: str, work_h: float | dict[str, float], due_h: float, **more: object) -> Job:
    """A job on one replica at a time."""
    on = {key: h * HOUR_S for key, h in work_h.items()} if isinstance(work_h, dict) else work_h * HOUR_S
    return job(name, on, due_h * HOUR_S, **{"max_replicas": 1, **more})


def placed(plan: Plan, name: str) -> list[tuple[str, int, float]]:
    """Where it runs: pool, slot, hours; in order of time."""
    return [(a.key, a.slot_index, pytest.approx(a.seconds / HOUR_S)) for a in plan.of(name)]  # type: ignore[misc]


def of(name: str) -> Planner:
    """A fresh one."""
    return POLICIES[name].planner()


def test_run_now_takes_the_newest_and_what_comes_later_the_next() -> None:
    new, old = pool("new", [9, 9, 9], newness=(2.0, 0.0)), pool("old", [1, 1, 1], newness=(1.0, 0.0))
    on = {"old": 2.0, "new": 2.0}
    plan = of("run now")(hourly([old, new], hours("a", on, 3), hours("b", on, 3)), 0)
    assert placed(plan, "a") == [("new", 0, 1), ("new", 1, 1)]
    assert placed(plan, "b") == [("old", 0, 1), ("old", 1, 1)]


def test_of_the_same_age_that_at_home_runs_it() -> None:
    home, far = pool("a-home", [9], newness=(2.0, 0.0), home=True), pool("far", [1], newness=(2.0, 0.0))
    plan = of("run now")(hourly([far, home], hours("a", {"far": 1.0, "a-home": 1.0}, 1)), 0)
    assert placed(plan, "a") == [("a-home", 0, 1)]


def test_who_comes_first_is_first_served_whatever_is_due() -> None:
    pools, late, urgent = [pool("a", [1, 1])], hours("z", 1, 2), hours("a", 1, 1)
    fifo, edf = of("FIFO"), of("EDF")
    for planner in (fifo, edf):
        planner(hourly(pools, late), 0)
    both = hourly(pools, late, urgent)
    assert placed(fifo(both, 0), "z") == [("a", 0, 1)]
    assert placed(edf(both, 0), "a") == [("a", 0, 1)]


def test_each_goes_where_it_is_done_soonest() -> None:
    """On the fast pool a takes 1 h; b waits for it and is done after 2 h, on the slow one after 3 h; c would be done after 3 h
    there, and is after 2 h on the slow one."""
    pools = [pool("fast", [1] * 4), pool("slow", [1] * 4)]
    jobs = (
        hours("a", {"fast": 1.0, "slow": 3.0}, 4),
        hours("b", {"fast": 1.0, "slow": 3.0}, 4),
        hours("c", {"fast": 1.0, "slow": 2.0}, 4),
    )
    plan = of("FIFO")(hourly(pools, *jobs), 0)
    assert [placed(plan, name)[0][:2] for name in "abc"] == [("fast", 0), ("fast", 1), ("slow", 0)]


@pytest.mark.parametrize(("name", "first"), [("EDF, cheapest slot", "urgent"), ("marginal allocation", "early")])
def test_work_goes_into_the_cheapest_hours(name: str, first: str) -> None:
    """Two hours' work each, and hours 1 and 3 are the cleanest: by deadline the urgent has them, by coming the early."""
    planner, pools = of(name), [pool("a", [5, 1, 4, 2])]
    early, urgent = hours("early", 2, 4), job("urgent", 2 * HOUR_S, 4 * HOUR_S - 1e-3, max_replicas=1)
    planner(hourly(pools, early), 0)
    alone = placed(planner(hourly(pools, early), 0), "early")
    assert alone == [("a", 1, 1), ("a", 3, 1)]
    plan = planner(hourly(pools, early, urgent), 0)
    assert plan.of(first)[0].slot_index == 1


def test_as_many_servers_as_can_be_where_the_grid_is_clean() -> None:
    """CarbonScaler: four hours' work, three replicas: three of them in hour 2, one in hour 0."""
    plan = of("marginal allocation")(hourly([pool("a", [3, 5, 1, 4], replicas=3)], hours("x", 4, 4, max_replicas=3)), 0)
    assert placed(plan, "x") == [("a", 0, 1), ("a", 2, 3)]


PIECES = [5, 1, 9, 2, 3, 8]
"""For two hours' work: the lowest slot is 1, the lowest window 3."""


@pytest.mark.parametrize(("name", "start"), [("lowest slot", 1), ("lowest window", 3)])
def test_one_piece_begins_where_it_should(name: str, start: int) -> None:
    plan = of(name)(hourly([pool("a", PIECES)], hours("x", 2, 6)), 0)
    assert placed(plan, "x") == [("a", start, 1), ("a", start + 1, 1)]


def test_carbon_time_weighs_what_is_saved_with_the_wait() -> None:
    """An hour's work: at once 10 g; from 1 on 6 g less after 2 h, 3 g an hour; from 3 on 8 g less after 4 h, 2 g an hour."""
    plan = of("carbon-time")(hourly([pool("a", [10, 4, 9, 2])], hours("x", 1, 4)), 0)
    assert placed(plan, "x") == [("a", 1, 1)]


def test_carbon_time_holds_whole_pieces_against_the_whole_piece_at_once() -> None:
    """Two hours' work: at once 9 + 1 = 10 g; from 1 on 1 + 8 = 9 g, 1 g less after 3 h, 0.33 g an hour; from 3 on 7 + 1 = 8 g,
    2 g less after 5 h, 0.4 g an hour. Held against twice the first hour, 18 g, the piece from 0 on would be best."""
    plan = of("carbon-time")(hourly([pool("a", [9, 1, 8, 7, 1, 9])], hours("x", 2, 6)), 0)
    assert placed(plan, "x") == [("a", 3, 1), ("a", 4, 1)]


@pytest.mark.parametrize("name", ["lowest slot", "lowest window", "carbon-time", "lowest slots"])
def test_what_was_decided_stays_and_is_followed(name: str) -> None:
    """The forecast turns round an hour later, and the origin has moved by half an hour: it runs where it was to run."""
    planner, pools = of(name), [pool("a", [9, 9, 9, 1, 9, 9])]
    planner(hourly(pools, hours("x", 1, 6)), 0)
    plan = planner(hourly([pool("a", [9, 9, 9, 9, 9, 1])], hours("x", 1, 5.5)), 0.5 * HOUR_S)
    assert [a.slot_index for a in plan.of("x")] == [2, 3]
    assert [a.seconds for a in plan.of("x")] == [pytest.approx(HOUR_S / 2)] * 2


def test_a_piece_that_takes_longer_goes_on() -> None:
    planner, pools = of("lowest window"), [pool("a", [9, 9, 1, 9, 9, 9])]
    planner(hourly(pools, hours("x", 1, 6)), 0)
    plan = planner(hourly([pool("a", [9, 1, 9, 9, 9])], hours("x", 1.5, 5)), HOUR_S)
    assert placed(plan, "x") == [("a", 1, 1), ("a", 2, 0.5)]


def test_pieces_keep_out_of_each_others_way() -> None:
    planner, pools = of("lowest window"), [pool("a", [5, 1, 3, 4])]
    plan = planner(hourly(pools, hours("x", 1, 4), hours("y", 1, 4)), 0)
    assert placed(plan, "x") == [("a", 1, 1)]
    assert placed(plan, "y") == [("a", 2, 1)]


def test_a_piece_is_as_wide_as_an_eighth_of_its_window_asks() -> None:
    """Four hours' work in 16 hours: two replicas, for two hours."""
    plan = of("lowest window")(hourly([pool("a", [9] * 5 + [1, 1] + [9] * 9, replicas=8)], hours("x", 4, 16, max_replicas=8)), 0)
    assert placed(plan, "x") == [("a", 5, 2), ("a", 6, 2)]


def test_the_lowest_slots_need_not_lie_together() -> None:
    plan = of("lowest slots")(hourly([pool("a", PIECES)], hours("x", 2, 6)), 0)
    assert placed(plan, "x") == [("a", 1, 1), ("a", 3, 1)]


def test_of_two_pools_that_with_the_lowest_slots_together() -> None:
    pools = [pool("a", [1, 9, 9]), pool("b", [3, 3, 9])]
    plan = of("lowest slots")(hourly(pools, hours("x", {"a": 2.0, "b": 2.0}, 3)), 0)
    assert placed(plan, "x") == [("b", 0, 1), ("b", 1, 1)]


def test_below_the_threshold_it_runs_and_above_it_waits_while_there_is_slack() -> None:
    """Falling from 24 to 1: the 30th percentile is 7.9, so hours 17 to 23 are below it. Due after ten hours nothing is, and two
    hours' work has eight of slack."""
    falling = pool("a", list(range(24, 0, -1)))
    plan = of("threshold")(hourly([falling], hours("x", 2, 24)), 0)
    assert placed(plan, "x") == [("a", 17, 1), ("a", 18, 1)]
    plan = of("threshold")(hourly([falling], hours("x", 2, 10)), 0)
    assert placed(plan, "x") == [("a", 8, 1), ("a", 9, 1)]


def test_the_threshold_is_that_of_its_coming() -> None:
    """As it came 7.9; then every hour is 5 or 8: those of 5 are below."""
    planner = of("threshold")
    planner(hourly([pool("a", list(range(24, 0, -1)))], hours("x", 2, 24)), 0)
    plan = planner(hourly([pool("a", [8, 5] * 12)], hours("x", 2, 23)), HOUR_S)
    assert placed(plan, "x") == [("a", 1, 1), ("a", 3, 1)]


def test_the_cleanest_place_of_each_hour() -> None:
    pools = [pool("a", [1, 9, 2]), pool("b", [5, 2, 3])]
    plan = of("cleanest place")(hourly(pools, hours("x", {"a": 2.0, "b": 2.0}, 3)), 0)
    assert placed(plan, "x") == [("a", 0, 1), ("b", 1, 1)]


def test_moving_files_counts_for_the_cleanest_place() -> None:
    pools = [pool("a", [1]), pool("b", [2])]
    plan = of("cleanest place")(hourly(pools, hours("x", {"a": 1.0, "b": 1.0}, 1, transfer_g_on={"a": 5.0})), 0)
    assert placed(plan, "x") == [("b", 0, 1)]


def test_the_program_routes_all_batches_together() -> None:
    """An hour of room each: x with 2 kW belongs into the hour of 1 (2 + 2 g), though y came first (1 + 4 g)."""
    y, x = hours("a-first", 1, 2), hours("x", 1, 2)
    x = msgspec.structs.replace(x, power_w_on={"a": 2000.0})
    plan = of("routing LP")(hourly([pool("a", [1, 2])], y, x), 0)
    assert placed(plan, "x") == [("a", 0, 1)]
    assert placed(plan, "a-first") == [("a", 1, 1)]


def test_greenllm_takes_the_least_carbon_that_meets_the_deadline() -> None:
    """Old hardware needs 3 h at 0.3 kW, new 1 h at 1 kW: 0.9 and 1 g. In 2 h only the new meets the deadline; in half an hour
    neither does, and it is the faster."""
    pools = [pool("old", [1] * 6), pool("new", [1] * 6)]
    x = msgspec.structs.replace(hours("x", {"old": 3.0, "new": 1.0}, 6), power_w_on={"old": 300.0, "new": 1000.0})
    chosen = {}
    for due_h in (6, 2, 0.5):
        plan = of("GreenLLM")(hourly(pools, msgspec.structs.replace(x, deadline_s=due_h * HOUR_S)), 0)
        chosen[due_h] = {a.key for a in plan.of("x") if a.start_s == 0}
    assert chosen == {6: {"old"}, 2: {"new"}, 0.5: {"new"}}


def test_greenllm_asks_for_nine_in_ten() -> None:
    """With 3.1 h for work of 3 h that may be off by 20 %, the old hardware does not attain 90 %."""
    pools = [pool("old", [1] * 6), pool("new", [1] * 6)]
    x = msgspec.structs.replace(
        hours("x", {"old": 3.0, "new": 1.0}, 3.1, sigma_own=0.2), power_w_on={"old": 300.0, "new": 1000.0}
    )
    plan = of("GreenLLM")(hourly(pools, x), 0)
    assert {a.key for a in plan.of("x")} == {"new"}


def test_greenllm_may_take_another_serving_mode() -> None:
    """Drafts on old hardware beside the new: less carbon than the new by itself. Each takes what it takes of both pools."""
    pools = [pool("old", [1, 1]), pool("new", [1, 1])]
    both = Configuration("m", {"new": 1.0, "old": 1.0}, {"wire": 1.0}, "drafts")
    x = job("x", {"new": HOUR_S, "new+old": HOUR_S}, 2 * HOUR_S, max_replicas=1, configurations={"new+old": both})
    x = msgspec.structs.replace(x, power_w_on={"new": 1000.0, "new+old": 800.0})
    y = hours("y", {"old": 1.0}, 2)
    problem = msgspec.structs.replace(hourly(pools, x, y), links=[Link("wire", [1.0, 1.0])])
    plan = of("GreenLLM")(problem, 0)
    assert placed(plan, "x") == [("new+old", 0, 1)]
    assert placed(plan, "y") == [("old", 1, 1)]


def test_the_three_designs_choose_by_time_by_energy_and_by_money() -> None:
    pools = [pool("fast", [1, 1]), pool("thrifty", [1, 1]), pool("cheap", [1, 1])]
    x = hours("x", {"fast": 1.0, "thrifty": 1.5, "cheap": 2.0}, 2)
    x = msgspec.structs.replace(x, power_w_on={"fast": 1000.0, "thrifty": 500.0, "cheap": 600.0})
    problem = hourly(pools, x)
    assert {a.key for a in of("fastest GPUs")(problem, 0).of("x")} == {"fast"}
    assert {a.key for a in of("least energy")(problem, 0).of("x")} == {"thrifty"}
    priced = cheapest_gpus({"fast": 4.0, "thrifty": 2.0, "cheap": 1.0}).planner()
    assert {a.key for a in priced(problem, 0).of("x")} == {"cheap"}


@pytest.mark.parametrize(("zone", "first"), [("DE", 9), ("US-MIDA-PJM", 15)])
def test_at_night_where_the_pool_stands(zone: str, first: int) -> None:
    """From noon UTC on: 22 o'clock is 9 hours away in Germany, and 15 on the east coast of America, in winter time."""
    here = msgspec.structs.replace(pool("a", [1.0] * 30), zone=zone)
    plan = of("night window")(hourly([here], hours("x", 2, 30), hours("y", 1, 5)), 12 * HOUR_S)
    assert placed(plan, "x") == [("a", first, 1), ("a", first + 1, 1)]
    assert placed(plan, "y") == [("a", 0, 1)]  # due before the night


def test_perfect_foresight_is_the_same_planner_told_the_truth() -> None:
    for name in ("greedy", "planner"):
        told = POLICIES[f"{name}, perfect foresight"]
        assert told.sees == "perfect"
        assert msgspec.structs.replace(told, name=name, sees="issued", planner=POLICIES[name].planner) == POLICIES[name]


@pytest.mark.parametrize("name", SIMPLE)
@given(seeds)
@settings(max_examples=15, deadline=None)
def test_all_work_has_a_place_and_no_place_has_too_much(name: str, seed: int) -> None:
    problem = fleet_problem(seed, startup_s=0.0)
    plan = of(name)(problem, 0)
    jobs = {one.batch_id: one for one in problem.jobs}
    taken: dict[tuple[str, int], float] = defaultdict(float)
    wide: dict[tuple[str, int], float] = defaultdict(float)
    done: dict[str, float] = defaultdict(float)
    for a in plan.allotments:
        taken[a.pool, a.slot_index] += a.seconds
        wide[a.batch_id, a.slot_index] += a.seconds
        done[a.batch_id] += a.seconds / jobs[a.batch_id].seconds_on[a.key]
    for (where, n), seconds in taken.items():
        slot = plan.slots[n]
        then = next(t for t, one in enumerate(problem.slots) if one.start_s <= slot.start_s + 1e-6 < one.end_s)
        assert seconds <= problem.pool(where).capacity[then] * slot.length_s + 1e-6
    assert all(seconds <= jobs[batch].width * plan.slots[n].length_s + 1e-6 for (batch, n), seconds in wide.items())
    for batch, one in jobs.items():
        late = plan.late.get(batch, 0.0) + plan.later.get(batch, 0.0)
        by_deadline = sum(a.seconds / one.seconds_on[a.key] for a in plan.of(batch) if a.end_s <= one.deadline_s + 1e-6)
        assert done[batch] <= 1 + 1e-6
        if one.deadline_s <= problem.end_s:
            assert by_deadline + late / one.remaining_requests == pytest.approx(1, abs=1e-4)


def test_nothing_to_do_is_an_empty_plan() -> None:
    for name in SIMPLE:
        assert of(name)(hourly([pool("a", [1.0])]), 0).allotments == []
        assert of(name)(Problem([], [], []), 0).allotments == []


def test_unknown_intensities_are_no_obstacle() -> None:
    for name in SIMPLE:
        plan = of(name)(hourly([pool("a", [None, None, 3.0])], hours("x", 1, 3)), 0)
        assert sum(a.seconds for a in plan.of("x")) == pytest.approx(HOUR_S)


def test_who_came_first_is_remembered_and_who_went_is_forgotten() -> None:
    queue, a, b = Queue(), hours("a", 1, 1), hours("b", 1, 1)
    assert queue.ordered([b]) == [b]
    assert queue.ordered([a, b]) == [b, a]
    assert queue.ordered([a]) == [a]
    assert queue.ordered([b, a]) == [a, b]


def test_the_command_offers_them_all() -> None:
    assert set(CHOICES) == set(POLICIES)

"""The choice of a configuration: Algorithm 1 of GreenLLM over a made-up database whose winners are known."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from batchsched.profiles.choose import Configuration, accepted, choose, choose_each, grams
from batchsched.profiles.schedule import schedule
from batchsched.profiles.slo import ATTAINMENT_TARGET, WORKLOADS, Load, Slo

CONFIGURATIONS = [
    Configuration("standalone", "7b", "standalone", ("A100-40",)),
    Configuration("speculative", "7b", "speculative", ("A100-40",)),
    Configuration("apart", "7b", "prefill_decode", ("A100-40", "T4")),
    Configuration("drafts", "7b", "draft_target", ("A100-40", "T4")),
    Configuration("small", "1b", "standalone", ("T4",)),
]
# Requests/s up to which every request keeps its latencies; watts at rest, spread over the tokens; joules a token beyond that.
MADE_UP = {
    "standalone": (10.0, 110.0, 0.90),
    "speculative": (8.0, 110.0, 0.50),
    "apart": (1.5, 60.0, 0.60),
    "drafts": (4.0, 90.0, 0.45),
    "small": (2.0, 10.0, 0.10),
}
TOKENS = 300  # of a request of ShareGPT's median size, in and out
RATES = [0.25, 0.5, 1, 2, 4, 5, 8, 8.5, 9, 10, 10.5, 12]
GRID = dict.fromkeys(MADE_UP, 261.0)
LARGE = [one.name for one in accepted(CONFIGURATIONS, {"7b"})]


def attained(qps: float, capacity: float) -> float:
    return max(0.0, 1.0 - max(0.0, qps - capacity) / capacity)


ATTAINMENT = {
    Load("sharegpt", "p50", qps): {name: attained(qps, capacity) for name, (capacity, _, _) in MADE_UP.items()} for qps in RATES
}
GRAMS = {
    load: grams({name: rest_w / (load.qps * TOKENS) + each_j for name, (_, rest_w, each_j) in MADE_UP.items()}, GRID)
    for load in ATTAINMENT
}


def test_the_winner_changes_from_one_mode_to_the_next_as_the_rate_rises() -> None:
    chosen = choose_each(ATTAINMENT, GRAMS, among=LARGE)
    winners = {load.qps: (one.configuration, one.why) for load, one in chosen.items() if one}
    # At 0.5: apart 60/150 + 0.6 = 1.0 J, drafts 90/150 + 0.45 = 1.05 J. At 1: apart 0.8 J, drafts 0.75 J, speculative 0.87 J.
    # At 5 drafts attain 75 %. At 8.5 speculative still attains 94 %, at 9 only 88 %, and standalone alone is left.
    least = "least_carbon"
    assert winners == {
        0.25: ("apart", least), 0.5: ("apart", least),
        1: ("drafts", least), 2: ("drafts", least), 4: ("drafts", least),
        5: ("speculative", least), 8: ("speculative", least), 8.5: ("speculative", least),
        9: ("standalone", least), 10: ("standalone", least), 10.5: ("standalone", least),
        12: ("standalone", "most_attained"),
    }  # fmt: skip


def test_with_gaps_in_the_database_nearly_all_winners_stay() -> None:
    """A quarter of the cells unmeasured: the whole algorithm fills them first."""
    joules = {
        load: {name: rest_w / (load.qps * TOKENS) + each_j for name, (_, rest_w, each_j) in MADE_UP.items()}
        for load in ATTAINMENT
    }
    whole = schedule(ATTAINMENT, joules, GRID, among=LARGE)
    assert {load: one.configuration for load, one in whole.items() if one} == {
        load: one.configuration for load, one in choose_each(ATTAINMENT, GRAMS, among=LARGE).items() if one
    }
    assert not any(one.estimated for one in whole.values() if one)

    def holed(matrix: Mapping[Load, Mapping[str, float]]) -> dict[Load, dict[str, float]]:
        return {
            load: {name: value for j, (name, value) in enumerate(row.items()) if (i + 2 * j) % 4}
            for i, (load, row) in enumerate(matrix.items())
        }

    chosen = schedule(holed(ATTAINMENT), holed(joules), GRID, among=LARGE)
    same = [one is not None and one.configuration == whole[load].configuration for load, one in chosen.items()]  # type: ignore[union-attr]
    assert sum(same) >= len(same) - 3
    assert any(one.estimated for one in chosen.values() if one)


def test_what_is_feasible_comes_least_carbon_first_for_the_planner() -> None:
    one = choose(ATTAINMENT[Load("sharegpt", "p50", 1)], GRAMS[Load("sharegpt", "p50", 1)], among=LARGE)
    assert one is not None
    assert one.feasible == ("drafts", "apart", "speculative", "standalone")
    assert one.reason == "4 of 4 configurations attain 90%; drafts emits least (100% attained)"
    assert one.grams == pytest.approx(0.75 / 3.6e6 * 261)


def test_where_none_attains_the_target_the_caller_says_what_then() -> None:
    row, emitted = ATTAINMENT[Load("sharegpt", "p50", 12)], GRAMS[Load("sharegpt", "p50", 12)]
    most = choose(row, emitted, among=LARGE)
    assert most is not None
    assert (most.configuration, most.why, most.feasible) == ("standalone", "most_attained", ())
    assert most.attainment == pytest.approx(0.8)
    assert most.reason == "none attains 90%; standalone comes nearest (80% attained)"
    default = choose(row, emitted, among=LARGE, default="speculative")
    assert default is not None
    assert (default.configuration, default.why) == ("speculative", "default")
    unheard_of = choose(row, emitted, among=LARGE, default="the usual")
    assert unheard_of is not None
    assert (unheard_of.configuration, unheard_of.attainment, unheard_of.grams) == ("the usual", None, None)


def test_a_smaller_model_on_an_old_gpu_wins_where_the_batch_accepts_it() -> None:
    load = Load("sharegpt", "p50", 2)
    both = [one.name for one in accepted(CONFIGURATIONS, {"7b", "1b"})]
    without, with_small = (choose(ATTAINMENT[load], GRAMS[load], among=among) for among in (LARGE, both))
    assert without is not None
    assert with_small is not None
    assert (without.configuration, with_small.configuration) == ("drafts", "small")
    assert [one.name for one in accepted(CONFIGURATIONS, {"7b", "1b"}, gpus={"T4"})] == ["small"]


def test_the_grid_of_each_site_decides_where_the_configurations_stand_apart() -> None:
    load = Load("sharegpt", "p50", 1)
    joules = {name: rest_w / TOKENS + each_j for name, (_, rest_w, each_j) in MADE_UP.items()}
    clean_home = GRID | {"standalone": 17.0 * 1.2}
    chosen = choose(ATTAINMENT[load], grams(joules, clean_home), among=LARGE)
    assert chosen is not None
    assert chosen.configuration == "standalone"


def test_embodied_carbon_counts_only_where_it_is_given() -> None:
    joules, grid = {"old": 3.6e6, "new": 7.2e6}, {"old": 10.0, "new": 10.0, "elsewhere": 10.0}
    assert grams(joules, grid) == {"old": 10.0, "new": 20.0}
    assert grams(joules, grid, {"old": 15.0, "new": 1.0}) == {"old": 25.0, "new": 21.0}
    assert grams(joules, grid, {"new": 1.0}) == {"new": 21.0}


def test_what_is_unknown_is_not_chosen() -> None:
    assert choose({"a": 1.0, "b": 1.0}, {"b": 5.0}) == choose({"b": 1.0}, {"b": 5.0})
    assert choose({}, {}) is None
    assert choose({"a": 1.0}, {"a": 1.0}, among=()) is None


def test_ties_go_to_the_better_other_figure_and_then_to_the_name() -> None:
    chosen = choose({"c": 0.95, "b": 0.99, "a": 0.95}, {"a": 1.0, "b": 1.0, "c": 1.0})
    assert chosen is not None
    assert chosen.feasible == ("b", "a", "c")
    fallen = choose({"a": 0.5, "b": 0.5}, {"a": 2.0, "b": 1.0})
    assert fallen is not None
    assert fallen.configuration == "b"


def test_the_border_of_the_target_is_feasible() -> None:
    chosen = choose({"a": ATTAINMENT_TARGET}, {"a": 1.0})
    assert chosen is not None
    assert chosen.why == "least_carbon"


def test_attainment_asks_for_both_latencies() -> None:
    slo = Slo(ttft_s=0.2, tpot_s=0.08)
    assert slo.attainment([(0.1, 0.05), (0.3, 0.05), (0.1, 0.09), (0.2, 0.08)]) == 0.5
    assert slo.attainment([]) is None


def test_table_2_as_printed() -> None:
    slos = {name: (workload.slo.ttft_s, workload.slo.tpot_s) for name, workload in WORKLOADS.items()}
    assert slos == {"sharegpt": (0.2, 0.08), "humaneval": (0.125, 0.2), "longbench": (15, 0.15)}
    medians = {name: workload.sizes["p50"] for name, workload in WORKLOADS.items()}
    assert {name: (size.input_tokens, size.output_tokens) for name, size in medians.items()} == {
        "sharegpt": (160, 140),
        "humaneval": (136, 55),
        "longbench": (1495, 275),
    }

"""Ways to decide: our planner as it is set, and those that others have published or use, each by its own definition.

All get the same capacity, profiles and forecasts, and below all of them stands the same latest safe start; all plan up to the
same due times, which leave room for what may come on top of the expected work. CarbonFlex (Hanafy et al., arXiv 2505.18357) is
left out: it learns from an oracle's decisions over a cluster's own history, and we had no more of it than its abstract, which is
too little to be fair to it.
"""

from __future__ import annotations

from collections.abc import Mapping

from batchsched.simulate.policies.at_once import (
    cleanest_place,
    earliest_deadline,
    fastest_gpus,
    first_come,
    least_energy,
    least_money,
    run_now,
)
from batchsched.simulate.policies.cheapest import cheapest_slot, marginal_allocation
from batchsched.simulate.policies.greenllm import GreenLlm
from batchsched.simulate.policies.night import NightWindow
from batchsched.simulate.policies.ours import planned
from batchsched.simulate.policies.pauses import LowestSlots, Threshold
from batchsched.simulate.policies.pieces import InOnePiece, carbon_time, lowest_slot, lowest_window
from batchsched.simulate.policies.policy import Planner, Policy
from batchsched.simulate.policies.routing import Routing

__all__ = ["POLICIES", "InOnePiece", "Planner", "Policy", "cheapest_gpus", "planned", "run_now"]

POLICIES = {
    policy.name: policy
    for policy in (
        Policy("run now", run_now),
        Policy("FIFO", first_come),
        Policy("EDF", earliest_deadline),
        Policy("EDF, cheapest slot", cheapest_slot),
        Policy("lowest slot", lowest_slot),
        Policy("lowest slots", LowestSlots),
        Policy("lowest window", lowest_window),
        Policy("threshold", Threshold),
        Policy("carbon-time", carbon_time),
        Policy("marginal allocation", marginal_allocation),
        Policy("cleanest place", cleanest_place),
        Policy("routing LP", Routing),
        Policy("GreenLLM", GreenLlm),
        Policy("fastest GPUs", fastest_gpus),
        Policy("least energy", least_energy),
        Policy("night window", NightWindow),
        Policy("greedy", planned("greedy")),
        Policy("greedy, perfect foresight", planned("greedy"), "perfect"),
        Policy("planner", planned("cp-sat")),
        Policy("planner, perfect foresight", planned("cp-sat"), "perfect"),
    )
}


def cheapest_gpus(price_per_h: Mapping[str, float]) -> Policy:
    """The design that takes the GPUs on which work costs least money; prices of an hour of a replica, by pool."""
    return Policy("least money", lambda: least_money(price_per_h))

"""What policies are compared on: fleets and work, drawn from seeds, in weeks that a seed samples.

`single`: one job at a time, without a limit of capacity, rates known exactly. `site`: one site with old and new GPUs. `regions`:
five sites, some batches bound to few of them. `shared`: servers of online users, who leave more or less of them. `everything`:
all of that. `lengths`: batches of unlike requests, as long as those of real services; `services`: which come when those of the
services come, too. `bad_days` makes bad days of good ones.
`NAMED` has those that the command offers.
"""

from __future__ import annotations

from batchsched.simulate.feeds import Hanging
from batchsched.simulate.scenarios.bad_days import (
    broken_feed,
    cut_link,
    embodied,
    hanging_feed,
    lost_pool,
    near_zero,
    slow_links,
    spike,
    wrong_profiles,
)
from batchsched.simulate.scenarios.everything import everything
from batchsched.simulate.scenarios.lengths import lengths
from batchsched.simulate.scenarios.named import NAMED, Asked
from batchsched.simulate.scenarios.regions import regions
from batchsched.simulate.scenarios.scenario import Scenario, weeks
from batchsched.simulate.scenarios.services import services
from batchsched.simulate.scenarios.shared import shared
from batchsched.simulate.scenarios.single import single
from batchsched.simulate.scenarios.site import site

__all__ = [
    "NAMED",
    "Asked",
    "Hanging",
    "Scenario",
    "broken_feed",
    "cut_link",
    "embodied",
    "everything",
    "hanging_feed",
    "lengths",
    "lost_pool",
    "near_zero",
    "regions",
    "services",
    "shared",
    "single",
    "site",
    "slow_links",
    "spike",
    "weeks",
    "wrong_profiles",
]

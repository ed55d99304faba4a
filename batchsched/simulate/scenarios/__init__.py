"""What policies are compared on: fleets and work, drawn from seeds, in weeks that a seed samples.

`single`: one job at a time, without a limit of capacity, rates known exactly. `site`: one site with old and new GPUs. `regions`:
five sites, some batches bound to few of them. `wrong_profiles`, `spike` and `Hanging` make bad days of good ones.
"""

from __future__ import annotations

from batchsched.simulate.scenarios.bad_days import Hanging, spike, wrong_profiles
from batchsched.simulate.scenarios.regions import regions
from batchsched.simulate.scenarios.scenario import Scenario, weeks
from batchsched.simulate.scenarios.single import single
from batchsched.simulate.scenarios.site import site

__all__ = ["Hanging", "Scenario", "regions", "single", "site", "spike", "weeks", "wrong_profiles"]

"""The planner on a virtual clock over real grids: decide on what was known at the time, pay for what came true.

A scene (fleet, profiles, batches) and a grid (forecasts as issued, intensities as they came true) are run under a policy; the
same three always give the same outcome.
"""

from __future__ import annotations

from batchsched.simulate.grid import Grid
from batchsched.simulate.outcome import Outcome, captured
from batchsched.simulate.policies import POLICIES, Policy
from batchsched.simulate.rolling import simulate
from batchsched.simulate.scene import Arrival, Scene, draw_scene

__all__ = ["POLICIES", "Arrival", "Grid", "Outcome", "Policy", "Scene", "captured", "draw_scene", "simulate"]

"""The scheduler on a virtual clock over real grids: decide on what was known at the time, pay for what came true.

A scene (fleet, profiles, batches) and a grid (forecasts as issued, intensities as they came true) are run under a policy; the
same three always give the same outcome. A backtest runs the whole server, but for executors, which are modelled; `simulate` runs
the planner alone, hour by hour, which is quicker.
"""

from __future__ import annotations

from batchsched.simulate.backtests import backtest
from batchsched.simulate.conditions import Conditions, Outage
from batchsched.simulate.grid import Grid
from batchsched.simulate.outcome import Outcome, captured
from batchsched.simulate.policies import POLICIES, Policy
from batchsched.simulate.rolling import simulate
from batchsched.simulate.scene import Arrival, Scene, draw_scene

__all__ = [
    "POLICIES",
    "Arrival",
    "Conditions",
    "Grid",
    "Outage",
    "Outcome",
    "Policy",
    "Scene",
    "backtest",
    "captured",
    "draw_scene",
    "simulate",
]

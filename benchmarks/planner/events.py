"""What happens to a fleet while a plan stands: one event each, after which it is planned again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from batchsched.planner.fleet_model import FleetModel
from benchmarks.planner.instance import Instance

FORECAST_SPREAD, FORECAST_KEEPS = 0.1, 0.95
"""Of the factors by which each pool's forecast changes: the first hour's, and how much of it stays from slot to slot."""


def events(instance: Instance, seed: int) -> dict[str, FleetModel]:
    """The fleet after each: a new batch, a changed forecast, a lost pool."""
    rng = np.random.default_rng([seed, 7])
    return {
        "new batch": new_batch(instance.model, rng),
        "changed forecast": changed_forecast(instance, rng),
        "lost pool": lost_pool(instance, rng),
    }


def new_batch(model: FleetModel, rng: np.random.Generator) -> FleetModel:
    """One more of a class that there is, of usual size, ready now and due after half of the horizon."""
    like = int(rng.integers(len(model.work)))
    mine = model.batch_class == model.batch_class[like]
    return replace(
        model,
        batch_class=np.append(model.batch_class, model.batch_class[like]),
        release=np.append(model.release, 0),
        due=np.append(model.due, model.slots // 2),
        work=np.append(model.work, np.median(model.work[mine])),
    )


def changed_forecast(instance: Instance, rng: np.random.Generator) -> FleetModel:
    """Every pool's intensity moves by factors that wander around 1."""
    model = instance.model
    log = rng.normal(0.0, FORECAST_SPREAD, model.capacity.shape)
    log[:, 1:] *= np.sqrt(1 - FORECAST_KEEPS**2)
    for t in range(1, model.slots):
        log[:, t] += FORECAST_KEEPS * log[:, t - 1]
    factor = np.exp(log)[instance.pool]
    return replace(
        model,
        load_g=model.load_g * factor,
        hold_g=model.hold_g * factor,
        run_g=model.run_g * factor[model.arc_config],
    )


def lost_pool(instance: Instance, rng: np.random.Generator) -> FleetModel:
    """One pool is gone for good."""
    model = instance.model
    left = (np.arange(len(model.capacity)) != int(rng.integers(len(model.capacity))))[:, None]
    return replace(model, capacity=model.capacity * left, room=model.room * left)

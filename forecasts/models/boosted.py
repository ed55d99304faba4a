"""Gradient-boosted trees for one zone: what the linear model leaves over, where it bends with hour, season, wind and weather.

Leads are drawn at random, so that one booster serves all of them; a second one knows the first day and a half better.
"""

from __future__ import annotations

from dataclasses import dataclass

import lightgbm
import numpy as np

from batchsched.forecasts.models.features import Features
from batchsched.forecasts.models.history import Floats, Integers


@dataclass(frozen=True)
class Recipe:
    """How trees are grown. `leads_h`: they learn and answer leads below. `draws`: leads drawn at random for each issue."""

    leads_h: int
    draws: int
    rounds: int = 200
    leaves: int = 31
    rate: float = 0.05
    threads: int = 1


@dataclass(frozen=True)
class Boosted:
    """A trained booster. `scale`: logarithms a unit of its answers."""

    booster: lightgbm.Booster
    scale: float
    leads_h: int

    @classmethod
    def fit(cls, features: Features, issues: Integers, expected: Floats, recipe: Recipe, half_life_h: float) -> Boosted:
        """Learn what `expected` ([issues, leads], by a model that had not seen them) leaves over of what came true."""
        random = np.random.default_rng(1)
        row = np.repeat(np.arange(len(issues)), recipe.draws)
        lead = random.integers(0, recipe.leads_h, len(row))
        over = features.outcome(issues[row] + lead) - expected[row, lead]
        usable = np.isfinite(over)
        row, lead, over = row[usable], lead[usable], over[usable]
        names, inputs = features.rows(issues[row], issues[row] + lead)
        scale = float(np.median(np.abs(over))) * 1.5 + 1e-6
        weight = 0.5 ** ((issues[-1] - issues[row]) / half_life_h)
        growth = _growth(recipe)
        data = lightgbm.Dataset(inputs, over / scale, weight=weight, feature_name=names, params=growth)
        return cls(lightgbm.train(growth, data, recipe.rounds), scale, recipe.leads_h)

    def logs(self, features: Features, issues: Integers, expected: Floats, leads: Integers) -> Floats:
        """`expected` ([issues, all leads]) corrected at these leads; those that it does not know stay as they are."""
        out, leads = expected.copy(), leads[leads < self.leads_h]
        row, lead = np.repeat(np.arange(len(issues)), len(leads)), np.tile(leads, len(issues))
        if len(lead):
            _, inputs = features.rows(issues[row], issues[row] + lead)
            out[row, lead] += np.asarray(self.booster.predict(inputs, num_threads=1)) * self.scale
        return out


def _growth(recipe: Recipe) -> dict[str, object]:
    return {
        "objective": "huber",
        "alpha": 2.0,
        "learning_rate": recipe.rate,
        "num_leaves": recipe.leaves,
        "min_data_in_leaf": 100,
        "feature_fraction": 0.4,
        "bagging_fraction": 0.6,
        "bagging_freq": 1,
        "lambda_l2": 5.0,
        "max_bin": 63,
        "num_threads": recipe.threads,
        "seed": 1,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }

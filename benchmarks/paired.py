"""How sure a mean of paired differences is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEAST, DRAWS, SEED = 4, 4000, 9
"""For an interval: so many pairs, drawn again so many times."""


def interval(differences: Sequence[float]) -> list[float]:
    """The mean, and the ends of its 95 % interval where pairs are drawn again; of fewer than four the mean alone."""
    values = np.array(differences)
    if len(values) < LEAST:
        return [round(float(values.mean()), 2)]
    again = np.random.default_rng(SEED).choice(values, (DRAWS, len(values))).mean(axis=1)
    return [round(float(value), 2) for value in (values.mean(), *np.quantile(again, (0.025, 0.975)))]

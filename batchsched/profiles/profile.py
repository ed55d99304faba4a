"""What is known of a model on a pool: its speed, its power, and how sure that is."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Literal

import msgspec


class Profile(msgspec.Struct, frozen=True):
    """One replica of a pool running a model at full batch.

    Time for work is lognormal: its mean is `seconds()`, the standard deviation of its logarithm is `sigma`. The error is mostly
    common to all work of the model, so that margins of several jobs add up.
    """

    model: str
    pool: str
    input_tokens_per_s: float
    output_tokens_per_s: float
    power_w: float
    """Watts while busy, of everything that the replica occupies."""
    idle_w: float
    sigma: float
    startup_s: float
    """From the launch of the engine until it answers."""
    source: Literal["prior", "measured"] = "prior"
    observations: int = 0

    def seconds(self, input_tokens: float, output_tokens: float) -> float:
        """Expected replica-seconds for that many tokens, start-up not counted."""
        return input_tokens / self.input_tokens_per_s + output_tokens / self.output_tokens_per_s

    def seconds_at(self, confidence: float, input_tokens: float, output_tokens: float) -> float:
        """Replica-seconds that suffice with that probability: the quantile of a lognormal with mean `seconds()`."""
        z = NormalDist().inv_cdf(confidence)
        return self.seconds(input_tokens, output_tokens) * math.exp(z * self.sigma - self.sigma**2 / 2)

    def energy_j(self, input_tokens: float, output_tokens: float) -> float:
        """Expected joules for that many tokens."""
        return self.power_w * self.seconds(input_tokens, output_tokens)

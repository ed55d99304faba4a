"""What is known of a model on a pool: its speed, its power, and how sure that is."""

from __future__ import annotations

import math
from datetime import datetime
from statistics import NormalDist
from typing import Literal

import msgspec


class Drift(msgspec.Struct, frozen=True):
    """The pool changed its speed: `factor` is the time that work takes since then over what it took before."""

    since: datetime
    factor: float


class Drafted(msgspec.Struct, frozen=True):
    """How drafts fared, where a model is served with such."""

    drafts: float
    tokens: float
    accepted: float

    @property
    def acceptance(self) -> float:
        """The share of drafted tokens that stayed; 0 where none were drafted."""
        return self.accepted / self.tokens if self.tokens > 0 else 0.0

    @property
    def length(self) -> float:
        """Tokens that a draft and its check give on the average, the target's own included."""
        return 1.0 + self.accepted / self.drafts if self.drafts > 0 else 1.0


class Sent(msgspec.Struct, frozen=True):
    """What goes between the two pools of a mode. `link_bytes_per_s`: bandwidth as it was measured last; None: it was not."""

    bytes_per_token: float
    link_bytes_per_s: float | None = None


class Profile(msgspec.Struct, frozen=True):
    """One replica of a pool running a model at full batch.

    Time for work is lognormal: its mean is `seconds()`, the standard deviation of its logarithm is `sigma`, or, for a given mix
    of reading and writing, `sigma_for()`. The error is mostly common to all work of the model, so that margins of several jobs
    add up.
    """

    model: str
    pool: str
    input_tokens_per_s: float
    output_tokens_per_s: float
    power_w: float
    """Watts while it writes, of everything that the replica occupies."""
    idle_w: float
    sigma: float
    startup_s: float
    """From the launch of the engine until it answers."""
    source: Literal["prior", "measured"] = "prior"
    observations: int = 0
    input_power_w: float | None = None
    """Watts while it reads prompts, where that is known to differ."""
    apart: tuple[float, float, float] | None = None
    """Where reading and writing are known apart: variances of both log speeds, and their covariance."""
    drift: Drift | None = None
    with_host: float = 0.0
    """How far the watts at work hold the host beside the GPUs: not at all by a prior of GPUs, wholly where they are declared or
    a CPU's, and as far as meters had a say."""
    idle_with_host: bool = False
    """The same of `idle_w`."""
    drafted: Drafted | None = None
    sent: Sent | None = None

    def seconds(self, input_tokens: float, output_tokens: float) -> float:
        """Expected replica-seconds for that many tokens, start-up not counted."""
        return input_tokens / self.input_tokens_per_s + output_tokens / self.output_tokens_per_s

    def seconds_at(self, confidence: float, input_tokens: float, output_tokens: float) -> float:
        """Replica-seconds that suffice with that probability: the quantile of a lognormal with mean `seconds()`."""
        z = NormalDist().inv_cdf(confidence)
        sigma = self.sigma_for(input_tokens, output_tokens)
        return self.seconds(input_tokens, output_tokens) * math.exp(z * sigma - sigma**2 / 2)

    def sigma_for(self, input_tokens: float, output_tokens: float) -> float:
        """Standard deviation of the logarithm of `seconds()`."""
        total_s = self.seconds(input_tokens, output_tokens)
        if self.apart is None or total_s <= 0:
            return self.sigma
        reading = input_tokens / self.input_tokens_per_s / total_s
        return math.sqrt(spread(self.apart, reading))

    def energy_j(self, input_tokens: float, output_tokens: float) -> float:
        """Expected joules for that many tokens."""
        reading_w = self.power_w if self.input_power_w is None else self.input_power_w
        return reading_w * input_tokens / self.input_tokens_per_s + self.power_w * output_tokens / self.output_tokens_per_s

    def power_for(self, input_tokens: float, output_tokens: float) -> float:
        """Mean watts over that work."""
        seconds = self.seconds(input_tokens, output_tokens)
        return self.energy_j(input_tokens, output_tokens) / seconds if seconds > 0 else self.power_w


def spread(apart: tuple[float, float, float], reading: float) -> float:
    """Variance of the logarithm of a time of which that share is reading."""
    of_input, of_output, of_both = apart
    writing = 1.0 - reading
    return max(0.0, reading**2 * of_input + writing**2 * of_output + 2 * reading * writing * of_both)

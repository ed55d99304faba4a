"""What the server knows of speed, power and answers: typed results, and the call that fetches them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from batchsched.client.calls import Call, typed
from batchsched.measures import Mode, Trials
from batchsched.paths import PREFIX


class PoolProfile(msgspec.Struct, frozen=True):
    """One replica of a pool running a model: rates at full batch, watts, joules, and how sure that is.

    `sigma`: standard deviation of the logarithm of the time for work; `drift_factor`: time that work takes since `drift_since`
    over what it took before, None where the pool is steady.
    """

    model: str
    pool: str
    gpu: str
    site: str
    zone: str
    pue: float
    source: Literal["prior", "measured"]
    observations: int
    input_tokens_per_s: float
    output_tokens_per_s: float
    input_power_w: float
    output_power_w: float
    idle_w: float
    j_per_input_token: float
    j_per_output_token: float
    sigma: float
    sigma_input: float
    sigma_output: float
    startup_s: float
    drift_since: datetime | None = None
    drift_factor: float | None = None
    mode: Mode = "standalone"
    variant_of: str = ""
    """The model that it is another way to serve; empty: it is none."""
    partner_pool: str = ""
    acceptance: float | None = None
    """Share of drafted tokens that stayed; None where there were none."""
    tokens_per_step: float | None = None
    bytes_per_token: float | None = None
    """Sent between the two pools of its mode."""
    link_bytes_per_s: float | None = None
    planned: str = ""
    """Of a variant: whether it may be planned, and why."""

    def seconds(self, input_tokens: float, output_tokens: float) -> float:
        """Expected seconds of one replica for that many tokens."""
        return input_tokens / self.input_tokens_per_s + output_tokens / self.output_tokens_per_s

    def energy_j(self, input_tokens: float, output_tokens: float) -> float:
        """Expected joules for that many tokens, at the replica, the site's PUE not counted."""
        return input_tokens * self.j_per_input_token + output_tokens * self.j_per_output_token


class AnswerLengths(msgspec.Struct, frozen=True):
    """How long the caller's next answers are expected to be; `sigma`: spread of the logarithm of a large batch's mean.

    `answers`: those that this stands on, old ones counting less; 0 where only what is usual is known.
    `bytes_per_token`: of prompts.
    """

    model: str
    endpoint: str
    answers: float
    mean_tokens: float
    p50_tokens: float
    p90_tokens: float
    p99_tokens: float
    sigma: float
    bytes_per_token: float = 4.0


class Profiles(msgspec.Struct, frozen=True):
    """What is known of every model on every pool that may serve it, and of answers."""

    profiles: tuple[PoolProfile, ...] = ()
    answers: tuple[AnswerLengths, ...] = ()


def profiles() -> Call[Profiles]:
    """Fetch them."""
    return Call("GET", f"{PREFIX}/profiles", typed(Profiles))


def trials() -> Call[Trials]:
    """Fetch the newest thousand trials of profile runs (needs a key with `operate`)."""
    return Call("GET", f"{PREFIX}/trials", typed(Trials))

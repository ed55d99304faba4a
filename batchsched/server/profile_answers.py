"""What the route about profiles answers, as types."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from batchsched.fleet import Mode


class PoolProfile(msgspec.Struct, forbid_unknown_fields=True):
    """One replica of a pool running a model: rates at full batch, watts, joules, and how sure that is.

    `sigma`: standard deviation of the logarithm of the time for work; `drift_factor`: time that work takes since `drift_since`
    over what it took before, null where the pool is steady.
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
    drift_since: datetime | None
    drift_factor: float | None
    mode: Mode
    variant_of: str
    """The model that it is another way to serve; empty: it is none."""
    partner_pool: str
    acceptance: float | None
    """Share of drafted tokens that stayed; null where there were none."""
    tokens_per_step: float | None
    bytes_per_token: float | None
    """Sent between the two pools of its mode."""
    link_bytes_per_s: float | None
    planned: str
    """Of a variant: whether it may be planned, and why."""


class AnswerLengths(msgspec.Struct, forbid_unknown_fields=True):
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
    bytes_per_token: float


class Profiles(msgspec.Struct, forbid_unknown_fields=True):
    """What is known of every model on every pool that may serve it, and of answers."""

    object: Literal["batchsched.profiles"]
    profiles: list[PoolProfile]
    answers: list[AnswerLengths]

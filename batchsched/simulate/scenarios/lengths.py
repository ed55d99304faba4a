"""Batches of unlike requests: prompts and answers are as long as in traces of real services, and batches differ."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from batchsched.simulate.scenarios.scenario import Scenario
from batchsched.simulate.scene import INPUT_TOKENS, OUTPUT_TOKENS, Arrival, Scene

KINDS = {
    "Azure 2023, code": (2048.0, 28.0),
    "Azure 2023, conversation": (1155.0, 211.0),
    "Mooncake, conversation": (12035.0, 343.0),
    "ServeGen, m-small": (122.0, 19.0),
    "ServeGen, m-mid": (307.0, 51.0),
    "ServeGen, m-large": (914.0, 156.0),
}
"""Mean tokens of a prompt and of an answer: Azure's public traces of 2023, Mooncake (2024), ServeGen (2025)."""


def lengths(good: Scenario, seed: int) -> Scenario:
    """Each batch is of one of these services, with as many requests as take the time that it took before. Its answers are off
    what is usual there by as much as they were off before."""
    scene, kinds = good.scene, list(KINDS)
    drawn = np.random.default_rng([seed, scene.days, 5]).integers(0, len(kinds), len(scene.arrivals))
    arrivals = [_of_kind(scene, one, *KINDS[kinds[n]]) for one, n in zip(scene.arrivals, drawn.tolist(), strict=True)]
    changed = msgspec.structs.replace(scene, arrivals=arrivals)
    return msgspec.structs.replace(good, name=f"{good.name}, lengths of real services", scene=changed)


def _of_kind(scene: Scene, one: Arrival, asked: float, answered: float) -> Arrival:
    """Where it may run, all replicas together do its work in the same time."""
    usual, its = (_rate(scene, one, *tokens) for tokens in ((INPUT_TOKENS, OUTPUT_TOKENS), (asked, answered)))
    return msgspec.structs.replace(
        one,
        requests=max(1, round(one.requests * its / usual)),
        input_tokens=asked,
        output_tokens=answered * one.output_tokens / OUTPUT_TOKENS,
        expected_output_tokens=answered,
    )


def _rate(scene: Scene, one: Arrival, asked: float, answered: float) -> float:
    """Requests a second."""
    counts = {pool: scene.fleet.pools[pool].count for pool in one.pools}
    return math.fsum(many / scene.profiles[one.model, pool].seconds(asked, answered) for pool, many in counts.items())

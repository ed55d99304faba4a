"""What replicas wait for the network between the home site and their own: seconds, and gigabytes."""

from __future__ import annotations

import math
from collections.abc import Mapping

from batchsched.fleet import Fleet
from batchsched.sizes import size_of
from batchsched.transfers import BYTES_PER_ANSWER_TOKEN

BYTES_PER_TOKEN = 4
"""Of prompts, as whoever estimates them assumes."""
LINE_BYTES = 150
"""JSON around a prompt, likewise."""


def gigabyte_s(fleet: Fleet, pool: str) -> float:
    """Seconds of a gigabyte; 0 at home, and where the site does not say."""
    site = fleet.pools[pool].site
    rate = fleet.sites[site].network_gb_per_s
    return 0.0 if site == fleet.home_site or not rate else 1.0 / rate


def weights_s(fleet: Fleet, model: str, pool: str) -> float:
    """Seconds until a model's weights are there."""
    size = size_of(fleet.models[model].path, fleet.models[model].parameters_b)
    return gigabyte_s(fleet, pool) * (size.weight_bytes / 1e9 if size else 0.0)


class Weights:
    """Where models' weights are: at a site, once a pool of it has fetched them; until then all of its engines wait for that."""

    def __init__(self, fleet: Fleet, stand: Mapping[str, str]) -> None:
        """`stand`: by pool, the model that its servers have from the beginning."""
        self._fleet = fleet
        self._come_s = {(fleet.pools[pool].site, model): -math.inf for pool, model in stand.items()}

    def missing_s(self, model: str, pool: str, now_s: float) -> float:
        """For how long an engine that starts at that time would wait for them."""
        come_s = self._come_s.get((self._fleet.pools[pool].site, model))
        return weights_s(self._fleet, model, pool) if come_s is None else max(0.0, come_s - now_s)

    def fetch_s(self, model: str, pool: str, now_s: float) -> float:
        """The same of one that does start then: whoever is the first at its site has them fetched."""
        seconds = self.missing_s(model, pool, now_s)
        self._come_s.setdefault((self._fleet.pools[pool].site, model), now_s + seconds)
        return seconds


def files_s(fleet: Fleet, pool: str, input_tokens: float, output_tokens: float, *, requests: int = 1) -> float:
    """Seconds of the files of requests that have so many tokens in all, there and back."""
    width = LINE_BYTES * requests + BYTES_PER_TOKEN * input_tokens
    return gigabyte_s(fleet, pool) * (width + BYTES_PER_ANSWER_TOKEN * output_tokens) / 1e9

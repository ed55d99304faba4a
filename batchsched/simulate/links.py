"""What replicas wait for the network between the home site and their own: seconds, and gigabytes."""

from __future__ import annotations

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


def files_s(fleet: Fleet, pool: str, input_tokens: float, output_tokens: float, *, requests: int = 1) -> float:
    """Seconds of the files of requests that have so many tokens in all, there and back."""
    width = LINE_BYTES * requests + BYTES_PER_TOKEN * input_tokens
    return gigabyte_s(fleet, pool) * (width + BYTES_PER_ANSWER_TOKEN * output_tokens) / 1e9

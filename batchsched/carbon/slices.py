"""A report's sums in slices: by chunk, batch, tenant, pool, site, or by request; and its SCI score.

SCI: Software Carbon Intensity, ISO/IEC 21031: (operational + embodied) over a functional unit, here a request and 1,000 tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from batchsched.carbon.hardware import Range
from batchsched.carbon.report import Report


class Sci(msgspec.Struct, frozen=True):
    """Grams of operational and embodied carbon over a unit: by the low, mid and high figures of the hardware."""

    g_per_request: Range | None
    g_per_1000_tokens: Range | None


class Slice(msgspec.Struct, frozen=True):
    """One part of what a report sums up. The parts' joules add up to the whole's, their grams too; unknown is never zero."""

    name: str
    requests: int
    input_tokens: int
    output_tokens: int
    busy_s: float
    energy_j: float
    operational_g: float | None
    unknown_energy_j: float
    unmeasured_s: float
    embodied_g: Range | None
    sci: Sci | None


class RequestShare(msgspec.Struct, frozen=True):
    """A request's share of its chunk, by the tokens that were computed for it. `custom_id` as in the input file."""

    custom_id: str
    chunk_id: str
    input_tokens: int
    output_tokens: int
    energy_j: float
    operational_g: float | None
    embodied_g: Range | None


class Answered(NamedTuple):
    """A request that came back, and what was computed for it."""

    custom_id: str
    input_tokens: int
    cached_tokens: int
    output_tokens: int


def sci(report: Report) -> Sci | None:
    """The score; None where part of the energy, the grid or the hardware is unknown."""
    whole = not (report.unknown_energy_j or report.unmeasured_s or report.embodied_unknown_s)
    if not whole or report.operational_g is None or report.embodied_g is None:
        return None
    grams = report.embodied_g + Range(report.operational_g, report.operational_g, report.operational_g)
    tokens = report.input_tokens + report.output_tokens
    return Sci(
        grams.scaled(1 / report.requests) if report.requests else None,
        grams.scaled(1000 / tokens) if tokens else None,
    )


def sliced(name: str, report: Report) -> Slice:
    """The slice that this report is of."""
    same = {field: getattr(report, field) for field in Slice.__struct_fields__ if field not in {"name", "sci"}}
    return Slice(name=name, sci=sci(report), **same)


def shared(chunk_id: str, report: Report, answered: Iterable[Answered]) -> list[RequestShare]:
    """What each request of a chunk cost. The shares add up to the chunk's report; where no token was counted they are equal."""
    requests = list(answered)
    weights = [float(max(0, each.input_tokens - each.cached_tokens) + each.output_tokens) for each in requests]
    weights = weights if sum(weights) else [1.0] * len(requests)
    total = sum(weights)
    return [
        RequestShare(
            each.custom_id,
            chunk_id,
            each.input_tokens,
            each.output_tokens,
            report.energy_j * weight / total,
            None if report.operational_g is None or report.unknown_energy_j else report.operational_g * weight / total,
            report.embodied_g.scaled(weight / total) if report.embodied_g else None,
        )
        for each, weight in zip(requests, weights, strict=True)
    ]

"""Reading (prefill) and writing (decoding) told apart: seconds and joules for a token of each, at full load.

By regression over trials at full load: the time of a trial is taken for a sum,

    seconds = a x input tokens + b x output tokens

and its energy likewise. Prompts with one token to answer pin down `a`, short prompts with long answers `b`. Errors count as
shares of the figure, so that long trials do not outweigh short ones. A phase whose 95 % interval reaches zero is not told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from batchsched.profiles.trials import Figure, t95
from batchsched.wire import Trial


class Phases(msgspec.Struct, frozen=True):
    """Per token; None where the trials cannot tell."""

    prefill_s: Figure | None = None
    decode_s: Figure | None = None
    prefill_j: Figure | None = None
    decode_j: Figure | None = None


def phases(trials: Sequence[Trial]) -> Phases:
    """Of one model on one pool in one setting; trials at a rate, with unanswered requests or on shared GPUs are left out."""
    useful = [trial for trial in trials if trial.probe.qps is None and not trial.unanswered and trial.mark != "shared"]
    prefill_s, decode_s = _split([(trial.input_tokens, trial.output_tokens, trial.seconds) for trial in useful])
    energies = [(trial.input_tokens, trial.output_tokens, trial.total_j) for trial in useful if trial.total_j]
    prefill_j, decode_j = _split(energies)
    return Phases(prefill_s, decode_s, prefill_j, decode_j)


def _split(rows: Sequence[tuple[float, float, float]]) -> tuple[Figure | None, Figure | None]:
    """(x1, x2, y) to the two coefficients of y = b1 x1 + b2 x2, least squares of relative errors."""
    scaled = [(x1 / y, x2 / y) for x1, x2, y in rows if y > 0]
    freedom = len(scaled) - 2
    s11, s22 = math.fsum(x * x for x, _ in scaled), math.fsum(x * x for _, x in scaled)
    s12 = math.fsum(x1 * x2 for x1, x2 in scaled)
    determinant = s11 * s22 - s12 * s12
    if freedom < 1 or determinant <= 1e-9 * s11 * s22:  # all of one mix: nothing tells the two apart
        return None, None
    t1, t2 = math.fsum(x for x, _ in scaled), math.fsum(x for _, x in scaled)
    b1, b2 = (s22 * t1 - s12 * t2) / determinant, (s11 * t2 - s12 * t1) / determinant
    residual = math.fsum((1 - b1 * x1 - b2 * x2) ** 2 for x1, x2 in scaled) / freedom
    return _told(b1, residual * s22 / determinant, freedom), _told(b2, residual * s11 / determinant, freedom)


def _told(value: float, variance: float, freedom: int) -> Figure | None:
    half = t95(freedom) * math.sqrt(variance)
    return Figure(value, half / value) if value > half else None

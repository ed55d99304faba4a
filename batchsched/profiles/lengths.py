"""How many tokens the rest of a batch will take, and how sure that is.

Before anything ran: from the size of the file and what the lines ask for. Then: from what has been answered.
"""

from __future__ import annotations

import math

import msgspec

from batchsched.profiles.answers import LEVEL_WEIGHT, Answers, Expected, text_bytes

LIMIT_SHARE = 0.6
"""Answers end before their limit more often than not; a guess between a half and all."""
SIGMA_LIMIT = 0.35
"""Spread of log(tokens) before anything ran, where all answers are limited."""
SIGMA_ONE = 0.8
"""Spread of the mean that one answered request leaves (lengths within a batch are about as spread as their mean)."""


UNKNOWN = Answers().expected("", "", "")
"""Answers of which nothing is known."""


class Lengths(msgspec.Struct, frozen=True):
    """Expected tokens of a number of requests. `sigma`: standard deviation of log(tokens), this batch's alone."""

    input_tokens: float
    output_tokens: float
    sigma: float


def estimate(input_bytes: int, lines: int, max_tokens_total: int | None = None, answers: Expected | None = None) -> Lengths:
    """Tokens of `lines` requests in `input_bytes` of JSONL.

    `max_tokens_total`: sum of the answers' limits, if all have one; `answers`: what earlier ones, and their prompts, let
    expect.
    """
    known = answers or UNKNOWN
    limit = max_tokens_total / lines if max_tokens_total is not None and lines else None
    mean, sigma = _outputs(known, lines, limit)
    return Lengths(text_bytes(input_bytes, lines) / known.bytes_per_token, mean * lines, sigma)


def _outputs(answers: Expected, lines: int, limit: float | None) -> tuple[float, float]:
    """Tokens an answer, and the spread of their logarithm. A limit is also a hint, as long as no answers speak for themselves:
    halfway between the answers that are usual and what the limit suggests, and as spread as the two are apart."""
    mean, sigma = answers.mean(limit), answers.sigma(lines)
    if mean <= 0:
        return 0.0, SIGMA_LIMIT
    if limit is None:
        return mean, sigma
    doubt = LEVEL_WEIGHT / (LEVEL_WEIGHT + answers.answers)
    apart = math.log(max(1.0, LIMIT_SHARE * limit) / mean) / 2
    return min(limit, mean * math.exp(doubt * apart)), (1 - doubt) * sigma + doubt * max(SIGMA_LIMIT, abs(apart))


def refine(before: Lengths, lines: int, done: int, done_input_tokens: int, done_output_tokens: int) -> Lengths:
    """Tokens of the `lines - done` requests that are left, given what `done` of them took.

    `before`: the estimate for all `lines`. The mean seen so far replaces the estimate as evidence grows; the first lines of a
    file may differ from the rest, so some spread stays.
    """
    left = max(0, lines - done)
    if lines <= 0 or left == 0:
        return Lengths(0.0, 0.0, 0.0)
    if done <= 0:
        return before
    evidence = (SIGMA_ONE**2) / done
    trust = before.sigma**2 / (before.sigma**2 + evidence) if before.sigma > 0 else 0.0
    sigma = math.sqrt(before.sigma**2 * (1 - trust) + 0.05**2)

    def blend(expected: float, seen: int) -> float:
        """Tokens a request, weighed on the logarithm as the spreads are, for all that are left."""
        if expected <= 0:
            return left * seen / done
        return left * math.pow(max(seen, 0.5) / done, trust) * math.pow(expected / lines, 1 - trust)

    return Lengths(blend(before.input_tokens, done_input_tokens), blend(before.output_tokens, done_output_tokens), sigma)

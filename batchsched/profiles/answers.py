"""How long answers will be, and how many tokens a prompt has: by tenant, model and endpoint, from what was answered.

Answers are counted by length class. What a tenant's own answers do not say is filled from everybody's answers of the model at
that endpoint, and from the usual answer where there are none: each level counts as a few answers of the next. A batch is not a
draw of single answers: all of it may be short or long, so its mean spreads as the means of earlier batches do. Bytes a token of
the prompts are learnt alike, as one figure.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import msgspec

from batchsched.units import class_end, length_class

LEVEL_WEIGHT = 20.0
"""Answers that a level of the hierarchy counts as at the one below it."""
HALF_LIFE = 5000.0
"""Answers after which an older one counts half."""
BETWEEN = 0.5
"""Spread of the logarithm of a batch's mean length, of which nothing is known."""
BETWEEN_WEIGHT = 2.0
"""Batches that this assumption counts as."""
EMBEDDINGS = "/v1/embeddings"
BYTES_PER_TOKEN = 4.0
"""Of prompts where nothing is known: English text, roughly; code and other scripts have less. A rule of thumb."""
LINE_OVERHEAD_BYTES = 150
"""JSON around one short chat request: custom_id, method, url, model, roles."""

# 5th, 25th, 50th, 75th, 95th and 99th percentile of output tokens: ShareGPT (2023, Helix's sample), Azure's code and conversation
# traces (2023), Mooncake's conversations (2024), ServeGen's m-large and m-mid (2025), arXiv summaries (vidur's filter, 2024).
# Single figures computed from those publications, each workload counted the same.
USUAL = (
    (30, 128, 217, 308, 483, 607),
    (7, 9, 13, 24, 90, 252),
    (41, 85, 129, 395, 451, 601),
    (10, 157, 350, 472, 698, 1119),
    (8, 8, 56, 216, 536, 872),
    (8, 24, 40, 56, 136, 392),
    (60, 115, 167, 242, 736, 3271),
)
_SHARES = (0.05, 0.25, 0.50, 0.75, 0.95, 0.99)
Counts = Mapping[int, float]


class Expected(msgspec.Struct, frozen=True):
    """The answers to expect of a batch. `shares`: of answers, by length class. `between`: spread of the logarithm of its mean."""

    shares: dict[int, float]
    between: float
    answers: float
    """Own ones that this stands on, old ones counting less."""
    bytes_per_token: float = BYTES_PER_TOKEN
    """Of the prompts' text."""

    def mean(self, limit: float | None = None) -> float:
        """Tokens an answer; with a limit, longer ones end there."""
        return sum(share * min(_middle(number), limit or math.inf) for number, share in self.shares.items())

    def quantile(self, share: float) -> float:
        """Tokens that this share of answers stays within."""
        left = share
        for number, mine in sorted(self.shares.items()):
            if left <= mine:
                end, begin = class_end(number), class_end(number - 1)
                return begin * math.pow(end / begin, left / mine)
            left -= mine
        return class_end(max(self.shares, default=0))

    def sigma(self, requests: int) -> float:
        """Spread of the logarithm of the mean of that many answers."""
        mean = self.mean()
        if not mean:
            return 0.0
        within = sum(share * (_middle(number) / mean - 1) ** 2 for number, share in self.shares.items())
        return math.sqrt(self.between**2 + within / max(1, requests))


class Answers:
    """What is known of answers. Rows as queue.ledger.answers has them, newest first: `tenant`, `model`, `endpoint`, `batch_id`,
    `lengths` (answers by class) and, where prompts are to teach too, `requests`, `input_tokens` and `line_bytes`."""

    def __init__(self, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        self._own: dict[tuple[str, str, str], dict[int, float]] = defaultdict(lambda: defaultdict(float))
        self._all: dict[tuple[str, str], dict[int, float]] = defaultdict(lambda: defaultdict(float))
        self._counted: dict[tuple[str, ...], float] = defaultdict(float)
        self._batches: dict[tuple[str, str, str], dict[str, tuple[float, float]]] = defaultdict(dict)
        self._prompts: dict[tuple[str, ...], tuple[float, float, float]] = {}
        """Requests, bytes of text and tokens, old ones counting less: of a tenant's key, and of everybody's."""
        for row in rows:
            self._add(row)

    def _add(self, row: Mapping[str, Any]) -> None:
        key = (row["tenant"], row["model"], row["endpoint"])
        self._add_prompts(key, row)
        if not row["lengths"]:
            return
        found = {int(number): float(count) for number, count in row["lengths"].items()}
        for of, counts in ((key, self._own[key]), (key[1:], self._all[key[1:]])):
            weight = 0.5 ** (self._counted[of] / HALF_LIFE)
            self._counted[of] += sum(found.values())
            for number, count in found.items():
                counts[number] += weight * count
        count, tokens = self._batches[key].get(row["batch_id"], (0.0, 0.0))
        more = sum(n * _middle(number) for number, n in found.items())
        self._batches[key][row["batch_id"]] = (count + sum(found.values()), tokens + more)

    def _add_prompts(self, key: tuple[str, str, str], row: Mapping[str, Any]) -> None:
        """Requests that failed have no tokens; where others have answers, only those count."""
        requests, tokens = sum((row["lengths"] or {}).values()) or row.get("requests", 0), row.get("input_tokens", 0)
        if not (requests and tokens):
            return
        mine = (requests, text_bytes(requests * row["line_bytes"], requests), tokens)
        for of in (key, key[1:]):
            known = self._prompts.get(of, (0.0, 0.0, 0.0))
            weight = 0.5 ** (known[0] / HALF_LIFE)
            count, text, total = (before + weight * more for before, more in zip(known, mine, strict=True))
            self._prompts[of] = (count, text, total)

    def of_tenant(self, tenant: str) -> list[tuple[str, str]]:
        """Models and endpoints from which a tenant had answers."""
        return sorted((model, endpoint) for whose, model, endpoint in self._own if whose == tenant)

    def expected(self, tenant: str, model: str, endpoint: str) -> Expected:
        """The answers and prompts of a tenant's next batch."""
        key = (tenant, model, endpoint)
        ratio = self._bytes_per_token(key, self._bytes_per_token(key[1:], BYTES_PER_TOKEN))
        if endpoint == EMBEDDINGS:
            return Expected({}, 0.0, 0.0, ratio)
        shared = _blend(self._all.get((model, endpoint), {}), usual())
        own = self._own.get(key, {})
        return Expected(_blend(own, shared), self._between(key), sum(own.values()), ratio)

    def _bytes_per_token(self, of: tuple[str, ...], parent: float) -> float:
        count, text, tokens = self._prompts.get(of, (0.0, 0.0, 0.0))
        return (text / tokens * count + LEVEL_WEIGHT * parent) / (count + LEVEL_WEIGHT) if tokens else parent

    def _between(self, key: tuple[str, str, str]) -> float:
        means = [math.log(tokens / count) for count, tokens in self._batches.get(key, {}).values() if count >= 1 and tokens > 0]
        middle = sum(means) / len(means) if means else 0.0
        squares = sum((mean - middle) ** 2 for mean in means)
        # One degree of freedom goes to the mean, which is not known either.
        found = (BETWEEN_WEIGHT * BETWEEN**2 + squares) / (BETWEEN_WEIGHT + max(0, len(means) - 1))
        return math.sqrt(found * (1 + 1 / max(1, len(means))) if means else found)


def text_bytes(line_bytes: float, lines: int) -> float:
    """What prompts have of so many bytes of JSON in so many lines; at least a byte each."""
    return max(line_bytes - LINE_OVERHEAD_BYTES * lines, lines)


def usual() -> dict[int, float]:
    """The usual answer, where nothing is known: shares by length class, from published workloads."""
    shares: dict[int, float] = defaultdict(float)
    for percentiles in USUAL:
        points = [(0.0, percentiles[0] / 2), *zip(_SHARES, percentiles, strict=True), (1.0, percentiles[-1] * 1.5)]
        for (low, begin), (high, end) in pairwise(points):
            for step in range(10):
                at = begin * math.pow(end / begin, (step + 0.5) / 10)
                shares[length_class(round(at))] += (high - low) / 10 / len(USUAL)
    return dict(shares)


def _blend(own: Counts, parent: Counts) -> dict[int, float]:
    total = sum(own.values()) + LEVEL_WEIGHT
    return {n: (own.get(n, 0.0) + LEVEL_WEIGHT * parent.get(n, 0.0)) / total for n in own.keys() | parent.keys()}


def _middle(number: int) -> float:
    """Tokens of an answer of this class: the whole numbers in it, in the mean."""
    low, high = math.ceil(class_end(number - 1) - 1e-9), math.ceil(class_end(number) - 1e-9) - 1
    return (low + high) / 2 if high >= low else class_end(number - 1)

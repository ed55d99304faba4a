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
from functools import cache, cached_property
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


class Expected(msgspec.Struct, frozen=True, dict=True):
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
        return math.sqrt(self.between**2 + self._within / max(1, requests)) if self.shares else 0.0

    @cached_property
    def _within(self) -> float:
        """The square of an answer's deviation over the mean."""
        mean = self.mean()
        return sum(share * (_middle(number) / mean - 1) ** 2 for number, share in self.shares.items())


class _Seen(msgspec.Struct, frozen=True):
    """Answers of one kind by class, the logarithm of each batch's mean length, and of prompts the requests, bytes of text and
    tokens; of answers and prompts old ones count less."""

    counts: dict[int, float]
    means: list[float]
    prompts: tuple[float, float, float]

    def bytes_per_token(self, parent: float) -> float:
        """Of prompts; `parent`: what stands for some of them."""
        count, text, tokens = self.prompts
        return (text / tokens * count + LEVEL_WEIGHT * parent) / (count + LEVEL_WEIGHT) if tokens else parent


class Answers:
    """What is known of answers: of a kind, which is (tenant, model, endpoint), and of everybody's, (model, endpoint).

    Rows as queue.ledger.answers has them, newest first: `batch_id`, `lengths` (answers by class) and, where prompts are to teach
    too, `requests`, `input_tokens` and `line_bytes`.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        """Rows that name their `tenant`, `model` and `endpoint` also."""
        self._seen: dict[tuple[str, ...], _Seen] = {}
        self._expected: dict[tuple[str, str, str, bool], Expected] = {}
        kinds: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
        for row in rows:
            kinds[row["tenant"], row["model"], row["endpoint"]].append(row)
            kinds[row["model"], row["endpoint"]].append(row)
        for kind, its in kinds.items():
            self.learn(kind, its)

    def knows(self, kind: tuple[str, ...]) -> bool:
        """Was it learnt, if only that there are none?"""
        return kind in self._seen

    def learn(self, kind: tuple[str, ...], rows: Sequence[Mapping[str, Any]]) -> None:
        """These rows are what is known of a kind."""
        counts: dict[int, float] = defaultdict(float)
        of_batch: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
        counted = 0.0
        for row in rows:
            found = {int(number): float(count) for number, count in (row["lengths"] or {}).items()}
            weight = 0.5 ** (counted / HALF_LIFE)
            counted += sum(found.values())
            for number, count in found.items():
                counts[number] += weight * count
            count, tokens = of_batch[row["batch_id"]]
            more = sum(n * _middle(number) for number, n in found.items())
            of_batch[row["batch_id"]] = (count + sum(found.values()), tokens + more)
        means = [math.log(tokens / count) for count, tokens in of_batch.values() if count >= 1 and tokens > 0]
        self._seen[kind] = _Seen(dict(counts), means, _prompts(rows))
        self._expected.clear()

    def expected(self, tenant: str, model: str, endpoint: str, *, alone: bool = False) -> Expected:
        """The answers and prompts of a tenant's next batch; `alone`: by its own and what is usual, nobody else's."""
        asked = tenant, model, endpoint, alone
        found = self._expected.get(asked)
        if found is None:
            found = self._expected[asked] = self._expect(*asked)
        return found

    def _expect(self, tenant: str, model: str, endpoint: str, alone: bool) -> Expected:
        own = self._seen.get((tenant, model, endpoint), _NONE)
        others = _NONE if alone else self._seen.get((model, endpoint), _NONE)
        ratio = own.bytes_per_token(others.bytes_per_token(BYTES_PER_TOKEN))
        if endpoint == EMBEDDINGS:
            return Expected({}, 0.0, 0.0, ratio)
        shares = _blend(own.counts, _blend(others.counts, usual()))
        return Expected(shares, _between(own.means), sum(own.counts.values()), ratio)


_NONE = _Seen({}, [], (0.0, 0.0, 0.0))


def _prompts(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """Requests that failed have no tokens; where others have answers, only those count."""
    known = (0.0, 0.0, 0.0)
    for row in rows:
        requests, tokens = sum((row["lengths"] or {}).values()) or row.get("requests", 0), row.get("input_tokens", 0)
        if requests and tokens:
            weight = 0.5 ** (known[0] / HALF_LIFE)
            more = (requests, text_bytes(requests * row["line_bytes"], requests), tokens)
            known = (known[0] + weight * more[0], known[1] + weight * more[1], known[2] + weight * more[2])
    return known


def _between(means: Sequence[float]) -> float:
    middle = sum(means) / len(means) if means else 0.0
    squares = sum((mean - middle) ** 2 for mean in means)
    # One degree of freedom goes to the mean, which is not known either.
    found = (BETWEEN_WEIGHT * BETWEEN**2 + squares) / (BETWEEN_WEIGHT + max(0, len(means) - 1))
    return math.sqrt(found * (1 + 1 / max(1, len(means))) if means else found)


def text_bytes(line_bytes: float, lines: int) -> float:
    """What prompts have of so many bytes of JSON in so many lines; at least a byte each."""
    return max(line_bytes - LINE_OVERHEAD_BYTES * lines, lines)


@cache
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


@cache
def _middle(number: int) -> float:
    """Tokens of an answer of this class: the whole numbers in it, in the mean."""
    low, high = math.ceil(class_end(number - 1) - 1e-9), math.ceil(class_end(number) - 1e-9) - 1
    return (low + high) / 2 if high >= low else class_end(number - 1)

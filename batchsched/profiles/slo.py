"""What online work asks of latency, and the loads at which configurations are profiled: GreenLLM's Table 2 (arXiv 2412.20322)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

ATTAINMENT_TARGET = 0.90
"""The share of requests that must keep both latencies, in GreenLLM's evaluation."""

SizeName = Literal["p25", "p50", "p75"]


class Slo(msgspec.Struct, frozen=True):
    """Longest time to the first token, and longest mean time for each token after it."""

    ttft_s: float
    tpot_s: float

    def attainment(self, latencies: Iterable[tuple[float, float]]) -> float | None:
        """The share of requests, given as (TTFT, TPOT) in seconds, that keep both; None where there are none."""
        kept = [ttft_s <= self.ttft_s and tpot_s <= self.tpot_s for ttft_s, tpot_s in latencies]
        return sum(kept) / len(kept) if kept else None


class Size(msgspec.Struct, frozen=True):
    """Tokens of one request."""

    input_tokens: int
    output_tokens: int


class Workload(msgspec.Struct, frozen=True):
    """A data set's requests by percentile of their lengths, with the latencies that its users expect."""

    task: str
    slo: Slo
    sizes: dict[SizeName, Size]
    saving_qps: tuple[float, float] | None
    """The rates between which the paper's text says that old GPUs save; None where it prints none. Its table has no rates."""


WORKLOADS: dict[str, Workload] = {
    "sharegpt": Workload("chatbot", Slo(0.200, 0.080), {"p25": Size(24, 24), "p50": Size(160, 140), "p75": Size(510, 357)}, None),
    "humaneval": Workload(
        "code completion", Slo(0.125, 0.200), {"p25": Size(108, 31), "p50": Size(136, 55), "p75": Size(182, 88)}, (0.5, 11)
    ),
    "longbench": Workload(
        "summarization", Slo(15.0, 0.150), {"p25": Size(1134, 201), "p50": Size(1495, 275), "p75": Size(1817, 352)}, (0.75, 2)
    ),
}


class Load(msgspec.Struct, frozen=True, order=True):
    """A row of the matrices: requests of one size at one rate."""

    workload: str
    size: SizeName
    qps: float

    def __str__(self) -> str:
        return f"{self.workload} {self.size} at {self.qps:g}/s"

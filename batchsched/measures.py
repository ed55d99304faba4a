"""What meters saw and profile runs measured, as servers, workers and the commands about profiles pass it on."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

Mode = Literal["standalone", "speculative", "prefill_decode", "draft_target"]
"""One GPU; drafts on the same GPU; prefill and decoding on two; drafts on one and the target on another."""
EnergySource = Literal["nvml_counter", "nvml_power", "rapl", "modelled", "unmeasured"]
EnergyMark = Literal["", "mig", "shared"]
"""What a GPU's figure must be read with: a slice's part of its board, by size; or a board that computed for others too."""
DRAFTED = ("drafts", "draft_tokens", "accepted_tokens")
"""What is counted of drafts, where a mode has such: how many, their tokens, and those of them that stayed."""


class Probe(msgspec.Struct, frozen=True):
    """Requests of one size that profile an engine. `qps`: how many arrive a second; None: as many at once as it takes."""

    name: str
    input_tokens: int
    output_tokens: int
    qps: float | None = None


class PartnerUse(msgspec.Struct, frozen=True):
    """What the other pool's engine took meanwhile, in a mode of two pools, and what went between the two.

    `seconds`: how long it worked, waited or stood ready for us. `sent_tokens`: those whose KV cache was sent, or that were
    drafted, in `sent_bytes`. `link_bytes_per_s`: bandwidth of the link between both as it was measured; None: it was not.
    """

    seconds: float
    energy_j: float
    energy_source: EnergySource
    host_j: float = 0.0
    host_source: EnergySource = "unmeasured"
    sent_bytes: float = 0.0
    sent_tokens: float = 0.0
    link_bytes_per_s: float | None = None


class Trial(msgspec.Struct, frozen=True):
    """One timed run of a probe on one replica.

    `setting`: engine, version, flags and meter; trials of different settings are never thrown together. `rest_w`: what the loaded
    engine draws while it does nothing, by the same meter. `latencies`: of each request (time to first token, time per further
    token), seconds; only for arrivals at a rate. `ttft_s`, `tpot_s`: their means; at full load by the engine's own counts.
    `drafts`: made in a mode that has such, of `draft_tokens` in all, of which `accepted_tokens` stayed.
    """

    id: str
    pool: str
    model: str
    setting: str
    probe: Probe
    started_at: datetime
    seconds: float
    requests: int
    unanswered: int
    input_tokens: int
    output_tokens: int
    energy_j: float
    energy_source: EnergySource
    host_j: float = 0.0
    host_source: EnergySource = "unmeasured"
    mark: EnergyMark = ""
    rest_w: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    latencies: list[tuple[float, float]] = []
    drafts: float = 0.0
    draft_tokens: float = 0.0
    accepted_tokens: float = 0.0
    partner: PartnerUse | None = None
    """In a mode of two pools; not in `energy_j` and `host_j`."""

    @property
    def total_j(self) -> float | None:
        """Of GPUs and host, the partner's too; None where it was not measured."""
        if "unmeasured" in {self.energy_source, self.partner.energy_source if self.partner else ""}:
            return None
        return self.energy_j + self.host_j + (self.partner.energy_j + self.partner.host_j if self.partner else 0.0)


class Trials(msgspec.Struct):
    """What a profile run measured: POST /trials. Each trial counts once, however often it is sent."""

    trials: list[Trial]

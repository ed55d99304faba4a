"""What repeated trials of a probe say, and what they cannot say.

A figure's spread is half the width of the 95 % confidence interval of its mean, as a share of the mean (Student's t). Trials are
repeated until every spread that matters is below a bound, or a limit is reached; what is above it then is named as noise and is
not passed on as knowledge.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev

import msgspec

from batchsched.profiles.slo import Slo
from batchsched.wire import Probe, Trial

SPREAD = 0.10
"""The default bound."""
LEAST, MOST = 3, 8
"""Repetitions."""
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


class Figure(msgspec.Struct, frozen=True):
    """A mean over trials; `spread` None with a single one."""

    mean: float
    spread: float | None


class Summary(msgspec.Struct, frozen=True):
    """One probe in one setting. Per-token figures count input and output tokens alike."""

    probe: Probe
    trials: int
    tokens_per_s: Figure
    power_w: Figure | None
    energy_j_per_token: Figure | None
    ttft_s: Figure | None
    tpot_s: Figure | None
    attainment: float | None
    """Share of requests that kept both latencies; one that was not answered kept none."""
    energy_source: str
    noise: list[str]
    """What cannot be told, in words; empty where all can."""


def t95(freedom: int) -> float:
    """Student's t at 97.5 %; beyond the table within 1 %."""
    return _T95[freedom - 1] if freedom <= len(_T95) else 1.96 + 2.6 / freedom


def figure(values: Iterable[float | None]) -> Figure | None:
    """The mean of what is known; None where one of them is not, or where there are none."""
    known = list(values)
    told = [value for value in known if value is not None]
    if not told or len(told) < len(known):
        return None
    mean = fmean(told)
    if len(told) == 1 or mean == 0:
        return Figure(mean, None)
    return Figure(mean, t95(len(told) - 1) * stdev(told) / math.sqrt(len(told)) / abs(mean))


def enough(trials: Sequence[Trial], bound: float = SPREAD, least: int = LEAST, most: int = MOST) -> bool:
    """Need this probe no further trial?"""
    return len(trials) >= most or (len(trials) >= least and not _unsettled(trials, bound))


def summarise(trials: Sequence[Trial], bound: float = SPREAD, slo: Slo | None = None) -> Summary:
    """Of one probe in one setting; at least one trial."""
    asked = sum(trial.requests + trial.unanswered for trial in trials)
    kept = slo.attainment([each for trial in trials for each in trial.latencies]) if slo else None
    answered = sum(len(trial.latencies) for trial in trials)
    tokens_per_s = figure(_tokens(trial) / trial.seconds for trial in trials)
    assert tokens_per_s is not None
    return Summary(
        probe=trials[0].probe,
        trials=len(trials),
        tokens_per_s=tokens_per_s,
        power_w=figure(_power_w(trial) for trial in trials),
        energy_j_per_token=figure(_energy_j_per_token(trial) for trial in trials),
        ttft_s=figure(trial.ttft_s for trial in trials),
        tpot_s=figure(trial.tpot_s for trial in trials) if trials[0].probe.output_tokens > 1 else None,
        attainment=None if kept is None else kept * answered / asked,
        energy_source=", ".join(sorted({trial.energy_source for trial in trials})),
        noise=[*_unsettled(trials, bound), *_idle_like(trials), *_disturbed(trials)],
    )


def _unsettled(trials: Sequence[Trial], bound: float) -> list[str]:
    """Figures whose spread is above the bound. At a given rate the throughput is the arrivals', and says nothing."""
    at_once = trials[0].probe.qps is None
    judged = {
        "throughput": figure(_tokens(trial) / trial.seconds for trial in trials) if at_once else None,
        "latency": None if at_once else figure(_latency_s(trial) for trial in trials),
        "energy a token": figure(_energy_j_per_token(trial) for trial in trials),
    }
    return [
        f"{name} is known to ±{found.spread:.0%} only (asked: ±{bound:.0%})"
        if found.spread is not None
        else f"{name} was measured once only"
        for name, found in judged.items()
        if found and (found.spread is None or found.spread > bound)
    ]


def _idle_like(trials: Sequence[Trial]) -> list[str]:
    """Power that cannot be told from that of an engine which does nothing."""
    power_w, rest_w = figure(_power_w(trial) for trial in trials), figure(trial.rest_w for trial in trials)
    if power_w is None or rest_w is None:
        return []
    uncertain_w = power_w.mean * (power_w.spread or 0.0) + rest_w.mean * (rest_w.spread or 0.0)
    if power_w.mean - rest_w.mean > max(uncertain_w, 0.01 * rest_w.mean):
        return []
    return [f"its power ({power_w.mean:.1f} W) cannot be told from that of an idle engine ({rest_w.mean:.1f} W)"]


def _disturbed(trials: Sequence[Trial]) -> list[str]:
    found: list[str] = []
    if any(trial.mark == "shared" for trial in trials):
        found.append("others used the GPU meanwhile")
    if trials[0].probe.qps is None and (lost := sum(trial.unanswered for trial in trials)):
        found.append(f"{lost} requests were not answered")
    return found


def _latency_s(trial: Trial) -> float | None:
    """Mean of whole requests: when each token comes depends on how the engine sends them."""
    if trial.ttft_s is None or trial.tpot_s is None:
        return None
    return trial.ttft_s + trial.tpot_s * (trial.probe.output_tokens - 1)


def _tokens(trial: Trial) -> int:
    return trial.input_tokens + trial.output_tokens


def _power_w(trial: Trial) -> float | None:
    return None if trial.total_j is None else trial.total_j / trial.seconds


def _energy_j_per_token(trial: Trial) -> float | None:
    return None if trial.total_j is None else trial.total_j / max(1, _tokens(trial))

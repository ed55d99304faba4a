"""Fit the constants of the prior to what others measured, and judge it on families of models that it did not see.

Least squares on the logarithm of the rates, then of the power, with a loss that outliers move little, and a weak pull towards
plausible values where the data say little. Each source and engine (a software era) has an overhead of its own, so that eras are
never compared; what hardware achieves is common to all. `--write` puts the constants into batchsched/profiles/fitted.py.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from batchsched.fleet import GPU_TYPES
from batchsched.profiles.roofline import Device, Engine, Software, Step, step
from benchmarks.prior_rows import DATA, Measured, measured

Vector = NDArray[np.float64]
FITTED = Path(__file__).resolve().parent.parent / "batchsched" / "profiles" / "fitted.py"
PRODUCT = "vllm"
"""The era that the product starts from: vLLM driven for throughput (LLM-Inference-Bench 2024)."""
OUTLIER = 0.15
"""Errors of a logarithm from which a row pulls no harder."""
FULL_SOURCE = 60
"""Rows; of a larger source each counts less, so that one source does not outweigh all others."""
SEEN_WITHOUT = 6
"""Steps of the fit without a family: it starts from the fit with all."""
TFLOPS = {"T4": 40.0, "V100": 80.0, "L4": 70.0, "A40": 80.0, "A100": 180.0, "L40S": 180.0, "H100": 400.0}
"""Where the search begins: of the order of half of what the tensor cores can do at best."""


class Constants:
    """Where each constant lies in a vector of logarithms, and what it is pulled towards."""

    def __init__(self, rows: Sequence[Measured]) -> None:
        self.eras = sorted({row.software for row in rows})
        self.devices = sorted({row.device for row in rows})
        eras, devices = len(self.eras), len(self.devices)
        at = [math.log(3e-3)] * eras + [math.log(2e-4)] * eras + [math.log(1e-4)] * eras
        self.speed = np.array(
            [*at, *[math.log(0.8)] * devices, *(math.log(TFLOPS[name]) for name in self.devices), math.log(5e-5), 0.0]
        )
        # The last, of experts, is held near 1: a mixture is never slower than a dense model of all its weights.
        self.speed_pull = np.array([*[1.5] * (3 * eras), *[0.08] * devices, *[0.6] * devices, 1.0, 0.15])
        self.power = np.array([*[math.log(0.3)] * devices, *[math.log(0.6)] * devices, math.log(0.7)])
        self.power_pull = np.array([*[0.4] * devices, *[0.4] * devices, 0.5])

    def software(self, speed: Vector, era: str) -> Software:
        """The overheads of an era."""
        eras, i = len(self.eras), self.eras.index(era)
        base, layer, request = (math.exp(speed[i + part * eras]) for part in range(3))
        return Software(base, layer, request, math.exp(speed[-2]), math.exp(speed[-1]))

    def device(self, speed: Vector, power: Vector, name: str) -> Device:
        """What a GPU type achieves and draws."""
        first, devices, i = 3 * len(self.eras), len(self.devices), self.devices.index(name)
        share, tflops = math.exp(speed[first + i]), math.exp(speed[first + devices + i])
        return Device(min(1.0, share), tflops, math.exp(power[i]), math.exp(power[devices + i]), math.exp(power[-1]))


def predicted(row: Measured, device: Device, software: Software) -> tuple[float, Step]:
    """Tokens a second of a row's kind, and the step that gives them."""
    engine = Engine(row.shape, GPU_TYPES[row.gpu], device, software, row.gpus)
    context = row.input_tokens + row.output_tokens / 2
    if row.kind == "prefill":
        prompts = row.in_flight * row.input_tokens
        taken = step(engine, decoding=0.0, context_tokens=0.0, prompt_tokens=prompts)
        return prompts / taken.seconds, taken
    running = engine.batch(row.in_flight, context) if row.kind == "run" else row.in_flight
    prompts = running * row.input_tokens / row.output_tokens if row.kind == "run" else 0.0
    taken = step(engine, decoding=running, context_tokens=context, prompt_tokens=prompts)
    return running / taken.seconds, taken


class Errors:
    """Logarithms of predicted over measured: rates, and watts where a row has them."""

    def __init__(self, rows: Sequence[Measured], constants: Constants, speed: Vector, power: Vector) -> None:
        software = {era: constants.software(speed, era) for era in constants.eras}
        devices = {name: constants.device(speed, power, name) for name in constants.devices}
        found = [predicted(row, devices[row.device], software[row.software]) for row in rows]
        self.rate = np.array([math.log(rate / row.tokens_per_s) for row, (rate, _) in zip(rows, found, strict=True)])
        self.watts = np.array(
            [math.log(s.power_w / r.power_w) if r.power_w else math.nan for r, (_, s) in zip(rows, found, strict=True)]
        )


def fitted(
    rows: Sequence[Measured], constants: Constants, begin: tuple[Vector, Vector] | None, steps: int
) -> tuple[Vector, Vector]:
    """Constants of speed, then of power, that suit these rows."""
    speed, power = begin or (constants.speed.copy(), constants.power.copy())
    count = {era: sum(row.software == era for row in rows) for era in constants.eras}
    weight = np.array([math.sqrt(FULL_SOURCE / max(FULL_SOURCE, count[row.software])) for row in rows])
    speed = _least(lambda x: Errors(rows, constants, x, power).rate, speed, constants.speed, constants.speed_pull, weight, steps)
    metered = [i for i, row in enumerate(rows) if row.power_w]
    some = [rows[i] for i in metered]
    power = _least(
        lambda x: Errors(some, constants, speed, x).watts, power, constants.power, constants.power_pull, weight[metered], steps
    )
    return speed, power


def _least(
    residuals: Callable[[Vector], Vector], begin: Vector, centre: Vector, pull: Vector, weight: Vector, steps: int
) -> Vector:
    """Levenberg-Marquardt on weighted residuals with a pseudo-Huber loss and a quadratic pull towards `centre`."""
    at, damping = begin, 1e-2
    found = residuals(at)
    cost = _cost(found, at, centre, pull, weight)
    for _ in range(steps):
        slope = np.stack([(residuals(at + 1e-4 * unit) - found) / 1e-4 for unit in np.eye(len(at))], axis=1)
        heavy = weight / np.sqrt(1 + (found / OUTLIER) ** 2)
        curve = slope.T @ (heavy[:, None] * slope) + np.diag((OUTLIER / pull) ** 2)
        downhill = slope.T @ (heavy * found) + (OUTLIER / pull) ** 2 * (at - centre)
        for _ in range(8):
            there = at - np.linalg.solve(curve + damping * np.diag(np.diag(curve)), downhill)
            new = residuals(there)
            if (new_cost := _cost(new, there, centre, pull, weight)) < cost:
                break
            damping *= 4
        else:
            return at
        gained, at, found, cost, damping = cost - new_cost, there, new, new_cost, max(damping / 5, 1e-6)
        if gained < 1e-5 * cost:
            break
    return at


def _cost(found: Vector, at: Vector, centre: Vector, pull: Vector, weight: Vector) -> float:
    loss = weight * 2 * OUTLIER**2 * (np.sqrt(1 + (found / OUTLIER) ** 2) - 1)
    return float(loss.sum() + (((at - centre) / pull) ** 2).sum() * OUTLIER**2)


class Judged:
    """What the prior says of every row when it was fitted without the row's family."""

    def __init__(self, rows: Sequence[Measured]) -> None:
        self.rows = list(rows)
        self.constants = Constants(rows)
        self.speed, self.power = fitted(rows, self.constants, None, 40)
        self.rate, self.watts, self.elsewhere = (np.full(len(rows), math.nan) for _ in range(3))
        for family in sorted({row.family for row in rows}):
            self._without(family)

    def _without(self, family: str) -> None:
        mine = [i for i, row in enumerate(self.rows) if row.family == family]
        others = [row for row in self.rows if row.family != family]
        speed, power = fitted(others, self.constants, (self.speed, self.power), SEEN_WITHOUT)
        held = Errors([self.rows[i] for i in mine], self.constants, speed, power)
        self.rate[mine], self.watts[mine] = held.rate, held.watts
        as_product = [self.rows[i]._replace(software=PRODUCT) for i in mine]
        self.elsewhere[mine] = Errors(as_product, self.constants, speed, power).rate

    @property
    def energy(self) -> Vector:
        """Logarithms of predicted over measured joules a token."""
        return np.asarray(self.watts - self.rate)

    def sigma(self) -> float:
        """Spread of log speed for a model and an engine that were both not seen: every era foretold as the product would,
        each with the same weight."""
        eras = {row.software for row in self.rows if row.kind == "run" and row.software not in {PRODUCT, "transformers-2023"}}
        squares = [
            statistics.mean(e**2 for e, r in zip(self.elsewhere, self.rows, strict=True) if r.software == era and r.kind == "run")
            for era in sorted(eras)
        ]
        return math.sqrt(statistics.mean(squares))


def median_pct(errors: Vector) -> float:
    """Median of the absolute relative errors, per cent."""
    known = errors[np.isfinite(errors)]
    return 100 * float(np.median(np.abs(np.exp(known) - 1))) if len(known) else math.nan


def show(judged: Judged, key: Callable[[Measured], str], title: str) -> None:
    """One line a group: rows, and the median absolute errors of what was held out."""
    print(f"\n{title:26} {'rows':>5} {'speed %':>8} {'power %':>8} {'J/token %':>10}")
    for name in sorted({key(row) for row in judged.rows}):
        mine = np.array([key(row) == name for row in judged.rows])
        figures = [median_pct(errors[mine]) for errors in (judged.rate, judged.watts, judged.energy)]
        told = ["-" if math.isnan(figure) else f"{figure:.1f}" for figure in figures]
        print(f"{name:26} {int(mine.sum()):>5} {told[0]:>8} {told[1]:>8} {told[2]:>10}")


_HEAD = '''"""What the prior's constants are: made by benchmarks/fit_prior.py, which reads them out of what others measured.

Sources, all of 2023 and 2024: the ml.energy leaderboard v1 and v2, LLM-Inference-Bench (Argonne), Splitwise-sim, Helix's layer
times, and MLPerf Inference v4.1 (speed only: its meter saw the whole system). Each engine of each source is an era of its own;
`VLLM` is that of vLLM in LLM-Inference-Bench. Not written by hand: run the script again with --write.
"""

from __future__ import annotations

from batchsched.profiles.roofline import Device, Software

'''


def write(judged: Judged) -> None:
    """Put the constants into the code."""
    constants, speed, power = judged.constants, judged.speed, judged.power
    soft = constants.software(speed, PRODUCT)
    figures = ", ".join(f"{x:.3g}" for x in (soft.base_s, soft.layer_s, soft.request_s, soft.link_s, soft.experts))
    about = "Seconds of its own: a step, a layer, a running request, a layer on each doubling of GPUs; and the factor of experts."
    lines = [f"VLLM = Software({figures})", f'"""{about}"""', "", "DEVICES = {"]
    for name in sorted(constants.devices, key=lambda name: GPU_TYPES[_example(name)].compute_capability):
        d = constants.device(speed, power, name)
        figures = ", ".join(f"{x:.3g}" for x in (d.bandwidth_share, d.tflops, d.static, d.memory, d.compute))
        lines.append(f'    "{name}": Device({figures}),')
    lines += [
        "}",
        '"""Achieved: share of bandwidth, TFLOP/s on 16-bit weights; of the power limit: static, memory and compute share."""',
    ]
    metered = sorted({row.device for row in judged.rows if row.power_w})
    lines += ["", f"METERED = frozenset({json.dumps(metered)})", '"""Whose power was measured; of the others it is as usual."""']
    lines += ["", f"SIGMA = {judged.sigma():.2f}"]
    lines += [
        '"""Spread of log speed where neither the model nor the engine was seen: every era foretold as if it were `VLLM`."""'
    ]
    FITTED.write_text(_HEAD + "\n".join(lines) + "\n")
    print(f"\nWritten: {FITTED}")


def _example(device: str) -> str:
    return next(name for name in GPU_TYPES if name.startswith(device))


def main() -> None:
    """Print the errors, and write the constants if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the constants into batchsched/profiles/fitted.py")
    asked = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"There is no measured data at {DATA}; name its folder in BATCHSCHED_DATA.")
    judged = Judged(measured())
    show(judged, lambda row: row.software, "era")
    show(judged, lambda row: row.gpu, "GPU")
    show(judged, lambda row: row.family, "family")
    show(judged, lambda _: "all", "")
    if asked.write:
        write(judged)


if __name__ == "__main__":
    main()

"""One table over models, GPUs, grids, engines and techniques, as CSV and picture; and Nguyen et al.'s questions answered by it.

Measured lines are of public tables (`prior_rows.py`), each model, GPU and engine at its most efficient batch. Modelled lines are
of the product's own roofline, which is also what it plans by before anything is measured, at one request and at many: 8-bit
weights halve what is read; a prefix cache leaves a share of the prompts unread; a draft model on the same GPU proposes tokens
that the target checks in one step. How often prompts are shared and drafts accepted is assumed (`SHARED`, `Drafts`); the watts of
T4, L4 and Ada GPUs were never measured and are as usual (`fitted.METERED`). Grids are GreenLLM's three, 17, 261 and 501 g/kWh,
since those of Nguyen et al. (arXiv 2501.01990) were not found. A PUE of 1.2; embodied carbon by busy time over 5 years, of the
GPUs and their share of a host.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from batchsched.carbon.embodied import charge_g
from batchsched.carbon.hardware import Range
from batchsched.carbon.models import Hardware
from batchsched.carbon.operational import operational_g
from batchsched.carbon.presets import GRIDS_G_PER_KWH, INTENSITY_G_PER_KWH
from batchsched.carbon.traffic import Drafts
from batchsched.fleet import GPU_TYPES
from batchsched.profiles.fitted import VLLM
from batchsched.profiles.prior import device
from batchsched.profiles.roofline import Engine, gpus_for, step
from batchsched.profiles.shape import Shape, shape
from batchsched.profiles.slo import WORKLOADS
from benchmarks.prior_rows import measured

PUE, LIFE_YEARS = 1.2, 5.0
SIZE = WORKLOADS["sharegpt"].sizes["p50"]
LOADS = (1.0, 64.0)
"""Requests in flight, where memory holds them."""
SHARED = 0.5
"""Share of prompt tokens that a prefix cache holds."""
DRAFTS, DRAFT_B = Drafts(), 1.0
GPUS = ("T4", "V100", "L4", "RTX-6000-Ada", "A100-40", "A100-80", "H100", "H200")
MODELS: dict[str, Shape] = {
    "Llama 1B": shape(1.0),
    "Llama 3B": shape(3.0),
    "Llama 7B": shape(6.74, layers=32, kv_bytes_per_token=2 * 2 * 4096 * 32),
    "Llama 8B": shape(8.03),
    "Llama 70B": shape(70.6, layers=80, kv_bytes_per_token=2 * 2 * 1024 * 80),
}
NGUYEN_MODELS, NGUYEN_OLD, NGUYEN_NEW = ("Llama 1B", "Llama 3B", "Llama 7B"), "T4", "RTX-6000-Ada"
Technique = Literal["16-bit", "8-bit", "prefix cache", "drafts"]


class Point(NamedTuple):
    """One way to serve one model. Rates and joules are of output tokens, prompts included in their cost."""

    model: str
    parameters_b: float
    gpu: str
    gpus: int
    engine: str
    technique: Technique
    offered: float
    """Requests that are there to be run at once."""
    in_flight: float
    """Of these, as many as memory holds."""
    tokens_per_s: float
    j_per_token: float
    how: Literal["measured", "modelled"]


class Line(NamedTuple):
    """A point on a grid: grams for 1,000 output tokens; None where no published embodied figure is known."""

    point: Point
    grid: str
    g_per_kwh: float
    operational_g: float
    embodied_g: Range | None


def points() -> list[Point]:
    """Measured ones first. Raises FileNotFoundError where the shared data is absent."""
    return [*best_measured(), *modelled()]


def lines(of: Sequence[Point], hardware: Hardware | None = None) -> list[Line]:
    """Every point on every grid."""
    known = hardware or Hardware()
    return [
        Line(point, grid, intensity, operational_g(1000 * point.j_per_token, PUE, intensity), _embodied(point, known))
        for point in of
        for grid, intensity in GRIDS_G_PER_KWH.items()
    ]


def write(of: Sequence[Line], path: Path) -> None:
    """As CSV, a row a line."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(
            [
                *Point._fields,
                "grid",
                "g_per_kwh",
                "operational_g_per_1k",
                *(f"embodied_g_per_1k_{end}" for end in ("low", "mid", "high")),
            ]
        )
        for line in of:
            embodied = [f"{getattr(line.embodied_g, end):.5g}" if line.embodied_g else "" for end in ("low", "mid", "high")]
            shown = [f"{value:.5g}" if isinstance(value, float) else value for value in line.point]
            rows.writerow([*shown, line.grid, f"{line.g_per_kwh:g}", f"{line.operational_g:.5g}", *embodied])


def nguyen() -> list[Line]:
    """1B, 3B and 7B on one new and one old GPU, modelled; embodied carbon of chip and memory alone, as the authors have it."""
    made = [_point(name, gpu, "16-bit", load, 1) for name in NGUYEN_MODELS for load in LOADS for gpu in (NGUYEN_NEW, NGUYEN_OLD)]
    by_chip = Hardware(model="sc23")
    return [line._replace(embodied_g=_charged(line.point, by_chip.gpu(line.point.gpu).kg)) for line in lines(made)]


def least(of: Sequence[Line]) -> dict[tuple[str, float, float], tuple[str, float]]:
    """The GPU that emits least, and how many times as much the next one does; by model, load and g/kWh."""
    found: dict[tuple[str, float, float], list[tuple[float, str]]] = {}
    for line in of:
        key = (line.point.model, line.point.offered, line.g_per_kwh)
        found.setdefault(key, []).append((total_g(line), line.point.gpu))
    ranked = {key: sorted(some) for key, some in found.items()}
    return {key: (first[1], second[0] / first[0]) for key, (first, second, *_) in ranked.items()}


def total_g(line: Line) -> float:
    """Running and making, the latter by the middle figure."""
    return line.operational_g + (line.embodied_g.mid if line.embodied_g else 0.0)


def best_measured() -> Iterator[Point]:
    """Each model, GPU and engine at the batch that takes least energy a token."""
    best: dict[tuple[str, str, str, float], Point] = {}
    for row in measured():
        if row.kind != "run" or not row.power_w:
            continue
        technique: Technique = "8-bit" if row.shape.bytes_per_parameter == 1.0 else "16-bit"
        joules = row.power_w / row.tokens_per_s
        point = Point(
            row.model,
            row.shape.parameters_b,
            row.gpu,
            row.gpus,
            row.software,
            technique,
            row.in_flight,
            row.in_flight,
            row.tokens_per_s,
            joules,
            "measured",
        )
        key = (row.software, row.model, row.gpu, row.shape.bytes_per_parameter)
        if key not in best or joules < best[key].j_per_token:
            best[key] = point
    yield from best.values()


def modelled() -> Iterator[Point]:
    """Every model on every GPU by every technique."""
    techniques: tuple[Technique, ...] = ("16-bit", "8-bit", "prefix cache", "drafts")
    for name, gpu, technique, load in itertools.product(MODELS, GPUS, techniques, LOADS):
        if technique != "drafts" or MODELS[name].parameters_b > 2 * DRAFT_B:
            yield _point(name, gpu, technique, load)


def _point(name: str, gpu: str, technique: Technique, load: float, gpus: int | None = None) -> Point:
    model, kind = MODELS[name], GPU_TYPES[gpu]
    if technique == "8-bit":
        model = shape(
            model.parameters_b, layers=model.layers, kv_bytes_per_token=model.kv_bytes_per_token, bytes_per_parameter=1.0
        )
    engine = Engine(model, kind, device(kind), VLLM, gpus or gpus_for(model, kind))
    running = engine.batch(load, _CONTEXT)
    rate, joules = _cycle(engine, running, SHARED if technique == "prefix cache" else 0.0, technique == "drafts")
    return Point(name, model.parameters_b, gpu, engine.gpus, "vLLM", technique, load, running, rate, joules, "modelled")


_CONTEXT = SIZE.input_tokens + SIZE.output_tokens / 2


def _cycle(engine: Engine, running: float, shared: float, drafting: bool) -> tuple[float, float]:
    """Output tokens a second and joules a token where requests come and go: each step also reads its share of new prompts."""
    gained = DRAFTS.tokens_per_round if drafting else 1.0
    prompts = running * gained * (1 - shared) * SIZE.input_tokens / SIZE.output_tokens
    checked = running * DRAFTS.tokens if drafting else 0.0
    one = step(engine, decoding=running, context_tokens=_CONTEXT, prompt_tokens=prompts + checked)
    seconds, joules = one.seconds, one.seconds * one.power_w
    if drafting:
        drafter = Engine(shape(DRAFT_B), engine.gpu, engine.device, engine.software, engine.gpus)
        draft = step(drafter, decoding=running, context_tokens=_CONTEXT, prompt_tokens=prompts / DRAFTS.tokens)
        seconds += DRAFTS.tokens * draft.seconds
        joules += DRAFTS.tokens * draft.seconds * draft.power_w
    return running * gained / seconds, joules / (running * gained)


def _embodied(point: Point, hardware: Hardware) -> Range | None:
    return _charged(point, hardware.replica_kg(point.gpu))


def _charged(point: Point, kg: Range | None) -> Range | None:
    """Grams of all its GPUs for the time that 1,000 tokens take."""
    busy_s = 1000 / point.tokens_per_s * point.gpus
    return kg.scaled(charge_g(1.0, busy_s, LIFE_YEARS, "whole_life")) if kg else None


def draw(of: Sequence[Line], asked: Sequence[Line], path: Path) -> None:
    """Techniques by GPU at 261 g/kWh; measured joules by the model's size; Nguyen's models on three grids."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(17, 4.6), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    techniques, sizes, grids = figure.subplots(1, 3)
    at_261 = [line for line in of if line.g_per_kwh == INTENSITY_G_PER_KWH]
    for technique, load in itertools.product(("16-bit", "8-bit", "prefix cache", "drafts"), LOADS):
        shown = [
            line
            for line in at_261
            if (line.point.model, line.point.technique, line.point.offered, line.point.how)
            == ("Llama 8B", technique, load, "modelled")
        ]
        _series(techniques, [line.point.gpu for line in shown], [line.operational_g for line in shown], f"{technique}, {load:g}")
    techniques.set(title="Llama 8B, g for 1,000 tokens at 261 g/kWh, modelled, by requests in flight", yscale="log")
    for engine in sorted({line.point.engine for line in of if line.point.how == "measured"}):
        chosen = [line.point for line in at_261 if line.point.how == "measured" and line.point.engine == engine]
        sizes.plot([one.parameters_b for one in chosen], [one.j_per_token for one in chosen], "o", ms=4, label=engine)
    sizes.set(title="measured joules a token, by billions of parameters", xscale="log", yscale="log")
    for gpu, load in itertools.product((NGUYEN_NEW, NGUYEN_OLD), LOADS):
        mine = [line for line in asked if line.point.gpu == gpu and line.point.offered == load]
        labels = [f"{line.point.model[6:]}, {line.g_per_kwh:g} g/kWh" for line in mine]
        _series(grids, labels, [total_g(line) for line in mine], f"{gpu}, {load:g}")
    grids.set(title="running and making, g for 1,000 tokens, modelled", yscale="log")
    for axis in (techniques, sizes, grids):
        axis.title.set_fontsize(9)
        axis.legend(fontsize=7)
    figure.savefig(path)


def _series(axis: Any, names: Sequence[str], values: Sequence[float], label: str) -> None:
    axis.plot(names, values, "o-", lw=0.8, ms=4, label=label)
    axis.tick_params(axis="x", labelrotation=40, labelsize=7)

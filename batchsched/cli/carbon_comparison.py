"""The picture of `batchsched carbon compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from batchsched.carbon.hardware import Estimate
from batchsched.carbon.whatif import Hour, Terms, hour
from batchsched.catalogue import Gpu
from batchsched.cli.carbon_pictures import panels

_INTENSITIES = range(0, 601, 20)


def draw(columns: Sequence[Mapping[str, Any]], terms: Terms, path: Path) -> None:
    """Embodied carbon by GPU and model on the left, grams an hour over the grid on the right."""
    figure, ((left, right),) = panels(1, 2)
    _embodied(left, columns)
    _over_the_grid(right, columns, terms)
    for axis in (left, right):
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=7, frameon=False)
    figure.savefig(path)


def _embodied(axis: Any, columns: Sequence[Mapping[str, Any]]) -> None:
    """A bar from low to high with its middle marked; models that know nothing of a GPU leave a gap."""
    models = list(columns[0]["embodied"])
    for i, model in enumerate(models):
        shift = (i - (len(models) - 1) / 2) * 0.13
        made: list[tuple[float, Estimate]] = [(at + shift, column["embodied"][model]) for at, column in enumerate(columns)]
        known = [(at, one.kg) for at, one in made if one.kg]
        lows = [kg.low for _, kg in known]
        bars = axis.bar([at for at, _ in known], [kg.high - kg.low for _, kg in known], 0.1, lows, alpha=0.4, color=f"C{i}")
        bars.set_label(model)
        axis.plot([at for at, _ in known], [kg.mid for _, kg in known], "_", color=f"C{i}", ms=7, mew=2)
    axis.set_xticks(range(len(columns)), [column["gpu"].name for column in columns])
    lowest = [one.kg.low for column in columns for one in column["embodied"].values() if one.kg and one.kg.low]
    axis.set_yscale("log")
    axis.set_ylim(bottom=0.8 * min(lowest, default=1.0))
    axis.set_title("embodied carbon, kgCO2e: low to high, middle marked", loc="left", fontsize=9)


def _over_the_grid(axis: Any, columns: Sequence[Mapping[str, Any]], terms: Terms) -> None:
    for i, column in enumerate(columns):
        gpu: Gpu = column["gpu"]
        kg = column["embodied"][column["model"]].kg
        hours = [hour(gpu, kg, msgspec.structs.replace(terms, intensity_g_per_kwh=at)) for at in _INTENSITIES]
        known: list[tuple[int, Hour]] = [(at, one) for at, one in zip(_INTENSITIES, hours, strict=True) if one]
        running = [one.operational_g for _, one in known]
        axis.plot([at for at, _ in known], running, color=f"C{i}", lw=1, ls=":" if kg else "-", label=None if kg else gpu.name)
        totals = [(at, one.total_g) for at, one in known if one.total_g]
        if totals:
            xs = [at for at, _ in totals]
            axis.plot(xs, [total.mid for _, total in totals], color=f"C{i}", lw=1.3, label=gpu.name)
            axis.fill_between(xs, [t.low for _, t in totals], [t.high for _, t in totals], color=f"C{i}", alpha=0.15, lw=0)
    axis.set_xlabel("grid, g/kWh", fontsize=8)
    axis.set_title(f"grams an hour, making ({columns[0]['model']}) included; dotted: running alone", loc="left", fontsize=9)

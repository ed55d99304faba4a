"""A picture of ways to serve a model, after GreenLLM's Figure 4: bandwidth, energy and kept latencies by rate, and full load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchsched.cli.carbon_pictures import panels

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchsched.profiles.modes import Side

_COLOURS = {"standalone": "#4c72b0", "speculative": "#55a868", "prefill_decode": "#c44e52", "draft_target": "#8172b2"}
_MARKS = "os^Dv<>P"
_MBIT = 8e-6


def of_modes(sides: Sequence[Side], path: Path) -> None:
    """Three panes by requests a second, a line for each way and request size; and one of the full load, a bar for each."""
    figure, ((link, energy), (kept, full)) = panels(2, 2)
    at_rates = [side for side in sides if side.probe.qps is not None]
    _by_rate(link, at_rates, lambda side: side.link_bytes_per_s and _MBIT * side.link_bytes_per_s)
    takes = sorted({_MBIT * side.link_takes_bytes_per_s for side in at_rates if side.link_takes_bytes_per_s})
    for number, mbit in enumerate(takes):
        link.axhline(mbit, color="#222222", ls=":", lw=1, label=None if number else "what the link takes")
    link.set(title="between the pools", ylabel="Mbit/s")
    if link.lines:
        link.set(yscale="log")
        link.legend(fontsize=6)
    _by_rate(energy, at_rates, lambda side: side.energy_j_per_token)
    energy.set(title="energy of both pools", ylabel="J/token", ylim=(0, None))
    _by_rate(kept, at_rates, lambda side: None if side.attainment is None else 100 * side.attainment)
    kept.set(title="requests that kept their latencies", ylabel="%", ylim=(-3, 103))
    for axis in (energy, kept):
        if axis.lines:
            axis.legend(fontsize=6)
    _bars(full, [side for side in sides if side.probe.qps is None])
    figure.savefig(path)


def _by_rate(axis: Any, sides: Sequence[Side], value: Callable[[Side], float | None]) -> None:
    """What is not known has no point."""
    lines: dict[tuple[str, str], list[Side]] = {}
    for side in sides:
        lines.setdefault((side.name, side.probe.name), []).append(side)
    sizes = list(dict.fromkeys(probe for _, probe in lines))
    for (name, probe), line in lines.items():
        points = sorted((side.probe.qps, y) for side in line if side.probe.qps is not None and (y := value(side)) is not None)
        if points:
            mark = _MARKS[sizes.index(probe) % len(_MARKS)]
            colour = _COLOURS[line[0].way.mode]
            axis.plot(*zip(*points, strict=True), color=colour, marker=mark, ms=4, lw=1.2, label=f"{name}, {probe}")
    axis.set(xlabel="requests a second")


def _bars(axis: Any, sides: Sequence[Side]) -> None:
    """Joules of a token at full load, those of the other pool hatched, and the tokens a second beside."""
    labels = [f"{side.probe.name}\n{side.name}" for side in sides]
    colours = [_COLOURS[side.way.mode] for side in sides]
    axis.barh(range(len(sides)), [side.energy_j_per_token or 0.0 for side in sides], color=colours)
    own = [side.own_j_per_token or 0.0 for side in sides]
    axis.barh(range(len(sides)), [side.partner_j_per_token for side in sides], left=own, fill=False, hatch="///", lw=0)
    for at, side in enumerate(sides):
        axis.text(side.energy_j_per_token or 0.0, at, f" {side.tokens_per_s:,.0f} tokens/s", va="center", fontsize=6)
    axis.set_yticks(range(len(sides)), labels, fontsize=6)
    axis.margins(x=0.3)
    axis.invert_yaxis()
    axis.set(title="full load (hatched: the other pool)", xlabel="J/token")

"""A picture of ways to serve a model, after GreenLLM's Figure 4: bandwidth, energy and kept latencies by load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from batchsched.cli.carbon_pictures import panels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchsched.profiles.modes import Side

_COLOURS = {"standalone": "#4c72b0", "speculative": "#55a868", "prefill_decode": "#c44e52", "draft_target": "#8172b2"}


def of_modes(sides: Sequence[Side], path: Path) -> None:
    """A bar for each way under each load; what was not measured has none."""
    figure, ((energy, speed), (kept, link)) = panels(2, 2)
    labels = [f"{side.load}\n{side.name}" for side in sides]
    colours = [_COLOURS[side.way.mode] for side in sides]
    panes = (
        (energy, "joules a token", [side.energy_j_per_token or 0.0 for side in sides]),
        (speed, "tokens a second", [side.tokens_per_s for side in sides]),
        (kept, "requests that kept their latencies, %", [100 * (side.attainment or 0.0) for side in sides]),
        (link, "between the pools, Mbit/s", [8e-6 * (side.link_bytes_per_s or 0.0) for side in sides]),
    )
    for axis, title, values in panes:
        axis.barh(range(len(sides)), values, color=colours)
        axis.set_yticks(range(len(sides)), labels, fontsize=6)
        axis.invert_yaxis()
        axis.set(title=title)
    for mode, colour in _COLOURS.items():
        if any(side.way.mode == mode for side in sides):
            energy.barh([0], [0], color=colour, label=mode)
    energy.legend(fontsize=7)
    figure.savefig(path)

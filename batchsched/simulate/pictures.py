"""Pictures of a simulation: what policies saved and missed, and a day of it: the grid's intensity and where the work went."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from batchsched.server.plot import drawn, finish
from batchsched.simulate.grid import HOUR, Floats, Grid
from batchsched.simulate.outcome import Outcome
from batchsched.simulate.scene import Scene
from batchsched.units import JOULES_PER_KWH

DAY_H = 24
_OURS, _FORESIGHT, _OTHERS, _NOW, _TRUE, _KNOWN = "#2e9e5b", "#a9d8bb", "#3b6fb6", "#c0504d", "#222222", "#3b6fb6"
_BAR_IN = 0.24


class Point(NamedTuple):
    """A policy: what it saved against running at once, and the share of batches that were late; per cent."""

    policy: str
    saved_pct: float
    missed_pct: float
    ours: bool = False


def points_of(found: Sequence[Outcome], now: str, ours: str) -> list[Point]:
    """Of outcomes on the same scene, among them those of the policies `now` and `ours`. What left work undone saved nothing that
    can be told, and has none; where that is `now`, nobody has."""
    base = next(one for one in found if one.policy == now)
    base_g = base.grams
    return [
        Point(one.policy, 100 * (1 - one.grams / base_g) if base_g else 0.0, 100 * one.missed_share, one.policy == ours)
        for one in found
        if one.complete and base.complete
    ]


def compared(title: str, points: Sequence[Point], kind: str = "svg") -> bytes:
    """A bar for each policy, the best on top; with what it missed, where it missed anything. Raises InvalidValue for any kind but
    png and svg."""
    ordered = sorted(points, key=lambda one: one.saved_pct)

    def panel(axis: Any) -> None:
        for place, one in enumerate(ordered):
            colour = _OURS if one.ours else _FORESIGHT if "foresight" in one.policy else _OTHERS
            axis.barh(place, one.saved_pct, color=colour, height=0.7)
            late = f"  {one.missed_pct:.1f} % late" if one.missed_pct > 0 else ""
            axis.text(max(one.saved_pct, 0.0), place, f" {one.saved_pct:.1f} %{late}", va="center", fontsize=8)
        axis.barh([0], [0], color=_OURS, label="ours")
        axis.barh([0], [0], color=_FORESIGHT, label="with perfect foresight")
        axis.barh([0], [0], color=_OTHERS, label="others")
        axis.set_yticks(range(len(ordered)), [one.policy for one in ordered])
        axis.axvline(0, color=_TRUE, lw=0.8)
        axis.margins(x=0.25, y=0.02)
        axis.set_ylim(-0.6, len(ordered) + 0.8)  # room for the legend
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)

    below = "saved against running at once, % of CO2e (simulated)"
    return drawn(title, [panel], below, kind, dates=False, panel_in=_BAR_IN * (len(ordered) + 3))


def day(title: str, scene: Scene, grid: Grid, now: Outcome, ours: Outcome, since_h: int, kind: str = "svg") -> bytes:
    """24 hours from `since_h` on, a panel a zone: the intensity that came true, what was forecast of it when they began, and the
    kilowatts of work there under both outcomes. Raises InvalidValue for any kind but png and svg."""
    known = grid.issued(since_h).mean
    powers = [kilowatts(one, scene, grid, since_h) for one in (now, ours)]
    most_kw = max((float(kw.max(initial=0.0)) for power in powers for kw in power.values()), default=0.0)
    start = grid.start + since_h * HOUR
    edges = [start + n * HOUR for n in range(DAY_H + 1)]

    def panel(axis: Any, zone: str) -> None:
        _steps(axis, edges, grid.truth[zone][since_h : since_h + DAY_H], color=_TRUE, lw=1.2, label="g/kWh, came true")
        _steps(axis, edges, known[zone][:DAY_H], color=_KNOWN, lw=1, ls=":", label="forecast at the beginning")
        for name, colour in (("at once", _NOW), (ours.policy, _OURS)):
            axis.fill_between([], [], color=colour, alpha=0.45, lw=0, label=f"kW, {name}")
        finish(axis, zone)
        right = axis.twinx()
        for power, colour in zip(powers, (_NOW, _OURS), strict=True):
            kw = power[zone]
            right.fill_between(edges, [*kw, kw[-1]], step="post", color=colour, alpha=0.45, lw=0)
        right.set_ylim(0, 1.6 * max(most_kw, 1e-9))
        right.tick_params(labelsize=7)
        right.spines["top"].set_visible(False)

    panels = [partial(panel, zone=zone) for zone in grid.zones]
    return drawn(title, panels, "time (UTC); g/kWh on the left, kW of work on the right (simulated)", kind, panel_in=1.4)


def kilowatts(outcome: Outcome, scene: Scene, grid: Grid, since_h: int) -> dict[str, Floats]:
    """Mean power of work and engines by zone, hour by hour, each stretch in the hours that it began in."""
    found: dict[str, Floats] = {zone: np.zeros(DAY_H) for zone in grid.zones}
    for one in outcome.work:
        hour = int(one.at_s // 3600) - since_h
        if 0 <= hour < DAY_H and one.pool in scene.fleet.pools:  # of a past that was, pools may be gone
            found[scene.fleet.zone_of(one.pool)][hour] += one.energy_j / JOULES_PER_KWH
    return found


def _steps(axis: Any, edges: Sequence[Any], values: Floats, **style: Any) -> None:
    axis.step(edges, [*values, values[-1]], where="post", **style)


def write(path: Path, picture: bytes) -> None:
    """Into a file; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture)

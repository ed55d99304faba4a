"""A plan drawn with letters: a row a pool, a column a stretch of time, shaded by use; below, each zone's intensity.

The height of a zone's bars is between its own least and most; colours compare zones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import click

from batchsched.units import format_duration, from_iso

SHADES = "·░▒▓█"
"""Nothing to do, and a quarter, half, three quarters, all of what is open."""
CLOSED = " "
LEVELS = "▁▂▃▄▅▆▇█"
COLOURS = ("green", "yellow", "red")
STEPS_S = (60, 300, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
LABEL_EVERY = 12
Row = list[float | None]
"""A value a column; None where there is none."""


class Grid:
    """The columns: equal stretches of a round length, as many as there is width for."""

    def __init__(self, edges: Sequence[datetime], columns: int) -> None:
        """`edges`: where the plan's slots begin, and where the last one ends."""
        self.start = edges[0]
        total_s = max(1.0, (edges[-1] - edges[0]).total_seconds())
        self.step_s = next((step for step in STEPS_S if total_s <= step * columns), total_s / columns)
        self.columns = max(1, round(total_s / self.step_s + 0.499))
        self._slots = [((a - self.start).total_seconds(), (b - self.start).total_seconds()) for a, b in pairwise(edges)]

    def sums(self, of_slots: Mapping[int, float]) -> list[float]:
        """What belongs to slots, spread over the columns by the time that they have in common."""
        out = [0.0] * self.columns
        for slot, value in of_slots.items():
            start, end = self._slots[slot]
            for column in range(int(start // self.step_s), min(self.columns, int(-(-end // self.step_s)))):
                common = min(end, (column + 1) * self.step_s) - max(start, column * self.step_s)
                out[column] += value * max(0.0, common) / max(1e-9, end - start)
        return out

    def means(self, of_slots: Sequence[float | None]) -> Row:
        """Means over the columns; None where nothing is known."""
        known = {t: value for t, value in enumerate(of_slots) if value is not None}
        length = {t: self._slots[t][1] - self._slots[t][0] for t in known}
        weighted, total = self.sums({t: known[t] * length[t] for t in known}), self.sums(length)
        return [a / b if b > 1e-9 else None for a, b in zip(weighted, total, strict=True)]

    def axis(self) -> str:
        """Hours, in the machine's time zone."""
        marks = range(0, self.columns, LABEL_EVERY)
        shape = "%H:%M" if self.step_s * LABEL_EVERY < 86400 else "%d %b"
        return "".join(f"{self.start + timedelta(seconds=c * self.step_s):{shape}}".ljust(LABEL_EVERY) for c in marks).rstrip()


def picture(plan: Mapping[str, Any], columns: int, *, colour: bool = False) -> list[str]:
    """The lines. `plan`: the server's answer."""
    if not plan.get("slots") or not plan.get("pools"):
        return []
    starts = [from_iso(at).astimezone() for at in plan["slots"]]
    slot_at = {at: t for t, at in enumerate(plan["slots"])}
    names = [*(pool["name"] for pool in plan["pools"]), *sorted({pool["zone"] for pool in plan["pools"]})]
    left = max(len(name) for name in names) + 2
    grid = Grid([*starts, from_iso(plan["end_at"]).astimezone()], max(24, columns - left - 16))
    zones = {pool["zone"]: grid.means(pool["intensity_g_per_kwh"]) for pool in plan["pools"]}
    known = [value for row in zones.values() for value in row if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    lines = [" " * left + grid.axis()]
    for pool in plan["pools"]:
        used: dict[int, float] = {}
        for use in [*plan["allotments"], *plan.get("loads", [])]:
            if use["pool"] == pool["name"]:
                used[slot_at[use["start_at"]]] = used.get(slot_at[use["start_at"]], 0.0) + use["seconds"]
        cells = _cells(grid, pool, used)
        tints = [_third(value, low, high) for value in zones[pool["zone"]]]
        lines.append(pool["name"].ljust(left) + _tinted(cells, tints, colour))
    for zone in sorted(zones):
        values = [value for value in zones[zone] if value is not None]
        cells = "".join("?" if value is None else _level(value, min(values), max(values)) for value in zones[zone])
        tints = [_third(value, low, high) for value in zones[zone]]
        span = f"  {min(values):.0f}-{max(values):.0f} g/kWh" if values else "  unknown"
        lines.append(zone.ljust(left) + _tinted(cells, tints, colour) + span)
    return [*lines, f"One column: {format_duration(grid.step_s)}. {SHADES[0]} idle, {SHADES[1:]} at work, blank: closed."]


def _cells(grid: Grid, pool: Mapping[str, Any], used: Mapping[int, float]) -> str:
    share = grid.means(pool["capacity"])
    seconds = grid.sums(used)
    cells = ""
    for replicas, busy_s in zip(share, seconds, strict=True):
        if not replicas or replicas <= 0:
            cells += CLOSED
        else:
            part = min(1.0, busy_s / (replicas * grid.step_s))
            cells += SHADES[0] if part <= 1e-6 else SHADES[min(4, 1 + int(part * 4 - 1e-9))]
    return cells


def _level(value: float, low: float, high: float) -> str:
    return LEVELS[min(7, int(8 * (value - low) / (high - low)))] if high > low else LEVELS[0]


def _third(value: float | None, low: float, high: float) -> int | None:
    return None if value is None else (min(2, int(3 * (value - low) / (high - low))) if high > low else 0)


def _tinted(cells: str, tints: Sequence[int | None], colour: bool) -> str:
    if not colour:
        return cells
    return "".join(
        cell if tint is None or cell in (CLOSED, SHADES[0]) else click.style(cell, fg=COLOURS[tint])
        for cell, tint in zip(cells, tints, strict=True)
    )

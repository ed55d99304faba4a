"""What each refinement of `benchmarks/ablations.py` came to: paired by week, and held against its opposite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
import numpy as np

from benchmarks.ablations_tried import RUN_NOW, Refinement
from benchmarks.carbon_rows import By
from benchmarks.paired import interval


class Half(msgspec.Struct, frozen=True):
    """A half-year: its weeks lie within these two instants."""

    name: str
    first: datetime
    last: datetime
    zones: tuple[str, ...]
    own: bool = False
    """Forecasts are our own models'; else CarbonCast's."""


class Asked(msgspec.Struct, frozen=True):
    """What all runs have in common. `base`: how it is planned, greedily or with the solver; `drawn`: without data, so that the
    weather is."""

    base: str = "greedy"
    by: By = "planner"
    days: int = 4
    load: float = 0.3
    drawn: bool = False


class Trial(msgspec.Struct, frozen=True):
    """A week and its batches."""

    half: Half
    week: datetime
    seed: int

    def __str__(self) -> str:
        return f"{self.half.name}, week of {self.week:%Y-%m-%d}"


class Run(msgspec.Struct, frozen=True):
    """One variant in one trial."""

    asked: Asked
    trial: Trial
    variant: str

    def __str__(self) -> str:
        return f"{self.trial}, {self.variant}"


class Row(msgspec.Struct, frozen=True):
    """What it came to."""

    run: Run
    grams: float
    missed_pct: float
    engine_starts: int
    moved: float
    planning_s: float
    """A plan."""
    took_s: float
    """By the clock."""

    def __str__(self) -> str:
        return f"{self.run}: {self.grams / 1000:.2f} kg, {self.missed_pct:.1f} % late, {self.took_s:.0f} s"


def by_trial(rows: Iterable[Row]) -> list[dict[str, Row]]:
    """By week, what each variant came to in it."""
    found: dict[Trial, dict[str, Row]] = {}
    for row in rows:
        found.setdefault(row.run.trial, {})[row.run.variant] = row
    return list(found.values())


def judged(tried: Sequence[Refinement], trials: Sequence[Mapping[str, Row]]) -> list[dict[str, Any]]:
    """A row a refinement that came through a week with its opposite. `points`: what it saves beside that, in per cent of what
    running at once emits, with its 95 % interval over the weeks; `more_missed`: points of the batches."""
    rows: list[dict[str, Any]] = []
    for one in tried:
        needed = (one.on.name, one.off.name, RUN_NOW.name)
        pairs = [tuple(came[name] for name in needed) for came in trials if came.keys() >= {*needed}]
        if not pairs:
            continue
        points = interval([100 * (off.grams - on.grams) / now.grams for on, off, now in pairs])
        more_missed = float(np.mean([on.missed_pct - off.missed_pct for on, off, _ in pairs]))
        rows.append(
            {
                "refinement": one.name,
                "default": "on" if one.default else "off",
                "setting": one.setting,
                "weeks": len(pairs),
                "points": points,
                "more_missed": round(more_missed, 2),
                "starts": _ratio([(on.engine_starts, off.engine_starts) for on, off, _ in pairs]),
                "moved": _ratio([(on.moved, off.moved) for on, off, _ in pairs]),
                "planning": _ratio([(on.planning_s, off.planning_s) for on, off, _ in pairs]),
                "verdict": verdict(points, more_missed),
            }
        )
    return rows


def verdict(points: Sequence[float], more_missed: float) -> str:
    """Does it earn its place? Only where the whole interval says so; and deadlines come before grams."""
    low, high = points[-2:] if len(points) > 1 else (points[0], points[0])
    if len(points) == 1:
        return "too few weeks"
    if high < 0:
        return "costs"
    if low > 0:
        return "earns" if more_missed <= 0 else "earns, but misses more"
    return "keeps deadlines" if more_missed < 0 else "not seen"


def _ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """Of the sums."""
    below = sum(off for _, off in pairs)
    return round(sum(on for on, _ in pairs) / below, 2) if below else 1.0


def show(rows: Sequence[dict[str, Any]]) -> None:
    """A table for people, and what it comes to."""
    heads = ("default", "weeks", "points", "more_missed", "starts", "moved", "planning", "verdict")
    titles: dict[str, Any] = dict(zip(heads, heads, strict=True))
    for row in ({"refinement": "refinement", **titles}, *rows):
        said = "{:<9}{:>5}{!s:>22}{:>13}{:>8}{:>8}{:>10}  {}".format(*(row[head] for head in heads))
        print(f"{row['refinement']:46}{said}")
    for key, names in named(rows).items():
        print(f"{key.replace('_', ' ')}: {'; '.join(names) or 'none'}")


def named(rows: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """What is on by default and earns nothing; what is off and would earn."""
    good = {"earns", "keeps deadlines"}
    return {
        "on_and_does_not_earn": [row["refinement"] for row in rows if row["default"] == "on" and row["verdict"] not in good],
        "off_and_would_earn": [row["refinement"] for row in rows if row["default"] == "off" and row["verdict"] == "earns"],
    }

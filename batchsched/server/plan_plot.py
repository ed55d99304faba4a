"""A picture of a plan: for each zone its intensity with the forecast's band, and over it what its pools are to do when."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from itertools import pairwise
from typing import Any

from batchsched.forecasts import IntensityForecast
from batchsched.planner import PoolState
from batchsched.published import Published
from batchsched.server.planned import parents, replicas_of, shares_of_use, with_partners
from batchsched.server.plot import band, drawn, finish

MOST_ZONES = 12


def draw_plan(published: Published, forecasts: Mapping[str, IntensityForecast], now: datetime, kind: str) -> bytes:
    """As PNG or SVG; zones with the most pools first. Raises InvalidValue for any other kind."""
    zones: dict[str, list[PoolState]] = {}
    for pool in published.problem.pools:
        zones.setdefault(pool.zone, []).append(pool)
    shown = sorted(zones, key=lambda zone: (-len(zones[zone]), zone))[:MOST_ZONES]
    panels = [
        partial(_zone, published=published, zone=zone, pools=zones[zone], forecast=forecasts.get(zone), now=now) for zone in shown
    ]
    left_out = [f"{len(zones) - len(shown)} zones more"] if len(shown) < len(zones) else []
    simulated = [f"simulated: {pool.name}" for pool in published.problem.pools if pool.simulated]
    title = f"plan of {published.made_at:%Y-%m-%d %H:%M UTC} ({published.plan.solver}): gCO2e/kWh, and replicas at work"
    return drawn(title, panels or [_empty], "; ".join(["time (UTC)", *simulated, *left_out]), kind)


def _zone(
    axis: Any, *, published: Published, zone: str, pools: list[PoolState], forecast: IntensityForecast | None, now: datetime
) -> None:
    slots = published.plan.slots
    edges = [published.at(slot.start_s) for slot in slots] + [published.at(slots[-1].end_s if slots else 0.0)]
    if forecast:
        band(axis, forecast, edges[-1])
    axis.axvline(now, color="#c0504d", lw=1, label="now")
    beside = axis.twinx()
    used, of, below = shares_of_use(published), parents(published), [0.0] * len(edges)
    capacity = with_partners(published.problem)
    for number, pool in enumerate(pools):
        top = [low + share for low, share in zip(below, [*used[pool.name], 0.0], strict=True)]
        colour = f"C{(number + 1) % 10}"
        beside.fill_between(edges, below, top, step="post", alpha=0.5, lw=0, color=colour, label=pool.name)
        below = top
    for t, (start, end) in enumerate(pairwise(edges)):
        if all(capacity[pool.name][of[t]] <= 0 for pool in pools):
            axis.axvspan(start, end, color="#999999", alpha=0.15, lw=0)
    beside.set_ylim(0, 1.4 * max(1, sum(replicas_of(published.problem, pool) for pool in pools)))
    beside.set_ylabel("replicas", fontsize=8)
    beside.tick_params(labelsize=8)
    beside.spines[["top"]].set_visible(False)
    if pools:
        beside.legend(loc="upper left", fontsize=7, frameon=False, ncols=6)
    axis.set_zorder(beside.get_zorder() + 1)  # lines over areas
    axis.patch.set_visible(False)
    axis.set_xlim(edges[0], edges[-1])
    finish(axis, zone)


def _empty(axis: Any) -> None:
    axis.plot([], [], label="no pools")

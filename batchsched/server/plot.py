"""Pictures: a batch, with the grid's intensity, what was forecast and when it ran; and a zone's forecast."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import msgspec

from batchsched.carbon.report import Report, Row
from batchsched.errors import BatchschedError, InvalidValue
from batchsched.forecasts import QUANTILES, IntensityForecast, Provider, Realised
from batchsched.forecasts.figures import Skill

_FORECAST, _TRUE, _RAN, _NOW = "#3b6fb6", "#222222", "#2e9e5b", "#c0504d"


class Picture(msgspec.Struct, frozen=True):
    """What to draw."""

    title: str
    zones: list[str]
    start: datetime
    end: datetime
    deadline: datetime
    rows: list[Row]
    forecasts: dict[str, IntensityForecast]
    notes: list[str]

    @classmethod
    def of(
        cls, batch: Mapping[str, Any], report: Report, zones: list[str], end: datetime, plan: Mapping[str, Any] | None
    ) -> Picture:
        """From a batch's row and report, and the plan that held when it was submitted."""
        archived = (plan or {}).get("forecasts", {})
        forecasts = {zone: IntensityForecast.from_rows(archived[zone]) for zone in zones if zone in archived}
        signal = f", {report.signal}" if report.signal else ""
        title = f"{batch['id']}: gCO2e/kWh{signal}"
        notes = [note for note in report.notes if "simulated" in note.lower()]
        return cls(title, zones, batch["created_at"], end, batch["deadline_at"], report.rows, forecasts, notes)


def draw(picture: Picture, provider: Provider, now: datetime, kind: str) -> bytes:
    """The picture as PNG or SVG. Raises InvalidValue for any other kind."""
    panels = [partial(_zone, picture=picture, zone=zone, provider=provider, now=now) for zone in picture.zones]
    return drawn(picture.title, panels, "; ".join(["time (UTC)", *picture.notes]), kind)


def draw_forecast(forecast: IntensityForecast, realised: list[Realised], at: datetime, now: datetime, kind: str) -> bytes:
    """A forecast as it was known at an instant, and what has come true. Raises as `draw` does."""

    def panel(axis: Any) -> None:
        band(axis, forecast, forecast.slots[-1].end)
        _came_true(axis, realised)
        if at < now:
            axis.axvline(at, color=_NOW, lw=1, ls=":", label="as of")
        if now <= forecast.slots[-1].end:
            axis.axvline(now, color=_NOW, lw=1, label="now")
        finish(axis, forecast.zone)

    return drawn(f"{forecast.zone}: gCO2e/kWh, {forecast.signal}", [panel], "time (UTC)", kind)


def draw_skill(found: Sequence[Skill], kind: str) -> bytes:
    """Each provider's error and coverage by lead, beside naive's error. Raises as `draw` does."""
    by_feed: dict[str, list[Skill]] = {}
    for one in found:
        by_feed.setdefault(f"{one.provider}, {one.signal}", []).append(one)

    def panel(axis: Any, ours: str, against: str | None, name: str) -> None:
        axis.plot([], [], color=_TRUE, ls=":", label="naive" if against else "90%")
        for label, bins in by_feed.items():
            middle = [(one.from_h + one.to_h) / 2 for one in bins]
            (line,) = axis.plot(middle, [getattr(one, ours) for one in bins], lw=1.2, label=label)
            if against:
                axis.plot(middle, [getattr(one, against) for one in bins], color=line.get_color(), lw=1, ls=":")
        if not against:
            axis.axhline(0.9, color=_TRUE, lw=1, ls=":")
        finish(axis, name)

    panels = [
        partial(panel, ours="mape", against="naive_mape", name="error"),
        partial(panel, ours="coverage90", against=None, name="in the 90% band"),
    ]
    title = f"{found[0].zone}: forecasts against what came true" if found else "nothing has come true to compare with"
    return drawn(title, panels, "hours ahead", kind, dates=False)


def drawn(
    title: str,
    panels: Sequence[Callable[[Any], None]],
    below: str,
    kind: str,
    *,
    dates: bool = True,
    panel_in: float = 2.6,
) -> bytes:
    """Panels of so many inches one below the other over one time axis, as PNG or SVG. Raises InvalidValue for any other kind."""
    if kind not in {"png", "svg"}:
        raise InvalidValue(f"'{kind}' is not a picture format; use png or svg.", param="format")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, panel_in * len(panels) + 0.8), layout="constrained")
    canvas = FigureCanvasSVG(figure) if kind == "svg" else FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        panel(axis)
    axes[0].set_title(title, loc="left", fontsize=10)
    axes[0].legend(loc="upper right", fontsize=8, frameon=False, ncols=4)
    if dates:
        locator: Any = AutoDateLocator()  # type: ignore[no-untyped-call]
        axes[-1].xaxis.set_major_locator(locator)
        axes[-1].xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes[-1].set_xlabel(below, fontsize=8)
    out = io.BytesIO()
    canvas.print_figure(out, format=kind)
    return out.getvalue()


def _zone(axis: Any, *, picture: Picture, zone: str, provider: Provider, now: datetime) -> None:
    forecast = picture.forecasts.get(zone)
    if forecast:
        band(axis, forecast, picture.end)
    _realised(axis, picture, zone, provider, now)
    labelled = False
    for row in picture.rows:
        if row.zone == zone:
            axis.axvspan(row.started_at, row.ended_at, color=_RAN, alpha=0.35, label=None if labelled else "ran", lw=0)
            labelled = True
    axis.axvline(picture.start, color=_NOW, lw=1, ls=":", label="submitted")
    axis.axvline(picture.deadline, color=_NOW, lw=1, ls="--", label="deadline")
    axis.set_xlim(picture.start - 0.03 * (picture.end - picture.start), picture.end + 0.03 * (picture.end - picture.start))
    finish(axis, zone)


def finish(axis: Any, zone: str) -> None:
    """What all panels of intensity have in common."""
    axis.set_ylabel(zone, fontsize=9)
    axis.set_ylim(0, 1.25 * axis.get_ylim()[1])  # room for the legend
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def band(axis: Any, forecast: IntensityForecast, end: datetime) -> None:
    """A forecast's mean and band, up to an instant."""
    slots = [slot for slot in forecast.slots if slot.mean_g_per_kwh is not None and slot.start < end]
    if not slots:
        return
    edges = [slot.start for slot in slots] + [slots[-1].end]
    means = [slot.mean_g_per_kwh for slot in slots]
    axis.step(edges, [*means, means[-1]], where="post", color=_FORECAST, lw=1.2, label=f"forecast ({forecast.provider})")
    if all(slot.quantiles for slot in slots):
        low = [slot.quantiles[0] for slot in slots if slot.quantiles]
        high = [slot.quantiles[-1] for slot in slots if slot.quantiles]
        share = QUANTILES[-1] - QUANTILES[0]
        axis.fill_between(
            edges, [*low, low[-1]], [*high, high[-1]], step="post", color=_FORECAST, alpha=0.15, lw=0, label=f"{share:.0%} band"
        )


def _realised(axis: Any, picture: Picture, zone: str, provider: Provider, now: datetime) -> None:
    try:
        values = provider.realised(zone, picture.start, min(now, picture.end), now)
    except BatchschedError:
        return
    _came_true(axis, values)


def _came_true(axis: Any, values: list[Realised]) -> None:
    if values:
        edges = [value.start for value in values] + [values[-1].end]
        heights = [value.intensity_g_per_kwh for value in values]
        axis.step(edges, [*heights, heights[-1]], where="post", color=_TRUE, lw=1.2, label="came true")

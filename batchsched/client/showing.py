"""Batches, reports and plans as a notebook shows them, and a batch's progress while somebody waits for it.

Everything that is shown is escaped, and pictures stand in images of their own, so that no text of a server becomes markup.
"""

from __future__ import annotations

import logging
import sys
from base64 import b64encode
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any

from batchsched.client.stalls import Stalls
from batchsched.units import format_grams, kwh

if TYPE_CHECKING:
    from batchsched.client.plans import Plan
    from batchsched.client.results import Batch, Report

log = logging.getLogger(__name__)
Look = Callable[["Batch"], object]
MOST_ROWS = 12


@contextmanager
def watch(progress: bool, *others: Look | None) -> Generator[Callable[[Batch], None]]:
    """What is to see each look at a batch: whoever asked for it and, with `progress`, a person at a notebook or a terminal.

    Where nobody asked for it, the log is told of a batch that is stalled: without a logger of the user's own, on stderr.
    """
    lookers = [other for other in others if other] or [Stalls(log.warning)]
    with _shown(progress) as shown:
        if shown:
            lookers.append(shown)

        def look(batch: Batch) -> None:
            for looker in lookers:
                looker(batch)

        yield look


@contextmanager
def _shown(progress: bool) -> Generator[Look | None]:
    """Nothing is shown where nobody looks: not in a pipe, not under cron."""
    if progress and _in_notebook():
        yield _in_its_cell()
    elif progress and sys.stderr.isatty():
        from rich.console import Console
        from rich.markup import escape as plain

        with Console(stderr=True).status("waiting") as status:
            yield lambda batch: status.update(plain(line(batch)))
    else:
        yield None


def _in_notebook() -> bool:
    """A kernel has a front end that shows HTML; IPython in a terminal has not."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


def _in_its_cell() -> Look:
    from importlib import import_module

    display: Any = import_module("IPython.display").display
    handles: list[Any] = []

    def show(batch: Batch) -> None:
        if handles:
            handles[0].update(batch)
        else:
            handles.append(display(batch, display_id=True))

    return show


def line(batch: Batch) -> str:
    """Where a batch stands, in one line."""
    progress, total = batch.progress, batch.progress.requests_total or batch.request_counts.total
    parts = [f"{batch.status}: {progress.requests_done} of {total} requests" if total else batch.status]
    if not batch.done and progress.tokens_per_s:
        parts.append(f"{progress.tokens_per_s:,.0f} tokens/s")
    if text := _waiting(batch):
        parts.append(f"waiting for {text}")
    if batch.carbon and batch.carbon.grams is not None:
        parts.append(_grams(batch.carbon.grams, known=_known(batch)))
    return ", ".join(parts)


def batch_html(batch: Batch) -> str:
    """Status, how far it is, deadline, verdict, grams; the first errors of one that was refused."""
    progress, counts, verdict, carbon = batch.progress, batch.request_counts, batch.verdict, batch.carbon
    done, total = progress.requests_done, progress.requests_total or counts.total
    bar = f'<progress value="{done}" max="{total}" style="width:12em"></progress> ' if total else ""
    failed = f", {counts.failed} without an answer" if counts.failed else ""
    expected = f"expected to finish {_at(progress.expected_finish_at)}" if progress.expected_finish_at and not batch.done else ""
    risk = batch.batchsched.risk
    facts = [
        ("requests", bar + escape(f"{done} of {total}{failed}")),
        ("model", escape(batch.model or "")),
        ("waiting for", escape(_waiting(batch))),
        ("deadline", escape(", ".join(part for part in (_at(batch.deadline_at), expected) if part))),
        ("verdict", escape(_verdict(verdict) if verdict else "")),
        ("at risk", escape(risk.reason if risk else "")),
        ("carbon", escape(_grams(carbon.grams, known=_known(batch)) if carbon and carbon.grams is not None else "")),
        *[("error", escape(f"line {error.line}: {error.message}")) for error in (batch.errors.data[:5] if batch.errors else ())],
    ]
    return _card(f"Batch {batch.id}: {batch.status}", facts)


def report_html(report: Report) -> str:
    """Energy, grams, what it would have been, what was saved; then where the work ran; then the notes."""
    known = not (report.unknown_energy_j or report.unmeasured_s)
    saved = ""
    if report.saved_g is not None:
        share = f" ({report.saved_fraction:z.0%})" if report.saved_fraction is not None else ""
        saved = f"{format_grams(report.saved_g)}{share}"
    facts = [
        ("requests", str(report.requests)),
        ("energy", escape("" if report.energy_j is None else f"{kwh(report.energy_j):.4g} kWh, {_shares(report)}")),
        ("operational", escape("unknown" if report.operational_g is None else _grams(report.operational_g, known=known))),
        ("run at once", escape("unknown" if report.baseline_g is None else _grams(report.baseline_g))),
        ("saved", escape(saved or "unknown")),
        ("", "simulated" if report.simulated else ""),
    ]
    rows = [
        [row.pool, row.zone, f"{row.started_at:%Y-%m-%d %H:%M} to {row.ended_at:%H:%M}", str(row.requests)]
        + ["unknown" if value is None else told(value) for value, told in _figures(row)]
        for row in report.rows[:MOST_ROWS]
    ]
    table = _table(("pool", "zone", "UTC", "requests", "energy", "g/kWh", "operational"), rows)
    more = len(report.rows) - MOST_ROWS
    notes = [*([f"{more} rows more"] if more > 0 else []), *report.notes]
    return _card("Report", facts) + table + "".join(f"<p>{escape(note)}</p>" for note in notes)


def plan_html(plan: Plan, picture: bytes | None) -> str:
    """Who made it and when, who would be late; under it the picture, an SVG."""
    interval = plan.grams_interval
    between = f", {format_grams(interval.p10)} to {format_grams(interval.p90)} in 8 of 10 cases" if interval else ""
    facts = [
        ("made", escape(f"{_at(plan.made_at)} by {plan.solver or 'nobody'}, {plan.status or 'no status'}")),
        ("expected", escape(f"{format_grams(interval.expected)} CO2e{between}" if interval else "")),
        ("late", escape(", ".join(f"{batch_id}: {count:g} requests" for batch_id, count in plan.late.items()))),
        ("frozen", escape(f"since {_at(plan.frozen.since)}" if plan.frozen else "")),
        *[("note", escape(note)) for note in plan.notes[:5]],
    ]
    return _card(f"Plan {plan.id}", facts) + (image(picture) if picture else "")


def image(svg: bytes) -> str:
    """An SVG as an image: what is in it cannot act on the page."""
    return f'<img alt="" style="max-width:100%" src="data:image/svg+xml;base64,{b64encode(svg).decode()}">'


def _card(title: str, facts: Iterable[tuple[str, str]]) -> str:
    """Values are HTML already; empty ones are left out."""
    rows = "".join(f'<tr><th style="text-align:left">{name}</th><td>{value}</td></tr>' for name, value in facts if value)
    return f"<b>{escape(title)}</b><table>{rows}</table>"


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{body}</table>" if body else ""


def _figures(row: Any) -> list[tuple[float | None, Callable[[float], str]]]:
    mean: float | None = row.intensity.mean_g_per_kwh
    return [
        (row.energy_j, lambda joules: f"{kwh(joules):.4g} kWh"),
        (mean, lambda intensity: f"{intensity:.0f}"),
        (row.operational_g, format_grams),
    ]


def _shares(report: Report) -> str:
    return ", ".join(report.energy_by_source) or "source unknown"


def _verdict(verdict: Any) -> str:
    sure = f", probability {verdict.probability:.0%}" if verdict.probability is not None else ""
    finish = f", likely finished {_at(verdict.expected_finish_at)}" if verdict.expected_finish_at else ""
    return f"{'feasible' if verdict.feasible else 'NOT feasible'}{sure}{finish}"


def _waiting(batch: Batch) -> str:
    progress = batch.progress
    if batch.done or not progress.waiting_for:
        return ""
    return progress.waiting_for + (f", until {_at(progress.waiting_until)}" if progress.waiting_until else "")


def _known(batch: Batch) -> bool:
    return batch.carbon is not None and not (batch.carbon.unknown_energy_j or batch.carbon.unmeasured_s)


def _grams(grams: float, *, known: bool = True) -> str:
    return f"{'' if known else 'at least '}{format_grams(grams)} CO2e"


def _at(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC" if at else ""

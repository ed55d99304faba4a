"""How `batchsched top` shows a glance: tables of words, which a terminal gets with colours and others as lines of cells."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from batchsched.cli.common import grams, waiting, when
from batchsched.cli.plan_picture import COLOURS, LEVELS
from batchsched.units import format_duration

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

    from batchsched.cli.glance import Glance, GridNow
    from batchsched.client.plans import PoolStatus
    from batchsched.client.results import Batch
    from batchsched.client.windows import Window

HOURS = 24
"""Bars of a zone's forecast, one an hour."""
BAR = 10
"""Cells of a batch's bar."""
TINTS = {
    "open": "green", "running": "green", "completed": "green", "closed": "dim", "cordoned": "yellow", "drained": "yellow",
    "shut": "yellow", "paused": "yellow", "at risk": "bold red", "failed": "red", "expired": "red",
}  # fmt: skip
"""Of words that say how something stands."""


class Section(NamedTuple):
    """A table: what it is about, its headings, its rows."""

    title: str
    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]


def headline(glance: Glance) -> str:
    """Where and when, and what is to be known first."""
    opened = sum(pool.state == "open" for pool in glance.pools)
    live = [batch for batch in glance.batches if not batch.done]
    running = sum(batch.progress.state == "running" and not batch.paused for batch in live)
    parts = [f"batchsched at {glance.server}", when(glance.at) or ""]
    parts += [f"{opened} of {len(glance.pools)} pools open"] if glance.pools else []
    parts.append(f"{running} batches run, {len(live) - running} wait")
    if frozen := glance.frozen.frozen:
        parts.append(f"shifting is frozen{f' until {when(frozen.until)}' if frozen.until else ''}")
    return "; ".join(parts)


def sections(glance: Glance) -> list[Section]:
    """Grid, pools, batches and windows; what there is none of is left out."""
    work: dict[str, list[str]] = {}
    for batch in glance.batches:
        for pool in batch.progress.running_on if not batch.done else ():
            work.setdefault(pool, []).append(batch.id)
    found = [
        Section("grid", ("zone", "g/kWh now", f"next {HOURS} h", "least", "at"), [_grid(one, glance.at) for one in glance.grid]),
        Section(
            "pools",
            ("pool", "zone", "gpu", "workers", "state", "runs"),
            [_pool(one, work.get(one.id, []), glance.at) for one in glance.pools],
        ),
        Section(
            "batches",
            ("batch", "model", "state", "done", "tokens/s", "where, or what for", "deadline in", "CO2e"),
            [_batch(one, glance.at) for one in glance.batches],
        ),
        Section("windows", ("window", "pool", "state", "opens next"), [_window(one, glance.at) for one in glance.windows]),
    ]
    return [one for one in found if one.rows]


def _in(at: datetime | None, now: datetime) -> str:
    """How long until then."""
    if at is None:
        return ""
    left_s = (at - now).total_seconds()
    return format_duration(left_s) if left_s > 0 else f"{format_duration(-left_s)} ago"


def _grid(one: GridNow, now: datetime) -> tuple[str, ...]:
    if not one.slots:
        return one.zone, "unknown", one.problem or "", "", ""
    known = [slot for slot in one.slots if slot.mean_g_per_kwh is not None]
    least = min(known, key=lambda slot: slot.mean_g_per_kwh or 0.0, default=None)
    here = "unknown" if one.now_g_per_kwh is None else f"{one.now_g_per_kwh:.0f}"
    if least is None:
        return one.zone, here, "", "", ""
    at = "now" if least.start <= now else f"{least.start.astimezone():%a %H:%M}"
    return one.zone, here, bars(hourly(one, now)), f"{least.mean_g_per_kwh:.0f}", at


def hourly(one: GridNow, now: datetime) -> list[float | None]:
    """The intensity at the middle of each hour to come; None where it is unknown."""
    middles = [now + timedelta(hours=hour + 0.5) for hour in range(HOURS)]
    return [next((slot.mean_g_per_kwh for slot in one.slots if slot.start <= middle < slot.end), None) for middle in middles]


def bars(values: Sequence[float | None]) -> str:
    """From the least to the most of them."""
    known = [value for value in values if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    top = len(LEVELS) - 1
    return "".join(
        "?" if value is None else LEVELS[min(top, int((top + 1) * (value - low) / (high - low)))] if high > low else LEVELS[0]
        for value in values
    )


def _pool(one: PoolStatus, work: list[str], now: datetime) -> tuple[str, ...]:
    state = one.state + (f", {one.share:.0%} of it" if one.state == "open" and one.share < 1 else "")
    state += f", for {_in(one.until, now)}" if one.until and one.until > now else ""
    state += f"; {one.ahead.how} in {_in(one.ahead.since, now)}" if one.ahead else ""
    runs = f"{work[0]} and {len(work) - 1} more" if len(work) > 1 else "".join(work)
    trouble = (*one.failing, *one.ills, *one.troubles)
    return one.id, one.zone, one.gpu, f"{one.workers}/{one.replicas}", state, runs or (trouble[0] if trouble else "")


def _batch(one: Batch, now: datetime) -> tuple[str, ...]:
    progress, total = one.progress, one.progress.requests_total or one.request_counts.total
    finished = progress.requests_done or one.request_counts.completed + one.request_counts.failed
    share = finished / total if total else 0.0
    done = f"{'█' * int(BAR * share):·<{BAR}} {finished}/{total}" if total else ""
    where = ", ".join(progress.running_on) if not one.done else ""
    if not where and (text := waiting(one)):
        where = f"waits for {text}"
    risky = bool(one.batchsched.risk) and not one.done
    state = "paused" if one.paused else "at risk" if risky else progress.state if one.status == "in_progress" else one.status
    speed = f"{progress.tokens_per_s:,.0f}" if progress.tokens_per_s and progress.state == "running" and not one.done else ""
    deadline = _in(one.deadline_at, now) if not one.done else ""
    return one.id, one.model or "", state, done, speed, where, deadline, grams(one.carbon.grams) if one.carbon else ""


def _window(one: Window, now: datetime) -> tuple[str, ...]:
    following = next((each for each in one.openings if not each.skipped and each.opens_at > now), None)
    opens = f"in {_in(following.opens_at, now)}, {following.opens_local[:16].replace('T', ' ')}" if following else ""
    left = f", {_in(one.closes_at, now)} more" if one.state == "open" and one.closes_at else ""
    return one.id, one.pool, one.state + left, opens


def drawn(glance: Glance, height: int | None, trouble: str | None = None) -> Group:
    """For a terminal of so many lines, or for one that scrolls."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[Text | Table] = [Text(headline(glance), style="bold", no_wrap=True, overflow="ellipsis")]
    if trouble:
        parts.append(Text(trouble, style="bold red", no_wrap=True, overflow="ellipsis"))
    parts += [Text(f"Hidden: {one}", style="yellow") for one in glance.hidden]
    found = sections(glance)
    rooms = rooms_of([len(one.rows) for one in found], None if height is None else height - len(parts) - 1)
    for one, room in zip(found, rooms, strict=True):
        table = Table(*one.heads, box=None, header_style="dim", pad_edge=False, expand=False)
        for row in one.rows[:room]:
            table.add_row(*[_cell(head, cell) for head, cell in zip(one.heads, row, strict=True)])
        left_out = len(one.rows) - room
        more = f", {left_out} more" if left_out else ""
        parts += [Text(f"\n{one.title}{more}", style="bold cyan"), table]
    return Group(*parts)


def rooms_of(rows: Sequence[int], height: int | None) -> list[int]:
    """Rows that each section shows: three lines of each are its title and headings, the rest is divided, least first."""
    if height is None:
        return list(rows)
    left, rooms = max(0, height - 3 * len(rows)), [0] * len(rows)
    for n, index in enumerate(sorted(range(len(rows)), key=lambda index: rows[index])):
        rooms[index] = max(1, min(rows[index], left // (len(rows) - n)))
        left = max(0, left - rooms[index])
    return rooms


def _cell(head: str, text: str) -> Text:
    from rich.text import Text

    if head == f"next {HOURS} h" and set(text) <= {*LEVELS, "?"}:
        third = len(LEVELS) / len(COLOURS)
        tinted = [(bar, COLOURS[int(LEVELS.index(bar) / third)] if bar in LEVELS else "dim") for bar in text]
        return Text.assemble(*tinted, no_wrap=True)
    style = next((tint for word, tint in TINTS.items() if text.startswith(word)), "") if head == "state" else ""
    return Text(text, style=style, no_wrap=head != "where, or what for", overflow="ellipsis")

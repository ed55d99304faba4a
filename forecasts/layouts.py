"""The layouts of files that are understood: ours, and the exports of CarbonCast and Electricity Maps.

A layout is known by its columns. Rows of any layout become the same: one slot, with what was expected of it, when, and what came
true. A file has one signal. Ours names it; in the other two each row or column has its own, and one of them is chosen.

Ours: `zone,start,end,issued_at,mean,q05,q25,q50,q75,q95,realised,mw_coal,...`. Instants are RFC 3339 with an offset, intensities
gCO2e per kWh. A row with `mean` is one slot of the forecast issued at `issued_at`; a row with `realised` says what came true;
`mw_` and a fuel says what generated that, in megawatts; one row may do all. `issued_at`, the quantiles, `realised` and fuels may
be left out or empty, `issued_at` only where there is no `mean`. NaN, and negative intensities, are unknown. Lines
`# signal: average direct`, `# provider: NAME`, `# licence: TEXT` before the header are optional; in Parquet these are pandas'
`attrs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from batchsched.errors import InvalidConfiguration, InvalidValue
from batchsched.forecasts.cells import instant, needed, number, real
from batchsched.forecasts.port import FUELS, QUANTILES, ForecastSlot, Generation, IntensityForecast, Realised, Signal, plausible
from batchsched.forecasts.tables import Table, read_table
from batchsched.forecasts.weather import WeatherRun, is_weather, runs_of

REQUIRED = ("zone", "start", "end")
QUANTILE_COLUMNS = tuple(f"q{round(level * 100):02d}" for level in QUANTILES)
POWER_COLUMNS = {f"mw_{fuel}": fuel for fuel in FUELS}
CARBONCAST_POWER = {name.replace("gas", "nat_gas"): fuel for name, fuel in POWER_COLUMNS.items()}
COLUMNS = (*REQUIRED, "issued_at", "mean", *QUANTILE_COLUMNS, "realised")
BOTH_SCOPES = (Signal("average", "direct"), Signal("average", "lifecycle"))
_HOUR = timedelta(hours=1)
LONGEST_MEASURED = timedelta(days=31)


class Row(msgspec.Struct, frozen=True, gc=False):
    """One line of a file."""

    start: datetime
    end: datetime
    issued_at: datetime | None
    mean: float | None
    quantiles: tuple[float, ...] | None
    realised: float | None
    estimated: bool = False
    mw: Mapping[str, float] | None = None


class Content(msgspec.Struct):
    """A whole file, of weather or of intensities and generation. Of measurements of the very same slot the last one is kept."""

    provider: str
    signal: Signal = Signal()
    licence: str = ""
    forecasts: dict[str, list[Row]] = {}
    realised: dict[str, list[Row]] = {}
    generated: dict[str, list[Row]] = {}
    weather: list[WeatherRun] = []

    @property
    def zones(self) -> list[str]:
        """All that it says something about."""
        told = {run.zone for run in self.weather}
        return sorted(self.forecasts.keys() | self.realised.keys() | self.generated.keys() | told)

    def issues(self) -> Iterator[IntensityForecast]:
        """Every forecast of the file, each as it was issued; of overlapping slots the later start cuts the earlier one."""
        for zone, rows in self.forecasts.items():
            by_issue: dict[datetime, dict[datetime, Row]] = {}
            for row in rows:
                if row.issued_at:
                    by_issue.setdefault(row.issued_at, {})[row.start] = row
            for issued_at in sorted(by_issue):
                starts = sorted(by_issue[issued_at])
                ends = [*starts[1:], datetime.max.replace(tzinfo=UTC)]
                slots = tuple(
                    ForecastSlot(start, min((row := by_issue[issued_at][start]).end, end), row.mean, row.quantiles)
                    for start, end in zip(starts, ends, strict=True)
                )
                yield IntensityForecast(zone, issued_at, self.provider, self.signal, slots, self.licence)

    def measurements(self) -> Iterator[Realised]:
        """Everything that came true."""
        for zone, rows in self.realised.items():
            for row in rows:
                if row.realised is not None:
                    value, said = row.realised, (self.provider, self.signal, row.estimated, self.licence)
                    yield Realised(zone, row.start, row.end, value, *said)

    def generation(self) -> Iterator[Generation]:
        """Everything that says what generated power."""
        for zone, rows in self.generated.items():
            for row in rows:
                if row.mw:
                    yield Generation(zone, row.start, row.end, self.provider, row.mw)


class Layout(msgspec.Struct, frozen=True):
    """`row` gives zone and row, or None for a line of another signal. `needs`: the columns that it is known by."""

    needs: frozenset[str]
    row: Callable[[Mapping[str, Any], str, Signal], tuple[str, Row] | None]
    provider: str = ""
    licence: str = ""
    signals: tuple[Signal, ...] = BOTH_SCOPES
    daily_too: bool = False
    """The same export exists with a row a day, a month or a year."""


def read_file(path: Path, signal: Signal | None = None) -> Content:
    """The whole file. `signal`: which one to take where there are several; the first, where None.

    Raises InvalidConfiguration for a bad file, and where it does not have that signal; OSError where there is none.
    """
    table = read_table(path)
    if is_weather(table):
        named = table.options.get("provider") or f"file {path.name}"
        content = Content(named, licence=table.options.get("licence", ""), weather=runs_of(path, table, named))
        _check_names(path, content)
        return content
    layout = _layout(table)
    chosen = _signal(path, table, layout, signal)
    provider = table.options.get("provider") or layout.provider or f"file {path.name}"
    content = Content(provider, chosen, table.options.get("licence") or layout.licence)
    measured: dict[str, dict[tuple[datetime, datetime], Row]] = {}
    generated: dict[str, dict[tuple[datetime, datetime], Row]] = {}
    for line, cells in table.rows:
        try:
            found = layout.row(cells, f"{path}, line {line}", chosen)
        except OverflowError:
            raise InvalidConfiguration(f"{path}, line {line}: a time is out of range.") from None
        if found is None:
            continue
        zone, row = found
        if row.mean is not None:
            content.forecasts.setdefault(zone, []).append(row)
        if row.realised is not None:
            of_zone = measured.setdefault(zone, {})
            of_zone.pop((row.start, row.end), None)  # the last line holds, also in the order
            of_zone[row.start, row.end] = row
        if row.mw:
            generated.setdefault(zone, {})[row.start, row.end] = row
    content.forecasts = {zone: _possible_issues(rows, chosen) for zone, rows in content.forecasts.items()}
    content.realised = {zone: _possible(rows.values(), chosen, lambda row: row.realised) for zone, rows in measured.items()}
    content.generated = {zone: list(rows.values()) for zone, rows in generated.items()}
    if layout.daily_too:
        _check_hours(path, content)
    _check_names(path, content)
    return content


def _check_names(path: Path, content: Content) -> None:
    """A zone's name is a part of addresses."""
    if odd := [zone for zone in content.zones if "/" in zone or zone in {".", ".."}]:
        raise InvalidConfiguration(f"{path}: '{odd[0]}' cannot be the name of a zone, which has no slash and is more than dots.")


def _possible(rows: Iterable[Row], signal: Signal, value: Callable[[Row], float | None]) -> list[Row]:
    """The rows of one issue, or of what came true, but those with a zero that cannot be: it is unknown."""
    listed = list(rows)
    ordered = sorted(range(len(listed)), key=lambda n: listed[n].start)
    kept = plausible([value(listed[n]) for n in ordered], signal)
    unknown = {n for n, one in zip(ordered, kept, strict=True) if one is None}
    return [row for n, row in enumerate(listed) if n not in unknown]


def _possible_issues(rows: list[Row], signal: Signal) -> list[Row]:
    by_issue: dict[datetime | None, list[Row]] = {}
    for row in rows:
        by_issue.setdefault(row.issued_at, []).append(row)
    return [row for issue in by_issue.values() for row in _possible(issue, signal, lambda row: row.mean)]


def _check_hours(path: Path, content: Content) -> None:
    for zone, rows in content.realised.items():
        starts = sorted(row.start for row in rows)
        if len(starts) > 1 and min(after - before for before, after in pairwise(starts)) >= 24 * _HOUR:
            raise InvalidConfiguration(f"{path} is not hourly for '{zone}'; take the hourly export.")


def _layout(table: Table) -> Layout:
    named = frozenset(name.lower() for name in table.header)
    if layout := next((layout for layout in LAYOUTS if layout.needs <= named), None):
        return layout
    header = table.header
    missing, unknown = (
        [name for name in REQUIRED if name not in header],
        [name for name in header if name not in {*COLUMNS, *POWER_COLUMNS}],
    )
    if missing or unknown or len(set(header)) != len(header):
        what = (
            f"column '{missing[0]}' is missing"
            if missing
            else f"column '{unknown[0]}' is unknown"
            if unknown
            else "a column is named twice"
        )
        raise InvalidConfiguration(
            f"{table.where}: {what} (allowed: {', '.join(COLUMNS)}, mw_coal and other fuels; the first three are needed)."
        )
    return OURS


def _signal(path: Path, table: Table, layout: Layout, asked: Signal | None) -> Signal:
    offered = layout.signals
    if layout is OURS:
        try:
            offered = (Signal.parse(table.options.get("signal") or str(Signal())),)
        except InvalidValue as problem:
            raise InvalidConfiguration(f"{path}: '# signal': {problem.message}") from None
    if asked and asked not in offered:
        raise InvalidConfiguration(f"{path} has {' and '.join(map(str, offered))}, not {asked}; one cannot stand for the other.")
    return asked or offered[0]


def _ours(cells: Mapping[str, Any], where: str, signal: Signal) -> tuple[str, Row]:
    del signal
    zone = str(cells["zone"]).strip()
    start, end = (instant(cells[name], f"{where}, column '{name}'") for name in ("start", "end"))
    if not zone or start is None or end is None or start >= end:
        raise InvalidConfiguration(f"{where}: zone, start and end are needed, and end lies after start.")
    issued_at = instant(cells.get("issued_at"), f"{where}, column 'issued_at'")
    mean, realised = (number(cells.get(name), f"{where}, column '{name}'") for name in ("mean", "realised"))
    mw = _power(cells, POWER_COLUMNS, where)
    if mean is not None and issued_at is None:
        raise InvalidConfiguration(f"{where}, column 'issued_at': a row with a mean says when that forecast was issued.")
    if (realised is not None or mw) and end - start > LONGEST_MEASURED:
        raise InvalidConfiguration(f"{where}, column 'realised': one measurement covers at most {LONGEST_MEASURED.days} days.")
    levels = [number(cells.get(name), f"{where}, column '{name}'") for name in QUANTILE_COLUMNS]
    quantiles = tuple(level for level in levels if level is not None)
    if quantiles and list(quantiles) != sorted(quantiles):
        raise InvalidConfiguration(f"{where}: the quantiles must not fall from q05 to q95.")
    spread = quantiles if len(quantiles) == len(QUANTILES) else None
    return zone, Row(start, end, issued_at, mean, spread, realised, mw=mw)


def _carboncast_forecast(cells: Mapping[str, Any], where: str, signal: Signal) -> tuple[str, Row] | None:
    """An hour as forecast at an issue; known only once it was made, where the file says when that was (`created_utc`)."""
    if cells["kind"] != signal.scope:
        return None
    start = needed(cells, "target_time_utc", where, utc=True)
    issued_at = needed(cells, "issue_time_utc", where, utc=True)
    made_at = instant(cells.get("created_utc"), f"{where}, column 'created_utc'", utc=True)
    mean, realised = (number(cells[name], f"{where}, column '{name}'") for name in ("forecast", "actual"))
    return str(cells["region"]), Row(start, start + _HOUR, max(issued_at, made_at or issued_at), mean, None, realised)


def _carboncast_history(cells: Mapping[str, Any], where: str, signal: Signal) -> tuple[str, Row]:
    """An hour as it came true; `interval_start_utc` is its start, where the file has that column."""
    start = needed(cells, "interval_start_utc" if "interval_start_utc" in cells else "timestamp_utc", where, utc=True)
    column = f"ci_{signal.scope}"
    realised = number(cells.get(column), f"{where}, column '{column}'")
    mw = _power(cells, CARBONCAST_POWER, where)
    return str(cells["region"]), Row(start, start + _HOUR, None, None, None, realised, mw=mw)


def _power(cells: Mapping[str, Any], columns: Mapping[str, str], where: str) -> dict[str, float] | None:
    """Megawatts by fuel, of the columns that are there; what is no number is unknown."""
    found = {fuel: mw for name, fuel in columns.items() if (mw := real(cells.get(name), f"{where}, column '{name}'")) is not None}
    return found or None


def _electricity_maps(cells: Mapping[str, Any], where: str, signal: Signal) -> tuple[str, Row]:
    """An hour of the data portal's CSV; names of columns differ a little from year to year, so only their sense counts."""
    by_name = {name.lower(): value for name, value in cells.items()}
    column = next(
        (name for name in by_name if name.startswith("carbon intensity") and ("(direct)" in name) == (signal.scope == "direct")),
        "",
    )
    if not column:
        raise InvalidConfiguration(f"{where}: no column has the {signal} carbon intensity.")
    start = needed(by_name, "datetime (utc)", where, utc=True)
    value = number(by_name[column], f"{where}, column '{column}'")
    estimated = str(by_name.get("data estimated", "")).lower() == "true"
    return str(by_name["zone id"]), Row(start, start + _HOUR, None, None, None, value, estimated)


OURS = Layout(frozenset(REQUIRED), _ours)
LAYOUTS = (
    Layout(
        frozenset({"region", "kind", "issue_time_utc", "target_time_utc", "forecast", "actual"}),
        _carboncast_forecast,
        "CarbonCast",
        "Apache-2.0 (CarbonCast)",
    ),
    Layout(
        frozenset({"region", "timestamp_utc", "ci_direct", "ci_lifecycle"}),
        _carboncast_history,
        "CarbonCast",
        "Apache-2.0 (CarbonCast)",
    ),
    Layout(frozenset({"region", "timestamp_utc", "mw_coal"}), _carboncast_history, "CarbonCast", "Apache-2.0 (CarbonCast)"),
    Layout(
        frozenset({"datetime (utc)", "zone id"}),
        _electricity_maps,
        "Electricity Maps",
        "ODbL-1.0 (Electricity Maps)",
        BOTH_SCOPES[::-1],
        daily_too=True,
    ),
)

"""Single cells of a CSV or Parquet file: instants and numbers, or a refusal that says where."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from batchsched.errors import InvalidConfiguration
from batchsched.forecasts.port import known


def needed(cells: Mapping[str, Any], name: str, where: str, *, utc: bool = False) -> datetime:
    """An instant that must be there. `utc`: as of `instant`."""
    at = instant(cells[name], f"{where}, column '{name}'", utc=utc)
    if at is None:
        raise InvalidConfiguration(f"{where}, column '{name}': an instant is needed.")
    return at


def instant(value: Any, where: str, *, utc: bool = False) -> datetime | None:
    """An aware instant. `utc`: the column is UTC by its name, so the text may do without an offset."""
    if value is None or value != value or not str(value).strip() or str(value) == "NaT":  # noqa: PLR0124 - NaN, NaT
        return None
    try:
        at = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
    except ValueError:
        raise InvalidConfiguration(f"{where}: '{value}' is not an instant such as 2026-05-01T06:00:00Z.") from None
    if at.tzinfo is None and utc:
        return at.replace(tzinfo=UTC)
    if at.tzinfo is None:
        raise InvalidConfiguration(f"{where}: '{value}' has no time zone; add Z for UTC or an offset such as +02:00.")
    return at.astimezone(UTC)


def number(value: Any, where: str) -> float | None:
    """An intensity; what cannot be one is unknown."""
    return known(real(value, where, "of grams per kWh "))


def real(value: Any, where: str, what: str = "") -> float | None:
    """A finite number, None where it is unknown."""
    try:
        found = float(value) if value is not None and value != "" else None
    except (TypeError, ValueError):
        raise InvalidConfiguration(f"{where}: '{value}' is not a number {what}(empty: unknown).") from None
    return found if found is not None and math.isfinite(found) else None

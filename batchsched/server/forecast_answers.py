"""What the routes about forecasts answer, as types. Intensities are gCO2e per kWh, null where unknown."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from batchsched.forecasts import ForecastSlot
from batchsched.forecasts.figures import Skill


class ForecastFeed(msgspec.Struct, forbid_unknown_fields=True):
    """What is known of a zone's forecasts; both instants are null where the archive has none."""

    zone: str
    provider: str
    signal: str
    newest_issue_at: datetime | None
    realised_until: datetime | None


class ForecastFeeds(msgspec.Struct, forbid_unknown_fields=True):
    """All of them."""

    object: Literal["list"]
    data: list[ForecastFeed]


IMPORT = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "contentMediaType": "application/octet-stream"},
        "provider": {"type": "string"},
        "signal": {"type": "string"},
    },
}
"""The form of an import. `provider`: the name it is kept under; `signal`: which to take, where the file has several."""


class Imported(msgspec.Struct, forbid_unknown_fields=True):
    """What of a file was new: forecasts, measured intensities, slots of generation, weather runs. `id`: the file's name.

    `signal` is empty for a file of weather, which has none.
    """

    object: Literal["batchsched.import"]
    id: str
    provider: str
    signal: str
    zones: list[str]
    forecasts: int
    measurements: int
    generation: int
    weather: int


class Measurement(msgspec.Struct, forbid_unknown_fields=True):
    """What came true over [start, end)."""

    start: datetime
    end: datetime
    intensity_g_per_kwh: float
    provider: str
    estimated: bool
    licence: str


class Forecast(msgspec.Struct, forbid_unknown_fields=True):
    """What was known about a zone at `as_of`. Each slot's quantiles belong to `levels`.

    `received_at`: when it came, where the archive was asked for one provider or signal. `note`: what was corrected.
    """

    zone: str
    as_of: datetime
    issued_at: datetime
    received_at: datetime | None
    provider: str
    signal: str
    licence: str
    continued_by: str | None
    continued_from: datetime | None
    note: str
    levels: list[float]
    slots: list[ForecastSlot]
    realised: list[Measurement]


class BackfillSpan(msgspec.Struct, forbid_unknown_fields=True):
    """What is asked for: hours that begin in [start, end); without an end up to now."""

    start: str
    end: str | None = None


class Backfilled(msgspec.Struct, forbid_unknown_fields=True):
    """What one source gave: values received, how many of them were news, and in words why it gave none."""

    source: str
    received: int
    added: int
    problem: str


class Backfill(msgspec.Struct, forbid_unknown_fields=True):
    """What came of it, a source each."""

    object: Literal["list"]
    data: list[Backfilled]


class Evaluation(msgspec.Struct, forbid_unknown_fields=True):
    """How good each provider's forecasts were, by days of lead."""

    object: Literal["list"]
    data: list[Skill]

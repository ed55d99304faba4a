"""What is said of models and of forecasts: how training went, and how good they were."""

from __future__ import annotations

from datetime import datetime

import msgspec


class Trained(msgspec.Struct, frozen=True):
    """What came of training. `known_h`: hours of the span that were known.

    `mape` (a fraction) and `skill` (1 - mape / naive's) are of four-day forecasts for the weeks from `held_out_from` on, by a
    model that had not seen them; None where there is too little history to hold any out.
    """

    zone: str
    signal: str
    model: str
    trained_from: datetime
    trained_until: datetime
    known_h: int
    seconds: float
    held_out_from: datetime | None = None
    mape: float | None = None
    skill: float | None = None


class Skill(msgspec.Struct, frozen=True):
    """One provider's forecasts of one zone, of hours that lay [from_h, to_h) ahead; None where it cannot be said.

    `issues` were looked at, and `hours` of theirs compared. `mape`, `naive_mape`, `coverage90` and `width90` are fractions,
    `skill` is 1 - mape / naive_mape, and naive is the same hour of the last known day. `pinball_g` is the mean loss over the
    quantiles. `captured` is the share of the saving of perfect foresight that 6 h jobs in windows of `to_h` hours would have had,
    planned anew at each hour on the provider's newest forecast that was there by then; None unless `to_h` is whole days.

    `served_by`: where the provider is "as served" (what plans read at `issues` instants), who served how many of them.
    """

    zone: str
    provider: str
    signal: str
    issues: int
    from_h: int
    to_h: int
    hours: int
    mape: float | None
    naive_mape: float | None
    skill: float | None
    pinball_g: float | None
    coverage90: float | None
    width90: float | None
    captured: float | None = None
    served_by: str = ""

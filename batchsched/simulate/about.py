"""What a simulation of an operator's own history rests on, in figures and in words."""

from __future__ import annotations

from datetime import datetime

import msgspec

from batchsched.simulate.heard import NOBODY
from batchsched.simulate.lived import AS_IT_WAS, Gone
from batchsched.units import format_duration, format_grams


class LeftOut(msgspec.Struct, frozen=True):
    """Batches of those days that are not simulated, by the reason."""

    unanswered: int = 0
    """No request of them was answered."""
    too_late: int = 0
    """They were due, or ended, after what came true is known; or they have not ended yet."""
    no_pool: int = 0
    """No pool that is left may run them."""

    @property
    def total(self) -> int:
        """Of all reasons."""
        return self.unanswered + self.too_late + self.no_pool

    def words(self, known_until: datetime) -> str:
        """How many for which reason."""
        reasons = (
            (self.too_late, f"due or ended after {_at(known_until)}, up to which it is known what came true"),
            (self.unanswered, "without an answered request"),
            (self.no_pool, "that no pool which is left may run"),
        )
        return "; ".join(f"{count} {reason}" for count, reason in reasons if count)


class About(msgspec.Struct, frozen=True):
    """`start` to `end`: when the batches came. Everything is paid for until `known_until` at the latest."""

    start: datetime
    end: datetime
    known_until: datetime
    came: int
    simulated: int
    left_out: LeftOut
    cut_short: int
    """Of those that are simulated, how many ended before all of their requests were answered."""
    pools: list[str]
    without: list[str]
    assumed: list[str]
    """Models on pools of which nothing was measured."""
    filled_h: int
    """Hours of all zones of which nobody knows what came true, filled in from those beside them."""
    gone: list[Gone]
    unmeasured_s: float
    forgotten_kwh: float
    attached: bool
    """Engines ran anyway: none was started for these batches."""

    def remarks(self) -> list[str]:
        """For people, a sentence each."""
        came = f"{self.simulated} of the {self.came} batches that came from {_at(self.start)} to {_at(self.end)}"
        found = [f"{came}, paid for by what came true until {_at(self.known_until)}."]
        if self.left_out.total:
            found.append(f"Left out: {self.left_out.words(self.known_until)}.")
        found.append(f"Pools: {', '.join(self.pools)}{f'; taken away: {_list(self.without)}' if self.without else ''}.")
        found.append(
            f"'{AS_IT_WAS}' is what the ledger says. All other rows are simulated: queue, scheduler and planner are the real "
            "ones; executors are modelled, by the speeds and watts that were measured on these pools and the time that each "
            "batch took."
        )
        if self.attached:
            found.append("No engine was started in that time: they are simulated as running anyway, by others' means.")
        if self.assumed:
            found.append(f"Never measured, so assumed: {_list(self.assumed)}.")
        if self.cut_short:
            found.append(
                f"{self.cut_short} ended before all was answered (expired, cancelled or with failed requests): every row does "
                "what was answered."
            )
        if self.filled_h:
            found.append(f"{self.filled_h} hours of all zones were never measured, and are filled in from those beside them.")
        return found + self._lacking()

    def _lacking(self) -> list[str]:
        """What is not in the first row, or in none."""
        found: list[str] = []
        for one in self.gone:
            lacks = f", and lacks {one.unknown_kwh:.3g} kWh whose grid is unknown" if one.unknown_kwh > 0 else ""
            found.append(
                f"Pool {one.pool} is declared no more. It took {one.kwh:.3g} kWh for these batches: '{AS_IT_WAS}' has "
                f"{format_grams(one.grams)} of that, by the batches' books{lacks}."
            )
        if self.unmeasured_s > 0:
            found.append(f"'{AS_IT_WAS}' lacks what {format_duration(self.unmeasured_s)} of work took, which nothing measured.")
        if self.forgotten_kwh > 0:
            found.append(f"{self.forgotten_kwh:.3g} kWh went to batches that are no longer kept: no row has them.")
        return found


def whose(shares: dict[str, float]) -> str:
    """Whose forecasts the policies saw, in a sentence; `shares`: of all that they asked for."""
    if not shares:
        return "No policy asked for a forecast."
    said = ", ".join(f"{'none at all' if who == NOBODY else who} {share:.0%}" for who, share in shares.items())
    return f"Forecasts as they were known then: {said}."


def _list(names: list[str]) -> str:
    return ", ".join(names)


def _at(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"

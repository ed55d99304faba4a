"""Who pays for making the hardware: manufacturing carbon by time reserved, under a named policy.

- `whole_life`: a straight line over the device's whole life, a second one included (SCI: ISO/IEC 21031).
- `remaining`: the first life pays its straight line; what is not yet written off is spread over the second.
- `cut_off`: the first life pays everything, a reused device is free.
- `sunk`: the figures of `whole_life`, reported and kept out of decisions.

Charges over a device's life, idle time included, add up to its total: `first_life_g` plus the second life's charges.
"""

from __future__ import annotations

from datetime import date
from typing import Literal

import msgspec

from batchsched.fleet import Pool
from batchsched.units import HOURS_PER_YEAR

Policy = Literal["sunk", "whole_life", "remaining", "cut_off"]

_YEAR_S = HOURS_PER_YEAR * 3600


class Held(msgspec.Struct, frozen=True):
    """The hardware of one replica, and where it stood in its life when a reservation began."""

    gpus: int = 1
    host: str = "slot"
    """A server of the catalogue, of which each GPU of the replica takes a slot."""
    age_years: float = 0.0
    second_from_years: float | None = None
    """The age at which a second life began; None in the first."""
    second_life_years: float = 0.0

    @classmethod
    def of(cls, pool: Pool, on: date, gpus: int) -> Held:
        """A replica of so many GPUs of a declared pool on that day; one whose purchase is not declared is new."""
        held = cls(gpus, pool.host)
        if pool.bought_at is None:
            return held
        held = msgspec.structs.replace(held, age_years=max(0.0, (on - pool.bought_at).days / 365))
        if pool.second_life_at is None or on < pool.second_life_at:
            return held
        began = (pool.second_life_at - pool.bought_at).days / 365
        return msgspec.structs.replace(held, second_from_years=began, second_life_years=pool.second_life_years or 0.0)

    def charge_g(self, total_kg: float, reserved_s: float, lifetime_years: float, policy: Policy) -> float:
        """Grams for `reserved_s` seconds; nothing after the life, or the second one, is over."""
        if self.second_from_years is None:
            return charge_g(total_kg, reserved_s, lifetime_years, policy, age_years=self.age_years)
        left_s = max(0.0, (self.second_from_years + self.second_life_years - self.age_years) * _YEAR_S)
        return charge_g(
            total_kg,
            min(reserved_s, left_s),
            lifetime_years,
            policy,
            age_years=self.second_from_years,
            second_life_years=self.second_life_years,
        )


NEW = Held()


def charge_g(
    total_kg: float,
    reserved_s: float,
    lifetime_years: float,
    policy: Policy,
    *,
    age_years: float = 0.0,
    second_life_years: float | None = None,
) -> float:
    """Grams for `reserved_s` seconds of a device that took `total_kg` to make.

    A device in its first life (`second_life_years` None): `age_years` is its age when the reservation begins, and after
    `lifetime_years` it is written off. A reused device: `age_years` is the age at which its second life began, and
    `second_life_years` how long that is planned to be; the caller keeps reservations within it.
    """
    total_g, reserved_years = total_kg * 1000, reserved_s / _YEAR_S
    if second_life_years is None:
        return total_g * max(0.0, min(reserved_years, lifetime_years - age_years)) / lifetime_years
    left_g = total_g - first_life_g(total_kg, lifetime_years, policy, age_years, second_life_years)
    return left_g * reserved_years / second_life_years


def first_life_g(
    total_kg: float, lifetime_years: float, policy: Policy, handed_over_at_years: float, second_life_years: float
) -> float:
    """Grams that the first life of a reused device bears in all, up to its age when it was handed over."""
    match policy:
        case "whole_life" | "sunk":
            return total_kg * 1000 * handed_over_at_years / (handed_over_at_years + second_life_years)
        case "remaining":
            return total_kg * 1000 * min(1.0, handed_over_at_years / lifetime_years)
        case "cut_off":
            return total_kg * 1000


def crossover_g_per_kwh(
    total_kg: float, lifetime_years: float, power_w: float, pue: float = 1.0, utilisation: float = 1.0
) -> float:
    """The grid intensity at which embodied equals operational carbon; below it, making the device weighs more than running it."""
    return total_kg * 1000 / (lifetime_years * HOURS_PER_YEAR * power_w / 1000 * utilisation * pue)

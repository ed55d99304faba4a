"""How sure a look at the fleet is: of its capacity, its energy, and what it took to make it. Scenarios of the grid come from the
forecasts (forecasts/futures.py), the errors of speeds and lengths with the profiles."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from batchsched.carbon.embodied import Held
from batchsched.carbon.hardware import Range
from batchsched.carbon.models import Hardware
from batchsched.fleet import Fleet
from batchsched.forecasts import IntensityForecast
from batchsched.planner import PoolState, Slot
from batchsched.planner.latest_start import OpenPool
from batchsched.planner.problem import Risk, Supply
from batchsched.planning import Planner
from batchsched.profiles.profile import Profile

if TYPE_CHECKING:
    from batchsched.forecasts.calibration import Calibrator

log = logging.getLogger(__name__)
METERED_SIGMA = 0.05
"""Of joules by meters, or by watts that the operator declared."""
MODELLED_SIGMA = 0.25
"""Of joules by the model of a GPU."""
_WIDTH_90 = 2 * 1.645
TRANSFER_SIGMA = math.log(0.14 / 0.001) / _WIDTH_90
"""Of the energy of a gigabyte: nine in ten figures of the literature, in kWh."""


class Uncertain:
    """Of one fleet. `learnt`: how forecasts of a zone have erred, where that is known."""

    def __init__(
        self, limits: Planner, fleet: Fleet, hardware: Hardware, learnt: Callable[[str], Calibrator | None] = lambda _: None
    ) -> None:
        self._limits, self._fleet, self._hardware, self._learnt = limits, fleet, hardware, learnt
        self.risk = Risk(limits.risk, limits.risk_measure, limits.risk_level)

    def doubted(
        self,
        states: Sequence[PoolState],
        pools: Sequence[OpenPool],
        profiles: Mapping[tuple[str, str], Profile],
        lost: Mapping[str, tuple[int, float]],
        now: datetime,
    ) -> tuple[list[PoolState], list[OpenPool]]:
        """The pools with how sure their capacity, their energy and what it took to make them is. `lost`: from workers.lost."""
        supplies = {name: supply(self._limits, lost.get(name, (0, 0.0))) for name in self._fleet.pools}
        energy = energy_sigmas(profiles)
        found: list[PoolState] = []
        for state in states:
            pool = self._fleet.pools[state.name]
            held = Held.of(pool, now.date(), self._fleet.replica_gpus[state.name])
            found.append(
                msgspec.structs.replace(
                    state,
                    supply=supplies[state.name],
                    kind=pool.gpu,
                    energy_sigma=energy.get(state.name, 0.0),
                    embodied_sigma=making_sigma(self._hardware.replica_kg(pool.gpu, held) if state.embodied_g_per_s else None),
                )
            )
        return found, [msgspec.structs.replace(one, supply=supplies[one.name]) for one in pools]

    def futures(
        self, forecasts: Mapping[str, IntensityForecast], slots: Sequence[Slot], now: datetime
    ) -> dict[str, list[list[float]]]:
        """Of the grid, by zone; none where none can be drawn, since plans do not hang on it."""
        if not any(slot.quantiles for forecast in forecasts.values() for slot in forecast.slots):
            return {}
        from batchsched.forecasts.futures import futures

        spans = [(now + timedelta(seconds=slot.start_s), now + timedelta(seconds=slot.end_s)) for slot in slots]
        try:
            return futures(forecasts, self._learnt, spans)
        except Exception:
            log.exception("No futures of the intensity can be drawn; plans take the forecast as it stands.")
            return {}


def supply(limits: Planner, seen: tuple[int, float]) -> Supply:
    """`seen`: how many workers of the pool fell silent, and in how many hours. The settings' rate counts like one failure."""
    declared = limits.failures_per_replica_h
    if declared <= 0:
        return Supply()
    failures, hours = seen
    return Supply(failures_per_replica_h=(1 + failures) / (1 / declared + max(0.0, hours)), repair_s=limits.repair_s)


def energy_sigmas(profiles: Mapping[tuple[str, str], Profile]) -> dict[str, float]:
    """Of each pool, by the least known of its models."""
    found: dict[str, float] = {}
    for (_, pool), profile in profiles.items():
        known = METERED_SIGMA + (MODELLED_SIGMA - METERED_SIGMA) * (1.0 - profile.with_host)
        found[pool] = max(found.get(pool, 0.0), known)
    return found


def making_sigma(kg: Range | None) -> float:
    """Published figures are taken to span nine cases in ten; one figure alone says nothing of how wrong it is."""
    return math.log(kg.high / kg.low) / _WIDTH_90 if kg and kg.low > 0 else 0.0

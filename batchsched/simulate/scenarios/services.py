"""Batches that come when the requests of real services do: more by day than by night, fewer at weekends, in bursts."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from batchsched.queue.spare import hour_of_week
from batchsched.simulate.grid import Floats
from batchsched.simulate.online import STEPS_A_WEEK, loads
from batchsched.simulate.rooms import STEP_S
from batchsched.simulate.scenarios.lengths import KINDS, lengths
from batchsched.simulate.scenarios.scenario import Scenario
from batchsched.simulate.scene import Arrival

LOADS = {
    "Azure 2023, code": "azure2024_code",
    "Azure 2023, conversation": "azure2024_conv",
    "Mooncake, conversation": "azure2024_conv",
    "ServeGen, m-small": "m-small",
    "ServeGen, m-mid": "m-mid",
    "ServeGen, m-large": "m-large",
}
"""When the requests of each kind come (`simulate.online.loads`). Of Mooncake's an hour is public: its day is taken to be that of
Azure's conversations."""
_SERVICE_OF = {tokens: LOADS[kind] for kind, tokens in KINDS.items()}


def services(good: Scenario, seed: int, data: Path | None = None) -> Scenario:
    """Batches as in `lengths`, as many as came before and with as much time; each comes when its service is asked. `data`: folder
    with the traces; without it a day and a week are made up."""
    unlike, known = lengths(good, seed), loads(data)
    first = hour_of_week(good.start) * 3600 // int(STEP_S)
    steps = (first + np.arange(round(good.scene.days * 86400 / STEP_S))) % STEPS_A_WEEK
    share = {name: np.append(0.0, np.cumsum(weeks[0][steps])) / weeks[0][steps].sum() for name, weeks in known.items()}
    moved = [_moved(one, share[_SERVICE_OF[one.input_tokens, one.expected_output_tokens]]) for one in unlike.scene.arrivals]
    scene = msgspec.structs.replace(unlike.scene, arrivals=sorted(moved, key=lambda one: (one.at_s, one.batch_id)))
    return msgspec.structs.replace(good, name=f"{good.name}, as services are asked", scene=scene)


def _moved(one: Arrival, share: Floats) -> Arrival:
    """It came when such a part of the days was over: it comes when such a part of the requests has come. `share`: by step."""
    days_s = (len(share) - 1) * STEP_S
    at_s = float(np.interp(one.at_s / days_s, share, np.arange(len(share)) * STEP_S))
    return msgspec.structs.replace(one, at_s=at_s, deadline_s=at_s + one.deadline_s - one.at_s)

"""The fleet-size planner: the array model, its bound, its plans."""

from __future__ import annotations

import numpy as np
import pytest

from batchsched.planner.fleet_model import FleetModel


def fleet(**more: object) -> FleetModel:
    """One pool of two GPUs, one configuration, one class, three slots of 100 s, one batch of 100 units; one unit a second."""
    settings: dict[str, object] = {
        "slot_s": np.full(3, 100.0),
        "capacity": np.full((1, 3), 2.0),
        "room": np.full((1, 3), 2.0),
        "gpus": np.ones((1, 1)),
        "loaded": np.zeros(1, np.int64),
        "load_s": np.full(1, 150.0),
        "load_g": np.full((1, 3), 5.0),
        "hold_g": np.zeros((1, 3)),
        "arc_class": np.zeros(1, np.int64),
        "arc_config": np.zeros(1, np.int64),
        "rate": np.ones(1),
        "run_g": np.array([[3.0, 1.0, 2.0]]),
        "late_g": np.full(1, 100.0),
        "batch_class": np.zeros(1, np.int64),
        "release": np.zeros(1, np.int64),
        "due": np.full(1, 3),
        "work": np.full(1, 100.0),
        **more,
    }
    return FleetModel(**settings)  # type: ignore[arg-type]


def test_a_start_goes_on_in_the_next_slots_and_not_beyond_the_end() -> None:
    model = fleet(load_s=np.full(1, 150.0))
    assert model.load_band.tolist() == [[[100.0, 50.0], [100.0, 50.0], [100.0, 0.0]]]
    assert fleet(load_s=np.zeros(1)).load_band.tolist() == [[[0.0], [0.0], [0.0]]]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("work", np.full(2, 1.0)),
        ("run_g", np.full((1, 3), np.nan)),
        ("capacity", np.full((1, 3), -1.0)),
        ("rate", np.zeros(1)),
        ("arc_config", np.full(1, 1)),
    ],
)
def test_nonsense_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field.split("_", maxsplit=1)[0]):
        fleet(**{field: value})

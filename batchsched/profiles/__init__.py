"""How fast and at what power a pool runs a model: priors, what was measured, how long answers are. Pure.

What learns from measurements needs numpy and is imported when it is first used: the command line and workers do without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchsched.profiles.lengths import Lengths as Lengths
from batchsched.profiles.lengths import estimate as estimate
from batchsched.profiles.lengths import refine as refine
from batchsched.profiles.prior import prior as prior
from batchsched.profiles.profile import Drift as Drift
from batchsched.profiles.profile import Profile as Profile
from batchsched.profiles.shape import Shape as Shape
from batchsched.profiles.shape import shape as shape

if TYPE_CHECKING:
    from batchsched.profiles.measured import Observation as Observation
    from batchsched.profiles.measured import update as update

__all__ = ["Drift", "Lengths", "Observation", "Profile", "Shape", "estimate", "prior", "refine", "shape", "update"]


def __getattr__(name: str) -> Any:
    if name not in {"Observation", "update"}:
        raise AttributeError(f"module 'batchsched.profiles' has no attribute '{name}'")
    from batchsched.profiles import measured

    return getattr(measured, name)

"""How fast and at what power a pool runs a model: priors, what was measured, how long answers are. Pure."""

from __future__ import annotations

from batchsched.profiles.lengths import Lengths as Lengths
from batchsched.profiles.lengths import estimate as estimate
from batchsched.profiles.lengths import refine as refine
from batchsched.profiles.measured import Observation as Observation
from batchsched.profiles.measured import update as update
from batchsched.profiles.prior import prior as prior
from batchsched.profiles.profile import Drift as Drift
from batchsched.profiles.profile import Profile as Profile
from batchsched.profiles.shape import Shape as Shape
from batchsched.profiles.shape import shape as shape

__all__ = ["Drift", "Lengths", "Observation", "Profile", "Shape", "estimate", "prior", "refine", "shape", "update"]

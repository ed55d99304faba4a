"""The plan as a whole: typed results, and the calls that fetch them."""

from __future__ import annotations

from batchsched.client.calls import Call, PlotFormat
from batchsched.wire import PREFIX


def plot(image_format: PlotFormat) -> Call[bytes]:
    """Of the plan in force."""
    return Call("GET", f"{PREFIX}/plan/plot", bytes, {"params": {"format": image_format}})

"""The Python SDK: `Client` and its asynchronous twin `AsyncClient`, with typed, frozen results.

Each name is imported when it is first used: a command that lists batches does not wait for what runs asyncio.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchsched.client.answers import Answer as Answer
    from batchsched.client.answers import Failure as Failure
    from batchsched.client.answers import OutputLine as OutputLine
    from batchsched.client.async_runs import AsyncMapped as AsyncMapped
    from batchsched.client.async_runs import AsyncRun as AsyncRun
    from batchsched.client.asynchronous import AsyncClient as AsyncClient
    from batchsched.client.blocking import Client as Client
    from batchsched.client.forecasts import Forecast as Forecast
    from batchsched.client.forecasts import ForecastFeed as ForecastFeed
    from batchsched.client.frames import AsyncResults as AsyncResults
    from batchsched.client.frames import Results as Results
    from batchsched.client.loops import BatchFunction as BatchFunction
    from batchsched.client.loops import batch as batch
    from batchsched.client.plans import Plan as Plan
    from batchsched.client.results import Batch as Batch
    from batchsched.client.results import BatchError as BatchError
    from batchsched.client.results import Carbon as Carbon
    from batchsched.client.results import Explanation as Explanation
    from batchsched.client.results import File as File
    from batchsched.client.results import Model as Model
    from batchsched.client.results import Progress as Progress
    from batchsched.client.results import Report as Report
    from batchsched.client.results import Scheduling as Scheduling
    from batchsched.client.runs import Mapped as Mapped
    from batchsched.client.runs import Run as Run
    from batchsched.client.schedules import Release as Release
    from batchsched.client.schedules import Schedule as Schedule
    from batchsched.client.verdicts import Option as Option
    from batchsched.client.verdicts import Risk as Risk
    from batchsched.client.verdicts import Verdict as Verdict
    from batchsched.client.windows import Opening as Opening
    from batchsched.client.windows import Window as Window

_HOMES = {
    "answers": ("Answer", "Failure", "OutputLine"),
    "async_runs": ("AsyncMapped", "AsyncRun"),
    "asynchronous": ("AsyncClient",),
    "blocking": ("Client",),
    "forecasts": ("Forecast", "ForecastFeed"),
    "frames": ("AsyncResults", "Results"),
    "loops": ("BatchFunction", "batch"),
    "plans": ("Plan",),
    "results": ("Batch", "BatchError", "Carbon", "Explanation", "File", "Model", "Progress", "Report", "Scheduling"),
    "runs": ("Mapped", "Run"),
    "schedules": ("Release", "Schedule"),
    "verdicts": ("Option", "Risk", "Verdict"),
    "windows": ("Opening", "Window"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Answer",
    "AsyncClient",
    "AsyncMapped",
    "AsyncResults",
    "AsyncRun",
    "Batch",
    "BatchError",
    "BatchFunction",
    "Carbon",
    "Client",
    "Explanation",
    "Failure",
    "File",
    "Forecast",
    "ForecastFeed",
    "Mapped",
    "Model",
    "Opening",
    "Option",
    "OutputLine",
    "Plan",
    "Progress",
    "Release",
    "Report",
    "Results",
    "Risk",
    "Run",
    "Schedule",
    "Scheduling",
    "Verdict",
    "Window",
    "batch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'batchsched.client' has no attribute '{name}'")
    found = getattr(import_module(f"batchsched.client.{_HOME[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

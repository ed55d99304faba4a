"""The Python SDK: `Client` and its asynchronous twin `AsyncClient`, with typed, frozen results."""

from __future__ import annotations

from batchsched.client.answers import Answer, Failure, OutputLine
from batchsched.client.async_runs import AsyncMapped, AsyncRun
from batchsched.client.asynchronous import AsyncClient
from batchsched.client.blocking import Client
from batchsched.client.forecasts import Forecast, ForecastFeed
from batchsched.client.frames import AsyncResults, Results
from batchsched.client.loops import BatchFunction, batch
from batchsched.client.plans import Plan
from batchsched.client.results import (
    Batch,
    BatchError,
    Carbon,
    Explanation,
    File,
    Model,
    Progress,
    Report,
    Scheduling,
)
from batchsched.client.runs import Mapped, Run
from batchsched.client.schedules import Release, Schedule
from batchsched.client.verdicts import Option, Risk, Verdict
from batchsched.client.windows import Opening, Window

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

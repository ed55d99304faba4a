"""The Python SDK: `Client` and its asynchronous twin `AsyncClient`, with typed, frozen results."""

from __future__ import annotations

from batchsched.client.asynchronous import AsyncClient
from batchsched.client.blocking import Client
from batchsched.client.forecasts import Forecast, ForecastFeed
from batchsched.client.plans import Plan
from batchsched.client.results import (
    Batch,
    BatchError,
    Carbon,
    Explanation,
    File,
    Model,
    OutputLine,
    Progress,
    Report,
    Scheduling,
)
from batchsched.client.verdicts import Option, Risk, Verdict
from batchsched.client.windows import Opening, Window

__all__ = [
    "AsyncClient",
    "Batch",
    "BatchError",
    "Carbon",
    "Client",
    "Explanation",
    "File",
    "Forecast",
    "ForecastFeed",
    "Model",
    "Opening",
    "Option",
    "OutputLine",
    "Plan",
    "Progress",
    "Report",
    "Risk",
    "Scheduling",
    "Verdict",
    "Window",
]

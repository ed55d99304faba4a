"""Forecasts of our own for any zone with a past: plain arrays in, four days of hourly means out. No clock, no network."""

from __future__ import annotations

from batchsched.forecasts.models.blend import Blend, Rows
from batchsched.forecasts.models.history import History, Weather
from batchsched.forecasts.models.model import Model

__all__ = ["Blend", "History", "Model", "Rows", "Weather"]

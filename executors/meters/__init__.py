"""How many joules an engine's hardware has used: measured where something measures, modelled and marked so elsewhere."""

from __future__ import annotations

from batchsched.executors.meters.choice import choose_meter as choose_meter
from batchsched.executors.meters.idle import idle_power as idle_power
from batchsched.executors.meters.port import Choice as Choice
from batchsched.executors.meters.port import EnergyMeter as EnergyMeter
from batchsched.executors.meters.port import Reading as Reading

__all__ = ["Choice", "EnergyMeter", "Reading", "choose_meter", "idle_power"]

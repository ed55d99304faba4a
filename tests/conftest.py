"""Fixtures that every test may ask for, and what holds for all of them."""

from __future__ import annotations

import os

# Before NumPy is loaded: on matrices this small its threads only wait for each other, at four times the CPU time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from hypothesis import HealthCheck, settings

from tests.object_server import _object_server as _object_server
from tests.object_server import object_server as object_server
from tests.postgres import database as database
from tests.postgres import database_url as database_url
from tests.postgres import postgres as postgres
from tests.postgres import postgres_url as postgres_url

# How fast a machine is must not decide whether a property holds.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

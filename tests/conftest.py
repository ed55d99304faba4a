"""Fixtures that every test may ask for, and what holds for all of them."""

from __future__ import annotations

import gc
import os
import sys

# Before NumPy is loaded: on matrices this small its threads only wait for each other, at four times the CPU time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Quick tests run the planner's compiled loops as plain Python: on tiny problems that is sooner done than compiling them.
if any("not slow" in word for word in sys.argv):
    os.environ.setdefault("NUMBA_DISABLE_JIT", "1")

import pytest
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

LONGEST = (
    "test_demo", "test_executors_vllm_errors", "test_chaos", "test_crash", "test_launch_processes", "test_bench_planner",
)  # fmt: skip
"""Files that take a minute and more, the longest first."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that no worker of pytest-xdist is left with it at the end. A file is for one worker,
    and all files that share the real vLLM are for one: each worker that needs it starts its own, for 40 s of CPU time."""
    place = {name: number for number, name in enumerate(("vllm", *LONGEST))}
    groups = {item.path: "vllm" if hasattr(getattr(item, "module", None), "vllm") else item.path.stem for item in items}
    items.sort(key=lambda item: place.get(groups[item.path], len(place)))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(groups[item.path]))


# What is imported and collected stays to the end: looking through it again and again for garbage took a fifth of all CPU time.
gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """What stands by now is kept; garbage comes from here on."""
    gc.freeze()
    gc.enable()

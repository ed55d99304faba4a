"""Fixtures that every test may ask for, and what holds for all of them."""

from __future__ import annotations

import gc
import importlib
import os
import re
import sys
from pathlib import Path
from typing import Any

# Before NumPy is loaded: on matrices this small its threads only wait for each other, at four times the CPU time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Quick tests run the planner's compiled loops as plain Python: on tiny problems that is sooner done than compiling them.
if any("not slow" in word for word in sys.argv):
    os.environ.setdefault("NUMBA_DISABLE_JIT", "1")

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

FIXTURES = ("tests.engine_fixture", "tests.object_server", "tests.postgres")
"""Modules with the fixtures that every test may ask for."""


def pytest_configure(config: pytest.Config) -> None:
    """How fast a machine is must not decide whether a property holds; nor, in the quick tests, must luck: `make check` draws the
    same examples each time, and fewer of them; `make test` and `make test-full` draw others each time."""
    same = "not slow" in config.getoption("markexpr")
    settings.register_profile(
        "patient",
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        derandomize=same,
        max_examples=40 if same else 100,
    )
    settings.load_profile("patient")
    if config.getoption("dist", "no") == "no":  # the process that hands tests out to others starts two seconds sooner without
        for name in FIXTURES:
            config.pluginmanager.register(importlib.import_module(name), name)


LONGEST = (
    *("test_demo", "test_executors_vllm_errors", "test_run", "test_chaos", "test_queue_machine", "test_crash"),
    *("test_launch_processes", "test_bench_planner", "test_backtest_agrees", "test_deploy_backup", "test_simulate"),
    *("test_tutorial", "test_store_live"),
)
"""Files that take most of a minute and more, about the longest first."""


MANY_SECONDS = (
    *("test_advice", "test_auth", "test_deploy_backup", "test_fairness", "test_forecast_learning", "test_forecast_own"),
    *("test_forecast_source_trouble", "test_migrations", "test_models_accepted", "test_openai_contract", "test_openapi"),
    *("test_planner_degenerate", "test_planner_fleet", "test_plans", "test_runs", "test_schedules", "test_scheduler"),
    *("test_simulate", "test_simulate_scenarios", "test_solving", "test_spare_governor", "test_starts", "test_stored"),
    *("test_testing_contract", "test_window_routes", "test_windows"),
)
"""Files of quick tests that take eight to thirty seconds together: they count as slow, so that the quick part stays quick."""


SHARE_VLLM = (
    *("test_backtest_agrees_vllm", "test_engine_contract", "test_executors_vllm", "test_integrations", "test_profiling_vllm"),
    *("test_how_tos_vllm", "test_modes_vllm", "test_runs_vllm", "test_spare_vllm", "test_stop_vllm"),
)
"""Files whose tests ask for the fixture `vllm`."""


def group_of(stem: str) -> str:
    """A file is for one worker of pytest-xdist, and all files that share the real vLLM are for one: each worker that needs it
    starts its own, for 40 s of CPU time and 2 GB."""
    return "vllm" if stem in SHARE_VLLM else stem


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files that have nothing of what is asked for need not be imported: of the quick tests, these are a quarter of all."""
    chosen = config.getoption("markexpr")
    if not collection_path.is_file() or "or" in chosen.split():
        return None
    marks = {"slow"} if collection_path.stem in MANY_SECONDS else {*_marks_of_all(collection_path)}
    return True if any(f"not {mark}" in chosen for mark in marks) else None


def _marks_of_all(path: Path) -> list[str]:
    """Of the marks that tests are chosen by, those that a file gives to all of its tests."""
    said = re.search(r"^pytestmark = .*", path.read_text("utf-8"), re.MULTILINE)
    return re.findall(r"\bmark\.(slow|engine|long)\b", said[0]) if said else []


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that no worker is left with it at the end."""
    for item in items:
        if item.path.stem in MANY_SECONDS:
            item.add_marker(pytest.mark.slow)
    place = {name: number for number, name in enumerate(("vllm", *LONGEST))}
    items.sort(key=lambda item: place.get(group_of(item.path.stem), len(place)))
    lost = {item.path.stem for item in items if "vllm" in getattr(item, "fixturenames", ())} - {*SHARE_VLLM}
    if lost:
        raise pytest.UsageError(f"tests/conftest.py: SHARE_VLLM lacks {', '.join(sorted(lost))}")


class Groups(LoadScopeScheduling):  # type: ignore[misc]
    """Hands out groups of files, in their order. pytest-xdist's own groups need names of tests that pytest 9.2 does not let it
    change: they do nothing there, and say nothing."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(Path(nodeid.partition("::")[0]).stem)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups:
    """For `-n`."""
    return Groups(config, log)


# What is imported and collected stays to the end: looking through it again and again for garbage took a fifth of all CPU time.
gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """What stands by now is kept; garbage comes from here on."""
    gc.freeze()
    gc.enable()

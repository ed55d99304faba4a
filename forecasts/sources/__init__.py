"""Sources of carbon intensity that are asked for news: one module a provider, all behind one port."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from batchsched.clock import Clock
from batchsched.feeds import FeedSource
from batchsched.forecasts.sources.fetcher import Fetcher
from batchsched.forecasts.sources.port import Source
from batchsched.settings import Forecast

__all__ = ["Source", "open_source", "open_sources"]


def open_sources(settings: Forecast, base_dir: Path, clock: Clock) -> dict[str, Source]:
    """Every declared source by its name. Raises InvalidConfiguration, SignalMismatch."""
    return {name: open_source(name, declared, base_dir, clock) for name, declared in settings.sources.items()}


def open_source(
    name: str,
    declared: FeedSource,
    base_dir: Path,
    clock: Clock,
    *,
    env: Mapping[str, str] = os.environ,
    sleep: Callable[[float], object] | None = None,
) -> Source:
    """One source. `base_dir`: where a relative path of a file starts; `sleep`: how it waits between two requests.

    Raises InvalidConfiguration where its key is missing or its signal is none that it gives.
    """
    from batchsched.forecasts.sources.carbon_aware_sdk import CarbonAwareSdk
    from batchsched.forecasts.sources.eia import Eia930
    from batchsched.forecasts.sources.electricity_maps import ElectricityMaps
    from batchsched.forecasts.sources.entsoe import EntsoE
    from batchsched.forecasts.sources.files import FileSource
    from batchsched.forecasts.sources.gb import GreatBritain
    from batchsched.forecasts.sources.watttime import WattTime

    if declared.kind == "file":
        return FileSource(name, declared, base_dir)
    kinds: dict[str, Callable[[str, FeedSource, Fetcher], Source]] = {
        "carbon_aware_sdk": CarbonAwareSdk,
        "eia": Eia930,
        "electricity_maps": ElectricityMaps,
        "entsoe": EntsoE,
        "gb": GreatBritain,
        "watttime": WattTime,
    }
    return kinds[declared.kind](name, declared, Fetcher(name, declared, declared.secret_from(name, env), clock, sleep))

"""What a configured server knows of its grids, for a simulation: the forecasts that it kept, as they were known at each hour."""

from __future__ import annotations

from batchsched.clock import Clock
from batchsched.fleet import Fleet
from batchsched.forecasts import Provider
from batchsched.forecasts.opened import open_forecasts
from batchsched.settings import Loaded


def configured(loaded: Loaded, clock: Clock) -> Provider:
    """The sources in their order over the archive, and what stands behind them. Raises InvalidConfiguration."""
    from batchsched.forecasts.archive import Archive

    settings = loaded.settings
    return open_forecasts(
        settings.forecast, loaded.base_dir, lambda: Archive(settings.archive_folder(), order=settings.forecast.order_for), clock
    ).provider


def zones_of(fleet: Fleet) -> list[str]:
    """Home's, and those with pools."""
    at_home = [fleet.home_site] if fleet.home_site in fleet.sites else []
    return list(dict.fromkeys(fleet.sites[name].zone for name in [*at_home, *(pool.site for pool in fleet.pools.values())]))

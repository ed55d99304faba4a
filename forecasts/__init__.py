"""Carbon intensity: the port that all providers share, and the way to open the one that the settings name."""

from __future__ import annotations

from pathlib import Path

from batchsched.forecasts.port import (
    QUANTILES,
    ForecastSlot,
    IntensityForecast,
    Provider,
    Realised,
    Signal,
    mean_realised,
    one_signal,
)
from batchsched.settings import Forecast

__all__ = [
    "QUANTILES",
    "ForecastSlot",
    "IntensityForecast",
    "Provider",
    "Realised",
    "Signal",
    "mean_realised",
    "one_signal",
    "open_provider",
]


def open_provider(settings: Forecast, base_dir: Path) -> Provider:
    """The provider that the settings name; a forecast that has been wrong of late is corrected, one that ends too early
    continued, and says so.

    `base_dir`: the folder that a relative `settings.path` starts from. Raises InvalidConfiguration for a bad file.
    """
    from batchsched.forecasts.climatology import Climatology

    if settings.source == "climatology":
        return Climatology()
    from batchsched.forecasts.continued import Continued
    from batchsched.forecasts.corrected import Corrected
    from batchsched.forecasts.file import FileProvider

    return Continued(Corrected(FileProvider(base_dir / settings.path)), Climatology())

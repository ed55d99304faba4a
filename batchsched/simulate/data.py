"""The grid that a simulation runs on: forecasts as they were issued and what came true of them, or drawn weather."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from batchsched.errors import ForecastUnavailable
from batchsched.forecasts.climatology import Climatology
from batchsched.forecasts.continued import Continued
from batchsched.forecasts.corrected import Corrected
from batchsched.forecasts.file import FileProvider
from batchsched.forecasts.layouts import read_file
from batchsched.forecasts.port import Provider
from batchsched.simulate.drawn import Drawn
from batchsched.simulate.feeds import judged
from batchsched.simulate.grid import HOUR

ISSUED = ("fc_carboncast_v21_firsttier_13regions_2021H2.parquet", "fc_carboncast_v3_us28_2022H2.parquet")
"""Files of forecasts as issued, with what came true (CarbonCast)."""
BROKEN = "fc_carboncast_v3_realtime_beta_2023.parquet"
"""A feed with stuck values, gaps, bias and late issues: taken as a server takes one that it cannot trust."""
BEFORE = timedelta(days=45)
"""So much of a file before the start is read: the correction of forecasts learns from it."""


@contextmanager
def opened(folder: Path | None, zones: Sequence[str], start: datetime, hours: int, seed: int) -> Generator[Provider]:
    """A provider of these zones for these hours. Forecasts of files are corrected by what came true since, as plans read them.

    `folder`: without one the weather is drawn; a file in any layout of `forecast import` is taken as a server takes one that has
    no other source. Raises ForecastUnavailable where no file of the folder has all of it, InvalidConfiguration for a bad file.
    """
    if folder is None:
        yield Drawn(start, hours, seed)
        return
    if folder.is_file():
        provider = FileProvider(folder, strict=True)
        yield judged(zones, read_file(folder, provider.signal_of(zones[0])).issues(), provider)
        return
    lacking = set(zones)
    for name in (*ISSUED, BROKEN):
        if (folder / name).is_file():
            with TemporaryDirectory() as place:
                part = Path(place) / name
                missing = _cut(folder / name, part, zones, start, hours)
                if not missing:
                    provider = FileProvider(part)
                    if name == BROKEN:
                        yield judged(zones, read_file(part).issues(), provider)
                    else:
                        yield Continued(Corrected(provider), Climatology())
                    return
                lacking = min(lacking, missing, key=len)
    raise ForecastUnavailable(
        f"No file in {folder} has forecasts of {', '.join(z for z in zones if z in lacking)} from {start:%Y-%m-%d} on "
        f"for {hours / 24:.0f} days{'' if len(lacking) == len(set(zones)) else ' beside the other zones'}.",
        hint=f"They are looked for in {', '.join((*ISSUED, BROKEN))}; one file has to have all zones.",
    )


def _cut(whole: Path, part: Path, zones: Sequence[str], start: datetime, hours: int) -> set[str]:
    """Write what these zones and hours need of a file; the zones of which it has not all of that, else."""
    import pandas as pd

    end = start + hours * HOUR
    frame = pd.read_parquet(whole, filters=[("region", "in", list(zones)), ("kind", "==", "direct")])
    frame = frame[frame["target_time_utc"].between(start - BEFORE, end, inclusive="left")]
    by_zone = frame.astype({"region": str, "kind": str}).groupby("region")["target_time_utc"].agg(["min", "max"])
    whole_of = by_zone[(by_zone["min"] <= start) & (by_zone["max"] >= end - HOUR)]
    missing = set(zones) - set(whole_of.index)
    if not missing:
        frame.to_parquet(part)
    return missing

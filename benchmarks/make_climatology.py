"""Derive forecasts/data/climatology.csv: the typical day of each month, by zone, from years of hourly measured intensity.

Reads the folder named by BATCHSCHED_DATA (default ../shared/data) and says so where it is absent. Run it from the repository's
root; the same data give the same file.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Balancing areas of the CarbonCast US file that are large and sound over all four years. Left out for defects: PACW, SPA, WALC,
# IPCO, SC, AZPS; PSCO, PSEI and NWMT changed their level within the years.
US_ZONES = ("BPAT", "CISO", "ERCO", "ISNE", "MISO", "NYIS", "PJM", "SOCO", "SWPP")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
US_FILE, OTHER_FILE = "ci_carboncast_us32_2019_2022.parquet", "ci_carboncast_eu_aus_2020_2021.parquet"
TARGET = Path("forecasts/data/climatology.csv")


def main() -> None:
    """Write the table and say how large it became."""
    folder = Path(os.environ.get("BATCHSCHED_DATA", "../shared/data"))
    if not (folder / US_FILE).is_file():
        sys.exit(f"There is no data in {folder}: set BATCHSCHED_DATA to the folder that holds {US_FILE} and {OTHER_FILE}.")
    import pandas as pd

    us = pd.read_parquet(folder / US_FILE).rename(columns={"interval_start_utc": "start"})
    us = us[us["region"].isin(US_ZONES) & us["start"].between("2019-01-01T00Z", "2022-12-31T23Z")]
    other = pd.read_parquet(folder / OTHER_FILE).rename(columns={"timestamp_utc": "start"})
    columns = ["region", "start", "ci_direct"]
    hours = pd.concat([us[columns].astype({"region": "str"}), other[columns]])
    hours = hours[hours["ci_direct"] >= 0]
    keys = [hours["region"].rename("zone"), hours["start"].dt.month.rename("month"), hours["start"].dt.hour.rename("hour")]
    grouped = hours.groupby(keys)["ci_direct"]
    quantiles = {f"q{round(level * 100):02d}": grouped.quantile(level) for level in QUANTILES}
    table = pd.DataFrame({"mean": grouped.mean(), **quantiles})
    table = table.round().astype(int)
    counts = grouped.size()
    if len(table) != 288 * table.index.get_level_values("zone").nunique() or counts.min() < 50:
        sys.exit("The data have gaps: some hour of some month has fewer than 50 days.")
    table.to_csv(TARGET)
    print(f"{TARGET}: {len(table)} rows, {TARGET.stat().st_size} bytes, at least {counts.min()} days behind each row")


if __name__ == "__main__":
    main()

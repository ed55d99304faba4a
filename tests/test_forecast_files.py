"""The layouts of files: ours, CarbonCast's and Electricity Maps' exports; and a file as a source."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest

from batchsched.clock import ManualClock
from batchsched.errors import ForecastUnavailable, InvalidConfiguration
from batchsched.feeds import FeedSource
from batchsched.forecasts.file import FileProvider
from batchsched.forecasts.layouts import read_file
from batchsched.forecasts.port import Signal
from batchsched.forecasts.sources import open_source
from batchsched.forecasts.sources.mix import intensities

HOUR = timedelta(hours=1)
DAY = datetime(2022, 7, 1, tzinfo=UTC)
DIRECT, LIFECYCLE = Signal("average", "direct"), Signal("average", "lifecycle")
DATA = Path(os.environ.get("BATCHSCHED_DATA", Path(__file__).parents[1] / "../shared/data"))

CARBONCAST = """region,kind,issue_time_utc,target_time_utc,lead_h,forecast,actual
CISO,direct,2022-07-01 00:00:00+00:00,2022-07-01 00:00:00+00:00,0,200,210
CISO,direct,2022-07-01 00:00:00+00:00,2022-07-01 01:00:00+00:00,1,201,
CISO,lifecycle,2022-07-01 00:00:00+00:00,2022-07-01 00:00:00+00:00,0,300,310
CISO,direct,2022-07-02T00:00:00Z,2022-07-02T00:00:00Z,0,nan,212
PJM,direct,2022-07-02,2022-07-02 00:00,0,-4,
PJM,direct,2022-07-02,2022-07-02 01:00,1,400,
"""
HISTORY = """region,timestamp_utc,interval_start_utc,ci_direct,ci_lifecycle
BPAT,2022-07-01 01:00:00,2022-07-01 00:00:00,10.5,30
BPAT,2022-07-01 02:00:00,2022-07-01 01:00:00,,31
"""
NAMES = "Carbon intensity gCO₂eq/kWh (direct),Carbon intensity gCO₂eq/kWh (Life cycle)"
ELECTRICITY_MAPS = f"""Datetime (UTC),Country,Zone name,Zone id,{NAMES},(CFE%),Data source,Data estimated
2022-07-01 00:00:00,Sweden,Sweden,SE,2.54,30.02,99.42,svk.se,false
2022-07-01 01:00:00,Sweden,Sweden,SE,2.6,,99.4,svk.se,true
2022-07-01 02:00:00,Sweden,Sweden,SE,2.7,30.4,99.4,svk.se,true
"""
OLDER_NAMES = "Carbon Intensity gCO₂eq/kWh (direct),Carbon Intensity gCO₂eq/kWh (LCA)"
OLDER = ELECTRICITY_MAPS.replace(NAMES, OLDER_NAMES).replace("Zone name,Zone id", "Zone Name,Zone Id")


def write(folder: Path, text: str) -> Path:
    path = folder / "export.csv"
    path.write_text(text, "utf-8")
    return path


def columns(path: Path) -> Path:
    """The same as Parquet, times as times."""
    import pandas as pd

    frame = pd.read_csv(path)
    for name in frame.columns:
        if "time" in name.lower():
            frame[name] = pd.to_datetime(frame[name], utc=True, format="ISO8601")
    frame.to_parquet(path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


@pytest.mark.parametrize("as_columns", [False, True])
class TestLayouts:
    def open(self, folder: Path, text: str, *, as_columns: bool) -> Path:
        path = write(folder, text)
        return columns(path) if as_columns else path

    def test_carboncast_forecasts(self, tmp_path: Path, as_columns: bool) -> None:
        provider = FileProvider(self.open(tmp_path, CARBONCAST, as_columns=as_columns))
        forecast = provider.forecast("CISO", DAY + HOUR / 2, DAY + 5 * HOUR)
        assert [slot.mean_g_per_kwh for slot in forecast.slots] == [200, 201]
        assert (forecast.provider, forecast.signal, forecast.issued_at) == ("CarbonCast", DIRECT, DAY)
        assert "Apache-2.0" in forecast.licence
        known = provider.realised("CISO", DAY, DAY + 30 * HOUR, DAY + 30 * HOUR)
        assert [(value.start, value.intensity_g_per_kwh) for value in known] == [(DAY, 210), (DAY + 24 * HOUR, 212)]
        assert provider.forecast("PJM", DAY + 25 * HOUR, DAY + 26 * HOUR).slots[0].mean_g_per_kwh == 400
        assert provider.forecast("PJM", DAY + 24 * HOUR, DAY + 26 * HOUR).mean_over(DAY + 24 * HOUR, DAY + 25 * HOUR) is None

    def test_the_signal_is_chosen(self, tmp_path: Path, as_columns: bool) -> None:
        path = self.open(tmp_path, CARBONCAST, as_columns=as_columns)
        provider = FileProvider(path, LIFECYCLE)
        assert provider.signal_of("CISO") == LIFECYCLE
        assert provider.forecast("CISO", DAY, DAY + HOUR).mean_over(DAY, DAY + HOUR) == 300
        with pytest.raises(InvalidConfiguration, match="average direct and average lifecycle, not marginal direct"):
            FileProvider(path, Signal("marginal", "direct"))

    def test_carboncast_history(self, tmp_path: Path, as_columns: bool) -> None:
        path = self.open(tmp_path, HISTORY, as_columns=as_columns)
        direct = FileProvider(path).realised("BPAT", DAY, DAY + 5 * HOUR, DAY + 9 * HOUR)
        assert [(value.start, value.intensity_g_per_kwh, value.signal) for value in direct] == [(DAY, 10.5, DIRECT)]
        lifecycle = FileProvider(path, LIFECYCLE).realised("BPAT", DAY, DAY + 5 * HOUR, DAY + 9 * HOUR)
        assert [value.intensity_g_per_kwh for value in lifecycle] == [30, 31]

    @pytest.mark.parametrize("text", [ELECTRICITY_MAPS, OLDER])
    def test_electricity_maps(self, tmp_path: Path, as_columns: bool, text: str) -> None:
        path = self.open(tmp_path, text, as_columns=as_columns)
        values = FileProvider(path).realised("SE", DAY, DAY + 5 * HOUR, DAY + 9 * HOUR)
        assert [(v.start - DAY, v.intensity_g_per_kwh, v.estimated) for v in values] == [
            (0 * HOUR, 30.02, False),
            (2 * HOUR, 30.4, True),
        ]
        assert {(value.signal, value.provider) for value in values} == {(LIFECYCLE, "Electricity Maps")}
        direct = FileProvider(path, DIRECT).realised("SE", DAY, DAY + 5 * HOUR, DAY + 9 * HOUR)
        assert [value.intensity_g_per_kwh for value in direct] == [2.54, 2.6, 2.7]

    def test_a_daily_export_is_refused(self, tmp_path: Path, as_columns: bool) -> None:
        text = ELECTRICITY_MAPS.replace("2022-07-01 01", "2022-07-02 00").replace("2022-07-01 02", "2022-07-03 00")
        path = self.open(tmp_path, text, as_columns=as_columns)
        with pytest.raises(InvalidConfiguration, match="not hourly for 'SE'"):
            FileProvider(path)


def test_made_later_than_issued_is_known_later(tmp_path: Path) -> None:
    lines = CARBONCAST.splitlines()
    late = [f"{lines[0]},created_utc", *(f"{line},2022-07-03 06:00:00" for line in lines[1:3])]
    provider = FileProvider(write(tmp_path, "\n".join(late)))
    with pytest.raises(ForecastUnavailable):
        provider.forecast("CISO", DAY, DAY + HOUR)
    assert next(provider_issue for provider_issue in read_file(tmp_path / "export.csv").issues()).issued_at == DAY + 54 * HOUR


def test_a_whole_file_issue_by_issue(tmp_path: Path) -> None:
    content = read_file(write(tmp_path, CARBONCAST))
    issues = [(issue.zone, issue.issued_at, [slot.mean_g_per_kwh for slot in issue.slots]) for issue in content.issues()]
    assert issues == [("CISO", DAY, [200, 201]), ("PJM", DAY + 24 * HOUR, [400])]
    assert [value.intensity_g_per_kwh for value in content.measurements()] == [210, 212]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            CARBONCAST.replace("2022-07-01 01:00:00+00:00", "soon"),
            r"export\.csv, line 3, column 'target_time_utc': 'soon' is not",
        ),
        (CARBONCAST.replace("2022-07-01 01:00:00+00:00", ""), r"line 3, column 'target_time_utc': an instant is needed"),
        (HISTORY.replace("10.5", "much"), "line 2, column 'ci_direct': 'much' is not a number"),
        (ELECTRICITY_MAPS.replace("Carbon intensity", "Weight"), "line 2: no column has the average lifecycle carbon intensity"),
    ],
)
def test_mistakes_name_file_line_and_column(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidConfiguration, match=said):
        FileProvider(write(tmp_path, text))


class TestFileSource:
    def test_it_is_a_source_like_the_others(self, tmp_path: Path) -> None:
        write(tmp_path, CARBONCAST)
        clock = ManualClock(DAY)
        source = open_source("mine", FeedSource("file", {"US-CAL-CISO": "CISO"}, path="export.csv"), tmp_path, clock)
        assert source.zones() == ["US-CAL-CISO"]
        forecast = source.fetch_forecast("US-CAL-CISO", DAY)
        assert (forecast.zone, forecast.provider, forecast.signal) == ("US-CAL-CISO", "mine", source.signal_of("US-CAL-CISO"))
        values = source.fetch_realised("US-CAL-CISO", DAY, DAY + 48 * HOUR, DAY + 48 * HOUR)
        assert [(value.zone, value.provider, value.intensity_g_per_kwh) for value in values] == [
            ("US-CAL-CISO", "mine", 210),
            ("US-CAL-CISO", "mine", 212),
        ]
        with pytest.raises(ForecastUnavailable, match="no zone 'PJM'"):
            source.fetch_forecast("PJM", DAY)

    def test_all_zones_of_the_file_and_its_signal(self, tmp_path: Path) -> None:
        write(tmp_path, CARBONCAST)
        declared = FeedSource("file", path="export.csv", signal="average lifecycle")
        source = open_source("mine", declared, tmp_path, ManualClock(DAY))
        assert (source.zones(), source.signal_of("CISO")) == (["CISO"], LIFECYCLE)
        write(tmp_path, CARBONCAST.replace("PJM,direct", "PJM,lifecycle"))
        os.utime(tmp_path / "export.csv", ns=(1, 1))
        assert source.zones() == ["CISO", "PJM"]  # watched for change

    def test_an_issue_is_one_record_however_often_it_is_asked_for(self, tmp_path: Path) -> None:
        """Whole, and with what the one before it said of the time beyond."""
        rows = [f"DE,{DAY + n * HOUR},{DAY + (n + 1) * HOUR},{DAY - HOUR},{100 + n}" for n in range(130)]
        rows += [f"DE,{DAY + n * HOUR},{DAY + (n + 1) * HOUR},{DAY + 12 * HOUR},{300 + n}" for n in range(10, 120)]
        write(tmp_path, "zone,start,end,issued_at,mean\n" + "\n".join(rows).replace("+00:00", "Z").replace(" ", "T"))
        source = open_source("mine", FeedSource("file", path="export.csv"), tmp_path, ManualClock(DAY))
        issues = [source.fetch_forecast("DE", DAY + n * HOUR) for n in range(36)]
        assert [len({repr(issue) for issue in issues[since:to]}) for since, to in ((0, 12), (12, 36))] == [1, 1]
        assert [slot.mean_g_per_kwh for slot in issues[0].slots] == list(range(100, 230))
        assert issues[35].issued_at == DAY + 12 * HOUR
        assert [slot.mean_g_per_kwh for slot in issues[35].slots] == [*range(312, 420), *range(220, 230)]
        with pytest.raises(ForecastUnavailable):
            source.fetch_forecast("DE", DAY + 130 * HOUR)

    def test_a_signal_that_the_file_does_not_have(self, tmp_path: Path) -> None:
        write(tmp_path, "zone,start,end,issued_at,mean\n")
        with pytest.raises(InvalidConfiguration, match="has average direct, not average lifecycle"):
            open_source("mine", FeedSource("file", path="export.csv", signal="average lifecycle"), tmp_path, ManualClock(DAY))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fc_carboncast_v21_firsttier_13regions_2021H2", "ci_carboncast_eu_aus_2020_2021"])
def test_the_shared_files_are_read(name: str) -> None:
    path = DATA / f"{name}.parquet"
    if not path.is_file():
        pytest.skip(f"{path} is not here (BATCHSCHED_DATA names the folder)")
    provider = FileProvider(path)
    at = datetime(2021, 8, 3, 6, tzinfo=UTC)
    assert len(provider.realised("DE", at - 48 * HOUR, at, at)) >= 47
    if name.startswith("fc"):
        assert provider.forecast("DE", at, at + 48 * HOUR).slots[-1].end >= at + 48 * HOUR


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["direct", "lifecycle"])
def test_the_factors_give_what_carboncast_published(scope: Literal["direct", "lifecycle"]) -> None:
    paths = [DATA / f"{name}_carboncast_us32_2019_2022.parquet" for name in ("genmix", "ci")]
    if not all(path.is_file() for path in paths):
        pytest.skip(f"{paths[0]} is not here (BATCHSCHED_DATA names the folder)")
    import pandas as pd

    area = [("region", "==", "CISO"), ("timestamp_utc", ">=", pd.Timestamp("2022-03-01", tz="UTC"))]
    mixes, published = (pd.read_parquet(path, filters=area).set_index("timestamp_utc") for path in paths)
    fuels = {"coal": "coal", "nat_gas": "gas", "wind": "wind", "nuclear": "nuclear", "oil": "oil", "hydro": "hydro"}
    fuels |= {"solar": "solar", "other": "other"}
    mix = {
        row["timestamp_utc"].to_pydatetime(): {
            fuel: float(row[f"mw_{fuel}"]) for fuel in fuels if row[f"mw_{fuel}"] == row[f"mw_{fuel}"]
        }
        for row in mixes.head(1000).reset_index().to_dict("records")
    }
    found = intensities(mix, fuels, Signal("average", scope))
    off = [abs(value - published[f"ci_{scope}"][at]) for at, value in found.items() if value is not None]
    assert len(off) > 900
    assert max(off) < 0.01

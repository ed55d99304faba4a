"""One contract for every provider, and what is particular to files and to continuing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from batchsched.errors import ForecastUnavailable, InvalidConfiguration, InvalidValue, SignalMismatch
from batchsched.forecasts import (
    ForecastSlot,
    IntensityForecast,
    Provider,
    Realised,
    Signal,
    mean_realised,
    one_signal,
    open_provider,
)
from batchsched.forecasts.archive import Archive
from batchsched.forecasts.chain import Chain, Links
from batchsched.forecasts.climatology import Climatology
from batchsched.forecasts.continued import Continued
from batchsched.forecasts.file import FileProvider
from batchsched.forecasts.layouts import COLUMNS, Content, read_file
from batchsched.forecasts.truth import best_known
from batchsched.settings import Forecast

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
HEADER = ",".join(COLUMNS)


def at(hours: float) -> str:
    return (NOW + hours * HOUR).isoformat()


def row(start: float, end: float, issued: float | None, mean: str = "", realised: str = "", zone: str = "DE") -> str:
    issued_at = at(issued) if issued is not None else ""
    spread = ",".join(f"{float(mean) * f:g}" for f in (0.5, 0.8, 1.0, 1.2, 1.5)) if mean else ",,,,"
    return f"{zone},{at(start)},{at(end)},{issued_at},{mean},{spread},{realised}"


def write(path: Path, *rows: str, options: str = "") -> Path:
    path.write_text("\n".join([*options.splitlines(), HEADER, *rows]) + "\n")
    return path


def two_days(path: Path) -> Path:
    """Measured hours of yesterday, and hours of today and tomorrow as issued an hour ago; a later issue is not out yet."""
    past = [row(h, h + 1, h - 1, str(200 + h), str(210 + h)) for h in range(-24, 0)]
    ahead = [row(h, h + 1, -1, str(300 + h)) for h in range(48)]
    later = [row(h, h + 1, 1, "999") for h in range(48)]
    return write(path, *past, *ahead, *later)


def csv_provider(folder: Path) -> Provider:
    return FileProvider(two_days(folder / "f.csv"))


def parquet_provider(folder: Path) -> Provider:
    import pandas as pd

    frame = pd.read_csv(two_days(folder / "f.csv"), parse_dates=["start", "end", "issued_at"])
    frame.attrs["provider"] = "columns"
    frame.to_parquet(folder / "f.parquet")
    return FileProvider(folder / "f.parquet")


def opened(folder: Path) -> Provider:
    two_days(folder / "f.csv")
    return open_provider(Forecast(source="file", path="f.csv"), folder)


def archived(folder: Path) -> Provider:
    """What the file says, as it reached an archive."""
    given, archive = csv_provider(folder), Archive(folder / "archive")
    archive.add_forecast(given.forecast("DE", NOW, NOW + 48 * HOUR), NOW)
    archive.add_forecast(given.forecast("DE", NOW + 2 * HOUR, NOW + 48 * HOUR), NOW + 2 * HOUR)
    for hour in range(-24, 0):
        end = NOW + (hour + 1) * HOUR
        archive.add_realised(given.realised("DE", end - HOUR, end, NOW), end)
    return Continued(Chain(archive, {"DE": Links((given.name,), Signal())}, Climatology()), Climatology())


PROVIDERS: dict[str, Callable[[Path], Provider]] = {
    "climatology": lambda _: open_provider(Forecast(), Path()),
    "csv": csv_provider,
    "parquet": parquet_provider,
    "opened file": opened,
    "archive": archived,
}


@pytest.fixture(params=PROVIDERS, ids=list(PROVIDERS))
def provider(request: pytest.FixtureRequest, tmp_path: Path) -> Provider:
    return PROVIDERS[request.param](tmp_path)


class TestContract:
    def test_forecast_covers_now_in_order_without_overlap(self, provider: Provider) -> None:
        forecast = provider.forecast("DE", NOW + timedelta(minutes=20), NOW + 30 * HOUR)
        assert forecast.slots[0].start <= NOW + timedelta(minutes=20) < forecast.slots[0].end
        assert forecast.slots[-1].end >= NOW + 30 * HOUR
        assert all(a.end <= b.start for a, b in zip(forecast.slots, forecast.slots[1:], strict=False))
        assert all(slot.start < slot.end and slot.start.utcoffset() == timedelta(0) for slot in forecast.slots)

    def test_nothing_issued_later_is_used(self, provider: Provider) -> None:
        forecast = provider.forecast("DE", NOW, NOW + 30 * HOUR)
        assert forecast.issued_at <= NOW
        assert all(slot.mean_g_per_kwh != 999 for slot in forecast.slots)

    def test_it_says_who_and_what(self, provider: Provider) -> None:
        forecast = provider.forecast("DE", NOW, NOW + HOUR)
        assert forecast.provider == provider.name != ""
        assert (forecast.zone, str(forecast.signal)) == ("DE", "average direct")
        assert forecast.signal == provider.signal_of("DE")
        assert "DE" in provider.zones()

    def test_quantiles_do_not_fall_and_hold_the_mean(self, provider: Provider) -> None:
        for slot in provider.forecast("DE", NOW, NOW + 30 * HOUR).slots:
            assert slot.quantiles is not None
            assert slot.mean_g_per_kwh is not None
            assert list(slot.quantiles) == sorted(slot.quantiles)
            assert slot.quantiles[0] <= slot.mean_g_per_kwh <= slot.quantiles[-1]

    def test_it_can_be_archived_as_json(self, provider: Provider) -> None:
        forecast = provider.forecast("DE", NOW, NOW + 5 * HOUR)
        assert IntensityForecast.from_rows(json.loads(json.dumps(forecast.to_rows()))) == forecast

    def test_unknown_zone_is_refused_with_the_known_ones(self, provider: Provider) -> None:
        with pytest.raises(ForecastUnavailable, match=r"ATLANTIS.*DE"):
            provider.forecast("ATLANTIS", NOW, NOW + HOUR)
        with pytest.raises(ForecastUnavailable):
            provider.signal_of("ATLANTIS")

    def test_realised_is_what_was_known_then(self, provider: Provider) -> None:
        for value in provider.realised("DE", NOW - 5 * HOUR, NOW + HOUR, NOW - 2 * HOUR):
            assert value.end <= NOW - 2 * HOUR
            assert value.end > NOW - 5 * HOUR
            assert value.signal == provider.signal_of("DE")


class TestForecast:
    forecast = IntensityForecast(
        "Z",
        NOW,
        "test",
        Signal(),
        (
            ForecastSlot(NOW, NOW + HOUR, 100, (50, 80, 100, 120, 150)),
            ForecastSlot(NOW + HOUR, NOW + 2 * HOUR, 300, (150, 240, 300, 360, 450)),
            ForecastSlot(NOW + 3 * HOUR, NOW + 4 * HOUR, 0, None),
            ForecastSlot(NOW + 4 * HOUR, NOW + 5 * HOUR, None, None),
        ),
    )

    def test_mean_is_weighted_by_time(self) -> None:
        assert self.forecast.mean_over(NOW + 0.5 * HOUR, NOW + 2 * HOUR) == pytest.approx((0.5 * 100 + 300) / 1.5)
        assert self.forecast.mean_over(NOW + HOUR, NOW + HOUR) == 300
        assert self.forecast.mean_over(NOW + 3 * HOUR, NOW + 4 * HOUR) == 0

    @pytest.mark.parametrize(("start", "end"), [(1.5, 2.5), (3.5, 4.5), (-1, 1), (4.5, 6), (9, 10), (2.5, 2.5)])
    def test_any_unknown_part_makes_it_unknown(self, start: float, end: float) -> None:
        assert self.forecast.mean_over(NOW + start * HOUR, NOW + end * HOUR) is None

    def test_quantiles(self) -> None:
        assert self.forecast.quantile_over(0.95, NOW, NOW + 2 * HOUR) == 300
        assert self.forecast.quantile_over(0.85, NOW, NOW + HOUR) == pytest.approx(135)
        assert self.forecast.quantile_over(0.5, NOW + 3 * HOUR, NOW + 4 * HOUR) is None
        with pytest.raises(InvalidValue):
            self.forecast.quantile_over(0.99, NOW, NOW + HOUR)

    def test_mean_realised_names_the_known_share(self) -> None:
        values = [
            Realised("Z", NOW, NOW + HOUR, 100, "t", Signal()),
            Realised("Z", NOW + 2 * HOUR, NOW + 3 * HOUR, 200, "t", Signal()),
        ]
        assert mean_realised(values, NOW, NOW + 4 * HOUR) == (150, 0.5)
        assert mean_realised([], NOW, NOW + HOUR) == (None, 0)

    def test_signals(self) -> None:
        assert str(Signal.parse("marginal  lifecycle")) == "marginal lifecycle"
        with pytest.raises(InvalidValue, match="average or marginal"):
            Signal.parse("green")
        assert one_signal(Climatology(), ["DE", "CISO"]) == Signal("average", "direct")
        with pytest.raises(SignalMismatch, match="WORLD: average lifecycle"):
            one_signal(Climatology(), ["DE", "WORLD"])


class TestFile:
    def test_newest_issue_wins_moment_by_moment(self, tmp_path: Path) -> None:
        rows = [row(0, 4, -2, "100"), row(1, 2, -1, "200"), row(2, 3, 5, "999"), row(3, 5, -3, "50")]
        forecast = FileProvider(write(tmp_path / "f.csv", *rows)).forecast("DE", NOW, NOW + 9 * HOUR)
        found = [((s.start - NOW) / HOUR, (s.end - NOW) / HOUR, s.mean_g_per_kwh) for s in forecast.slots]
        assert found == [(0, 1, 100), (1, 2, 200), (2, 4, 100), (4, 5, 50)]
        assert forecast.issued_at == NOW - HOUR

    def test_short_slots_and_options(self, tmp_path: Path) -> None:
        options = "# provider: example forecast\n# signal: marginal lifecycle\n# licence: CC0\n# a remark"
        slots = [row(n * 20 / 3600, (n + 1) * 20 / 3600, -1, str(n)) for n in range(9)]
        provider = FileProvider(write(tmp_path / "f.csv", *slots, "", "# the end", options=options))
        forecast = provider.forecast("DE", NOW, NOW + timedelta(minutes=2))
        assert (forecast.provider, str(forecast.signal), forecast.licence) == ("example forecast", "marginal lifecycle", "CC0")
        assert forecast.mean_over(NOW, NOW + timedelta(seconds=60)) == pytest.approx(1)

    def test_missing_is_unknown_never_zero(self, tmp_path: Path) -> None:
        rows = [row(0, 1, -1, "0"), row(1, 2, -1, "nan"), row(2, 3, -1, "-4"), row(-1, 0, None, realised="nan")]
        provider = FileProvider(write(tmp_path / "f.csv", *rows))
        forecast = provider.forecast("DE", NOW, NOW + 3 * HOUR)
        assert [slot.mean_g_per_kwh for slot in forecast.slots] == [0]
        assert forecast.mean_over(NOW, NOW + 2 * HOUR) is None
        assert provider.realised("DE", NOW - HOUR, NOW, NOW) == []

    def test_realised_in_rows_of_its_own_and_later_lines_hold(self, tmp_path: Path) -> None:
        rows = [
            row(0, 1, -1, "100", "110"),
            row(0, 1, None, realised="120"),
            row(1, 2, None, realised="130"),
            row(2, 3, None, realised="7"),
        ]
        provider = FileProvider(write(tmp_path / "f.csv", *rows))
        known = provider.realised("DE", NOW, NOW + 9 * HOUR, NOW + 2.5 * HOUR)
        assert [value.intensity_g_per_kwh for value in known] == [120, 130]
        assert provider.realised("DE", NOW + HOUR, NOW + 1.5 * HOUR, NOW + 9 * HOUR)[0].intensity_g_per_kwh == 130

    def test_few_columns_are_enough(self, tmp_path: Path) -> None:
        path = tmp_path / "f.csv"
        path.write_text(f"zone,start,end,issued_at,mean\nDE,{at(0)},{at(1)},{at(-1)},100\n")
        assert FileProvider(path).forecast("DE", NOW, NOW + HOUR).slots[0].quantiles is None

    def test_a_changed_file_is_read_again(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = write(tmp_path / "f.csv", row(0, 1, -1, "100"))
        provider = FileProvider(path)
        assert provider.forecast("DE", NOW, NOW + HOUR).mean_over(NOW, NOW + HOUR) == 100
        write(path, row(0, 1, -1, "200"))
        os.utime(path, ns=(1, 1))
        assert provider.forecast("DE", NOW, NOW + HOUR).mean_over(NOW, NOW + HOUR) == 200
        for spoil in (lambda: path.write_text("half of a li"), lambda: path.write_text("a"), path.unlink):
            spoil()  # what it said before stays in force
            for _ in range(2):
                assert provider.forecast("DE", NOW, NOW + HOUR).mean_over(NOW, NOW + HOUR) == 200
        assert ["f.csv" in record.getMessage() for record in caplog.records] == [True, True]
        write(path, row(0, 1, -1, "300"))
        assert provider.forecast("DE", NOW, NOW + HOUR).mean_over(NOW, NOW + HOUR) == 300

    @pytest.mark.parametrize(
        ("signal", "known"),
        [("average direct", [300, 4, 0]), ("average lifecycle", [300, 4]), ("marginal direct", [300, 0, 4, 0])],
    )
    def test_a_zero_that_cannot_be_is_unknown(self, tmp_path: Path, signal: str, known: list[float]) -> None:
        means = ["300", "0", "4", "0"]
        rows = [row(h, h + 1, -1, mean) for h, mean in enumerate(means)]
        rows += [row(h, h + 1, None, realised=mean) for h, mean in enumerate(means)]
        provider = FileProvider(write(tmp_path / "f.csv", *rows, options=f"# signal: {signal}"))
        assert [slot.mean_g_per_kwh for slot in provider.forecast("DE", NOW, NOW + 4 * HOUR).slots] == known
        values = provider.realised("DE", NOW, NOW + 4 * HOUR, NOW + 4 * HOUR)
        assert [value.intensity_g_per_kwh for value in values] == known

    def test_one_at_a_time_reads_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write(tmp_path / "f.csv", row(0, 1, -1, "100"))
        provider = FileProvider(path)
        meanwhile: list[float | None] = []

        def slow(*given: Any) -> Content:
            meanwhile.append(provider.forecast("DE", NOW, NOW + HOUR).mean_over(NOW, NOW + HOUR))
            return read_file(*given)

        monkeypatch.setattr("batchsched.forecasts.file.read_file", slow)
        write(path, row(0, 1, -1, "2000"))
        assert provider.forecast("DE", NOW, NOW + HOUR).mean_over(NOW, NOW + HOUR) == 2000
        assert meanwhile == [100]

    def test_it_keeps_to_its_signal(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = write(tmp_path / "f.csv", row(0, 1, -1, "100"))
        lenient, strict = FileProvider(path), FileProvider(path, strict=True)
        write(path, row(0, 1, -1, "200"), options="# signal: marginal direct")
        assert lenient.forecast("DE", NOW, NOW + HOUR).mean_over(NOW, NOW + HOUR) == 100
        assert "has marginal direct, not average direct" in caplog.text
        with pytest.raises(InvalidConfiguration, match="has marginal direct, not average direct"):
            strict.forecast("DE", NOW, NOW + HOUR)

    def test_the_example_of_the_docs_is_read(self, tmp_path: Path) -> None:
        text = (Path(__file__).parents[1] / "docs" / "forecasts.md").read_text()
        example = text[text.index("# provider:") :].partition("```")[0]
        (tmp_path / "f.csv").write_text(example)
        provider = FileProvider(tmp_path / "f.csv")
        forecast = provider.forecast("DE", NOW, NOW + HOUR)
        assert (forecast.provider, forecast.licence) == ("my grid operator", "CC-BY-4.0")
        assert forecast.quantile_over(0.95, NOW, NOW + HOUR) == 370
        assert [value.intensity_g_per_kwh for value in provider.realised("DE", NOW - HOUR, NOW, NOW)] == [295]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "line 1: column 'zone' is missing"),
            ("zone,start,end,colour\n", "line 1: column 'colour' is unknown .allowed: zone, start"),
            (f"{HEADER}\nDE,soon,{at(1)}{',' * 8}", "line 2, column 'start': 'soon' is not an instant"),
            (f"{HEADER}\nDE,2026-05-01T00:00:00,{at(1)}{',' * 8}", "line 2, column 'start': .* no time zone"),
            (f"{HEADER}\n\nDE,{at(0)},{at(1)},{at(0)},many{',' * 6}", "line 3, column 'mean': 'many' is not a number"),
            (f"{HEADER}\nDE,{at(0)},{at(1)},,100{',' * 6}", "line 2, column 'issued_at'"),
            (f"{HEADER}\nDE,{at(1)},{at(0)}{',' * 8}", "line 2: .* end lies after start"),
            (f"{HEADER}\nDE,{at(0)}", "line 2: 2 values under 11 columns"),
            (f"{HEADER}\nDE,{at(0)},{at(1)},{at(0)},5,9,8,7,6,5,", "line 2: the quantiles must not fall"),
            (f"# signal: green\n{HEADER}\n", "'# signal': 'green' is not a signal"),
        ],
    )
    def test_mistakes_name_file_line_and_what_is_allowed(self, tmp_path: Path, text: str, said: str) -> None:
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(InvalidConfiguration, match=rf"bad\.csv.*{said}"):
            FileProvider(tmp_path / "bad.csv")

    def test_what_is_no_text_and_no_parquet(self, tmp_path: Path) -> None:
        for name in ("bad.csv", "bad.parquet"):
            (tmp_path / name).write_bytes(b"\xff\xfe\x00")
            with pytest.raises(InvalidConfiguration, match=name):
                FileProvider(tmp_path / name)


class TestContinued:
    def test_by_climatology_of_the_same_signal(self, tmp_path: Path) -> None:
        provider = Continued(FileProvider(write(tmp_path / "f.csv", row(0, 1.5, -1, "100"))), Climatology())
        forecast = provider.forecast("DE", NOW, NOW + 4 * HOUR)
        assert (forecast.continued_by, forecast.continued_from) == ("climatology", NOW + 1.5 * HOUR)
        typical = Climatology().forecast("DE", NOW, NOW + 4 * HOUR)
        assert forecast.mean_over(NOW, NOW + HOUR) == 100
        assert forecast.mean_over(NOW + 2 * HOUR, NOW + 3 * HOUR) == typical.mean_over(NOW + 2 * HOUR, NOW + 3 * HOUR)
        assert forecast.mean_over(NOW, NOW + 4 * HOUR) is not None

    @pytest.mark.parametrize("zone", ["ISLAND", "DE"])
    def test_else_by_its_last_day(self, tmp_path: Path, zone: str) -> None:
        rows = [row(h, h + 1, -1, str(100 + h), zone=zone) for h in range(30)]
        provider = Continued(FileProvider(write(tmp_path / "f.csv", *rows, options="# signal: average lifecycle")), Climatology())
        forecast = provider.forecast(zone, NOW, NOW + 70 * HOUR)
        assert (forecast.continued_by, forecast.continued_from) == ("repeating its last day", NOW + 30 * HOUR)
        assert forecast.mean_over(NOW + 30 * HOUR, NOW + 31 * HOUR) == 106
        assert forecast.mean_over(NOW + 69 * HOUR, NOW + 70 * HOUR) == 121
        assert forecast.quantile_over(0.5, NOW + 40 * HOUR, NOW + 41 * HOUR) is None

    def test_of_less_than_a_day_the_mean_goes_on(self, tmp_path: Path) -> None:
        rows = [row(0, 1, -1, "100", zone="ISLAND"), row(2, 3, -1, "300", zone="ISLAND")]
        forecast = Continued(FileProvider(write(tmp_path / "f.csv", *rows)), Climatology()).forecast(
            "ISLAND", NOW, NOW + 9 * HOUR
        )
        assert forecast.mean_over(NOW + 3 * HOUR, NOW + 9 * HOUR) == 200
        assert forecast.mean_over(NOW, NOW + 3 * HOUR) is None  # the gap stays one

    def test_one_that_has_ended_is_replaced_and_says_so(self, tmp_path: Path) -> None:
        rows = [row(-2, -1, -3, "100"), row(-2, -1, -3, "100", zone="ISLAND")]
        provider = Continued(FileProvider(write(tmp_path / "f.csv", *rows)), Climatology())
        forecast = provider.forecast("DE", NOW, NOW + HOUR)
        assert (forecast.continued_by, forecast.continued_from, forecast.provider) == ("climatology", NOW, "file f.csv")
        with pytest.raises(ForecastUnavailable):
            provider.forecast("ISLAND", NOW, NOW + HOUR)

    def test_what_continues_it_was_known_then_too(self, tmp_path: Path) -> None:
        short = FileProvider(write(tmp_path / "f.csv", row(0, 2, -1, "100")))
        later = FileProvider(write(tmp_path / "typical.csv", row(0, 9, -1, "200"), row(0, 9, 1, "300")))
        forecast = Continued(short, later).forecast("DE", NOW, NOW + 4 * HOUR)
        assert forecast.mean_over(NOW + 2 * HOUR, NOW + 4 * HOUR) == 200

    def test_one_that_reaches_is_left_alone(self, tmp_path: Path) -> None:
        forecast = opened(tmp_path).forecast("DE", NOW, NOW + 48 * HOUR)
        assert forecast.continued_by is None


class TestTruth:
    def test_measured_wins(self, tmp_path: Path) -> None:
        found = best_known(csv_provider(tmp_path), "DE", NOW - 3 * HOUR, NOW - HOUR, NOW)
        assert (found.mean_g_per_kwh, found.source, str(found.signal)) == (207.5, "realised, file f.csv", "average direct")

    def test_gaps_are_filled_from_the_forecast_and_named(self, tmp_path: Path) -> None:
        found = best_known(csv_provider(tmp_path), "DE", NOW - HOUR, NOW + HOUR, NOW + HOUR)
        assert found.mean_g_per_kwh == pytest.approx((209 + 300) / 2)
        assert "measured for 50% of the time" in found.source
        later = best_known(csv_provider(tmp_path), "DE", NOW, NOW + HOUR, NOW + HOUR)
        assert (later.mean_g_per_kwh, later.source.partition(", issued")[0]) == (300, "forecast by file f.csv")
        assert later.source.endswith("no measurement yet")

    def test_unknown_stays_unknown(self, tmp_path: Path) -> None:
        assert best_known(csv_provider(tmp_path), "DE", NOW + 90 * HOUR, NOW + 91 * HOUR, NOW).mean_g_per_kwh is None

    def test_what_stands_in_is_named(self, tmp_path: Path) -> None:
        ended = Continued(FileProvider(write(tmp_path / "f.csv", row(-2, -1, -3, "100"))), Climatology())
        assert best_known(ended, "DE", NOW, NOW + HOUR, NOW).source.startswith("climatology, where file f.csv has no forecast")

    def test_climatology_is_called_that(self) -> None:
        assert best_known(Climatology(), "SE", NOW, NOW + HOUR, NOW).source.startswith("climatology")

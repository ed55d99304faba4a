"""The archive keeps what was known when: nothing is lost, nothing is known too early, signals never mix."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchsched.errors import SignalMismatch
from batchsched.forecasts import ForecastSlot, IntensityForecast, Signal
from batchsched.forecasts.archive import Archive
from batchsched.forecasts.persistence import hour_of, truth_of
from tests.archive_ways import MARGINAL, Later, generated, known
from tests.archive_ways import later as later
from tests.doomed_archive import HOUR, NOW, forecast, measured


class TestForecasts:
    def test_come_back_as_they_were(self, tmp_path: Path, later: Later) -> None:
        at = NOW + timedelta(microseconds=7)
        slots = (
            ForecastSlot(at, at + timedelta(seconds=0.25), 100.25, (1, 2, 3, 4, 5)),
            ForecastSlot(at + timedelta(seconds=0.25), at + HOUR, None, None),
            ForecastSlot(at + 3 * HOUR, at + 4 * HOUR, 0.0, (0, 0, 0, 0.01, 0.5)),
        )
        odd = IntensityForecast("A zone/ü", at, "", MARGINAL, slots, "", "climatology", at + 3 * HOUR)
        plain = forecast(slots=tuple(msgspec.structs.replace(slot, quantiles=None) for slot in forecast().slots))
        archive = Archive(tmp_path)
        assert [archive.add_forecast(given, NOW + HOUR) for given in (odd, plain)] == [True, True]
        archive = later(archive)
        assert archive.newest("A zone/ü", as_of=NOW + HOUR) == odd
        assert archive.newest("DE", as_of=NOW + HOUR) == plain

    def test_are_not_known_before_they_came(self, tmp_path: Path, later: Later) -> None:
        archive = Archive(tmp_path)
        archive.add_forecast(forecast(0, mean=100), NOW + 1 * HOUR)
        archive.add_forecast(forecast(-1, mean=200), NOW + 2 * HOUR)  # issued before, and late
        archive.add_forecast(forecast(3, mean=300), NOW + 3 * HOUR)
        archive = later(archive)

        def at(hours: float) -> float | None:
            found = archive.newest("DE", as_of=NOW + hours * HOUR)
            return found.slots[0].mean_g_per_kwh if found else None

        assert [at(0.9), at(1), at(2.5), at(3)] == [None, 100, 100, 300]
        issues = archive.forecasts("DE", NOW - HOUR, NOW + 3 * HOUR, as_of=NOW + 2.5 * HOUR)
        assert [issue.issued_at for issue in issues] == [NOW - HOUR, NOW]
        assert archive.forecasts("DE", NOW, NOW + 4 * HOUR, as_of=NOW + 2.5 * HOUR) == [forecast(0, mean=100)]

    def test_the_newest_at_each_full_hour(self, tmp_path: Path, later: Later) -> None:
        archive = Archive(tmp_path)
        came = [(0, 0), (0.25, 0.25), (0.5, 1), (-3, 1), (0.75, 1.25), (1.5, 4), (1, 4), (2, 9)]
        for issued, received in came:
            archive.add_forecast(forecast(issued), NOW + received * HOUR)
        archive = later(archive)
        start, end, at = NOW - 9 * HOUR, NOW + 9 * HOUR, NOW + 8 * HOUR
        thin = list(archive.each_hour("DE", start, end, as_of=at, provider="grid", signal=Signal()))
        hours = [(one.forecast.issued_at - NOW) / HOUR for one in thin], [(one.received_at - NOW) / HOUR for one in thin]
        assert hours == ([0, 0.5, 0.75, 1.5], [0, 1, 1.25, 4])
        every = archive.receipts("DE", start, end, as_of=at)
        for hour in range(9):
            begun = NOW + hour * HOUR
            seen = [[one.forecast for one in some if one.received_at <= begun] for some in (thin, every)]
            assert seen[0][-1] == seen[1][-1]

    def test_the_first_of_so_many_hours(self, tmp_path: Path, later: Later) -> None:
        archive = Archive(tmp_path)
        block = NOW - (NOW - datetime.fromtimestamp(0, NOW.tzinfo)) % (6 * HOUR)
        for issued in (1, 0.5, 0.5, 5.9, 6, 11, 25):
            archive.add_forecast(forecast((block - NOW) / HOUR + issued), NOW + 30 * HOUR)
        archive.add_forecast(forecast((block - NOW) / HOUR + 0.5, mean=5), NOW + 31 * HOUR)
        archive = later(archive)
        found = archive.first_of_each(6, "DE", block, block + 99 * HOUR, as_of=NOW + 40 * HOUR, provider="grid", signal=Signal())
        means = [((one.forecast.issued_at - block) / HOUR, one.forecast.slots[0].mean_g_per_kwh) for one in found]
        assert means == [(0.5, 100), (6, 100), (25, 100)]

    def test_that_come_twice_are_kept_once_and_changes_are_kept(self, tmp_path: Path, later: Later) -> None:
        archive = Archive(tmp_path)
        assert archive.add_forecast(forecast(mean=100), NOW)
        archive = later(archive)
        assert not archive.add_forecast(forecast(mean=100), NOW + HOUR)
        assert archive.add_forecast(forecast(mean=101), NOW + 2 * HOUR)
        assert archive.add_forecast(forecast(mean=100), NOW + 3 * HOUR)
        archive = later(archive)
        assert not archive.add_forecast(forecast(mean=101), NOW + 2 * HOUR)  # the same receipt again
        means = [one.forecast.slots[0].mean_g_per_kwh for one in archive.receipts("DE", NOW, NOW + HOUR, as_of=NOW + 9 * HOUR)]
        assert means == [100, 101, 100]
        assert archive.newest("DE", as_of=NOW + 2 * HOUR) == forecast(mean=101)
        assert archive.forecasts("DE", NOW, NOW + HOUR, as_of=NOW + 9 * HOUR) == [forecast(mean=100)]
        assert archive.add_forecasts([forecast(5), forecast(5), forecast(6)], NOW + 9 * HOUR) == 2

    def test_over_the_turn_of_a_month(self, tmp_path: Path, later: Later) -> None:
        archive = Archive(tmp_path)
        archive.add_forecasts((forecast(h) for h in range(-1500, 1500, 100)), NOW + 1500 * HOUR)
        archive = later(archive)
        assert len(archive.forecasts("DE", NOW - 1500 * HOUR, NOW + 1500 * HOUR, as_of=NOW + 1500 * HOUR)) == 30
        newest = archive.newest("DE", as_of=NOW + 1500 * HOUR)
        assert newest
        assert newest.issued_at == NOW + 1400 * HOUR

    def test_unknown_is_never_a_number(self, tmp_path: Path, later: Later) -> None:
        values = (float("nan"), -5.0, float("inf"), 1e300, None, 0.0)
        slots = tuple(ForecastSlot(NOW + n * HOUR, NOW + (n + 1) * HOUR, value) for n, value in enumerate(values))
        archive = Archive(tmp_path)
        archive.add_forecast(forecast(slots=slots), NOW)
        newest = later(archive).newest("DE", as_of=NOW)
        assert newest
        assert [slot.mean_g_per_kwh for slot in newest.slots] == [None, None, None, None, None, 0]
        assert not archive.add_forecast(forecast(slots=()), NOW)

    @settings(max_examples=40)
    @example(received=[(0, 0, 100.0), (0, 0, 200.0)], folds=set(), as_of=0)
    @given(
        received=st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 6), st.sampled_from([100.0, 200.0])), max_size=8),
        folds=st.sets(st.integers(0, 8)),
        as_of=st.integers(-4, 8),
    )
    def test_as_of_is_what_a_plain_list_says(
        self, tmp_path_factory: pytest.TempPathFactory, received: list[tuple[int, int, float]], folds: set[int], as_of: int
    ) -> None:
        archive = Archive(tmp_path_factory.mktemp("archive"))
        for n, (issued, at, mean) in enumerate(received):
            archive.add_forecast(forecast(issued, mean=mean), NOW + at * HOUR)
            if n in folds:
                archive.fold()
        out = [(issued, at, n, mean) for n, (issued, at, mean) in enumerate(received) if max(issued, at) <= as_of]
        newest = archive.newest("DE", as_of=NOW + as_of * HOUR)
        assert newest == (forecast(max(out)[0], mean=max(out)[3]) if out else None)


class TestRealised:
    def test_revisions_are_kept(self, tmp_path: Path, later: Later) -> None:
        archive = Archive(tmp_path)
        assert archive.add_realised([measured(-2, 50), measured(-1, 60)], NOW) == 2
        archive = later(archive)
        assert archive.add_realised([measured(-2, 50), measured(-1, 66), measured(0, 70)], NOW + HOUR) == 2
        archive = later(archive)
        assert known(archive, NOW - HOUR) == []
        assert known(archive, NOW) == [50, 60]
        assert known(archive, NOW + HOUR) == [50, 66, 70]
        assert archive.add_realised([measured(-1, 66)], NOW + 2 * HOUR) == 0
        assert archive.add_realised([measured(-1, 60)], NOW + 2 * HOUR) == 1
        assert known(archive) == [50, 60, 70]

    def test_unknown_values_are_left_out(self, tmp_path: Path) -> None:
        values = [measured(-3, float("nan")), measured(-2, -1), measured(-1, 0)]
        archive = Archive(tmp_path)
        assert archive.add_realised(values, NOW) == 1
        assert known(archive) == [0]

    def test_of_two_that_overlap_the_later_receipt_holds(self, tmp_path: Path, later: Later) -> None:
        archive = Archive(tmp_path)
        archive.add_realised([measured(-2, 50), measured(-1, 60)], NOW)
        archive.add_realised([measured(-1, 55, provider="other", length=HOUR / 2)], NOW + HOUR)
        archive = later(archive)
        found = archive.realised("DE", NOW - 9 * HOUR, NOW, as_of=NOW + HOUR)
        assert [(value.provider, value.intensity_g_per_kwh) for value in found] == [("grid", 50), ("other", 55)]
        mine = archive.realised("DE", NOW - 9 * HOUR, NOW, as_of=NOW + HOUR, provider="grid")
        assert [value.intensity_g_per_kwh for value in mine] == [50, 60]

    def test_of_two_that_overlap_the_better_source_holds(self, tmp_path: Path) -> None:
        """Whoever came first; as of an instant it is the best that was there by then. Imported by no declared source: last."""
        archive = Archive(tmp_path, order=lambda zone: ("best", "own", "grid") if zone == "DE" else ())
        archive.add_realised([measured(-2, 51, provider="best"), measured(-1, 61, provider="best")], NOW)
        archive.add_realised([measured(-1, 60), measured(0, 70), measured(1, 80)], NOW + HOUR)
        archive.add_realised([measured(-1, 62, provider="best"), measured(0, 7, provider="file")], NOW + 2 * HOUR)
        archive.add_realised([measured(0, 71, provider="best")], NOW + 3 * HOUR)
        assert known(archive, NOW + HOUR) == [51, 61, 70, 80]
        assert known(archive, NOW + 2 * HOUR) == [51, 62, 70, 80]
        assert known(archive) == [51, 62, 71, 80]

    def test_only_the_span_is_read(self, tmp_path: Path, later: Later) -> None:
        archive = Archive(tmp_path)
        archive.add_realised([measured(hour, 100 + hour) for hour in range(-40, 40)], NOW)
        found = later(archive).realised("DE", NOW - 0.5 * HOUR, NOW + 12 * HOUR, as_of=NOW)
        assert [value.intensity_g_per_kwh for value in found] == [99 + n for n in range(13)]


class TestSignals:
    def test_never_mix(self, tmp_path: Path, later: Later) -> None:
        archive = Archive(tmp_path)
        archive.add_forecast(forecast(), NOW)
        archive = later(archive)
        with pytest.raises(SignalMismatch, match=r"average direct by grid; marginal direct was asked for"):
            archive.newest("DE", as_of=NOW, signal=MARGINAL)
        archive.add_forecast(forecast(provider="other", signal=MARGINAL), NOW)
        for read in (archive.forecasts, archive.realised, archive.receipts):
            with pytest.raises(SignalMismatch, match="average direct by grid and marginal direct by other"):
                read("DE", NOW, NOW, as_of=NOW)
        assert archive.newest("DE", as_of=NOW, signal=Signal()) == forecast()
        assert archive.newest("DE", as_of=NOW, provider="grid") == forecast()
        assert archive.newest("FR", as_of=NOW, signal=MARGINAL) is None

    def test_hours_are_means_of_what_was_known_whole(self, tmp_path: Path, later: Later) -> None:
        archive, first = Archive(tmp_path), hour_of(NOW)
        halves = [measured(n / 2, 100 + n, length=HOUR / 2) for n in range(-8, 4)]
        archive.add_realised([*halves[:3], *halves[4:], measured(-9, 7, length=3 * HOUR)], NOW)
        archive.add_realised([measured(-2, 300, provider="other"), measured(-1, 94, length=HOUR / 2)], NOW + HOUR)
        archive = later(archive)
        for as_of in (NOW, NOW + HOUR, NOW + 9 * HOUR):
            values = archive.realised("DE", NOW - 9 * HOUR, NOW + 3 * HOUR, as_of=as_of)
            expected = truth_of(values, as_of)
            found = archive.hours("DE", first - 9, first + 3, as_of=as_of, signal=Signal()).tolist()
            assert found == pytest.approx([expected.get(hour, math.nan) for hour in range(first - 9, first + 3)], nan_ok=True)


class TestGeneration:
    def mix(self, archive: Archive, as_of: datetime) -> dict[str, list[float]]:
        first = hour_of(NOW)
        found = archive.generation("DE", first - 3, first + 1, as_of=as_of)
        return {fuel: np.round(mw, 2).tolist() for fuel, mw in found.items()}

    def test_revisions_are_seen_as_they_came(self, tmp_path: Path, later: Later) -> None:
        archive, nan = Archive(tmp_path), math.nan
        given = [generated(-2, coal=1.234, wind=0), generated(-1, coal=7, storage=-3.5), generated(0, coal=9)]
        assert archive.add_generation(given, NOW) == 3
        assert archive.add_generation([generated(-2, coal=1.23, wind=5), generated(-1, coal=7, storage=-3.5)], NOW + HOUR) == 1
        assert archive.add_generation([generated(-2, coal=1.23)], NOW + 2 * HOUR) == 1
        archive = later(archive)
        assert archive.add_generation([generated(-2, coal=1.23)], NOW + 3 * HOUR) == 0
        before = {"coal": [nan, 1.23, 7.0, nan], "wind": [nan, 0.0, nan, nan], "storage": [nan, nan, -3.5, nan]}
        assert str(self.mix(archive, NOW)) == str(before)  # as text, in which NaN is like NaN
        after = {"coal": [nan, 1.23, 7.0, 9.0], "wind": [nan, 5.0, nan, nan], "storage": [nan, nan, -3.5, nan]}
        assert str(self.mix(archive, NOW + HOUR)) == str(after)
        assert list(self.mix(archive, NOW + 2 * HOUR)) == ["coal", "storage"]
        assert self.mix(archive, NOW - HOUR) == {}

    def test_the_later_of_two_providers_holds(self, tmp_path: Path) -> None:
        archive = Archive(tmp_path)
        archive.add_generation([generated(-2 + n / 4, "fine", HOUR / 4, hydro=n) for n in range(4)], NOW)
        archive.add_generation([generated(-2, hydro=7, coal=1), generated(-1, hydro=math.nan, coal=1e9)], NOW - HOUR)
        assert self.mix(archive, NOW)["hydro"][1] == 1.5
        assert self.mix(archive, NOW - HOUR / 2)["hydro"][1] == 7

    def test_it_is_no_feed_of_intensity(self, tmp_path: Path, later: Later) -> None:
        archive = Archive(tmp_path)
        archive.add_generation([generated(-1, coal=1)], NOW)
        assert later(archive).feeds() == []
        assert known(archive) == []
        archive.fold()
        table = pq.read_table(tmp_path / "generation" / "2026-05.parquet")
        assert (table["coal"].to_pylist(), table["wind"].to_pylist()) == ([100], [None])

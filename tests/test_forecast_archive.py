"""The archive keeps what was known when: nothing is lost, nothing is known too early, signals never mix."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar
from zlib import crc32

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchsched.errors import SignalMismatch, StorageUnavailable
from batchsched.forecasts import ForecastSlot, IntensityForecast, Signal
from batchsched.forecasts import archive as archives
from batchsched.forecasts.archive import Archive, Feed
from batchsched.forecasts.archive.months import Ints, Months
from batchsched.forecasts.persistence import hour_of, truth_of
from batchsched.forecasts.port import Generation
from tests.doomed_archive import HOUR, NOW, forecast, measured
from tests.live import PATIENCE_S

ROOT = Path(__file__).parent.parent
MARGINAL = Signal("marginal", "direct")
T = TypeVar("T")


def known(archive: Archive, as_of: datetime = NOW + 99 * HOUR) -> list[float]:
    """All that came true, as far as it had reached us."""
    found = archive.realised("DE", NOW - 99 * HOUR, NOW + 99 * HOUR, as_of=as_of)
    return [value.intensity_g_per_kwh for value in found]


def write_many(folder: Path, count: int) -> None:
    """Forecasts of so many hours, folded every few."""
    archive = Archive(folder, fold_bytes=2000)
    for issued in range(count):
        archive.add_forecast(forecast(issued), NOW)


def as_it_is(archive: Archive, _: Path) -> Archive:
    return archive


def folded(archive: Archive, _: Path) -> Archive:
    archive.fold()
    return archive


def reopened(_: Archive, folder: Path) -> Archive:
    return Archive(folder)


def folded_elsewhere(archive: Archive, folder: Path) -> Archive:
    archive.feeds()  # so that it has read the journal that is folded now
    Archive(folder).fold()
    return archive


@pytest.fixture(params=[as_it_is, folded, reopened, folded_elsewhere], ids=lambda way: way.__name__)
def later(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Archive], Archive]:
    """The same archive, looked at later: whatever became of the journal, the answers are the same."""
    return lambda archive: request.param(archive, tmp_path)


Later = Callable[[Archive], Archive]


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


def generated(hour: float, provider: str = "grid", length: timedelta = HOUR, **mw: float) -> Generation:
    """What an hour was generated from."""
    return Generation("DE", NOW + hour * HOUR, NOW + hour * HOUR + length, provider, mw)


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


class TestWhatComesNow:
    def test_an_instant_within_an_import_is_replayed_as_it_was_seen(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever looks between two blocks, or just before one is written, sees what is seen later as of that instant."""
        monkeypatch.setattr(archives, "TOGETHER", 2)
        archive, ticks, seen = Archive(tmp_path), itertools.count(1), dict[datetime, tuple[int, int]]()

        def now() -> datetime:
            return NOW + next(ticks) * HOUR / 100

        def look(at: datetime) -> tuple[int, int]:
            return len(archive.forecasts("DE", NOW - 99 * HOUR, NOW, as_of=at)), len(known(archive, at))

        def watched(values: Iterable[T]) -> Iterator[T]:
            for value in values:
                at = now()
                seen[at] = look(at)
                yield value

        assert archive.add_forecasts(watched(forecast(-n) for n in range(1, 8)), now) == 7
        for n in range(-7, 0):
            assert archive.add_realised(watched([measured(n, n + 50)]), now) == 1
        assert {count for count, _ in seen.values()} == {0, 2, 4, 6, 7}
        assert {at: look(at) for at in seen} == seen
        assert look(now()) == (7, 7)

    def test_the_clock_is_asked_where_readers_wait(self, tmp_path: Path) -> None:
        archive, read = Archive(tmp_path), threading.Event()

        def look() -> None:
            known(archive)
            read.set()

        reader = threading.Thread(target=look)

        def now() -> datetime:
            if not reader.ident:
                reader.start()
            assert not read.wait(0.05)
            return NOW

        archive.add_realised([measured(-1, 60)], now)
        reader.join(PATIENCE_S)
        assert read.is_set()

    def test_a_clock_that_is_put_back_a_little_goes_on_from_where_it_was(self, tmp_path: Path) -> None:
        archive = Archive(tmp_path)
        for hour, put_back_s in enumerate((0, 20, 3600)):
            at = NOW - timedelta(seconds=put_back_s)
            archive.add_realised([measured(-9 + hour, hour)], partial(max, at, at))
        assert known(archive, NOW - timedelta(seconds=1)) == [2]
        assert known(Archive(tmp_path), NOW) == [0, 1, 2]


class TestFolder:
    def test_one_writes_and_others_read_at_once(self, tmp_path: Path) -> None:
        writer, reader = Archive(tmp_path), Archive(tmp_path)
        for issued in range(6):
            (writer, reader)[issued % 2].add_forecast(forecast(issued), NOW + 9 * HOUR)
            for archive in (writer, reader):
                newest = archive.newest("DE", as_of=NOW + 9 * HOUR)
                assert newest
                assert newest.issued_at == NOW + issued * HOUR
            if issued == 3:
                writer.fold()

    def test_a_reader_beside_a_busy_writer_never_sees_less(self, tmp_path: Path) -> None:
        writer = threading.Thread(target=write_many, args=(tmp_path, 60))
        reader, seen = Archive(tmp_path), 0
        writer.start()
        while seen < 60:
            before = seen
            seen = len(reader.forecasts("DE", NOW, NOW + 99 * HOUR, as_of=NOW + 99 * HOUR))
            newest = reader.newest("DE", as_of=NOW + 99 * HOUR)
            assert seen >= before
            assert seen == 0 or (newest and newest.issued_at >= NOW + (seen - 1) * HOUR)
        writer.join()

    def test_a_month_written_anew_while_it_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        writer, reader = Archive(tmp_path), Archive(tmp_path)
        writer.add_forecasts([forecast(issued, mean=issued) for issued in (3, 5, 9)], NOW)
        writer.add_realised([measured(hour, hour) for hour in (3, 5, 9)], NOW)
        writer.fold()
        numbers, late = Months.numbers, [2, 1, 0]

        def meanwhile(months: Months, name: str, feed: Feed) -> list[Ints]:
            found = numbers(months, name, feed)
            if late:
                monkeypatch.setattr(Months, "numbers", numbers)
                writer.add_forecast(forecast(hour := late.pop()), NOW)
                writer.add_realised([measured(hour, hour)], NOW)
                writer.fold()
                monkeypatch.setattr(Months, "numbers", meanwhile)
            return found

        monkeypatch.setattr(Months, "numbers", meanwhile)
        newest = reader.newest("DE", as_of=NOW + 6 * HOUR)
        assert newest
        assert newest.issued_at == NOW + 5 * HOUR
        values = reader.realised("DE", NOW + 3 * HOUR, NOW + 6 * HOUR, as_of=NOW + 6 * HOUR)
        assert [value.intensity_g_per_kwh for value in values] == [3, 5]
        assert not late

    def test_summaries(self, tmp_path: Path, later: Later) -> None:
        archive = Archive(tmp_path)
        archive.add_forecast(forecast(-1), NOW)
        archive.add_realised([measured(-3, 50), measured(-2, 60), measured(-1, 60, zone="FR")], NOW)
        found = later(archive).summaries(NOW)
        assert [tuple(one.feed) for one in found] == [("DE", "grid", "average direct"), ("FR", "grid", "average direct")]
        assert [(one.newest_issue_at, one.realised_until) for one in found] == [(NOW - HOUR, NOW - HOUR), (None, NOW)]
        assert archive.summaries(NOW - HOUR)[0][1:] == (None, None)

    def test_a_measurement_comes_back_with_its_licence(self, tmp_path: Path, later: Later) -> None:
        """The newest one of its feed; revised values need not come with another."""
        archive = Archive(tmp_path)
        archive.add_realised([measured(-3, 50), msgspec.structs.replace(measured(-3, 70, zone="FR"), licence="CC0")], NOW)
        archive.add_realised([msgspec.structs.replace(measured(-2, 60), licence="CC-BY-4.0")], NOW + HOUR)
        archive = later(archive)

        def said(zone: str, at: datetime = NOW + HOUR) -> list[str]:
            return [value.licence for value in archive.realised(zone, NOW - 9 * HOUR, NOW, as_of=at)]

        assert (said("DE"), said("FR")) == (["CC-BY-4.0"] * 2, ["CC0"])

    def test_an_archive_of_before_there_were_licences_and_notes(self, tmp_path: Path) -> None:
        archive = Archive(tmp_path)
        archive.add_forecast(forecast(), NOW)
        archive.add_realised([measured(-3, 50)], NOW)
        (journal,) = (tmp_path / "journal").glob("*.log")
        payloads = [msgspec.json.decode(line.partition(b" ")[2])[:-1] for line in journal.read_bytes().splitlines()]
        old = [msgspec.json.encode(payload) for payload in payloads]
        journal.write_bytes(b"".join(b"%08x %s\n" % (crc32(line), line) for line in old))
        assert (known(Archive(tmp_path)), Archive(tmp_path).newest("DE", as_of=NOW)) == ([50], forecast())
        Archive(tmp_path).fold()
        for kind, column in (("forecasts", "note"), ("realised", "licence")):
            (path,) = (tmp_path / kind).glob("*.parquet")
            pq.write_table(pq.read_table(path).drop_columns([column]), path)
        archive = Archive(tmp_path)
        for _ in range(2):
            assert (known(archive), archive.newest("DE", as_of=NOW)) == ([50], forecast())
            archive.add_forecast(forecast(1, note="corrected"), NOW + HOUR)
            archive.add_realised([msgspec.structs.replace(measured(-2, 60), licence="CC0")], NOW + 200 * HOUR)
            archive.fold()
        assert archive.newest("DE", as_of=NOW + HOUR) == forecast(1, note="corrected")
        assert [v.licence for v in archive.realised("DE", NOW - 9 * HOUR, NOW, as_of=NOW + 200 * HOUR)] == ["CC0"] * 2

    def test_it_is_folded_by_itself_and_the_months_are_plain_parquet(self, tmp_path: Path) -> None:
        archive = Archive(tmp_path, fold_bytes=2000)
        for issued in range(20):
            archive.add_forecast(forecast(issued), NOW)
        table = pq.read_table(tmp_path / "forecasts" / "2026-06.parquet")
        assert table["q95"][0].as_py() == [12000] * 4
        assert table["issued_at"].to_pylist() == sorted(table["issued_at"].to_pylist())
        assert sum(path.stat().st_size for path in (tmp_path / "journal").iterdir()) < 3000
        assert len(archive.forecasts("DE", NOW, NOW + 99 * HOUR, as_of=NOW + 99 * HOUR)) == 20

    def test_a_line_cut_short_is_skipped_and_the_next_is_whole(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        Archive(tmp_path).add_forecast(forecast(0), NOW)
        (journal,) = (tmp_path / "journal").glob("*.log")
        whole = journal.read_bytes()
        with journal.open("ab") as handle:
            handle.write(whole[: len(whole) // 2])
        archive = Archive(tmp_path)
        assert archive.newest("DE", as_of=NOW) == forecast(0)
        archive.add_forecast(forecast(1), NOW + HOUR)
        assert archive.newest("DE", as_of=NOW + HOUR) == forecast(1)
        archive.fold()
        assert len(archive.forecasts("DE", NOW, NOW + 9 * HOUR, as_of=NOW + 9 * HOUR)) == 2
        assert "cut short" in caplog.text

    def test_a_crash_between_the_months_and_the_next_journal(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        archive = Archive(tmp_path)
        archive.add_forecast(forecast(0), NOW)
        archive.add_realised([measured(-1, 60)], NOW)
        (journal,) = (tmp_path / "journal").glob("*.log")
        whole = journal.read_bytes()
        archive.fold()
        journal.write_bytes(whole)  # as if it had not been removed
        (tmp_path / "forecasts" / "2026-05.half").write_bytes(b"PAR1")
        archive = Archive(tmp_path)
        assert archive.forecasts("DE", NOW, NOW + HOUR, as_of=NOW) == [forecast(0)]
        archive.fold()
        assert len(archive.receipts("DE", NOW, NOW + HOUR, as_of=NOW)) == 1
        assert known(archive) == [60]

    def test_a_full_disk_keeps_all_that_was_acknowledged(self, tmp_path: Path) -> None:
        script = f"""
import resource, signal
from batchsched.errors import StorageFull
from batchsched.forecasts.persistence import hour_of, truth_of
from batchsched.forecasts.port import Generation
from tests.doomed_archive import NOW, Archive, Path, forecast
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
archive = Archive(Path({str(tmp_path)!r}))
archive.add_forecast(forecast(0), NOW)
resource.setrlimit(resource.RLIMIT_FSIZE, (400, resource.RLIM_INFINITY))
try:
    archive.add_forecast(forecast(1), NOW)
except StorageFull:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    archive.add_forecast(forecast(2), NOW)
    print("refused")
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
        assert done.stdout == "refused\n", done.stderr
        found = Archive(tmp_path).forecasts("DE", NOW, NOW + 9 * HOUR, as_of=NOW + 9 * HOUR)
        assert [one.issued_at for one in found] == [NOW, NOW + 2 * HOUR]

    def test_a_damaged_month_is_named(self, tmp_path: Path) -> None:
        archive = Archive(tmp_path)
        archive.add_forecast(forecast(), NOW)
        archive.fold()
        (tmp_path / "forecasts" / "2026-05.parquet").write_bytes(b"PAR1, and no more")
        with pytest.raises(StorageUnavailable, match=r"2026-05\.parquet"):
            archive.newest("DE", as_of=NOW)

    @pytest.mark.slow
    def test_kill_9_before_any_step_leaves_a_sound_archive(self, tmp_path: Path) -> None:
        steps = 60
        subprocess.run([sys.executable, "-m", "tests.doomed_archive", "steps", str(tmp_path), str(steps)], check=True, cwd=ROOT)
        ends = set[int]()
        for step in range(steps):
            acknowledged = len((tmp_path / f"{step}.acknowledged").read_text().split())
            ends.add(acknowledged)
            archive = Archive(tmp_path / str(step), fold_bytes=700)
            for _ in range(2):
                issues = archive.forecasts("DE", NOW, NOW + 99 * HOUR, as_of=NOW + 99 * HOUR)
                values = archive.realised("DE", NOW, NOW + 99 * HOUR, as_of=NOW + 99 * HOUR)
                assert issues == [forecast(n) for n in range(len(issues))]
                assert acknowledged <= len(values) <= len(issues) <= acknowledged + 1
                archive.fold()  # and it goes on as if nothing had been
            assert not [*(tmp_path / str(step)).glob("*/*.half")]
        assert ends == set(range(6))  # the steps reach to the end, over a fold

    @pytest.mark.slow
    def test_kill_9_at_any_moment_loses_nothing_that_was_acknowledged(self, tmp_path: Path) -> None:
        """A writer that folds all the time is killed again and again; the next one goes on from what it finds."""
        acknowledged = 0
        command = [sys.executable, "-m", "tests.doomed_archive", str(tmp_path)]
        for kills in range(3):
            with subprocess.Popen([*command, str(acknowledged)], stdout=subprocess.PIPE, cwd=ROOT) as writer:
                assert writer.stdout
                for _ in range(10 + 7 * kills):
                    acknowledged = int(writer.stdout.readline()) + 1
                writer.kill()
                acknowledged = max([acknowledged, *(int(line) + 1 for line in writer.stdout.read().split())])
            archive = Archive(tmp_path)
            issues = archive.forecasts("DE", NOW, NOW + 9999 * HOUR, as_of=NOW + 9999 * HOUR)
            values = archive.realised("DE", NOW, NOW + 9999 * HOUR, as_of=NOW + 9999 * HOUR)
            assert issues == [forecast(n) for n in range(len(issues))]
            # One may be kept of which nobody was told any more.
            assert acknowledged <= len(values) <= len(issues) <= acknowledged + 1

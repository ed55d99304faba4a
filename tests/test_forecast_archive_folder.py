"""The archive's folder: writers and readers at once, folding, crashes, full disks and older formats."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar
from zlib import crc32

import msgspec
import pyarrow.parquet as pq
import pytest

from batchsched.errors import StorageUnavailable
from batchsched.forecasts import archive as archives
from batchsched.forecasts.archive import Archive, Feed
from batchsched.forecasts.archive.months import Ints, Months
from tests.archive_ways import Later, known, write_many
from tests.archive_ways import later as later
from tests.doomed_archive import HOUR, NOW, forecast, measured
from tests.live import PATIENCE_S

ROOT = Path(__file__).parent.parent
T = TypeVar("T")


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

"""The contract of stores, over each kind of place."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem

from batchsched.errors import InvalidConfiguration, MissingExtra, StorageFull, StorageUnavailable
from batchsched.queue.database import Database
from batchsched.queue.folder_store import FolderStore
from batchsched.queue.object_store import ObjectStore, open_object_store
from batchsched.queue.store import Part, Record, Store, encoded, length_of, parts_of
from batchsched.queue.stores import open_store, settle
from batchsched.simulate.store import MemoryStore
from tests.live import HTTP
from tests.object_server import ObjectServer
from tests.processes import free_port

pytestmark = pytest.mark.slow

Opener = Callable[[], Store]
"""Opens one and the same place, each time as another server process would."""


@pytest.fixture(params=["folder", "objects in a folder", "s3", "memory"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    if request.param == "folder":
        return lambda: FolderStore(tmp_path)
    if request.param == "memory":  # a simulation's
        only = MemoryStore()
        return lambda: only
    if request.param == "s3":
        request.getfixturevalue("object_server")
        return lambda: open_object_store("s3://bucket/some/prefix")
    return lambda: ObjectStore(LocalFileSystem(auto_mkdir=True, skip_instance_cache=True), str(tmp_path))


@pytest.fixture
def store(opener: Opener) -> Store:
    return opener()


def a_chunk(
    batch_id: str = "batch_1", position: int = 0, token: int = 1, round_: int = 0, parts: Iterable[Part] = ()
) -> dict[str, Any]:
    return {
        "batch_id": batch_id,
        "round": round_,
        "position": position,
        "token": token,
        "parts": [list(part) for part in parts],  # as JSON gives them back
        "result_bytes": length_of(parts),
    }


def named(chunk: dict[str, Any], parts: list[Part]) -> dict[str, Any]:
    """The chunk's row once it names these parts."""
    return a_chunk(chunk["batch_id"], chunk["position"], chunk["token"], chunk["round"], parts)


def some(*lines: int) -> list[Record]:
    return [Record(line, line % 2 == 0, b'{"tab": "\\t", "line": %d}' % line) for line in lines]


def write(store: Store, file_id: str, blocks: Iterable[bytes]) -> None:
    with store.create(file_id) as handle:
        for block in blocks:
            handle.write(block)


def read(store: Store, file_id: str, start: int = 0, end: int | None = None) -> bytes:
    return b"".join(store.blocks(file_id, start, end))


def test_a_file_is_read_as_it_was_written(opener: Opener) -> None:
    write(opener(), "file-1", [b"ab", b"", b"cdef"])
    store = opener()
    assert read(store, "file-1") == b"abcdef"
    assert read(store, "file-1", 2, 4) == b"cd"
    assert read(store, "file-1", 3) == b"def"
    assert read(store, "file-1", 6) == read(store, "file-1", 2, 2) == b""


def test_an_empty_file_is_a_file(store: Store) -> None:
    write(store, "file-1", [])
    assert read(store, "file-1") == b""


@pytest.mark.parametrize("size", [10, 12_000_000])
def test_a_large_file_comes_in_blocks(store: Store, size: int) -> None:
    data = os.urandom(1000) * (size // 1000 + 1)
    write(store, "file-1", (data[at : at + 1_000_000] for at in range(0, len(data), 1_000_000)))
    blocks = list(store.blocks("file-1"))
    assert b"".join(blocks) == data
    assert max(map(len, blocks)) <= 8 << 20
    assert read(store, "file-1", size // 2, size // 2 + 100) == data[size // 2 : size // 2 + 100]


@pytest.mark.parametrize("size", [10, 12_000_000])
def test_an_upload_that_breaks_off_leaves_nothing(store: Store, size: int) -> None:
    def interrupted() -> Iterator[bytes]:
        yield b"x" * size
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(store, "file-1", interrupted())
    with pytest.raises(FileNotFoundError):
        read(store, "file-1")
    write(store, "file-1", [b"second try"])
    assert read(store, "file-1") == b"second try"


def test_a_file_is_not_there_before_it_is_whole(store: Store) -> None:
    with store.create("file-1") as handle:
        handle.write(b"x" * 12_000_000)
        with pytest.raises(FileNotFoundError):
            read(store, "file-1")
    assert len(read(store, "file-1")) == 12_000_000


def test_a_file_is_removed_and_may_be_gone_already(store: Store) -> None:
    write(store, "file-1", [b"x"])
    store.remove("file-1")
    store.remove("file-1")
    with pytest.raises(FileNotFoundError):
        read(store, "file-1")


def test_results_are_read_in_the_order_of_recording(opener: Opener) -> None:
    """By one server, by the next after it, or by two in turn."""
    stores, chunk, seen = [opener(), opener()], a_chunk(), list[Record]()
    for turn, lines in enumerate([(3, 1), (2,), (7, 4, 5)]):
        before = chunk["result_bytes"]
        chunk = named(chunk, stores[turn % 2].append(chunk, some(*lines)))
        seen += some(*lines)
        for store in stores:
            assert list(store.records(chunk)) == seen
            assert list(store.records(chunk, before)) == some(*lines)
            assert list(store.records(chunk, chunk["result_bytes"])) == []


def test_a_chunk_without_results_has_none(store: Store) -> None:
    assert list(store.records(a_chunk())) == []


def test_what_no_row_names_is_never_read(opener: Opener) -> None:
    """A crash came before the commit; or a stale holder of the lease writes what nobody will acknowledge, before or after."""
    stale, store, chunk = opener(), opener(), a_chunk()
    chunk = named(chunk, stale.append(chunk, some(1)))
    stale.append(chunk, some(2))
    chunk = named(chunk, store.append(chunk, some(3)))
    stale.append(a_chunk(), some(4, 5, 6))
    chunk = named(chunk, stale.append(chunk, some(7)))
    assert [record.line for record in store.records(chunk)] == [1, 3, 7]


def test_chunks_of_a_batch_and_batches_keep_apart(store: Store) -> None:
    chunks = [a_chunk(batch_id, position) for batch_id in ("batch_1", "batch_2") for position in range(3)]
    for group in ((1, 2), (3,)):
        chunks = [named(chunk, store.append(chunk, some(*(n * 10 + i for i in group)))) for n, chunk in enumerate(chunks)]
    for n, chunk in enumerate(chunks):
        assert [record.line for record in store.records(chunk)] == [n * 10 + 1, n * 10 + 2, n * 10 + 3]


def test_many_chunks_are_read_in_one_go(store: Store) -> None:
    chunks = [a_chunk(position=n) for n in range(5)]
    chunks = [named(c, store.append(c, some(*range(n)))) if n else c for n, c in enumerate(chunks)]
    found = [(chunk["position"], [record.line for record in records]) for chunk, records in store.each(iter(chunks))]
    assert found == [(n, list(range(n))) for n in range(5)]
    some_only = [(chunk["position"], next(records, None)) for chunk, records in store.each(chunks)]
    assert [record.line if record else None for _, record in some_only] == [None, 0, 0, 0, 0]


def test_results_that_are_gone_are_said_to_be_gone(store: Store) -> None:
    chunk = a_chunk()
    chunk = named(chunk, store.append(chunk, some(1, 2)))
    store.discard_results("batch_1", 0)
    store.discard_results("batch_1", 0)
    with pytest.raises(StorageUnavailable, match="batch_1"):
        list(store.records(chunk))


def test_who_is_late_never_touches_what_a_retry_recorded(opener: Opener) -> None:
    late, store = opener(), opener()
    before, after = a_chunk(), a_chunk(round_=1)
    for each in (late, store):
        before = named(before, each.append(before, some(1)))
        after = named(after, each.append(after, some(2)))
    late.discard_results("batch_1", 0)
    late.sweep(set(), {("batch_1", 1)}, 0)
    assert list(store.records(after)) == some(2, 2)
    with pytest.raises(StorageUnavailable):
        list(store.records(before))


def test_results_of_an_earlier_version_are_read_and_swept(tmp_path: Path) -> None:
    """It kept a chunk's results in one file, in a folder without a round."""
    store, folder = FolderStore(tmp_path), tmp_path / "results" / "batch_1"
    folder.mkdir()
    (folder / "0.jsonl").write_bytes(encoded(some(1)))
    chunk = a_chunk(parts=[Part("/0.jsonl", 0, len(encoded(some(1))))])
    chunk = named(chunk, store.append(chunk, some(2)))
    store.sweep(set(), {("batch_1", 0)}, 0)
    assert list(store.records(chunk)) == some(1, 2)
    store.sweep(set(), {("batch_1", 1)}, 0)
    assert list((tmp_path / "results").iterdir()) == []


def test_results_that_were_cut_short_are_not_passed_on(tmp_path: Path, object_server: ObjectServer) -> None:
    chunk, folder, objects = a_chunk(), FolderStore(tmp_path), open_object_store("s3://bucket")
    in_folder, in_objects = (named(chunk, store.append(chunk, some(1, 2))) for store in (folder, objects))
    (log,) = tmp_path.rglob("*.log")
    log.write_bytes(log.read_bytes()[:-2])
    (key,) = object_server.objects()
    objects._system.pipe_file(f"bucket/{key}", encoded(some(1)))
    for store, row in ((folder, in_folder), (objects, in_objects)):
        with pytest.raises(StorageUnavailable, match="missing or cut short"):
            list(store.records(row))


def test_sweeping_removes_what_no_row_knows(store: Store) -> None:
    write(store, "file-kept", [b"x"])
    write(store, "file-lost", [b"x"])
    kept, lost = a_chunk("batch_live"), a_chunk("batch_over")
    kept, lost = named(kept, store.append(kept, some(1))), named(lost, store.append(lost, some(1)))
    store.sweep({"file-kept"}, {("batch_live", 0)}, 0)
    assert read(store, "file-kept") == b"x"
    assert list(store.records(kept)) == some(1)
    with pytest.raises(FileNotFoundError):
        read(store, "file-lost")
    with pytest.raises(StorageUnavailable):
        list(store.records(lost))


def test_sweeping_beside_others_leaves_what_is_young(opener: Opener) -> None:
    """Another server may be about to write the row."""
    mine, other = opener(), opener()
    chunk = a_chunk()
    chunk = named(chunk, mine.append(chunk, some(1)))
    with mine.create("file-1") as handle:
        handle.write(b"half")
        other.sweep(set(), set())
    other.sweep(set(), set())
    assert read(mine, "file-1") == b"half"
    assert list(mine.records(chunk)) == some(1)


def test_parts_that_touch_become_one(tmp_path: Path) -> None:
    store, chunk = FolderStore(tmp_path), a_chunk()
    for line in range(20):
        chunk = named(chunk, store.append(chunk, some(line)))
    assert len(chunk["parts"]) == 1
    assert [record.line for record in store.records(chunk)] == list(range(20))


def test_parts_from_an_offset() -> None:
    chunk = a_chunk(parts=[Part("a", 5, 15), Part("b", 0, 4)])
    assert parts_of(chunk) == [Part("a", 5, 15), Part("b", 0, 4)]
    assert parts_of(chunk, 4) == [Part("a", 9, 15), Part("b", 0, 4)]
    assert parts_of(chunk, 10) == [Part("b", 0, 4)]
    assert parts_of(chunk, 13) == [Part("b", 3, 4)]
    assert parts_of(chunk, 14) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_is_said_and_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str) -> None:
    store, chunk, real = FolderStore(tmp_path), a_chunk(), os.write
    chunk = named(chunk, store.append(chunk, some(1)))
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.log"))

    def full(descriptor: int, data: memoryview | None = None) -> None:
        if data:
            real(descriptor, data[:3])  # some of it finds room
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(StorageFull):
            store.append(chunk, some(2))
    if call == "write":
        assert sum(path.stat().st_size for path in tmp_path.rglob("*.log")) == size
    chunk = named(chunk, store.append(chunk, some(3)))
    assert [record.line for record in store.records(chunk)] == [1, 3]


def test_a_log_whose_name_is_not_safe_takes_no_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, chunk, synced, real = FolderStore(tmp_path), a_chunk(), list[str](), os.fsync

    def broken(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def noted(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(OSError, match="Input/output"):
            store.append(chunk, some(1))
    monkeypatch.setattr(os, "fsync", noted)
    chunk = named(chunk, store.append(chunk, some(2)))
    assert synced == ["batch_1.0", "results", chunk["parts"][0][0].rpartition("/")[2]]
    assert list(store.records(chunk)) == some(2)


def test_files_are_for_the_server_alone(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    write(store, "file-1", [b"x"])
    store.append(a_chunk(), some(1))
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {0o600}


@pytest.mark.parametrize("url", ["memory://x", "http://host/x", "file://relative", "/a/path", "simplecache::s3://b", "ftp://x"])
def test_other_places_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidConfiguration, match=r"server\.store_url"):
        open_store(url, tmp_path)


def test_a_folder_by_its_url(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path / 'elsewhere'}", tmp_path)
    write(store, "file-1", [b"x"])
    assert (tmp_path / "elsewhere" / "files" / "file-1").read_bytes() == b"x"


def test_a_broken_upload_leaves_no_pieces_either(object_server: ObjectServer) -> None:
    store = open_object_store("s3://bucket")

    def interrupted() -> Iterator[bytes]:
        yield b"x" * 20_000_000
        assert object_server.unfinished() == ["files/file-1"]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(store, "file-1", interrupted())
    assert object_server.unfinished() == object_server.objects() == []


def test_pieces_that_a_crash_left_are_swept(object_server: ObjectServer) -> None:
    for key in ("ours/files/file-1", "theirs/files/file-1"):
        HTTP.post(f"{object_server.url}/bucket/{key}?uploads").raise_for_status()
    open_object_store("s3://bucket/ours").sweep(set(), set(), 0)
    assert object_server.unfinished() == ["theirs/files/file-1"]


def test_each_store_keeps_to_its_prefix(object_server: ObjectServer) -> None:
    ours, theirs = open_object_store("s3://bucket/a/"), open_object_store("s3://bucket/ab")
    write(theirs, "file-1", [b"x"])
    theirs.append(a_chunk(), some(1))
    ours.sweep(set(), set(), 0)
    ours.discard_results("batch_1", 0)
    assert [key.rpartition("-")[0] for key in object_server.objects()] == ["ab/files/file", "ab/results/batch_1.0/0-1"]


def test_a_store_that_cannot_be_reached_is_said_to_be_so(object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    store = open_object_store("s3://bucket")
    chunk = a_chunk(parts=[Part(".0/0-1-x", 0, 10)])
    attempts: list[Callable[[], object]] = [
        lambda: write(store, "file-1", [b"x"]),
        lambda: read(store, "file-1", 0, 5),
        lambda: store.append(chunk, some(1)),
        lambda: list(store.records(chunk)),
        lambda: store.sweep(set(), set()),
    ]
    for attempt in attempts:
        with pytest.raises(StorageUnavailable, match="bucket cannot be used"):
            attempt()


def test_a_bucket_that_is_not_there_is_said_to_be_so(object_server: ObjectServer) -> None:
    with pytest.raises(StorageUnavailable):
        open_object_store("s3://nowhere").set_mark("x")


def test_a_driver_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(MissingExtra) as caught:
        open_store("s3://bucket", tmp_path)
    assert "batchsched[s3]" in str(caught.value.hint)


def test_a_mark_is_kept(opener: Opener) -> None:
    assert opener().mark() is None
    opener().set_mark("abc")
    assert opener().mark() == "abc"


def test_a_store_belongs_to_one_database(tmp_path: Path) -> None:
    first, second = Database(tmp_path / "one.db"), Database(tmp_path / "two.db")
    store = FolderStore(tmp_path / "files")
    settle(first, store)
    settle(first, store)
    with pytest.raises(InvalidConfiguration, match="belong to another database"):
        settle(second, store)
    with pytest.raises(InvalidConfiguration, match="is empty"):  # perhaps a folder that is not mounted
        settle(first, FolderStore(tmp_path / "elsewhere"))
    first.close()
    second.close()

"""What is compiled is kept by what it was made from."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchsched.planner import compiled

CALLED = "from batchsched.planner.compiled import lean\n\n\n@lean\ndef called(x: float) -> float:\n    return x + {}\n"
CALLING = """
from batchsched.planner.compiled import lean
from called import called

@lean
def calling(x: float) -> float:
    return 2 * called(x)

print(calling(1.0))
"""


def answer(folder: Path, home: Path) -> str:
    """What the calling module prints in a process of its own, with its folder standing in for the planner's."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); from batchsched.planner import compiled; "
    code += f"compiled.__file__ = {str(folder / 'compiled.py')!r}; import calling"
    env = {**os.environ, "XDG_CACHE_HOME": str(home), "NUMBA_CACHE_DIR": ""}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=600)
    return done.stdout.strip()


@pytest.mark.slow
def test_a_changed_function_is_not_used_as_it_was_by_those_that_call_it(tmp_path: Path) -> None:
    folder = tmp_path / "planner"
    folder.mkdir()
    shutil.copy(compiled.__file__, folder / "compiled.py")
    (folder / "calling.py").write_text(CALLING)
    for added, expected in (("1.0", "4.0"), ("2.0", "6.0")):
        (folder / "called.py").write_text(CALLED.format(added))
        assert answer(folder, tmp_path / "home") == expected
    assert len(list((tmp_path / "home/batchsched/compiled").iterdir())) == 2


@pytest.mark.slow
def test_a_home_that_cannot_be_written_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file, no folder")
    folder = tmp_path / "planner"
    folder.mkdir()
    shutil.copy(compiled.__file__, folder / "compiled.py")
    (folder / "calling.py").write_text(CALLING)
    (folder / "called.py").write_text(CALLED.format("1.0"))
    assert answer(folder, tmp_path / "home") == "4.0"


@pytest.mark.slow
def test_of_processes_that_start_together_one_compiles(tmp_path: Path) -> None:
    folder = tmp_path / "planner"
    folder.mkdir()
    shutil.copy(compiled.__file__, folder / "compiled.py")
    (folder / "calling.py").write_text(CALLING + "print(sum(calling.stats.cache_misses.values()))\n")
    (folder / "called.py").write_text(CALLED.format("1.0"))
    with ThreadPoolExecutor(3) as pool:
        told = list(pool.map(lambda _: answer(folder, tmp_path / "home").split(), range(3)))
    assert sorted(told) == [["4.0", "0"], ["4.0", "0"], ["4.0", "1"]]


def test_one_that_hangs_while_it_compiles_holds_up_the_others_for_a_while_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, turn = tmp_path / "compiling", compiled.Turn(patience_s=0.3)
    with path.open("w+") as hanging:
        hanging.write("4242\n")
        hanging.flush()
        fcntl.flock(hanging, fcntl.LOCK_EX)
        began = time.monotonic()
        with turn.taken(path):
            assert time.monotonic() - began >= 0.3
        for _ in range(20):
            with turn.taken(path):
                pass
        assert caplog.text.count("Process 4242 has held") == 1
    with turn.taken(path), turn.taken(path), path.open() as other:
        assert path.read_text() == f"{os.getpid()}\n"
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_folders_that_nobody_used_for_a_month_go_when_a_new_one_comes(tmp_path: Path) -> None:
    folder, kept, old = (tmp_path / name for name in ("new", "kept", "old"))
    for other, days in ((kept, 29), (old, 31)):
        other.mkdir()
        (other / "file").touch()
        at = time.time() - days * 86_400
        os.utime(other, (at, at))
    compiled._take_over(folder)  # pyright: ignore[reportPrivateUsage]
    assert {found.name for found in tmp_path.iterdir()} == {"new", "kept"}
    os.utime(kept, (0, 0))
    compiled._take_over(folder)  # pyright: ignore[reportPrivateUsage]
    assert kept.exists(), "only a new one makes room"

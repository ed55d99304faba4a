"""The house as a whole: every tool sees all four code folders, imports keep apart, locks and docs match the code."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from batchsched import errors
from batchsched.cli import infile
from batchsched.cli.common import load_checked
from batchsched.forecasts import open_provider
from batchsched.lines.rules import Rules
from batchsched.queue.database import Database
from batchsched.queue.states import BATCH_TRANSITIONS, CHUNK_TRANSITIONS
from tools import make_docs

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("batchsched", "queue", "forecasts", "executors")
LINKED = FOLDERS[1:]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """What a command says, however it ends."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=600, check=False)
    return done.stdout + done.stderr


def python(*args: str | Path, cwd: Path = ROOT) -> str:
    return run(sys.executable, *args, cwd=cwd)


def seen(output: str) -> set[str]:
    """The code folders whose probe a tool's output names, by whichever of its two paths."""
    return {folder for folder in FOLDERS if re.search(rf"\b{folder}[/.]probe\b", output)}


@pytest.fixture
def small_house(tmp_path: Path) -> Path:
    """The same layout and settings with one small file a folder, each with an unused import and a wrong type."""
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    (tmp_path / "README.md").write_text("A small house.\n")
    for folder in FOLDERS:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "probe.py").write_text('"""A probe."""\n\nimport os\n\nnumber: int = "text"\n')
    for folder in ("tests", "examples", "benchmarks", "tools", "deploy"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "sound.py").write_text('"""Nothing wrong here."""\n')
    for folder in ("batchsched", "forecasts", "executors"):
        (tmp_path / folder / "__init__.py").write_text('"""A folder."""\n')
    for folder in LINKED:
        (tmp_path / "batchsched" / folder).symlink_to(f"../{folder}")
    return tmp_path


def test_the_page_about_the_house_names_the_whole_ground_floor() -> None:
    drawn = (ROOT / "docs" / "architecture.md").read_text().split("```")[1]
    modules = PYPROJECT["tool"]["importlinter"]["contracts"][0]["source_modules"]
    assert {name.removeprefix("batchsched.") for name in modules} <= set(drawn.split())


@pytest.mark.parametrize("folder", LINKED)
def test_linked_folders_are_relative_links(folder: str) -> None:
    link = ROOT / "batchsched" / folder
    assert link.is_symlink()
    assert link.readlink() == Path("..", folder)


def test_the_standard_librarys_queue_wins_in_the_root() -> None:
    assert not (ROOT / "queue" / "__init__.py").exists()
    where = python("-c", "import queue, concurrent.futures; print(queue.__file__)")
    assert where.strip().endswith("queue.py"), where
    assert not Path(where.strip()).is_relative_to(ROOT / "queue")


def test_ruff_sees_all_folders(small_house: Path) -> None:
    report = python("-m", "ruff", "check", "--no-cache", "--output-format=concise", ".", cwd=small_house)
    assert seen(report) == set(FOLDERS), report


@pytest.mark.parametrize("module", ["forecasts", "executors"])
def test_ruff_forbids_the_bare_import(module: str) -> None:
    source = f"import {module}\n\nprint({module})\n"
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--stdin-filename", "batchsched/probe.py", "-"]
    done = subprocess.run(command, cwd=ROOT, input=source, capture_output=True, text=True, check=False)
    assert "TID251" in done.stdout


def test_mypy_sees_all_folders(small_house: Path) -> None:
    report = python("-m", "mypy", "--no-incremental", cwd=small_house)
    assert seen(report) == set(FOLDERS), report


def test_basedpyright_sees_all_folders(small_house: Path) -> None:
    report = python("-m", "basedpyright", cwd=small_house)
    assert seen(report) == set(FOLDERS), report


def test_coverage_sees_all_folders(small_house: Path) -> None:
    python("-m", "coverage", "run", "--rcfile", "pyproject.toml", "-m", "batchsched.queue.probe", cwd=small_house)
    report = python("-m", "coverage", "report", cwd=small_house)
    assert seen(report) == set(FOLDERS), report


def test_import_linter_sees_all_folders() -> None:
    import grimp

    packages = PYPROJECT["tool"]["importlinter"]["root_packages"]
    modules = grimp.build_graph(*packages, cache_dir=None).modules
    for folder in LINKED:
        assert any(name.startswith(f"batchsched.{folder}.") for name in modules), folder


def test_the_wheel_has_all_folders(tmp_path: Path) -> None:
    output = python("-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in FOLDERS:
        inside = "batchsched/" if folder == "batchsched" else f"batchsched/{folder}/"
        expected = {inside + path.relative_to(ROOT / folder).as_posix() for path in sources(folder)}
        assert expected <= names, (output, expected - names)
    assert {name.split("/")[0] for name in names} == {"batchsched", wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"}


def sources(folder: str) -> list[Path]:
    """The Python files of a code folder; links are not followed, so each is counted once."""
    return [path for path in (ROOT / folder).rglob("*.py") if not any(part.is_symlink() for part in path.parents)]


def test_files_stay_small() -> None:
    long = {path.name: n for folder in FOLDERS for path in sources(folder) if (n := len(path.read_text().splitlines())) > 500}
    assert not long


def test_no_merge_was_left_half_done() -> None:
    """Without git (in an sdist, say) there was no merge."""
    marked = run("git", "grep", "-lE", "^(<{7}|>{7}) ", cwd=ROOT) if (ROOT / ".git").exists() else ""
    assert not marked


@pytest.mark.parametrize("name", ["dev.txt", "engine-cpu.txt", "engine-model.txt", "uv.txt"])
def test_locks_name_no_index_and_hash_everything(name: str) -> None:
    text = (ROOT / "locks" / name).read_text()
    assert "://" not in text
    assert "\n-" not in f"\n{text}"
    unhashed = re.findall(r"^([\w.-]+==\S+)[^\n]*(?<!\\)\n", text, re.MULTILINE)
    assert unhashed == (["torch==2.13.0+cpu"] if name == "engine-cpu.txt" else [])


def test_the_lock_has_every_dependency() -> None:
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    wanted = {*project["dependencies"], *extras["server"], *extras["worker"], *extras["dev"]}
    names = {re.split(r"[^\w.-]", spec)[0] for spec in wanted} - {"batchsched"}
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "locks" / "dev.txt").read_text(), re.MULTILINE))
    assert not names - locked


def test_make_lists_its_targets() -> None:
    listed = run("make", "--no-print-directory")
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    for target in phony[1].split():
        assert f"make {target} " in listed


def test_reference_pages_are_current() -> None:
    for name, text in make_docs.pages().items():
        assert (ROOT / "docs" / name).read_text() == text, f"docs/{name} is out of date: make docs"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.toml")), ids=lambda path: path.name)
def test_the_example_configurations_are_sound_and_complete(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BATCHSCHED_CONFIG", raising=False)
    known = load_checked(path).settings
    assert known.models
    assert {pool.site for pool in known.pools.values()} == set(known.sites)
    zones = {site.zone for site in known.sites.values()}
    provider, now = open_provider(known.forecast, path.parent), datetime.now(UTC)
    assert all(provider.forecast(zone, now, now + timedelta(hours=6)).slots for zone in zones)


def test_the_example_requests_are_valid() -> None:
    found = infile.check(ROOT / "examples" / "requests.jsonl", Rules(), models=["tiny"])
    assert (found.errors, found.requests) == ([], 64)


def test_every_error_stands_in_the_one_tree() -> None:
    names = "|".join(kind.__name__ for kind in errors.walk())
    stands_in = re.compile(rf"^class \w+\(({names})\)", re.MULTILINE)
    found = [path for folder in FOLDERS for path in sources(folder) if stands_in.search(path.read_text())]
    assert found == [ROOT / "batchsched" / "errors.py"]


def test_the_codes_of_bad_lines_are_documented() -> None:
    text = "".join(path.read_text() for path in sources("batchsched/lines"))
    raised = set(re.findall(r'(?:LineError|Flaw)\(\s*"(\w+)"', text))
    assert raised == set(make_docs.LINE_CODES)


def test_the_schema_allows_exactly_the_states_of_the_table(tmp_path: Path) -> None:
    database = Database(tmp_path / "states.db")
    with database.read() as connection:
        rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'table'").all()
    database.close()
    schema = {str(name): str(sql) for name, sql in rows}
    for table, transitions in (("batches", BATCH_TRANSITIONS), ("chunks", CHUNK_TRANSITIONS)):
        check = re.search(r"state IN \(([^)]*)\)", schema[table])
        assert check
        assert set(re.findall(r"'(\w+)'", check[1])) == set(transitions)


@pytest.mark.parametrize("transitions", [BATCH_TRANSITIONS, CHUNK_TRANSITIONS])
def test_every_state_is_known_and_reachable(transitions: dict[str, frozenset[str]]) -> None:
    reached, fresh = set[str](), {next(iter(transitions))}
    while fresh:
        reached |= fresh
        fresh = {after for state in fresh for after in transitions[state]} - reached
    assert reached == set(transitions)

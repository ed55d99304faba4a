"""What is published: wheel and sdist hold what they should and no more, there is one version, each extra serves its role."""

from __future__ import annotations

import email.message
import email.parser
import re
import subprocess
import sys
import tarfile
import textwrap
import tomllib
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

import batchsched

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINKED = ("executors", "forecasts", "queue")
NOT_CODE = {
    "batchsched/catalogue.csv",
    "batchsched/cli/requests.jsonl",
    "batchsched/engines.csv",
    "batchsched/executors/recipes.toml",
    "batchsched/forecasts/data/climatology.csv",
    "batchsched/py.typed",
}
"""What the product reads besides Python. A new file of data goes here, and into NOTICE where it is somebody's."""

CLIENT = """
    import importlib, pkgutil, batchsched.cli.batches
    for name in "client", "lines", "testing", "carbon":
        package = importlib.import_module(f"batchsched.{name}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    from batchsched.cli.main import COMMANDS, main
    for command in COMMANDS:
        say(0, command, "--help")
    say(0, "--version")
    say(0, "doctor")
    say(0, "validate", REQUESTS)
    say(0, "carbon", "hardware")
    say(0, "carbon", "what-if", "L4")
    say(0, "config", "show")
    say(75, "list", "--server", "http://127.0.0.1:9")
    say(2, "serve")
"""
WORKER = """
    import importlib, pkgutil
    import batchsched.executors
    for module in pkgutil.walk_packages(batchsched.executors.__path__, "batchsched.executors."):
        if ".in_engine." not in module.name:  # which engines import, in an environment of their own
            importlib.import_module(module.name)
    import batchsched.cli.worker, batchsched.cli.launching, batchsched.cli.profile_run
    import batchsched.profiles.phases, batchsched.profiles.trials, batchsched.profiles.grid, batchsched.profiles.slo
    say(0, "worker", "--help")
    say(0, "doctor")
    say(2, "serve")
"""
SERVER = """
    import importlib, pkgutil
    for name in "server", "queue", "forecasts", "planner", "profiles", "carbon", "simulate":
        package = importlib.import_module(f"batchsched.{name}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if ".migrations." not in module.name:
                importlib.import_module(module.name)
    import batchsched.scheduler, batchsched.solving, batchsched.windows
    say(0, "serve", "--help")
    say(0, "simulate", "--days", "1", "--quick", "--zones", "DE", "--policy", "greedy")
    say(2, "worker", "--pool", "x")
"""


class Published(NamedTuple):
    """Both distributions, built."""

    wheel: Path
    sdist: Path


def _built(source: Path, target: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """As `make dist` makes them."""
    return Published(
        _built(ROOT, "wheel", tmp_path_factory.mktemp("wheel")), _built(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))
    )


def _names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def _metadata(wheel: Path) -> email.message.Message:
    (name,) = (name for name in _names(wheel) if name.endswith(".dist-info/METADATA"))
    return email.parser.Parser().parsestr(zipfile.ZipFile(wheel).read(name).decode())


def test_the_wheel_holds_the_code_its_data_and_its_notices_and_nothing_else(published: Published) -> None:
    names = {name for name in _names(published.wheel) if not name.endswith(".py")}
    (info,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
    notices = {f"{info}/licenses/{name}" for name in ("LICENSE", "NOTICE")}
    assert names - {f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt")} == NOT_CODE | notices
    assert not [
        name for name in _names(published.wheel) if re.search(r"(^|/)((tests?|conftest|benchmarks)(/|\.py$)|examples/)", name)
    ]
    migrations = {f"batchsched/queue/migrations/{path.relative_to(ROOT / 'queue/migrations')}" for path in _migrations()}
    assert migrations <= _names(published.wheel)
    assert "batchsched = batchsched.cli.main:main" in zipfile.ZipFile(published.wheel).read(f"{info}/entry_points.txt").decode()


def _migrations() -> list[Path]:
    return [path for path in (ROOT / "queue" / "migrations").rglob("*.py") if "__pycache__" not in path.parts]


def test_the_sdist_holds_the_sources_once_and_makes_the_same_wheel(published: Published, tmp_path: Path) -> None:
    with tarfile.open(published.sdist) as sdist:
        assert not [member.name for member in sdist if member.issym() or member.islnk()]
        tops = {name.split("/")[1] for name in sdist.getnames()}
        sdist.extractall(tmp_path, filter="data")
    expected = {"batchsched", "CHANGELOG.md", "LICENSE", "NOTICE", "PKG-INFO", "README.md", "pyproject.toml", ".gitignore"}
    assert tops == expected
    (folder,) = tmp_path.iterdir()
    again = _built(folder, "wheel", tmp_path / "again")
    assert again.read_bytes() == published.wheel.read_bytes()


def test_one_version_everywhere(published: Published) -> None:
    version = batchsched.__version__
    assert "version" not in PYPROJECT["project"]
    assert _metadata(published.wheel)["Version"] == version
    assert published.wheel.name == f"batchsched-{version}-py3-none-any.whl"
    assert published.sdist.name == f"batchsched-{version}.tar.gz"
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert newest[1] == version
    said = subprocess.run([sys.executable, "-m", "batchsched.cli", "--version"], capture_output=True, text=True, check=True)
    assert said.stdout == f"batchsched {version}\n"


def test_what_the_metadata_say(published: Published) -> None:
    metadata = _metadata(published.wheel)
    assert (metadata["Name"], metadata["Requires-Python"], metadata["License-Expression"]) == (
        "batchsched",
        ">=3.11",
        "Apache-2.0",
    )
    assert metadata.get_all("License-File") == ["LICENSE", "NOTICE"]
    assert "Typing :: Typed" in (metadata.get_all("Classifier") or [])
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    extras = set(metadata.get_all("Provides-Extra") or [])
    assert extras == set(PYPROJECT["project"]["optional-dependencies"])
    page = (ROOT / "docs" / "installing.md").read_text()
    assert all(f"`[{extra}]`" in page for extra in extras)


def test_the_client_stays_small() -> None:
    names = {_distribution(spec) for spec in PYPROJECT["project"]["dependencies"]}
    assert names == {"click", "httpx", "jiter", "msgspec", "rich", "tzdata"}


def _distribution(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement)[0].lower()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extras", "code"), [((), CLIENT), (("worker",), WORKER), (("server",), SERVER)], ids=["client", "worker", "server"]
)
def test_each_role_gets_by_with_what_its_extra_brings(extras: tuple[str, ...], code: str, tmp_path: Path) -> None:
    """In a process that can import the standard library, batchsched and what these requirements bring, all of them; no more."""
    optional = PYPROJECT["project"]["optional-dependencies"]
    wanted = [*PYPROJECT["project"]["dependencies"], *(spec for extra in extras for spec in optional[extra])]
    program = f"WANTED = {wanted!r}\nREQUESTS = {str(ROOT / 'examples' / 'requests.jsonl')!r}\n" + textwrap.dedent(ONLY)
    done = subprocess.run(
        [sys.executable, "-c", program + textwrap.dedent(code)],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


ONLY = """
    import importlib.metadata, sys
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    def closure(specs):
        found, todo = set(), [Requirement(spec) for spec in specs]
        while todo:
            one = todo.pop()
            if one.marker and not any(one.marker.evaluate({"extra": extra}) for extra in ["", *one.extras]):
                continue
            key = canonicalize_name(one.name)
            for extra in ["", *one.extras]:
                if (key, extra) not in found:
                    found.add((key, extra))
                    for spec in importlib.metadata.requires(key) or ():
                        needed = Requirement(spec)
                        if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                            needed.marker = None
                            todo.append(needed)
        return {key for key, _ in found}

    may = closure(WANTED)
    tops = importlib.metadata.packages_distributions()
    barred = {top for top, owners in tops.items() if not {canonicalize_name(owner) for owner in owners} & (may | {"batchsched"})}

    class Hiding:
        def __init__(self, finder):
            self.finder = finder
        def find_spec(self, name, path=None, target=None):
            return None if name.partition(".")[0] in barred else self.finder.find_spec(name, path, target)
        def __getattr__(self, name):
            return getattr(self.finder, name)

    for name in [name for name in sys.modules if name.partition(".")[0] in barred]:
        del sys.modules[name]
    sys.meta_path[:] = map(Hiding, sys.meta_path)

    def say(code, *words):
        from batchsched.cli.main import main
        print("$ batchsched", *words, file=sys.stderr, flush=True)
        try:
            main(list(words))
        except SystemExit as end:
            if end.code != code:
                sys.exit(f"batchsched {' '.join(words)}: exit code {end.code}, not {code}")
"""

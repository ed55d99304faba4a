"""Recipes: which engine a generation of GPUs runs, how it is installed and started; and whether a machine fits one.

They are data, `recipes.toml` beside this file.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from batchsched.engines import Build, EngineName, numbers
from batchsched.errors import InvalidConfiguration

_PROBE = """
import importlib.metadata as m, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = m.version(name)
    except m.PackageNotFoundError:
        pass
print(json.dumps(found))
"""
_REQUIREMENT = re.compile(r"^([\w.-]+)(?:\[[\w,]+\])?(==|<)([\w.]+)$")


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One generation. `capability`: compute capabilities, from the first on, below the second; `tried`: where we have run it."""

    title: str
    capability: tuple[float, float]
    engine: EngineName
    version: str
    packages: list[str]
    tried: str
    source: str
    cuda: str = ""
    flags: list[str] = []
    environment: dict[str, str] = {}
    build: dict[str, str] = {}

    def suits(self, capability: float) -> bool:
        """Is it for cards of that compute capability?"""
        return self.capability[0] <= capability < self.capability[1]

    def steps(self) -> str:
        """What to type, and what to declare of the pool."""
        before = " ".join(f'{name}="{value}"' for name, value in self.build.items())
        packages = " ".join(f'"{package}"' for package in self.packages)
        said = [f"{before} pip install {packages}".strip(), f'engine = "{self.engine}", engine_version = "{self.version}"']
        said += [f"engine_args = {json.dumps(self.flags)}"] if self.flags else []
        said += ["set " + ", ".join(f"{name}={value}" for name, value in self.environment.items())] if self.environment else []
        return "; ".join(said)


class Card(msgspec.Struct, frozen=True):
    """A GPU of this machine, and the CUDA that its driver speaks."""

    name: str
    capability: float
    cuda: str


@functools.cache
def recipes() -> Mapping[str, Recipe]:
    """All, by name, oldest generation first."""
    found = tomllib.loads(Path(__file__).with_name("recipes.toml").read_text("utf-8"))
    return {name: msgspec.convert(about, Recipe) for name, about in found.items()}


def recipe_named(name: str) -> Recipe:
    """Raises InvalidConfiguration for one that is not there."""
    if name not in recipes():
        raise InvalidConfiguration(f"There is no recipe '{name}'. There are: {', '.join(recipes())}.")
    return recipes()[name]


def recipe_for(capability: float) -> str:
    """The name of the recipe for a compute capability; empty where there is none."""
    return next((name for name, recipe in recipes().items() if recipe.suits(capability)), "")


def cards_here() -> list[Card]:
    """The GPUs of this machine, as NVML tells of them; none where it does not."""
    try:
        import pynvml as nvml
    except ImportError:
        return []
    try:
        nvml.nvmlInit()
        spoken: int = nvml.nvmlSystemGetCudaDriverVersion()
        cuda = f"{spoken // 1000}.{spoken % 1000 // 10}"
        return [_card(nvml, index, cuda) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError:
        return []


def _card(nvml: Any, index: int, cuda: str) -> Card:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    name: str | bytes = nvml.nvmlDeviceGetName(handle)
    return Card(name.decode("utf-8", "replace") if isinstance(name, bytes) else name, float(f"{major}.{minor}"), cuda)


def installed(python: str, packages: list[str]) -> dict[str, str]:
    """The versions that an environment has of the packages that requirements name; of one that cannot run, none."""
    names = [found[1] for package in packages if (found := _REQUIREMENT.match(package))]
    try:
        done = subprocess.run([python, "-c", _PROBE, *names], cwd="/", capture_output=True, timeout=60, check=True)
        return {str(name): str(version) for name, version in json.loads(done.stdout).items()}
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}


def unfit(recipe: Recipe, has: Mapping[str, str], cards: list[Card], environment: Mapping[str, str]) -> list[str]:
    """What of a machine does not fit a recipe, in words. `has`: the versions of its packages; `environment`: what is set."""
    said = [_lacking(package, has) for package in recipe.packages]
    for card in cards:
        if not recipe.suits(card.capability):
            said.append(f"{card.name} has compute capability {card.capability:.1f}, which is not of this generation")
        if (numbers(card.cuda) or ()) < (numbers(recipe.cuda) or ()):
            said.append(f"the driver speaks CUDA {card.cuda}, {recipe.cuda} is needed: install a newer driver")
    wrong = {name: environment[name] for name, value in recipe.environment.items() if environment.get(name, value) != value}
    said += [f"{name} is set to {value}, not to {recipe.environment[name]}" for name, value in wrong.items()]
    return list(dict.fromkeys(text for text in said if text))


def _lacking(requirement: str, has: Mapping[str, str]) -> str:
    found = _REQUIREMENT.match(requirement)
    assert found, requirement
    name, how, wanted = found.groups()
    if name not in has:
        return f"{name} is not installed"
    have, least = numbers(has[name]) or (), numbers(wanted) or ()
    sound = have == least if how == "==" else have < least
    return "" if sound else f"{name} is {has[name]}, the recipe has {how.removeprefix('==')}{wanted}"


def unknown_to_the_table(recipe: Recipe) -> list[str]:
    """What a recipe sets that its engine's version does not know, as far as the table of engines tells."""
    build = Build(recipe.engine, recipe.version)
    said = [name for name in recipe.environment if recipe.engine == "vllm" and not build.has("environment", name)]
    least = build.least("capability", "lowest")
    if recipe.cuda and (numbers(recipe.cuda) or ()) < (numbers(str(build.least("cuda", "lowest"))) or ()):
        said.append(f"CUDA {recipe.cuda}")
    return said + ([f"compute capability {least:.1f}"] if recipe.capability[1] and recipe.capability[0] < least else [])

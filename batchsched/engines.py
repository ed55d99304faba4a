"""Engines by version: what each needs, which flags and metrics it has, how its requests differ. One table for all of it.

`engines.csv` beside this file has a row a fact, the versions that it holds for (from `since`, until `before`; empty: always)
and who says so. "Wheels" are those of the CPU build, whose Python files were read version by version.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import msgspec

EngineName = Literal["vllm", "llama.cpp", "llama-cpp-python"]
ENGINE_NAMES: tuple[EngineName, ...] = get_args(EngineName)
Kind = Literal[
    "capability",
    "cuda",
    "dtype",
    "quantization",
    "flag",
    "environment",
    "key",
    "endpoint",
    "route",
    "metric",
    "mode",
    "request",
    "answer",
    "quirk",
]
Version = tuple[int, ...]
_LATEST: Version = (10**6,)


class Fact(msgspec.Struct, frozen=True):
    """One row of the table. `value`: a compute capability, a metric's name, what to do with a request's field, the engine's word
    for a way to make drafts."""

    engine: EngineName
    kind: Kind
    name: str
    since: str
    before: str
    value: str
    source: str

    def holds(self, version: Version) -> bool:
        """Is a version among those that it is about?"""
        return (numbers(self.since) or ()) <= version < (numbers(self.before) or _LATEST)


class Build(msgspec.Struct, frozen=True):
    """An engine and its version; an empty version is not known: then what today's has counts."""

    engine: EngineName = "vllm"
    version: str = ""

    def facts(self, kind: Kind) -> dict[str, str]:
        """What the table says of this version: names with their values."""
        version = numbers(self.version) or _newest(self.engine)
        return {fact.name: fact.value for fact in table() if self._mine(fact, kind) and fact.holds(version)}

    def has(self, kind: Kind, name: str) -> bool:
        """Does this version have it?"""
        return name in self.facts(kind)

    def least(self, kind: Kind, name: str) -> float:
        """The compute capability (or CUDA version) that something needs; 0 where none is known.

        Of an unknown version the least that any needs: what is not known rules nothing out.
        """
        version = numbers(self.version)
        found = [
            float(fact.value)
            for fact in table()
            if self._mine(fact, kind) and fact.name == name and (version is None or fact.holds(version))
        ]
        return min(found, default=0.0)

    def describe(self) -> str:
        """For people."""
        title = {"vllm": "vLLM"}.get(self.engine, self.engine)
        return f"{title} {self.version}".strip()

    def _mine(self, fact: Fact, kind: Kind) -> bool:
        return fact.kind == kind and fact.engine == self.engine


def numbers(version: str) -> Version | None:
    """A version's leading numbers, for comparing; None where it has none. llama.cpp's builds (b6123) have one; 0.11 is 0.11.0."""
    found = re.match(r"b?v?(\d+(?:\.\d+)*)", version.strip())
    return tuple(int(part) for part in re.sub(r"(\.0+)+$", "", found[1]).split(".")) if found else None


@functools.cache
def table() -> tuple[Fact, ...]:
    """Every fact, in the file's order."""
    return tuple(_rows())


def _rows() -> Iterator[Fact]:
    import csv  # here: who only speaks to a server does not wait for it

    with Path(__file__).with_name("engines.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield msgspec.convert(row, Fact)


@functools.cache
def _newest(engine: EngineName) -> Version:
    """The newest version that the table tells apart: what holds from there on holds today."""
    told = [numbers(edge) or () for fact in table() if fact.engine == engine for edge in (fact.since, fact.before)]
    return max(told, default=())

"""Hardware as published: accelerators, servers and their parts, with a source for every cell.

`catalogue.csv` beside this file is ours, one row a cell: `builtin()`. Where sources differ on a cell, its first row is the one
that counts here and the others stand beside it. What was not found has no row, and is unknown. Users add to it, or overrule it,
in a TOML file of the same sections: `merged()`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import msgspec

from batchsched.errors import InvalidConfiguration, UnknownHardware

T = TypeVar("T")
EmbodiedModel = Literal["published", "sc23", "act", "ecoserve", "greenllm_table1", "vendor"]
"""Ways to say what it took to make an accelerator (carbon/models.py)."""
Rows = dict[str, dict[str, dict[str, list[tuple[Any, str, str]]]]]
"""section -> name -> cell -> its claims: value, source, note."""


class Sourced(msgspec.Struct, Generic[T], frozen=True):
    """A value, the key of who says so, and what others say."""

    value: T
    source: str
    note: str = ""
    others: tuple[Sourced[T], ...] = ()

    @property
    def all(self) -> tuple[Sourced[T], ...]:
        """Every claim, ours first."""
        return (self, *self.others)


Figure = Sourced[float]
Word = Sourced[str]


class Gpu(msgspec.Struct, frozen=True):
    """An accelerator. None is unknown."""

    name: str
    title: str = ""
    die_mm2: Figure | None = None
    node_nm: Figure | None = None
    memory_gb: Figure | None = None
    memory_kind: Word | None = None
    bandwidth_gb_per_s: Figure | None = None
    tdp_w: Figure | None = None
    idle_w: Figure | None = None
    fp16_tflops: Figure | None = None
    """On the ordinary cores."""
    fp16_tensor_tflops: Figure | None = None
    """On the tensor cores, dense."""
    fp32_tflops: Figure | None = None
    compute_capability: Figure | None = None
    """NVIDIA's number; the higher, the newer."""
    pcb_cm2: Figure | None = None
    psu_w: Figure | None = None
    soc_kg: Figure | None = None
    """Board, power supply and die as EcoServe's calculator has them."""
    low_kg: Figure | None = None
    mid_kg: Figure | None = None
    high_kg: Figure | None = None
    """Embodied carbon of the `published` model: all three or none."""
    embodied_kg: Figure | None = None
    """What others say of the whole device; a note says where it is more than that."""
    die_kg: Figure | None = None
    """The same of the die alone."""


class Host(msgspec.Struct, frozen=True):
    """A server without its accelerators, unless a note says otherwise."""

    name: str
    title: str = ""
    gpu_slots: Figure | None = None
    dram_gb: Figure | None = None
    ssd_gb: Figure | None = None
    power_w: Figure | None = None
    kg: Figure | None = None
    low_kg: Figure | None = None
    mid_kg: Figure | None = None
    high_kg: Figure | None = None


class Part(msgspec.Struct, frozen=True):
    """A part of a server. `per`: its unit, such as `GB` or `piece`."""

    name: str
    title: str = ""
    kind: Word | None = None
    per: Word | None = None
    kg: Figure | None = None
    low_kg: Figure | None = None
    mid_kg: Figure | None = None
    high_kg: Figure | None = None
    w_per_unit: Figure | None = None


_KINDS: dict[str, type[msgspec.Struct]] = {"gpus": Gpu, "hosts": Host, "parts": Part}
_WORDS = {"memory_kind", "kind", "per"}
_MAY_BE_ZERO = {
    "low_kg",
    "mid_kg",
    "high_kg",
    "kg",
    "embodied_kg",
    "die_kg",
    "soc_kg",
    "idle_w",
    "w_per_unit",
    "ssd_gb",
    "dram_gb",
}


class Catalogue(msgspec.Struct, frozen=True):
    """All of it, by name, in order."""

    sources: dict[str, str]
    gpus: dict[str, Gpu]
    hosts: dict[str, Host]
    parts: dict[str, Part]

    def reference(self, key: str) -> str:
        """A source in full; one that no table names is its own reference."""
        return self.sources.get(key, key)

    def gpu(self, text: str) -> Gpu:
        """The accelerator that somebody means: `A100-40`, `a100 40gb`, `NVIDIA A100-SXM4-40GB`. Raises UnknownHardware."""
        found = self._meant(text)
        if len(found) == 1:
            return found[0]
        if found:
            raise UnknownHardware(
                f"'{text}' may be {' or '.join(gpu.name for gpu in found)}.",
                hint="Name one of them; `carbon hardware` lists all.",
            )
        from difflib import get_close_matches

        plain = {_plain(name): name for name in self.gpus}
        names = [plain[near] for near in get_close_matches(_plain(text), plain, 3, 0.5)]
        raise UnknownHardware(
            f"There is no accelerator '{text}' in the catalogue." + (f" Near: {', '.join(names)}." if names else ""),
            hint="`batchsched carbon hardware` lists all; `carbon.catalogue` names a file with more.",
        )

    def _meant(self, text: str) -> list[Gpu]:
        if exact := [gpu for name, gpu in self.gpus.items() if _plain(name) == _plain(text)]:
            return exact
        asked = _words(text)
        able = [gpu for gpu in self.gpus.values() if asked and all(_named(word, gpu) for word in asked)]
        return [gpu for gpu in able if all(any(_alike(a, b) for b in asked) for a in _words(gpu.name))] or able


def _plain(text: str) -> str:
    return "".join(_words(text))


def _words(text: str) -> list[str]:
    """Its letters and numbers, without what says nothing: `A100-SXM4-40GB` is a100, sxm4, 40."""
    parts = re.split(r"[^a-z0-9]+", re.sub(r"(\d)\s*gb\b", r"\1", text.lower()))
    return [part for part in parts if part not in {"", "nvidia", "tesla", "generation"}]


def _named(word: str, gpu: Gpu) -> bool:
    memory = gpu.memory_gb
    own = _words(f"{gpu.name} {gpu.title} {gpu.memory_kind.value if gpu.memory_kind else ''}")
    return any(_alike(word, one) for one in [*own, *([f"{memory.value:g}"] if memory else [])])


def _alike(one: str, other: str) -> bool:
    """The same, but for the generation of the socket: `sxm` is `sxm4`."""
    return one == other or {one, other} in ({"sxm", "sxm2"}, {"sxm", "sxm4"}, {"sxm", "sxm5"})


@functools.cache
def builtin() -> Catalogue:
    """Ours."""
    return _built(_rows(), "the catalogue")


def merged(path: Path) -> Catalogue:
    """Ours with a user's file over it, cell by cell. Raises InvalidConfiguration, naming file and key.

    A cell there is a bare value, or `[value, source]`, or `[value, source, note]`, or a list of such.
    """
    import tomllib

    try:
        tree = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InvalidConfiguration(f"There is no hardware catalogue {path}.", hint="`carbon.catalogue` names it.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise InvalidConfiguration(f"{path} is not readable TOML: {problem}.") from None
    rows = _rows()
    for section, name, cell, claims in _declared(tree, path):
        rows[section].setdefault(name, {})[cell] = claims
    return _built(rows, str(path))


def _rows() -> Rows:
    """A fresh copy of ours."""
    import csv  # here, as what else is imported in functions: who only speaks to a server does not wait for it

    rows: Rows = {"sources": {}, "gpus": {}, "hosts": {}, "parts": {}}
    text = Path(__file__).with_name("catalogue.csv").read_text("utf-8")
    for section, name, cell, value, source, note in list(csv.reader(text.splitlines()))[1:]:
        exact = value if section == "sources" or cell in _WORDS or cell == "title" else float(value)
        rows[section].setdefault(name, {}).setdefault(cell, []).append((exact, source, note))
    return rows


def _declared(tree: Mapping[str, Any], path: Path) -> Iterator[tuple[str, str, str, list[tuple[Any, str, str]]]]:
    """The cells of a user's file, checked."""
    for section, named in tree.items():
        if section not in {"sources", *_KINDS} or not isinstance(named, dict):
            raise InvalidConfiguration(f"{path}: unknown key '{section}'; allowed here: sources, {', '.join(_KINDS)}, as tables.")
        for name, cells in named.items():
            key = f"{section}.{name}"
            if section == "sources":
                if not isinstance(cells, str):
                    raise InvalidConfiguration(f"{path}: key '{key}' must be text: the reference.")
                yield section, name, "reference", [(cells, "", "")]
                continue
            if not isinstance(cells, dict):
                raise InvalidConfiguration(f"{path}: key '{key}' must be a table `[{key}]`.")
            for cell, value in cells.items():
                yield section, name, cell, _claims(value, section, cell, f"{path}: key '{key}.{cell}'", path)


def _claims(value: Any, section: str, cell: str, where: str, path: Path) -> list[tuple[Any, str, str]]:
    known = set(_KINDS[section].__struct_fields__) - {"name"}
    if cell not in known:
        from difflib import get_close_matches

        near = get_close_matches(cell, known, 1)
        advice = f"did you mean '{near[0]}'? " if near else ""
        raise InvalidConfiguration(f"{where} is unknown; {advice}allowed here: {', '.join(sorted(known))}.")
    several = value if isinstance(value, list) and value and isinstance(value[0], list) else [value]
    words = cell in _WORDS or cell == "title"
    return [_claim(one, cell, words, where, f"declared in {path.name}") for one in several]


def _claim(given: Any, name: str, words: bool, where: str, unnamed: str) -> tuple[Any, str, str]:
    """A bare value, `[value, source]` or `[value, source, note]`."""
    cell: list[Any] = list(given) if isinstance(given, list) and given else [given]
    value, rest = cell[0], cell[1:]
    fits = isinstance(value, str) if words else isinstance(value, int | float) and not isinstance(value, bool)
    if not fits or len(rest) > 2 or not all(isinstance(one, str) for one in rest):
        shape = "text" if words else "a number"
        raise InvalidConfiguration(f"{where} must be {shape}, or [{shape}, source], or [{shape}, source, note].")
    if not words and not 0 <= value < 1e12:
        raise InvalidConfiguration(f"{where} must not be negative, infinite or NaN.")
    if not words and not value and name not in _MAY_BE_ZERO:
        raise InvalidConfiguration(f"{where} must be above 0; leave out what is not known.")
    source, note = [*rest, "", ""][:2]
    return value if words else float(value), source or unnamed, note


def _built(rows: Rows, where: str) -> Catalogue:
    made = {
        section: {name: _thing(kind, name, cells) for name, cells in rows[section].items()} for section, kind in _KINDS.items()
    }
    for section, things in made.items():
        for name, thing in things.items():
            given = {getattr(thing, cell) is None for cell in ("low_kg", "mid_kg", "high_kg")}
            if len(given) > 1:
                raise InvalidConfiguration(f"{where}: key '{section}.{name}' needs all of low_kg, mid_kg and high_kg, or none.")
            if given == {False} and not thing.low_kg.value <= thing.mid_kg.value <= thing.high_kg.value:
                raise InvalidConfiguration(f"{where}: key '{section}.{name}': low_kg, mid_kg and high_kg must not fall.")
    return Catalogue({key: cells["reference"][0][0] for key, cells in rows["sources"].items()}, **made)  # pyright: ignore


def _thing(kind: type[msgspec.Struct], name: str, cells: Mapping[str, list[tuple[Any, str, str]]]) -> Any:
    given = {cell: claims[0][0] if cell == "title" else _sourced(claims) for cell, claims in cells.items()}
    return kind(**{"name": name, "title": name, **given})


def _sourced(claims: list[tuple[Any, str, str]]) -> Sourced[Any]:
    first, *rest = (Sourced(*claim) for claim in claims)
    return msgspec.structs.replace(first, others=tuple(rest)) if rest else first

"""What it took to make a device, and how that was found: low, mid and high, because published figures differ by ten times."""

from __future__ import annotations

import msgspec

from batchsched.catalogue import Catalogue, Sourced


class Range(msgspec.Struct, frozen=True):
    """A quantity by its low, mid and high figure."""

    low: float
    mid: float
    high: float

    @property
    def all(self) -> tuple[float, float, float]:
        """The three, in this order."""
        return self.low, self.mid, self.high

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.mid + other.mid, self.high + other.high)

    def scaled(self, factor: float) -> Range:
        """Each of the three times a factor."""
        return Range(self.low * factor, self.mid * factor, self.high * factor)


class Term(msgspec.Struct, frozen=True):
    """A number of an equation, and the key of its source."""

    name: str
    value: float | str
    unit: str
    source: str
    note: str = ""

    @classmethod
    def of(cls, name: str, figure: Sourced[float] | Sourced[str], unit: str = "") -> Term:
        """A cell of the catalogue."""
        return cls(name, figure.value, unit, figure.source, figure.note)


class Estimate(msgspec.Struct, frozen=True):
    """kgCO2e to make one device by one model; None where the model or its inputs are not known, and `spread` says why."""

    model: str
    kg: Range | None
    spread: str
    """What low, mid and high are."""
    equation: str = ""
    """Of the mid figure, with its numbers put in."""
    terms: list[Term] = []

    @property
    def source(self) -> str:
        """In a line, for reports."""
        return self.spread


def unknown(model: str, why: str) -> Estimate:
    """No figure."""
    return Estimate(model, None, why)


def lacking(model: str, title: str, **cells: object) -> Estimate:
    """`unknown`, because of those of the cells that a model needs which are missing."""
    missing = [name for name, cell in cells.items() if cell is None]
    return unknown(model, f"{title}: {' and '.join(missing)} not found")


def three(
    low: Sourced[float] | None, mid: Sourced[float] | None, high: Sourced[float] | None, catalogue: Catalogue
) -> tuple[Range, str] | None:
    """Three published figures and whose they are."""
    if not (low and mid and high):
        return None
    said = [
        f"{name}: {catalogue.reference(one.source)}{f', {one.note}' if one.note else ''}"
        for name, one in (("low", low), ("mid", mid), ("high", high))
    ]
    return Range(low.value, mid.value, high.value), "; ".join(said)

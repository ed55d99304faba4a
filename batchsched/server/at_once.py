"""What running at once would have taken, entry by entry of what did run: as it was metered, or by a profile."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from batchsched.carbon.report import Entry
from batchsched.profiles import Profile
from batchsched.wire import EnergySource

Same = Callable[[Entry], bool]
"""Did it run as on the baseline's pool: its model on hardware like its own?"""


class Charged(NamedTuple):
    """An entry, and whether it is of the batch's first engine start, of work that running at once would have been spared, or what
    the host took beside the GPUs."""

    entry: Entry
    start: bool = False
    spared: bool = False
    host: bool = False

    @property
    def kind(self) -> tuple[str, str, bool]:
        """Where its host drew what."""
        return self.entry.pool, self.entry.model, self.start


class AtOnce(NamedTuple):
    """What one entry's work would have taken on the baseline's pool."""

    busy_s: float
    energy_j: float
    source: EnergySource


def at_once(charged: Sequence[Charged], same: Same, profile: Callable[[], Profile]) -> list[AtOnce]:
    """As it was metered where it ran the same way; else by the profile of the baseline, which is asked for once.

    A start there is charged at idle power, the least that it can take: nothing says what loading draws, and the saving must
    not grow by a guess. A host draws the watts that it drew, over the time that the work takes there, as far as the profile's
    watts lack them.
    """
    found: list[AtOnce | None] = [_known(each, same) for each in charged]
    elsewhere = [each for each, known in zip(charged, found, strict=True) if known is None]
    if not elsewhere:
        return [each for each in found if each is not None]
    there = profile()
    took_s: defaultdict[tuple[str, str, bool], float] = defaultdict(float)
    takes_s: defaultdict[tuple[str, str, bool], float] = defaultdict(float)
    for each in elsewhere:
        if not each.host:
            took_s[each.kind] += each.entry.busy_s
            takes_s[each.kind] += _seconds(each, there)
    return [
        known or _modelled(each, there, took_s[each.kind], takes_s[each.kind]) for each, known in zip(charged, found, strict=True)
    ]


def _known(each: Charged, same: Same) -> AtOnce | None:
    entry = each.entry
    if each.spared:
        return AtOnce(0.0, 0.0, entry.energy_source)
    whole_j = entry.energy_j if entry.attributed_j is None else entry.attributed_j
    return AtOnce(entry.busy_s, whole_j, entry.energy_source) if same(entry) else None


def _modelled(each: Charged, there: Profile, took_s: float, takes_s: float) -> AtOnce:
    """`took_s`, `takes_s`: all work of its kind, here and there; of a batch's sums they are what they are of its entries."""
    if each.host:
        missing = 1.0 - (there.idle_with_host if each.start else there.with_host)
        return AtOnce(0.0, each.entry.energy_j * takes_s / took_s * missing if took_s else 0.0, "modelled")
    seconds = _seconds(each, there)
    if each.start:
        return AtOnce(seconds, seconds * there.idle_w, "modelled")
    return AtOnce(seconds, there.energy_j(each.entry.input_tokens, each.entry.output_tokens), "modelled")


def _seconds(each: Charged, there: Profile) -> float:
    return there.startup_s if each.start else there.seconds(each.entry.input_tokens, each.entry.output_tokens)

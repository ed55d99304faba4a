"""A mode of serving against one engine alone: answers compared, then turns of the same load, timed and metered.

In its turn each has the machine to itself: the engines of the other are stopped meanwhile (SIGSTOP), for an engine that waits for
keys and values of another keeps a core busy. Of a mode of two engines both are metered for the whole turn, waiting included, each
as a machine of its own would be where energy is modelled; where a counter of the machine measures it, it is one figure for both.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from math import fsum
from typing import NamedTuple

from batchsched.carbon.greenllm import Device, Split, Use
from batchsched.carbon.modes import Verdict, judge, making
from batchsched.carbon.presets import INTENSITY_G_PER_KWH, LIFETIME_YEARS
from batchsched.executors.meters import choose_meter
from batchsched.fleet import Pool
from batchsched.settings import Worker
from benchmarks.modes_engines import Engine
from benchmarks.modes_load import Load, Send, Sent, run
from benchmarks.modes_ties import Parting, Tie, other_answers, partings

POOL = Pool()


def _nothing() -> float:
    return 0.0


class Turn(NamedTuple):
    """One load, sent once. Joules of the engine that answers, and of the other; bytes that went between them."""

    seconds: float
    own_j: float
    partner_j: float
    between_bytes: float
    source: str

    @property
    def joules(self) -> float:
        """Of both."""
        return self.own_j + self.partner_j


class Way:
    """Engines that answer requests together, the one that answers first. `between`: bytes that went between them so far."""

    def __init__(self, send: Send, engines: Sequence[Engine], between: Callable[[], float] = _nothing) -> None:
        self.send, self.engines, self._between = send, engines, between
        self._meters = [choose_meter(POOL, Worker(), each.pids).meter for each in engines]

    async def turn(self, load: Load) -> tuple[Sent, Turn]:
        """Send a load."""
        before, then = self._between(), [meter.read() for meter in self._meters]
        sent = await run(load, self.send)
        read = [meter.read() for meter in self._meters]
        joules = [now.total_j - first.total_j for now, first in zip(read, then, strict=True)]
        source = read[0].source
        partner_j = fsum(joules[1:]) if source == "modelled" else 0.0
        return sent, Turn(sent.seconds, joules[0], partner_j, self._between() - before, source)

    @contextmanager
    def stopped(self) -> Generator[None]:
        """For as long as another has its turn."""
        with contextlib.ExitStack() as stack:
            for each in self.engines:
                stack.enter_context(each.stopped())
            yield


class Mode(NamedTuple):
    """What came of one mode. `turns`: the engine alone and the mode, in each repetition; `differ`: other answers; `tied`:
    those that part where two tokens tie; `tokens`: of the answers of a turn."""

    turns: list[tuple[Turn, Turn]]
    tokens: int
    differ: int
    tied: int
    compared: int
    lost: int
    figures: dict[str, float]

    @property
    def rates(self) -> list[float]:
        """Tokens a second over those of the engine alone, in each repetition."""
        return [alone.seconds / mode.seconds for alone, mode in self.turns]

    @property
    def energies(self) -> list[float]:
        """Joules over those of the engine alone."""
        return [mode.joules / alone.joules for alone, mode in self.turns]

    def verdict(self, two_machines: bool) -> Verdict:
        """Equations 4 to 6 of GreenLLM on all turns, at its grid and lifetime; of machines without a GPU the machine's making."""
        made = making(POOL.gpu)
        assert made is not None
        device = Device(made.mid, LIFETIME_YEARS)
        alone, mode = [pair[0] for pair in self.turns], [pair[1] for pair in self.turns]
        seconds = fsum(one.seconds for one in mode)
        split = Split(
            alone=Use(fsum(one.seconds for one in alone), fsum(one.joules for one in alone)),
            new=Use(seconds, fsum(one.own_j for one in mode)),
            old=Use(seconds if two_machines else 0.0, fsum(one.partner_j for one in mode)),
            new_gpu=device,
            old_gpu=device,
        )
        return judge(split, INTENSITY_G_PER_KWH, modelled=mode[0].source == "modelled")


async def compare(
    name: str, equal: Sequence[tuple[Load, Sent]], rate: tuple[Load, Sent], repetitions: int, alone: Way, mode: Way, tie: Tie
) -> Mode:
    """Loads with the answers of the engine alone to them. `rate`: that of the turns, whose order alternates. `tie`: asks it."""
    lost, apart, turns = 0, list[Parting](), list[tuple[Turn, Turn]]()
    with alone.stopped():
        for load, before in equal:
            sent = await run(load, mode.send)
            lost += sent.lost
            apart += partings(load, before, sent)
    load, known = rate
    for index in range(repetitions):
        sent_by: dict[str, Sent] = {}
        turn_of: dict[str, Turn] = {}
        for each in ("alone", "mode") if index % 2 == 0 else ("mode", "alone"):
            mine, other = (alone, mode) if each == "alone" else (mode, alone)
            with other.stopped():
                sent_by[each], turn_of[each] = await mine.turn(load)
        turns.append((turn_of["alone"], turn_of["mode"]))
        lost += sum(sent.lost for sent in sent_by.values())
        apart += partings(load, known, sent_by["mode"])
        rates = {each: load.tokens / turn.seconds for each, turn in turn_of.items()}
        ratio = rates["mode"] / rates["alone"]
        print(f"{name}: {rates['mode']:7.0f} tokens/s, alone {rates['alone']:7.0f}; ratio {ratio:.3f}", flush=True)
    differ, tied = await other_answers(apart, tie, name)
    compared = sum(len(before.answers) - before.lost for _, before in equal) + repetitions * (len(known.answers) - known.lost)
    print(f"{name}: {compared} answers compared, {differ} differ, {tied} part at a tie, {lost} requests lost", flush=True)
    return Mode(turns, load.tokens, differ, tied, compared, lost, {})


def table(found: dict[str, Mode], two_machines: frozenset[str]) -> None:
    """For people: rates, joules of either side, what went between them, and the verdict."""
    head = ("mode", "of its rate", "J/token alone", "J/token", "of it there", "kB/s between", "energy")
    print(f"{head[0]:<28} {head[1]:>18} {head[2]:>14} {head[3]:>9} {head[4]:>12} {head[5]:>13} {head[6]:>8}")
    timed = {name: mode for name, mode in found.items() if mode.turns}
    for name, mode in timed.items():
        tokens = mode.tokens * len(mode.turns)
        spread = f"{statistics.median(mode.rates):.3f} [{min(mode.rates):.3f}, {max(mode.rates):.3f}]"
        joules = [fsum(each) / tokens for each in zip(*_joules(mode), strict=True)]
        between = fsum(turn.between_bytes for _, turn in mode.turns) / fsum(turn.seconds for _, turn in mode.turns) / 1e3
        energy = statistics.median(mode.energies)
        print(f"{name:<28} {spread:>18} {joules[0]:>14.4f} {joules[1]:>9.4f} {joules[2]:>12.4f} {between:>13.1f} {energy:>8.3f}")
    for name, mode in timed.items():
        told, alone_j = mode.verdict(name in two_machines), fsum(one.joules for one, _ in mode.turns)
        print(
            f"{name}: {told.sentence}. Equation 4: {told.energy_saved_j:+.0f} J of {alone_j:.0f} saved; "
            f"equation 5: x{told.share:.3f} of the grams; equation 6: its term of the old side {told.old_term:.3f}."
        )
    source = "modelled, by CPU time" if _modelled(found) else "measured"
    print(
        f"Energy is {source}. Grams: {INTENSITY_G_PER_KWH:g} g/kWh and {LIFETIME_YEARS:g} years, as in the paper; "
        "a machine is a slot of the catalogue's server."
    )


def _joules(mode: Mode) -> list[tuple[float, float, float]]:
    return [(alone.joules, turn.joules, turn.partner_j) for alone, turn in mode.turns]


def _modelled(found: dict[str, Mode]) -> bool:
    return any(turn.source == "modelled" for mode in found.values() for _, turn in mode.turns)

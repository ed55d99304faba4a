"""What becomes of the chunks of an engine that died, and which of the lines in flight is suspected or convicted.

An engine may die for reasons of its own, with hundreds in flight, so those lines are only suspects. Their chunk goes back with
them; whoever gets it next tries them half at a time (see `hunt`). A line is convicted that was in flight at two deaths at least
and had the engine for itself at the last; engines that die of anything are found out before that, by the small request that a
worker asks of an engine after a death (see `canary`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

from batchsched.executors.outputs import Outputs
from batchsched.executors.work import Line, Work

log = logging.getLogger(__name__)
_REMEMBERED = 10_000


class Blame:
    """Counts the deaths that each line was in flight at, over the life of a worker."""

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs
        self._deaths: Counter[tuple[str, int]] = Counter()

    def bury(self, works: Iterable[Work], message: str, blame: bool) -> None:
        """End the work of every chunk that the engine had lines of, if one of them may be to blame; the others wait for it."""
        works = list(works)
        asking = [(work, line) for work in works for line in work.open.values() if line.asking]
        log.error("%s %d requests were in flight.", message, len(asking))
        if not blame:
            asking = []
        self._count(asking)
        if len(asking) == 1 and asking[0][1].suspect:
            self._convict(*asking.pop())
        for work in works:
            # In the order in which they were sent: the last ones are the likeliest, and are tried last.
            if suspects := [line.number for owner, line in asking if owner is work]:
                work.fail(message, suspects)
                continue
            for line in reversed(list(work.open.values())):
                work.put_back(line)
            work.settle()

    def _count(self, asking: Iterable[tuple[Work, Line]]) -> None:
        if len(self._deaths) > _REMEMBERED:
            self._deaths.clear()
        for work, line in asking:
            key = work.lease.chunk_id, line.number
            self._deaths[key] = max(self._deaths[key], int(line.suspect)) + 1  # another worker may have seen the first

    def _convict(self, work: Work, line: Line) -> None:
        deaths = self._deaths.pop((work.lease.chunk_id, line.number))
        log.error("Line %d of chunk %s ended the engine; it is set aside.", line.number, work.lease.chunk_id)
        text = (
            f"The engine died {deaths} times while it ran this request, the last time with nothing else to do: it was set aside."
        )
        work.reporter.add(self._outputs.unanswered(line, "engine_crash", text))
        work.set_aside += 1
        line.cancel()
        del work.open[line.number]
        work.acquit()

"""What becomes of the chunks of an engine that died, and which of the lines in flight is suspected or convicted.

An engine may die for reasons of its own, with hundreds in flight. Those lines are suspects; only after a second failure do the
suspects go one by one, so that the line that kills engines convicts itself and harms nobody else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from batchsched.executors.outputs import Outputs
from batchsched.executors.work import Line, Outcome, Work

log = logging.getLogger(__name__)
ALONE_FROM_ATTEMPT = 3


def bury(works: Iterable[Work], message: str, blame: bool, outputs: Outputs) -> None:
    """End the work of every chunk that the engine had lines of; the others wait for it to come back."""
    works = list(works)
    asking = [(work, line) for work in works for line in work.open.values() if line.asking]
    log.error("%s %d requests were in flight.", message, len(asking))
    if blame and len(asking) == 1 and asking[0][1].suspect and asking[0][1].alone:
        _convict(*asking.pop(), outputs)
    for work in works:
        suspects = [line.number for owner, line in asking if owner is work]
        if suspects:
            work.end(Outcome("failed", message=message, suspects=sorted(suspects) if blame else []))
            continue
        for line in list(work.open.values()):  # only pausing between two tries: still to do
            work.put_back(line)
        work.settle()


def _convict(work: Work, line: Line, outputs: Outputs) -> None:
    log.error("Line %d of chunk %s ended the engine again; it is set aside.", line.number, work.lease.chunk_id)
    text = "This request ended the engine each time it ran, so it was set aside."
    work.reporter.add(outputs.unanswered(line, "engine_crash", text))
    line.cancel()
    del work.open[line.number]

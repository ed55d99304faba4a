"""What a worker's meter saw and its engine was asked, and the server is not known to have: it is said again until it has arrived,
and counts once."""

from __future__ import annotations

from batchsched.executors.share import EnergyShare
from batchsched.executors.tally import Tally
from batchsched.wire import Spent


class Unsaid:
    """One message at a time; the server knows by its number that it has it already."""

    def __init__(self, share: EnergyShare, tally: Tally) -> None:
        self._share, self._tally = share, tally
        self._number = 0
        self._waiting: Spent | None = None

    def now(self) -> Spent | None:
        """What there is since the server last heard of it; the same message until it has arrived."""
        if self._waiting is None:
            parts, asked = self._share.spent(), self._tally.take()
            if parts or asked:
                self._number += 1
                self._waiting = Spent(self._number, parts, asked)
        return self._waiting

    def arrived(self, said: Spent | None) -> None:
        """The server has that message. Of two that overlapped the first to arrive settles it: the next has not been said yet."""
        if self._waiting is said:
            self._waiting = None

    def last(self) -> list[Spent]:
        """All there is, at the end: what was said and may not have arrived, and what came since."""
        said, self._waiting = self._waiting, None
        return [each for each in (said, self.now()) if each is not None]

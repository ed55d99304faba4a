"""Results that wait for a slow server: how much of them a worker keeps before it sends the engine nothing more."""

from __future__ import annotations

from collections.abc import Callable


class Backlog:
    """Bytes of results, over all chunks, that the server has not acknowledged. `on_room` is called when it is full no more."""

    def __init__(self, on_room: Callable[[], None], most_bytes: int) -> None:
        self.bytes = 0
        self._on_room, self._most_bytes = on_room, most_bytes

    @property
    def full(self) -> bool:
        """No more requests go out; what is in flight may still come back."""
        return self.bytes >= self._most_bytes

    def grow(self, size: int) -> None:
        """So many bytes wait."""
        self.bytes += size

    def shrink(self, size: int) -> None:
        """So many wait no more."""
        full, self.bytes = self.full, self.bytes - size
        if full and not self.full:
            self._on_room()

"""The proposer's connection to the draft service. It never waits for one to be made: a thread of its own makes it meanwhile."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence

from . import frames

_CONNECT_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_READ_BYTES = 1 << 16
Address = tuple[str, int]


def address_of(text: str) -> Address:
    """`host:port`. Raises ValueError for what is not."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal():
        raise ValueError(f"'{text}' is not host:port")
    return host.strip("[]"), int(port)


class Link:
    """One connection, made anew when it broke. `made` counts them: what the service knew went with the one before."""

    def __init__(self, address: Address, key: str, tokens: int, clock: Callable[[], float]) -> None:
        self.made = self.sent_bytes = self.received_bytes = self.late = self.broken = 0
        self._address, self._key, self._tokens, self._clock = address, key, tokens, clock
        self._socket: socket.socket | None = None
        self._arrived: socket.socket | None = None
        self._maker: threading.Thread | None = None
        self._next_try_at = 0.0
        self._pause_s = _FIRST_PAUSE_S
        self._buffer = bytearray()

    def ready(self) -> bool:
        """Is there a connection? Where there is none, one is being made, or will be after a pause."""
        if self._socket is not None:
            return True
        if self._maker is not None and not self._maker.is_alive():
            self._maker = None
            if self._arrived is None:
                self._wait_longer()
            else:
                self._socket, self._arrived = self._arrived, None
                self._buffer.clear()
                self.made += 1
                return True
        if self._maker is None and self._clock() >= self._next_try_at:
            self._maker = threading.Thread(target=self._make, name="drafts-connect", daemon=True)
            self._maker.start()
        return False

    def ask(self, step: int, rows: Sequence[frames.Row], wait_s: float) -> list[list[int] | int] | None:
        """Drafts or statuses of the rows that want one; None where no answer came in time, or none will."""
        if self._socket is None:
            return None
        until = self._clock() + wait_s
        try:
            return self._exchange(self._socket, step, rows, until)
        except TimeoutError:
            self.late += 1
        except (OSError, ValueError):
            self._break()
        return None

    def close(self) -> None:
        """Let go of it."""
        for connection in (self._socket, self._arrived):
            if connection is not None:
                connection.close()
        self._socket = self._arrived = None

    def _exchange(
        self, connection: socket.socket, step: int, rows: Sequence[frames.Row], until: float
    ) -> list[list[int] | int] | None:
        data = frames.request(step, rows)
        connection.settimeout(max(0.001, until - self._clock()))
        try:
            connection.sendall(data)
        except TimeoutError as problem:
            raise OSError("a request went out in part") from problem  # what follows would not be understood
        self.sent_bytes += len(data)
        if not any(row.wanted for row in rows):
            return []
        while True:
            answered, drafts = frames.read_answer(self._payload(connection, until))
            if answered == step:
                self._pause_s = _FIRST_PAUSE_S
                return drafts  # one of an earlier step came too late

    def _payload(self, connection: socket.socket, until: float) -> bytes:
        """The next whole frame; what came of one that is not whole stays for the next call."""
        while True:
            if len(self._buffer) >= frames.LENGTH.size:
                (length,) = frames.LENGTH.unpack_from(self._buffer)
                if length > frames.MOST_PAYLOAD_BYTES:
                    raise ValueError("a frame is too long")
                if len(self._buffer) >= (end := frames.LENGTH.size + length):
                    payload = bytes(self._buffer[frames.LENGTH.size : end])
                    del self._buffer[:end]
                    return payload
            left_s = until - self._clock()
            if left_s <= 0:
                raise TimeoutError
            connection.settimeout(left_s)
            data = connection.recv(_READ_BYTES)
            if not data:
                raise ConnectionResetError
            self.received_bytes += len(data)
            self._buffer += data

    def _break(self) -> None:
        self.broken += 1
        self.close()
        self._wait_longer()

    def _wait_longer(self) -> None:
        self._next_try_at = self._clock() + self._pause_s
        self._pause_s = min(_LONGEST_PAUSE_S, 2 * self._pause_s)

    def _make(self) -> None:
        """In a thread: connect and greet. A service that does not take the key closes the connection."""
        with contextlib.suppress(OSError, ValueError), contextlib.ExitStack() as stack:
            made = stack.enter_context(socket.create_connection(self._address, _CONNECT_S))
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            greeting = _exactly(made, len(frames.MAGIC) + frames.NONCE_BYTES)
            if not greeting.startswith(frames.MAGIC):
                raise ValueError("this is no draft service")
            made.sendall(frames.HELLO.pack(frames.signed(self._key, greeting[len(frames.MAGIC) :]), self._tokens))
            if _exactly(made, 1) == b"\x01":
                stack.pop_all()
                self._arrived = made


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise ConnectionResetError
        data += more
    return data

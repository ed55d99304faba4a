"""The batch line formats of OpenAI's contract: cutting a file into lines, reading one, writing one.

An input line is `{custom_id, method, url, body}`; an output line is `{id, custom_id, response, error}`. Nothing here touches a
disk or a socket: callers hand in bytes. Whether a line may be accepted is decided once, by `checking`; what is read here was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"
ENDPOINTS = (CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES)


class LineError(msgspec.Struct, frozen=True):
    """What is wrong with one input line; `line` is 1-based, None where the whole file is meant."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Request(msgspec.Struct, frozen=True):
    """One input line. `body` stays as the bytes that were sent."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


_requests = msgspec.json.Decoder(Request)
_bodies = msgspec.json.Decoder(dict[str, msgspec.Raw])


def parse(line: bytes, number: int) -> Request | LineError:
    """The request on a line that was accepted; an error where the bytes are no request after all."""
    try:
        return _requests.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        return LineError("invalid_json_line", f"The line is not a valid request: {problem}.", number)


def renamed(body: bytes | msgspec.Raw, model: str) -> bytes:
    """A request's body with another model in the place of the one that it names; all else stays as the bytes that were sent."""
    return msgspec.json.encode({**_bodies.decode(body), "model": model})


class Line(NamedTuple):
    """One non-blank line of a file: its 1-based number as an editor shows it, its span in bytes (newline included), its bytes."""

    number: int
    start: int
    end: int
    data: bytes


class Run(NamedTuple):
    """Successive lines, blank ones too: how many came before, the first's first byte, their bytes, 1 if newlines end them."""

    before: int
    start: int
    pieces: list[bytes]
    newline: int

    def lines(self) -> Iterator[Line]:
        """The lines that are not blank."""
        end = self.start
        for number, piece in enumerate(self.pieces, self.before + 1):
            start, end = end, end + len(piece) + self.newline
            if piece and not piece.isspace():
                yield Line(number, start, end, piece)


def iter_runs(blocks: Iterable[bytes], longest: int | None = None) -> Iterator[Run]:
    """The lines in a stream of blocks of any size, as many at once as a block completes; a line's bytes come without the newline.

    Of a line that has more than `longest` bytes and no end in sight, what has come is handed over, and nothing after it: memory
    stays bounded whatever is sent.
    """
    start, number, held, parts = 0, 0, 0, list[bytes]()
    for block in blocks:
        cut = block.rfind(b"\n")
        if cut >= 0:
            parts.append(block[:cut])
            whole = b"".join(parts)
            pieces = whole.split(b"\n")
            yield Run(number, start, pieces, 1)
            number, start = number + len(pieces), start + len(whole) + 1
            held, parts = 0, []
        parts.append(block[cut + 1 :])
        held += len(parts[-1])
        if longest is not None and held > longest:
            break
    yield Run(number, start, [b"".join(parts)], 0)


def iter_lines(blocks: Iterable[bytes], longest: int | None = None) -> Iterator[Line]:
    """The non-blank lines in a stream of blocks, one by one; see `iter_runs`."""
    for run in iter_runs(blocks, longest):
        yield from run.lines()


def answered(
    line_id: str, custom_id: str, status_code: int, request_id: str, body: bytes, ours: msgspec.Raw | None = None
) -> bytes:
    """An output line for a request that an engine answered; `body` must be a JSON object, and goes in as it is.

    `ours`: what stands under our own key, which readers of OpenAI's format pass over.
    """
    response = {"status_code": status_code, "request_id": request_id, "body": msgspec.Raw(body)}
    line = {"id": line_id, "custom_id": custom_id, "response": response, "error": None}
    return msgspec.json.encode(line if ours is None else line | {"batchsched": ours})


def unanswered(line_id: str, custom_id: str, code: str, message: str, ours: msgspec.Raw | None = None) -> bytes:
    """An error line for a request that never had an HTTP answer (expired, cancelled, engine lost for good)."""
    line = {"id": line_id, "custom_id": custom_id, "response": None, "error": {"code": code, "message": message}}
    return msgspec.json.encode(line if ours is None else line | {"batchsched": ours})

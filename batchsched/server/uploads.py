"""Uploads: a multipart body that streams from the socket to the disk, each line checked for its form on the way.

Runs in a worker thread and pulls the body block by block; memory stays at a few blocks whatever the size of the file.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from batchsched.errors import InvalidRequest, MissingParameter, PayloadTooLarge, UnsupportedMedia
from batchsched.lines.checking import Checker
from batchsched.lines.rules import Rules
from batchsched.lines.strict import COMPRESSED, shown

MAX_FIELD_BYTES = 65_536
MAX_FIELDS = 20
PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")


class Form:
    """Reads one multipart body; `file_blocks()` gives the bytes of the part named `file`, everything else lands in `fields`."""

    def __init__(self, headers: Mapping[str, str], body: Iterable[bytes]) -> None:
        encoding = headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise UnsupportedMedia(f"Content-Encoding '{shown(encoding)}' is not read here; send the body as it is.")
        kind, parameters = parse_options_header(headers.get("content-type", ""))
        if kind != b"multipart/form-data" or b"boundary" not in parameters:
            raise InvalidRequest("Send the file as multipart/form-data, the file itself in a part named 'file'.")
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.encoding: str | None = None
        """How the file's part says that it is encoded, if it says so."""
        self._body = iter(body)
        self._ready: list[bytes] = []
        self._header = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._value = bytearray()
        self._name = ""
        self._in_file = False
        self._ended = False
        self._parser = MultipartParser(parameters[b"boundary"], self._callbacks())

    def file_blocks(self) -> Iterator[bytes]:
        """The file's bytes as they arrive; the whole body has been read when it ends. Raises InvalidRequest for a broken body."""
        for block in self._body:
            try:
                self._parser.write(block)
            except FormParserError as problem:
                raise InvalidRequest(f"The multipart body is broken: {problem}.") from None
            yield from self._ready
            self._ready.clear()
        if not self._ended:
            raise InvalidRequest("The upload ended too early; nothing was kept. Send it again.")

    def _callbacks(self) -> Any:
        return {
            "on_part_begin": self._on_part_begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }

    def _on_part_begin(self) -> None:
        self._headers.clear()
        self._value.clear()

    def _on_header_end(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _on_headers_finished(self) -> None:
        _, parameters = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = parameters.get(b"name", b"").decode("utf-8", "replace")
        self._in_file = self._name == "file"
        if len(self.fields) >= MAX_FIELDS or (self._in_file and self.filename is not None):
            raise InvalidRequest("The form has too many parts; send one file and its few fields.", param=self._name[:80])
        if self._in_file:
            self.filename = parameters.get(b"filename", b"upload.jsonl").decode("utf-8", "replace").replace("\0", "")
            encoding = self._headers.get(b"content-encoding", b"").strip().lower()
            self.encoding = encoding.decode("latin-1") if encoding not in {b"", b"identity"} else None

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._ready.append(data[start:end])
        elif len(self._value) + end - start > MAX_FIELD_BYTES:
            raise InvalidRequest(f"The form field '{self._name}' is too long.", param=self._name)
        else:
            self._value.extend(data[start:end])

    def _on_part_end(self) -> None:
        if not self._in_file:
            self.fields[self._name] = self._value.decode("utf-8", "replace")

    def _on_end(self) -> None:
        self._ended = True


class Local:
    """What a form would hold of a file for batches that lies here."""

    def __init__(self, name: str, blocks: Iterator[bytes]) -> None:
        self.fields: dict[str, str] = {"purpose": "batch"}
        self.filename: str | None = name
        self.encoding: str | None = None
        self._blocks = blocks

    def file_blocks(self) -> Iterator[bytes]:
        """Its bytes."""
        return self._blocks


class Received(msgspec.Struct, frozen=True):
    """A file that arrived whole."""

    size: int
    sha256: str
    checker: Checker | None
    """What came of the check of its lines, still to be finished; None where it holds no batch."""


def receive(form: Form | Local, handle: BinaryIO, rules: Rules, max_bytes: int) -> Received:
    """Write a form's file to `handle`, checking each line on the way. Raises PayloadTooLarge, UnsupportedMedia."""
    digest, size = hashlib.sha256(), 0

    def through() -> Iterator[bytes]:
        nonlocal size
        for block in form.file_blocks():
            if size == 0:
                _refuse_compressed(form, block)
            size += len(block)
            if size > max_bytes:
                raise PayloadTooLarge(f"The file is larger than {max_bytes} bytes.", param="file")
            digest.update(block)
            handle.write(block)
            yield block

    stream, checker = through(), Checker(rules)
    first = next(stream, b"")
    if form.fields.get("purpose", "batch") == "batch":  # a purpose after the file is known only at the end
        checker.run(itertools.chain([first], stream))
    for _ in stream:  # what no line of a batch was looked for in
        pass
    return Received(size, digest.hexdigest(), checker if form.fields.get("purpose") == "batch" else None)


def _refuse_compressed(form: Form | Local, first: bytes) -> None:
    kind = form.encoding or next((name for magic, name in COMPRESSED.items() if first.startswith(magic)), None)
    if kind and form.fields.get("purpose", "batch") == "batch":
        raise UnsupportedMedia(f"The file is compressed ({shown(kind)}).", param="file", hint="Send the JSON lines themselves.")


def purpose_of(fields: dict[str, str]) -> str:
    """The form's purpose. Raises MissingParameter, InvalidRequest."""
    if "purpose" not in fields:
        raise MissingParameter("Missing required parameter: 'purpose'.", param="purpose")
    if fields["purpose"] not in PURPOSES:
        raise InvalidRequest(f"'purpose' must be one of {', '.join(PURPOSES)}.", param="purpose")
    return fields["purpose"]

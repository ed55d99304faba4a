"""What a server or a worker logs: a line an event, as text for people or as JSON for programs.

An event may say what it is about by `extra`: batch_id, chunk_id, pool, worker_id. In text these stand in the message already.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

FIELDS = ("batch_id", "chunk_id", "pool", "worker_id", "state", "reason")


class Logs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a server, a worker or a launcher logs, on stderr."""

    format: Annotated[Literal["text", "json"], Meta(description="`text`, or `json`: one object a line")] = "text"
    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="What is less grave is left out")] = "info"


class JsonLines(logging.Formatter):
    """One JSON object a line: `time` (UTC), `level`, `logger`, `message`, the fields that are known, `error` for a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        said |= {name: str(value) for name in FIELDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            said["error"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False)


def configure(logs: Logs, text: str) -> None:
    """Log as configured; `text`: the form of a line of text."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if logs.format == "json" else logging.Formatter(text))
    logging.basicConfig(level=logs.level.upper(), handlers=[handler])

"""A file and a batch as a fake server holds them, and as the API shows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from batchsched.lines import LineError, Request
from batchsched.server.options import NewBatch
from batchsched.testing.answering import Line
from batchsched.units import iso, to_unix

TERMINAL = frozenset({"failed", "completed", "expired", "cancelled"})
STAMPS = ("in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at")
_APART = ("deadline", "output_expires_after_s", "priority")


@dataclass
class HeldFile:
    """A file. `problem`: what is wrong with its lines, if it is to hold a batch."""

    id: str
    data: bytes
    filename: str
    purpose: str
    created_at: datetime
    expires_at: datetime | None
    problem: str | None = None

    def plain(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.data),
            "created_at": to_unix(self.created_at),
            "expires_at": to_unix(self.expires_at) if self.expires_at else None,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": self.problem,
        }


@dataclass
class HeldBatch:
    """A batch, and what of it is done, by the place of its request."""

    id: str
    new: NewBatch
    created_at: datetime
    deadline_at: datetime
    status: str = "validating"
    model: str | None = None
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    priority: int = 0
    errors: list[LineError] = field(default_factory=list[LineError])
    stamps: dict[str, datetime] = field(default_factory=dict[str, datetime])
    requests: list[Request] = field(default_factory=list[Request])
    done: dict[int, Line] = field(default_factory=dict[int, Line])
    output_file_id: str | None = None
    error_file_id: str | None = None
    paused_at: datetime | None = None
    started_at: datetime | None = None
    erased_at: datetime | None = None
    round: int = 0

    def move(self, status: str, now: datetime) -> None:
        """To another status, with its instant."""
        self.status = status
        self.stamps[f"{status}_at"] = now

    def again(self, deadline_at: datetime, now: datetime) -> None:
        """Another round, for what was not answered."""
        self.done = {place: line for place, line in self.done.items() if line.ok}
        self.round, self.deadline_at, self.stamps = self.round + 1, deadline_at, {}
        self.output_file_id = self.error_file_id = self.paused_at = self.started_at = None
        self.move("in_progress", now)

    def left(self) -> list[int]:
        """Places of requests that nothing has become of yet."""
        return [place for place in range(len(self.requests)) if place not in self.done]

    def plain(self) -> dict[str, Any]:
        """As the API shows it: without a verdict and without figures, for nobody plans and nobody measures."""
        completed = sum(line.ok for line in self.done.values())
        options = {key: value for key, value in self.new.stored_options().items() if key not in _APART}
        if options["models"]:
            options["models"] = list(dict.fromkeys([*([self.model] if self.model else []), *options["models"]]))
        given, cached, written = (sum(line.tokens[part] for line in self.done.values()) for part in range(3))
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.new.endpoint,
            "model": self.model,
            "errors": {"object": "list", "data": msgspec.to_builtins(self.errors)} if self.errors else None,
            "input_file_id": self.new.input_file_id,
            "completion_window": self.new.completion_window,
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": to_unix(self.created_at),
            "expires_at": to_unix(self.deadline_at),
            **{name: to_unix(self.stamps[name]) if name in self.stamps else None for name in STAMPS},
            "request_counts": {"total": len(self.requests), "completed": completed, "failed": len(self.done) - completed},
            "usage": {
                "input_tokens": given,
                "input_tokens_details": {"cached_tokens": cached},
                "output_tokens": written,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": given + written,
            },
            "metadata": self.metadata,
            "batchsched": {
                **options,
                "priority": self.priority,
                "deadline_at": iso(self.deadline_at),
                "paused_at": iso(self.paused_at) if self.paused_at else None,
                "started": {"since": iso(self.started_at), "planned_at": None} if self.started_at else None,
                "erased_at": iso(self.erased_at) if self.erased_at else None,
                "round": self.round,
                "verdict": None,
                "risk": None,
                "progress": self._progress(given, written),
                "carbon": None,
            },
        }

    def _progress(self, given: int, written: int) -> dict[str, Any]:
        ended = self.status in TERMINAL
        waiting = None if ended else "validation" if self.status == "validating" else "the test to have it worked on"
        return {
            "requests_done": len(self.done),
            "requests_total": len(self.requests),
            "input_tokens": given,
            "output_tokens": written,
            "tokens_per_s": None,
            "state": "done" if ended else "paused" if self.paused_at else "waiting",
            "waiting_for": waiting,
            "waiting_until": None,
            "stalled": False,
            "running_on": [],
            "latest_safe_start_at": None,
            "expected_finish_at": None,
        }

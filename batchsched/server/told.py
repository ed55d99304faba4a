"""What a server tells as spans (traces.py): of files how they came in, of batches how each was checked, judged and merged, and
how it ended."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from batchsched.clock import Clock
from batchsched.queue import batches
from batchsched.queue.database import Database
from batchsched.queue.rows import Row
from batchsched.queue.tenancy import ANY
from batchsched.traces import OPERATIONS, Place, Span, Tracer, Value, batch_place, file_place
from batchsched.units import iso

log = logging.getLogger(__name__)
Grams = Callable[[Row], Mapping[str, Any] | None]
_GOOD_ENDS = frozenset({"completed", "cancelled"})


class Told:
    """Of a server's files and batches. Nothing of it is needed for anything else: what goes wrong here stops nobody."""

    def __init__(self, tracer: Tracer, database: Database, clock: Clock, grams: Grams) -> None:
        """`grams`: energy and grams of a batch, as far as they are known."""
        self._tracer, self._database, self._clock, self._grams = tracer, database, clock, grams

    @property
    def on(self) -> bool:
        """Does anybody listen?"""
        return self._tracer.on

    def traceparent(self, batch: Row) -> str:
        """Under which its workers go on; empty where nobody listens."""
        return _places(batch)[0].traceparent if self.on else ""

    def uploaded(self, file: Row, traceparent: str, began_at: datetime) -> None:
        """A file is there, whole; `traceparent` came with it. What was refused or broke off is not told of: nothing was kept."""
        if not self.on:
            return
        place, above = file_place(file["id"], traceparent)
        about: dict[str, Value] = {
            "batchsched.file.id": file["id"],
            "batchsched.file.bytes": file["bytes"],
            "batchsched.file.purpose": file["purpose"],
        }
        problem = "invalid lines" if file["status_details"] else ""  # which may quote what the file says
        self._tracer.write(Span("upload", place, above, began_at, self._clock.now(), about, problem))

    @contextmanager
    def step(self, batch: Row, name: str) -> Generator[None]:
        """A step on its way. One that fails is not told of, for it is tried again."""
        if not self.on:
            yield
            return
        began_at = self._clock.now()
        yield
        self._step(batch, name, began_at, {})

    def judged(self, batch: Row, began_at: datetime, verdict: Mapping[str, Any]) -> None:
        """It got its verdict, with others or alone, in a time that ends now."""
        about = {
            "batchsched.verdict.feasible": verdict.get("feasible"),
            "batchsched.verdict.probability": verdict.get("probability"),
            "batchsched.verdict.grams": verdict.get("expected_grams"),
        }
        self._step(batch, "plan", began_at, about)

    def _step(self, batch: Row, name: str, began_at: datetime, about: Mapping[str, Value | None]) -> None:
        if self.on:
            place, _ = _places(batch)
            named = {"batchsched.batch.id": batch["id"], **about}
            self._tracer.write(Span(name, place.within(place.span_id, name), place, began_at, self._clock.now(), _known(named)))

    def ended(self, batch_id: str) -> None:
        """It is over: its own span, from its creation, or from its being retried."""
        if not self.on:
            return
        try:
            with self._database.read() as connection:
                row = batches.get(connection, batch_id, ANY)
            place, above = _places(row)
            began_at, ended_at = row["in_progress_at"] if row["round"] else row["created_at"], row[f"{row['state']}_at"]
            about = _about(row, self._grams(row) or {})
            self._tracer.write(Span("batch", place, above, began_at or row["created_at"], ended_at, about, _problem(row)))
        except Exception:  # whatever it is: the batch has ended, and is not to suffer for its story
            log.exception("The end of batch %s could not be told as a span.", batch_id)


def _places(batch: Row) -> tuple[Place, Place | None]:
    return batch_place(batch["id"], batch["options"].get("traceparent") or "", batch["round"])


def _about(row: Row, grams: Mapping[str, Any]) -> dict[str, Value]:
    """Names of the semantic conventions where they have one."""
    return _known(
        {
            "batchsched.batch.id": row["id"],
            "batchsched.batch.state": row["state"],
            "batchsched.file.id": row["input_file_id"],
            "batchsched.deadline_at": iso(row["deadline_at"]),
            "batchsched.requests": row["total"],
            "batchsched.requests.completed": row["completed"],
            "batchsched.requests.failed": row["failed"],
            "batchsched.energy_j": grams.get("energy_j") or None,  # nothing was measured: that is no zero
            "batchsched.grams": grams.get("grams"),
            "batchsched.grams_run_now": grams.get("grams_run_now"),
            "gen_ai.operation.name": OPERATIONS.get(row["endpoint"]),
            "gen_ai.request.model": row["model"],
            "gen_ai.usage.input_tokens": row["input_tokens"],
            "gen_ai.usage.output_tokens": row["output_tokens"],
        }
    )


def _known(about: Mapping[str, Value | None]) -> dict[str, Value]:
    return {name: value for name, value in about.items() if value is not None}


def _problem(row: Row) -> str:
    """By its code: a message may quote what the input says."""
    if row["state"] in _GOOD_ENDS:
        return ""
    codes = sorted({str(error["code"]) for error in row["errors"] or []})
    return f"{row['state']}: {', '.join(codes)}" if codes else str(row["state"])

"""The files and batches of a fake server, in memory, and how batches go their way."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import msgspec

from batchsched.clock import Clock, IdSource
from batchsched.errors import Conflict, IdempotencyMismatch, InvalidRequest, NotFound
from batchsched.lines import LineError, Request, iter_lines, parse, unanswered
from batchsched.lines.checking import Checker
from batchsched.lines.rules import Rules
from batchsched.server.options import Change, NewBatch, Retry, as_long_as_first, deadline_of, metadata_of, parse_new_batch
from batchsched.testing.answering import Answering, Line, line_of
from batchsched.testing.held import TERMINAL, HeldBatch, HeldFile

KEPT_FOR = timedelta(days=30)


class Books:
    """All files and batches. Not for several threads at once: whoever calls holds a lock."""

    def __init__(
        self,
        answering: Answering,
        models: tuple[str, ...],
        sites: Mapping[str, str],
        clock: Clock,
        ids: IdSource,
        rules: Rules,
        by_hand: bool,
    ) -> None:
        """`models`: () lets any pass. `sites`: with the zone of each. `by_hand`: nothing is answered before `work`."""
        self.answering, self.models, self.sites = answering, models, sites
        self._clock, self._ids, self._rules, self._by_hand = clock, ids, rules, by_hand
        self.files: dict[str, HeldFile] = {}
        self.batches: dict[str, HeldBatch] = {}
        self._keys: dict[str, tuple[tuple[bytes, bytes], str]] = {}

    @property
    def now(self) -> datetime:
        """The server's time."""
        return self._clock.now()

    @contextmanager
    def tried(self, *, dry_run: bool) -> Generator[None]:
        """What is done meanwhile is undone at the end where it was only to be seen."""
        before = copy.deepcopy((self.files, self.batches)) if dry_run else (self.files, self.batches)
        try:
            yield
        finally:
            self.files, self.batches = before

    def keep(self, data: bytes, filename: str, purpose: str, expires_after_s: int | None) -> HeldFile:
        """A file that was uploaded."""
        life = timedelta(seconds=expires_after_s) if expires_after_s else KEPT_FOR if purpose == "batch" else None
        problem = None
        if purpose == "batch":
            checker = self._checked(data, None, None)
            first = checker.errors[0] if checker.errors else None
            where = f"line {first.line}: " if first and first.line else ""
            problem = f"{checker.error_count} error(s); {where}{first.message}" if first else None
        held = HeldFile(
            self._ids.new("file").replace("_", "-"), data, filename, purpose, self.now, self.now + life if life else None, problem
        )
        self.files[held.id] = held
        return held

    def file(self, file_id: str) -> HeldFile:
        """Raises NotFound."""
        held = self.files.get(file_id)
        if held is None:
            raise NotFound(f"No such file: {file_id}.")
        return held

    def batch(self, batch_id: str) -> HeldBatch:
        """Raises NotFound."""
        held = self.batches.get(batch_id)
        if held is None:
            raise NotFound(f"No such batch: {batch_id}.")
        return held

    def delete_file(self, file_id: str) -> None:
        """Raises NotFound, Conflict."""
        self.file(file_id)
        if any(batch.new.input_file_id == file_id and batch.status not in TERMINAL for batch in self.batches.values()):
            raise Conflict(f"File {file_id} is the input of a batch that is not finished.", hint="Cancel the batch first.")
        del self.files[file_id]

    def create(self, body: Any, key: str | None) -> HeldBatch:
        """Raises InvalidRequest and its kin; IdempotencyMismatch."""
        asked = self._digest(body)
        if key and key in self._keys:
            known, batch_id = self._keys[key]
            if known != asked:
                raise IdempotencyMismatch
            return self.batches[batch_id]
        new = parse_new_batch(body, self.now)
        self._refuse_unknown(new)
        held = HeldBatch(self._ids.new("batch"), new, self.now, new.deadline_at)
        held.metadata, held.priority = new.metadata, new.options.priority
        self.batches[held.id] = held
        if key:
            self._keys[key] = (asked, held.id)
        source = self.files.get(new.input_file_id)
        if source is None or source.purpose != "batch":
            text = f"Cannot find file {new.input_file_id}."
            if source is not None:
                text = f"File {new.input_file_id} does not have the purpose 'batch'."
            self._fail(held, [LineError("invalid_request", text, None, "file_id")])
        return held

    def change(self, batch_id: str, change: Change) -> HeldBatch:
        """Raises InvalidRequest and its kin; NotFound, Conflict."""
        held = self._open(batch_id)
        if change.deadline is None and change.priority is None and change.metadata is None:
            raise InvalidRequest("Say what to change: 'deadline', 'priority' or 'metadata'.")
        if change.metadata is not None:
            held.metadata = metadata_of(change.metadata)
        if change.priority is not None:
            held.priority = change.priority
        if change.deadline is not None:
            held.deadline_at = deadline_of(change.deadline, self.now, "deadline")
        return held

    def cancel(self, batch_id: str) -> HeldBatch:
        """Raises NotFound, Conflict."""
        held = self.batch(batch_id)
        if held.status not in {"cancelling", "cancelled"}:
            if held.status not in {"validating", "in_progress"}:
                raise Conflict(f"Cannot cancel a batch with status '{held.status}'.")
            held.move("cancelling", self.now)
        return held

    def pause(self, batch_id: str, paused: bool) -> HeldBatch:
        """Or resume. Raises NotFound, Conflict."""
        held = self._open(batch_id)
        held.paused_at = (held.paused_at or self.now) if paused else None
        return held

    def start(self, batch_id: str) -> HeldBatch:
        """Raises NotFound, Conflict."""
        held = self._open(batch_id)
        held.started_at = held.started_at or self.now
        return held

    def retry(self, batch_id: str, retry: Retry) -> HeldBatch:
        """Another round for what failed or was left undone. Raises InvalidValue, NotFound, Conflict."""
        held = self.batch(batch_id)
        if held.status not in TERMINAL - {"failed"}:
            raise Conflict(f"A batch with status '{held.status}' cannot be retried.")
        if held.erased_at or held.new.input_file_id not in self.files:
            raise Conflict(f"The requests of batch {batch_id} are gone.", hint="Submit them as a new batch.")
        if all(line.ok for line in held.done.values()):
            raise Conflict("No request of this batch is without an answer; there is nothing to retry.")
        first = {"options": {"deadline": held.new.options.deadline}, "completion_window": held.new.completion_window}
        as_long = as_long_as_first({**first, "created_at": held.created_at}, self.now)
        held.again(as_long if retry.deadline is None else deadline_of(retry.deadline, self.now, "deadline"), self.now)
        return held

    def erase(self, batch_id: str) -> None:
        """Raises NotFound, Conflict."""
        held = self.batch(batch_id)
        if held.status not in TERMINAL:
            raise Conflict(f"Batch {batch_id} has not ended.", hint="Cancel the batch first.")
        for file_id in (held.output_file_id, held.error_file_id, held.new.input_file_id):
            self.files.pop(file_id or "", None)
        held.metadata, held.erased_at = {}, held.erased_at or self.now

    def settle(self) -> None:
        """Let every batch go on as far as it does by itself."""
        for held in list(self.batches.values()):
            if held.status == "validating":
                self._validate(held)
            if held.status == "cancelling":
                self._end(held, "cancelled", "batch_cancelled", "The batch was cancelled.")
            elif held.status == "in_progress":
                self._go_on(held)
        for file_id in [held.id for held in self.files.values() if held.expires_at and held.expires_at <= self.now]:
            if not any(batch.new.input_file_id == file_id and batch.status not in TERMINAL for batch in self.batches.values()):
                del self.files[file_id]

    def work(self, most: int | None) -> int:
        """Answer up to so many requests, of the oldest batch first; how many it were."""
        self.settle()
        count = 0
        for held in list(self.batches.values()):
            if held.status == "in_progress" and not held.paused_at:
                count += self._answer(held, None if most is None else most - count)
                self._go_on(held)
        return count

    def _go_on(self, held: HeldBatch) -> None:
        if self.now >= held.deadline_at and held.left() and held.new.options.on_deadline != "finish":
            self._end(held, "expired", "batch_expired", "The batch expired before this request was done.")
            return
        if not self._by_hand and not held.paused_at:
            self._answer(held, None)
        if not held.left():
            held.move("finalizing", self.now)
            self._end(held, "completed", "", "")

    def _answer(self, held: HeldBatch, most: int | None) -> int:
        places = list(islice(held.left(), most))
        for place in places:
            line_id = self._ids.new("batch_req")
            held.done[place] = line_of(held.requests[place], line_id, held.model or "", self.answering)
        return len(places)

    def _validate(self, held: HeldBatch) -> None:
        source = self.files[held.new.input_file_id]
        checker = self._checked(source.data, held.new.endpoint, self.models)
        held.model = checker.model
        if checker.errors:
            self._fail(held, checker.errors)
            return
        parsed = (parse(line.data, line.number) for line in iter_lines([source.data]))
        held.requests = [request for request in parsed if isinstance(request, Request)]
        held.move("in_progress", self.now)

    def _checked(self, data: bytes, endpoint: str | None, models: Iterable[str] | None) -> Checker:
        checker = Checker(self._rules, endpoint, dict.fromkeys(models) if models else None)
        checker.run([data])
        checker.finish(lambda: [data])
        return checker

    def _fail(self, held: HeldBatch, errors: list[LineError]) -> None:
        held.errors = errors
        held.move("failed", self.now)

    def _end(self, held: HeldBatch, status: str, code: str, message: str) -> None:
        """With its output and error files; what is left has the error of its end."""
        for place in held.left():
            line_id, custom_id = self._ids.new("batch_req"), held.requests[place].custom_id
            held.done[place] = Line(False, unanswered(line_id, custom_id, code, message))
        held.output_file_id = self._written(held, lambda line: line.ok)
        held.error_file_id = self._written(held, lambda line: not line.ok)
        held.move(status, self.now)

    def _written(self, held: HeldBatch, wanted: Callable[[Line], bool]) -> str | None:
        data = self.output(held, wanted)
        life_s = held.new.output_expires_after_s
        return self.keep(data, f"{held.id}.jsonl", "batch_output", life_s).id if data else None

    def output(self, held: HeldBatch, wanted: Callable[[Line], bool]) -> bytes:
        """Lines of what is done, in the order of the requests."""
        lines = (held.done[place] for place in sorted(held.done))
        return b"".join(line.data + b"\n" for line in lines if wanted(line))

    def _open(self, batch_id: str) -> HeldBatch:
        held = self.batch(batch_id)
        if held.status not in {"validating", "in_progress"}:
            raise Conflict(f"The batch is {held.status}.")
        return held

    def _refuse_unknown(self, new: NewBatch) -> None:
        for site in new.options.sites or []:
            if site not in self.sites:
                raise InvalidRequest(f"There is no site '{site}'; known: {', '.join(self.sites)}.", param="batchsched.sites")
        for zone in new.options.zones or []:
            if zone not in self.sites.values():
                raise InvalidRequest(f"No site lies in the zone '{zone}'.", param="batchsched.zones")
        for model in new.options.models or []:
            if self.models and model not in self.models:
                raise InvalidRequest(f"The model '{model}' is not served here.", param="batchsched.models")

    def _digest(self, body: Any) -> tuple[bytes, bytes]:
        """What a create asks for: its fields, and the content of its file."""
        fields = {key: value for key, value in body.items() if key != "input_file_id"} if isinstance(body, dict) else body
        source = self.files.get(str(body.get("input_file_id"))) if isinstance(body, dict) else None
        content = hashlib.sha256(source.data).digest() if source else msgspec.json.encode(body)
        return msgspec.json.encode(fields, order="deterministic"), content

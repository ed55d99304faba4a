"""From an uploaded file to chunks: by the facts that the upload left where they suit, else by reading the file again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from batchsched.clock import IdSource
from batchsched.lines import LineError
from batchsched.lines.checking import Checker, Facts
from batchsched.lines.rules import Rules
from batchsched.queue.store import Store


class Cut(msgspec.Struct, frozen=True):
    """The outcome. Where `errors` is not empty, the batch fails and the rest means nothing."""

    facts: Facts | None
    chunks: list[dict[str, Any]]
    errors: list[LineError]

    @property
    def columns(self) -> dict[str, Any]:
        """What the batch's row learns from it."""
        assert self.facts, "a cut with errors has no facts"
        facts = self.facts
        size = facts.cuts[-1][2] - facts.cuts[0][1]
        return {"model": facts.model, "total": facts.lines, "input_bytes": size, "max_tokens_total": facts.max_tokens_total}


class Cutter:
    """Cuts by `rules`: the same that the upload was checked by, unless the configuration changed meanwhile."""

    def __init__(self, store: Store, ids: IdSource, rules: Rules) -> None:
        self._store = store
        self._ids = ids
        self._rules = rules

    def cut(self, batch_id: str, file_id: str, known: Any, endpoint: str, models: Mapping[str, int | None] | None) -> Cut:
        """Hold a file against a batch, and cut it. `known`: the facts of the file's row, if it has any."""
        facts = _understood(known)
        if facts is None or not facts.suit(self._rules, endpoint, models):
            checker = Checker(self._rules, endpoint, models)
            checker.run(self._store.blocks(file_id))
            facts = checker.finish(lambda: self._store.blocks(file_id))
            if facts is None:
                return Cut(None, [], checker.errors)
        return Cut(facts, self._chunks(batch_id, facts), [])

    def _chunks(self, batch_id: str, facts: Facts) -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = []
        first_line = 1
        for position, (lines, start, end) in enumerate(facts.cuts):
            where = {"position": position, "first_line": first_line, "lines": lines, "byte_start": start, "byte_end": end}
            out.append({"id": self._ids.new("chunk"), "batch_id": batch_id, **where, "suspects": []})
            first_line += lines
        return out


def _understood(known: Any) -> Facts | None:
    """Facts as this version writes them; those of another are as good as none."""
    try:
        return msgspec.convert(known, Facts) if known else None
    except msgspec.ValidationError:
        return None

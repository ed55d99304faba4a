"""What a claim asks of the database: every worker asks about every second, so one statement more is paid for all day."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from batchsched.queue.hot import Hot
from tests.test_starts import Pool, make

__all__ = ["make"]
LEASED = {"": 11, "postgresql": 13}
"""Statements of a claim that gets a chunk, where one tenant has work, by the beginning of the setting; on PostgreSQL it takes its
turn, and looks for a newer plan then."""
IDLE = 6
"""Of one that finds nothing to do."""


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], list[str]]:
    """The statements that are run meanwhile, by whatever way."""
    found: list[str] = []
    run: Any = Hot._run  # pyright: ignore[reportPrivateUsage]

    def noted(self: Hot, connection: Connection, how: str, text: str, bound: Any) -> Any:
        found.append(text)
        return run(self, connection, how, text, bound)

    def executed(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        found.append(statement)

    def during(act: Callable[[], object]) -> list[str]:
        found.clear()
        event.listen(Engine, "before_cursor_execute", executed)
        try:
            act()
        finally:
            event.remove(Engine, "before_cursor_execute", executed)
        return [text for text in found if not text.startswith(("BEGIN", "PRAGMA"))]

    monkeypatch.setattr(Hot, "_run", noted)
    return during


def test_a_claim_asks_no_more_than_it_must(
    make: Callable[..., Pool], database_url: str, counted: Callable[[Callable[[], object]], list[str]]
) -> None:
    local = make(database_url)
    worker = local.worker()
    nothing = counted(lambda: local.ask(worker, "tiny"))
    assert len(nothing) == IDLE, nothing
    local.submit(15, now=True)
    answers: list[dict[str, Any]] = []
    asked = counted(lambda: answers.append(local.ask(worker, "tiny")))
    assert len(answers[0]["leases"]) == 1
    assert len(asked) == LEASED[database_url[:10]], asked

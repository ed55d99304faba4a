"""What profiles learn from the ledger: read on, it is what it would be read anew."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from batchsched.profiles import entries
from batchsched.profiles.entries import Entries
from batchsched.profiles.measured import Observation, observations_of, pieces_of

AT = datetime(2026, 5, 1, tzinfo=UTC)


def entry(number: int, chunk: int = 0, at_s: float = 0.0, busy_s: float = 10.0, **values: Any) -> dict[str, Any]:
    """Of the ledger: eight answers."""
    at = AT + timedelta(seconds=at_s)
    return {
        "id": number, "chunk_id": f"c{chunk}", "model": "m", "pool": "p", "started_at": at,
        "ended_at": at + timedelta(seconds=busy_s), "busy_s": busy_s, "requests": 8, "input_tokens": 100, "output_tokens": 50,
        "energy_source": "rapl", "startup_s": 0.0, "energy_j": 1000.0, **values,
    }  # fmt: skip


def test_a_chunk_is_seen_in_stretches_of_ten_minutes_and_in_pieces() -> None:
    rows = [entry(n + 1, at_s=10.0 * n) for n in range(1, 91)]
    start = entry(1, at_s=-30.0, busy_s=30.0, startup_s=30.0)
    seen = Entries(pieces=True).with_more([start, *rows]).observations
    stays = [one for one in seen if not one.piece and one.startup_s is None]
    assert [one.startup_s for one in seen if one.startup_s] == [30.0]
    assert [one.busy_s for one in stays] == [560.0, 340.0]  # counted from where its engine began to start
    assert sum(one.input_tokens for one in stays) == 9000
    assert [one for one in seen if one.piece] == pieces_of(rows)
    assert not any(one.piece for one in Entries(pieces=False).with_more(rows).observations)


def test_what_may_still_grow_is_read_again() -> None:
    old, new = entry(1), entry(2, at_s=3600.0)
    known = Entries(pieces=False).with_more([old, new])
    assert known.after == 1
    grown = {**new, "busy_s": 20.0, "ended_at": new["ended_at"] + timedelta(seconds=10)}
    assert [one.busy_s for one in known.with_more([grown]).observations] == [10.0, 20.0]
    assert [one.busy_s for one in known.observations] == [10.0, 10.0]  # somebody may still look at it


def everything(rows: list[dict[str, Any]]) -> list[Observation]:
    """As it was read at once, before it was read on."""
    newest = rows[-entries.MOST :]
    late = sorted((r for r in rows[-entries.LATELY :] if r["startup_s"] <= 0), key=lambda r: (r["ended_at"], r["id"]))
    groups: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for row in newest:
        began = min(r["started_at"] for r in newest if r["chunk_id"] == row["chunk_id"])
        stretch = int((row["started_at"] - began).total_seconds()) // 600
        groups.setdefault((row["chunk_id"], stretch, row["id"] if row["startup_s"] > 0 else 0), []).append(row)
    summed = [
        {**group[0], "ended_at": max(r["ended_at"] for r in group), "startup_s": max(r["startup_s"] for r in group)}
        | {name: sum(r[name] for r in group) for name in ("busy_s", "energy_j", "input_tokens", "output_tokens")}
        for group in groups.values()
    ]
    return observations_of(summed) + pieces_of(late)


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 900), st.integers(1, 60), st.booleans(), st.booleans()),
        min_size=1,
        max_size=60,
    )
)
def test_read_on_it_is_what_it_is_read_anew(drawn: list[tuple[int, int, int, bool, bool]]) -> None:
    """Entries of six chunks come one after the other, in groups, with few that are kept."""
    rows: list[dict[str, Any]] = []
    known, at_s = Entries(pieces=True), 0.0
    with_few = {"MOST": 20, "LATELY": 12}
    before = {name: getattr(entries, name) for name in with_few}
    for name, value in with_few.items():
        setattr(entries, name, value)
    try:
        for number, (chunk, pause_s, busy_s, starts, is_look) in enumerate(drawn, 1):
            at_s += pause_s
            rows.append(entry(number, chunk, at_s, float(busy_s), startup_s=5.0 if starts else 0.0))
            at_s += busy_s
            if is_look:
                known = known.with_more([row for row in rows if row["id"] > known.after][-entries.MOST :])
                assert sorted(known.observations, key=repr) == sorted(everything(rows), key=repr)
    finally:
        for name, value in before.items():
            setattr(entries, name, value)

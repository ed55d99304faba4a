"""All that a simulation decided and what came of it, line by line, so that two runs can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from batchsched.published import Published
from batchsched.simulate.outcome import Work

TABLES = ("decisions", "leases", "completions", "work")
ABOUT = "about.json"


class Decision(msgspec.Struct, frozen=True):
    """What a plan had for a batch on a pool in a slot. Seconds count from the start of the simulation."""

    plan: int
    made_s: float
    batch: str
    pool: str
    start_s: float
    end_s: float
    requests: float
    seconds: float


class Leased(msgspec.Struct, frozen=True):
    """What became of a lease. `requests`: recorded by then, of this message."""

    at_s: float
    what: str
    batch: str
    chunk: str
    token: int
    replica: str
    requests: float


class Completion(msgspec.Struct, frozen=True):
    """A batch at its end. `feasible`, `probability`, `expected_grams`: its verdict when it came. `times`: how many times what was
    expected then its work took, where that was most beside `allowed`, which its confidence leaves room for; None where it was
    never planned, or ran on others' servers alone. `stops`: engines that died under it, and outages of its pools meanwhile."""

    batch: str
    model: str
    requests: int
    came_s: float
    deadline_s: float
    finished_s: float | None
    feasible: bool
    probability: float
    expected_grams: float | None
    grams: float
    times: float | None = None
    allowed: float | None = None
    stops: int = 0

    @property
    def excused(self) -> bool:
        """Did more go wrong than was left room for? A batch that is late without that should not be."""
        return self.stops > 0 or (self.times is not None and self.allowed is not None and self.times > self.allowed)


KINDS: dict[str, type[msgspec.Struct]] = dict(zip(TABLES, (Decision, Leased, Completion, Work), strict=True))
"""What a row of each table is."""


class Records:
    """Tables of a simulation."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self.leases: list[Leased] = []
        self.completions: list[Completion] = []

    def plan(self, published: Published, made_s: float, names: dict[str, str]) -> None:
        """Keep a plan. `names`: of batches in the scene."""
        self.decisions += [
            Decision(
                published.id,
                made_s,
                names.get(a.batch_id, a.batch_id),
                a.pool,
                made_s + a.start_s,
                made_s + a.end_s,
                a.requests,
                a.seconds,
            )
            for a in published.plan.allotments
        ]

    def write(self, folder: Path, work: list[Any], about: Mapping[str, Any] | None = None) -> list[Path]:
        """One Parquet file a table; their paths. `work`: of the outcome; `about`: what it was a run of, kept in about.json."""
        import pandas as pd

        folder.mkdir(parents=True, exist_ok=True)
        (folder / ABOUT).write_bytes(msgspec.json.encode(about or {}))
        rows: dict[str, list[Any]] = {name: getattr(self, name, work) for name in TABLES}
        paths: list[Path] = []
        for name, found in rows.items():
            paths.append(folder / f"{name}.parquet")
            columns = [*KINDS[name].__struct_fields__]
            pd.DataFrame([msgspec.structs.asdict(row) for row in found], columns=columns).to_parquet(paths[-1], index=False)
        return paths

"""A little chaos; `make chaos` is the long one."""

from __future__ import annotations

import pytest

from tests.chaos import scene


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_nothing_is_lost_and_nothing_acknowledged_runs_again(database: str, request: pytest.FixtureRequest) -> None:
    if database == "postgresql":
        request.getfixturevalue("postgres")  # says so loudly where there is none
    outcome = scene(database, seed=7, kills=8)
    assert outcome["kills"] >= 8
    assert (outcome["lost"], outcome["redone"]) == (0, 0)

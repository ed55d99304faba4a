"""Commands of `batchsched`, run in this process."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batchsched.cli.main import main


def call(*arguments: str) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert isinstance(stop.value.code, int)
    return stop.value.code


def checks(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    """What `doctor --json` has just printed, by check. What is not in order comes with what to do about it, and nothing else."""
    found = json.loads(capsys.readouterr().out)["checks"]
    for one in found:
        assert bool(one["next_step"]) == (one["level"] != "ok"), one
    assert len({one["check"] for one in found}) == len(found)
    return {one["check"]: one for one in found}

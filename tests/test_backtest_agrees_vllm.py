"""The short day of test_backtest_agrees.py with the real vLLM and the tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchsched.executors.engine import VllmEngine
from tests.processes import Stage
from tests.test_backtest_agrees import SHORT, agree


@pytest.mark.engine
@pytest.mark.long  # it goes by the clock of the wall: beside other tests a machine that stalls for a moment would fail it
def test_a_short_day_with_a_real_engine(tmp_path: Path, vllm: VllmEngine) -> None:
    with Stage(tmp_path) as stage:
        stage.engine_url = vllm.url
        agree(stage, SHORT)

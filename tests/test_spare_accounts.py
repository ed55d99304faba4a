"""Work in an online service's spare capacity is charged what it added; the full share stands beside it."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import insert

from batchsched.carbon.ledger import account, total
from batchsched.cli.common import grams
from batchsched.client.results import Report
from batchsched.clock import ManualClock
from batchsched.fleet import GPU_TYPES
from batchsched.queue import tables
from tests.inprocess import in_process
from tests.test_carbon_ledger import KWH, baseline, entry, truth
from tests.test_newest import AT, span
from tests.test_queue_contract import add_batch
from tests.test_spare_hours import FLEET


def test_the_full_share_stands_beside_what_was_added() -> None:
    shared = entry(energy_j=KWH / 4, attributed_j=KWH)
    own = account([entry()], truth, baseline(), "whole_life")
    both = account([shared, entry()], truth, baseline(), "whole_life")
    assert own.attributed is None
    assert both.operational_g == pytest.approx(1.25 * 1.2 * 400)
    assert both.embodied_g == own.embodied_g  # the online service made its servers
    assert both.attributed is not None
    assert both.attributed.operational_g == pytest.approx(2 * 1.2 * 400)
    assert both.attributed.energy_j == 2 * KWH
    assert both.attributed.embodied_g is not None
    assert own.embodied_g is not None
    assert both.attributed.embodied_g.mid == pytest.approx(2 * own.embodied_g.mid)
    assert any("spare capacity" in note for note in both.notes)
    summed = total([both, own]).attributed
    assert summed is not None
    assert summed.operational_g == pytest.approx(3 * 1.2 * 400)
    alone = account([shared], truth, None, "whole_life")
    assert alone.embodied_g is not None
    assert alone.embodied_g.high == 0


def test_a_report_charges_watts_above_idle_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from batchsched.cli.report import show_report

    idle_w = GPU_TYPES["L4"].idle_w
    usual: dict[str, Any] = {"tenant": "t", "pool": "online", "energy_source": "nvml_counter", "startup_s": 0.0}
    rows = [
        span(1, energy_j=3000.0, host_j=500.0, host_source="modelled", **usual),
        span(2, energy_j=3000.0, host_j=70.0, host_source="rapl", **usual),
    ]
    text = FLEET.replace('zone = "DE"', 'zone = "WORLD"')
    with in_process() as make, closing(make(tmp_path, ManualClock(AT + timedelta(hours=1)), text)) as server:
        add_batch(server.runtime.database, state="completed", total=10, input_bytes=5500)
        with server.runtime.database.write() as connection:
            connection.execute(insert(tables.ledger), rows)
        told = server.runtime.reports.report("b", "t")
        spent_g = server.runtime.reports.grams_since("t", AT)
    added_j = 2 * (3000 - 60 * idle_w) + 570
    assert told["energy_j"] == pytest.approx(added_j)
    assert told["attributed"]["energy_j"] == pytest.approx(6570)
    assert told["embodied_g"]["high"] == 0
    assert told["baseline"]["terms"]["borrowed"]  # there is no other pool
    assert "as if its machines were not on for others" in told["baseline"]["description"]
    assert any("no pool of its own" in note for note in told["notes"])
    assert told["saving"]["spare_g"] == pytest.approx(told["attributed"]["operational_g"] - told["operational_g"])
    assert told["attributed"]["embodied_g"]["low"] > 0
    assert told["operational_g"] < told["attributed"]["operational_g"]
    assert spent_g == pytest.approx(told["operational_g"], rel=0.01)
    report = msgspec.convert(told, Report)
    show_report(report)
    assert report.attributed
    assert grams(report.attributed.operational_g) in capsys.readouterr().out

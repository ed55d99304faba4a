"""What a saving came from: shares that add up, and that are right where only one choice was made."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsched.carbon.hardware import Range
from batchsched.carbon.ledger import account, total
from batchsched.carbon.report import Entry, Report, Saving
from batchsched.carbon.savings import with_embodied_g, with_saving
from tests.test_carbon_ledger import HOUR, KWH, NOW, baseline, entry, truth


def report_of(entries: list[Entry], at_once_j: list[float], **changes: Any) -> Report:
    terms = baseline(energy_j=sum(at_once_j), **changes)
    return with_saving(account(entries, truth, terms), entries, at_once_j, truth)


def shares(report: Report) -> tuple[float, ...]:
    assert report.saving
    return report.saving.time_g, report.saving.place_g, report.saving.gpu_g, report.saving.spare_g


@pytest.mark.parametrize(
    ("changes", "at_once_j", "which"),
    [
        ({"started_at": NOW + HOUR, "ended_at": NOW + 2 * HOUR}, KWH, 0),
        ({"zone": "SE", "pue": 1.1}, KWH, 1),
        ({}, 2 * KWH, 2),
        ({"attributed_j": KWH, "energy_j": KWH / 4}, KWH, 3),
    ],
)
def test_one_choice_takes_all_of_it(changes: dict[str, Any], at_once_j: float, which: int) -> None:
    report = report_of([entry(**changes)], [at_once_j])
    assert report.saved_g
    assert shares(report) == pytest.approx([report.saved_g if choice == which else 0.0 for choice in range(4)])


def test_two_choices_share_what_they_save_together() -> None:
    # 480 g at once; later alone 240, in SE alone 48, both 24.
    report = report_of([entry(1, zone="SE")], [KWH])
    assert shares(report)[:2] == pytest.approx([(240 + 24) / 2, (432 + 216) / 2])


def test_a_choice_may_cost() -> None:
    report = report_of([entry(energy_j=3 * KWH, zone="SE")], [KWH])
    assert report.saving
    assert report.saving.gpu_g < 0 < report.saving.place_g


PARTS = st.lists(
    st.tuples(st.sampled_from(["DE", "SE", "NULL"]), st.integers(0, 3), st.floats(0, 1e8), st.floats(0, 1e8)),
    min_size=1, max_size=6,
)  # fmt: skip


@given(PARTS)
def test_the_shares_add_up_to_the_saving(parts: list[tuple[str, int, float, float]]) -> None:
    entries = [entry(hour, zone=zone, energy_j=used_j, attributed_j=2 * used_j) for zone, hour, used_j, _ in parts]
    report = report_of(entries, [at_once_j for *_, at_once_j in parts])
    assert report.saved_g is not None
    assert sum(shares(report)) == pytest.approx(report.saved_g, abs=1e-6)


def test_what_nobody_knows_is_not_taken_apart() -> None:
    dark_home = report_of([entry()], [KWH], zone="DARK")
    assert (dark_home.saved_g, dark_home.saving) == (None, None)
    assert with_saving(account([entry()], truth, None), [entry()], [KWH], truth).saving is None

    def dark_before(zone: str, start: Any, end: Any) -> Any:
        return truth("DARK" if zone == "SE" and start < NOW + HOUR else zone, start, end)

    entries = [entry(1, zone="SE")]  # its hour is known, the baseline's hour there is not
    report = account(entries, dark_before, baseline(energy_j=KWH))
    assert report.saved_g is not None
    assert with_saving(report, entries, [KWH], dark_before).saving is None


def test_embodied_carbon_widens_the_figure() -> None:
    assert with_embodied_g(10, Range(1, 2, 3), Range(0, 0, 0)) == Range(11, 12, 13)
    assert with_embodied_g(10, Range(0, 0, 0), Range(1, 2, 20)) == Range(-10, 8, 9)
    report = account([entry()], truth, baseline())
    assert report.embodied_g
    assert report.baseline
    assert report.baseline.embodied_g
    assert report.saved_g
    assert report.saved_with_embodied_g
    assert report.saved_with_embodied_g.mid == pytest.approx(
        report.saved_g + report.baseline.embodied_g.mid - report.embodied_g.mid
    )
    assert account([entry(gpu="H200")], truth, baseline()).saved_with_embodied_g is None


def test_totals_add_up() -> None:
    one, two = report_of([entry(1)], [KWH]), report_of([entry(zone="SE")], [KWH])
    both = total([one, two])
    assert one.saving
    assert two.saving
    assert both.saving == one.saving + two.saving
    assert both.saved_g == pytest.approx(sum(shares(both)))
    assert one.saved_with_embodied_g
    assert two.saved_with_embodied_g
    assert both.saved_with_embodied_g == one.saved_with_embodied_g + two.saved_with_embodied_g
    assert total([one, account([entry()], truth, None)]).saving is None
    assert Saving(1, 2, 3, 4) + Saving(1, 1, 1, 1) == Saving(2, 3, 4, 5)

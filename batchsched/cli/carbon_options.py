"""What the commands of `batchsched carbon` share: options, and figures as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from batchsched.cli.named_files import NewFile

if TYPE_CHECKING:
    from batchsched.carbon.hardware import Range
    from batchsched.catalogue import Sourced

MODELS = ("published", "sc23", "act", "ecoserve", "greenllm_table1", "vendor")
model_option = click.option("--model", type=click.Choice(MODELS), help="The embodied model [default: from the configuration].")

# What people read of a cell, and its unit.
CELLS = {
    "die_mm2": ("die", "mm2"),
    "node_nm": ("process node", "nm"),
    "memory_gb": ("memory", "GB"),
    "memory_kind": ("kind of memory", ""),
    "bandwidth_gb_per_s": ("memory bandwidth", "GB/s"),
    "tdp_w": ("power limit", "W"),
    "idle_w": ("idle power", "W"),
    "fp16_tflops": ("FP16, ordinary cores", "TFLOP/s"),
    "fp16_tensor_tflops": ("FP16, tensor cores", "TFLOP/s"),
    "fp32_tflops": ("FP32", "TFLOP/s"),
    "compute_capability": ("compute capability", ""),
    "embodied_kg": ("embodied, whole device", "kg"),
    "die_kg": ("embodied, die alone", "kg"),
    "gpu_slots": ("GPU slots", ""),
    "dram_gb": ("DRAM", "GB"),
    "ssd_gb": ("disks", "GB"),
    "power_w": ("power", "W"),
    "per": ("a unit is a", ""),
    "kg": ("embodied", "kg"),
    "low_kg": ("published, low", "kg"),
    "mid_kg": ("published, mid", "kg"),
    "high_kg": ("published, high", "kg"),
    "w_per_unit": ("draws", "W"),
}


picture_option = click.option("--plot", type=NewFile(), help="Also write an image (.svg or .png); - is SVG to stdout.")


def number(cell: Sourced[Any] | None, form: str = "g") -> str:
    """A figure for people; `?` where it is unknown."""
    return "?" if cell is None else f"{cell.value:{form}}" if isinstance(cell.value, float) else str(cell.value)


def form_of(name: str) -> str:
    """How a cell is written: versions such as 8.0 keep their digit."""
    return ".1f" if name == "compute_capability" else "g"


def claims(cell: Sourced[Any] | None, unit: str, notes: bool = True, form: str = "g") -> str:
    """Every claim of a cell with its source."""
    if cell is None:
        return "unknown"
    return "; ".join(f"{number(one, form)} {unit}".rstrip() + _whose(one, notes) for one in cell.all)


def _whose(one: Sourced[Any], notes: bool) -> str:
    said = [one.source, *([one.note] if notes and one.note else [])]
    return f" [{', '.join(said)}]" if one.source else ""


def three(kg: Range | None) -> str:
    """Low / mid / high for people."""
    return f"{kg.low:.4g} / {kg.mid:.4g} / {kg.high:.4g}" if kg else "unknown"

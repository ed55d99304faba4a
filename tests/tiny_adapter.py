"""Make a LoRA adapter of the tiny model: `python tests/tiny_adapter.py FOLDER`, in the engine's environment (torch, safetensors).

Its weights are random but large, so that answers under its name differ from those of the model alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

RANK, HIDDEN = 8, 256


def make(folder: Path) -> None:
    """Write the adapter's two files."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(1)
    folder.mkdir(parents=True, exist_ok=True)
    name = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    weights = {}
    for layer in (0, 1):
        weights[name.format(layer, "A")] = torch.randn(RANK, HIDDEN)
        weights[name.format(layer, "B")] = torch.randn(HIDDEN, RANK)
    save_file(weights, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config), "utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]))

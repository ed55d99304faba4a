"""What a target's vLLM is started with so that it takes its drafts from a draft service."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from batchsched.executors.in_engine.batchsched_drafts import ADDRESS, ALWAYS, CLASS, KEY, TOLD

FOLDER = Path(__file__).resolve().parent.parent / "in_engine"
"""All that the engine's Python may import of us."""


def target_args(tokens: int) -> list[str]:
    """Flags of the target: `tokens` drafted at a time. The draft model must have the target's tokenizer."""
    return ["--speculative-config", json.dumps({"method": "custom_class", "model": CLASS, "num_speculative_tokens": tokens})]


def target_environment(
    address: str, key: str = "", told: Path | None = None, *, always: bool = False, base: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The target's environment, over `base`. `address`: the service, host:port; `told`: the file for the proposer's counters.

    `always`: it never switches itself off, which only an experiment wants.
    """
    path = os.pathsep.join(part for part in (str(FOLDER), base.get("PYTHONPATH", "")) if part)
    wanted = {"PYTHONPATH": path, ADDRESS: address, KEY: key}
    if told is not None:
        wanted[TOLD] = str(told)
    return wanted | ({ALWAYS: "1"} if always else {})

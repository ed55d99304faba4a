"""What the demo stands on: its example forecast and configuration, and the check of its answers."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from batchsched.errors import EngineFailed, ServerError
from batchsched.units import iso

PROVIDER = "example forecast (demo)"
SLOT_S = 20
# gCO2e/kWh, one a slot; the shape of a breezy afternoon, squeezed into minutes. Made up, and called so wherever it shows.
# In the north the wind comes at the same time and blows harder, for half as long.
HOME = (600, 630, 640, 610, 90, 95, 110, 130, 520, 580, 600, 620, 640, 640, 620, 600, 590, 580, 570, 560, 550, 540, 530, 520)
NORTH = (480, 490, 500, 480, 40, 45, 420, 430, 440, 450, 460, 470, 480, 490, 480, 470, 460, 460, 450, 450, 440, 440, 430, 430)
AFTER = 48
"""Slots after these, at the last one's intensity: on a busy machine work goes on into them."""
ZONES = {"EXAMPLE-HOME": HOME, "EXAMPLE-NORTH": NORTH}
CAME_TRUE = (1.03, 0.98, 1.01, 0.97)
SPREAD = (0.85, 0.95, 1.0, 1.05, 1.15)
POOLS = ("home", "north")


def clean_folder(folder: Path) -> Path:
    """The folder, with what an earlier demo left in it removed, and nothing else."""
    for name in ("server", "run", "engine", "worker"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for log in folder.glob("*.log"):
        log.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def make_model(command: list[str]) -> None:
    """Let the engine's own Python make the tiny model. Raises EngineFailed with its last words."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise EngineFailed(
            f"The tiny model could not be made by {command[0]}: {last}",
            hint="Packages there may not fit together, such as torchvision of another PyTorch: make that environment anew, or "
            f"uv pip uninstall --python {command[0]} torchvision torchaudio torchcodec (models of text need none of them).",
        )


def read_requests(file: Path) -> dict[str, dict[str, Any]]:
    """The bodies of a batch file's requests by custom_id."""
    lines = (json.loads(line) for line in file.read_text("utf-8").splitlines() if line.strip())
    return {line["custom_id"]: line["body"] for line in lines}


def clean_in_s() -> float:
    """Seconds from now to the first clean slot of a forecast that begins with this slot."""
    return left_of_slot_s() + (next(i for i, value in enumerate(HOME) if value < 200) - 1) * SLOT_S


def left_of_slot_s() -> float:
    """Seconds until the slot that we are in is over; slots begin at whole multiples of their length."""
    return SLOT_S - time.time() % SLOT_S


def write_set(folder: Path, model: str, path: Path, gpu: str = "cpu") -> Path:
    """Write the example forecast and the configuration; the path of the latter."""
    from batchsched.cli import toml

    (folder / "forecast.csv").write_text(forecast_csv(datetime.now(UTC)), "utf-8")
    config = folder / "batchsched.toml"
    pool = {"kind": "cpu" if gpu == "cpu" else "dedicated", "gpu": gpu, "max_in_flight": 64}
    tree = {
        "server": {"data_dir": str(folder / "server"), "chunk_lines": 32, "lease_s": 20.0},
        "worker": {"state_dir": str(folder / "worker")},
        "forecast": {"source": "file", "path": "forecast.csv"},
        "planner": {"slot_s": SLOT_S, "long_slot_s": SLOT_S, "fine_h": 0.1, "horizon_h": 0.12, "replan_s": 5.0, "solve_s": 1.0},
        "sites": {
            "home": {"zone": "EXAMPLE-HOME", "pue": 1.2},
            "north": {"zone": "EXAMPLE-NORTH", "pue": 1.2, "simulated": True},
        },
        "pools": {name: {"site": name, **pool} for name in POOLS},
        "models": {model: {"path": str(path.resolve()), "max_model_len": 2048}},
    }
    config.write_text(toml.dumps(tree), "utf-8")
    return config


def forecast_csv(now: datetime) -> str:
    """The example forecast, issued now: for each slot what is expected, how surely, and what will have come true."""
    first = datetime.fromtimestamp(now.timestamp() // SLOT_S * SLOT_S, UTC)
    rows = [f"# provider: {PROVIDER}", "# signal: average direct"]
    rows.append("zone,start,end,issued_at,mean,q05,q25,q50,q75,q95,realised")
    for zone, means in ZONES.items():
        for i, mean in enumerate([*means, *means[-1:] * AFTER]):
            start = first + timedelta(seconds=i * SLOT_S)
            end, truth = start + timedelta(seconds=SLOT_S), mean * CAME_TRUE[i % len(CAME_TRUE)]
            spread = ",".join(f"{mean * factor:.0f}" for factor in SPREAD)
            rows.append(f"{zone},{iso(start)},{iso(end)},{iso(first)},{mean},{spread},{truth:.0f}")
    return "\n".join(rows) + "\n"


class Check:
    """Holds answers against the requests that they claim to answer."""

    def __init__(self, requests: dict[str, dict[str, Any]], tokens: Callable[[Any], int]) -> None:
        self._requests = requests
        self._prompt_tokens = {custom_id: tokens(body["messages"]) for custom_id, body in requests.items()}

    def lines(self, text: str) -> int:
        """How many answers an output file has: one for each request, for that prompt, within its limit. Raises ServerError."""
        lines = [json.loads(line) for line in text.splitlines()]
        ids = [line["custom_id"] for line in lines]
        if sorted(ids) != sorted(self._requests):
            raise ServerError(f"The output has {len(ids)} lines for {len(self._requests)} requests, or wrong custom_ids.")
        for line in lines:
            custom_id, answer = line["custom_id"], line["response"]
            if line["error"] or answer["status_code"] != 200:
                raise ServerError(f"{custom_id} failed: {line['error'] or answer['body']}.")
            usage = answer["body"]["usage"]
            if usage["prompt_tokens"] != self._prompt_tokens[custom_id]:
                raise ServerError(f"{custom_id} has the answer to another prompt.")
            if not 0 < usage["completion_tokens"] <= self._requests[custom_id]["max_tokens"]:
                raise ServerError(f"{custom_id} has {usage['completion_tokens']} tokens, not 1 to its limit.")
        return len(lines)


def tokens_by(engine_url: str, model: str) -> Callable[[Any], int]:
    """How many tokens the engine itself makes of a conversation."""
    import httpx

    def tokens(messages: Any) -> int:
        answer = httpx.post(f"{engine_url}/tokenize", json={"model": model, "messages": messages}, timeout=30.0)
        if answer.status_code != 200:
            raise EngineFailed(f"The engine cannot count tokens: {answer.status_code}.")
        return int(answer.json()["count"])

    return tokens

"""How an engine is started that hands keys and values of prompts to another, or takes them: vLLM's flags and environment."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Literal, NamedTuple

from batchsched.errors import EngineFailed
from batchsched.executors.engine_home import EngineHome
from batchsched.executors.handoff import LEASE_S
from batchsched.executors.launch import build_of
from batchsched.hosts import is_loopback

FLAG = "--kv-transfer-config"
_HOST, _PORT = "VLLM_NIXL_SIDE_CHANNEL_HOST", "VLLM_NIXL_SIDE_CHANNEL_PORT"
_HERE = "127.0.0.1"
_NIXL = "import importlib.util as u, sys; sys.exit(not (u.find_spec('nixl') and u.find_spec('vllm')))"


class Role(NamedTuple):
    """Its part in the hand-over. `host`: the address of this machine at which the other side reaches it; `other`: that of the
    other side, as far as it is known here."""

    side: Literal["kv_producer", "kv_consumer"]
    host: str = _HERE
    other: str = _HERE

    @property
    def near(self) -> bool:
        """Are both sides on this machine?"""
        return is_loopback(self.host) and is_loopback(self.other)


def flags(home: EngineHome, role: Role) -> list[str]:
    """Of its command line. Raises EngineFailed where this vLLM cannot do it, or lacks what it does it with."""
    build = build_of(home)
    if not build.has("flag", FLAG):
        raise EngineFailed(
            f"{build.describe()} is not known to hand prompts' keys and values to another engine.",
            hint="Use vLLM 0.32 or newer for both pools of the mode (docs/modes.md).",
        )
    if subprocess.run([home.python, "-c", _NIXL], cwd="/", capture_output=True, check=False, timeout=60).returncode:
        raise EngineFailed(
            f"The environment of {home.python} has no nixl, by which vLLM sends keys and values.",
            hint=f"In a clone: `make modes-env`. Elsewhere: {home.python} -m pip install --no-deps nixl nixl-cu12.",
        )
    config = {
        "kv_connector": build.facts("flag")[FLAG],
        "kv_role": role.side,
        "kv_buffer_device": "cpu" if home.device == "cpu" else "cuda",
        "kv_load_failure_policy": "recompute",  # what cannot be read any more is computed here: no request is lost for it
        "kv_connector_extra_config": {"kv_lease_duration": LEASE_S},
    }
    return [FLAG, json.dumps(config, separators=(",", ":")), *([] if is_loopback(role.host) else ["--host", role.host])]


def environment(home: EngineHome, role: Role, port: int, base: Sequence[str] = ()) -> dict[str, str]:
    """Of its environment; what `base` names is set already. `port`: a free one, for the two to find each other."""
    known = build_of(home).facts("environment")
    wanted = {_HOST: role.host, _PORT: str(port)}
    if home.device == "cpu":
        wanted["UCX_TLS"] = known.get("UCX_TLS", "")
        if role.near:
            wanted["UCX_NET_DEVICES"] = known.get("UCX_NET_DEVICES", "")
    return {name: value for name, value in wanted.items() if name in known and value and name not in base}

"""`batchsched profile run` in each mode of serving, real engines, from an empty folder to the server; then all side by side."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from batchsched.wire import PREFIX
from benchmarks.modes_engines import tiny_models
from tests.live import live_server
from tests.processes import BATCHSCHED, ROOT, free_port
from tests.test_partner_vllm import PartnerProcess
from tests.test_split_vllm import nixl_home

pytestmark = [pytest.mark.engine, pytest.mark.long, pytest.mark.timeout(2400)]
FEW = ["--workload=sharegpt", "--size=p25", "--rate=5", "--seconds=6", "--spread=1", "--least=3", "--most=6"]
"""Trials that let figures be told at all: of two the interval is wide, and rarer arrivals look like an idle engine."""
CONFIG = """
[sites.home]
zone = "DE"
[pools.new]
gpu = "cpu"
max_in_flight = 8
[pools.old]
gpu = "cpu"
[models.tiny]
path = "{large}"
max_model_len = 1024
[models.drafts]
variant_of = "tiny"
mode = "speculative"
draft = {{ method = "model", model = "{small}", tokens = 4 }}
[models.apart]
variant_of = "tiny"
mode = "prefill_decode"
partner_pool = "old"
[models.drafted]
variant_of = "tiny"
mode = "draft_target"
partner_pool = "old"
draft = {{ method = "remote", model = "{small}", tokens = 4 }}
[planner]
solver = "greedy"
[worker]
engine_python = "{python}"
startup_timeout_s = 900
"""
TWO = {"prefill_decode": "apart", "draft_target": "drafted"}


class Folder:
    """An empty one at first; what is run there."""

    def __init__(self, path: Path, port: int) -> None:
        self.path, self.port = path, port

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command of ours that must succeed."""
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([*BATCHSCHED, *words], cwd=self.path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done

    def profile(self, mode: str) -> dict[str, Any]:
        """One mode measured; what it printed."""
        done = self.run("profile", "run", "--pool", "new", "--model", "tiny", "--mode", mode, *FEW, "--json")
        print(done.stderr)
        assert "new trials; plans go by them from now on" in done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    @contextmanager
    def partner(self, variant: str) -> Generator[None]:
        """The other pool's engine, ready."""
        process = PartnerProcess(self.path / "batchsched.toml", self.port, variant)
        try:
            asyncio.run(process.ready())
            yield
        finally:
            process.process.terminate()
            assert process.process.wait(120) == 0


def test_each_mode_is_measured_and_all_are_set_side_by_side(tmp_path: Path) -> None:
    home = nixl_home()
    small, large = tiny_models(home, ROOT / ".models")
    config = CONFIG.format(large=large, small=small, python=home.python)
    here = Folder(tmp_path / "empty", free_port())
    here.path.mkdir()
    with live_server(tmp_path, config) as server:
        own = f'server_url = "{server.url}"\npartner_url = "http://127.0.0.1:{here.port}"\nstate_dir = "{tmp_path / "state"}"\n'
        (here.path / "batchsched.toml").write_text(config + own, "utf-8")
        for mode in ("standalone", "speculative"):
            here.profile(mode)
        for mode, variant in TWO.items():
            with here.partner(variant):
                here.profile(mode)
        shown = here.run("profile", "compare", "tiny", "--modes", "--plot", "ways.svg")
        print(shown.stdout, shown.stderr)
        ways = json.loads(here.run("profile", "compare", "tiny", "--modes", "--json").stdout)["ways"]
        trials = server.get(f"{PREFIX}/trials")["trials"]
    assert {trial["model"] for trial in trials} == {"tiny", "drafts", "apart", "drafted"}
    assert all(trial["unanswered"] == 0 for trial in trials)
    assert "<svg" in (here.path / "ways.svg").read_text("utf-8")
    by_way = {(way["side"]["model"], way["load"]): way for way in ways}
    for load in ("sharegpt p25, full", "sharegpt p25, 5/s"):
        told = {model: by_way[model, load] for model in ("tiny", "drafts", "apart", "drafted")}
        assert told["tiny"]["verdict"] is None
        for model in ("drafts", "apart", "drafted"):
            assert told[model]["verdict"]["modelled"]
            assert f"{model} on new, {load}: takes" in shown.stderr
        assert told["drafts"]["side"]["acceptance"] > 0
        for model in ("apart", "drafted"):
            side = told[model]["side"]
            assert side["partner_j_per_token"] > 0
            assert side["link_bytes_per_s"] < side["link_takes_bytes_per_s"]
        assert told["apart"]["side"]["link_bytes_per_s"] > 0
        assert told["apart"]["side"]["bytes_per_token"] >= 3072  # of the model's six layers; whole blocks travel
    drafted = [way["side"] for way in ways if way["side"]["model"] == "drafted"]
    assert any(side["link_bytes_per_s"] > 0 for side in drafted), (
        "where it does not pay it switches itself off, and sends nothing"
    )

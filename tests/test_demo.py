"""The demo: its forecast, the check of its answers, and the whole thing on the real engine."""

from __future__ import annotations

import json
import subprocess
import sys
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from batchsched.cli import stage
from batchsched.errors import EngineFailed, ServerError
from batchsched.forecasts import open_provider
from batchsched.forecasts.port import mean_realised
from batchsched.settings import load
from tests.pages import blocks, not_shown

ROOT = Path(__file__).resolve().parent.parent
REQUESTS = ROOT / "examples" / "requests.jsonl"


def test_the_example_forecast_is_dirty_now_and_clean_soon(tmp_path: Path) -> None:
    before = datetime.now(UTC)
    settings = load(stage.write_set(tmp_path, "tiny", tmp_path / "model"), env={}).settings
    provider = open_provider(settings.forecast, tmp_path)
    now = datetime.now(UTC)
    forecast = provider.forecast("EXAMPLE-HOME", now, now + timedelta(minutes=5))
    assert "example forecast" in forecast.provider
    assert forecast.continued_by is None
    cleanest = min(forecast.slots, key=lambda slot: slot.mean_g_per_kwh or 0)
    assert (cleanest.start - before).total_seconds() > 55
    assert (cleanest.start - now).total_seconds() <= 80
    assert cleanest.mean_g_per_kwh is not None
    assert (forecast.slots[0].mean_g_per_kwh or 0) > 4 * cleanest.mean_g_per_kwh
    later = cleanest.end + timedelta(seconds=1)
    truth, share = mean_realised(
        provider.realised("EXAMPLE-HOME", cleanest.start, cleanest.end, later), cleanest.start, cleanest.end
    )
    assert share == 1
    assert truth == pytest.approx(cleanest.mean_g_per_kwh, rel=0.1)
    assert truth != cleanest.mean_g_per_kwh


def test_a_second_site_is_simulated_and_cleaner_when_home_is_clean(tmp_path: Path) -> None:
    settings = load(stage.write_set(tmp_path, "tiny", tmp_path / "model"), env={}).settings
    assert {name: site.simulated for name, site in settings.sites.items()} == {"home": False, "north": True}
    assert [settings.pools[name].site for name in stage.POOLS] == ["home", "north"]
    assert settings.fleet().home_site == "home"
    provider, now = open_provider(settings.forecast, tmp_path), datetime.now(UTC)
    home, north = (
        min(slot.mean_g_per_kwh or 1e9 for slot in provider.forecast(site.zone, now, now + timedelta(minutes=5)).slots)
        for site in settings.sites.values()
    )
    assert north < home / 2


def test_an_earlier_demo_is_cleared_away_and_nothing_else(tmp_path: Path) -> None:
    for name in ("server", "run", "mine"):
        (tmp_path / name).mkdir()
    (tmp_path / "server.log").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    stage.clean_folder(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "notes.txt"]


def answers() -> list[dict[str, Any]]:
    """A right answer to each example request, where a prompt has as many tokens as characters."""
    return [
        {
            "id": f"batch_req_{custom_id}",
            "custom_id": custom_id,
            "response": {
                "status_code": 200,
                "body": {"usage": {"prompt_tokens": characters(body["messages"]), "completion_tokens": 9}},
            },
            "error": None,
        }
        for custom_id, body in stage.read_requests(REQUESTS).items()
    ]


def characters(messages: Any) -> int:
    return sum(len(message["content"]) for message in messages)


def text(lines: list[dict[str, Any]]) -> str:
    return "\n".join(json.dumps(line) for line in lines) + "\n"


def test_right_answers_pass_in_any_order() -> None:
    check = stage.Check(stage.read_requests(REQUESTS), characters)
    assert check.lines(text(list(reversed(answers())))) == 64


def test_wrong_answers_are_caught() -> None:
    check = stage.Check(stage.read_requests(REQUESTS), characters)
    right = answers()
    swapped = deepcopy(right)
    swapped[0]["custom_id"], swapped[1]["custom_id"] = swapped[1]["custom_id"], swapped[0]["custom_id"]
    failed = deepcopy(right)
    failed[3]["response"]["status_code"] = 400
    too_long = deepcopy(right)
    too_long[5]["response"]["body"]["usage"]["completion_tokens"] = 4000
    for wrong in (right[1:], [*right, right[0]], swapped, failed, too_long):
        with pytest.raises(ServerError):
            check.lines(text(wrong))


def test_an_engine_that_cannot_make_the_model_is_heard() -> None:
    words = "import sys; sys.exit('ModuleNotFoundError: no LlamaConfig')"
    with pytest.raises(EngineFailed, match=r"by .*python.*: ModuleNotFoundError: no LlamaConfig") as refused:
        stage.make_model([sys.executable, "-c", words])
    assert "environment anew" in (refused.value.hint or "")


def test_a_failure_is_the_last_line_too(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "batchsched.cli", "demo", "--dir", str(tmp_path), "--file", str(ROOT / "README.md")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout.splitlines()[-1])["demo"] == "failed"
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.engine
@pytest.mark.slow
def test_the_demo_from_start_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "batchsched.cli", "demo", "--dir", str(tmp_path / "demo")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["demo"] == "ok", done.stdout[-4000:] + done.stderr[-4000:]
    assert set(last) == {"demo", "requests", "completed", "energy_j", "grams", "grams_run_now"}
    assert last["requests"] == last["completed"] >= 120
    assert 0 < last["grams"] < last["grams_run_now"]
    assert "example forecast" in done.stdout
    assert "simulated" in done.stdout
    assert b"<svg" in (tmp_path / "demo" / "report.svg").read_bytes()
    shown = next(block.text for block in blocks(ROOT / "docs" / "tutorial.md", "text") if "The engine answers" in block.text)
    assert not not_shown(shown, done.stdout), done.stdout

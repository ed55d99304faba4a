"""`doctor` loads an engine's packages by way of trial, and says what to do where they do not fit. Real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchsched.cli import exits
from batchsched.executors import engine_trial
from batchsched.executors.engine_home import EngineHome, find_engine
from batchsched.executors.engine_trial import trial
from tests.commands import call, checks
from tests.engine_fixture import real_engine
from tests.fake_engine import fake_home

AWAY = ("--json", "--server", "http://127.0.0.1:9")
TORCH = "class _C:\n    _dispatch_get_all_op_names = staticmethod(lambda: {names})\n"
TORN = "raise RuntimeError('operator torchvision::nms does not exist')\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the packages of an environment lie that can be loaded; it is the one that `doctor` finds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("BATCHSCHED_WORKER_ENGINE_PYTHON", str(fake_home(tmp_path)))
    found = tmp_path / "site"
    (found / "torch.py").write_text(TORCH.format(names=["aten::add", "_C::silu_and_mul"]), "utf-8")
    (found / "vllm" / "_custom_ops.py").touch()
    return found


def home(site: Path) -> EngineHome:
    return find_engine(str(site.parent / "python"))


def test_an_engine_that_can_be_loaded_is_ok(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("doctor", *AWAY) == exits.OK
    found = checks(capsys)["engine"]
    assert found["level"] == "ok"
    assert "its packages were loaded in" in found["text"]


def test_a_torchvision_of_another_torch_is_broken_and_says_what_to_do(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "torchvision.py").write_text(TORN, "utf-8")
    assert call("doctor", *AWAY) == exits.FAILURE
    found = checks(capsys)["engine"]
    assert found["level"] == "broken"
    assert "cannot be loaded: RuntimeError: operator torchvision::nms does not exist." in found["text"]
    assert f"`{site.parent / 'python'} -m pip uninstall torchvision" in found["next_step"]


def test_a_compiled_part_that_was_not_loaded_is_broken_and_says_what_to_do(site: Path) -> None:
    """As where libnuma is missing: vLLM warns of it, and fails later."""
    (site / "torch.py").write_text(TORCH.format(names=["aten::add"]), "utf-8")
    found = trial(home(site))
    assert found is not None
    assert found.trouble == "ImportError: vLLM's compiled part was not loaded."
    assert "apt-get install libnuma1" in found.mend


def test_a_build_for_gpus_needs_its_compiled_part_only_where_there_is_one(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (site / "torch.py").write_text(TORCH.format(names=[]), "utf-8")
    built = EngineHome(home(site).python, "vllm", "0.32.0")
    monkeypatch.setattr(engine_trial, "cards_here", list)
    assert (trial(built) or engine_trial.Trial(0, "late")).trouble == ""
    monkeypatch.setattr(engine_trial, "cards_here", lambda: ["a card"])
    assert (trial(built) or engine_trial.Trial(0)).trouble


def test_another_trouble_is_named_and_how_to_see_more_of_it(site: Path) -> None:
    (site / "vllm" / "_custom_ops.py").write_text("import of_tomorrow", "utf-8")
    found = trial(home(site))
    assert found is not None
    assert found.trouble == "ModuleNotFoundError: No module named 'of_tomorrow'."
    assert "-c 'import vllm'` says more" in found.mend


def test_what_takes_too_long_is_left_open(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (site / "torch.py").write_text("import time; time.sleep(600)", "utf-8")
    assert trial(home(site), longest_s=0.2) is None
    monkeypatch.setattr(engine_trial, "trial", lambda _: None)
    assert call("doctor", *AWAY) == exits.OK
    assert checks(capsys)["engine"]["level"] == "warning"


def test_a_quick_look_loads_nothing(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "torchvision.py").write_text(TORN, "utf-8")
    assert call("doctor", "--quick", *AWAY) == exits.OK
    assert checks(capsys)["engine"]["text"].endswith("not tried")


@pytest.mark.engine
def test_the_real_engine_can_be_loaded() -> None:
    found = trial(real_engine())
    assert found is not None
    assert (found.trouble, found.mend) == ("", "")

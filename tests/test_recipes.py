"""Recipes for each generation of GPUs, and what `doctor` says of a machine."""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from batchsched.cli import exits
from batchsched.cli.main import main
from batchsched.executors import recipes as module
from batchsched.executors.recipes import Card, installed, recipe_for, recipe_named, recipes, unfit, unknown_to_the_table
from batchsched.fleet import GPU_TYPES

V100 = Card("Tesla V100", 7.0, "12.8")
HAS = {"vllm": "0.9.2", "torch": "2.7.0+cu126", "transformers": "4.53.3"}


def test_every_gpu_type_has_one_recipe() -> None:
    for kind in GPU_TYPES.values():
        assert len([name for name, recipe in recipes().items() if recipe.suits(kind.compute_capability)]) == 1, kind.name
    assert (recipe_for(7.0), recipe_for(6.1), recipe_for(2.0)) == ("volta", "pascal", "")


@pytest.mark.parametrize("name", recipes())
def test_recipes_agree_with_the_table_of_engines(name: str) -> None:
    assert not unknown_to_the_table(recipe_named(name))
    assert recipe_named(name).version in " ".join(recipe_named(name).packages)
    assert recipe_named(name).steps().count("pip install") == 1


@pytest.mark.parametrize(
    ("has", "card", "environment", "said"),
    [
        (HAS, V100, {}, []),
        (HAS, V100, {"VLLM_USE_V1": "0"}, []),
        (HAS | {"vllm": "0.11.0"}, V100, {}, ["vllm is 0.11.0, the recipe has 0.9.2"]),
        (HAS | {"transformers": "5.1.0"}, V100, {}, ["transformers is 5.1.0, the recipe has <4.54"]),
        ({}, V100, {}, ["vllm is not installed", "torch is not installed", "transformers is not installed"]),
        (HAS, Card("Tesla T4", 7.5, "12.8"), {}, ["Tesla T4 has compute capability 7.5, which is not of this generation"]),
        (HAS, Card("Tesla V100", 7.0, "12.2"), {}, ["the driver speaks CUDA 12.2, 12.6 is needed: install a newer driver"]),
        (HAS, V100, {"VLLM_USE_V1": "1"}, ["VLLM_USE_V1 is set to 1, not to 0"]),
    ],
)
def test_what_does_not_fit_is_told(has: dict[str, str], card: Card, environment: dict[str, str], said: list[str]) -> None:
    assert unfit(recipe_named("volta"), has, [card, card], environment) == said


def test_an_environment_tells_what_it_has() -> None:
    assert installed(sys.executable, ["pytest==1.0", "no-such-package==1.0"]) == {"pytest": pytest.__version__}
    assert installed("/nowhere/python", ["pytest==1.0"]) == {}


def doctor(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, dict[str, dict[str, str]]]:
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--quick", "--json", "--server", "http://127.0.0.1:9", *flags])
    found = json.loads(capsys.readouterr().out)["checks"]
    assert isinstance(stop.value.code, int)
    return stop.value.code, {check["check"]: check for check in found}


def test_doctor_holds_the_machine_against_a_recipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cards_here", lambda: [V100])
    code, found = doctor(capsys, "--recipe", "volta")
    assert code == exits.FAILURE
    assert found["recipe volta"]["level"] == "broken"
    assert 'pip install "vllm==0.9.2"' in found["recipe volta"]["next_step"]
    assert "never on such a card" in found["recipe volta"]["text"]


def test_doctor_finds_the_recipe_of_the_gpu_by_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "cards_here", lambda: [V100])
    monkeypatch.setattr(module, "installed", lambda python, packages: HAS)
    monkeypatch.delenv("VLLM_USE_V1", raising=False)
    assert doctor(capsys)[1]["recipe volta"]["level"] == "ok"
    monkeypatch.setattr(module, "installed", lambda python, packages: {})
    assert doctor(capsys)[1]["recipe volta"]["level"] == "warning"


class _Models(BaseHTTPRequestHandler):
    """A server that has no /health, as llama-cpp-python's has none."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/v1/models" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        pass


def test_doctor_finds_every_engine_well(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Models) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("BATCHSCHED_WORKER_ENGINE_URL", f"http://127.0.0.1:{server.server_port}/v1")
        assert doctor(capsys)[1]["engine"]["level"] == "ok"
        server.shutdown()
    assert doctor(capsys)[1]["engine"]["level"] == "broken"


def test_a_recipe_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = doctor(capsys, "--recipe", "fermi")
    assert code == exits.FAILURE
    assert "There are: kepler, pascal, volta" in found["recipe"]["text"]

"""LoRA adapters: declared beside their base, served by their own names from one engine, and never answered by the base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from batchsched.adapters import outfitted, resolved
from batchsched.errors import InvalidConfiguration
from batchsched.executors.engine_home import EngineHome
from batchsched.executors.launch import command
from batchsched.fleet import GPU_TYPES, Pool, ServedModel
from batchsched.generations import cannot_run
from batchsched.settings import load
from batchsched.wire import PREFIX
from tests.fake_server import FakeServer, as_line
from tests.live import BASIC, live_server
from tests.test_executors_driver import run

DECLARED = """
[sites.home]
zone = "DE"
[pools.a]
gpu = "A100-40"
{pool}
[models.base]
path = "weights"
parameters_b = 7
max_model_len = 4096
engine_args = {flags}
[models.polite]
{polite}
"""
WELL = 'adapter_of = "base"\nadapter = "adapters/polite"'


def settings_of(folder: Path, polite: str = WELL, pool: str = "", flags: str = '["--seed", "1"]') -> Any:
    file = folder / "batchsched.toml"
    file.write_text(DECLARED.format(polite=polite, pool=pool, flags=flags), "utf-8")
    return load(file, env={}).settings


def test_an_adapter_is_its_base_but_for_the_adapter(tmp_path: Path) -> None:
    models = settings_of(tmp_path).models
    base, polite = models["base"], models["polite"]
    assert (polite.path, polite.parameters_b, polite.max_model_len) == ("weights", 7.0, 4096)
    assert (polite.adapter_of, polite.adapter, base.adapter) == ("base", "adapters/polite", "")
    assert resolved(models) == models


@pytest.mark.parametrize(
    ("polite", "pool", "flags", "wrong"),
    [
        ('adapter_of = "bass"\nadapter = "x"', "", "[]", r"models\.polite\.adapter_of': 'bass' is no declared model"),
        ('adapter_of = "polite"\nadapter = "x"', "", "[]", "an adapter itself"),
        ('adapter_of = "base"', "", "[]", r"models\.polite\.adapter': say where"),
        ('adapter = "x"', "", "[]", r"models\.polite\.adapter': say with adapter_of"),
        (f'{WELL}\npath = "other"', "", "[]", r"models\.polite\.path': that is for the base"),
        (f'{WELL}\nengine_args = ["--seed", "2"]', "", "[]", r"models\.polite\.engine_args"),
        (WELL, 'models = ["polite"]', "[]", r"pools\.a\.models': an engine that serves 'polite' serves its base"),
        (WELL, "", '["--lora-modules", "rude=y"]', "declare those adapters too"),
        ('path = "w"\nengine_args = ["--enable-lora", "--lora-modules", "rude=y", "polite=x"]', "", "[]", "base would answer"),
        ('path = "weights"\nengine_args = ["--lora-modules={\\"name\\": \\"polite\\"}"]', "", "[]", "base would answer"),
        ('path = "weights"', 'engine_args = ["--lora-modules", "polite=x", "--seed", "1"]', "[]", "base would answer"),
    ],
)
def test_what_would_be_answered_by_the_base_or_by_nobody_is_refused(
    tmp_path: Path, polite: str, pool: str, flags: str, wrong: str
) -> None:
    with pytest.raises(InvalidConfiguration, match=wrong):
        settings_of(tmp_path, polite, pool, flags)


def test_an_adapters_folder_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 8}')
    with pytest.raises(InvalidConfiguration, match="holds an adapter"):
        settings_of(tmp_path, f'path = "{tmp_path}"')


def test_engines_are_started_with_all_adapters_of_a_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small").mkdir()
    Path("small/adapter_config.json").write_text('{"r": 20}')
    base = ServedModel("weights", engine_args=["--max-loras", "1"])
    models = resolved({
        "base": base,
        "other": ServedModel("elsewhere"),
        "small": ServedModel(adapter_of="base", adapter="small"),
        "hub": ServedModel(adapter_of="base", adapter="team/hub"),
    })  # fmt: skip
    assert outfitted(models, "other") == models["other"]
    home = EngineHome("/x/python", "vllm", "0.32.0")
    lines = [command(home, Pool(), outfitted(models, name), name, 1) for name in ("base", "small", "hub")]
    assert lines[0] == lines[1] == lines[2]
    line = lines[0]
    assert line[line.index("--served-model-name") + 1] == "base"
    assert line[line.index("--max-lora-rank") + 1] == "32"
    assert [line[at + 1] for at, word in enumerate(line) if word == "--max-loras"] == ["2", "1"]  # the last holds
    modules = [json.loads(word) for word in line[line.index("--lora-modules") + 1 :]]
    assert modules == [{"name": "small", "path": str(tmp_path / "small")}, {"name": "hub", "path": "team/hub"}]


def test_other_engines_than_vllm_get_no_adapters() -> None:
    model = ServedModel("weights", adapter_of="base", adapter="x")
    assert "adapters run on vLLM" in cannot_run("old", Pool(engine="llama.cpp"), "polite", model, GPU_TYPES)
    assert not cannot_run("new", Pool(), "polite", model, GPU_TYPES)


@pytest.mark.slow
def test_workers_that_would_answer_with_the_base_are_not_told_of_adapters(tmp_path: Path) -> None:
    with live_server(tmp_path, f'{BASIC}[models.polite]\nadapter_of = "tiny"\nadapter = "x"\n') as server:
        asked = {"pool": "local", "host": "h", "pid": 1}
        older, newer = (server.post(f"{PREFIX}/workers", asked | more) for more in ({}, {"adapters": True}))
        assert set(older["models"]) == {"tiny"}
        assert set(newer["models"]) == {"tiny", "polite"}
        assert newer["models"]["polite"]["adapter"] == "x"


@pytest.mark.slow
async def test_one_engine_answers_its_base_and_its_adapters_each_by_its_name(tmp_path: Path) -> None:
    server = FakeServer(["one two"] * 3)
    server.models |= resolved({"tiny": ServedModel(), "polite": ServedModel(adapter_of="tiny", adapter="x")})
    server.add([as_line(f"p{number}", "one two", "polite") for number in range(3)])
    server.chunks[-1].model = "polite"
    outputs = await run(server, tmp_path)
    said = {name: line["response"]["body"]["choices"][0]["message"]["content"] for name, line in outputs.items()}
    assert {name: text for name, text in said.items() if name.startswith("p")} == dict.fromkeys(
        ("p0", "p1", "p2"), "polite:two polite:one"
    )
    assert {text for name, text in said.items() if name.startswith("c")} == {"two one"}
    assert len(list((tmp_path / "state").glob("*.log"))) == 1  # no second start

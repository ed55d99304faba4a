"""What `batchsched run` arranges on this machine, and what it remembers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from batchsched import settings
from batchsched.cli import toml
from batchsched.cli.local import arrange, gpu_type_of, served_name
from batchsched.cli.runstate import Folder, Run, refuse_change
from batchsched.client.calls import OnDeadline
from batchsched.errors import DataFolderInUse, InputChanged, InvalidConfiguration, InvalidValue, UnknownModel
from batchsched.settings import Settings


def bare() -> settings.Loaded:
    return settings.Loaded(Settings(), {}, None)


def configured(tmp_path: Path, text: str) -> settings.Loaded:
    path = tmp_path / "b.toml"
    path.write_text(text, "utf-8")
    return settings.load(path, env={})


def begun() -> Run:
    known = {
        "run_id": "run_1",
        "file": "in.jsonl",
        "size": 3,
        "sha256": "abc",
        "model": "m",
        "endpoint": "/v1/embeddings",
        "requests": 1,
    }
    times = {"deadline_at": "2026-01-01T06:00:00Z", "started_at": "2026-01-01T00:00:00Z"}
    return msgspec.convert({**known, **times, "deadline": "6h", "versions": {}}, Run)


@pytest.mark.parametrize(
    ("name", "memory_gb", "ours"),
    [
        ("NVIDIA H100 80GB HBM3", 85.5, "H100"),
        ("NVIDIA H200", 150.0, "H200"),
        ("NVIDIA A100-SXM4-40GB", 42.4, "A100-40"),
        ("NVIDIA A100-SXM4-80GB", 85.2, "A100-80"),
        ("Tesla V100-SXM2-32GB", 34.1, "V100"),
        ("Tesla T4", 15.8, "T4"),
        ("NVIDIA L4", 24.1, "L4"),
        ("NVIDIA L40S", 48.3, "L40S"),
        ("NVIDIA H100 PCIe", 85.5, "H100-PCIe"),
        ("NVIDIA A100 80GB PCIe", 85.9, "A100-PCIe-80"),
        ("Tesla V100-SXM2-16GB", 17.1, "V100-16"),
        ("NVIDIA RTX 6000 Ada Generation", 51.5, "RTX-6000-Ada"),
        ("Quadro RTX 6000", 25.8, None),
        ("NVIDIA H100 NVL", 100.5, None),
        ("NVIDIA GeForce RTX 4090", 25.8, None),
    ],
)
def test_gpu_names_of_the_driver(name: str, memory_gb: float, ours: str | None) -> None:
    assert gpu_type_of(name, memory_gb) == ours


def test_a_machine_without_a_configuration_is_one_site_with_one_pool(tmp_path: Path) -> None:
    model = tmp_path / "tiny"
    model.mkdir()
    with pytest.raises(UnknownModel, match=r"config\.json"):
        arrange(bare(), str(model), "tiny", zone="DE", device="cpu")
    (model / "config.json").write_text("{}")
    made, notes = arrange(bare(), str(model), "tiny", zone="DE", device="cpu")
    assert {name: site.zone for name, site in made.sites.items()} == {"home": "DE"}
    assert [(pool.site, pool.gpu, pool.kind) for pool in made.pools.values()] == [("home", "cpu", "cpu")]
    assert made.models["tiny"].path == str(model)
    assert notes == []
    written = tmp_path / "embedded.toml"
    written.write_text(toml.dumps(msgspec.to_builtins(made)), "utf-8")
    assert settings.load(written, env={}).settings == made


def test_a_guessed_zone_is_told(tmp_path: Path) -> None:
    _, notes = arrange(bare(), "org/model", "org/model", zone=None, device="cpu")
    assert any("--zone" in note for note in notes)


def test_a_declared_fleet_is_kept_and_its_forecast_found_from_elsewhere(tmp_path: Path) -> None:
    text = '[sites.a]\nzone = "DE"\n[pools.p]\nsite = "a"\n[forecast]\nsource = "file"\npath = "f.csv"\n[models.m]\n'
    loaded = configured(tmp_path, text)
    made, _ = arrange(loaded, "m", "m", zone=None, device="cpu")
    assert (made.sites, made.pools, made.models) == (loaded.settings.sites, loaded.settings.pools, loaded.settings.models)
    assert made.forecast.path == str(tmp_path / "f.csv")
    with pytest.raises(InvalidValue, match="--zone"):
        arrange(loaded, "m", "m", zone="NL", device="cpu")


def test_a_model_that_no_pool_may_serve(tmp_path: Path) -> None:
    loaded = configured(tmp_path, '[sites.a]\nzone = "DE"\n[pools.p]\nsite = "a"\nmodels = ["m"]\n[models.m]\n')
    with pytest.raises(UnknownModel, match="No pool"):
        arrange(loaded, "org/n", "org/n", zone=None, device="cpu")


def test_the_name_that_requests_must_use(tmp_path: Path) -> None:
    assert served_name("org/model", None, Settings()) == "org/model"
    assert served_name(str(tmp_path), None, Settings()) == tmp_path.name
    assert served_name(str(tmp_path), "other", Settings()) == "other"


def test_what_a_run_remembers_and_what_it_refuses(tmp_path: Path) -> None:
    folder, run = Folder(tmp_path / "out"), begun()
    assert folder.load() is None
    folder.root.mkdir()
    folder.save(run)
    assert folder.load() == run
    same: tuple[tuple[int, str], str, None, None] = (3, "abc"), "m", None, None
    refuse_change(run, *same, folder.root)
    refuse_change(run, *same[:3], "expire", folder.root)
    others: list[tuple[tuple[int, str], str, str | None, OnDeadline | None]] = [
        ((3, "abd"), *same[1:]),
        (same[0], "n", None, None),
        (*same[:2], "/v1/completions", None),
        (*same[:3], "finish"),
    ]
    for other in others:
        with pytest.raises(InputChanged) as refused:
            refuse_change(run, *other, folder.root)
        assert "--out" in (refused.value.hint or "")
    folder.run_file.write_text("{")
    with pytest.raises(InvalidConfiguration):
        folder.load()


def test_a_folder_is_held_once_and_left_clean_when_nothing_began(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out")
    with folder.held(), pytest.raises(DataFolderInUse), Folder(folder.root).held():
        pass
    assert not folder.root.exists()
    with folder.held():
        folder.save(begun())
    assert folder.run_file.exists()

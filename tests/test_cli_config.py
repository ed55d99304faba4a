"""`init`, `config show`, and the TOML they write."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from batchsched import settings
from batchsched.cli import exits, toml
from batchsched.errors import InvalidConfiguration
from tests.commands import call


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration of this machine takes part."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))


def test_init_writes_a_file_that_changes_nothing_but_what_it_declares(tmp_path: Path) -> None:
    assert call("init") == exits.OK
    loaded = settings.load(tmp_path / "batchsched.toml", env={})
    assert set(loaded.origins) == {"sites.home.zone", "pools.local.site", "pools.local.kind", "pools.local.gpu"}
    assert loaded.settings.server == settings.Server()


def test_what_init_comments_out_is_the_default_and_loads_too(tmp_path: Path) -> None:
    call("init")
    lines = (tmp_path / "batchsched.toml").read_text("utf-8").splitlines()
    settable = [re.sub(r"^# (?=\[|\w+ = )", "", line) for line in lines]
    (tmp_path / "open.toml").write_text("\n".join(settable), "utf-8")
    loaded = settings.load(tmp_path / "open.toml", env={})
    for section in ("server", "worker", "forecast", "planner", "carbon"):
        kind = type(getattr(settings.Settings(), section))
        assert getattr(loaded.settings, section) == kind()
        plain = [field for field in msgspec.structs.fields(kind) if field.default_factory is not dict]
        assert sum(key.startswith(f"{section}.") for key in loaded.origins) == len(plain)
    assert loaded.settings.pools["local"].window is not None
    assert "organisation/model" in loaded.settings.models


def test_init_overwrites_only_when_forced(capsys: pytest.CaptureFixture[str]) -> None:
    call("init")
    assert call("init") == exits.USAGE
    assert "--force" in capsys.readouterr().err
    assert call("init", "--force") == exits.OK


HOOK = f'[webhooks.mine]\nurl = "https://example.com"\nsecret = "whsec_{"hidden00" * 6}"\n'


def test_config_show_names_the_origin_and_masks_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "batchsched.toml").write_text(
        '[server]\nport = 9000\napi_key = "very hidden"\ndatabase_url = "postgresql://u:hidden@h/d"\n' + HOOK, "utf-8"
    )
    monkeypatch.setenv("BATCHSCHED_SERVER_LEASE_S", "7")
    assert call("config", "show", "--origin", "--json") == exits.OK
    shown = json.loads(capsys.readouterr().out)
    assert shown["server.port"] == {"value": 9000, "origin": "batchsched.toml"}
    assert shown["server.lease_s"] == {"value": 7.0, "origin": "environment BATCHSCHED_SERVER_LEASE_S"}
    assert shown["server.host"]["origin"] == "default"
    assert "hidden" not in json.dumps(shown)
    call("config", "show")
    assert tomllib.loads(capsys.readouterr().out)["server"]["api_key"] == "********"


CRON = '[sites.a]\nzone = "DE"\n[pools.b]\nsite = "a"\n[pools.b.window]\nduration = "8h"\ncron = '

POOL = '[sites.a]\nzone = "DE"\n[pools.b]\nsite = "a"\n'
SLO = "{ ttft_ms = 500, tpot_ms = 50 }"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[server]\nprot = 1", ["batchsched.toml", "server.prot", "did you mean 'port'"]),
        ("[server]\nport = 70000", ["batchsched.toml", "server.port", "65535"]),
        ('[forecast]\nsource = "moon"', ["batchsched.toml", "forecast.source", "climatology, file"]),
        ('[pools.a]\nsite = "b"', ["batchsched.toml", "pools.a.site", "'b'"]),
        ("[pools.old-t4]\ncount = 0", ["batchsched.toml", "'pools.old-t4.count'", ">= 1"]),
        ('[pools.old-t4]\nkind = "fast"', ["batchsched.toml", "'pools.old-t4.kind'", "dedicated"]),
        (f'{POOL}kind = "spare"', ["'pools.b.slo'", "online users are promised", "ttft_ms"]),
        (f'{POOL}kind = "spare"\nslo = {SLO}', ["'pools.b.ceiling'", "most offline requests"]),
        (f'{POOL}kind = "spare"\nceiling = 8\nslo = {{ ttft_ms = 0, tpot_ms = 9 }}', ["'pools.b.slo.ttft_ms'", "> 0"]),
        (f'{POOL}kind = "spare"\nceiling = 8\nslo = {{ ttft = 1 }}', ["'pools.b.slo.ttft'", "did you mean 'ttft_ms'"]),
        (f"{POOL}slo = {SLO}", ["'pools.b.slo'", "only pools of kind 'spare'", "'dedicated'"]),
        (f"{POOL}ceiling = 8", ["'pools.b.ceiling'", "only pools of kind 'spare'"]),
        (f'{POOL}cpu = {{ cores = "0-x" }}', ["'pools.b.cpu.cores'", "'0-x'", "0-3,8"]),
        (f'{POOL}gpu = "T4"\ncpu = {{ nice = 5 }}', ["'pools.b.cpu'", "'T4'"]),
        (f"{POOL}cpu = {{ nice = 20 }}", ["'pools.b.cpu.nice'", "<= 19"]),
        ('[worker]\ncpu_cores = "one"', ["'worker.cpu_cores'", "'one'"]),
        (f'{POOL}kind = "cpu"\ngpu = "T4"', ["'pools.b.gpu'", "processors", "dedicated"]),
        ('[pools.a.window]\ncron = 3\nduration = "8h"', ["batchsched.toml", "'pools.a.window.cron'"]),
        ('[models."org/m.1"]\nmax_model_len = 2', ["batchsched.toml", "'models.org/m.1.max_model_len'", ">= 16"]),
        ("[sites.a]", ["batchsched.toml", "'sites.a'", "zone"]),
        ("server = 3", ["batchsched.toml", "'server'", "table"]),
        ("pools = 3", ["batchsched.toml", "'pools'", "table"]),
        ("[pools]\na = 3", ["batchsched.toml", "'pools.a'", "table"]),
        ('[forecast]\nsource = "file"\npath = "no.csv"', ["batchsched.toml", "'forecast.path'", "no.csv"]),
        (f'{CRON}"61 0 * * *"', ["batchsched.toml", "'pools.b.window.cron'", "minute", "61"]),
        (f'{CRON}"0 0 31 2 *"', ["batchsched.toml", "'pools.b.window.cron'", "never opens"]),
        (f"{POOL}second_life_at = 2023-01-01", ["'pools.b.second_life_at'", "bought_at"]),
        (f"{POOL}second_life_years = 3\nbought_at = 2020-01-01", ["'pools.b.second_life_at'"]),
        (
            f"{POOL}second_life_years = 3\nbought_at = 2024-01-01\nsecond_life_at = 2023-01-01",
            ["'pools.b.second_life_at'", "earlier bought_at"],
        ),
        (f'{POOL}host = "mainframe"', ["'pools.b.host'", "mainframe", "p5-48xlarge"]),
        ('[carbon]\ncatalogue = "no.toml"', ["no hardware catalogue", "no.toml"]),
        ('[carbon]\nembodied_model = "guess"', ["'carbon.embodied_model'", "greenllm_table1"]),
        ("not toml", ["batchsched.toml", "TOML"]),
    ],
)
def test_a_bad_configuration_names_file_key_and_what_is_allowed(
    content: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "batchsched.toml").write_text(content, "utf-8")
    assert call("config", "show") == exits.USAGE
    said = capsys.readouterr().err
    assert all(word in said for word in words), said


def test_a_second_life_is_declared_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    declared = "bought_at = 2019-06-01\nsecond_life_at = 2024-01-01\nsecond_life_years = 4"
    (tmp_path / "batchsched.toml").write_text(f"{POOL}{declared}\n", "utf-8")
    assert call("config", "show") == exits.OK
    shown = capsys.readouterr().out
    assert 'bought_at = "2019-06-01"' in shown
    (tmp_path / "batchsched.toml").write_text(shown, "utf-8")
    assert call("config", "show") == exits.OK
    assert capsys.readouterr().out == shown


def test_a_flag_below_a_section_that_is_no_table_is_a_mistake_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "batchsched.toml").write_text("server = 3\n", "utf-8")
    assert call("serve", "--port", "0") == exits.USAGE
    assert "key 'server' must be a table" in capsys.readouterr().err


def test_serve_warns_where_no_batch_could_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "batchsched.toml").write_text('[sites.a]\nzone = "DE"\n[pools.b]\nsite = "a"\n', "utf-8")
    assert call("serve", "--host", "0.0.0.0") == exits.USAGE  # refused for want of TLS, after the warning
    said = capsys.readouterr().err
    assert "Warning: no models are declared in batchsched.toml" in said
    assert "no pools" not in said


plain = st.text() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans()
trees = st.recursive(
    st.dictionaries(st.text(), plain | st.lists(plain), max_size=4),
    lambda inner: st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings_of_hypothesis(max_examples=50)
@given(trees)
def test_toml_reads_back_what_was_written(tree: dict[str, Any]) -> None:
    assert tomllib.loads(toml.dumps(tree)) == tree


SOURCES = """
[forecast]
order = ["em", "gb"]
[forecast.sources.gb]
kind = "gb"
zones = { GB = "national" }
[forecast.sources.em]
kind = "electricity_maps"
zones = { GB = "GB", DE = "DE" }
secret = "h1dden-key"
[forecast.zones.GB]
sources = ["gb", "em"]
"""


def test_sources_of_forecasts_and_their_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "batchsched.toml").write_text(SOURCES)
    forecast = settings.load(tmp_path / "batchsched.toml", env={}).settings.forecast
    assert [forecast.order_for(zone) for zone in ("GB", "DE", "FR")] == [["gb", "em"], ["em"], []]
    for more in ((), ("--origin",), ("--json",), ("--json", "--origin")):
        assert call("config", "show", *more) == exits.OK
        shown = capsys.readouterr()
        assert "h1dden-key" not in shown.out + shown.err
        assert "********" in shown.out


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('kind = "gb"', 'kind = "uk"', r"'forecast.sources.gb.kind': Invalid enum value 'uk' \(allowed: carbon_aware_sdk, eia"),
        ('kind = "gb"', 'kind = "gb"\nzoens = {}', "unknown key 'forecast.sources.gb.zoens'; did you mean 'zones'"),
        ('kind = "gb"', 'kind = "gb"\nbase_url = "https://me:pw@x"', "'forecast.sources.gb.base_url': must be a plain address"),
        ('zones = { GB = "national" }', "", "'forecast.sources.gb.zones': say which zones"),
        ('kind = "gb"', 'kind = "carbon_aware_sdk"', "'forecast.sources.gb.base_url': is needed"),
        ('kind = "gb"', 'kind = "watttime"', "'forecast.sources.gb.user': is needed"),
        ('kind = "gb"', 'kind = "eia"\nbase_url = "http://eia.example"', "'forecast.sources.gb.base_url': must be https"),
        ('kind = "gb"', 'kind = "eia"\nbase_url = "http://[::1"', "'forecast.sources.gb.base_url': must be https"),
        ('kind = "gb"', 'kind = "file"', "'forecast.sources.gb.path': is needed"),
        ('["em", "gb"]', '["em", "xx"]', r"'forecast.order': there is no source 'xx' \(allowed: gb, em, own\)"),
        ('["gb", "em"]', '["gb", "gb"]', "'forecast.zones.GB.sources': a source is named twice"),
        ("zones.GB", "zones.FR", "'forecast.zones.FR.sources': 'gb' knows no zone 'FR'"),
    ],
)
def test_mistakes_in_sources_are_told_by_their_whole_name(tmp_path: Path, old: str, new: str, said: str) -> None:
    (tmp_path / "batchsched.toml").write_text(SOURCES.replace(old, new, 1))
    with pytest.raises(InvalidConfiguration, match=said) as raised:
        settings.load(tmp_path / "batchsched.toml", env={})
    assert "h1dden-key" not in raised.value.message


def test_a_key_in_the_wrong_place_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "batchsched.toml").write_text('[forecast.sources]\nem = "h1dden-key"\n')
    with pytest.raises(InvalidConfiguration, match=r"'forecast.sources.em' must be a table .*, not text"):
        settings.load(tmp_path / "batchsched.toml", env={})

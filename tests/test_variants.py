"""Variants: declared beside their base, with all that it says, on the pools that can serve them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchsched.errors import InvalidConfiguration
from batchsched.fleet import Draft
from batchsched.settings import load
from batchsched.variants import placed, resolved, variants_of

DECLARED = """
[sites.home]
zone = "DE"
[sites.away]
zone = "FR"
[pools.new]
gpu = "A100-40"
{pool}
[pools.old]
gpu = "T4"
[pools.far]
site = "away"
gpu = "T4"
[pools.cpp]
engine = "llama.cpp"
[models.base]
path = "weights"
parameters_b = 7
max_model_len = 4096
engine_args = ["--seed", "1"]
[models.other]
path = "elsewhere"
[models.way]
{way}
"""
SPECULATIVE = 'variant_of = "base"\nmode = "speculative"\ndraft = { method = "ngram" }'
APART = 'variant_of = "base"\nmode = "prefill_decode"\npartner_pool = "old"'


def settings_of(folder: Path, way: str = SPECULATIVE, pool: str = "") -> Any:
    file = folder / "batchsched.toml"
    file.write_text(DECLARED.format(way=way, pool=pool), "utf-8")
    return load(file, env={}).settings


def test_a_variant_is_its_base_in_another_mode(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, f'{SPECULATIVE}\nengine_args = ["--max-num-seqs", "8"]')
    way = settings.models["way"]
    assert (way.path, way.parameters_b, way.max_model_len) == ("weights", 7.0, 4096)
    assert way.engine_args == ["--seed", "1", "--max-num-seqs", "8"]
    assert (way.variant_of, way.mode, way.draft) == ("base", "speculative", Draft())
    assert resolved(settings.models) == settings.models
    assert placed(settings.models, settings.pools) == settings.pools
    assert variants_of(settings.models, ["other", "base"]) == ["way"]


def test_it_is_served_where_its_base_is_and_can_be(tmp_path: Path) -> None:
    assert settings_of(tmp_path).fleet().pools_for("way") == ["new", "old", "far"]
    assert settings_of(tmp_path, pool='models = ["other"]').fleet().pools_for("way") == ["old", "far"]
    named = settings_of(tmp_path, pool='models = ["other", "base"]')
    assert named.pools["new"].models == ["other", "base", "way"]
    assert named.pools["old"].models == []
    assert settings_of(tmp_path, APART).fleet().pools_for("way") == ["new"]
    assert settings_of(tmp_path, APART).pools["old"].models == ["base", "other"]


@pytest.mark.parametrize(
    ("way", "pool", "wrong"),
    [
        ('mode = "speculative"', "", r"models\.way\.mode': say with variant_of"),
        ('draft = { method = "ngram" }', "", r"models\.way\.draft': say with variant_of"),
        ('variant_of = "bass"', "", "'bass' is no declared model"),
        ('variant_of = "way"', "", "a variant itself"),
        ('adapter_of = "other"\nvariant_of = "base"\nadapter = "x"', "", "without adapters"),
        ('variant_of = "base"\npath = "other"', "", r"models\.way\.path': that is for the base"),
        ('variant_of = "base"\nmode = "speculative"', "", r"models\.way\.draft': say how drafts are made"),
        ('variant_of = "base"\nmode = "speculative"\ndraft = { method = "model" }', "", "name the smaller model"),
        (
            'variant_of = "base"\nmode = "speculative"\ndraft = { method = "remote", model = "x" }',
            "",
            "ngram or model, not by",
        ),
        ('variant_of = "base"\nmode = "speculative"\ndraft = { model = "x" }', "", "drafts by ngram have no model"),
        ('variant_of = "base"\nmode = "speculative"\ndraft = { lookup_min = 9 }', "", "above lookup_max"),
        ('variant_of = "base"\nmode = "speculative"\ndraft = { words = 9 }', "", "unknown key 'models.way.draft.words'"),
        ('variant_of = "base"\ndraft = { method = "ngram" }', "", "has no drafts"),
        (f'{SPECULATIVE}\npartner_pool = "old"', "", "is of one pool"),
        (
            'variant_of = "base"\nmode = "prefill_decode"',
            "",
            r"partner_pool': mode 'prefill_decode' is of two pools",
        ),
        (APART.replace("old", "far"), "", "no other pool of its site serves 'base' by vLLM"),
        (APART.replace("old", "cpp"), "", "are not vLLMs of our own"),
        (SPECULATIVE, 'models = ["way"]', r"pools\.new\.models': 'way' is another way to serve 'base'"),
    ],
)
def test_what_cannot_be_served_so_is_refused(tmp_path: Path, way: str, pool: str, wrong: str) -> None:
    with pytest.raises(InvalidConfiguration, match=wrong):
        settings_of(tmp_path, way, pool)

"""What the benchmark of the carbon model finds in real tables, and that it can find otherwise."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import carbon_model_greenllm as bench
from benchmarks import carbon_model_table as table

DATA = Path(os.environ.get("BATCHSCHED_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not (DATA / bench.ENERGY).is_file(), reason=f"{DATA / bench.ENERGY} is not here (BATCHSCHED_DATA)"
)


def test_table_1_within_its_goals() -> None:
    others, t4 = bench.table_1_max_error()
    assert others <= 0.5
    assert t4 <= 1.0


def measured(rows: list[tuple[str, str, float, float, float, float]]) -> pd.DataFrame:
    names = ["gpu", "model", "params_b", "batch", "out_tok_s", "j_per_output_token"]
    return pd.DataFrame(rows, columns=names).assign(
        source="ml.energy v1", task="chat", n_gpus=1.0, framework="vLLM", input_tokens=float("nan")
    )


def claims(tmp_path: Path, energy: pd.DataFrame, prefill_ms: float) -> dict[str, bool | None]:
    energy.to_csv(tmp_path / bench.ENERGY, index=False)
    pd.DataFrame(
        [
            ("llama1_30b", gpu, phase, 100, prefill_ms if gpu != "a100" and phase == "prompt" else 1.0 if gpu == "a100" else 5.0)
            for gpu in ("a100", "v100", "t4")
            for phase in ("prompt", "decode")
        ],
        columns=["model", "gpu", "phase", "batch_tokens_or_requests", "ms"],
    ).to_csv(tmp_path / bench.HELIX, index=False)
    return {claim.about: claim.agrees for claim in bench.takeaways(tmp_path)}


def test_the_checks_tell_agreement_from_its_opposite(tmp_path: Path) -> None:
    small, large = bench.FAMILIES["koala"]
    as_stated = measured(
        [
            ("V100", small, 7, 1, 30, 4.0), ("V100", large, 13, 1, 20, 9.0),
            ("A100", small, 7, 1, 40, 5.0), ("A100", large, 13, 1, 30, 8.0),
        ]
    )  # fmt: skip
    loads = measured([("A100", "m", 8, 1, 60, 3.0), ("A100", "m", 8, 64, 1800, 0.2)]).assign(source="Argonne")
    agreeing = claims(tmp_path, pd.concat([as_stated, loads]), prefill_ms=9.0)
    checked = {about: agrees for about, agrees in agreeing.items() if agrees is not None}
    assert len(checked) == 6
    assert all(checked.values())
    assert sum(agrees is None for agrees in agreeing.values()) == len(bench.UNCHECKED)
    reversed_sizes = as_stated.assign(
        model=as_stated.model.map({small: large, large: small}), params_b=20 - as_stated.params_b, out_tok_s=10.0
    )
    reversed_loads = loads.assign(j_per_output_token=[0.2, 3.0])
    opposite = claims(tmp_path, pd.concat([reversed_sizes, reversed_loads]), prefill_ms=3.0)
    assert [about for about, agrees in opposite.items() if agrees] == []


@needs_data
def test_the_takeaways_hold_in_the_real_tables() -> None:
    found = {claim.about: claim for claim in bench.takeaways(DATA)}
    checked = [claim for claim in found.values() if claim.agrees is not None]
    assert len(checked) == 6
    assert all(claim.agrees for claim in checked)
    assert found["energy a token falls as load rises"].computed == "in 62 of 62 cases"


def test_techniques_change_what_they_should() -> None:
    by = {(one.gpu, one.technique, one.offered): one for one in table.modelled() if one.model == "Llama 8B"}
    for gpu in ("A100-80", "H100", "L4"):
        plain, alone = by[gpu, "16-bit", 64.0], by[gpu, "16-bit", 1.0]
        assert plain.j_per_token < alone.j_per_token
        assert by[gpu, "8-bit", 64.0].j_per_token < plain.j_per_token
        assert by[gpu, "prefix cache", 64.0].j_per_token < plain.j_per_token
        # Drafts pay where the GPU waits for memory, not where it is busy already.
        assert by[gpu, "drafts", 1.0].tokens_per_s > alone.tokens_per_s
        gain, gain_alone = (by[gpu, "drafts", load].tokens_per_s / by[gpu, "16-bit", load].tokens_per_s for load in (64.0, 1.0))
        assert gain < gain_alone


def test_the_old_gpu_is_for_small_models_and_low_load() -> None:
    asked = table.nguyen()
    winners = table.least(asked)
    assert winners["Llama 1B", 64.0, 261.0][0] == "T4"
    assert winners["Llama 7B", 64.0, 261.0][0] == "RTX-6000-Ada"
    assert all(times >= 1 for _, times in winners.values())
    one = next(line for line in asked if line.g_per_kwh == 17 and line.point.gpu == "T4")
    busy_s = 1000 / one.point.tokens_per_s
    assert one.embodied_g is not None
    assert one.embodied_g.mid == pytest.approx(14281.4 * busy_s / (5 * 8760 * 3600), rel=1e-4)
    assert one.operational_g == pytest.approx(1000 * one.point.j_per_token / 3.6e6 * 1.2 * 17)


@pytest.mark.slow
@needs_data
def test_the_one_table_is_written_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = bench.report(DATA, tmp_path)
    assert figures == {"table1_max_error_pct": 0.79, "table1_max_error_but_t4_pct": 0.254}
    with (tmp_path / "carbon_model.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["how"] for row in rows} == {"measured", "modelled"}
    assert {row["technique"] for row in rows} == {"16-bit", "8-bit", "prefix cache", "drafts"}
    assert {row["g_per_kwh"] for row in rows} == {"17", "261", "501"}
    assert (tmp_path / "carbon_model.png").stat().st_size > 10_000
    assert "DISAGREES" not in capsys.readouterr().out

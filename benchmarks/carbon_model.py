"""How good the models of carbon and speed are. The last line is JSON.

`python -m benchmarks.carbon_model [--out FOLDER]`. GreenLLM's Table 1 and the takeaways of its section 3.1, Nguyen et al.'s
question, one table of all configurations (CSV and picture); the prior on families of models that it was not fitted to; gaps of
real tables filled; answers' lengths foretold. docs/benchmarks.md says what each figure is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from pathlib import Path

from benchmarks.carbon_model_greenllm import report
from benchmarks.carbon_model_profiles import coverage, filling
from benchmarks.fit_prior import Judged, median_pct, show
from benchmarks.prior_rows import DATA, GENERATION, measured


def prior() -> dict[str, float]:
    """Held-out families."""
    judged = Judged(measured())
    print("\nThe prior, on families of models that it was not fitted to: medians of the absolute error")
    show(judged, lambda row: GENERATION[row.device], "GPU generation")
    show(judged, lambda row: row.software, "engine and year")
    show(judged, lambda row: row.family, "family")
    show(judged, lambda _: "all", "")
    return {
        "prior_energy_median_error_pct": round(median_pct(judged.energy), 1),
        "prior_throughput_median_error_pct": round(median_pct(judged.rate), 1),
    }


def gaps() -> dict[str, float]:
    """Filtering against means of rows and columns."""
    found = filling()
    print(f"\n{'Gaps filled: mean absolute error':34} {'hidden':>7} {'means':>8} {'levels':>8} {'ours':>8} {'of means':>9}")
    for table in found:
        figures = f"{table.hidden:>7} {table.means:>8.3f} {table.levels:>8.3f} {table.ours:>8.3f}"
        print(f"{table.name:34} {figures} {table.ours / table.means:>9.2f}")
    # The geometric mean: each table counts the same, however large its errors are.
    return {"cf_error_vs_mean_baseline": round(statistics.geometric_mean(t.ours / t.means for t in found), 2)}


def lengths() -> dict[str, float]:
    """Answers' lengths, batch after batch."""
    found = coverage(DATA)
    print(f"\n{'Answers within the foretold P90':34} {'answers':>8} {'share':>7} {'mean':>6} {'unlearnt':>9}")
    for each in found:
        print(f"{each.service:34} {each.answers:>8} {each.p90:>7.3f} {each.mean_ratio:>6.2f} {each.usual_p90:>9.3f}")
    total = sum(each.answers for each in found)
    return {"length_p90_coverage": round(sum(each.p90 * each.answers for each in found) / total, 3)}


def main() -> None:
    """Everything in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(".bench"), help="folder for the table of all configurations")
    asked = parser.parse_args()
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores, data in {DATA}")
    try:
        figures = {**report(DATA, asked.out), **prior(), **gaps(), **lengths()}
    except FileNotFoundError as problem:
        sys.exit(f"This benchmark needs the shared data: {problem}. Name its folder in BATCHSCHED_DATA.")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

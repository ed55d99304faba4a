"""What the profiles know before and while anything is measured, held against real tables: gaps filled, answers foretold."""

from __future__ import annotations

import csv
import gzip
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from batchsched.profiles.answers import Answers
from batchsched.profiles.filtering import additive, fill
from batchsched.units import length_class
from benchmarks.prior_rows import ENERGY, HELIX

REQUESTS = "load_requests_azure2023_mooncake.parquet"
HIDDEN = 0.3
"""Share of the known cells that is hidden."""
REPEATS = 5
SERVICE = 0.1
"""Spread of single requests' log latency around its table's figure, from which attainments are made."""
LATEST, GROUP = 60, 100
"""Batches that are looked back on, and requests in one."""
CHAT = "/v1/chat/completions"
Matrix = NDArray[np.float64]


class Table(NamedTuple):
    """Loads by configurations; nan where nobody measured."""

    name: str
    cells: Matrix


def tables() -> list[Table]:
    """Models and batch sizes by GPUs and engines, from each source apart: eras are never compared."""
    cells: dict[str, dict[tuple[Any, Any], float]] = defaultdict(dict)
    with gzip.open(ENERGY, "rt") as file:
        for row in csv.DictReader(file):
            for name, load, configuration, value in _cells(row):
                cells[name][load, configuration] = value
    with HELIX.open() as file:
        for row in csv.DictReader(file):
            if float(row["ms"]) > 0 and float(row["batch_tokens_or_requests"]) > 1:
                name = f"layer ms, {row['phase']} (Helix)"
                cells[name][(row["model"], float(row["batch_tokens_or_requests"])), row["gpu"]] = float(row["ms"])
    found = [Table(name, _matrix(known)) for name, known in sorted(cells.items())]
    slow = next(table for table in found if table.name.startswith("decode ms"))
    return [*found, Table("attainment (Splitwise)", _attainments(slow.cells))]


def _cells(row: dict[str, str]) -> Iterator[tuple[str, tuple[Any, ...], tuple[str, ...], float]]:
    source, model = row["source"], row["model"]
    if source.startswith("MLPerf") or "pcap" in row["gpu"]:
        return
    batch = round(2 * math.log2(float(row["batch"])))  # concurrencies differ by a little from machine to machine
    if source.startswith("Splitwise"):
        load = (model, batch, row["input_tokens"], row["output_tokens"])
        yield "prefill ms (Splitwise)", load, (row["gpu"], row["n_gpus"]), float(row["prefill_ms"])
        yield "decode ms (Splitwise)", load, (row["gpu"], row["n_gpus"]), float(row["decode_ms_per_token"])
        return
    short = {"ml.energy v2 (2024)": "ml.energy 2024", "ml.energy v1 legacy (2023)": "ml.energy 2023"}.get(source, "Argonne")
    configuration = (row["gpu"], row["n_gpus"], row["framework"])
    yield f"tokens/s ({short})", (model, row["task"], batch), configuration, float(row["out_tok_s"])
    yield f"J/token ({short})", (model, row["task"], batch), configuration, float(row["j_per_output_token"])


def _matrix(known: dict[tuple[Any, Any], float]) -> Matrix:
    """Loads that at least two configurations ran, and configurations that ran three of them."""
    loads = sorted({load for load, _ in known}, key=str)
    configurations = sorted({configuration for _, configuration in known}, key=str)
    cells = np.array([[known.get((load, one), math.nan) for one in configurations] for load in loads])
    cells = cells[np.isfinite(cells).sum(axis=1) >= 2]
    return np.asarray(cells[:, np.isfinite(cells).sum(axis=0) >= 3])


def _attainments(ms: Matrix) -> Matrix:
    """Share of requests within the median latency of all cells, if single ones spread log-normally: shares as a profiler sees
    them, made from measured times since no public table of attainments was found."""
    limit = float(np.nanmedian(ms))
    share = np.vectorize(lambda value: statistics.NormalDist(0, SERVICE).cdf(math.log(limit / value)))
    return np.asarray(np.where(np.isfinite(ms), share(np.where(np.isfinite(ms), ms, limit)), math.nan))


class Filling(NamedTuple):
    """Mean absolute errors of what was hidden: relative, or of the share itself. `means`: row mean plus column mean."""

    name: str
    hidden: int
    means: float
    levels: float
    """Row and column levels by least squares: better than means, where gaps are uneven."""
    ours: float


def filling() -> list[Filling]:
    """Each table with a part of its known cells hidden, several times over."""
    return [_filling(table) for table in tables()]


def _filling(table: Table) -> Filling:
    odds = table.name.startswith("attainment")
    draw, errors = np.random.default_rng(0), defaultdict[str, list[float]](list)
    for _ in range(REPEATS):
        shown, gone = _hide(table.cells, draw)
        scaled = _scaled(shown, odds)
        guesses = {"means": _means(scaled), "levels": additive(scaled)}
        there = {name: _unscaled(guess, odds) for name, guess in guesses.items()}
        asked = [[None if math.isnan(value) else float(value) for value in row] for row in shown]
        there["ours"] = np.array(fill(asked, "odds" if odds else "log").values)
        for name, values in there.items():
            for i, j in gone:
                off = abs(values[i, j] - table.cells[i, j])
                errors[name].append(float(off if odds else off / table.cells[i, j]))
    mean = {name: statistics.fmean(found) for name, found in errors.items()}
    return Filling(table.name, len(errors["ours"]) // REPEATS, mean["means"], mean["levels"], mean["ours"])


def _hide(cells: Matrix, draw: np.random.Generator) -> tuple[Matrix, list[tuple[int, int]]]:
    """One cell at least stays in each row, two in each column."""
    shown, gone = cells.copy(), list[tuple[int, int]]()
    known = draw.permutation(np.argwhere(np.isfinite(cells)))
    for i, j in known:
        if len(gone) >= HIDDEN * len(known):
            break
        if np.isfinite(shown[i]).sum() > 1 and np.isfinite(shown[:, j]).sum() > 2:
            shown[i, j] = math.nan
            gone.append((int(i), int(j)))
    return shown, gone


def _scaled(cells: Matrix, odds: bool) -> Matrix:
    if not odds:
        return np.asarray(np.log(cells))
    share = np.clip(cells, 0.005, 0.995)
    return np.asarray(np.log(share / (1 - share)))


def _unscaled(values: Matrix, odds: bool) -> Matrix:
    return np.asarray(1 / (1 + np.exp(-values)) if odds else np.exp(values))


def _means(cells: Matrix) -> Matrix:
    """The baseline, on the same scale as ours."""
    return np.asarray(np.nanmean(cells, axis=1)[:, None] + np.nanmean(cells, axis=0)[None, :] - np.nanmean(cells))


class Coverage(NamedTuple):
    """Answers of one service: how many stayed within the 90th percentile foretold, and the mean foretold over the real one."""

    service: str
    answers: int
    p90: float
    mean_ratio: float
    usual_p90: float
    """Coverage of what is usual, had nothing been learnt."""


def coverage(folder: Path) -> list[Coverage]:
    """Each service as a tenant: its requests in order, as batches of a hundred, each foretold from those before it."""
    frame = pd.read_parquet(folder / REQUESTS)
    return [_coverage(str(name), part.sort_values("t_s").output_tokens.tolist()) for name, part in frame.groupby("service")]


def _coverage(service: str, tokens: Sequence[int]) -> Coverage:
    rows: list[dict[str, Any]] = []
    within, ratios = 0, list[float]()
    usual = Answers().expected(service, "m", CHAT).quantile(0.9)
    for begin in range(0, len(tokens), GROUP):
        batch = tokens[begin : begin + GROUP]
        expected = Answers(rows).expected(service, "m", CHAT)
        limit = expected.quantile(0.9)
        within += sum(n <= limit for n in batch)
        ratios.append(expected.mean() / max(1.0, statistics.fmean(batch)))
        counts = Counter(str(length_class(n)) for n in batch)
        told = {"tenant": service, "model": "m", "endpoint": CHAT, "batch_id": str(begin), "lengths": counts}
        rows = [told, *rows[: LATEST - 1]]
    return Coverage(
        service, len(tokens), within / len(tokens), statistics.median(ratios), sum(n <= usual for n in tokens) / len(tokens)
    )

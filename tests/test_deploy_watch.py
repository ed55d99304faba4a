"""Metrics, board and alert rules: what they name exists, and a server that ran a batch exposes it."""

from __future__ import annotations

import json
import re
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from batchsched.exposed import METRICS
from batchsched.queue import books
from batchsched.server.bookkeeping import Bookkeeping
from tests.live import LiveServer, live_server, requests, wait_for
from tests.test_deploy import DEPLOY, ROOT, tool

BOARD = DEPLOY / "grafana/batchsched.json"
RULES = DEPLOY / "prometheus/alerts.yaml"
SUFFIX = re.compile(r"_(bucket|sum|count)$")


LABELS = {metric.full: set(metric.labels) for metric in METRICS}
"""Of every metric that a server has."""


def _expressions() -> list[str]:
    panels = json.loads(BOARD.read_text())["panels"]
    of_board = [target["expr"] for panel in panels for target in panel["targets"]]
    return of_board + [rule["expr"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def _named(text: str) -> set[str]:
    return {SUFFIX.sub("", name) if name not in LABELS else name for name in re.findall(r"batchsched_\w+", text)}


def test_every_metric_that_is_named_exists_with_its_labels() -> None:
    for expression in _expressions():
        names = _named(expression)
        assert names <= LABELS.keys(), expression
        for labels in re.findall(r"by \(([\w, ]+)\)", expression):
            allowed = set[str]().union(*(LABELS[name] for name in names)) | {"le"}
            assert set(labels.split(", ")) <= allowed, expression
        for label in re.findall(r"\{(\w+)=", expression):
            assert label in set[str]().union(*(LABELS[name] for name in names)) | {"job"}, expression
    tested = set(re.findall(r"batchsched_\w+", (DEPLOY / "prometheus/alerts_test.yaml").read_text()))
    assert tested <= LABELS.keys()


def test_every_alert_has_a_test_and_a_word_of_advice() -> None:
    alerts = {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
    tests = yaml.safe_load((DEPLOY / "prometheus/alerts_test.yaml").read_text())["tests"]
    fired = {one["alertname"] for test in tests for one in test["alert_rule_test"] if one["exp_alerts"]}
    assert fired == alerts
    assert set(re.findall(r"`(Batchsched\w+)`", (ROOT / "docs/deploy/watch.md").read_text())) == alerts


@pytest.mark.parametrize(
    "words",
    [
        ["check", "rules", "alerts.yaml"],
        ["test", "rules", "alerts_test.yaml"],
        ["check", "config", "--syntax-only", "prometheus.yaml"],
    ],
    ids=lambda words: words[1],
)
def test_promtool_takes_them(words: list[str]) -> None:
    promtool = tool("promtool", "Debian: apt-get install --no-install-recommends prometheus")
    done = subprocess.run([promtool, *words], cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _samples(server: LiveServer) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for family in text_string_to_metric_families(server.http.get("/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


def test_a_server_that_ran_a_batch_exposes_what_the_board_shows(tmp_path: Path) -> None:
    with live_server(tmp_path) as server:
        batch_id = server.submit(requests(4))["id"]
        server.worker().drain(batch_id)
        wait_for(lambda: "batchsched_energy_joules_total" in _samples(server))
        found = _samples(server)
        assert [(s.labels, s.value) for s in found["batchsched_batches_ended_total"]] == [({"state": "completed"}, 1.0)]
        ((energy, grams),) = zip(found["batchsched_energy_joules_total"], found["batchsched_carbon_grams_total"], strict=True)
        report = server.get(f"/v1/batchsched/batches/{batch_id}/report")
        assert energy.labels == {"pool": "local", "method": "modelled"}
        assert energy.value == pytest.approx(100.0)  # one message of the worker, of 100 J
        assert (grams.labels, grams.value) == (
            {"zone": "WORLD", "method": "modelled"},
            pytest.approx(report["operational_g"], abs=1e-3),
        )
        waits, runs = found["batchsched_batch_wait_seconds_bucket"], found["batchsched_batch_run_seconds_bucket"]
        assert [s.value for s in waits + runs if s.labels["le"] == "+Inf"] == [1.0, 1.0]
        assert [s.value for s in waits] == sorted(s.value for s in waits)
        assert [s.value for s in found["batchsched_leader"]] == [1.0]
        assert found["batchsched_carbon_intensity_grams_per_kwh"][0].value > 0
        assert {s.labels["state"]: s.value for s in found["batchsched_queue_requests"]} == {"pending": 0.0, "leased": 0.0}
        assert found["batchsched_workers"][0].labels == {"pool": "local"}
        assert not any("batch_id" in s.labels or "tenant" in s.labels for samples in found.values() for s in samples)
        saved = [s.value for name in ("avoided", "added") for s in found.get(f"batchsched_carbon_{name}_grams_total", [])]
        assert len(saved) == 1
        exposed = {SUFFIX.sub("", name) for name in found}
        always = {name for name in _named(" ".join(_expressions())) if not name.endswith("_total")}
        for_some = {"replicas_wanted", "replicas_failing", "forecast_age_seconds", "forecast_source_failing", "window_open"}
        assert always - exposed <= {f"batchsched_{name}" for name in for_some}, (
            "only of launchers, windows and sources that are there"
        )


def test_books_that_are_looked_at_again_count_once(tmp_path: Path) -> None:
    with live_server(tmp_path) as server:
        batch_id = server.submit(requests(4))["id"]
        server.worker().drain(batch_id)
        wait_for(lambda: "batchsched_batch_run_seconds_sum" in _samples(server))
        before = {
            name: [s.value for s in samples]
            for name, samples in _samples(server).items()
            if "_total" in name or "_bucket" in name
        }
        kept = server.runtime.lifecycle._bookkeeping
        assert isinstance(kept, Bookkeeping)
        kept.write(batch_id)
        with server.runtime.database.read() as connection:
            assert books.due(connection, server.runtime.clock.now() + timedelta(hours=2), 5) == [batch_id]
        assert {name: [s.value for s in samples] for name, samples in _samples(server).items() if name in before} == before

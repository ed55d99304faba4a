"""Every declared metric is used, and shown at /metrics as it is declared."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from batchsched import exposed
from batchsched.exposed import CONVENTIONS, METRICS, OURS, Metric
from batchsched.operations import ATTRIBUTES
from batchsched.queue import ledger
from batchsched.queue.database import Database
from batchsched.wire import ReleaseReason
from tests.live import live_server, wait_for
from tests.test_deploy import ROOT

ONLY_WITH_SOURCES = {exposed.SOURCE_FAILING, exposed.FORECAST_AGE, exposed.FORECAST_TRUST}


def bump_all(database: Database) -> dict[str, Metric]:
    """Count one of each counter and of each histogram, and of one counter that this version does not know."""
    news = dict[str, int]()
    for metric in METRICS:
        values = [f"x{i}" for i in range(len(metric.labels))]
        if metric.kind == "counter":
            news[metric.row(*values)] = metric.per
        elif metric.kind == "histogram":
            buckets = [str(metric.bounds[0]), "0"]  # ours are named by their bounds, the conventions' are numbered
            news |= {f"{metric.row(*values)}:{bucket}": 1 for bucket in [buckets[metric.conventional], "sum"]}
    with database.write() as connection:
        ledger.bump_each(connection, news | {"of_tomorrow_total:why": 3})
    return {metric.full: metric for metric in METRICS if metric not in ONLY_WITH_SOURCES}


def test_metrics_are_shown_as_they_are_declared(tmp_path: Path) -> None:
    with live_server(tmp_path) as server:
        declared = bump_all(server.runtime.database)
        wait_for(lambda: exposed.PLAN_AGE.full in server.http.get("/metrics").text)
        text = server.http.get("/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert "batchsched_of_tomorrow_total" not in families
    (unknown,) = families.pop("batchsched_of_tomorrow").samples
    assert (unknown.labels, unknown.value) == ({"kind": "why"}, 3.0)
    told = dict(re.findall(r"^# HELP (\S+) (.+)$", text, re.MULTILINE))
    kinds = dict(re.findall(r"^# TYPE (\S+) (.+)$", text, re.MULTILINE))
    for name, metric in declared.items():
        family = families.pop(name.removesuffix("_total"))
        assert (kinds[name], told[name]) == (metric.kind, metric.help)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels), name
            assert sample.value == 1.0 or metric.kind == "gauge" or sample.name.endswith("_sum") or sample.labels.get("le"), name
        assert family.samples or metric.kind == "gauge", name
    assert not families, "shown, but not declared"


def test_every_declared_metric_is_used() -> None:
    folders = ("batchsched", "batchsched/server", "queue")
    paths = [path for folder in folders for path in (ROOT / folder).glob("*.py") if path.name != "exposed.py"]
    words = set(re.findall(r"\w+", "".join(path.read_text() for path in paths)))
    single = {name for name, value in vars(exposed).items() if isinstance(value, Metric)}
    assert single | {"RELEASED"} <= words
    assert set(exposed.RELEASED) == set(get_args(ReleaseReason))
    assert {getattr(exposed, name) for name in single} | set(exposed.RELEASED.values()) == set(METRICS)
    assert len({metric.full for metric in METRICS}) == len(METRICS) == len(OURS) + len(CONVENTIONS)


def test_what_is_asked_of_engines_has_the_attributes_names() -> None:
    known = {name.replace(".", "_") for name in ATTRIBUTES}
    assert set[str]().union(*(metric.labels for metric in CONVENTIONS)) <= known


def test_help_is_the_pages_text_without_links() -> None:
    shown = Metric("x", "gauge", "1 of [those](a.md#b) that `wait` ([c.md](c.md)); else 0").help
    assert shown == "1 of those that wait; else 0."
    assert not [metric.full for metric in METRICS if re.search(r"[`\[\]]|\.md|\.\.", metric.help)]


def test_a_counter_takes_a_value_for_each_label() -> None:
    assert exposed.ENERGY.row("p", "m") == "energy_joules_total:p:m"
    with pytest.raises(ValueError, match="batchsched_energy_joules_total"):
        exposed.ENERGY.row("p")

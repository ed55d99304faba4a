"""Fair shares: the rule itself, and thousands of chunks on a clock that only events move."""

from __future__ import annotations

import heapq
import math
import random
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsched.planner import Allotment, Plan
from batchsched.planner.allowance import allowances
from batchsched.planner.fairness import Turns, Want, arrivals, contested
from batchsched.planner.latest_start import OpenPool, latest_safe_starts
from batchsched.queue import batches, shares
from tests.live import BASIC, live_server, requests
from tests.planner_cases import job, slots

MODEL = frozenset({"m"})


def want(batch: str, tenant: str, **more: object) -> Want:
    settings: dict[str, object] = {"model": "m", "deadline_s": 1e6, "priority": 0, "requests": math.inf, "request_s": 1.0}
    return Want(batch, tenant, startup_s=60.0, **{**settings, "due": False, **more})  # type: ignore[arg-type]


@dataclass
class Batch:
    """A tenant's batch: chunks of so many expected seconds each, and by when they should be done."""

    name: str
    tenant: str
    left: list[float]
    deadline_s: float = math.inf
    done_at: float = math.inf


class Fleet:
    """Replicas that claim whenever they are free, as workers do; what a chunk really took is known when it ends."""

    def __init__(self, replicas: int, weights: dict[str, float], wrong: float = 0.0) -> None:
        self.weights = weights
        self.now = 0.0
        self.batches: list[Batch] = []
        self.busy_s: defaultdict[str, float] = defaultdict(float)
        self.leases: list[tuple[float, str]] = []
        self._free = replicas
        self._replicas = replicas
        self._served_s: dict[str, float] = {}
        self._present: set[str] = set()
        self._running: list[tuple[float, int, Batch, float, float]] = []
        self._arrivals: list[tuple[float, Batch]] = []
        self._random = random.Random(0)
        self._wrong = wrong
        self._planned_at = -math.inf
        self._starts: dict[str, float] = {}
        self._contested: set[str] = set()

    def submit(self, at: float, batch: Batch) -> None:
        """It will be there from then on."""
        self._arrivals.append((at, batch))
        self._arrivals.sort(key=lambda item: item[0])

    def run(self, until: float) -> None:
        """Let time pass."""
        while True:
            self._admit()
            while self._free and self._claim():
                pass
            upcoming = min([at for at, *_ in self._running[:1]] + [at for at, _ in self._arrivals[:1]], default=math.inf)
            self.now = min(upcoming, until)
            if upcoming > until:
                return
            while self._running and self._running[0][0] <= self.now:
                self._end()

    def _admit(self) -> None:
        while self._arrivals and self._arrivals[0][0] <= self.now:
            self.batches.append(self._arrivals.pop(0)[1])
        present = {batch.tenant for batch in self.batches if batch.left} | {batch.tenant for _, _, batch, *_ in self._running}
        self._served_s |= arrivals(self._served_s, self._present, present)
        self._present = present

    def _claim(self) -> bool:
        got, _ = Turns(self._wants(), self._with_in_flight(), self.weights).pick(MODEL)
        if got is None:
            return False
        batch = next(batch for batch in self.batches if batch.name == got.batch_id)
        expected_s = batch.left.pop(0)
        actual_s = expected_s * math.exp(self._random.gauss(0, self._wrong))
        self.leases.append((self.now, batch.tenant))
        heapq.heappush(self._running, (self.now + actual_s, len(self.leases), batch, expected_s, actual_s))
        self._free -= 1
        return True

    def _end(self) -> None:
        ended_at, _, batch, _, actual_s = heapq.heappop(self._running)
        self._free += 1
        self._served_s[batch.tenant] = self._served_s.get(batch.tenant, 0.0) + actual_s / self.weights.get(batch.tenant, 1.0)
        self.busy_s[batch.tenant] += actual_s
        if not batch.left:
            batch.done_at = ended_at

    def _with_in_flight(self) -> dict[str, float]:
        out = dict(self._served_s)
        for _, _, batch, expected_s, _ in self._running:
            out[batch.tenant] = out.get(batch.tenant, 0.0) + expected_s / self.weights.get(batch.tenant, 1.0)
        return out

    def _wants(self) -> list[Want]:
        if self.now >= self._planned_at + 60:
            self._plan()
        return [
            want(
                b.name,
                b.tenant,
                deadline_s=b.deadline_s,
                request_s=b.left[0],
                due=self._starts.get(b.name, math.inf) <= self.now and b.name not in self._contested,
            )
            for b in self.batches
            if b.left
        ]

    def _plan(self) -> None:
        """Once a minute, as a plan would: latest safe starts, and the deadlines that cannot all be met."""
        self._planned_at = self.now
        urgent = [batch for batch in self.batches if math.isfinite(batch.deadline_s) and batch.left]
        jobs = [job(b.name, sum(b.left), b.deadline_s - self.now, max_replicas=len(b.left)) for b in urgent]
        pools = [OpenPool("a", self._replicas, [(-1e7, 1e7)])]
        self._starts = {name: self.now + at for name, at in latest_safe_starts(jobs, pools, margin_s=120.0).items()}
        self._contested = contested(jobs, pools)


def _sizes(draw: random.Random, count: int, longest: float = 100.0) -> list[float]:
    return [min(longest, draw.expovariate(1 / 20) + 1) for _ in range(count)]


def test_shares_converge_to_the_weights_while_tenants_come_and_go() -> None:
    weights = {"one": 1.0, "two": 2.0, "five": 5.0, "guest": 2.0}
    draw = random.Random(1)
    fleet = Fleet(4, weights, wrong=0.4)
    for tenant in ("one", "two", "five"):
        for i in range(20):
            fleet.submit(0, Batch(f"{tenant}{i}", tenant, _sizes(draw, 200)))
    for visit in range(6):  # a guest, now and then, with a little work
        fleet.submit(1000 + 1500 * visit, Batch(f"guest{visit}", "guest", _sizes(draw, 30)))
    before: dict[str, float] = defaultdict(float)
    for until in (5_000, 10_000, 15_000):
        fleet.run(until)
        got = {tenant: fleet.busy_s[tenant] - before[tenant] for tenant in ("one", "two", "five")}
        total = sum(got.values())
        for tenant, seconds in got.items():
            assert seconds / total == pytest.approx(weights[tenant] / 8, rel=0.05), (until, got)
        before = defaultdict(float, fleet.busy_s)
    assert len(fleet.leases) > 2000


def test_nobody_starves() -> None:
    weights = {"small": 1.0, "large": 50.0}
    draw = random.Random(2)
    fleet = Fleet(2, weights, wrong=0.5)
    for tenant in weights:
        fleet.submit(0, Batch(tenant, tenant, _sizes(draw, 4000)))
    fleet.run(20_000)
    turns = [at for at, tenant in fleet.leases if tenant == "small"]
    gaps = [b - a for a, b in pairwise(turns)]
    longest = 100.0 * math.exp(4 * 0.5)
    assert max(gaps) <= 51 * longest / 2
    assert sum(gaps) / len(gaps) < 51 * 21 / 2 * 1.5


def test_a_tenant_that_was_away_neither_saves_up_turns_nor_loses_them() -> None:
    fleet = Fleet(1, {})
    fleet.submit(0, Batch("early", "early", [10.0] * 1000))
    fleet.submit(3000, Batch("late", "late", [10.0] * 1000))
    fleet.run(3000)
    fleet.run(4000)
    assert 48 <= sum(tenant == "late" for at, tenant in fleet.leases if at >= 3000) <= 52


def test_deadlines_that_can_be_met_go_first_and_are_met() -> None:
    draw = random.Random(3)
    fleet = Fleet(2, {"busy": 10.0})
    fleet.submit(0, Batch("busy", "busy", _sizes(draw, 5000)))
    urgent = []
    for i in range(20):
        chunks = _sizes(draw, 20)
        at = 2000.0 * i
        batch = Batch(f"urgent{i}", "hurried", chunks, deadline_s=at + sum(chunks) + 800)
        urgent.append(batch)
        fleet.submit(at, batch)
    fleet.run(45_000)
    assert [b.name for b in urgent if b.done_at > b.deadline_s] == []
    assert fleet.busy_s["busy"] > 30_000  # and meanwhile nobody stood still


def test_where_not_all_deadlines_can_be_met_the_weights_decide() -> None:
    draw = random.Random(4)
    fleet = Fleet(2, {"three": 3.0})
    for i in range(30):
        for tenant in ("one", "three"):
            fleet.submit(0, Batch(f"{tenant}{i}", tenant, _sizes(draw, 50), deadline_s=6000 + 10 * i))
    fleet.run(6000)
    assert fleet.busy_s["three"] / sum(fleet.busy_s.values()) == pytest.approx(0.75, rel=0.05)


def test_two_tenants_share_a_live_server_by_weight(tmp_path: Path) -> None:
    weighted = BASIC + "slot_s = 14400.0\n[tenants.large]\nweight = 3.0\n"
    with live_server(tmp_path, weighted, server__chunk_lines=5) as server:
        workers = [server.worker(), server.worker()]
        owners = {server.submit(requests(80))["id"]: tenant for tenant in ("large", "small")}
        for batch_id in owners:
            server.until(batch_id, "in_progress")
        with server.runtime.database.write() as connection:
            for batch_id, tenant in owners.items():
                batches.note(connection, batch_id, tenant=tenant)
        server.runtime.scheduler.plan_now()
        served: list[str] = []
        for turn in range(16):
            lease = workers[turn % 2].lease()
            served.append(owners[lease["batch_id"]])
            workers[turn % 2].finish(lease)  # its meter says ten seconds
        assert 11 <= served.count("large") <= 13
        with server.runtime.database.read() as connection:
            assert sum(shares.served(connection)[t] * w for t, w in {"large": 3, "small": 1}.items()) == pytest.approx(
                160, rel=0.05
            )


tenants = st.dictionaries(st.sampled_from("abcdef"), st.floats(0.1, 20), min_size=2)


@given(tenants, st.integers(0, 1000))
def test_any_weights_differ_by_no_more_than_a_chunk_each(weights: dict[str, float], seed: int) -> None:
    draw = random.Random(seed)
    served: dict[str, float] = {}
    got: dict[str, float] = defaultdict(float)
    longest: dict[str, float] = dict.fromkeys(weights, 0.0)
    for _ in range(200):
        sizes = {tenant: draw.choice([1.0, 7.0, 50.0]) for tenant in weights}
        turns = Turns([want(tenant, tenant, request_s=sizes[tenant]) for tenant in weights], served, weights)
        chosen, _ = turns.pick(MODEL)
        assert chosen is not None
        got[chosen.tenant] += sizes[chosen.tenant]
        longest[chosen.tenant] = max(longest[chosen.tenant], sizes[chosen.tenant])
        served[chosen.tenant] = got[chosen.tenant] / weights[chosen.tenant]
        for one in weights:
            for other in weights:
                apart = got[one] / weights[one] - got[other] / weights[other]
                assert apart <= longest[one] / weights[one] + 1e-9


def test_one_claim_of_several_chunks_looks_at_the_order_after_each() -> None:
    turns = Turns([want("a", "a"), want("b", "b"), want("c", "b", deadline_s=5.0)], {}, {"b": 2.0})
    order = []
    for _ in range(6):
        got, _ = turns.pick(MODEL)
        assert got is not None
        order.append(got.batch_id)
        turns.took(got, 10)
    assert order == ["a", "c", "c", "a", "c", "c"]


def test_priority_counts_within_a_tenant_only_and_never_before_a_deadline_that_is_due() -> None:
    wants = [want("low", "a", deadline_s=10.0), want("high", "a", priority=5), want("other", "b", priority=100)]
    got, _ = Turns(wants, {"b": 1.0}, {}).pick(MODEL)
    assert got is not None
    assert got.batch_id == "high"
    got, _ = Turns([*wants, want("due", "b", due=True)], {"b": 1.0}, {}).pick(MODEL)
    assert got is not None
    assert got.batch_id == "due"


def test_an_engine_changes_its_model_only_where_that_is_worth_it() -> None:
    def pick(owed_s: float, **more: object) -> tuple[str | None, str | None]:
        wants = [want("mine", "a"), want("theirs", "b", model="other", **more)]
        got, load = Turns(wants, {"a": owed_s}, {}).pick(MODEL)
        return (got.batch_id if got else None), load

    assert pick(599.0) == ("mine", None)
    assert pick(601.0) == (None, "other")
    assert pick(0.0, due=True) == (None, "other")
    assert pick(1e6, requests=10.0) == ("mine", None)  # only planned, not pressing
    assert Turns([want("theirs", "b", model="other")], {}, {}).pick(MODEL) == (None, "other")
    assert Turns([], {}, {}).pick(MODEL) == (None, None)


def test_a_model_that_is_left_to_other_engines_gives_way_to_the_next() -> None:
    turns = Turns([want("x", "a", model="n", due=True), want("y", "b", model="k", requests=3.0), want("z", "b")], {}, {})
    assert turns.pick(MODEL) == (None, "n")
    assert [(one.batch_id, one.pressing) for one in turns.of("n") + turns.of("k")] == [("x", True), ("y", False)]
    turns.leave("n")
    got, load = turns.pick(MODEL)
    assert got is not None
    assert (got.batch_id, load) == ("z", None)
    turns.leave("m")
    assert turns.pick(MODEL) == (None, "k")
    turns.leave("k")
    assert turns.over


def test_what_a_model_serves_comes_in_the_order_of_turns() -> None:
    some = [want("y", "b"), want("x", "b"), want("w", "a"), want("v", "b", deadline_s=9.0, due=True), want("o", "a", model="n")]
    for wants in (some, some[::-1]):
        assert [one.batch_id for one in Turns(wants, {"a": 5.0}, {}).of("m")] == ["v", "x", "y", "w"]


def test_newcomers_begin_at_the_least_of_those_who_stayed() -> None:
    served = {"a": 50.0, "b": 70.0, "c": 10.0, "d": 900.0}
    assert arrivals(served, {"a", "b"}, {"a", "b", "c", "d", "e"}) == {"c": 50.0, "d": 900.0, "e": 50.0}
    assert arrivals(served, set(), {"a", "e"}) == {"a": 900.0, "e": 900.0}
    assert arrivals({}, set(), {"a"}) == {"a": 0.0}


def _placed(*places: tuple[str, int, float]) -> Plan:
    """Slots of 100 s; a place: job, slot, requests of one second each. Everything is due after 10 slots."""
    allotments = [Allotment(name, "a", slot, 100.0 * slot, 100.0 * slot + 100, n, n) for name, slot, n in places]
    return Plan(slots(20, 100.0), allotments, due_s=dict.fromkeys((name for name, _, _ in places), 1000.0))


def test_thousands_of_contested_deadlines_are_found_in_a_moment() -> None:
    pools = [OpenPool("a", 4, [(-1e6, 1e6)])]
    jobs = [job(f"b{i}", 3000.0, 1000.0 + 5 * i) for i in range(2000)]
    began = time.process_time()
    assert len(contested(jobs, pools)) == 2000
    assert time.process_time() - began < 5  # a tenth of a second here; it was minutes when each looked at all deadlines


def test_jobs_change_places_where_that_touches_nothing() -> None:
    jobs = {name: job(name, 100.0, 1e6) for name in ("first", "next", "last")} | {"else": job("else", 100.0, 1e6, model="other")}
    plan = _placed(("first", 0, 80), ("next", 5, 60), ("next", 11, 40), ("last", 12, 100), ("else", 1, 20))
    assert allowances(plan, jobs, "a", 10.0, {}) == ({"first": 80, "next": 60}, {"m": 80})
    # What one takes is gone for all of its model; and nobody changes places with what is done.
    assert allowances(plan, jobs, "a", 10.0, {"next": 30}) == ({"first": 80, "next": 30}, {"m": 50})
    assert allowances(plan, jobs, "a", 10.0, {"first": 80}) == ({}, {"m": 0})
    # Another model's place is its own, and where nobody has work left in this slot, nobody comes early.
    assert allowances(plan, jobs, "a", 110.0, {"first": 80}) == ({"else": 20}, {"m": 0, "other": 20})
    assert allowances(plan, {"next": jobs["next"]}, "a", 10.0, {}) == ({}, {})


def test_jobs_take_together_what_the_plan_gives_their_model() -> None:
    turns = Turns([want("a", "a", requests=80.0), want("b", "b", requests=60.0)], {}, {"b": 3.0}, {"m": 80.0})
    taken: dict[str, int] = defaultdict(int)
    while (got := turns.pick(MODEL)[0]) is not None:
        taken[got.batch_id] += 10
        turns.took(got, 10)
    assert taken == {"a": 20, "b": 60}
    assert turns.over


def test_contested_are_those_that_cannot_all_be_met() -> None:
    pools = [OpenPool("a", 1, [(-1e6, 1e6)]), OpenPool("b", 1, [(-1e6, 1e6)])]
    fits = job("fits", 100.0, 200.0)
    assert contested([fits, job("too", 100.0, 200.0)], pools) == set()
    assert contested([fits, job("alone", 300.0, 200.0)], pools) == {"alone"}
    assert contested([fits, job("rival", 150.0, 220.0), job("far", 100.0, 9000.0)], pools) == {"fits", "rival"}
    assert contested([fits, job("rival", 150.0, 220.0), job("there", {"b": 100.0}, 150.0)], pools) == {"fits", "rival"}

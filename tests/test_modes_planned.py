"""Other ways to serve a model are planned where what was measured says that they pay, and nowhere else; and they are compared."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from batchsched.carbon.greenllm import Device, Split, Use
from batchsched.carbon.models import Hardware
from batchsched.carbon.modes import judge as judge_carbon
from batchsched.carbon.report import Entry
from batchsched.cli.main import cli
from batchsched.fleet import Fleet, Pool, ServedModel, Site
from batchsched.measures import PartnerUse
from batchsched.planner import PoolState, Slot
from batchsched.planner.problem import Link
from batchsched.profiles.modes import Way, beside, sides
from batchsched.profiles.profile import Drafted, Profile, Sent
from batchsched.profiles.ways import judge
from batchsched.server.accounts import Accounts
from batchsched.server.planned import shares_of_use
from batchsched.settings import Carbon
from batchsched.ways import Ways, partners_on
from batchsched.wire import PREFIX, Probe
from tests.live import LiveServer, live_server, requests
from tests.test_profile_commands import CONFIG
from tests.test_trials import send, trial

VARIANT = """
[models.guessing]
variant_of = "tiny"
mode = "speculative"
draft = { method = "ngram" }
"""


@pytest.fixture
def server(tmp_path: Path, database_url: str) -> Iterator[LiveServer]:
    with live_server(tmp_path, CONFIG + VARIANT, server__database_url=database_url) as running:
        yield running


def known(model: str, read: float = 1000.0, written: float = 100.0, power_w: float = 100.0, **more: Any) -> Profile:
    """Measured, unless said otherwise."""
    said: dict[str, Any] = {"source": "measured", "observations": 9, **more}
    return Profile(model, "new", read, written, power_w, 10.0, 0.1, 30.0, **said)


@pytest.mark.parametrize(
    ("way", "base", "pays", "why"),
    [
        (known("way", written=150.0), known("base"), True, "may be planned: it takes x1.00 of the time"),
        (known("way", written=120.0, power_w=130.0), known("base"), True, "x0.83 and x1.08 for one written"),
        (known("way", written=98.0), known("base"), False, "is off, for it does not pay"),
        (known("way", written=150.0, source="prior"), known("base"), False, "nothing of way was measured there yet"),
        (known("way", written=150.0), known("base", source="prior"), False, "nothing of base was measured"),
    ],
)
def test_a_way_pays_where_it_was_measured_to(way: Profile, base: Profile, pays: bool, why: str) -> None:
    found = judge(way, base, "speculative")
    assert found.pays is pays
    assert why in found.why


def test_what_does_not_fit_the_link_is_refused_with_the_figures() -> None:
    sent = Sent(131_072.0, 100e6)
    narrow = judge(known("way", written=300.0, sent=sent), known("base"), "prefill_decode")
    assert narrow.why == (
        "is not planned: it sends 131,072 bytes a token, 131.1 MB/s at its full rate, and the link between its pools takes "
        "100.0 MB/s."
    )
    assert judge(known("way", written=300.0, sent=Sent(131_072.0, 1e9)), known("base"), "prefill_decode").pays
    drafted = known("way", written=300.0, sent=Sent(600_000.0, 100e6), drafted=Drafted(10.0, 40.0, 10.0))
    assert "360.0 MB/s" in judge(drafted, known("base"), "draft_target").why


def test_a_mode_of_two_pools_takes_a_partner_and_bandwidth() -> None:
    apart = ServedModel(variant_of="base", mode="prefill_decode", partner_pool="old")
    models = {"base": ServedModel(), "apart": apart, "other": apart}
    fleet = Fleet({"home": Site("DE")}, {"new": Pool(count=2), "old": Pool(models=["base"])}, models, "home")
    other = {("apart", "new"): known("apart", written=200.0, sent=Sent(1024.0, 1e9)), ("other", "new"): known("other", 2000.0)}
    profiles = {("base", "new"): known("base"), **other}
    slots = [Slot(0.0, 900.0), Slot(900.0, 900.0)]
    row = {"pool": "new", "modes": ["speculative", "prefill_decode"]}

    def seen(alive: list[dict[str, Any]], *, expected: bool = False, **replicas: int) -> Ways:
        """The partner pool closes after the first slot."""
        return Ways(fleet, profiles, alive, replicas, slots, lambda _, count: [count, 0.0], expected=expected)

    ways = seen([row, {**row, "modes": None}], new=2)
    assert ways.pays("apart", "new")
    assert (ways.replicas("apart", "new"), ways.replicas("base", "new")) == (1, 2)
    config = ways.configuration("apart", "new")
    partners = "partners on old (prefill_decode)"
    assert (config.takes, config.links) == ({"new": 1.0}, {partners: 1.0, "link new - old": 1_024_000.0})
    assert ways.configuration("other", "new").links == {partners: 1.0}  # the same one
    old = PoolState("old", "home", "DE", 1, [1.0, 1.0], 1.0, [None, None], embodied_g_per_s=0.5, price_g_per_s=0.1)
    assert ways.links([old]) == [Link(partners, [1.0, 0.0], 0.5, 0.1, "old"), Link("link new - old", [1e9, 1e9])]
    assert partners_on(fleet, [row, {**row, "modes": None}]) == {"old": 1}
    assert partners_on(fleet, [{"pool": "old", "modes": ["prefill_decode"]}]) == {}
    assert ways.loaded("new", ["base", "apart"]) == ["base", config.name]
    expected = seen([], expected=True, new=2, old=1)  # of nobody that is there yet: on the other pool's own
    assert expected.configuration("apart", "new").takes == {"new": 1.0, "old": 1.0}
    assert expected.links([old])[0] == Link(partners, [1.0, 1.0])
    alone = seen([{**row, "modes": []}], new=2)
    assert not alone.pays("apart", "new")
    why = "is not planned: no worker of new has a partner on old now."
    assert alone.reasons(["base"]) == {"base": [f"apart on new {why}", f"other on new {why}"]}
    assert alone.links([old])[0] == Link(partners, [0.0, 0.0])  # no replica of the other pool
    resting = seen([], new=2)  # whoever is there gets no work
    assert not resting.pays("apart", "new")
    assert resting.configuration("apart", "new").takes == {"new": 1.0}


@pytest.mark.parametrize(
    ("partners", "open_", "mb_per_s", "sure_s"),
    [
        (2, [2.0, 1.0, 0.0], 10.0, math.inf),  # they close when the pool does
        (1, [2.0, 1.0, 0.0], 10.0, 0.0),
        (2, [2.0, 1.5, 0.0], 10.0, 900.0),
        (2, [2.0, 1.0, 0.0], 1.5, 0.0),  # one sends 1.024 MB/s
    ],
)
def test_a_mode_is_sure_while_every_open_replica_has_its_partner(
    partners: int, open_: list[float], mb_per_s: float, sure_s: float
) -> None:
    apart = ServedModel(variant_of="base", mode="prefill_decode", partner_pool="old")
    models = {"base": ServedModel(), "apart": apart}
    fleet = Fleet({"home": Site("DE")}, {"new": Pool(count=2), "old": Pool(models=["base"])}, models, "home")
    quick = known("apart", written=200.0, sent=Sent(1024.0, mb_per_s * 1e6))
    profiles = {("base", "new"): known("base"), ("apart", "new"): quick}
    alive = [{"pool": "new", "modes": ["prefill_decode"] if n < partners else []} for n in range(2)]
    slots = [Slot(900.0 * n, 900.0) for n in range(3)]
    ways = Ways(fleet, profiles, alive, {"new": 2}, slots, lambda _, count: [count, 1.0, 0.0], expected=False)
    new = PoolState("new", "home", "DE", 2, open_, 1.0, [None] * 3)
    assert ways.sure_s("apart", new) == sure_s
    assert ways.sure_s("base", new) == math.inf


def measured(server: LiveServer, faster: float) -> None:
    """Both ways on `local`: the drafts make it that much faster, at the same watts."""
    base = [trial() for _ in range(4)]
    spent = {"seconds": 60.0 / faster, "energy_j": 2500.0 / faster, "host_j": 500.0 / faster}
    drafts = {"drafts": 7000.0, "draft_tokens": 28_000.0, "accepted_tokens": 7000.0}
    send(server, *base, *(trial(model="guessing", **spent, **drafts) for _ in range(4)))


def begun(server: LiveServer, data: bytes) -> str:
    """A batch that is in progress and can wait for nothing."""
    batch: str = server.submit(data, batchsched={"sites": ["home"], "deadline": "1m", "on_deadline": "finish"})["id"]
    server.until(batch, "in_progress")
    return batch


def told(server: LiveServer) -> dict[str, Any]:
    found: list[dict[str, Any]] = server.get(f"{PREFIX}/profiles")["profiles"]
    return next(one for one in found if (one["model"], one["pool"]) == ("guessing", "local"))


def test_a_variant_is_planned_once_it_is_measured_and_pays(server: LiveServer) -> None:
    worker = {"pool": "local", "host": "h", "pid": 1, "protocol": 2}
    assert set(server.post(f"{PREFIX}/workers", worker)["models"]) == {"tiny"}
    able = server.post(f"{PREFIX}/workers", {**worker, "modes": ["speculative"]})
    assert able["models"]["guessing"]["draft"]["method"] == "ngram"
    batch = begun(server, requests(50))
    scheduler = server.runtime.scheduler
    view = scheduler.observer.look(server.runtime.clock.now())
    unknown = "is not planned: nothing of guessing was measured there yet."
    assert view.ways == {"tiny": [f"guessing on {pool} {unknown}" for pool in ("local", "large")]}
    measured(server, 2.0)
    view = scheduler.observer.look(server.runtime.clock.now())
    (job,) = view.problem.jobs
    assert {config.model for config in job.configurations.values()} == {"guessing"}
    assert [job.configuration(key).model for key in job.keys_on("local")] == ["guessing"]  # the plain way is beaten
    said = next(why for why in view.ways["tiny"] if why.startswith("guessing on local"))
    assert "may be planned" in said
    assert "of its drafted tokens 25% stay, 2.00 tokens a step" in said
    scheduler.plan_now()
    assert any(
        "guessing on local may be planned" in line for line in server.get(f"{PREFIX}/batches/{batch}/explain")["sentences"]
    )
    claim = {"worker_id": able["worker_id"], "ready_models": ["guessing"], "renames": True}
    (lease,) = server.post(f"{PREFIX}/leases", claim)["leases"]
    assert (lease["model"], lease["rename"]) == ("guessing", True)
    assert (told(server)["acceptance"], told(server)["tokens_per_step"]) == (0.25, 2.0)


def drafted_s(server: LiveServer) -> float:
    """What all that is left of the one batch is expected to take with drafts."""
    (job,) = server.runtime.scheduler.observer.look(server.runtime.clock.now()).problem.jobs
    return next(seconds for key, seconds in job.seconds_on.items() if job.configuration(key).model == "guessing")


def test_chunks_that_drafts_do_not_suit_are_served_plainly_and_the_others_go_on(tmp_path: Path, database_url: str) -> None:
    with live_server(tmp_path, CONFIG + VARIANT, server__database_url=database_url, server__chunk_lines=25) as server:
        me = server.post(f"{PREFIX}/workers", {"pool": "local", "host": "h", "pid": 1, "protocol": 2, "modes": ["speculative"]})
        begun(server, requests(50))
        measured(server, 2.0)
        server.runtime.scheduler.plan_now()
        claim = {"worker_id": me["worker_id"], "ready_models": ["guessing"], "renames": True}
        (first,) = server.post(f"{PREFIX}/leases", claim)["leases"]
        before_s, known = drafted_s(server), server.runtime.scheduler.observer.current_profiles()
        back = {"token": first["token"], "reason": "preempted", "plain": True}
        server.post(f"{PREFIX}/leases/{first['chunk_id']}/release", back)
        slower = known["tiny", "local"].seconds(1, 1) / known["guessing", "local"].seconds(1, 1)
        assert drafted_s(server) == pytest.approx(before_s * (1 + slower) / 2, rel=0.02)  # for half of them nothing is drafted
        (second,) = server.post(f"{PREFIX}/leases", claim)["leases"]
        assert (second["model"], second["first_line"]) == ("guessing", 26)
        then = server.post(f"{PREFIX}/leases", claim)
        assert (then["leases"], then["prepare"]) == ([], "tiny")
        (again,) = server.post(f"{PREFIX}/leases", {**claim, "ready_models": ["tiny"]})["leases"]
        assert (again["chunk_id"], again["model"], again["rename"]) == (first["chunk_id"], "tiny", False)


def test_a_uniform_batch_is_served_as_it_is_named(server: LiveServer) -> None:
    server.post(f"{PREFIX}/workers", {"pool": "local", "host": "h", "pid": 1, "protocol": 2, "modes": ["speculative"]})
    batch = server.submit(requests(5), batchsched={"sites": ["home"], "uniform": True})["id"]
    server.until(batch, "in_progress")
    measured(server, 2.0)
    view = server.runtime.scheduler.observer.look(server.runtime.clock.now())
    (job,) = view.problem.jobs
    assert not job.configurations


def test_one_that_does_not_pay_stays_off_by_itself(server: LiveServer) -> None:
    begun(server, requests(50))
    measured(server, 0.8)
    view = server.runtime.scheduler.observer.look(server.runtime.clock.now())
    (job,) = view.problem.jobs
    assert not job.configurations
    assert "guessing on local is off, for it does not pay" in " ".join(view.notes)
    assert "is off" in told(server)["planned"]


APART = """
[sites.home]
zone = "NL"
[pools.new]
gpu = "A100-80"
count = 2
[pools.old]
gpu = "T4"
models = ["tiny"]
bought_at = 2020-01-01
[models.tiny]
parameters_b = 8
[models.apart]
variant_of = "tiny"
mode = "prefill_decode"
partner_pool = "old"
"""


def test_a_partner_is_a_replica_of_its_pool_for_as_long_as_that_is_open(tmp_path: Path) -> None:
    with live_server(tmp_path, APART, server__chunk_lines=10, planner__solver="greedy") as server:
        new = {"pool": "new", "host": "h", "pid": 1, "protocol": 2}
        server.post(f"{PREFIX}/workers", {**new, "modes": ["prefill_decode"]})
        server.post(f"{PREFIX}/workers", new)
        spent = {"seconds": 30.0, "energy_j": 500.0, "host_j": 50.0}
        aside = PartnerUse(30.0, 50.0, "rapl", 10.0, "modelled", 1024.0 * 16_000, 16_000, 1e8)
        send(server, *(trial(pool="new") for _ in range(4)))
        send(server, *(trial(pool="new", model="apart", partner=aside, **spent) for _ in range(4)))
        batch = server.submit(requests(100), batchsched={"deadline": "2m", "on_deadline": "finish"})["id"]
        server.until(batch, "in_progress")
        scheduler = server.runtime.scheduler
        scheduler.plan_now()
        published = scheduler.published
        assert published is not None
        (job,) = published.problem.jobs
        assert [job.configuration(key).model for key in job.keys_on("new")] == ["apart", "tiny"]  # for whom has no partner
        assert job.sure_s == {job.keys_on("new")[0]: 0.0}  # so no deadline rests on it
        assert published.model(batch, "new", server.runtime.clock.now()) == "apart"
        new_pool, old_pool = server.get(f"{PREFIX}/plan")["pools"]
        assert (old_pool["name"], old_pool["replicas"], old_pool["connected"], old_pool["open"]) == ("old", 1, True, True)
        assert (new_pool["replicas"], old_pool["capacity"][0]) == (2, 1.0)
        used = shares_of_use(published)
        assert 0 < used["old"][0] <= used["new"][0]
        assert "on pools new and old with apart" in " ".join(server.get(f"{PREFIX}/batches/{batch}/explain")["sentences"])
        server.post(f"{PREFIX}/pools/old/cordon")
        scheduler.plan_now()
        published = scheduler.published
        assert published is not None
        assert {a.config for a in published.plan.allotments} == {""}  # plainly
        assert published.model(batch, "new", server.runtime.clock.now()) == "tiny"
        assert [pool["open"] for pool in server.get(f"{PREFIX}/plan")["pools"]] == [True, False]


def test_all_that_is_open_of_a_pool_is_its_workers_and_partners_together(tmp_path: Path) -> None:
    half = '[windows.half]\npool = "old"\ncron = "0 0 * * *"\nduration = "2d"\nshare = 0.5\n'
    config = APART.replace('gpu = "T4"', 'gpu = "T4"\ncount = 2') + half
    with live_server(tmp_path, config, planner__solver="greedy") as server:
        observer, now = server.runtime.scheduler.observer, server.runtime.clock.now()
        server.post(f"{PREFIX}/workers", {"pool": "new", "host": "h", "pid": 1, "protocol": 2, "modes": ["prefill_decode"]})
        alone = observer.look(now).problem
        assert (alone.pool("old").capacity[0], alone.links[0].capacity[0]) == (0.0, 1.0)
        server.post(f"{PREFIX}/workers", {"pool": "old", "host": "h", "pid": 2, "protocol": 2})
        both = observer.look(now).problem
        assert (both.pool("old").capacity[0], both.links[0].capacity[0]) == (1.0, 0.0)


def test_nobody_is_expected_where_a_worker_rests_and_a_launcher_can_start_more(tmp_path: Path) -> None:
    with live_server(tmp_path, APART, planner__solver="greedy") as server:
        new = {"pool": "new", "host": "h", "pid": 1, "protocol": 2, "modes": ["prefill_decode"]}
        worker = server.post(f"{PREFIX}/workers", new)["worker_id"]
        broken = {"leases": [], "cards": [{"uuid": "GPU-0", "uncorrected_errors": 2}]}
        server.post(f"{PREFIX}/workers/{worker}/heartbeat", broken)
        server.post(f"{PREFIX}/launchers", {"name": "l", "pools": {"new": {"replicas": 2}}})
        problem = server.runtime.scheduler.observer.look(server.runtime.clock.now()).problem
        assert (problem.pool("new").replicas, problem.pool("old").replicas) == (2, 0)  # its partner is there all the same
        assert problem.links[0].capacity[0] == 0.0


def test_work_over_two_pools_is_charged_for_the_making_of_both(tmp_path: Path) -> None:
    with live_server(tmp_path, APART) as server:
        now = server.runtime.clock.now()
        row = {"pool": "new", "model": "apart", "started_at": now, "ended_at": now, "busy_s": 10.0, "energy_j": 100.0}
        row |= {"energy_source": "modelled", "host_source": "modelled", "mark": "", "startup_s": 0.0, "host_j": 50.0}
        counts = {"requests": 1, "input_tokens": 1, "output_tokens": 1}
        accounts = Accounts(server.runtime.scheduler, server.runtime.provider, server.runtime.clock, Carbon(), Hardware())
        untold = row | counts
        apart, host = accounts.entries([untold])
        (plain, _) = accounts.entries([untold | {"model": "tiny"}])
        partly, _ = accounts.entries([untold | {"beside_pool": "old", "beside_s": 4.0}])
        (down, _) = accounts.entries([untold | {"beside_pool": "", "beside_s": 0.0}])
        (beside_another, _) = accounts.entries([untold | {"model": "tiny", "beside_pool": "old", "beside_s": 10.0}])
        idle = {"pool": "new", "hour": now, "seconds": 60.0, "energy_j": 1.0, "energy_source": "rapl"}
        (waiting,) = accounts.wasted([idle | {"beside_pool": "old", "beside_s": 50.0}])
    assert held(apart) == held(beside_another) == [("A100-80", 10.0), ("T4", 10.0)]
    assert apart.beside_held.age_years > 6
    assert held(host) == [("A100-80", 0.0)]
    assert held(plain) == held(down) == [("A100-80", 10.0)]
    assert held(partly) == [("A100-80", 10.0), ("T4", 4.0)]
    assert held(waiting) == [("A100-80", 60.0), ("T4", 50.0)]


def test_a_partner_on_a_host_that_is_on_for_others_is_charged_no_making(tmp_path: Path) -> None:
    config = APART.replace('gpu = "T4"', 'gpu = "cpu"\ncpu = { shared = true }')
    with live_server(tmp_path, config) as server:
        now = server.runtime.clock.now()
        row = {"pool": "new", "model": "apart", "hour": now, "seconds": 10.0, "energy_j": 100.0, "energy_source": "rapl"}
        accounts = Accounts(server.runtime.scheduler, server.runtime.provider, server.runtime.clock, Carbon(), Hardware())
        (entry,) = accounts.wasted([row | {"beside_pool": "old", "beside_s": 4.0}])
    assert held(entry) == [("A100-80", 10.0)]
    assert [(gpu, seconds) for gpu, _, seconds in entry.beside] == [("cpu", 4.0)]


def held(entry: Entry) -> list[tuple[str, float]]:
    """Which GPUs it held, and for how long."""
    return [(gpu, seconds) for gpu, _, seconds in entry.reserved]


def test_who_names_a_variant_gets_it(server: LiveServer) -> None:
    begun(server, requests(5, model="guessing"))
    view = server.runtime.scheduler.observer.look(server.runtime.clock.now())
    (job,) = view.problem.jobs
    assert job.model == "guessing"
    assert set(job.seconds_on) == {"local"}


RATE = Probe("sharegpt p50", 160, 140, 2.0)


def test_ways_are_set_side_by_side_with_the_papers_verdict(server: LiveServer, tmp_path: Path) -> None:
    measured(server, 2.0)
    kept = {"probe": RATE, "latencies": [(0.1, 0.05)] * 9 + [(3.0, 0.05)], "requests": 10}
    send(server, trial(**kept), trial(model="guessing", **kept))
    picture = tmp_path / "ways.svg"
    arguments = ["profile", "compare", "tiny", "--modes", "--plot", str(picture), "--server", server.url]
    done = CliRunner().invoke(cli, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["ways"]
    assert [(one["load"], one["side"]["model"]) for one in found] == [
        ("sharegpt p50, full", "tiny"),
        ("sharegpt p50, full", "guessing"),
        ("sharegpt p50, 2/s", "tiny"),
        ("sharegpt p50, 2/s", "guessing"),
    ]
    full = found[1]
    assert full["side"]["acceptance"] == pytest.approx(0.25)
    assert full["verdict"]["rho"] == pytest.approx(0.5)
    assert full["verdict"]["saved"] is True
    assert found[2]["side"]["attainment"] == pytest.approx(0.9)
    drawn = picture.read_text()
    assert all(
        f"<!-- {said} -->" in drawn for said in ("energy of both pools", "requests a second", "tiny on local, sharegpt p50")
    )
    shown = CliRunner().invoke(cli, arguments)
    assert "guessing on local, sharegpt p50, full: takes 50% less energy and saves 50.0% of the grams" in shown.output
    other = CliRunner().invoke(cli, ["profile", "show", "tiny", "--server", server.url])
    assert "guessing on local (speculative) may be planned" in other.output


def test_a_way_without_a_verdict_says_what_is_not_known(tmp_path: Path, database_url: str) -> None:
    config = CONFIG.replace('zone = "DE"', 'zone = "XX"') + VARIANT  # nobody foretells a zone XX
    with live_server(tmp_path, config, server__database_url=database_url) as server:
        measured(server, 2.0)
        send(server, trial(probe=RATE, model="guessing"))
        send(server, *(trial(pool="large", model=model) for model in ("tiny", "guessing")))
        unseen = Probe("sharegpt p75", 320, 280)
        send(server, trial(probe=unseen), trial(probe=unseen, model="guessing", energy_source="unmeasured"))
        blind = Probe("sharegpt p25", 80, 70)
        send(server, trial(probe=blind, energy_source="unmeasured"), trial(probe=blind, model="guessing"))
        done = CliRunner().invoke(cli, ["profile", "compare", "tiny", "--modes", "--server", server.url])
    assert done.exit_code == 0, done.output
    assert "guessing on local, sharegpt p50, full: takes 50% less energy" in done.output
    assert {line for line in done.output.splitlines() if "no verdict" in line} == {
        f"guessing on {load}: no verdict, since {missing} is not known."
        for load, missing in (
            ("local, sharegpt p50, 2/s", "tiny on local under that load"),
            ("large, sharegpt p50, full", "the carbon intensity of XX"),
            ("local, sharegpt p75, full", "the energy of guessing on local"),
            ("local, sharegpt p25, full", "the energy of tiny on local"),
        )
    }


def test_both_sides_of_a_mode_of_two_pools_are_counted() -> None:
    at = trial().started_at
    partner = PartnerUse(60.0, 1000.0, "rapl", 200.0, "modelled", 1024.0 * 16_000, 16_000, 1e8)
    apart = [trial(model="apart", pool="p", partner=partner, started_at=at + timedelta(seconds=n)) for n in range(2)]
    plain = [trial(pool="p", energy_j=5000.0)]
    found = sides([*apart, *plain], {"tiny": Way(), "apart": Way("prefill_decode", "tiny", "q")})
    one = next(side for side in found if side.model == "apart")
    assert one.energy_j_per_token == pytest.approx(4200 / 30_000)
    assert one.partner_j_per_token == pytest.approx(1200 / 30_000)
    assert one.own_j_per_token == pytest.approx(3000 / 30_000)
    assert (one.bytes_per_token, one.link_takes_bytes_per_s) == (1024.0, 1e8)
    assert one.link_bytes_per_s == pytest.approx(1024 * 16_000 / 60)
    other = beside(one, found)
    assert other is not None
    assert other.model == "tiny"
    assert msgspec.structs.replace(apart[0], energy_source="unmeasured").total_j is None


def test_the_papers_equations_on_what_was_measured() -> None:
    new, old = Device(100.0, 5.0), Device(40.0, 5.0)
    split = Split(Use(10.0, 3000.0), Use(6.0, 1500.0), Use(10.0, 900.0), new, old)
    found = judge_carbon(split, 300.0)
    assert found.energy_saved_j == pytest.approx(600.0)  # equation 4
    assert found.rho == pytest.approx(0.8)
    assert found.share == pytest.approx(1 - split.saving(300.0))  # equation 5
    below = 3000 / 3.6e6 * 300 + new.charge_g(6.0)
    assert found.old_term == pytest.approx(old.charge_g(10.0) / below)  # equation 6
    assert found.saved
    assert found.sentence.startswith("takes 20% less energy and saves")
    lost = judge_carbon(Split(Use(10.0, 3000.0), Use(8.0, 2500.0), Use(10.0, 900.0), new, old), 300.0, modelled=True)
    assert not lost.saved
    assert "saves nothing" in lost.sentence
    assert lost.sentence.endswith("by modelled energy")

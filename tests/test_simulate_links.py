"""What simulated replicas wait for the network."""

from __future__ import annotations

from batchsched.fleet import Fleet, Pool, ServedModel, Site
from batchsched.simulate.links import Weights, weights_s

FLEET = Fleet(
    {"home": Site("A"), "far": Site("B", network_gb_per_s=0.1), "third": Site("C", network_gb_per_s=0.1)},
    {name: Pool(site=name.split("-")[0]) for name in ("home-1", "far-1", "far-2", "third-1")},
    {"m": ServedModel(parameters_b=8.0), "n": ServedModel(parameters_b=8.0)},
    "home",
)


def test_weights_come_to_each_site_once_and_whoever_starts_meanwhile_waits_for_the_rest() -> None:
    whole_s = weights_s(FLEET, "m", "far-1")
    assert whole_s > 100
    weights = Weights(FLEET, {})
    assert weights.fetch_s("m", "home-1", 0.0) == 0.0
    assert weights.missing_s("m", "far-1", 50.0) == whole_s
    assert weights.missing_s("m", "far-1", 50.0) == whole_s, "to ask fetches nothing"
    assert weights.fetch_s("m", "far-1", 50.0) == whole_s
    assert weights.fetch_s("m", "far-2", 80.0) == whole_s - 30.0
    assert weights.fetch_s("m", "far-2", 51.0 + whole_s) == 0.0
    assert weights.fetch_s("n", "far-2", 100.0) == weights_s(FLEET, "n", "far-2")
    assert weights.fetch_s("m", "third-1", 100.0) == whole_s


def test_what_servers_have_from_the_beginning_is_there_for_their_site() -> None:
    weights = Weights(FLEET, {"far-2": "m"})
    assert weights.fetch_s("m", "far-1", 0.0) == 0.0
    assert weights.fetch_s("n", "far-1", 0.0) > 0.0

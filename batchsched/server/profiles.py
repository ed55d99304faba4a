"""The route about profiles: how fast and at what power each pool runs each model, as plans go by it; how long answers are."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
from fastapi import APIRouter

from batchsched.lines import CHAT, EMBEDDINGS, ENDPOINTS
from batchsched.profiles import Profile
from batchsched.profiles.answers import Answers
from batchsched.profiles.ways import judge
from batchsched.server.auth import GUARDED, Who
from batchsched.server.profile_answers import AnswerLengths, PoolProfile, Profiles
from batchsched.server.runtime import Runtime
from batchsched.wire import PREFIX

LARGE = 1_000_000
"""Requests of a batch so large that single answers average out."""


def router(runtime: Runtime) -> APIRouter:
    """The routes, bound to a server."""
    routes = APIRouter(prefix=PREFIX, tags=["batchsched"], dependencies=GUARDED)

    @routes.get("/profiles")
    def list_profiles(who: Who) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """What is known of each model on each pool, and of the caller's answers: what verdicts and plans go by."""
        observer = runtime.scheduler.observer
        known = observer.current_profiles()
        found: dict[str, Any] = msgspec.to_builtins(
            Profiles(
                "batchsched.profiles",
                [
                    _profile(runtime, profile, known.get((runtime.fleet.models[model].variant_of, pool)))
                    for (model, pool), profile in sorted(known.items())
                ],
                _answers(observer.current_answers(who.tenant), who.tenant, sorted({model for model, _ in known})),
            )
        )
        return found

    return routes


def _profile(runtime: Runtime, known: Profile, base: Profile | None) -> PoolProfile:
    """`base`: of a variant, the profile of what it stands for on the same pool."""
    served = runtime.fleet.models[known.model]
    fleet = runtime.scheduler.fleet
    pool, site = fleet.pools[known.pool], fleet.site_of(known.pool)
    reading_w = known.power_for(1, 0)
    return PoolProfile(
        model=known.model,
        pool=known.pool,
        gpu=pool.gpu,
        site=pool.site,
        zone=site.zone,
        pue=site.pue,
        source=known.source,
        observations=known.observations,
        input_tokens_per_s=known.input_tokens_per_s,
        output_tokens_per_s=known.output_tokens_per_s,
        input_power_w=reading_w,
        output_power_w=known.power_w,
        idle_w=known.idle_w,
        j_per_input_token=known.energy_j(1, 0),
        j_per_output_token=known.energy_j(0, 1),
        sigma=known.sigma,
        sigma_input=known.sigma_for(1, 0),
        sigma_output=known.sigma_for(0, 1),
        startup_s=known.startup_s,
        drift_since=known.drift.since if known.drift else None,
        drift_factor=known.drift.factor if known.drift else None,
        mode=served.mode,
        variant_of=served.variant_of,
        partner_pool=served.partner_pool,
        acceptance=known.drafted.acceptance if known.drafted else None,
        tokens_per_step=known.drafted.length if known.drafted else None,
        bytes_per_token=known.sent.bytes_per_token if known.sent else None,
        link_bytes_per_s=known.sent.link_bytes_per_s if known.sent else None,
        planned=judge(known, base, served.mode).why if base else "",
    )


def _answers(known: Answers, tenant: str, models: list[str]) -> list[AnswerLengths]:
    """Of each model at each endpoint that the tenant had answers from, and of chats. By its own answers and what is usual: how
    long others' are is theirs, though plans weigh it while a tenant has few."""
    found: list[AnswerLengths] = []
    for model, endpoint in itertools.product(models, ENDPOINTS):
        expected = known.expected(tenant, model, endpoint, alone=True)
        if endpoint == EMBEDDINGS or not (expected.answers or endpoint == CHAT):
            continue
        p50, p90, p99 = (expected.quantile(share) for share in (0.5, 0.9, 0.99))
        sigma = expected.sigma(LARGE)
        found.append(
            AnswerLengths(model, endpoint, expected.answers, expected.mean(), p50, p90, p99, sigma, expected.bytes_per_token)
        )
    return found

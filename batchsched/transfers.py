"""What moving files between the home site and another takes: seconds of a replica that waits for them, and what it weighs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from statistics import fmean
from typing import NamedTuple

from batchsched.fleet import Fleet
from batchsched.planner import PoolState
from batchsched.planner.price import UNKNOWN_FACTOR
from batchsched.profiles.candidates import Candidate
from batchsched.profiles.profile import Profile
from batchsched.settings import Settings
from batchsched.sizes import size_of

BYTES_PER_ANSWER_TOKEN = 4.5
"""Of a result file."""


class Moved(NamedTuple):
    """Of one gigabyte. `grams`: by the mean grid of both ends, with money where plans weigh it."""

    seconds: float
    grams: float


NOTHING = Moved(0.0, 0.0)


class Transfers:
    """Of one look. Files lie at the home site; a model's weights also wherever a pool of the site holds the model, or has worked
    with it: they stay on its disks. Where they do not, starts are seen to take as long, and profiles learn it."""

    def __init__(
        self,
        settings: Settings,
        fleet: Fleet,
        pools: Sequence[PoolState],
        home: Sequence[float | None],
        loaded: Mapping[str, Sequence[str]],
        profiles: Mapping[tuple[str, str], Profile],
    ) -> None:
        """`home`: the forecast of the home site's grid, by slot; `loaded`: models by pool; `profiles`: by model and pool."""
        self._settings, self._fleet = settings, fleet
        grids = {pool.name: [g for g in pool.intensity_g_per_kwh if g is not None] for pool in pools}
        known = [g for g in home if g is not None]
        worst = UNKNOWN_FACTOR * max([g for row in grids.values() for g in row] + known, default=0.0)
        here = fmean(known) if known else worst
        self._grid = {name: (here + (fmean(row) if row else worst)) / 2 for name, row in grids.items()}
        worked_with = ((name, model) for (model, name), known in profiles.items() if known.observations)
        held = ((name, model) for name, models in loaded.items() for model in models)
        self._there = {(fleet.pools[name].site, model) for name, model in chain(held, worked_with)}
        self.gigabyte = cache(self._gigabyte)  # asked of each batch
        self.weights = cache(self._weights)

    def _gigabyte(self, pool: str) -> Moved:
        """To or from a pool."""
        declared = self._fleet.pools[pool]
        if declared.site == self._fleet.home_site:
            return NOTHING
        site, limits = self._fleet.sites[declared.site], self._settings.planner
        kwh = self._settings.carbon.network_kwh_per_gb
        grams = kwh * (self._grid[pool] + limits.grams_per_kwh) + site.network_price_per_gb * limits.grams_per_currency
        return Moved(1.0 / site.network_gb_per_s if site.network_gb_per_s else 0.0, grams)

    def files(self, one: Candidate, input_bytes: int) -> Moved:
        """The files of the rest of a batch, there and back."""
        each = self.gigabyte(one.pool)
        gigabytes = one.share * (input_bytes + BYTES_PER_ANSWER_TOKEN * one.lengths.output_tokens) / 1e9
        return Moved(each.seconds * gigabytes, each.grams * gigabytes)

    def _weights(self, model: str, pool: str) -> Moved:
        """A model's weights, before an engine of a pool can start; nothing where its size is not known."""
        if self._fleet.pools[pool].kind == "spare":
            return NOTHING  # its servers have what they serve
        served, site = self._fleet.models[model], self._fleet.pools[pool].site
        size = None if (site, model) in self._there else size_of(served.path, served.parameters_b)
        each, gigabytes = self.gigabyte(pool), size.weight_bytes / 1e9 if size else 0.0
        return Moved(each.seconds * gigabytes, each.grams * gigabytes)

"""What really happens: how long work takes, what it draws, when replicas fail.

Draws hang on what they are for (a model, a pool, a chunk of a batch), not on when it happens: so policies meet the same luck.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from statistics import fmean
from typing import NamedTuple

import numpy as np

from batchsched.fleet import Fleet
from batchsched.simulate.conditions import Conditions
from batchsched.simulate.links import BYTES_PER_TOKEN, LINE_BYTES, Weights, gigabyte_s
from batchsched.simulate.online import alone_tokens_per_s
from batchsched.simulate.rooms import ALONE, Room
from batchsched.simulate.scene import Arrival, Scene
from batchsched.transfers import BYTES_PER_ANSWER_TOKEN


class Lines(NamedTuple):
    """A batch as it is submitted: so many lines, each of which stands for `grain` requests."""

    number: int
    grain: float
    input_tokens: int
    output_tokens: int

    @property
    def width(self) -> int:
        """Bytes of a line."""
        return LINE_BYTES + BYTES_PER_TOKEN * self.input_tokens


class Truth:
    """Of one scene."""

    def __init__(self, scene: Scene, conditions: Conditions) -> None:
        self._scene, self._conditions = scene, conditions
        self._own = {key: self._drawn(conditions.sigma_own, "speed", *key) for key in scene.profiles}
        self._watts = {key: self._drawn(conditions.sigma_watts, "watts", *key) for key in scene.profiles}
        self._grain = {model: self._usual_grain(model) for model in scene.fleet.models}
        self._asked = Counter[tuple[str, str]]()
        """Requests by model and pool that may serve them."""
        for one in scene.arrivals:
            self._asked.update({(one.model, pool): one.requests for pool in one.pools})
        stand = {pool: model for pool in scene.fleet.pools if (model := self.stands(pool))}
        self._weights = Weights(scene.fleet, stand)

    def grain(self, model: str) -> float:
        """Requests that a line of a model usually stands for."""
        return self._grain[model]

    def lines(self, arrival: Arrival) -> Lines:
        """How a batch is cut."""
        count = max(1, math.ceil(arrival.requests / self._most(arrival) - 1e-9))
        grain = arrival.requests / count
        return Lines(count, grain, max(1, round(grain * arrival.input_tokens)), max(1, round(grain * arrival.output_tokens)))

    def _most(self, arrival: Arrival) -> float:
        """Requests of one of its lines, at most: as of its model, but for what would take too much of its window."""
        tokens = arrival.input_tokens, arrival.output_tokens
        slowest_s = max((self._scene.profiles[arrival.model, pool].seconds(*tokens) for pool in arrival.pools), default=0.0)
        chunk_s = self._conditions.chunk_share * (arrival.deadline_s - arrival.at_s)
        usual = self._grain[arrival.model]
        return max(1.0, min(usual, chunk_s / slowest_s / self._conditions.chunk_lines)) if slowest_s > 0 else usual

    def line_s(self, arrival: Arrival, pool: str, lines: Lines, luck: float) -> float:
        """Seconds of a replica for each line of a chunk; `luck`: of that chunk."""
        key = (arrival.model, pool)
        requests_s = self._scene.profiles[key].seconds(lines.input_tokens, lines.output_tokens)
        return requests_s * arrival.slowness * self._own[key] * luck * self._conditions.error

    def luck(self, arrival: Arrival, first_line: int) -> float:
        """How many times as long the lines of a chunk take as those of its batch usually do; on whatever pool."""
        return self._drawn(self._conditions.sigma_chunk, arrival.batch_id, str(first_line))

    def usual_s(self, arrival: Arrival, pool: str, lines: Lines) -> float:
        """Seconds of a replica for a line of a batch, the luck of its chunk aside."""
        key = (arrival.model, pool)
        line_s = self._scene.profiles[key].seconds(lines.input_tokens, lines.output_tokens)
        return line_s * arrival.slowness * self._own[key] * self._conditions.error

    def room(self, pool: str) -> Room:
        """What other users leave of a server of a pool."""
        return self._scene.rooms.get(pool, ALONE)

    def stands(self, pool: str) -> str:
        """The model that the servers of a pool have all the time, started and kept by others: of those that the pool may serve
        the one that most requests ask for. Empty where engines are ours."""
        if not self._conditions.attached and not self._fleet.is_spare(pool):
            return ""
        able = [model for model in self._fleet.models if (model, pool) in self._scene.profiles]
        return max(able, key=lambda model: self._asked[model, pool], default="")

    def alone_tokens_per_s(self, pool: str) -> float:
        """What a server of a spare pool does where nobody else uses it, prompts included, in the mix of the scene's requests."""
        model = self.stands(pool)
        asked = [one for one in self._scene.arrivals if one.model == model]
        tokens = (fmean(one.input_tokens for one in asked), fmean(one.output_tokens for one in asked)) if asked else (1.0, 1.0)
        slow = self._own[model, pool] * self._conditions.error
        return alone_tokens_per_s(self._scene.profiles[model, pool], *tokens) / slow

    def power_w(self, arrival: Arrival, pool: str) -> float:
        """Watts of a replica meanwhile."""
        key = (arrival.model, pool)
        return self._scene.profiles[key].power_for(arrival.input_tokens, arrival.output_tokens) * self._watts[key]

    def earlier_tokens(self, arrival: Arrival, number: int) -> float:
        """Of an answer of the so-many-th batch like this one before the start: off what is expected by a draw of its own."""
        return arrival.expected_output_tokens * self._drawn(self._scene.sigma_own, "before", arrival.model, str(number))

    def start_s(self, model: str, pool: str, replica: str, number: int, now_s: float) -> float:
        """What a replica takes to start an engine for the so-many-th time, at that time. Ask in order of time."""
        known = self._scene.profiles[model, pool].startup_s
        moved_s = self._weights.fetch_s(model, pool, now_s)
        return known * self._drawn(self._conditions.sigma_start, "start", replica, str(number)) + moved_s

    def start_w(self, model: str, pool: str) -> float:
        """Watts meanwhile."""
        return self._scene.profiles[model, pool].power_w * self._watts[model, pool]

    def idle_w(self, model: str, pool: str) -> float:
        """Watts of an engine that is ready and has nothing to do."""
        return self._scene.profiles[model, pool].idle_w

    def fails_in_s(self, replica: str, number: int) -> float:
        """Seconds of work after which a replica fails for the so-many-th time."""
        rate = self._conditions.failures_per_replica_h / 3600
        return float(self._rng("failure", replica, str(number)).exponential(1 / rate)) if rate > 0 else math.inf

    def moved_s(self, pool: str, lines: Lines, count: int) -> float:
        """What a replica waits for the files of so many lines."""
        return gigabyte_s(self._fleet, pool) * self.moved_gb(pool, lines, count)

    def moved_gb(self, pool: str, lines: Lines, count: int) -> float:
        """Gigabytes of them between the home site and a pool's."""
        if self._fleet.pools[pool].site == self._fleet.home_site:
            return 0.0
        return count * (lines.width + BYTES_PER_ANSWER_TOKEN * lines.output_tokens) / 1e9

    @property
    def _fleet(self) -> Fleet:
        return self._scene.fleet

    def _usual_grain(self, model: str) -> float:
        """Requests of a line of a model: a line takes its part of `chunk_s` on a replica of mean speed."""
        pools = {name: pool.count for name, pool in self._fleet.pools.items() if (model, name) in self._scene.profiles}
        asked = [one for one in self._scene.arrivals if one.model == model]
        tokens = 1.0, 1.0
        if asked:
            tokens = fmean(one.input_tokens for one in asked), fmean(one.output_tokens for one in asked)
        rates = [count / self._scene.profiles[model, name].seconds(*tokens) for name, count in pools.items()]
        mean_rate = math.fsum(rates) / max(1, sum(pools.values()))
        return max(1.0, mean_rate * self._conditions.chunk_s / self._conditions.chunk_lines)

    def _drawn(self, sigma: float, *of: str) -> float:
        """A lognormal factor of mean 1."""
        return math.exp(float(self._rng(*of).normal(0.0, sigma)) - sigma**2 / 2) if sigma > 0 else 1.0

    def _rng(self, *of: str) -> np.random.Generator:
        return np.random.default_rng([self._scene.seed, *(zlib.crc32(word.encode()) for word in of)])

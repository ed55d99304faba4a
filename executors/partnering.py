"""A worker's partner, seen from the worker: where its engine is, what it used, how fast the link to it is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import statistics
import time
from typing import NamedTuple

import aiohttp
import msgspec

from batchsched.clock import IdSource
from batchsched.executors.admission import Admission
from batchsched.executors.dialect import dialect_of
from batchsched.executors.engine import bearer
from batchsched.executors.meters import EnergyMeter, Reading
from batchsched.executors.partner_told import ANEW_PATH, BYTES_PATH, PATH, PartnerTold
from batchsched.executors.pauses import pause_after
from batchsched.executors.probes import page_of
from batchsched.executors.split import Split
from batchsched.fleet import Mode, Pool, ServedModel
from batchsched.kv_link import KvLink, kv_bytes_in
from batchsched.settings import Worker
from batchsched.wire import EnergySource, PartnerUse

log = logging.getLogger(__name__)
_TIMEOUT = aiohttp.ClientTimeout(total=5)
_FORGOTTEN_S = 60.0
GONE_S = 120.0
"""A partner of which for so long no answer came is gone: plans count on it no more, and our engine may have to be started in
another way. That costs minutes, so one that is only slow, or starts again, is waited for."""
_SIZES = (2**16, 2**20, 2**24)
_TIMES, _LONG_S = 3, 1.0
_WEAKER: tuple[EnergySource, ...] = ("nvml_counter", "rapl", "nvml_power", "modelled", "unmeasured")
"""Of two sources, the later one is said of their sum."""


class Used(NamedTuple):
    """By the partner, since this worker has it."""

    energy_j: float = 0.0
    host_j: float = 0.0
    seconds: float = 0.0


class Partnership:
    """With the partner at `url`. `name`: this worker's, which no other has; `session`: for the partner's engine too."""

    def __init__(self, url: str, key: str, session: aiohttp.ClientSession, name: str) -> None:
        self.used = Used()
        self.told: PartnerTold | None = None
        """What it said last."""
        self.bytes_per_s: float | None = None
        """What the link carried when it was measured."""
        self._url, self._headers, self._session, self._name = url.rstrip("/"), bearer(key), session, name
        self._split: Split | None = None
        self._of: tuple[Pool, ServedModel] | None = None
        self._since = time.monotonic()
        self._there = False
        self._failures, self._failed_at, self._not_before = 0, 0.0, 0.0
        self._silent = self._measured = self._spoilt = ""
        self._silent_since, self._gone = 0.0, False
        self._looking = asyncio.Lock()
        self._metrics = dialect_of("vllm", None, Pool()).metrics

    @classmethod
    def by(cls, settings: Worker, session: aiohttp.ClientSession, ids: IdSource) -> Partnership:
        """Of a worker with these settings; where they name no partner, one with nobody."""
        return cls(settings.partner_url, settings.partner_api_key, session, ids.new("holder"))

    # What a split asks (see split.Reader).

    @property
    def url(self) -> str:
        """Of its engine; empty while that is not to be asked."""
        return self.told.engine_url if self._there and self.told else ""

    @property
    def served(self) -> str:
        """By which name its engine serves the model."""
        return self.told.served if self.told else ""

    def failed(self, why: str, *, anew: bool = False) -> None:
        """Its engine did not answer: it is left alone for a while, or (`anew`) until it was started anew, as is asked of it."""
        if anew and self.told:
            self._spoilt = self.told.engine_url
        if not self._there:
            return
        now = time.monotonic()
        self._failures = 1 if now - self._failed_at > _FORGOTTEN_S else self._failures + 1
        self._failed_at, pause_s = now, pause_after(self._failures, ours=False)
        self._not_before = now + pause_s
        log.warning("The partner's engine does not answer (%s). Alone for the next %.0f s at least.", why, pause_s)
        self._lose()

    # What the worker asks.

    @property
    def role(self) -> Mode | None:
        """What it is for; None before it was heard of, and once it was silent, or another worker's, for long."""
        return self.told.mode if self.told and not self._gone else None

    async def way(self, pool: Pool, model: ServedModel) -> Split | None:
        """For an engine of ours that serves the model from now on; None where its prompts are not read elsewhere."""
        if model.mode != "prefill_decode" or not self._url:
            self._split = None
        elif self._split is None or self._of != (pool, model):
            ahead, answering = Admission(pool.most_in_flight), Admission(pool.most_in_flight, pool.max_tokens_in_flight)
            self._split, self._of = Split(self, ahead, answering), (pool, model)
            self._lose()
            await self.look()  # so that the first prompts go there
        return self._split

    def ready(self, mode: Mode) -> bool:
        """Does its engine do its part in a mode now, as far as it said last?"""
        return self.told is not None and self.role == mode and bool(self.told.engine_url)

    async def use(self, url: str) -> PartnerUse | None:
        """What it took, and what went between it and our engine at `url`, since the first look; None where it was never seen."""
        await self.look()
        if self.told is None:
            return None
        sent_bytes, sent_tokens = self.told.drafts_bytes, self.told.drafts_tokens
        if self.told.mode != "draft_target":
            sent_bytes, sent_tokens = (await page_of(self._session, url)).handed()
        return PartnerUse(
            seconds=time.monotonic() - self._since,
            energy_j=self.used.energy_j,
            energy_source=self.told.energy_source,
            host_j=self.used.host_j,
            host_source=self.told.host_source,
            sent_bytes=sent_bytes,
            sent_tokens=sent_tokens,
            link_bytes_per_s=self.bytes_per_s,
        )

    def metered(self, own: EnergyMeter) -> EnergyMeter:
        """Our own meter and the partner's together."""
        return BothSides(own, self) if self._url else own

    async def look(self) -> None:
        """What it used is ours to charge, what its engine holds ours to bound."""
        if not self._url:
            return
        async with self._looking:  # two answers that pass each other would count joules twice
            if (told := await self._ask()) is not None:
                self._charge(told)
            if told and told.engine_url and told.engine_url == self._spoilt:
                await self._begin_anew()
                self._lose()
            elif told is None or not told.engine_url or time.monotonic() < self._not_before:
                self._lose()
            elif self._split and told.mode == "prefill_decode":
                await self._follow(self._split, told.engine_url)
            elif told.mode == "draft_target":
                await self._measure(told)

    async def measure(self) -> float | None:
        """Bytes a second from there to here: the fastest size of answer, in its median of three; None where none came."""
        rates = list[float]()
        for size in _SIZES:
            took = [seconds for _ in range(_TIMES) if (seconds := await self._fetch(size))]
            if took:
                rates.append(size / statistics.median(took))
            if not took or max(took) > _LONG_S:
                break
        return max(rates, default=None)

    async def _follow(self, split: Split, url: str) -> None:
        """Its engine is there: how much it can hold, how much it does."""
        if not self._there:
            split.link = await self._link()
        looked_at = time.monotonic()
        page = await page_of(self._session, url)
        if not self._there:
            split.found(page.capacity(None))
            self._there = True
            log.info("The partner's engine at %s reads prompts for us.", url)
        load, tokens = page.load(self._metrics), split.ahead_tokens
        if self._there:
            split.look(load, load.usage * tokens if load and tokens else None, looked_at)

    async def _link(self) -> KvLink | None:
        """Measured before anything is asked of it."""
        assert self.told is not None
        assert self._of is not None
        await self._measure(self.told)
        pool, model = self._of
        needed = self.told.bytes_per_token or kv_bytes_in(model.path, [*pool.engine_args, *model.engine_args])
        return KvLink(self.bytes_per_s, needed) if self.bytes_per_s and needed else None

    async def _measure(self, told: PartnerTold) -> None:
        """Once for each run of the partner."""
        if self._measured != told.partner:
            self.bytes_per_s, self._measured = await self.measure(), told.partner
            log.info("The link to the partner carries %.1f MB/s.", (self.bytes_per_s or 0.0) / 1e6)

    async def _ask(self) -> PartnerTold | None:
        said, params = "", {"by": self._name}
        try:
            async with self._session.get(self._url + PATH, params=params, headers=self._headers, timeout=_TIMEOUT) as answer:
                body = await answer.read()
                if answer.status == 200:
                    told = msgspec.json.decode(body, type=PartnerTold)
                    self._silent, self._gone = "", False
                    return told
                said = body[:300].decode("utf-8", "replace")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, msgspec.DecodeError) as problem:
            said = str(problem) or type(problem).__name__
        self._unheard(said)
        return None

    def _unheard(self, why: str) -> None:
        """Silence is counted from one failed look to another: in a look that takes long it may be we who are slow."""
        now = time.monotonic()
        if not self._silent:
            self._silent_since = now
            log.warning("The partner at %s cannot be asked (%s). Until it can, everything works alone.", self._url, why)
        elif not self._gone and now - self._silent_since >= GONE_S:
            self._gone = True
            log.warning("The partner at %s is gone: nothing in its mode is asked for until it answers.", self._url)
        self._silent = why

    async def _begin_anew(self) -> None:
        """Where that does not arrive, the next look asks again."""
        params = {"by": self._name, "engine": self._spoilt}
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            url = self._url + ANEW_PATH
            async with self._session.post(url, params=params, headers=self._headers, timeout=_TIMEOUT) as answer:
                await answer.read()

    def _charge(self, told: PartnerTold) -> None:
        """From the first look on; of a new run of it all that no worker was told of."""
        last, before = self.told, Used(told.told_energy_j, told.told_host_j, told.told_up_s)
        if last and last.partner == told.partner:  # another worker may have had it in between, and was told of more
            before = Used(*map(max, before, (last.energy_j, last.host_j, last.up_s)))
        now = Used(told.energy_j, told.host_j, told.up_s)
        self.used = Used(*(sum_ + max(0.0, more - less) for sum_, more, less in zip(self.used, now, before, strict=True)))
        self.told = told

    def _lose(self) -> None:
        self._there = False
        if self._split:
            self._split.lost()

    async def _fetch(self, count: int) -> float | None:
        """Seconds that so many bytes took from the first of them on; None where they did not come."""
        try:
            async with self._session.get(
                self._url + BYTES_PATH, params={"count": count}, headers=self._headers, timeout=aiohttp.ClientTimeout(total=60)
            ) as answer:
                began, came = time.monotonic(), 0
                async for piece in answer.content.iter_any():
                    came += len(piece)
                return max(1e-6, time.monotonic() - began) if answer.status == 200 and came == count else None
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None


class BothSides:
    """Joules of our engine's hardware and of the partner's, and how long that was ours, as of its last answer."""

    def __init__(self, own: EnergyMeter, partner: Partnership) -> None:
        self._own, self._partner = own, partner

    def read(self) -> Reading:
        """The sum; where the two know it differently, the word of the one that knows less."""
        own, used, told = self._own.read(), self._partner.used, self._partner.told
        if told is None:
            return own
        hosts = own.host_source, told.host_source
        return Reading(
            own.energy_j + used.energy_j,
            weaker(own.source, told.energy_source),
            own.host_j + used.host_j,
            hosts[0] if not used.host_j else hosts[1] if not own.host_j else weaker(*hosts),
            own.mark or told.mark,
            used.seconds,
            told.pool or None,
        )

    def close(self) -> None:
        """Our own."""
        self._own.close()


def weaker(one: EnergySource, other: EnergySource) -> EnergySource:
    """Of two sources the one that knows less."""
    return one if _WEAKER.index(one) >= _WEAKER.index(other) else other

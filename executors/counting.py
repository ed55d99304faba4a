"""What an engine counts beside its answers: of one that is not ours what it does for all; of one with drafts how they fare."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import aiohttp

from batchsched.executors.engine import Engine
from batchsched.executors.partnering import Partnership
from batchsched.executors.probes import page_of
from batchsched.executors.share import EnergyShare
from batchsched.fleet import ServedModel
from batchsched.variants import DRAFTING

EVERY_S = 1.0


class Counting:
    """Tells what is charged for work (`share`) what one engine counts, and looks at what its `partner` uses. `models`: those that
    it may serve, as declared."""

    def __init__(
        self,
        engine: Engine,
        session: aiohttp.ClientSession,
        share: EnergyShare,
        models: Callable[[], Mapping[str, ServedModel]],
        partner: Partnership,
    ) -> None:
        self._engine, self._session, self._share, self._models, self._partner = engine, session, share, models, partner

    async def watch(self) -> None:
        """Runs until cancelled."""
        while True:
            await self.now()
            await asyncio.sleep(EVERY_S)

    async def now(self) -> None:
        """Look once, at what matters of this engine."""
        await self._partner.look()
        engine, models = self._engine, self._models()
        served, counters = models.get(engine.served or ""), () if engine.ours else engine.dialect.token_counters
        drafting = served is not None and served.mode in DRAFTING
        if not (counters or drafting):
            return
        page = await page_of(self._session, engine.url)
        if (tokens := page.tokens(counters)) is not None:
            self._share.saw(tokens)
        if drafting and (drafts := page.drafts(engine.dialect.metrics)) is not None:
            self._share.drafted(drafts)

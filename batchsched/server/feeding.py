"""The feed as a part of the server: what is learnt moves the plan, and what goes wrong is counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from batchsched import exposed
from batchsched.clock import Clock
from batchsched.feeds import OWN
from batchsched.queue import ledger
from batchsched.queue.database import Database
from batchsched.settings import Settings

if TYPE_CHECKING:
    from batchsched.forecasts.archive import Archive
    from batchsched.forecasts.feed import Feeds
    from batchsched.forecasts.opened import Opened


def feeds_of(
    opened: Opened,
    settings: Settings,
    archive: Callable[[], Archive],
    database: Database,
    clock: Clock,
    leading: Callable[[], bool],
    news: Callable[[], None],
) -> Feeds | None:
    """The declared sources' feeds; None where there are none, and then nothing of theirs is loaded."""
    if opened.chain is None:
        return None
    from batchsched.forecasts.feed import Feeds
    from batchsched.forecasts.own import REFRESH_S
    from batchsched.forecasts.switches import SWITCHES, Switches

    def failed() -> None:
        with database.write() as connection:
            ledger.bump(connection, exposed.SOURCE_FAILURES)

    def switched() -> None:
        with database.write() as connection:
            ledger.bump(connection, exposed.FORECAST_SWITCHES)

    return Feeds(
        opened.sources,
        {name: declared.refresh_s for name, declared in settings.forecast.sources.items()} | {OWN: REFRESH_S},
        archive(),
        opened.chain,
        Switches(settings.archive_folder() / SWITCHES),
        clock,
        leading=leading,
        news=news,
        failed=failed,
        switched=switched,
        relink=opened.relink,
    )

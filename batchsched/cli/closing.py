"""`batchsched run --until-window-closes`: stop when the windows close, and say when to come again."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import TYPE_CHECKING

from batchsched.cli.common import when
from batchsched.errors import InvalidConfiguration
from batchsched.fleet import windows_by_key

if TYPE_CHECKING:
    from batchsched.client import Batch, Client
    from batchsched.settings import Settings


class WindowsClosed(Exception):
    """No pool is open any more. `batch`: as it stood then; `opens_at`: when the first of them opens again, if that is known."""

    def __init__(self, batch: Batch, opens_at: datetime | None) -> None:
        super().__init__()
        self.batch, self.opens_at = batch, opens_at

    @property
    def said(self) -> str:
        """For people."""
        again = f" when it opens next, at {when(self.opens_at)}" if self.opens_at else ""
        done = self.batch.progress.requests_done
        return f"The window is closed; requests done so far: {done}. The same command goes on{again}."


class Closing:
    """Watches the windows of these pools."""

    def __init__(self, settings: Settings, pools: Collection[str]) -> None:
        """Raises InvalidConfiguration for a pool that never closes."""
        self._pools = set(pools)
        if endless := sorted(self._pools - {window.pool for window in windows_by_key(settings.pools, settings.windows).values()}):
            raise InvalidConfiguration(
                f"--until-window-closes: pool '{endless[0]}' has no window, so it never closes.",
                hint=f"Declare one in the configuration: `[pools.{endless[0]}.window]`, with cron and duration.",
            )

    def __call__(self, client: Client, batch: Batch) -> None:
        """Raises WindowsClosed where no window of the pools is on and the batch is not done. One that is shut for the forecast's
        sake is on: a cleaner hour comes, and nobody starts the run again before the next opening."""
        if batch.done or any(one.state == "open" for one in client.pools.list() if one.id in self._pools):
            return
        windows = [one for one in client.windows.list() if one.pool in self._pools]
        if any(one.state in {"open", "shut"} for one in windows):
            return
        found = [one.openings[0].opens_at for one in windows if one.openings]
        raise WindowsClosed(batch, min(found, default=None))

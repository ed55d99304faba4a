"""Tells webhooks that batches ended: signed, to an address that was checked, again and again until they have heard.

A receiver hears of an end at least once, always by the same `webhook-id`: twice where we crash between its answer and our note.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import logging
import random
import socket
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import msgspec

from batchsched import exposed
from batchsched.clock import Clock, IdSource
from batchsched.errors import BatchschedError, ForbiddenAddress, ServerUnreachable
from batchsched.queue import deliveries, ledger
from batchsched.queue.database import Database
from batchsched.queue.rows import Row
from batchsched.settings import Webhook
from batchsched.transport import PinnedPost
from batchsched.units import to_unix

log = logging.getLogger(__name__)
ROUND_S = 1.0
TIMEOUT_S = 10.0
AT_ONCE = 8
"""Deliveries in flight to one webhook."""
FIRST_PAUSE_S, PAUSE_GROWTH, LONGEST_PAUSE_S = 5.0, 3.0, 12 * 3600.0
GIVE_UP_AFTER = timedelta(days=3)
KEPT = timedelta(days=30)
GONE = 410
Resolve = Callable[[str, int], list[str]]


def resolve(host: str, port: int) -> list[str]:
    """Every address of a name, the preferred one first. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [str(address[0]) for *_, address in found]


class Webhooks:
    """The delivering thread; only the leader's does anything. What is due stands in the database."""

    def __init__(
        self,
        database: Database,
        hooks: Mapping[str, Webhook],
        ids: IdSource,
        clock: Clock,
        leading: Callable[[], bool],
        look_up: Resolve = resolve,
    ) -> None:
        self._database, self._hooks, self._ids, self._clock, self._leading = database, hooks, ids, clock, leading
        self.look_up = look_up
        self._post = PinnedPost(TIMEOUT_S) if hooks else None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the deliveries in hand."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=30)

    def _run(self) -> None:
        while not self._stopping.wait(ROUND_S):
            if self._leading():
                try:
                    self.round()
                except BatchschedError as problem:
                    log.error("%s", problem.message)
                except Exception:
                    log.exception("A round of deliveries failed; it is tried again.")

    def round(self) -> None:
        """Try everything that is due now, once."""
        with self._database.read() as connection:
            waiting = deliveries.waiting(connection)
        if not waiting:
            return
        if deliveries.NOBODY in waiting:
            with self._database.write() as connection:
                deliveries.address(connection, self._hooks, self._ids)
        now = self._clock.now()
        with self._database.read() as connection:
            rows = [row for hook in self._hooks for row in deliveries.due(connection, hook, now, AT_ONCE)]
            lost = [row for hook in waiting.keys() - self._hooks - {deliveries.NOBODY} for row in
                    deliveries.due(connection, hook, now, AT_ONCE)]  # fmt: skip
        for row in lost:
            self._settle(row, now, "this webhook is no longer configured", for_good=True)
        if rows:
            asyncio.run(self._deliver(rows))

    async def _deliver(self, rows: list[Row]) -> None:
        await asyncio.gather(*(self._try(row, self._hooks[row["hook"]]) for row in rows))

    async def _try(self, row: Row, hook: Webhook) -> None:
        now = self._clock.now()
        body = event(row)
        assert self._post is not None
        try:
            async with asyncio.timeout(2 * TIMEOUT_S):
                address = await asyncio.to_thread(self._address, hook)
                status = await self._post.send(hook.url, address, body, signed(row["id"], body, hook.secret, now))
        except Exception as problem:  # of whatever kind: one receiver's trouble keeps no other from hearing
            text = problem.message if isinstance(problem, BatchschedError) else f"its name cannot be resolved ({problem})"
            self._settle(row, now, text)
        else:
            self._settle(row, now, "" if 200 <= status < 300 else f"it answered {status}", for_good=status == GONE)

    def _address(self, hook: Webhook) -> str:
        """The address to connect to. Raises ForbiddenAddress unless all that the name stands for are public; OSError."""
        url = urlsplit(hook.url)
        host = url.hostname or ""
        found = self.look_up(host, url.port or (443 if url.scheme == "https" else 80))
        if not found:
            raise ServerUnreachable(f"{host} has no address.")
        for address in found:
            if not hook.allow_private and not is_public(address):
                raise ForbiddenAddress(f"{host} stands for {address}, which is not a public address.")
        return found[0]

    def _settle(self, row: Row, now: datetime, problem: str, *, for_good: bool = False) -> None:
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * PAUSE_GROWTH ** row["attempts"])
        due_at = now + timedelta(seconds=pause_s * random.uniform(0.75, 1.25))  # noqa: S311 - jitter
        with self._database.write() as connection:
            if not problem:
                deliveries.attempted(connection, row, state="delivered", ended_at=now, last_error=None)
                ledger.bump(connection, exposed.WEBHOOKS_DELIVERED)
            elif for_good or due_at > row["created_at"] + GIVE_UP_AFTER:
                deliveries.attempted(connection, row, state="given_up", ended_at=now, last_error=problem)
                ledger.bump(connection, exposed.WEBHOOKS_GIVEN_UP)
            else:
                deliveries.attempted(connection, row, due_at=due_at, last_error=problem)
                ledger.bump(connection, exposed.WEBHOOK_FAILURES)
        if problem:
            log.warning(
                "Webhook '%s' did not hear of %s (%s): %s.", row["hook"], row["batch_id"], row["type"], problem.rstrip(".")
            )


def event(row: Row) -> bytes:
    """The body: OpenAI's event object. It says which batch, and of a promise how it stands; nothing of what is in the batch."""
    created = to_unix(row["created_at"])
    whole: dict[str, Any] = {"id": row["id"], "object": "event", "type": row["type"], "created_at": created}
    whole["data"] = {"id": row["batch_id"], **(row["data"] or {})}
    return msgspec.json.encode(whole)


def signed(message_id: str, body: bytes, secret: str, now: datetime) -> dict[str, str]:
    """The headers of a Standard Webhooks message."""
    stamp = str(to_unix(now))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{message_id}.{stamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "content-type": "application/json",
        "user-agent": "batchsched",
        "webhook-id": message_id,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def is_public(address: str) -> bool:
    """Is this an address of the public internet, and does it hide none that is not (mapped, 6to4, NAT64)?"""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

"""`batchsched doctor` on the server: where it may listen, whether it answers, and what it knows to be wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from batchsched.cli.printed import Finding
from batchsched.errors import BatchschedError, PermissionDenied, ServerUnreachable, Unauthorized

if TYPE_CHECKING:
    from batchsched.settings import Loaded
    from batchsched.transport import Transport

CLOCK_BEARABLE_S = 5.0
PATIENCE_S = 5.0


def bind(loaded: Loaded) -> Iterator[Finding]:
    """Who could reach the server that this configuration makes, and whether keys would cross a network in the clear."""
    from batchsched.hosts import is_loopback
    from batchsched.server.bind import check_bind

    server = loaded.settings.server
    try:
        check_bind(server)
    except BatchschedError as problem:
        yield Finding("bind", "broken", problem.message, problem.hint or "Mend the keys that it names.")
        return
    if server.trusted_proxies:
        text = f"{server.host}: open to other machines by proxy {', '.join(server.trusted_proxies)}"
        what = "" if server.tls_cert else "See that this proxy does TLS; batchsched cannot tell."
        yield Finding("bind", "warning" if what else "ok", text, what)
    elif is_loopback(server.host):
        yield Finding("bind", "ok", f"{server.host}: this machine only")
    else:
        yield Finding("bind", "ok", f"{server.host}: open to other machines, by TLS and with API keys")


def server(loaded: Loaded) -> Iterator[Finding]:
    """Does one answer, and what does it say of pools and recurring jobs?"""
    from batchsched.transport import Transport

    url = loaded.settings.worker.server_url
    try:
        with Transport(url, loaded.settings.server.api_key, timeout_s=PATIENCE_S, max_retries=0) as asked:
            date = asked.request("GET", "/readyz").headers.get("date")
            found = [*_drifts(asked), *_schedules(asked)]
    except ServerUnreachable:
        what = "Start one: `batchsched serve`; or name another: worker.server_url. `batchsched run` needs none."
        yield Finding("server", "warning", f"none answers at {url}", what)
        return
    yield Finding("server", "ok", f"ready at {url}")
    if date:
        yield _clock(date)
    yield from found


def _clock(date: str) -> Finding:
    """Their clocks beside each other."""
    from email.utils import parsedate_to_datetime

    apart_s = abs((datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds())
    text = f"within {apart_s + 1:.0f} s of this machine's"
    if apart_s < CLOCK_BEARABLE_S:
        return Finding("server clock", "ok", text)
    return Finding("server clock", "warning", text, "Let both machines keep time by NTP: timedatectl set-ntp true")


def _schedules(server: Transport) -> Iterator[Finding]:
    """Recurring jobs of which nothing comes, as far as this key may read of them."""
    import msgspec

    from batchsched.wire import PREFIX

    with suppress(PermissionDenied, Unauthorized):
        for one in msgspec.json.decode(server.request("GET", f"{PREFIX}/schedules").content)["data"]:
            if one["trouble"]:
                what = f"Mend that; `batchsched schedule history {one['id']}` shows what came of each time."
                yield Finding(f"schedule {one['id']}", "warning", one["trouble"], what)


def _drifts(server: Transport) -> Iterator[Finding]:
    """Pools that changed their speed for good, as far as this key may read of them."""
    import msgspec

    from batchsched.client.profiles import Profiles
    from batchsched.wire import PREFIX

    try:
        found = msgspec.json.decode(server.request("GET", f"{PREFIX}/profiles").content, type=Profiles)
    except (PermissionDenied, Unauthorized) as problem:
        what = problem.hint or "Use a key that may: server.api_key, or the environment variable BATCHSCHED_SERVER_API_KEY."
        yield Finding("speed of pools", "warning", f"not looked at: {problem.message}", what)
        return
    for one in found.profiles:
        if one.drift_factor is not None and one.drift_since is not None:
            slower = one.drift_factor > 1
            text = f"{one.model} takes {one.drift_factor:.2f} times as long since {one.drift_since:%Y-%m-%d %H:%M} UTC"
            what = "Look for throttling, other work there, an updated engine or driver; " if slower else "Nothing is wrong; "
            what += f"`batchsched profile run --pool {one.pool} --model {one.model}` measures anew."
            yield Finding(f"speed of {one.pool}", "warning" if slower else "ok", text, what)

"""The port: what starts replicas (worker processes) somewhere, tells which there are, and ends them.

A replica is known by a name that its caller makes, once for each start, and by nothing else: no process id, no host, no file.
Starting takes as long as it takes (a queue, an image to fetch): `start` asks, `replicas` tells what came of it. Every call may be
made again after a crash, by another process, and does no more than the first. So Slurm (a job a name), Ray (a detached actor of
that name) or Kubernetes (a pod a name) can stand behind it; processes.py is the one for this machine.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Literal, Protocol

import msgspec

State = Literal["waiting", "running", "stopping", "ended"]
NAME_ENV = "BATCHSCHED_REPLICA"
"""Where a worker finds what to present itself as: its replica's name, said so that it is another on each machine."""


class Spec(msgspec.Struct, frozen=True):
    """What a replica runs. Its environment may hold secrets: whoever keeps it keeps it from others' eyes."""

    command: list[str]
    env: dict[str, str] = {}
    """Over the environment of where it runs."""
    folder: str = ""
    """Where it runs; empty: where the launcher does."""

    @property
    def digest(self) -> str:
        """Ten hex digits that differ where anything differs."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:10]

    def placed(self, name: str, place: int, devices: str | None = None, title: str = "") -> Spec:
        """As one replica runs it: `{place}`, `{devices}`, `{name}` filled in; its title, or else its name, in its environment."""

        def filled(text: str) -> str:
            return text.replace("{place}", str(place)).replace("{devices}", devices or str(place)).replace("{name}", name)

        env = {key: filled(value) for key, value in self.env.items()}
        return msgspec.structs.replace(
            self, command=[filled(word) for word in self.command], env={**env, NAME_ENV: title or name}
        )


class Replica(msgspec.Struct, frozen=True):
    """One of them, as it stands."""

    name: str
    state: State
    """`waiting`: asked for, and not there yet; `stopping`: told to end."""
    since: datetime
    """When it was asked for."""
    why: str = ""
    """Of one that ended: its last words, for people."""
    clean: bool = False
    """Of one that ended: it said itself that all is well, or it was told to end."""


class Launcher(Protocol):
    """See above. All raise LaunchFailed where what stands behind it does not answer; then nothing is known."""

    async def start(self, name: str, spec: Spec) -> None:
        """Ask for a replica. Nothing happens where one of that name is, in whatever state."""
        ...

    async def stop(self, name: str, grace_s: float) -> None:
        """Ask it to end cleanly, and end it by force after `grace_s` seconds. Told again, the first word holds, unless the new
        one ends it sooner; nothing happens where it is gone."""
        ...

    async def replicas(self) -> dict[str, Replica]:
        """All that were asked for and not forgotten, by name: whoever asked, and however long ago. Where a crash came between the
        asking and the start, or the telling and the end, it goes on from there."""
        ...

    async def forget(self, name: str) -> None:
        """Take one that ended off the list. Nothing happens to one that has not."""
        ...

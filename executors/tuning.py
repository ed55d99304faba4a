"""Caps on the power of a replica's GPUs and on their clocks, while its worker lives: energy a token against speed.

What was set before is written to the worker's folder before anything is changed. A small process of its own waits for the
worker's end, whatever ends it, and puts everything back; where that was ended too, the next worker does, unless the machine was
started anew since: cards do not keep caps and clocks over that. Needs the right to set it, which drivers give to root.

The workers of a machine may share the folder: each card has a lock there, held by the worker that changed it and by its small
process, so that nobody puts back what another's work still runs under.

`python -m batchsched.executors.tuning FOLDER CARD...` is that process: it reads its standard input, which the worker holds open.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from batchsched.disk import put
from batchsched.executors.cards import Cards
from batchsched.fleet import Pool, ServedModel, replica_gpus
from batchsched.wire import Card

log = logging.getLogger(__name__)
_PUT_BACK_S = 10.0
"""So long a card may take to be put back: at our end, or at the end of the worker before us."""
_LOOK_S = 0.05
_READY = b"ready\n"
_BOOT = Path("/proc/sys/kernel/random/boot_id")
"""Another each time that the machine starts; the same in its containers (Linux, proc_sys_kernel(5))."""


class Before(msgspec.Struct, frozen=True):
    """What a card had before a worker changed it. None: that was not changed."""

    uuid: str
    power_cap_mw: int | None = None
    locked: bool = False
    """Its clocks were locked by us; unlocked, they are as the driver has them."""
    clocks_mhz: tuple[int, int] | None = None
    """Memory's and processors' application clocks, on cards that cannot lock clocks (before Volta)."""
    boot: str = ""
    """The machine's start under which it was changed; empty where the machine does not tell, and in records of older versions."""

    @property
    def outlived(self) -> bool:
        """Was the machine started anew since?"""
        return bool(self.boot and (now := _boot()) and self.boot != now)


class Gpus:
    """A replica's GPUs, as the pool wants them for as long as this is open."""

    def __init__(
        self,
        cards: Cards,
        folder: Path = Path(),
        locks: Mapping[str, int] | None = None,
        watcher: subprocess.Popen[bytes] | None = None,
    ) -> None:
        self.seen: list[Card] | None = None
        """How they were when they were last looked at."""
        self._cards, self._folder, self._locks, self._watcher = cards, folder, locks or {}, watcher

    def look(self) -> None:
        """Look at them now. Blocks: a card that is ill may be slow to answer."""
        well = {card.uuid for card in self.seen or [] if not card.broken}
        first, self.seen = self.seen is None, self._cards.look()
        for card in self.seen or []:
            if card.broken and (first or card.uuid in well):
                log.error("GPU %s: %s. The server gives this worker no work until it is well.", card.title, card.trouble())

    def close(self) -> None:
        """Put back what was changed."""
        watcher, self._watcher = self._watcher, None
        if watcher is None:
            return
        assert watcher.stdin is not None
        watcher.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            watcher.wait(_PUT_BACK_S)
            put_back(self._cards, self._folder, self._locks)  # where somebody had ended it before us
        for lock in self._locks.values():
            os.close(lock)


def open_gpus(pool: Pool, models: Iterable[ServedModel], state_dir: str, *, here: bool = True) -> Gpus:
    """The GPUs of a worker of that pool, with its cap and its clocks set. What cannot be set is told, and let be.

    On a spare pool nothing is set: online users were promised the speed that their server has.
    """
    cards = Cards.find(replica_gpus(pool, models) if pool.gpu != "cpu" else 0, here=here)
    folder = Path(state_dir).absolute() / "gpus"
    wanted = pool.kind != "spare" and (pool.power_cap_w is not None or pool.clock_mhz is not None)
    if not cards.handles or not (wanted or folder.is_dir()):
        return Gpus(cards)
    folder.mkdir(parents=True, exist_ok=True)
    locks = _locked(cards, folder)
    put_back(cards, folder, locks)
    if not (wanted and locks):
        for lock in locks.values():
            os.close(lock)
        return Gpus(cards)
    watcher = _watch(folder, locks)  # it must be there before anything is changed
    for handle in cards.handles:
        if (uuid := cards.uuid(handle)) in locks:
            _set(cards.nvml, handle, uuid, pool, folder)
    return Gpus(cards, folder, locks, watcher)


def put_back(cards: Cards, folder: Path, ours: Collection[str] = ()) -> int:
    """Set every card of the records in a folder as it was; how many there were. What fails keeps its record for the next time.

    Cards that another worker holds are left as they are; `ours`: those of which we hold the lock ourselves.
    """
    done = 0
    for record in sorted(folder.glob("*.json")):
        lock = None if record.stem in ours else _lock(folder, record.stem)
        if lock is None and record.stem not in ours:
            continue
        with contextlib.suppress(OSError, msgspec.DecodeError):
            before = msgspec.json.decode(record.read_bytes(), type=Before)
            if before.outlived and _is_here(cards.nvml, before.uuid):  # else it may be another machine's: folders are shared
                log.info("GPU %s: its machine was started anew since it got a cap or clocks; nothing is put back.", before.uuid)
                record.unlink(missing_ok=True)
            elif _restored(cards.nvml, before):
                record.unlink(missing_ok=True)
                done += 1
        if lock is not None:
            os.close(lock)
    return done


def left_behind(state_dir: str) -> dict[str, str]:
    """Cards that still have the settings of a worker that is gone, by name, each with the commands that put it back."""
    found: dict[str, str] = {}
    for record in sorted((Path(state_dir) / "gpus").glob("*.json")):
        with contextlib.suppress(OSError, msgspec.DecodeError):
            if (lock := _lock(record.parent, record.stem)) is not None:
                os.close(lock)
                before = msgspec.json.decode(record.read_bytes(), type=Before)
                if not before.outlived:
                    found[record.stem] = _by_hand(before)
    return found


def _locked(cards: Cards, folder: Path) -> dict[str, int]:
    """The locks of these cards; of one that somebody else keeps there is none."""
    found: dict[str, int] = {}
    until = time.monotonic() + _PUT_BACK_S
    for uuid in map(cards.uuid, cards.handles):
        if not uuid:
            log.warning("A GPU does not tell its name, so its cap and clocks are let be: they could not be put back.")
            continue
        while (lock := _lock(folder, uuid)) is None and time.monotonic() < until:
            time.sleep(_LOOK_S)  # the worker before us has just ended, and it is being put back
        if lock is None:
            log.warning("GPU %s has the cap and clocks of another worker, which runs on it too; they are let be.", uuid)
        else:
            found[uuid] = lock
    return found


def _lock(folder: Path, uuid: str) -> int | None:
    """Hold a card until this is closed, here and in whatever process inherits it; None where somebody else does."""
    lock = os.open(folder / f"{uuid}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _set(nvml: Any, handle: Any, uuid: str, pool: Pool, folder: Path) -> None:
    record = folder / f"{uuid}.json"
    if pool.power_cap_w is not None:
        wanted_mw = round(pool.power_cap_w * 1000)
        _change(
            nvml,
            record,
            f"power cap of {pool.power_cap_w:g} W",
            lambda: {"power_cap_mw": int(nvml.nvmlDeviceGetPowerManagementLimit(handle))},
            lambda: nvml.nvmlDeviceSetPowerManagementLimit(handle, wanted_mw),
        )
    if (clock_mhz := pool.clock_mhz) is not None and not _change(
        nvml,
        record,
        f"clock of {clock_mhz} MHz",
        lambda: {"locked": True},
        lambda: nvml.nvmlDeviceSetGpuLockedClocks(handle, 0, clock_mhz),
        nvml.NVMLError_NotSupported,
        nvml.NVMLError_FunctionNotFound,
    ):
        _set_application_clocks(nvml, handle, clock_mhz, record)


def _set_application_clocks(nvml: Any, handle: Any, clock_mhz: int, record: Path) -> None:
    """On cards before Volta, which know only pairs of clocks for the work on them."""

    def memory() -> Any:
        return nvml.nvmlDeviceGetApplicationsClock(handle, 2)

    _change(
        nvml,
        record,
        f"clock of {clock_mhz} MHz",
        lambda: {"clocks_mhz": (memory(), nvml.nvmlDeviceGetApplicationsClock(handle, 1))},
        lambda: nvml.nvmlDeviceSetApplicationsClocks(handle, memory(), clock_mhz),
    )


def _change(
    nvml: Any,
    record: Path,
    what: str,
    before: Callable[[], Mapping[str, Any]],
    act: Callable[[], Any],
    *passed: type[Exception],
) -> bool:
    """Write down what was `before`, then change it; what the driver refuses was not changed, and is not to be put back.

    False where it failed in one of the ways that are `passed` over: there is another way.
    """
    uuid, known = record.stem, record.read_bytes() if record.exists() else None
    refusals = (nvml.NVMLError_NoPermission, nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound)
    try:
        _write(record, uuid, **before())
        act()
    except Exception as problem:  # every error of the library is one of its own classes; the work must go on
        if isinstance(problem, refusals):
            _as_it_was(record, known)
        log.warning("GPU %s gets no %s: %s.", uuid, what, problem)
        return not isinstance(problem, passed)
    log.info("GPU %s has a %s while this worker runs.", uuid, what)
    return True


def _as_it_was(record: Path, known: bytes | None) -> None:
    if known is None:
        record.unlink(missing_ok=True)
    else:
        put(record, known)


def _write(record: Path, uuid: str, **changed: Any) -> None:
    """Add to a card's record, on disk when this returns. What was noted first holds: later it is our own setting."""
    known = msgspec.json.decode(record.read_bytes(), type=Before) if record.exists() else Before(uuid, boot=_boot())
    fresh = {name: value for name, value in changed.items() if not getattr(known, name)}
    put(record, msgspec.json.encode(msgspec.structs.replace(known, **fresh)))


def _boot() -> str:
    """Which start of the machine this is; empty where it does not tell."""
    with contextlib.suppress(OSError):
        return _BOOT.read_text("ascii").strip()
    return ""


def _is_here(nvml: Any, uuid: str) -> bool:
    """Is a card one of this machine?"""
    with contextlib.suppress(nvml.NVMLError):
        nvml.nvmlDeviceGetHandleByUUID(uuid)
        return True
    return False


def _restored(nvml: Any, before: Before) -> bool:
    """Is a card as it was?"""
    handle: Any = None
    try:
        handle = nvml.nvmlDeviceGetHandleByUUID(before.uuid)
        for act in _ways_back(nvml, handle, before):
            with contextlib.suppress(nvml.NVMLError_NotSupported):  # then it could not be changed either
                act()
    except nvml.NVMLError_NoPermission:
        if _is_as_before(nvml, handle, before):
            return True  # somebody else did it
        log.warning(
            "GPU %s has the cap or clocks of an earlier worker, and this process has no right to put them back. A worker that "
            "has it will (drivers give it to root), or do it by hand: %s",
            before.uuid,
            _by_hand(before),
        )
        return False
    except nvml.NVMLError as problem:
        log.warning("GPU %s could not be put back: %s.", before.uuid, problem)
        return False
    return True


def _ways_back(nvml: Any, handle: Any, before: Before) -> Iterator[Callable[[], Any]]:
    if before.power_cap_mw is not None:
        yield lambda: nvml.nvmlDeviceSetPowerManagementLimit(handle, before.power_cap_mw)
    if before.locked:
        yield lambda: nvml.nvmlDeviceResetGpuLockedClocks(handle)
    if (clocks_mhz := before.clocks_mhz) is not None:
        yield lambda: nvml.nvmlDeviceSetApplicationsClocks(handle, *clocks_mhz)


def _is_as_before(nvml: Any, handle: Any, before: Before) -> bool:
    """As far as a card tells: not of locked clocks."""
    try:
        return not before.locked and all(
            wanted is None or wanted == ask()
            for wanted, ask in (
                (before.power_cap_mw, lambda: nvml.nvmlDeviceGetPowerManagementLimit(handle)),
                (before.clocks_mhz, lambda: tuple(nvml.nvmlDeviceGetApplicationsClock(handle, kind) for kind in (2, 1))),
            )
        )
    except nvml.NVMLError:
        return False


def _by_hand(before: Before) -> str:
    """The commands that put a card back."""
    flags: list[str] = []
    if before.power_cap_mw is not None:
        flags.append(f"--power-limit={before.power_cap_mw / 1000:g}")
    if before.locked:
        flags.append("--reset-gpu-clocks")
    if before.clocks_mhz is not None:
        flags.append("--applications-clocks={},{}".format(*before.clocks_mhz))
    return "; ".join(f"nvidia-smi --id={before.uuid} {flag}" for flag in flags)


def _watch(folder: Path, locks: Mapping[str, int]) -> subprocess.Popen[bytes]:
    """Start the process that waits; back when it does. In a session of its own: what is sent to the worker's is not for it."""
    command = [sys.executable, "-m", __name__, str(folder), *locks]
    pipe, held = subprocess.PIPE, list(locks.values())
    watcher = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True, pass_fds=held)
    assert watcher.stdout is not None
    if watcher.stdout.readline() != _READY:
        log.warning("Nobody watches over the GPUs' settings: after a kill -9 only the next worker puts them back.")
    watcher.stdout.close()
    return watcher


def main(argv: list[str]) -> int:
    """Wait until the worker's end, then put everything back."""
    cards = Cards.find(64)
    sys.stdout.buffer.write(_READY)
    sys.stdout.flush()
    sys.stdin.buffer.read()
    return 0 if cards.nvml is None or put_back(cards, Path(argv[0]), argv[1:]) >= 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

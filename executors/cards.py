"""The health of a replica's GPUs, by NVML: errors of their memory, why their clocks are held down, caps and clocks.

What a card does not tell is left open: old ones tell less. Nothing here changes anything; `tuning.py` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from batchsched.executors.meters import nvml as boards
from batchsched.wire import Card, ThrottleReason

T = TypeVar("T")
_REASONS: tuple[tuple[int, ThrottleReason], ...] = (
    (0x4, "power_cap"),
    (0x8, "hardware"),
    (0x20, "heat"),
    (0x40, "heat"),
    (0x80, "power_brake"),
)
"""NVML's bits for why clocks are lower than they could be; what somebody set, or that there is no work, is no trouble."""


class Cards:
    """Those of one replica; none where the engine runs elsewhere, or there is no NVML."""

    def __init__(self, nvml: Any = None, handles: Sequence[Any] = ()) -> None:
        self.nvml, self.handles = nvml, list(handles)
        self._names = [(self.uuid(handle), _Asking(nvml).name(handle)) for handle in self.handles]

    @classmethod
    def find(cls, wanted: int, *, here: bool = True) -> Cards:
        """The GPUs that an engine of so many takes on this machine."""
        found = boards.find(wanted) if here and wanted else None
        return cls(found.nvml, [device.handle for device in found.devices]) if found else cls()

    def look(self) -> list[Card] | None:
        """How each of them is now; None where there are none to look at."""
        return [self._card(handle, *names) for handle, names in zip(self.handles, self._names, strict=True)] or None

    def uuid(self, handle: Any) -> str:
        """A card's own name, the same for all processes and after a restart; empty where it has none."""
        return _text(_Asking(self.nvml)(lambda nvml: nvml.nvmlDeviceGetUUID(handle)))

    def _card(self, handle: Any, uuid: str, name: str) -> Card:
        """`uuid`, `name`: what it told at first; one that is lost tells nothing."""
        ask = _Asking(self.nvml)
        cap_mw = ask(lambda nvml: nvml.nvmlDeviceGetPowerManagementLimit(handle))
        usual_mw = ask(lambda nvml: nvml.nvmlDeviceGetPowerManagementDefaultLimit(handle))
        bits = ask(lambda nvml: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)) or 0
        return Card(
            uuid=uuid,
            name=name,
            throttled=list(dict.fromkeys(reason for bit, reason in _REASONS if bits & bit)),
            uncorrected_errors=ask(lambda nvml: nvml.nvmlDeviceGetTotalEccErrors(handle, 1, 0)),
            corrected_errors=ask(lambda nvml: nvml.nvmlDeviceGetTotalEccErrors(handle, 0, 0)),
            temperature_c=ask(lambda nvml: nvml.nvmlDeviceGetTemperature(handle, 0)),
            power_cap_w=None if cap_mw is None else cap_mw / 1000,
            usual_cap_w=None if usual_mw is None else usual_mw / 1000,
            clock_mhz=ask(lambda nvml: nvml.nvmlDeviceGetClockInfo(handle, 1)),
            top_clock_mhz=ask(lambda nvml: nvml.nvmlDeviceGetMaxClockInfo(handle, 1)),
            lost=ask.lost,  # after all that was asked
        )


class _Asking:
    """Questions to the library about one card. `lost`: an answer said that it is not there any more."""

    def __init__(self, nvml: Any) -> None:
        self._nvml, self.lost = nvml, False

    def __call__(self, question: Callable[[Any], T]) -> T | None:
        """None where this card, or its driver, does not tell."""
        try:
            return question(self._nvml)
        except self._nvml.NVMLError as problem:
            self.lost |= isinstance(problem, self._nvml.NVMLError_GpuIsLost)
            return None

    def name(self, handle: Any) -> str:
        """What it is called in the catalogue of its maker."""
        return _text(self(lambda nvml: nvml.nvmlDeviceGetName(handle)))


def _text(found: Any) -> str:
    """Older versions of the library answer in bytes."""
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else found or ""

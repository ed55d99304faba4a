"""What a meter says, whatever stands behind it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from batchsched.wire import EnergyMark, EnergySource


class Reading(NamedTuple):
    """Joules since the meter was made, neither part ever falling."""

    energy_j: float
    """Of the GPUs; of processors and memory where the engine runs on those."""
    source: EnergySource
    """Where `energy_j` comes from; `unmeasured`: it is not known, and 0 says nothing."""
    host_j: float = 0.0
    """Of the host beside the GPUs: their share of its processors and memory. Not in `energy_j`."""
    host_source: EnergySource = "unmeasured"
    mark: EnergyMark = ""
    beside_s: float = 0.0
    """For how long a replica of another pool worked, waited or stood ready for this one alone; never falling either."""
    beside_pool: str | None = ""
    """Whose that is; empty while there was none, None where it does not say."""

    @property
    def total_j(self) -> float:
        """Both parts."""
        return self.energy_j + self.host_j


class EnergyMeter(Protocol):
    """Counts joules from the moment it is made."""

    def read(self) -> Reading:
        """Joules so far. Never raises: what cannot be read now is caught up with later, or unmeasured."""
        ...

    def close(self) -> None:
        """Stop sampling."""
        ...


class Choice(NamedTuple):
    """A meter, and why this one."""

    meter: EnergyMeter
    why: str

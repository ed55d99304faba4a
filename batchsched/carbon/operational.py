"""Carbon of running: energy at the socket, the facility's overhead, the grid."""

from __future__ import annotations

from batchsched.units import kwh


def operational_g(energy_j: float, pue: float, intensity_g_per_kwh: float) -> float:
    """Grams for `energy_j` joules of IT energy in a facility with this PUE on a grid of this intensity."""
    return kwh(energy_j) * pue * intensity_g_per_kwh

"""Names of grid zones, and which zone a machine most likely stands in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

# The zone for somebody who named none: the world's mean, flat, so that there are grams but nothing to shift by.
WORLD = "WORLD"

# Other names of the zones that we know: Electricity Maps', and CarbonCast's older one for New York.
ALIASES = {
    "US-CAL-CISO": "CISO",
    "US-TEX-ERCO": "ERCO",
    "US-MIDA-PJM": "PJM",
    "US-MIDW-MISO": "MISO",
    "US-NE-ISNE": "ISNE",
    "US-NY-NYIS": "NYIS",
    "NYISO": "NYIS",
    "US-NW-BPAT": "BPAT",
    "US-SE-SOCO": "SOCO",
    "US-CENT-SWPP": "SWPP",
    "AU-QLD": "AUS_QLD",
}

# Only time zones of which one grid zone covers all, or by far the most people. New York and Chicago span several grids.
_BY_TIME_ZONE = {
    "America/Los_Angeles": "CISO",
    "US/Pacific": "CISO",
    "America/Detroit": "MISO",
    "Europe/Berlin": "DE",
    "Europe/Madrid": "ES",
    "Europe/Amsterdam": "NL",
    "Europe/Warsaw": "PL",
    "Europe/Stockholm": "SE",
    "Australia/Brisbane": "AUS_QLD",
    "Australia/Lindeman": "AUS_QLD",
}


def guess_zone(env: Mapping[str, str] | None = None, root: Path = Path("/")) -> tuple[str, str]:
    """A grid zone for this machine, and in words how it was found.

    Looks at `TZ`, `/etc/timezone` and the link `/etc/localtime`, and knows only time zones that leave little doubt; else `WORLD`.
    """
    name, where = _time_zone(os.environ if env is None else env, root)
    if not name:
        return WORLD, "no grid zone was given and the machine names no time zone: the world's mean stands in"
    if zone := _BY_TIME_ZONE.get(name):
        return zone, f"guessed from the machine's time zone {name} ({where})"
    return WORLD, f"the machine's time zone {name} ({where}) does not name one grid: the world's mean stands in"


def _time_zone(env: Mapping[str, str], root: Path) -> tuple[str, str]:
    if name := env.get("TZ", "").lstrip(":"):
        return name.rpartition("zoneinfo/")[2], "TZ"
    written, link = root / "etc/timezone", root / "etc/localtime"
    if written.is_file() and (name := written.read_text("utf-8", "replace").strip()):
        return name, "/etc/timezone"
    if link.is_symlink():  # read as it stands: the file behind it may itself be a link with another city's name
        return str(link.readlink()).rpartition("zoneinfo/")[2], "/etc/localtime"
    return "", ""

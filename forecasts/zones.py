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

# Winter time by hours from UTC: of balancing areas of the United States (those not named are Eastern), and of countries.
_AREAS = {
    -8: "AVA BANC BPAT CHPD CISO DOPD GCPD IID LDWP NEVP PACW PGE PSEI SCL TIDC TPWR",
    -7: "AZPS DEAA EPE GRIF HGMA IPCO NWMT PACE PNM PSCO SRP TEPC WACM WALC WAUW",
    -6: "AECI ERCO MISO SOCO SPA SWPP TVA",
    -5: "CPLE CPLW DUK FMPP FPC FPL GVL HST ISNE JEA LGEE NYIS NYISO PJM SC SCEG SEC TAL TEC US",
}
_COUNTRIES = {
    -5: "CA CO EC PA PE",
    -4: "BO CL PY",
    -3: "AR BR UY",
    0: "GB GH IE IS MA PT",
    1: "AL AT BA BE CH CZ DE DK DZ ES FR HR HU IT LU ME MK MT NG NL NO PL RS SE SI SK TN XK",
    2: "BG CY EE EG FI GR IL LT LV MD RO UA ZA",
    3: "BY KE KW QA RU SA TR",
    4: "AE AM AZ GE OM",
    5: "PK UZ",
    6: "BD IN KZ",  # India is half an hour behind that
    7: "ID TH VN",
    8: "CN HK MY PH SG TW",
    9: "JP KR",
    10: "AU AUS",
    12: "NZ",
}
_AREA_OFFSETS = {name: hours for hours, names in _AREAS.items() for name in names.split()}
_COUNTRY_OFFSETS = {name: hours for hours, names in _COUNTRIES.items() for name in names.split()}


def utc_offset_h(zone: str) -> int:
    """The winter time of a zone in whole hours from UTC, by its name: an area's code, or a country's first. Unknown: 0."""
    country, _, _ = zone.replace("_", "-").partition("-")
    area = zone.rpartition("-")[2]
    if country == "US" or area == zone:
        known = _AREA_OFFSETS.get(area, -5 if country == "US" else None)
        if known is not None:
            return known
    return _COUNTRY_OFFSETS.get(country, 0)


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

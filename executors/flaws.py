"""Security flaws of vLLM that are published, by the versions that have them: what `batchsched doctor` warns of.

Versions as in the advisories of each number, collected in November 2026; newer ones are not in this table.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Flaw(NamedTuple):
    """Versions from `since` on and before `fixed` have it."""

    number: str
    since: tuple[int, ...]
    fixed: tuple[int, ...]
    what: str


FLAWS = (
    Flaw("CVE-2026-22778", (0, 8, 3), (0, 14, 1), "a picture or film in a request may run code"),
    Flaw("CVE-2026-24779", (0,), (0, 14, 1), "URLs of pictures may reach addresses that they should not"),
    Flaw("CVE-2026-27893", (0, 10, 1), (0, 18), "code of a model may run although trust_remote_code is off"),
    Flaw("CVE-2026-22807", (0, 10, 1), (0, 14), "code of a model may run although trust_remote_code is off"),
    Flaw("CVE-2025-59425", (0,), (0, 11), "the API key may be guessed by how long its check takes"),
)


def flaws_of(version: str) -> list[Flaw]:
    """Those of a version such as `0.13.0` or `0.19.1+cpu`; none of one that has no numbers."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    if numbers is None:
        return []
    found = tuple(int(part) for part in numbers[0].split("."))
    return [flaw for flaw in FLAWS if flaw.since <= found < flaw.fixed]

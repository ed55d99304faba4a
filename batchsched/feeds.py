"""Sources of carbon intensity as declared: which there are, and for each zone the order in which they are asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from batchsched.errors import InvalidConfiguration
from batchsched.hosts import is_loopback

Kind = Literal["carbon_aware_sdk", "eia", "electricity_maps", "entsoe", "file", "gb", "watttime"]
OWN = "own"
"""The name of the source that our own models are."""
WITH_SECRET = frozenset({"eia", "electricity_maps", "entsoe", "watttime"})


class FeedSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One source of carbon intensity; the key is better kept in an environment variable than here."""

    kind: Annotated[Kind, Meta(description="Who provides it, or `file`")]
    zones: Annotated[dict[str, str], Meta(description="Our zones, and what this source calls each; `file`: empty for all")] = {}
    secret: Annotated[str, Meta(description="Key, token or password, for sources that ask for one")] = ""
    secret_env: Annotated[str, Meta(description="Environment variable that holds it instead")] = ""
    user: Annotated[str, Meta(description="User name, for `watttime`")] = ""
    base_url: Annotated[str, Meta(description="Where it is; needed for `carbon_aware_sdk`, for others empty: their own")] = ""
    path: Annotated[str, Meta(description="The file, for kind `file`; relative to the configuration file")] = ""
    signal: Annotated[
        str, Meta(description="Which figure to ask for, such as `average direct`; empty: what the source gives by itself")
    ] = ""
    horizon_h: Annotated[
        int, Meta(ge=0, le=96, description="How far forecasts are asked for, where one may choose; 0: only history is asked for")
    ] = 72
    refresh_s: Annotated[float, Meta(gt=0, description="Seconds from one look for news to the next")] = 900.0
    fresh_s: Annotated[float, Meta(gt=0, description="Age in seconds of a forecast from which the next source serves")] = 129600.0
    min_interval_s: Annotated[float, Meta(ge=0, description="Least seconds between two requests")] = 1.0
    timeout_s: Annotated[float, Meta(gt=0, description="Longest wait for one whole answer")] = 30.0

    def __repr__(self) -> str:
        """Without the key: this may end up in a log."""
        return f"FeedSource({self.kind!r}, {self.zones!r})"

    def secret_from(self, name: str, env: Mapping[str, str]) -> str:
        """The key itself. Raises InvalidConfiguration where there is none, saying where it belongs."""
        found = (env.get(self.secret_env, "") if self.secret_env else self.secret).strip()
        if not found and self.kind in WITH_SECRET:
            if self.secret_env:
                raise InvalidConfiguration(
                    f"The environment variable {self.secret_env}, which forecast.sources.{name}.secret_env names, is not set."
                )
            raise InvalidConfiguration(
                f"The source '{name}' ({self.kind}) asks for a key.",
                hint=f"Put it in an environment variable and name that in forecast.sources.{name}.secret_env.",
            )
        if not (found.isascii() and found.isprintable()) and self.kind != "watttime":
            raise InvalidConfiguration(f"The key of the source '{name}' has characters that no key has.")
        return found


class ZoneFeed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who is asked about one zone."""

    sources: Annotated[list[str], Meta(description="Names of sources, the best one first")]
    signal: Annotated[str, Meta(description="The figure that all of them must give; empty: the first one's")] = ""


def complaint(sources: Mapping[str, FeedSource], zones: Mapping[str, ZoneFeed], order: list[str]) -> tuple[str, str] | None:
    """What is wrong with these declarations, if anything: the key under `forecast`, and the complaint."""
    for name, source in sources.items():
        if what := _source_complaint(source):
            return f"sources.{name}.{what[0]}", what[1]
    if OWN in sources:
        return f"sources.{OWN}", "the name is taken by our own models; choose another"
    known = ", ".join((*sources, OWN))
    for key, names in (("order", order), *((f"zones.{zone}.sources", feed.sources) for zone, feed in zones.items())):
        if unknown := [name for name in names if name not in sources and name != OWN]:
            return key, f"there is no source '{unknown[0]}' (allowed: {known})"
        if len(set(names)) < len(names):
            return key, "a source is named twice"
    for zone, feed in zones.items():
        for name in feed.sources:
            if name != OWN and zone not in sources[name].zones and sources[name].zones:
                return f"zones.{zone}.sources", f"'{name}' knows no zone '{zone}'; add it to forecast.sources.{name}.zones"
    return None


def _source_complaint(source: FeedSource) -> tuple[str, str] | None:
    kind, url = source.kind, source.base_url
    self_hosted = kind == "carbon_aware_sdk"
    rules = (
        ("path", kind == "file" and not source.path, "is needed with kind 'file'"),
        ("zones", kind != "file" and not source.zones, 'say which zones it is asked about, such as { DE = "DE" }'),
        ("base_url", self_hosted and not url, f"is needed with kind '{kind}', such as http://localhost:8080"),
        (
            "signal",
            self_hosted and not source.signal,
            f"is needed with kind '{kind}': its answers do not say which figure they are",
        ),
        ("user", kind == "watttime" and not source.user, "is needed with kind 'watttime'"),
        (
            "base_url",
            url and (not url.startswith(("https://", "http://")) or set(url) & set("@?#")),
            "must be a plain address such as https://example.com, without a user, a key or parameters",
        ),
        ("base_url", kind in WITH_SECRET and _in_the_open(url), "must be https, else the key would travel in the open"),
    )
    return next(((key, what) for key, broken, what in rules if broken), None)


def _in_the_open(url: str) -> bool:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
    except ValueError:
        return True
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")

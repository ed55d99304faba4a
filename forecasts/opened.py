"""The provider that plans rest on, as the settings declare it: the sources in order, and what stands behind them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from batchsched.clock import Clock
from batchsched.errors import ForecastUnavailable, InvalidConfiguration, InvalidValue
from batchsched.feeds import OWN
from batchsched.forecasts import open_provider
from batchsched.forecasts.port import Provider, Signal
from batchsched.settings import Forecast

if TYPE_CHECKING:
    from batchsched.forecasts.archive import Archive
    from batchsched.forecasts.chain import Chain, Links
    from batchsched.forecasts.own import Own
    from batchsched.forecasts.sources import Source

log = logging.getLogger(__name__)


class Opened(NamedTuple):
    """The provider; where sources are declared, the chain in it and the sources by name, our own models among them."""

    provider: Provider
    chain: Chain | None
    sources: Mapping[str, Source]
    own: Own | None = None
    relink: Callable[[], None] = lambda: None
    """Take notice of zones that a file has gained."""


def open_forecasts(settings: Forecast, base_dir: Path, archive: Callable[[], Archive], clock: Clock) -> Opened:
    """Without declared sources that is `open_provider`'s, and the archive is not opened. Raises InvalidConfiguration."""
    typical = open_provider(settings, base_dir)
    if not (settings.sources or settings.zones):
        return Opened(typical, None, {})
    from batchsched.forecasts.chain import Chain
    from batchsched.forecasts.continued import Continued
    from batchsched.forecasts.own import Own
    from batchsched.forecasts.sources import open_sources

    sources = open_sources(settings, base_dir, clock)
    kept, links = archive(), links_of(settings, sources)
    chain = Chain(kept, links, typical)
    provider = Continued(chain, typical)
    signals, others = _signals_and_others(links)
    own = Own(kept, signals, kept.folder / "models", clock, others) if settings.own else None
    relink = Relink(settings, sources, links, chain, own)
    return Opened(provider, chain, {**sources, OWN: own} if own else sources, own, relink)


class Relink:
    """Looks which zones the sources have now, and tells the chain and our models. A zone that a source lost keeps its chain."""

    def __init__(
        self, settings: Forecast, sources: Mapping[str, Source], links: Mapping[str, Links], chain: Chain, own: Own | None
    ) -> None:
        self._settings, self._sources, self._chain, self._own = settings, sources, chain, own
        self._links = links
        self._zones = {name: source.zones() for name, source in sources.items()}
        self._looking = threading.Lock()

    def __call__(self) -> None:
        """Does nothing where none has changed. One that would mix signals is warned of, and changes nothing."""
        with self._looking:
            try:
                zones = {name: source.zones() for name, source in self._sources.items()}
                if zones == self._zones:
                    return
                self._zones = zones
                self._links = {**self._links, **links_of(self._settings, self._sources)}
            except InvalidConfiguration as problem:
                log.warning("Zones that have changed are not taken up: %s", problem.message)
                return
            self._chain.relink(self._links)
            if self._own:
                self._own.relink(*_signals_and_others(self._links))


def _signals_and_others(links: Mapping[str, Links]) -> tuple[dict[str, Signal], dict[str, list[str]]]:
    others = {zone: [name for name in one.sources if name != OWN] for zone, one in links.items()}
    return {zone: one.signal for zone, one in links.items()}, others


def links_of(settings: Forecast, sources: Mapping[str, Source]) -> dict[str, Links]:
    """The chain of each zone that a source is asked about. Raises InvalidConfiguration where one would mix signals."""
    from batchsched.forecasts.chain import Links
    from batchsched.forecasts.own import FRESH_S

    zones = {zone for source in sources.values() for zone in source.zones()} | settings.zones.keys()
    links: dict[str, Links] = {}
    for zone in sorted(zones):
        named = settings.order_for(zone)
        named = named if OWN in named else [OWN, *named]
        order = [name for name in named if name != OWN]
        signals = {name: signal for name in order if (signal := _signal(sources[name], zone))}
        own = settings.zones.get(zone)
        key = f"forecast.zones.{zone}" if own else "forecast.order"
        signal = one_signal_of(zone, key, signals, _asked(key, own.signal) if own and own.signal else None)
        fresh_s = {name: settings.sources[name].fresh_s for name in order} | {OWN: FRESH_S}
        able = {name for name in order if sources[name].has_forecast and (own or name in signals)}
        able |= {OWN} if settings.own else set()
        links[zone] = Links(tuple(name for name in named if name in able), signal, fresh_s)
    return links


def one_signal_of(zone: str, key: str, signals: Mapping[str, Signal], asked: Signal | None = None) -> Signal:
    """The one signal of a zone's sources. Raises InvalidConfiguration that names two that differ, and the setting `key`."""
    first = next(iter(signals.items()), ("", asked or Signal()))
    for name, signal in signals.items():
        if asked is not None and signal != asked:
            raise InvalidConfiguration(f"{key}: '{zone}' is to be {asked}, and '{name}' gives {signal}; signals are never mixed.")
        if signal != first[1]:
            raise InvalidConfiguration(
                f"{key}: for '{zone}', '{first[0]}' gives {first[1]} and '{name}' {signal}; signals are never mixed.",
                hint="Leave one of them out, or ask it for the other's signal.",
            )
    return first[1]


def _signal(source: Source, zone: str) -> Signal | None:
    try:
        return source.signal_of(zone)
    except ForecastUnavailable:
        return None  # a file that does not know the zone yet


def _asked(key: str, signal: str) -> Signal:
    try:
        return Signal.parse(signal)
    except InvalidValue as problem:
        raise InvalidConfiguration(f"{key}.signal: {problem.message}") from None

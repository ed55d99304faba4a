"""The feed: what sources say goes into the archive, at their pace; failures are met with patience; what is missing is fetched."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from batchsched.clock import ManualClock, SystemClock
from batchsched.errors import (
    BatchschedError,
    ForecastUnavailable,
    InvalidConfiguration,
    InvalidValue,
    SourceLimited,
    SourceRefused,
)
from batchsched.feeds import FeedSource, ZoneFeed
from batchsched.forecasts import ForecastSlot, IntensityForecast, Realised, Signal
from batchsched.forecasts.archive import Archive
from batchsched.forecasts.chain import Chain, Links
from batchsched.forecasts.climatology import Climatology
from batchsched.forecasts.feed import Feeds
from batchsched.forecasts.opened import links_of, open_forecasts
from batchsched.forecasts.persistence import hour_of, instant_of
from batchsched.forecasts.port import Generation
from batchsched.forecasts.sources.port import Measured
from batchsched.forecasts.switches import Switches
from batchsched.settings import Forecast
from tests.live import PATIENCE_S

NOW = datetime(2026, 5, 20, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def value_at(at: datetime) -> float:
    return 200 + 10 * at.hour + at.day


class Told:
    """A source that says what it is told to, and notes what it was asked."""

    has_forecast = True
    has_history = True

    def __init__(self, name: str, *zones: str, signal: Signal = Signal()) -> None:  # noqa: B008 - frozen
        self.name = name
        self._zones = list(zones or ("DE",))
        self._signal = signal
        self.trouble: dict[str, BatchschedError | Exception] = {}
        self.asked: list[tuple[str, datetime]] = []
        self.starts: list[datetime] = []
        self.answered = threading.Event()

    def zones(self) -> list[str]:
        return self._zones

    def signal_of(self, zone: str) -> Signal:
        if zone not in self._zones:
            raise ForecastUnavailable(f"The source '{self.name}' has no zone '{zone}'.")
        return self._signal

    def fetch_forecast(self, zone: str, now: datetime) -> IntensityForecast:
        self.asked.append((zone, now))
        if zone in self.trouble:
            raise self.trouble[zone]
        slots = tuple(ForecastSlot(now + n * HOUR, now + (n + 1) * HOUR, value_at(now + n * HOUR)) for n in range(48))
        self.answered.set()
        return IntensityForecast(zone, now, self.name, self._signal, slots)

    def fetch_realised(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Realised]:
        if zone in self.trouble:
            raise self.trouble[zone]
        self.starts.append(start)
        first = start.replace(minute=0, second=0, microsecond=0)
        hours = (first + n * HOUR for n in range(1 + (end - first) // HOUR))
        return [
            Realised(zone, at, at + HOUR, value_at(at), self.name, self._signal)
            for at in hours
            if start <= at < end and at + HOUR <= now
        ]


class House:
    """Sources, an archive, a chain, and what was counted."""

    def __init__(self, folder: Path, *sources: Told, leading: Callable[[], bool] = lambda: True) -> None:
        self.clock = ManualClock(NOW)
        self.archive = Archive(folder / "archive")
        self.counted: Counter[str] = Counter()
        self.switches = Switches(folder / "switches.jsonl")
        zones = {zone for source in sources for zone in source.zones()}
        links = {
            zone: Links(tuple(s.name for s in sources if zone in s.zones()), sources[0].signal_of(sources[0].zones()[0]))
            for zone in zones
        }
        self.chain = Chain(self.archive, links, Climatology())
        self.feeds = Feeds(
            {source.name: source for source in sources},
            {source.name: 900.0 for source in sources},
            self.archive,
            self.chain,
            self.switches,
            self.clock,
            leading=leading,
            news=lambda: self.counted.update(["news"]),
            failed=lambda: self.counted.update(["failed"]),
            switched=lambda: self.counted.update(["switched"]),
        )

    def round(self, name: str = "one") -> float:
        pause_s = self.feeds.feeds[name].round()
        self.clock.advance(pause_s)
        return pause_s


def test_what_a_source_says_is_kept_as_it_was_known(tmp_path: Path) -> None:
    house = House(tmp_path, Told("one"))
    assert house.round() == 900
    assert house.archive.newest("DE", as_of=NOW, provider="one") is not None
    assert house.archive.newest("DE", as_of=NOW - HOUR, provider="one") is None
    assert house.counted == {"news": 1}
    assert house.feeds.feeds["one"].state.failures == 0
    assert len(house.chain.realised("DE", NOW - 28 * DAY, NOW, NOW)) == 28 * 24


def test_missing_weeks_are_fetched_once_a_day_and_the_last_days_each_time(tmp_path: Path) -> None:
    source = Told("one")
    house = House(tmp_path, source)
    house.round()
    house.round()
    assert source.starts == [NOW - 28 * DAY, NOW + timedelta(seconds=900) - 2 * DAY]
    house.clock.advance(3 * 86400)  # nobody asked for three days: what was missed is asked for
    house.round()
    assert source.starts[-1] == NOW + HOUR - HOUR
    house.round()
    assert source.starts[-1] == house.clock.now() - timedelta(seconds=900) - 2 * DAY


def test_nothing_new_is_no_news(tmp_path: Path) -> None:
    source = Told("one")
    house = House(tmp_path, source)
    house.round()
    source.has_forecast = False
    house.round()
    assert house.counted == {"news": 1}


def test_failures_are_met_with_growing_patience(tmp_path: Path) -> None:
    source = Told("one")
    house = House(tmp_path, source)
    source.trouble["DE"] = ForecastUnavailable("It is down.")
    assert [house.round() for _ in range(8)] == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    state = house.feeds.feeds["one"].state
    assert (state.failures, state.problem, state.answered_at) == (8, "It is down.", None)
    assert house.counted == {"failed": 8}
    source.trouble.clear()
    assert house.round() == 900
    source.trouble["DE"] = ForecastUnavailable("It is down.")
    assert house.round() == 60


def test_a_bad_file_is_looked_at_as_often_as_a_good_one(tmp_path: Path) -> None:
    source = Told("one")
    house = House(tmp_path, source)
    source.trouble["DE"] = InvalidConfiguration("The file is not one.")
    assert [house.round() for _ in range(4)] == [900] * 4
    assert house.feeds.feeds["one"].state.failures == 4


def test_a_source_s_own_wish_is_kept_and_a_refused_key_is_not_hammered(tmp_path: Path) -> None:
    source = Told("one", "DE", "FR")
    house = House(tmp_path, source)
    source.trouble["DE"] = SourceLimited("Not yet.", retry_after_s=7200)
    assert house.round() == 7200
    assert source.asked == [("DE", NOW)]  # FR would be refused as well
    source.trouble["DE"] = SourceLimited("Not yet.", retry_after_s=5)
    assert house.round() == 120
    source.trouble = dict.fromkeys(("DE", "FR"), SourceRefused("The key is not accepted."))
    assert house.round() == 3600


@pytest.mark.parametrize("kind", [ForecastUnavailable, SourceRefused])
def test_one_zone_s_trouble_is_not_the_others(tmp_path: Path, kind: type[BatchschedError]) -> None:
    source = Told("one", "DE", "FR")
    house = House(tmp_path, source)
    source.trouble["DE"] = kind("No such zone.")  # a key's plan may lack a zone
    assert house.round() == 900
    assert house.archive.newest("FR", as_of=NOW) is not None
    state = house.feeds.feeds["one"].state
    assert (state.failures, state.problem) == (0, "No such zone.")


def test_a_wrong_key_is_tried_once_a_round_and_not_for_each_zone(tmp_path: Path) -> None:
    source = Told("one", *(f"Z{n}" for n in range(20)))
    house = House(tmp_path, source)
    wrong, not_in_the_plan = (SourceRefused("No.", status=status) for status in (401, 403))
    source.trouble = dict.fromkeys(source.zones(), wrong)
    assert house.round() == 3600
    assert [zone for zone, _ in source.asked] == ["Z0"]
    source.trouble = {"Z0": not_in_the_plan, "Z7": wrong}  # which the others are answered with: it is not the key
    assert house.round() == 900
    assert len(source.asked) == 1 + 20
    assert house.archive.newest("Z19", as_of=house.clock.now()) is not None


def test_our_models_look_again_as_soon_as_there_is_something_to_learn_from(tmp_path: Path) -> None:
    """Every source asks at the start, and ours looks before there is anything: it need not wait for its next turn."""
    own, one = Told("own"), Told("one")
    own.zones, had = (lambda: ["DE"] if had else []), list[str]()  # type: ignore[method-assign]
    house = House(tmp_path, one)
    feeds = Feeds(
        {"own": own, "one": one},
        {"own": 300.0, "one": 900.0},
        house.archive,
        house.chain,
        house.switches,
        house.clock,
        leading=lambda: True,
        news=lambda: None,
        failed=lambda: None,
        switched=lambda: None,
    )
    ours = feeds.feeds["own"]
    ours.round()
    assert not ours.is_due()
    had.append("DE")
    feeds.feeds["one"].round()
    assert ours.is_due()
    ours.round()
    assert not ours.is_due()
    house.clock.advance(200)
    feeds.feeds["one"].round()
    assert not ours.is_due()  # from now on at its own pace


def test_an_odd_failure_is_a_failure(tmp_path: Path) -> None:
    source = Told("one")
    source.trouble["DE"] = RuntimeError("a secret of the library")
    house = House(tmp_path, source)
    assert house.round() == 60
    assert house.feeds.feeds["one"].state.problem == "RuntimeError"


def test_a_switch_is_recorded_and_counted(tmp_path: Path) -> None:
    one, other = Told("one"), Told("other")
    house = House(tmp_path, one, other)
    house.round("one")
    house.round("other")
    assert [switch.source for switch in house.switches.all()] == ["one"]
    one.trouble["DE"] = ForecastUnavailable("It is down.")
    while house.clock.now() < NOW + 37 * HOUR:
        house.round("one")
        house.round("other")
    last = house.switches.newest()["DE"]
    assert (last.before, last.source) == ("one", "other")
    assert last.why.startswith("one: stale: issued 1d 1")
    assert house.counted["switched"] == 1


def test_threads_ask_by_themselves_and_only_where_they_lead(tmp_path: Path) -> None:
    leads = threading.Event()
    source = Told("one")
    house = House(tmp_path, source, leading=leads.is_set)
    house.feeds.start()
    try:
        assert source.asked == []
        leads.set()
        assert source.answered.wait(PATIENCE_S)
    finally:
        house.feeds.stop()


class Generates(Told):
    """One that sees what power is generated from, too."""

    def fetch_generation(self, zone: str, start: datetime, end: datetime, now: datetime) -> Measured:
        values = self.fetch_realised(zone, start, end, now)
        return Measured(values, [Generation(zone, v.start, v.end, self.name, {"coal": v.intensity_g_per_kwh}) for v in values])


def test_generation_comes_with_what_came_true_and_by_the_same_question(tmp_path: Path) -> None:
    source = Generates("one")
    house = House(tmp_path, source)
    house.feeds.feeds["one"].round()
    assert len(source.starts) == 1
    house.feeds.backfill("DE", NOW - 60 * DAY, NOW - 59 * DAY)
    for until in (NOW, NOW - 59 * DAY):
        last = hour_of(until)
        coal = house.archive.generation("DE", last - 24, last, as_of=NOW)["coal"].tolist()
        assert coal == [value_at(instant_of(hour)) for hour in range(last - 24, last)]


class TestBackfill:
    def test_each_source_of_the_zone_is_asked_and_says_what_it_had(self, tmp_path: Path) -> None:
        one, other, none = Told("one"), Told("other", "DE", "FR"), Told("none")
        none.has_history = False
        house = House(tmp_path, one, other, none)
        one.trouble["DE"] = ForecastUnavailable("It is down.")
        start = NOW - 60 * DAY
        found = house.feeds.backfill("DE", start, start + 31 * DAY)
        assert [(b.source, b.received, b.added, b.problem) for b in found] == [
            ("one", 0, 0, "It is down."),
            ("other", 31 * 24, 31 * 24, ""),
            ("none", 0, 0, "it has no history"),
        ]
        assert house.feeds.backfill("DE", start, start + DAY)[1].added == 0
        assert len(house.archive.realised("DE", start, start + DAY, as_of=NOW)) == 24
        assert house.archive.realised("DE", start, start + DAY, as_of=NOW - HOUR) == []  # it was not known before
        assert house.counted == {"news": 1}

    def test_a_file_that_went_bad_stops_no_other(self, tmp_path: Path) -> None:
        one, other = Told("one"), Told("other")
        house = House(tmp_path, one, other)
        one.trouble["DE"] = InvalidConfiguration("f.csv is not UTF-8 text.")
        one.zones = lambda: (_ for _ in ()).throw(one.trouble["DE"])  # type: ignore[method-assign]
        found = house.feeds.backfill("DE", NOW - DAY, NOW)
        assert [(b.added, b.problem) for b in found] == [(0, "f.csv is not UTF-8 text."), (24, "")]

    def test_what_cannot_be_asked_is_refused(self, tmp_path: Path) -> None:
        house = House(tmp_path, Told("one"))
        with pytest.raises(ForecastUnavailable, match="No source is asked about the zone 'FR'"):
            house.feeds.backfill("FR", NOW - DAY, NOW)
        with pytest.raises(InvalidValue, match="At most 31 days"):
            house.feeds.backfill("DE", NOW - 32 * DAY, NOW)


class TestOpened:
    settings = Forecast(
        sources={
            "gb": FeedSource(kind="gb", zones={"GB": "national", "GB-13": "13"}),
            "wt": FeedSource(kind="watttime", zones={"GB": "UK"}, user="me", secret="s"),
        },
        zones={"GB": ZoneFeed(["gb"])},
    )

    def test_each_zone_has_its_chain(self, tmp_path: Path) -> None:
        opened = open_forecasts(self.settings, tmp_path, lambda: Archive(tmp_path / "archive"), SystemClock())
        assert opened.chain is not None
        assert opened.chain.chained() == ["GB", "GB-13"]
        assert set(opened.sources) == {"gb", "wt", "own"}
        assert opened.provider.signal_of("GB") == Signal()
        assert "CISO" in opened.provider.zones()
        with pytest.raises(
            ForecastUnavailable, match=r"gb: nothing was received yet; .*climatology: .*does not know the zone 'GB'"
        ):
            opened.provider.forecast("GB", NOW, NOW + DAY)

    def test_a_mixed_order_is_refused_before_anything_starts(self, tmp_path: Path) -> None:
        mixed = Forecast(sources=self.settings.sources)
        with pytest.raises(InvalidConfiguration, match="'gb' gives average direct and 'wt' marginal direct"):
            open_forecasts(mixed, tmp_path, lambda: Archive(tmp_path / "archive"), SystemClock())
        asked = Forecast(sources=self.settings.sources, zones={"GB": ZoneFeed(["gb"], "average lifecycle")})
        with pytest.raises(InvalidConfiguration, match="'GB' is to be average lifecycle, and 'gb' gives average direct"):
            open_forecasts(asked, tmp_path, lambda: Archive(tmp_path / "archive"), SystemClock())

    def test_a_source_without_forecasts_gives_its_history_only(self) -> None:
        measured = Told("eia")
        measured.has_forecast = False
        declared = FeedSource(kind="eia", zones={"DE": "DE"}, secret="s")
        assert links_of(Forecast(sources={"eia": declared}), {"eia": measured})["DE"].sources == ("own",)

    def test_a_file_of_all_its_zones_stands_in_no_other_zone_s_chain(self) -> None:
        sources = {"gb": Told("gb", "GB"), "mine": Told("mine", "DE")}
        declared = {"gb": FeedSource(kind="gb", zones={"GB": "national"}), "mine": FeedSource(kind="file", path="f.csv")}
        links = links_of(Forecast(sources=declared, own=False), sources)
        assert {zone: chain.sources for zone, chain in links.items()} == {"GB": ("gb",), "DE": ("mine",)}

    def test_a_file_s_new_zone_is_served_and_one_of_another_signal_is_not(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path, clock = tmp_path / "f.csv", ManualClock(NOW)

        def write(*zones: str, signal: str = "average direct") -> None:
            rows = [
                f"{zone},{at.isoformat()},{(at + HOUR).isoformat()},{NOW.isoformat()},{n}" for zone in zones for n, at in ahead
            ]
            path.write_text("\n".join([f"# signal: {signal}", "zone,start,end,issued_at,mean", *rows]))

        ahead = [(300 + n, NOW + n * HOUR) for n in range(30)]
        write("DE")
        declared = Forecast(sources={"mine": FeedSource(kind="file", path="f.csv")})
        opened = open_forecasts(declared, tmp_path, lambda: Archive(tmp_path / "archive"), clock)
        assert opened.chain is not None
        assert opened.own is not None
        write("DE", "FR", "PL")
        opened.relink()
        assert opened.chain.chained() == ["DE", "FR", "PL"]
        assert opened.own.signal_of("FR") == Signal()
        archive = Archive(tmp_path / "archive")
        archive.add_forecast(opened.sources["mine"].fetch_forecast("FR", NOW), NOW)
        assert opened.provider.forecast("FR", NOW, NOW + DAY).provider == "mine"
        path.write_text("nonsense")
        opened.relink()
        assert opened.chain.chained() == ["DE", "FR", "PL"]
        assert "are not taken up" in caplog.text
        write("DE")  # who is gone for a while is served from what was known
        opened.relink()
        assert opened.provider.forecast("FR", NOW, NOW + DAY).provider == "mine"

    def test_without_sources_nothing_is_opened(self, tmp_path: Path) -> None:
        def never() -> Archive:
            raise AssertionError

        opened = open_forecasts(Forecast(), tmp_path, never, SystemClock())
        assert (opened.provider.name, opened.chain) == ("climatology", None)

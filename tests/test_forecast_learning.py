"""Our own models in a running server: they learn from what sources measured, issue, serve plans, and are judged."""

from __future__ import annotations

import json
import math
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import get_origin, get_type_hints

import pytest
from msgspec import Struct, structs

from batchsched import AsyncClient, Client
from batchsched.cli.main import main
from batchsched.client import forecasts as sdk
from batchsched.clock import SystemClock
from batchsched.errors import ForecastUnavailable, InvalidConfiguration
from batchsched.feeds import FeedSource, ZoneFeed
from batchsched.forecasts import ForecastSlot, IntensityForecast, Signal, figures
from batchsched.forecasts.archive import Archive
from batchsched.forecasts.chain import Chain, Links
from batchsched.forecasts.climatology import Climatology
from batchsched.forecasts.opened import links_of, open_forecasts
from batchsched.forecasts.skill import skill_of
from batchsched.server import forecast_answers as answers
from batchsched.settings import Forecast, load
from batchsched.wire import PREFIX
from tests.live import LiveServer, live_server, wait_for
from tests.test_forecast_own import DAY, HOUR, NOW, Site, sunny

SETTINGS = """
[sites.home]
zone = "DE"
[pools.local]
gpu = "cpu"
[models.tiny]
[planner]
solver = "greedy"
[forecast.zones.DE]
sources = ["own"]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[LiveServer]:
    """Of a site without any source: its history was put there, and is some hours old."""
    folder = tmp_path_factory.mktemp("learning")
    with live_server(folder, SETTINGS) as live:
        until = datetime.now(UTC) - 3 * HOUR
        live.runtime.archive.add_realised(sunny(until, 40), until)
        assert live.runtime.feeds is not None
        live.runtime.feeds.feeds["own"].round()
        yield live


def test_plans_rest_on_our_models(server: LiveServer) -> None:
    with Client(server.url, "") as client:
        shown = client.forecasts.retrieve("DE")
    assert (shown.provider, shown.signal, len(shown.levels)) == ("own", "average direct", 5)
    assert shown.note.startswith("from what its sources measured: seasonal naive")
    assert all(slot.quantiles for slot in shown.slots[:90])
    view = server.runtime.scheduler.observer.look(datetime.now(UTC))
    assert view.forecasts["DE"].provider == "own"
    assert 'batchsched_forecast_trust{source="own",zone="DE"} 1.0' in server.http.get("/metrics").text


async def test_training_on_request(server: LiveServer) -> None:
    async with AsyncClient(server.url, "") as client:
        learnt = await client.forecasts.train("DE")
        with pytest.raises(ForecastUnavailable, match="No source measures 'FR'"):
            await client.forecasts.train("FR")
    assert (learnt.zone, learnt.signal, learnt.known_h) == ("DE", "average direct", 40 * 24)
    assert learnt.mape is not None
    assert "forecast.train" in [entry["action"] for entry in server.get(f"{PREFIX}/audit")["data"]]


def test_what_is_imported_is_forecast_at_once(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    rows = [f"DE,{one.start.isoformat()},{one.end.isoformat()},300" for one in sunny(datetime.now(UTC), 3)]
    path.write_text("\n".join(["zone,start,end,realised", *rows]))
    with live_server(tmp_path / "served", SETTINGS) as live, Client(live.url, "") as client:
        feeds = live.runtime.feeds
        assert feeds is not None
        wait_for(lambda: not feeds.feeds["own"].is_due())  # it has looked in vain
        client.forecasts.import_file(path)
        wait_for(lambda: live.runtime.archive.newest("DE", as_of=datetime.now(UTC), provider="own"))


def ran(server: LiveServer, capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["forecast", *words, "--server", server.url])
    out, err = capsys.readouterr()
    assert stop.value.code == code, err
    return out if code == 0 else err


def test_the_commands(server: LiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "DE: seasonal naive" in ran(server, capsys, "train")
    assert json.loads(ran(server, capsys, "train", "DE", "--json"))["zone"] == "DE"
    assert "No source measures 'FR'" in ran(server, capsys, "train", "FR", code=1)
    past = datetime.now(UTC) - 10 * DAY
    for n in range(5):
        at = past + n * DAY
        server.runtime.archive.add_forecast(Site.forecast_of(at), at)
    told = ran(server, capsys, "evaluate")
    assert "told" in told
    assert "as served (climatology" in told
    first = json.loads(ran(server, capsys, "evaluate", "DE", "--json", "--from", (past - DAY).isoformat()).splitlines()[0])
    assert (first["provider"], first["from_h"], first["to_h"], first["issues"]) == ("told", 0, 24, 5)
    picture = tmp_path / "de.svg"
    assert "told" in ran(server, capsys, "evaluate", "DE", "--plot", str(picture))
    assert picture.read_bytes().startswith(b"<?xml")
    assert ran(server, capsys, "evaluate", "DE", "--from", "2020-01-01", "--to", "2020-02-01", "--json") == ""


def replace_mean(slot: ForecastSlot, n: int) -> ForecastSlot:
    """A forecast that is the worse the further it looks."""
    mean = slot.mean_g_per_kwh
    return structs.replace(slot, mean_g_per_kwh=None if mean is None else mean * (1 + n / 40 * math.sin(1.7 * n)))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (figures.Skill, sdk.Skill),
        (figures.Trained, sdk.Trained),
        (answers.Forecast, sdk.Forecast),
        (answers.Measurement, sdk.Measurement),
        (answers.ForecastFeed, sdk.ForecastFeed),
        (answers.Imported, sdk.Imported),
        (answers.Backfilled, sdk.Backfilled),
        (ForecastSlot, sdk.ForecastSlot),
    ],
)
def test_the_sdk_has_every_field_that_the_server_answers(ours: type[Struct], theirs: type[Struct]) -> None:
    """And of the same type, lists as tuples."""
    ours_have, theirs_have = get_type_hints(ours), get_type_hints(theirs)
    ours_have = {name: kind for name, kind in ours_have.items() if name not in {"object", "id"}}
    assert ours_have.keys() == theirs_have.keys()
    for name, kind in ours_have.items():
        if get_origin(kind) is None:
            assert theirs_have[name] == kind, name


class TestSkill:
    def test_each_day_ahead_against_naive(self, tmp_path: Path) -> None:
        site = Site(tmp_path, days=20)
        for n in range(10):
            at = NOW - 12 * DAY + n * DAY
            site.archive.add_forecast(Site.forecast_of(at), at)
        found = skill_of(site.archive, "DE", NOW - 20 * DAY, NOW, NOW)
        assert [(one.provider, one.from_h, one.to_h, one.issues) for one in found] == [
            ("told", n, n + 24, 10) for n in (0, 24, 48, 72)
        ]
        assert found[0].hours == 240
        assert all(one.mape is not None and one.mape > 0.3 for one in found)
        assert all(one.skill is not None and one.skill < 0 for one in found)
        assert all(one.coverage90 == 1.0 for one in found)

    def test_what_planning_on_it_would_have_captured(self, tmp_path: Path) -> None:
        """Flat forecasts capture nothing, the truth all of it, and one that errs the more the further it looks a part."""
        site = Site(tmp_path, days=20)
        truth = {value.start: value.intensity_g_per_kwh for value in site.archive.realised("DE", NOW - 20 * DAY, NOW, as_of=NOW)}
        for n in range(15):
            at = (NOW - 16 * DAY + n * DAY).replace(minute=0)
            site.archive.add_forecast(Site.forecast_of(at), at)
            slots = tuple(ForecastSlot(s, s + HOUR, truth.get(s)) for s in (at + h * HOUR for h in range(96)))
            seer = IntensityForecast("DE", at, "seer", Signal(), slots)
            site.archive.add_forecast(seer, at)
            worse = tuple(replace_mean(slot, h) for h, slot in enumerate(slots))
            site.archive.add_forecast(structs.replace(seer, provider="worse", slots=worse), at)
        found = {(one.provider, one.to_h): one.captured for one in skill_of(site.archive, "DE", NOW - 16 * DAY, NOW, NOW)}
        assert found["seer", 24] == found["seer", 48] == 1.0
        assert found["told", 24] == 0.0
        assert 0.2 < (found["worse", 24] or 0) < 0.95
        assert all(one.captured is None for one in skill_of(site.archive, "DE", NOW - 16 * DAY, NOW, NOW, bin_h=6))

    def test_a_changed_forecast_is_judged_as_it_first_came(self, tmp_path: Path) -> None:
        site = Site(tmp_path, days=20)
        at = NOW - 10 * DAY
        site.archive.add_forecast(Site.forecast_of(at), at)
        first = skill_of(site.archive, "DE", at, NOW, NOW)
        site.archive.add_forecast(Site.forecast_of(at, 300.0), at + DAY)
        assert skill_of(site.archive, "DE", at, NOW, NOW) == first

    def test_what_was_served_is_judged_too(self, tmp_path: Path) -> None:
        """A provider without quantiles, always a little too high: as it is served it is corrected and has a spread."""
        site, values = Site(tmp_path, days=0), list(sunny(NOW + 4 * DAY, 49))
        truth = {value.start: value.intensity_g_per_kwh for value in values}
        for n in range(40):
            at = (NOW - 40 * DAY + n * DAY).replace(minute=0)
            for known in (at, at + DAY / 2):
                site.archive.add_realised([value for value in values if known - 5 * DAY < value.end <= known], known)
            slots = tuple(ForecastSlot(s, s + HOUR, 1.04 * truth.get(s, 300.0)) for s in (at + h * HOUR for h in range(96)))
            site.archive.add_forecast(IntensityForecast("DE", at, "raw", Signal(), slots), at)
        chain = Chain(site.archive, {"DE": Links(("raw",), Signal())}, Climatology())
        found = skill_of(site.archive, "DE", NOW - 10 * DAY, NOW, NOW, chain=chain)
        raw, served = [[one for one in found if one.provider == name] for name in ("raw", "as served")]
        assert [one.from_h for one in served] == [one.from_h for one in raw] == [0, 24, 48, 72]
        assert {(one.issues, one.served_by, one.captured) for one in served} == {(27, "raw 27", None)}
        assert (served[0].mape or 1) < (raw[0].mape or 0) * 0.8  # half of the time something has come true since the issue
        assert [one.coverage90 for one in raw] == [None] * 4
        assert all(one.coverage90 and one.width90 and one.pinball_g for one in served)
        assert skill_of(site.archive, "DE", NOW - 10 * DAY, NOW, NOW, chain=chain, bin_h=6)[-1].from_h == 90
        nobody = Chain(site.archive, {"FR": Links(("raw",), Signal())}, Climatology())
        assert skill_of(site.archive, "DE", NOW - 10 * DAY, NOW, NOW, chain=nobody) == found[:4]

    def test_what_has_not_come_true_is_not_judged(self, tmp_path: Path) -> None:
        site = Site(tmp_path, days=20)
        site.archive.add_forecast(Site.forecast_of(NOW), NOW)
        assert skill_of(site.archive, "DE", NOW - DAY, NOW + DAY, NOW) == []


class TestOpened:
    def opened(self, folder: Path, **settings: object) -> tuple[str, ...]:
        declared = FeedSource(kind="gb", zones={"GB": "national"})
        forecast = Forecast(sources={"gb": declared}, **settings)  # type: ignore[arg-type]
        opened = open_forecasts(forecast, folder, lambda: Archive(folder / "archive"), SystemClock())
        return links_of(forecast, opened.sources)["GB"].sources

    def test_first_unless_it_is_named_or_switched_off(self, tmp_path: Path) -> None:
        assert self.opened(tmp_path) == ("own", "gb")
        assert self.opened(tmp_path, order=["gb", "own"]) == ("gb", "own")
        assert self.opened(tmp_path, zones={"GB": ZoneFeed(["gb", "own"])}) == ("gb", "own")
        assert self.opened(tmp_path, zones={"GB": ZoneFeed(["own", "gb"])}, own=False) == ("gb",)

    def test_its_name_is_taken(self, tmp_path: Path) -> None:
        path = tmp_path / "batchsched.toml"
        path.write_text('[forecast.sources.own]\nkind = "gb"\nzones = { GB = "national" }\n')
        with pytest.raises(InvalidConfiguration, match=r"forecast\.sources\.own.*taken by our own models"):
            load(path)

    def test_a_zone_without_sources_may_have_it(self, tmp_path: Path) -> None:
        settings = Forecast(zones={"DE": ZoneFeed(["own"], "average lifecycle")})
        opened = open_forecasts(settings, tmp_path, lambda: Archive(tmp_path / "archive"), SystemClock())
        assert opened.provider.signal_of("DE") == Signal("average", "lifecycle")

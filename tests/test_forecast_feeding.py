"""The feed in a running server, over a source that answers on a socket: plans, metrics, doctor and backfill."""

from __future__ import annotations

import json
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from batchsched import AsyncClient, Client
from batchsched.cli.main import main
from batchsched.errors import ForecastUnavailable, InvalidConfiguration, InvalidValue
from batchsched.wire import PREFIX
from tests.fake_providers import FakeProvider
from tests.live import LiveServer, live_server, wait_for

SETTINGS = """
[sites.home]
zone = "GB"
[pools.local]
gpu = "cpu"
[models.tiny]
[planner]
solver = "greedy"
[forecast.sources.grid]
kind = "gb"
zones = {{ GB = "national" }}
base_url = "{url}"
min_interval_s = 0
"""


@pytest.fixture(scope="module")
def grid() -> Generator[FakeProvider]:
    fake = FakeProvider("gb", "", datetime.now(UTC))
    yield fake
    fake.close()


@pytest.fixture(scope="module")
def server(grid: FakeProvider, tmp_path_factory: pytest.TempPathFactory) -> Generator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("feeding"), SETTINGS.format(url=grid.url)) as live:
        wait_for(lambda: live.runtime.archive.newest("GB", as_of=datetime.now(UTC)))
        wait_for(lambda: live.runtime.provider.realised("GB", *_day(), datetime.now(UTC)))
        yield live


@pytest.fixture
def client(server: LiveServer) -> Generator[Client]:
    with Client(server.url, "") as made:
        yield made


def _day() -> tuple[datetime, datetime]:
    now = datetime.now(UTC)
    return now - timedelta(days=1), now


def test_plans_rest_on_the_source(server: LiveServer, client: Client) -> None:
    shown = client.forecasts.retrieve("GB", hours=24)
    assert (shown.provider, shown.signal) == ("grid", "average direct")
    assert len(shown.realised) >= 46
    listed = {feed.zone: feed.provider for feed in client.forecasts.list()}
    assert (listed["GB"], listed["DE"]) == ("grid", "climatology")
    view = server.runtime.scheduler.observer.look(datetime.now(UTC))
    assert view.forecasts["GB"].provider == "grid"


def test_where_two_measured_the_declared_source_holds(server: LiveServer) -> None:
    now = datetime.now(UTC)
    before = server.runtime.provider.realised("GB", *_day(), now)
    imported = [msgspec.structs.replace(one, provider="imported", intensity_g_per_kwh=5.0) for one in before]
    assert server.runtime.archive.add_realised(imported, now) == len(before)
    after = server.runtime.provider.realised("GB", *_day(), datetime.now(UTC))
    assert {one.provider for one in after} == {"grid"}


def test_metrics_say_who_serves(server: LiveServer) -> None:
    text = server.http.get("/metrics").text
    assert 'batchsched_forecast_trust{source="grid",zone="GB"} 1.0' in text
    assert 'batchsched_forecast_age_seconds{source="grid",zone="GB"}' in text


def test_a_source_that_fails_is_counted(server: LiveServer, grid: FakeProvider) -> None:
    feeds = server.runtime.feeds
    assert feeds is not None
    grid.moods.extend(["403"] * 20)
    feeds.feeds["grid"].round()
    text = server.http.get("/metrics").text
    assert 'batchsched_forecast_source_failing{source="grid"} 1.0' in text
    assert "batchsched_forecast_source_failures_total 1.0" in text
    grid.moods.clear()
    feeds.feeds["grid"].round()
    assert 'batchsched_forecast_source_failing{source="grid"} 0.0' in server.http.get("/metrics").text


def test_backfill_brings_what_lies_further_behind(client: Client, server: LiveServer) -> None:
    end = datetime.now(UTC) - timedelta(days=60)
    (found,) = client.forecasts.backfill("GB", end - timedelta(days=2), end)
    assert (found.source, found.problem) == ("grid", "")
    assert found.received == found.added > 90
    (again,) = client.forecasts.backfill("GB", end - timedelta(days=2), end)
    assert (again.received, again.added) == (found.received, 0)
    with pytest.raises(ForecastUnavailable, match="No source is asked about the zone 'DE'"):
        client.forecasts.backfill("DE", end - timedelta(days=2), end)
    with pytest.raises(InvalidValue, match="At most 31 days"):
        client.forecasts.backfill("GB", end)
    with pytest.raises(InvalidValue, match="'start' lies in the future"):
        client.forecasts.backfill("GB", datetime.now(UTC) + timedelta(days=2))
    actions = [entry["action"] for entry in server.get(f"{PREFIX}/audit")["data"]]
    assert "forecast.backfill" in actions


async def test_the_async_client_has_it_too(server: LiveServer) -> None:
    async with AsyncClient(server.url, "") as client:
        (found,) = await client.forecasts.backfill("GB", datetime.now(UTC) - timedelta(days=1))
    assert found.received > 40


def test_the_command_goes_month_by_month(server: LiveServer, capsys: pytest.CaptureFixture[str]) -> None:
    start = (datetime.now(UTC) - timedelta(days=40)).isoformat()
    with pytest.raises(SystemExit) as stop:
        main(["forecast", "backfill", "GB", "--from", start, "--json", "--server", server.url])
    assert stop.value.code == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["source"] for line in lines] == ["grid", "grid"]
    assert sum(line["received"] for line in lines) > 1900
    with pytest.raises(SystemExit) as stop:
        main(["forecast", "backfill", "GB", "--from", "soon", "--server", server.url])
    assert "'soon' is not an instant" in capsys.readouterr().err


def doctor(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
    with pytest.raises(SystemExit):
        main(["doctor", "--quick", "--config", str(path), "--json"])
    checks = json.loads(capsys.readouterr().out)["checks"]
    return {check["check"]: (check["level"], check["text"]) for check in checks}


def test_doctor_says_who_serves_and_why(
    server: LiveServer, grid: FakeProvider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = server.runtime.settings.archive_folder()
    path = tmp_path / "batchsched.toml"
    settings = SETTINGS.format(url=grid.url).replace(
        "[forecast.sources", f'[forecast]\narchive_dir = "{folder}"\n[forecast.sources'
    )
    path.write_text(settings)
    found = doctor(path, capsys)
    level, text = found["forecast GB"]
    assert (level, text.split(", ")[:2]) == ("ok", ["grid", "average direct"])
    assert (found["source grid"][0], " ago" in text) == ("ok", True)
    feeds = server.runtime.feeds
    assert feeds is not None
    for said in ("no answer in 1 tries since 20", "no answer in 2 tries since 20"):  # what it said before is still fresh
        grid.moods.extend(["403"] * 20)
        feeds.feeds["grid"].round()
        grid.moods.clear()
        found = doctor(path, capsys)
        assert (found["forecast GB"][0], found["source grid"][0]) == ("ok", "warning")
        assert found["source grid"][1].startswith(said)
        assert "403" in found["source grid"][1]
    feeds.feeds["grid"].round()
    assert doctor(path, capsys)["source grid"][0] == "ok"
    path.write_text(settings.replace("min_interval_s = 0", "fresh_s = 0.001"))
    level, text = doctor(path, capsys)["forecast GB"]
    assert level == "warning"
    assert text.startswith("persistence, ")
    assert "before it: grid: stale" in text


def test_doctor_of_a_server_that_never_ran_makes_no_folder(
    grid: FakeProvider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "batchsched.toml"
    path.write_text(SETTINGS.format(url=grid.url) + f'[server]\ndata_dir = "{tmp_path / "data"}"\n')
    level, text = doctor(path, capsys)["forecast GB"]
    assert level == "broken"
    assert "grid: nothing was received yet" in text
    assert not (tmp_path / "data").exists()


def test_a_mixed_order_does_not_start(tmp_path: Path) -> None:
    mixed = SETTINGS.format(url="http://127.0.0.1:9") + (
        '[forecast.sources.other]\nkind = "watttime"\nuser = "u"\nsecret = "s"\nzones = { GB = "UK" }\n'
    )
    with (
        pytest.raises(InvalidConfiguration, match="'grid' gives average direct and 'other' marginal direct"),
        live_server(tmp_path, mixed),
    ):
        pass


def test_the_plan_moves_with_the_news(server: LiveServer) -> None:
    """News wakes the scheduler: the plan in force knows a forecast that came just now."""
    feeds = server.runtime.feeds
    assert feeds is not None
    before = datetime.now(UTC)
    feeds.feeds["grid"].round()

    def seen() -> bool:
        published = server.runtime.scheduler.published
        return published is not None and published.made_at > before

    assert wait_for(seen)

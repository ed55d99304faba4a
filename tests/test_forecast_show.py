"""`forecast show` and `forecast zones`: routes, SDK and commands, over a real server with an archive."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import pytest

from batchsched import AsyncClient, Client
from batchsched.cli import exits
from batchsched.cli.common import when
from batchsched.cli.main import main
from batchsched.errors import ForecastUnavailable, InvalidValue, SignalMismatch
from batchsched.forecasts import Signal
from batchsched.forecasts.chain import Chain, Links
from batchsched.forecasts.climatology import Climatology
from batchsched.wire import PREFIX
from tests.doomed_archive import HOUR, NOW, forecast, measured
from tests.live import LiveServer, live_server

Command = Callable[..., str]
MARGINAL = Signal("marginal", "direct")
LATER = NOW + 2.5 * HOUR


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[LiveServer]:
    """A server whose plans rest on its climatology, with an archive beside it."""
    with live_server(tmp_path_factory.mktemp("show")) as live:
        archive = live.runtime.archive
        archive.add_forecasts([forecast(0), forecast(2, mean=200)], NOW)
        archive.add_forecast(forecast(2, mean=210), NOW + 2.2 * HOUR)
        archive.add_forecast(forecast(zone="FR", provider="other", signal=MARGINAL), NOW)
        archive.add_realised([measured(-2, 90), measured(-1, 95)], NOW)
        archive.add_realised([measured(-1, 96), measured(0, 101)], NOW + 2 * HOUR)
        yield live


@pytest.fixture
def client(server: LiveServer) -> Generator[Client]:
    with Client(server.url, "") as made:
        yield made


@pytest.fixture
def command(server: LiveServer, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command and give its output."""

    def run(*arguments: str, code: int = exits.OK) -> str:
        with pytest.raises(SystemExit) as stop:
            main(["forecast", *arguments, "--server", server.url, "--api-key", "k"])
        assert stop.value.code == code
        printed = capsys.readouterr()
        return printed.out if code == exits.OK else printed.err

    return run


def test_as_of_gives_exactly_what_was_known_then(client: Client) -> None:
    first = client.forecasts.retrieve("DE", provider="grid", as_of=NOW + 1.5 * HOUR)
    assert [first.issued_at, first.received_at, first.licence] == [NOW, NOW, "CC0"]
    assert [slot.mean_g_per_kwh for slot in first.slots] == [101, 102, 103]
    assert list(first.slots[0].quantiles or ()) == [80, 90, 100, 110, 120]
    assert [value.intensity_g_per_kwh for value in first.realised] == [90, 95]
    changed = client.forecasts.retrieve("DE", signal="average direct", as_of=LATER, hours=1)
    assert (changed.received_at, len(changed.slots)) == (NOW + 2.2 * HOUR, 2)
    assert changed.slots[0].mean_g_per_kwh == 210
    assert [value.intensity_g_per_kwh for value in changed.realised] == [90, 96, 101]


def test_without_a_provider_it_is_what_plans_rest_on(server: LiveServer, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = client.forecasts.retrieve("DE")
    assert [shown.provider, shown.received_at, shown.realised] == ["climatology", None, ()]
    assert shown.slots[-1].end >= shown.as_of + 96 * HOUR
    assert len(shown.levels) == 5
    chain = Chain(server.runtime.archive, {"DE": Links(("grid",), Signal())}, Climatology())
    monkeypatch.setattr(server.runtime, "provider", chain)
    archived = client.forecasts.retrieve("DE", as_of=LATER)
    assert (archived.provider, archived.slots[0].mean_g_per_kwh, len(archived.realised)) == ("grid", 210, 3)


def test_what_cannot_be_shown_says_why(client: Client) -> None:
    with pytest.raises(ForecastUnavailable, match="ATLANTIS"):
        client.forecasts.retrieve("ATLANTIS")
    with pytest.raises(ForecastUnavailable, match="'DE' by 'grid'"):
        client.forecasts.retrieve("DE", provider="grid", as_of=NOW - HOUR)
    with pytest.raises(SignalMismatch, match=r"average direct by grid; marginal direct was asked for"):
        client.forecasts.retrieve("DE", signal="marginal direct")
    for wrong in ("soon", "2026-05-01T00:00:00", "2999-01-01T00:00:00Z", "1000-01-01T00:00:00Z"):
        with pytest.raises(InvalidValue):
            client.forecasts.retrieve("DE", as_of=wrong)


def test_the_list_has_the_archive_and_what_plans_rest_on(client: Client) -> None:
    found = {feed.zone: feed for feed in client.forecasts.list()}
    assert (found["DE"].provider, found["DE"].newest_issue_at, found["DE"].realised_until) == (
        "grid",
        NOW + 2 * HOUR,
        NOW + HOUR,
    )
    assert (found["FR"].signal, found["FR"].realised_until) == ("marginal direct", None)
    assert (found["SE"].provider, found["SE"].newest_issue_at) == ("climatology", None)


async def test_the_asynchronous_twin(server: LiveServer) -> None:
    async with AsyncClient(server.url, "") as client:
        assert len(await client.forecasts.list()) > 10
        assert (await client.forecasts.retrieve("FR", provider="other", as_of=NOW)).signal == "marginal direct"
        assert b"<svg" in await client.forecasts.plot("FR", "svg", provider="other", as_of=NOW)


@pytest.mark.parametrize(("kind", "magic"), [("png", b"\x89PNG"), ("svg", b"<svg")])
def test_a_picture(command: Command, tmp_path: Path, kind: str, magic: bytes) -> None:
    picture = tmp_path / f"forecast.{kind}"
    command("show", "DE", "--provider", "grid", "--as-of", NOW.isoformat(), "--plot", str(picture))
    assert magic in picture.read_bytes()
    if kind == "svg":
        assert all(word in picture.read_text() for word in ("came true", "90% band", "as of", "forecast (grid)"))


def test_the_table_and_the_json(command: Command) -> None:
    table = command("show", "DE", "--provider", "grid", "--as-of", LATER.isoformat()).splitlines()
    assert f"{when(NOW - HOUR)}\tcame true\t96\t\t\t\t\t" in table
    assert f"{when(NOW + 2 * HOUR)}\tforecast\t210\t168\t189\t210\t231\t252" in table
    shown = json.loads(command("show", "DE", "--json"))
    assert shown["zone"] == "DE"
    assert timedelta(hours=96) <= timedelta(hours=len(shown["slots"])) <= timedelta(hours=98)
    assert f"FR\tother\tmarginal direct\t{when(NOW)}\t" in command("zones").splitlines()
    listed = [json.loads(line) for line in command("zones", "--json").splitlines()]
    assert ("FR", "other") in {(one["zone"], one["provider"]) for one in listed}


def test_mistakes_are_told(command: Command) -> None:
    assert "ATLANTIS" in command("show", "ATLANTIS", code=exits.FAILURE)
    assert ".svg" in command("show", "DE", "--plot", "x.gif", code=exits.USAGE)
    assert "--to must lie after" in command("evaluate", "DE", "--from", "2026-05-02", "--to", "2026-05-01", code=exits.USAGE)
    assert "--to must lie after" in command("evaluate", "DE", "--from", "2999-01-01", code=exits.USAGE)
    assert "nothing of the zone 'ATLANTIS'" in command("evaluate", "ATLANTIS", code=exits.FAILURE)


def test_a_date_is_its_first_moment(command: Command) -> None:
    shown = json.loads(command("show", "DE", "--as-of", "2026-05-01", "--json"))
    assert shown["as_of"] == "2026-05-01T00:00:00Z"


def test_a_plus_in_an_address(server: LiveServer) -> None:
    """It stands for a space: the answer says so."""
    asked = "2026-05-20T00:00:00+00:00"
    path = f"{PREFIX}/forecasts/DE"
    assert server.http.get(f"{path}?as_of={asked}").json()["error"]["hint"].endswith("write %2B.")
    assert server.http.get(f"{path}?as_of={quote(asked)}").status_code == 200
    told = server.http.get(f"{path}/evaluation?start=2026-05-02T00:00:00Z&end=2026-05-01T00:00:00Z")
    assert (told.status_code, told.json()["error"]["param"]) == (400, "end")


def test_nothing_to_learn_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with live_server(tmp_path) as empty, pytest.raises(SystemExit) as stop:
        main(["forecast", "train", "--server", empty.url])
    assert stop.value.code == exits.FAILURE
    assert "Nothing has been measured" in capsys.readouterr().err

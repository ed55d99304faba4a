"""`forecast import`: a file's forecasts and measurements reach the archive, and are known from then on."""

from __future__ import annotations

import io
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePath

import pytest

from batchsched import AsyncClient, Client
from batchsched.cli import exits
from batchsched.cli.main import main
from batchsched.client.forecasts import import_file
from batchsched.errors import ForecastUnavailable, InvalidInputFile, InvalidRequest, InvalidValue, PayloadTooLarge
from batchsched.forecasts import Signal
from batchsched.forecasts.persistence import hour_of
from batchsched.server import forecasts as routes
from tests.live import LiveServer, live_server
from tests.test_forecasts import HOUR, NOW, row, two_days, write


@pytest.fixture
def server(tmp_path: Path) -> Generator[LiveServer]:
    with live_server(tmp_path) as live:
        yield live


@pytest.fixture
def client(server: LiveServer) -> Generator[Client]:
    with Client(server.url, "") as made:
        yield made


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Generator[Client]:
    """Of a server that may be shared, for it takes nothing in."""
    with live_server(tmp_path_factory.mktemp("refusing")) as live, Client(live.url, "") as made:
        yield made


def test_a_file_is_kept_once_and_known_from_now_on(server: LiveServer, client: Client, tmp_path: Path) -> None:
    path, before = two_days(tmp_path / "f.csv"), server.runtime.clock.now()
    found = client.forecasts.import_file(path)
    assert (found.provider, found.signal, found.zones) == ("file f.csv", "average direct", ("DE",))
    assert (found.forecasts, found.measurements) == (26, 24)
    again = client.forecasts.import_file(path)
    assert (again.forecasts, again.measurements) == (0, 0)
    with pytest.raises(ForecastUnavailable, match="known then"):
        client.forecasts.retrieve("DE", provider="file f.csv", as_of=before)
    archive, after = server.runtime.archive, server.runtime.clock.now()
    issues = archive.forecasts("DE", NOW - 99 * HOUR, NOW + 99 * HOUR, as_of=after)
    assert [issue.issued_at for issue in issues] == sorted({NOW + h * HOUR for h in (*range(-25, 0), 1)})
    values = archive.realised("DE", NOW - 99 * HOUR, NOW, as_of=after)
    assert [value.intensity_g_per_kwh for value in values] == [210 + h for h in range(-24, 0)]
    write(path, row(-1, 0, None, realised="999"), row(0, 1, None, realised="5"))
    revised = client.forecasts.import_file(path)
    assert (revised.forecasts, revised.measurements) == (0, 2)


def test_under_a_name_and_of_a_signal(server: LiveServer, client: Client, tmp_path: Path) -> None:
    export = tmp_path / "history.csv"
    export.write_text("region,timestamp_utc,ci_direct,ci_lifecycle\nDE,2022-01-01T00:00:00,300,350\n")
    found = client.forecasts.import_file(export, provider="mine", signal="average lifecycle")
    assert (found.provider, found.signal, found.measurements) == ("mine", "average lifecycle", 1)
    (feed,) = server.runtime.archive.feeds()
    assert tuple(feed) == ("DE", "mine", str(Signal("average", "lifecycle")))
    with pytest.raises(InvalidValue, match="green"):
        client.forecasts.import_file(export, signal="green")


def test_a_year_of_hours_is_taken_in_and_folded(server: LiveServer, client: Client, tmp_path: Path) -> None:
    import pandas as pd

    starts = pd.date_range("2022-01-01", periods=8760, freq="h", tz="UTC")
    frame = pd.DataFrame({"zone": "DE", "start": starts, "end": starts + timedelta(hours=1), "realised": range(8760)})
    frame.to_parquet(tmp_path / "year.parquet")
    assert client.forecasts.import_file(tmp_path / "year.parquet").measurements == 8760
    archive = server.runtime.archive
    archive.fold()
    span = starts[0].to_pydatetime(), starts[-1].to_pydatetime()
    values = archive.realised("DE", *span, as_of=server.runtime.clock.now())
    assert [value.intensity_g_per_kwh for value in values] == list(range(8759))


@pytest.mark.parametrize("zone", ["..", "a/b", "."])
@pytest.mark.parametrize("header", ["zone,start,end,realised", "zone,start,end,issued_at,mean"])
def test_a_zone_that_no_address_could_name_is_refused(refusing: Client, tmp_path: Path, zone: str, header: str) -> None:
    path, hour = tmp_path / "f.csv", "2026-05-01T00:00:00Z,2026-05-01T01:00:00Z"
    rest = "2026-05-01T00:00:00Z,5" if "mean" in header else "5"
    path.write_text(f"{header}\n{zone},{hour},{rest}\n")
    with pytest.raises(InvalidInputFile, match=rf"^f\.csv: '{zone}' cannot be the name of a zone"):
        refusing.forecasts.import_file(path)


def test_mistakes_name_the_file_as_its_owner_does(refusing: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("zone,start,end\nDE,soon,later\n")
    with pytest.raises(InvalidInputFile, match=r"^bad\.csv, line 2, column 'start': 'soon'"):
        refusing.forecasts.import_file(path)
    for name in ("..", "a/../../x.csv", "x" * 300, ".csv", "no.parquet"):
        with pytest.raises((InvalidInputFile, InvalidRequest)) as problem:
            refusing.send(import_file(PurePath(name), io.BytesIO(b"nonsense\n"), None, None))
        assert "batchsched-" not in problem.value.message
    for text in ("0001-01-01T00:00:00+14:00,0001-01-02T00:00:00+14:00,1", "x" * 200_000):
        path.write_text(f"zone,start,end,realised\nDE,{text}\n")
        with pytest.raises(InvalidInputFile, match=r"bad\.csv"):
            refusing.forecasts.import_file(path)
    monkeypatch.setattr(routes, "MOST_IMPORT_BYTES", 10)
    with pytest.raises(PayloadTooLarge):
        refusing.forecasts.import_file(path)


def test_what_has_not_come_true_yet_is_not_taken_in(server: LiveServer, client: Client, tmp_path: Path) -> None:
    past = row(-1, 0, None, realised="9")
    coming = "DE,2999-01-01T00:00:00Z,2999-01-01T01:00:00Z,,,,,,,,9"
    assert client.forecasts.import_file(write(tmp_path / "f.csv", past, coming)).measurements == 1
    endless = "DE,2001-01-01T00:00:00Z,2002-01-01T00:00:00Z,,,,,,,,9"
    with pytest.raises(InvalidInputFile, match="line 2, column 'realised': one measurement covers at most 31 days"):
        client.forecasts.import_file(write(tmp_path / "f.csv", endless))


@pytest.mark.parametrize("name", ["own", "climatology", "persistence"])
def test_the_names_of_what_is_made_here_are_taken(refusing: Client, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidValue, match=f"'{name}' is the name of"):
        refusing.forecasts.import_file(two_days(tmp_path / "f.csv"), provider=name)


def test_what_it_was_generated_from(server: LiveServer, client: Client, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "mix.csv", tmp_path / "history.csv"
    ours.write_text("zone,start,end,mw_gas,mw_wind\nDE,2022-01-01T00:00Z,2022-01-01T01:00Z,5.5,\n")
    theirs.write_text("region,timestamp_utc,mw_coal,mw_nat_gas\nFR,2022-01-01T00:00:00,,7\nFR,2022-01-01T01:00:00,nan,\n")
    for path, zone in ((ours, "DE"), (theirs, "FR")):
        found = client.forecasts.import_file(path)
        assert (found.zones, found.generation, found.measurements) == ((zone,), 1, 0)
    first = hour_of(datetime(2022, 1, 1, tzinfo=UTC))
    for zone, mw in (("DE", 5.5), ("FR", 7.0)):
        mix = server.runtime.archive.generation(zone, first, first + 1, as_of=server.runtime.clock.now())
        assert {fuel: values.tolist() for fuel, values in mix.items()} == {"gas": [mw]}
    ours.write_text("zone,start,end,mw_gas\nDE,2022-01-01T00:00Z,2022-01-01T01:00Z,much\n")
    with pytest.raises(InvalidInputFile, match=r"line 2, column 'mw_gas': 'much' is not a number"):
        client.forecasts.import_file(ours)


async def test_the_asynchronous_twin(server: LiveServer, tmp_path: Path) -> None:
    async with AsyncClient(server.url, "") as client:
        assert (await client.forecasts.import_file(two_days(tmp_path / "f.csv"))).forecasts == 26


def test_the_command(server: LiveServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["forecast", "import", str(two_days(tmp_path / "f.csv")), "--server", server.url, "--api-key", "k"])
    assert stop.value.code == exits.OK
    said = capsys.readouterr().err
    assert said == "New from file f.csv, average direct: 26 forecasts, 24 measurements (DE).\n"

"""Weather forecasts: read from files, kept as issued and received, seen by our models once they were published."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from batchsched import Client
from batchsched.cli.main import main
from batchsched.errors import InvalidConfiguration, InvalidInputFile
from batchsched.forecasts import Realised, Signal
from batchsched.forecasts.archive import Archive
from batchsched.forecasts.file import FileProvider
from batchsched.forecasts.gathered import Gathered
from batchsched.forecasts.models import Model
from batchsched.forecasts.persistence import hour_of, instant_of
from batchsched.forecasts.weather import WeatherRun, as_seen
from tests.live import live_server
from tests.test_forecast_gathered import DAY, DAYS, HOUR, NOW, WEATHER

HEADER = "zone,issued_at,start,published_at,wx_wind,wx_sun\n"
FIRST = hour_of(NOW) - DAYS * 24
MINUTE = timedelta(minutes=1)


def wind(hour: int) -> float:
    """What blows in an hour."""
    return float(WEATHER[max(hour - FIRST + 48, 0)])


def runs(until: int, days: int = DAYS, **changes: Any) -> Iterator[WeatherRun]:
    """One a day for four days, in steps of three hours, right to the point."""
    for hour in range(until // 24 * 24 - (days - 1) * 24, until, 24):
        values = tuple(wind(hour + 3 * n) for n in range(33))
        told: dict[str, Any] = {
            "zone": "EAST",
            "provider": "gfs",
            "values": {"wind": values},
            "published_at": instant_of(hour + 5),
            **changes,
        }
        yield WeatherRun(issued_at=instant_of(hour), start=instant_of(hour), step=3 * HOUR, **told)


def measured(until: int, days: int = DAYS) -> Iterator[Realised]:
    """A grid that runs on wind."""
    for hour in range(until - days * 24, until):
        value = max(300 - 15 * wind(hour), 20.0)
        yield Realised("EAST", instant_of(hour), instant_of(hour + 1), value, "meter", Signal())


def site(folder: Path) -> Archive:
    archive = Archive(folder)
    archive.add_realised(measured(hour_of(NOW)), NOW - MINUTE)
    return archive


@pytest.mark.parametrize("folded", [False, True])
def test_runs_are_kept_with_every_change(tmp_path: Path, folded: bool) -> None:
    archive, (run,) = Archive(tmp_path), runs(hour_of(NOW), 1)
    (other,) = runs(hour_of(NOW), 1, values={"wind": (1.5, None, 2.5e-5), "sun": (3.0,)})
    assert archive.add_weather([run], NOW) == 1
    assert archive.add_weather([run, other], NOW + HOUR) == 1
    if folded:
        archive.fold()
        assert pq.read_table(tmp_path / "weather" / "2026-05.parquet").num_rows == 3
    assert archive.add_weather([other], NOW + 2 * HOUR) == 0
    span = NOW - 2 * DAY, NOW
    assert [one.received_at for one in archive.weather("EAST", *span, as_of=NOW)] == [int(NOW.timestamp() * 1e6)]
    found = archive.weather("EAST", *span, as_of=NOW + HOUR)
    assert [(one.feed.signal, len(one.values)) for one in found] == [("wind", 33), ("sun", 1), ("wind", 3)]
    assert found[-1].values[:2] == (1.5, None)
    assert found[-1].values[2] == pytest.approx(2.5e-5)
    assert archive.weather("EAST", *span, as_of=NOW - HOUR) == []
    assert archive.feeds() == []


def test_hours_between_the_steps_and_when_it_was_published(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    issued = instant_of(hour_of(NOW) // 24 * 24)
    late = WeatherRun("EAST", issued - DAY, issued + HOUR, "gfs", issued - DAY, HOUR, {"wind": (9.0,)})
    soon = WeatherRun("EAST", issued, issued + 4.5 * HOUR, "gfs", issued + 3 * HOUR, 3 * HOUR, {"wind": (3.0, None, 9.0)})
    archive.add_weather([late, soon], issued)
    assert archive.weather("EAST", issued, NOW, as_of=issued + 4 * HOUR) == []
    seen = as_seen(archive.weather("EAST", issued - 2 * DAY, NOW, as_of=NOW))
    assert seen is not None
    assert (seen.runs.tolist(), seen.published_after_h) == ([0, hour_of(issued)], 5)
    assert np.array_equal(seen.values["gfs wind"][1, 2:11], [math.nan, *range(3, 10), math.nan], equal_nan=True)
    assert as_seen([]) is None
    missing = as_seen([], ["gfs wind"])
    assert missing is not None
    assert np.isnan(missing.values["gfs wind"]).all()


def test_models_learn_from_what_was_published_and_do_without_what_falls_silent(tmp_path: Path) -> None:
    now = instant_of(hour_of(NOW))
    errors = {}
    for told in (False, True):
        archive = site(tmp_path / str(told))
        if told:  # imported just now: it counts for the past as it was published, and for a forecast as it came
            archive.add_weather(runs(hour_of(NOW)), NOW - MINUTE)
        gathered = Gathered(archive)
        model = Model.fit(gathered.to_learn("EAST", Signal(), NOW), now)
        means = model.predict(gathered.to_forecast(model, Signal(), NOW), now)
        true = [value.intensity_g_per_kwh for value in measured(hour_of(NOW) + 48, 2)]
        errors[told] = float(np.mean(np.abs(means[:48] - true)))
    assert errors[True] < 0.7 * errors[False]
    assert list(model.profile.weather) == ["gfs wind"]
    for at in (now + 4 * DAY, now + 75 * DAY):
        archive.add_realised(measured(hour_of(at), 40), at)
        assert np.isfinite(model.predict(gathered.to_forecast(model, Signal(), at), at)).all()
        assert gathered.to_learn("EAST", Signal(), at).weather is None


def test_a_run_that_comes_later_changes_nothing(tmp_path: Path) -> None:
    archive = site(tmp_path)
    archive.add_weather(runs(hour_of(NOW)), NOW - HOUR)
    gathered = Gathered(archive)
    before = gathered.to_learn("EAST", Signal(), NOW).weather
    archive.add_weather(runs(hour_of(NOW), 2, values={"wind": (0.0,)}), NOW + MINUTE)
    archive.add_weather(runs(hour_of(NOW), 1, provider="new", published_at=NOW + HOUR), NOW - HOUR)
    after = gathered.to_learn("EAST", Signal(), NOW).weather
    assert before is not None
    assert after is not None
    assert np.array_equal(before.values["gfs wind"], after.values["gfs wind"], equal_nan=True)
    assert list(after.values) == ["gfs wind"]


def test_it_is_no_source_of_intensity(tmp_path: Path) -> None:
    path = tmp_path / "wx.csv"
    path.write_text(HEADER + "EAST,2026-05-01T00:00Z,2026-05-01T00:00Z,,1,2")
    with pytest.raises(InvalidConfiguration, match=r"wx\.csv holds weather, not intensities"):
        FileProvider(path)


def test_a_file_is_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wx.csv"
    lines = [f"EAST,2026-05-01T00:00Z,2026-05-01T{h:02}:00Z,,{h},{'' if h == 3 else 2 * h}" for h in (6, 0, 3)]
    lines.append("WEST,2026-05-01T00:00Z,2026-05-01T00:00Z,2026-05-01T03:30Z,1,nan")
    path.write_text(HEADER + "\n".join(lines))
    with live_server(tmp_path) as live, Client(live.url, "") as client:
        found = client.forecasts.import_file(path, provider="gfs")
        assert (found.weather, found.zones, found.measurements, found.forecasts) == (2, ("EAST", "WEST"), 0, 0)
        again = client.forecasts.import_file(path, provider="gfs")
        assert (again.weather, again.signal) == (0, "")  # weather has none
        with pytest.raises(SystemExit):
            main(["forecast", "import", str(path), "--provider", "sky", "--server", live.url, "--api-key", "k"])
        assert "New from sky: 0 forecasts, 0 measurements, 2 weather runs (EAST, WEST)." in capsys.readouterr().err
        now = live.runtime.clock.now()
        kept = live.runtime.archive.weather("EAST", now - 900 * DAY, now, as_of=now)
        assert {run.feed.signal: run.values for run in kept} == {"wind": (0, 3, 6), "sun": (0, None, 12)}
        assert {(run.published_at - run.issued_at) / 3.6e9 for run in kept} == {6}
        for text, complaint in (
            (HEADER.replace("start,", "") + "EAST,2026-05-01T00:00Z,,1,2", "'start'"),
            (HEADER.replace("published_at", "mean") + lines[0], "'mean'"),
            (HEADER + "EAST,2026-05-01T00:00Z,soon,,1,2", "column 'start': 'soon' is not"),
            (HEADER + "EAST,,2026-05-01T00:00Z,,1,2", "column 'issued_at': an instant"),
            (HEADER + "EAST,2026-05-01T00:00Z,2026-05-01T00:00Z,,much,2", "'wx_wind': 'much' is not a number"),
            (HEADER + "EAST,2026-05-01T06:00Z,2026-05-01T00:00Z,2026-05-01T00:00Z,1,2", "published after"),
            (HEADER + "\n".join([*lines[:3], lines[0].replace("06:00", "07:20")]), "no even steps"),
        ):
            path.write_text(text)
            with pytest.raises(InvalidInputFile, match=complaint):
                client.forecasts.import_file(path)

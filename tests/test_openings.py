"""When pools are open: windows of the configuration and of the table, skipped, extended, paused, shared and shut."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsched.errors import Conflict, InvalidConfiguration
from batchsched.fleet import Pool, PoolWindow, Site
from batchsched.forecasts import ForecastSlot, IntensityForecast, Signal
from batchsched.openings import Openings, Standing, Windows, capacity, outside, part
from batchsched.planner import Slot
from batchsched.queue import windows as table
from batchsched.queue.database import Database
from batchsched.queue.overrides import Override, Overrides
from batchsched.queue.windows import Decided
from batchsched.settings import Settings, load

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
MIDNIGHT = datetime(2026, 5, 1, tzinfo=UTC)
RULED, NOTHING = Overrides(), Decided()


def at(hour: float, day: int = 0) -> datetime:
    return MIDNIGHT + day * DAY + hour * HOUR


def standing(name: str, cron: str, duration: str, decided: Decided = NOTHING, pool: str = "a", **how: float) -> Standing:
    return Standing(name, PoolWindow(pool=pool, cron=cron, duration=duration, **how), decided)  # type: ignore[arg-type]


def opened(*every: Standing) -> Openings:
    return Openings({one.name: one for one in every})


def test_a_pool_without_windows_is_always_open() -> None:
    found = opened(standing("b", "0 22 * * *", "1h", pool="b"))
    assert found.stretches("a", at(0), at(24)) == [(at(0), at(24), 1.0)]
    assert (found.share("a", at(3)), found.share("b", at(3))) == (1.0, 0.0)
    assert found.change_at("a", at(3), DAY) is None


def test_windows_that_overlap_are_one_and_the_larger_share_holds() -> None:
    found = opened(
        standing("day", "0 8 * * *", "12h", share=0.25),
        standing("night", "0 18 * * *", "8h"),
        standing("noon", "0 12 * * *", "1h", share=0.5),
    )
    assert found.stretches("a", at(6), at(30)) == [
        (at(8), at(12), 0.25),
        (at(12), at(13), 0.5),
        (at(13), at(18), 0.25),
        (at(18), at(26), 1.0),
    ]
    assert [found.share("a", at(hour)) for hour in (7, 8, 12.5, 19, 26)] == [0, 0.25, 0.5, 1, 0]
    assert found.change_at("a", at(8), DAY) == at(12)
    assert found.change_at("a", at(8), HOUR) is None


def test_what_was_decided_on_a_window_counts() -> None:
    night = standing("night", "0 22 * * *", "8h")

    def spans(**decided: object) -> list[tuple[datetime, datetime]]:
        one = Standing("night", night.window, Decided(**decided))  # type: ignore[arg-type]
        return one.openings(at(12), at(12, 2))

    assert spans() == [(at(22), at(30)), (at(22, 1), at(30, 1))]
    assert spans(skipped=frozenset({at(22)})) == [(at(22, 1), at(30, 1))]
    assert spans(extended=((at(28), at(33)), (at(13), at(14)))) == [(at(13), at(14)), (at(22), at(33)), (at(22, 1), at(30, 1))]
    assert spans(paused_at=at(23), paused_until=at(25)) == [(at(22), at(23)), (at(25), at(30)), (at(22, 1), at(30, 1))]
    assert spans(paused_at=at(23)) == [(at(22), at(23))]


hours = st.integers(0, 48)
parts = st.lists(st.tuples(hours, hours, st.sampled_from([0.25, 0.5, 1.0])).filter(lambda x: x[0] < x[1]), max_size=6)


@given(spans=parts, holes=st.lists(st.tuples(hours, hours).filter(lambda x: x[0] < x[1]), max_size=4))
def test_stretches_are_what_each_hour_says(spans: list[tuple[int, int, float]], holes: list[tuple[int, int]]) -> None:
    never = PoolWindow(pool="a", cron="0 0 1 1 *", duration="1h")
    every = [
        Standing(str(n), PoolWindow(pool="a", cron=never.cron, duration="1h", share=share), Decided(extended=((at(a), at(b)),)))
        for n, (a, b, share) in enumerate(spans)
    ]
    shut = {one.name: [(at(a), at(b)) for a, b in holes] for one in every}
    found = Openings({one.name: one for one in [*every, Standing("never", never)]}, shut).stretches("a", at(0), at(48))
    assert all(a[1] <= b[0] and a[1:] != (b[0], b[2]) for a, b in pairwise(found))
    for hour in range(48):
        closed = any(a <= hour < b for a, b in holes)
        wanted = max((share for a, b, share in spans if a <= hour < b and not closed), default=0.0)
        assert next((share for a, b, share in found if a <= at(hour + 0.5) < b), 0.0) == wanted


def test_outside_leaves_what_no_hole_takes() -> None:
    assert outside([(at(1), at(9))], [(at(0), at(2)), (at(4), at(5)), (at(8), at(20))]) == [(at(2), at(4)), (at(5), at(8))]
    assert outside([(at(1), at(9))], []) == [(at(1), at(9))]


@pytest.mark.parametrize(
    ("share", "replicas", "open_"), [(1.0, 4, 4), (0.5, 4, 2), (0.5, 3, 1), (0.01, 4, 1), (0.3, 10, 3), (0.5, 0, 0), (0.0, 4, 0)]
)
def test_a_share_is_whole_replicas_and_at_least_one(share: float, replicas: int, open_: int) -> None:
    assert part(share, replicas) == open_


def test_layers_add_up_and_operators_come_on_top() -> None:
    found = opened(standing("day", "0 8 * * *", "12h", share=0.25), standing("noon", "0 12 * * *", "1h"))
    layers = found.layers("a", 4, at(0), 86_400, RULED)
    assert layers == [(1, [(8 * 3600, 12 * 3600), (12 * 3600, 13 * 3600), (13 * 3600, 20 * 3600)]), (3, [(12 * 3600, 13 * 3600)])]
    slots = [Slot(hour * 3600.0, 3600.0) for hour in range(24)]
    assert capacity(layers, slots) == [0] * 8 + [1] * 4 + [4] + [1] * 7 + [0] * 4
    drained = Overrides(pools={"a": Override("drained", at(0), at(10))})
    assert capacity(found.layers("a", 4, at(0), 86_400, drained), slots)[8:11] == [0, 0, 1]
    for_good = Overrides(pools={"a": Override("drained", at(0))})
    assert found.layers("a", 4, at(0), 86_400, for_good) == [(4, [])]


# ---- the forecast


def forecast(values: Sequence[float | None], zone: str = "DE") -> IntensityForecast:
    slots = tuple(ForecastSlot(at(n), at(n + 1), value) for n, value in enumerate(values))
    return IntensityForecast(zone, at(0), "test", Signal(), slots)


def test_a_window_is_shut_above_its_most_and_unknown_hours_do_not_shut_it() -> None:
    one = standing("w", "0 0 * * *", "6h", max_intensity_g_per_kwh=250)
    values = [200, 251, 300, None, 250, 260, *[100] * 20]
    assert one.shut(forecast(values), at(0), at(24)) == [(at(1), at(3)), (at(5), at(6))]
    assert standing("w", "0 0 * * *", "6h").shut(forecast(values), at(0), at(24)) == []
    fleet = Settings(sites={"home": Site("DE")}, pools={"a": Pool()}).fleet()
    judged = opened(one).judged({"DE": forecast(values)}, fleet, at(0), at(24))
    assert judged.stretches("a", at(0), at(23)) == [(at(0), at(1), 1.0), (at(3), at(5), 1.0)]
    assert judged.share("a", at(1.5)) == 0
    assert judged.remarks(at(1.5)) == ["Window w of pool a is shut now: the grid's forecast is above what it allows."]
    assert opened(one).judged({}, fleet, at(0), at(24)).share("a", at(1.5)) == 1  # nobody knows


def test_a_percentile_is_of_the_24_hours_that_begin_then() -> None:
    one = standing("w", "0 * * * *", "1h", only_if_below_forecast_percentile=25)
    wave = [300.0 if hour % 24 < 18 else 100.0 for hour in range(72)]
    assert one.shut(forecast(wave), at(0), at(48)) == [(at(0), at(18)), (at(24), at(42))]
    assert one.shut(forecast([200.0] * 72), at(0), at(48)) == []  # never above itself
    assert one.shut(forecast(wave[:30]), at(0), at(30)) == [(at(0), at(7))]  # later ones cannot be judged
    assert opened(one).look_ahead() == DAY
    assert opened(standing("v", "0 * * * *", "1h")).look_ahead() == timedelta()


# ---- the configuration and the table


CONFIG = """
[sites.home]
zone = "DE"
[pools.a]
[pools.a.window]
cron = "0 22 * * *"
duration = "8h"
[pools.b]
[windows.noon]
pool = "a"
cron = "0 12 * * *"
duration = "1h"
share = 0.5
"""


def settings(folder: Path, text: str = CONFIG) -> Settings:
    path = folder / "batchsched.toml"
    path.write_text(text)
    return load(path, env={}).settings


def test_windows_of_both_are_read_together(database: Database, tmp_path: Path) -> None:
    known = Windows(settings(tmp_path))
    weekend = PoolWindow(pool="b", cron="0 0 * * sat", duration="2d", timezone="Europe/Berlin", max_intensity_g_per_kwh=250)
    with database.write() as connection:
        assert list(known.read(connection)) == ["pools.a.window", "noon"]
        table.add(connection, "weekend", weekend, at(0))
        with pytest.raises(Conflict):
            table.add(connection, "weekend", weekend, at(0))
        table.decide(connection, "noon", Decided(paused_at=at(1), paused_until=at(30)), at(1))
        table.decide(connection, "weekend", Decided(skipped=frozenset({at(2)}), extended=((at(3), at(4)),)), at(1))
    with database.read() as connection:
        found = known.read(connection)
    assert list(found) == ["pools.a.window", "noon", "weekend"]
    assert found["weekend"] == Standing("weekend", weekend, Decided(skipped=frozenset({at(2)}), extended=((at(3), at(4)),)))
    assert (found["noon"].paused(at(2)), found["noon"].paused(at(31)), found["noon"].configured) == (True, False, True)
    assert found["noon"].window.share == 0.5
    with database.write() as connection:
        table.remove(connection, "weekend")
        table.decide(connection, "gone", Decided(paused_at=at(1)), at(1))  # its configuration is gone
        assert list(known.read(connection)) == ["pools.a.window", "noon"]
        table.add(connection, "gone", weekend, at(0))
        assert not known.read(connection)["gone"].paused(at(2))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('pool = "c"\ncron = "0 1 * * *"\nduration = "1h"', r"windows\.w\.pool.*no pool 'c' \(allowed: a\)"),
        ('pool = "a"\ncron = "0 1 * *"\nduration = "1h"', r"windows\.w\.cron.*five fields"),
        ('pool = "a"\ncron = "0 1 * * *"\nduration = "long"', r"windows\.w\.duration.*not a duration"),
        ('pool = "a"\ncron = "0 1 * * *"\nduration = "1h"\ntimezone = "Berlin"', r"windows\.w\.timezone.*not an IANA"),
        ('pool = "a"\ncron = "0 1 * * *"\nduration = "1h"\nshare = 0', r"windows\.w\.share"),
        (
            'pool = "a"\ncron = "0 1 * * *"\nduration = "1h"\nshares = 1',
            r"unknown key 'windows\.w\.shares'; did you mean 'share'",
        ),
    ],
)
def test_a_wrong_window_of_the_configuration_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidConfiguration, match=said):
        settings(tmp_path, f'[sites.home]\nzone = "DE"\n[pools.a]\n[windows.w]\n{text}\n')


def test_a_name_is_plain(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="at most 64 letters"):
        settings(tmp_path, CONFIG.replace("[windows.noon]", '[windows."no on"]'))


def test_a_line_that_never_opens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match=r"key 'windows\.noon'.*never opens"):
        Windows(settings(tmp_path, CONFIG.replace("0 12 * * *", "0 0 31 2 *")))

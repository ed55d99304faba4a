"""What providers of carbon intensity may do to us, over real sockets: refusals, limits, nonsense; and keys that never get out."""

from __future__ import annotations

import json
import logging
import re
import traceback
from base64 import b64encode
from collections.abc import Iterator
from datetime import timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from batchsched.errors import (
    BatchschedError,
    ForecastUnavailable,
    SignalMismatch,
    SourceLimited,
    SourceRefused,
)
from batchsched.forecasts.sources.fetcher import TRIES
from tests.fake_providers import HOUR, SPEAK, USER
from tests.source_setup import NOW, SECRET, Setup, only
from tests.source_setup import made as made
from tests.source_setup import setup as setup


class TestTrouble:
    @pytest.mark.parametrize("status", [401, 403])
    def test_a_refused_key_names_the_setting(self, setup: Setup, status: int) -> None:
        setup.fake.moods.extend([str(status)] * 3)
        with pytest.raises(SourceRefused, match=f"'mine' refused .*{status}") as raised:
            setup.ask()
        if setup.kind not in {"gb", "carbon_aware_sdk"}:
            assert "environment variable KEY" in str(raised.value.hint)
        # Where the key is all that can be refused, it is known to be the key.
        assert raised.value.status == (401 if setup.kind in {"eia", "watttime"} else status)

    @pytest.mark.parametrize(("text", "wait_s"), [("429 90", 90), ("503 90", 90), ("429", 60), ("429 soon", 60)])
    def test_retry_after_is_kept(self, setup: Setup, text: str, wait_s: float) -> None:
        setup.ask()
        before = len(setup.fake.asked)
        setup.fake.moods.append(text)
        with pytest.raises(SourceLimited, match=f"in {wait_s} s") as raised:
            setup.ask()
        assert raised.value.retry_after_s == wait_s
        setup.clock.advance(wait_s - 5)
        with pytest.raises(SourceLimited, match="in 5 s"):
            setup.ask()
        assert len(setup.fake.asked) == before + 1
        setup.clock.advance(5)
        setup.ask()

    def test_retry_after_as_a_date_counts_by_their_clock(self, setup: Setup) -> None:
        setup.fake.ahead = 3 * HOUR
        setup.fake.moods.append("429 " + format_datetime(NOW + 3 * HOUR + timedelta(seconds=30), usegmt=True))
        with pytest.raises(SourceLimited, match="in 30 s"):
            setup.ask()

    @pytest.mark.parametrize("mood", ["500", "502", "503", "cut", "html", "broken"])
    def test_what_may_pass_is_tried_again_with_growing_pauses(self, setup: Setup, mood: str) -> None:
        setup.fake.moods.extend([mood, mood])
        setup.ask()
        pauses = [pause for pause in setup.slept if pause >= 1]
        assert pauses[:2] == [1, 4]
        setup.fake.moods.extend([mood] * 9)
        asked = len(setup.fake.asked)
        with pytest.raises(ForecastUnavailable, match=f"'mine' gave no answer of use in {TRIES} tries"):
            setup.ask()
        assert len(setup.fake.asked) == asked + TRIES

    def test_requests_keep_their_distance(self, setup: Setup) -> None:
        for _ in range(3):
            setup.ask()
        assert len([pause for pause in setup.slept if pause == 1]) >= 2

    def test_a_redirect_is_not_followed(self, setup: Setup) -> None:
        setup.fake.moods.append("redirect")
        with pytest.raises(ForecastUnavailable, match="302"):
            setup.ask()
        assert len(setup.fake.asked) == 1

    def test_an_unknown_question_names_the_settings(self, setup: Setup) -> None:
        setup.fake.moods.append("404")
        with pytest.raises(ForecastUnavailable, match="404") as raised:
            setup.ask()
        assert "forecast.sources.mine: zones" in str(raised.value.hint)

    def test_nobody_there(self, setup: Setup) -> None:
        setup.fake.close()
        with pytest.raises(ForecastUnavailable, match="no connection"):
            setup.ask()

    @pytest.mark.parametrize(
        "body", ["{}", "[]", "null", '"x"', "[1]", '{"data": 3}', '{"data": [{"from": "noon"}], "meta": {}}']
    )
    def test_another_form_than_the_documented_one(self, setup: Setup, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
        kind = "application/xml" if setup.kind == "entsoe" else "application/json"
        monkeypatch.setattr(setup.fake, "answer", lambda *_: (200, kind, body))
        with pytest.raises(ForecastUnavailable):
            setup.ask()

    @only(*((kind, {"timeout_s": 0.2}) for kind in sorted(SPEAK)))
    def test_a_dripping_answer_ends_in_time(self, made: Setup) -> None:
        made.fake.moods.extend(["slow"] * TRIES)
        with pytest.raises(ForecastUnavailable, match=r"no whole answer within 0\.2 s"):
            made.ask()

    @only("gb")
    def test_an_endless_answer_ends_in_time(self, made: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(made.source._fetcher._getter, "_max_bytes", 50_000)  # type: ignore[attr-defined]
        made.ask()
        made.fake.moods.extend(["huge 60000"] * TRIES)
        with pytest.raises(ForecastUnavailable, match="longer than 50000 bytes"):
            made.ask()


MOODS = ["", "401", "403", "404", "429", "429 7", "500", "503", "cut", "html", "broken", "redirect"]


@pytest.mark.parametrize("kind", sorted(SPEAK))
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    secret=st.text("abcdefghijklmnopqrstuvwxyz0123456789-_=+/&?%", min_size=12, max_size=40),
    moods=st.lists(st.sampled_from(MOODS), max_size=4),
    right=st.booleans(),
)
@example(secret=SECRET, moods=["redirect"], right=True)
@example(secret=SECRET, moods=["html"] * 3, right=True)
@example(secret=SECRET + "&/?", moods=["401", "401"], right=True)
@example(secret=SECRET + "&/?", moods=[], right=False)
def test_a_key_never_gets_out(kind: str, secret: str, moods: list[str], right: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        made = Setup(kind, secret=secret)
        made.fake.secret = secret if right else "another"
        made.fake.moods.extend(moods)
        told = ""
        try:
            made.ask()
        except BatchschedError as problem:
            told = "".join(traceback.format_exception(problem)) + f"{problem.args} {problem.hint} {vars(problem)}"
            told += repr(vars(problem.__context__)) if problem.__context__ else ""
        finally:
            made.fake.close()
    for text in (told, caplog.text, *(repr(record.args) for record in caplog.records)):
        assert secret not in text
        assert quote(secret, safe="") not in text
        assert b64encode(f"{USER}:{secret}".encode()).decode() not in text
    assert not made.fake.asked or kind not in {"eia", "entsoe"} or secret in made.fake.asked[0][1].values()


@pytest.mark.parametrize(("level", "shown"), [(logging.INFO, [404]), (logging.DEBUG, [200, 404])])
def test_what_went_well_is_not_told_for_each_request(level: int, shown: list[int], caplog: pytest.LogCaptureFixture) -> None:
    """A zone asked every quarter of an hour would fill the log; what was refused stands there."""
    made = Setup("gb")
    with caplog.at_level(level, logger="httpx"):
        made.ask()
        made.fake.moods.append("404")
        with pytest.raises(ForecastUnavailable):
            made.ask()
    made.fake.close()
    requests = [record for record in caplog.records if record.name == "httpx"]
    assert [record.args[3] for record in requests if isinstance(record.args, tuple)] == shown


ODD: list[Any] = [
    None,
    "",
    "x",
    [],
    {},
    [1],
    True,
    -1,
    10**400,
    "1e999",
    "9999-12-31T23:59:59Z",
    "0001-01-01T00:00:00+14:00",
    1e308,
]


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in a document."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from leaves(value, (*path, key))


def spoiled(status: int, kind: str, body: str, data: st.DataObject) -> tuple[int, str, str]:
    """The answer with one odd thing in it."""
    odd = data.draw(st.sampled_from(ODD))
    if "xml" in kind:
        texts = [match.span(1) for match in re.finditer(r">([^<]+)<", body)]
        start, end = data.draw(st.sampled_from(texts))
        return status, kind, body[:start] + str(odd).replace("<", "") + body[end:]
    tree = json.loads(body)
    way = data.draw(st.sampled_from(list(leaves(tree))))
    inner = tree
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] = odd
    return status, kind, json.dumps(tree)


@pytest.mark.parametrize("kind", sorted(SPEAK))
@settings(max_examples=20)
@given(data=st.data())
def test_one_odd_thing_in_an_answer_is_unknown_or_refused(kind: str, data: st.DataObject) -> None:
    made = Setup(kind)
    whole = made.fake.answer
    made.fake.answer = lambda *asked: spoiled(*whole(*asked), data)  # type: ignore[method-assign]
    try:
        got = made.ask()
        values = [slot.mean_g_per_kwh for slot in got.slots] if made.source.has_forecast else [v.intensity_g_per_kwh for v in got]
        assert all(value is None or 0 <= value <= 10_000 for value in values)
    except (ForecastUnavailable, SignalMismatch):
        pass
    finally:
        made.fake.close()

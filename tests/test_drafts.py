"""Drafts from another machine: whatever becomes of them, answers are the target's own, and no step fails."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsched.executors.drafts import target_args, target_environment
from batchsched.executors.drafts.sequence import Sequence
from batchsched.executors.drafts.target import FOLDER
from batchsched.executors.in_engine.batchsched_drafts import ADDRESS, ALWAYS, frames
from batchsched.executors.in_engine.batchsched_drafts.governor import Governor
from batchsched.executors.in_engine.batchsched_drafts.link import address_of
from batchsched.executors.in_engine.batchsched_drafts.proposer import Proposer
from tests.fake_drafts import LONGEST, VOCABULARY, Target, drafts, expected, follows, let_go, proposer
from tests.live import PATIENCE_S, wait_for

TOKEN = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True)
def closed() -> Generator[None]:
    """Whatever a test has made."""
    yield
    let_go()


def connected(made: Proposer) -> Proposer:
    """Once its connection stands, which is made beside the steps."""
    until = time.monotonic() + PATIENCE_S
    while not made.link.ready():
        assert time.monotonic() < until
        time.sleep(0.005)
    return made


def prompts(count: int, longest: int = 60) -> list[list[int]]:
    draw = random.Random(3)
    return [[draw.randrange(VOCABULARY) for _ in range(draw.randint(1, longest))] for _ in range(count)]


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# Frames.


@given(
    step=TOKEN,
    rows=st.lists(st.tuples(st.integers(0, 65535), st.lists(TOKEN, max_size=20), st.booleans(), st.booleans()), max_size=8),
)
def test_a_request_is_read_as_it_was_written(step: int, rows: list[tuple[int, list[int], bool, bool]]) -> None:
    sent = [frames.Row(number, frames.packed(tokens), start, wanted) for number, tokens, start, wanted in rows]
    data = frames.request(step, sent)
    assert frames.LENGTH.unpack_from(data) == (len(data) - frames.LENGTH.size,)
    assert frames.read_request(data[frames.LENGTH.size :]) == (step, sent)
    assert len(data) == 8 + sum(4 + 4 * len(tokens) for _, tokens, _, _ in rows)


@given(step=TOKEN, given_=st.lists(st.lists(TOKEN, max_size=9) | st.sampled_from([frames.WARMING, frames.UNKNOWN]), max_size=8))
def test_an_answer_is_read_as_it_was_written(step: int, given_: list[list[int] | int]) -> None:
    assert frames.read_answer(frames.answer(step, given_)[frames.LENGTH.size :]) == (step, given_)


@given(data=st.binary(max_size=60))
def test_what_is_no_frame_is_a_value_error_at_most(data: bytes) -> None:
    for read in (frames.read_request, frames.read_answer):
        with contextlib.suppress(ValueError):
            read(data)


@pytest.mark.parametrize("text", ["", "host", "host:", ":80", "host:x"])
def test_an_address_is_host_and_port(text: str) -> None:
    with pytest.raises(ValueError, match="is not host:port"):
        address_of(text)


def test_an_address_may_be_of_ip_version_6() -> None:
    assert address_of("[::1]:80") == ("::1", 80)


# What the service keeps of a sequence.


def test_a_guess_stays_as_far_as_the_target_agrees() -> None:
    sequence = Sequence()
    sequence.say([1, 2])
    sequence.learn(2, [3, 4, 5], sequence.version)
    sequence.say([3])
    assert sequence.guess() == [4, 5]
    sequence.say([4, 9])
    assert sequence.guess() == []
    assert sequence.prompt() == [1, 2, 3, 4, 9]


def test_what_was_thought_of_a_wrong_guess_is_not_taken() -> None:
    sequence = Sequence()
    sequence.say([1])
    sequence.learn(1, [2, 3], sequence.version)
    before = sequence.version
    sequence.say([2, 7])
    sequence.learn(3, [4, 5], before)
    assert sequence.guess() == []


def test_what_was_thought_beyond_a_draft_holds_if_the_target_said_the_same_meanwhile() -> None:
    for said, left in ((9, []), (4, [5, 6])):
        sequence = Sequence()
        sequence.say([1])
        sequence.learn(1, [2, 3], sequence.version)
        version = sequence.version
        sequence.say([2, 3, said])  # took all, and one of its own
        sequence.learn(3, [4, 5, 6], version)
        assert sequence.guess() == left


# Proposer and service together.


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("wrong_every", [0, 5, 1])
def test_answers_are_the_targets_whatever_is_drafted(wrong_every: int, ahead: bool) -> None:
    with drafts(ahead=ahead) as service:
        service.engine.wrong_every = wrong_every
        made = connected(proposer(service.port))
        target = Target(made)
        asked = [(prompt, target.add(prompt, 40, waits=1 + index % 3)) for index, prompt in enumerate(prompts(40))]
        target.run()
        assert all(request.tokens == expected(prompt, 40) for prompt, request in asked)
        counted = made.counters()
        assert counted["faults"] == counted["late"] == counted["broken"] == 0
        assert (counted["accepted"] > 0.8 * counted["drafted"] > 0) == (wrong_every == 0), counted
        assert wrong_every != 1 or counted["accepted"] == 0
        if wrong_every == 0:
            assert target.steps < 40 * 40 / 16 / 2, "drafts that are right save steps"
        assert service.service.counters()["drafted"] >= counted["drafted"]


def test_only_what_is_new_travels() -> None:
    with drafts(ahead=False) as service:
        made = connected(proposer(service.port))
        target = Target(made)
        prompt = prompts(1, 60)[0] * 4
        target.add(prompt, 200)
        target.run()
        counted = made.counters()
        assert counted["drafted"] - counted["accepted"] <= 5, "the last one is not verified whole"
        said = 4 * (len(prompt) + 200)
        steps = counted["calls"]
        assert counted["sent_bytes"] <= said + 12 * steps
        assert counted["received_bytes"] <= 4 * counted["drafted"] + 9 * steps
        assert service.service.counters()["received_bytes"] == counted["sent_bytes"]
        assert max(map(len, service.engine.calls)) == 1


def test_a_step_is_one_call_of_the_draft_engine() -> None:
    with drafts(ahead=False) as service:
        made = connected(proposer(service.port))
        target = Target(made)
        for prompt in prompts(10):
            target.add(prompt, 30)
        target.run()
        assert len(service.engine.calls) <= target.steps
        assert max(map(len, service.engine.calls)) == 10


def test_the_service_thinks_on_while_the_target_verifies() -> None:
    with drafts(ahead=True) as service:
        made = connected(proposer(service.port))
        target = Target(made)
        for prompt in prompts(4):
            target.add(prompt, 100)
        while target.rows or target.waiting or target.away:
            target.step()
            service.settle()  # in the time of the target's own work
        assert service.service.counters()["in_time"] > 0.5 * made.drafts


def test_a_wrong_key_gets_no_drafts_and_harms_nothing() -> None:
    with drafts(key="right") as service:
        made = proposer(service.port, key="wrong")
        target = Target(made)
        prompt = prompts(1)[0]
        request = target.add(prompt, 20)
        target.run()
        until = time.monotonic() + PATIENCE_S
        while made.link._maker is not None and made.link._maker.is_alive():
            assert time.monotonic() < until
            time.sleep(0.005)
        assert not made.link.ready()
        assert request.tokens == expected(prompt, 20)
        assert made.drafted == 0
        right = connected(proposer(service.port, key="right"))
        Target(right).step()
        service.engine.keys.clear()


def test_without_a_service_rows_stay_empty() -> None:
    made = proposer(unused_port())
    target = Target(made)
    asked = [(prompt, target.add(prompt, 20)) for prompt in prompts(20)]
    target.run()
    assert all(request.tokens == expected(prompt, 20) for prompt, request in asked)
    assert made.drafted == made.faults == 0


def test_a_service_that_goes_away_and_comes_back_is_used_again() -> None:
    with drafts() as service:
        made = connected(proposer(service.port))
        target = Target(made)
        asked = [(prompt, target.add(prompt, 300)) for prompt in prompts(6)]
        target.run(until=lambda: target.steps == 10)
        first = made.drafted
        assert first > 0
        service.stop()
        target.run(until=lambda: target.steps == 20)
        service.start()
        made.link._next_try_at = 0.0
        connected(made)
        target.run()
        assert all(request.tokens == expected(prompt, 300) for prompt, request in asked)
        assert made.link.made == 2
        assert made.drafted > first
        assert made.faults == 0


@pytest.mark.parametrize("status", [500, 503, 400])
def test_a_draft_engine_that_fails_gives_empty_rows(status: int) -> None:
    with drafts() as service:
        service.engine.status = status
        made = connected(proposer(service.port))
        target = Target(made)
        asked = [(prompt, target.add(prompt, 10)) for prompt in prompts(5)]
        target.run()
        assert all(request.tokens == expected(prompt, 10) for prompt, request in asked)
        assert made.drafted == made.faults == 0


def test_one_sequence_that_the_draft_engine_refuses_does_not_stop_the_others() -> None:
    with drafts(ahead=False) as service:
        service.engine.most_vocabulary = 90
        made = connected(proposer(service.port))
        target = Target(made)
        good = [one for one in prompts(40) if max(expected(one, 30)) < 90] or [[follows([1])]]
        bad = [95, 96, 95]
        asked = [(prompt, target.add(prompt, 30)) for prompt in [*good, bad]]
        target.run()
        assert all(request.tokens == expected(prompt, 30) for prompt, request in asked)
        assert made.drafted > 0


def test_a_late_answer_is_not_waited_for_and_not_taken_for_another() -> None:
    with drafts(ahead=False) as service:
        made = connected(proposer(service.port, always=False))
        made.governor.state = "on"
        made.governor.plain_step_s = 0.001
        service.engine.held = True
        target = Target(made)
        prompt = prompts(1)[0]
        request = target.add(prompt, 40)
        target.run(until=lambda: target.steps == 5)  # although nothing answers
        assert made.link.late >= 3
        service.engine.held = False
        wait_for(lambda: service.service.sent_bytes)  # an answer to the last of these steps
        made.governor.plain_step_s = PATIENCE_S
        target.run()
        assert request.tokens == expected(prompt, 40)
        assert made.drafted - made.accepted <= 5 < made.drafted
        assert made.link.broken == 0


def test_what_the_target_could_not_verify_is_not_drafted() -> None:
    with drafts() as service:
        made = connected(proposer(service.port))
        assert made._usable([1, VOCABULARY, 2], 10) == [1]
        assert made._usable([1, 2, 3, 4, 5, 6], 10) == [1, 2, 3, 4]
        assert made._usable([1, 2, 3], LONGEST - 3) == [1, 2]
        assert made._usable([1, 2, 3], LONGEST - 1) == []
        target = Target(made)
        prompt = [3] * (LONGEST - 30)
        request = target.add(prompt, 30)
        target.run()
        assert request.tokens == expected(prompt, 30)


def test_a_long_prompt_is_read_before_its_drafts_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchsched.executors.drafts.drafter._COLD_TOKENS", 32)
    with drafts(ahead=False) as service:
        service.engine.held = True
        made = connected(proposer(service.port))
        target = Target(made)
        prompt = prompts(1)[0] * 5
        request = target.add(prompt, 100)
        target.run(until=lambda: target.steps == 5)
        assert made.drafted == made.link.late == 0
        service.engine.held = False
        service.settle()
        target.run()
        assert request.tokens == expected(prompt, len(request.tokens) - len(prompt))
        assert made.drafted > 0
        assert service.engine.counts[0] == 1, "the prompt is read, before anything is drafted"


def test_propose_never_raises() -> None:
    made = proposer(unused_port())
    made._pending = True
    nonsense = made.propose([[1], [2]], np.array([5.5, 2.5]), np.zeros((1, 1), np.int32))
    assert nonsense == [[], []]
    assert made.faults == 1


def test_counters_are_told_in_a_file(tmp_path: Path) -> None:
    made = proposer(unused_port())
    made._told = tmp_path / "drafts.json"
    target = Target(made)
    target.add([1, 2], 5)
    target.run()
    told = json.loads((tmp_path / "drafts.json").read_text())
    assert told.keys() == made.counters().keys()


def test_processes_beside_the_first_draft_nothing() -> None:
    made = proposer(unused_port())
    made._silent = True
    assert made.propose([[1]], np.array([1]), np.ones((1, 1), np.int32)) == [[]]
    assert made._step == 0


# Whether it pays.


def watch(governor: Governor, steps: int, rate: Callable[[bool], float], start: float = 0.0) -> float:
    """So many steps of one sequence: a step takes a second, and gives so many tokens with drafts or without."""
    now = start
    for _ in range(steps):
        now += 1.0
        governor.step(now, 1.0, 10, round(10 * rate(governor.drafting)))
    return now


def test_drafts_that_pay_are_kept() -> None:
    governor = Governor(4)
    assert not governor.drafting, "what a plain step takes comes first"
    now = watch(governor, 60, lambda drafting: 2.5 if drafting else 1.0)
    assert governor.state == "on"
    assert governor.plain_rate == pytest.approx(1.0)
    assert governor.drafted_rate == pytest.approx(2.5)
    watch(governor, 1100, lambda drafting: 2.5 if drafting else 1.0, now)
    assert governor.state == "on"
    assert governor.off_s == 0


def test_drafts_that_do_not_pay_are_switched_off_and_tried_again_less_and_less() -> None:
    governor = Governor(4)
    now = watch(governor, 54, lambda drafting: 0.8 if drafting else 1.0)
    assert governor.state == "off"
    drafted = 0
    for _ in range(3000):
        drafted += governor.drafting
        now = watch(governor, 1, lambda drafting: 0.8 if drafting else 1.0, now)
    assert 100 < drafted < 500
    assert governor.off_s > 2000


def test_drafts_that_stop_paying_are_noticed() -> None:
    governor = Governor(4)
    now = watch(governor, 60, lambda drafting: 2.0 if drafting else 1.0)
    watch(governor, 2200, lambda drafting: 0.5 if drafting else 1.0, now)
    assert governor.state != "on"


def test_answers_that_do_not_come_switch_it_off_at_once() -> None:
    governor = Governor(4)
    now = watch(governor, 60, lambda drafting: 2.0 if drafting else 1.0)
    for _ in range(8):
        governor.answered(now, in_time=False)
    assert governor.state == "off"


def test_an_answer_is_waited_for_as_long_as_it_could_pay() -> None:
    governor = Governor(4)
    assert governor.wait_s == 0.25
    watch(governor, 60, lambda drafting: 2.0 if drafting else 1.0)
    assert governor.wait_s == 2.0
    governor.plain_step_s = 0.01
    assert governor.wait_s == pytest.approx(0.04)
    assert Governor(4, always=True).drafting


# How a target is told.


def test_the_class_is_found_by_the_engines_python_and_brings_nothing_else_of_ours(tmp_path: Path) -> None:
    configuration = json.loads(target_args(4)[1])
    assert configuration.pop("num_speculative_tokens") == 4
    assert configuration.pop("method") == "custom_class"
    module, _, name = configuration["model"].rpartition(".")
    code = f"import sys, {module} as m; m.{name}; print([n for n in sys.modules if n.split('.')[0] == 'batchsched'])"
    told = target_environment("host:1", "key", tmp_path / "told", base={"PYTHONPATH": "/elsewhere"})
    assert told["PYTHONPATH"] == f"{FOLDER}:/elsewhere"
    assert told[ADDRESS] == "host:1"
    assert ALWAYS not in told
    done = subprocess.run([sys.executable, "-P", "-c", code], env=told, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr

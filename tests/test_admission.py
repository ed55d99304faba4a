"""How much is in flight at an engine, by requests and by tokens, and in which order lines go."""

from __future__ import annotations

import json
import math
import random
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsched.executors.admission import Admission, Capacity, Load
from batchsched.executors.backlog import Backlog
from batchsched.executors.demand import Demand, demand_of
from batchsched.executors.order import SHARED_BYTES, arranged, common
from batchsched.lines import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES


def body(**fields: object) -> bytes:
    """A request's body."""
    return json.dumps({"model": "m", **fields}).encode()


@pytest.mark.parametrize(
    ("fields", "endpoint", "answer_tokens", "requests"),
    [
        ({"messages": [], "max_tokens": 9}, CHAT, 9, 1),
        ({"messages": [], "max_completion_tokens": 7, "max_tokens": 9}, CHAT, 7, 1),
        ({"messages": []}, CHAT, None, 1),
        ({"messages": [], "max_tokens": None}, CHAT, None, 1),
        ({"messages": [], "max_tokens": 5, "n": 3}, CHAT, 15, 3),
        ({"prompt": "a", "best_of": 2}, COMPLETIONS, 32, 2),
        ({"input": "a", "max_output_tokens": 5}, RESPONSES, 5, 1),
        ({"input": ["a", "b"]}, EMBEDDINGS, 0, 2),
        ({"input": "a"}, EMBEDDINGS, 0, 1),
        ({"messages": [], "max_tokens": "many"}, CHAT, None, 1),  # the engine's to refuse
        ({"messages": [], "max_tokens": -1}, CHAT, None, 1),
        ({"messages": [], "max_tokens": 0}, CHAT, 0, 1),
        ({"messages": [], "max_output_tokens": 5, "max_tokens": 9}, CHAT, 9, 1),  # each endpoint passes over others' fields
        ({"input": "a", "max_tokens": 5}, RESPONSES, None, 1),
        ({"prompt": "a", "max_completion_tokens": 5}, COMPLETIONS, 16, 1),
        ({"prompt": ["a", "b", "c"], "n": 2, "max_tokens": 4}, COMPLETIONS, 24, 6),
        ({"prompt": [[1, 2], [3]]}, COMPLETIONS, 32, 2),
        ({"prompt": [1, 2, 3]}, COMPLETIONS, 16, 1),
        ({"prompt": []}, COMPLETIONS, 16, 1),
        ({"prompt": "a", "n": 2**50, "max_tokens": 1}, COMPLETIONS, 2**20, 2**20),
    ],
)
def test_what_a_request_asks_for(fields: dict[str, object], endpoint: str, answer_tokens: int | None, requests: int) -> None:
    demand, opening = demand_of(body(**fields), endpoint)
    assert (demand.answer_tokens, demand.requests) == (answer_tokens, requests)
    assert demand.prompt_bytes == len(opening)


@given(st.lists(st.text() | st.lists(st.integers(0, 10**6), min_size=1), min_size=1), st.sampled_from([None, 0, 2]))
def test_a_list_of_prompts_is_as_many_prompts(prompts: list[object], indent: int | None) -> None:
    sent = json.dumps({"model": "m", "prompt": prompts, "n": 3}, indent=indent).encode()
    demand, _ = demand_of(sent, COMPLETIONS)
    assert (demand.prompts, demand.requests) == (len(prompts), 3 * len(prompts))


def test_each_prompt_of_a_list_has_the_context_for_itself() -> None:
    admission = Admission(1000)
    admission.resize(Capacity(100_000, 1, 512))
    assert admission.cost(Demand(3000, 400, 1, 4)) == 1400  # 250 tokens a prompt, 100 for its answer
    assert admission.cost(Demand(30_000, 4000, 1, 4)) == 4 * 512
    assert admission.prompt_tokens(Demand(30_000, 4000, 1, 4)) == 4 * 512


def test_tools_and_instructions_are_part_of_how_a_prompt_begins() -> None:
    _, opening = demand_of(body(messages=["m"], tools=["t"], temperature=1), CHAT)
    assert opening == b'["t"]["m"]'
    _, opening = demand_of(body(input="in", instructions="be brief"), RESPONSES)
    assert opening == b'"be brief""in"'


def test_requests_alone_bound_what_is_in_flight_where_no_engine_says_what_it_holds() -> None:
    admission = Admission(3)
    demand = Demand(10**9)
    held = [admission.enter(demand) for _ in range(3) if admission.admits(demand)]
    assert len(held) == 3
    assert not admission.admits(demand)
    assert admission.budget == math.inf
    admission.leave(held[0])
    assert admission.admits(demand)


def test_tokens_bound_what_is_in_flight_in_whole_blocks() -> None:
    admission = Admission(1000)
    admission.resize(Capacity(1600, 16, 512))
    demand = Demand(30, 100)  # ten tokens to read, by the first guess
    assert admission.cost(demand) == 112
    while admission.admits(demand):
        admission.enter(demand)
    assert admission.requests == 14
    assert admission.short
    assert admission.room == 14


def test_a_pool_may_bound_the_tokens_further() -> None:
    admission = Admission(1000, 320)
    assert admission.budget == 320
    admission.resize(Capacity(10_000, 1, None))
    assert admission.budget == 320
    admission.resize(Capacity(100, 1, None))
    assert admission.budget == 100


def test_a_request_larger_than_the_budget_goes_alone() -> None:
    admission = Admission(8, 50)
    large = Demand(3, 1000)
    assert admission.admits(large)
    held = admission.enter(large)
    assert held == 50
    assert not admission.admits(Demand(3, 1))
    admission.leave(held)
    assert (admission.requests, admission.tokens) == (0, 0)


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=60), st.integers(1, 2000), st.integers(1, 10), st.randoms())
def test_all_get_their_turn_in_order_and_the_budget_holds(sizes: list[int], budget: int, most: int, draw: random.Random) -> None:
    admission = Admission(most, budget)
    waiting = deque(Demand(30, size) for size in sizes)
    in_flight: list[int] = []
    while waiting or in_flight:
        while waiting and admission.admits(waiting[0]):
            in_flight.append(admission.enter(waiting.popleft()))
        assert in_flight, "the engine stands still"
        assert admission.tokens == sum(in_flight) <= budget
        assert admission.requests == len(in_flight) <= most
        admission.leave(in_flight.pop(draw.randrange(len(in_flight))))
        admission.learn(Demand(30, 100), 10, 0, draw.randrange(100))


def test_what_answers_turn_out_to_be_is_learned() -> None:
    admission = Admission(1000)
    admission.resize(Capacity(10_000, 1, 2048))
    demand = Demand(4000, 400)
    assert admission.cost(demand) == pytest.approx(4000 / 3 + 400, abs=1)
    for _ in range(2000):
        admission.learn(demand, 800, 0, 100)
    assert admission.cost(demand) == pytest.approx(900, rel=0.02)
    for _ in range(2000):
        admission.learn(demand, 800, 600, 400)
    assert admission.cost(demand) == pytest.approx(600, rel=0.02)  # three quarters are held for others already


def test_the_first_short_answers_do_not_say_that_all_are_short() -> None:
    admission = Admission(1000)
    demand = Demand(3, 1000)
    for _ in range(3):
        admission.learn(demand, 1, 0, 10)
    assert admission.cost(demand) > 900


def test_no_request_is_longer_than_the_context() -> None:
    admission = Admission(1000)
    admission.resize(Capacity(100_000, 1, 512))
    assert admission.cost(Demand(10**7)) == 512  # an image, say
    assert admission.cost(Demand(30)) == 512
    assert admission.cost(Demand(30, 10_000)) == 512


def test_requests_that_are_pushed_out_narrow_the_budget_and_idle_room_widens_it() -> None:
    admission = Admission(1000)
    admission.resize(Capacity(1000, 1, None))
    admission.feel(Load(0, 0.5, 7))  # what was before us is not our doing
    assert admission.budget == 1000
    admission.feel(Load(0, 1.0, 8))
    assert admission.budget == pytest.approx(900)
    admission.feel(Load(0, 0.5, 8))
    assert admission.budget == pytest.approx(900)  # nobody asked for more
    admission.enter(Demand(30, 800))
    assert not admission.admits(Demand(30, 800))
    admission.feel(Load(0, 0.5, 8))
    assert admission.budget == pytest.approx(1080)
    admission.feel(Load(3, 0.5, 8))
    admission.feel(Load(0, 0.9, 8))
    assert admission.budget == pytest.approx(1080)
    for _ in range(100):
        admission.feel(Load(0, 0.1, 8))
    assert admission.budget == 4000


def test_room_that_nobody_may_use_now_widens_nothing() -> None:
    """The server is away, say, so nothing more is sent although tokens were short when last asked."""
    admission = Admission(1000)
    admission.resize(Capacity(1000, 1, None))
    admission.feel(Load(0, 0.5, 0))
    tickets = [admission.enter(Demand(30, 290)) for _ in range(3)]
    assert not admission.admits(Demand(30, 290))
    admission.leave(tickets.pop())
    admission.leave(tickets.pop())
    admission.feel(Load(0, 0.3, 0))
    assert (admission.budget, admission.short) == (1000, True)
    admission.leave(tickets.pop())
    assert not admission.short


def test_a_new_engine_is_begun_anew() -> None:
    admission = Admission(1000)
    admission.resize(Capacity(1000, 1, None))
    admission.feel(Load(0, 1.0, 5))
    admission.feel(Load(0, 1.0, 6))
    admission.resize(Capacity(2000, 1, None))
    admission.feel(Load(0, 1.0, 0))
    assert admission.budget == 2000


LONG = "x" * SHARED_BYTES


def order(*openings: str) -> list[int]:
    """The numbers of lines whose prompts begin so, from 1, in their order."""
    return arranged((number, text.encode()) for number, text in enumerate(openings, 1))


def test_prompts_that_begin_alike_go_together() -> None:
    assert order(f"b{LONG}1", f"a{LONG}1", f"b{LONG}2", "c", f"a{LONG}2", f"b{LONG}3", "a") == [1, 3, 6, 2, 5, 4, 7]


def test_what_all_prompts_have_in_common_makes_none_of_them_alike() -> None:
    assert order(*(LONG + letter for letter in "cab")) == [1, 2, 3]


def test_beginnings_within_beginnings_are_together_too() -> None:
    assert order("z", *(LONG + one + LONG + two for two in "12" for one in "ba")) == [1, 3, 5, 2, 4]


@given(st.lists(st.text("ab", max_size=4)))
def test_every_line_has_its_place(openings: list[str]) -> None:
    assert sorted(order(*map(LONG.join, openings))) == list(range(1, len(openings) + 1))


@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=40))
def test_common_beginnings(start: bytes, one: bytes, other: bytes) -> None:
    length = common(start + one, start + other)
    assert length >= len(start)
    assert (start + one)[:length] == (start + other)[:length]
    assert (start + one)[: length + 1] != (start + other)[: length + 1] or one == other


def test_a_full_backlog_says_when_it_has_room_again() -> None:
    said: list[int] = []
    backlog = Backlog(lambda: said.append(backlog.bytes), 100)
    full: list[bool] = []
    for size in (60, 60, -10, -50, -50):
        (backlog.grow if size > 0 else backlog.shrink)(abs(size))
        full.append(backlog.full)
    assert full == [False, True, True, False, False]
    assert said == [60]

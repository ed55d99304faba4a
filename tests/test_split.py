"""One request over two engines: what each is asked, how many prompts are ahead, and what becomes of it when either side fails."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsched.executors import split as split_module
from batchsched.executors.admission import Admission, Capacity, Load
from batchsched.executors.demand import Demand, demand_of
from batchsched.executors.handoff import alone, first_body, kept_of, parts_of, second_body
from batchsched.executors.outputs import Reply
from batchsched.executors.pauses import LONGEST_ASK_S
from batchsched.executors.probes import Fetching, page_of
from batchsched.executors.split import Post, Split
from batchsched.executors.turns import Turns
from batchsched.kv_link import KvLink, kv_bytes_per_token
from batchsched.lines import CHAT, COMPLETIONS, RESPONSES
from tests.fake_engine import FakeEngine, serve
from tests.kept_kv import KeptKv

ONE = Demand(8, 4)


def body(prompt: str = "one two", /, **fields: Any) -> bytes:
    return json.dumps({"model": "tiny", "messages": [{"role": "user", "content": prompt}], "max_tokens": 8, **fields}).encode()


# The two requests.


def test_the_first_asks_for_one_token_of_the_same_prompt_and_for_its_keys_and_values_to_be_kept() -> None:
    sent = body(temperature=0.7, seed=3, min_tokens=4, max_completion_tokens=9, tools=[{"type": "function"}], logprobs=True)
    fields = parts_of(sent, CHAT, ONE)
    assert fields is not None
    first = json.loads(first_body(fields, "base"))
    assert first == {
        "model": "base",
        "messages": [{"role": "user", "content": "one two"}],
        "tools": [{"type": "function"}],
        "max_tokens": 1,
        "temperature": 0,
        "kv_transfer_params": {"do_remote_decode": True, "do_remote_prefill": False},
    }


def test_the_second_is_the_request_itself_with_what_the_first_answered_unchanged() -> None:
    sent = body(temperature=0.7)
    fields = parts_of(sent, CHAT, ONE)
    assert fields is not None
    params = b'{"do_remote_prefill":true, "remote_block_ids":[[7, 8]],"odd":1.50}'
    kept = kept_of(b'{"usage":{"prompt_tokens":12},"kv_transfer_params":' + params + b"}")
    assert kept is not None
    assert (bytes(kept.params), kept.tokens) == (params, 12)
    second = second_body(fields, kept)
    assert params in second
    assert json.loads(second) == {**json.loads(sent), "kv_transfer_params": json.loads(params)}


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        (RESPONSES, {}),
        (CHAT, {"n": 2}),
        (COMPLETIONS, {"prompt": ["a", "b"]}),
        (COMPLETIONS, {"prompt": "a", "echo": True}),
        (CHAT, {"prompt_logprobs": 0}),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]}),
    ],
)
def test_what_only_one_engine_can_answer_whole_is_not_taken_apart(endpoint: str, fields: dict[str, Any]) -> None:
    sent = body(**fields)
    assert parts_of(sent, endpoint, demand_of(sent, endpoint)[0]) is None


def test_nobody_but_us_says_whose_keys_and_values_are_read() -> None:
    assert "kv_transfer_params" not in json.loads(alone(body(kv_transfer_params={"do_remote_prefill": True})))
    assert alone(body()) == body()


@pytest.mark.parametrize("answer", [b"", b"[]", b'{"usage":{}}', b'{"kv_transfer_params":{"do_remote_prefill":false}}', b"\xff"])
def test_an_answer_that_keeps_nothing_hands_nothing_over(answer: bytes) -> None:
    assert kept_of(answer) is None


# Turns.


async def test_who_waits_is_let_in_in_turn_and_a_large_one_is_passed_by_nobody() -> None:
    admission = Admission(2)
    turns = Turns(admission)
    first, second = await turns.enter(ONE), await turns.enter(ONE)
    waiting = [asyncio.create_task(turns.enter(ONE)) for _ in range(3)]
    await asyncio.sleep(0)
    assert turns.waiting == 3
    waiting[0].cancel()
    await asyncio.gather(waiting[0], return_exceptions=True)
    assert first is not None
    assert second is not None
    turns.leave(first)
    assert await waiting[1] is not None
    turns.shut()
    assert await waiting[2] is None
    assert await turns.enter(ONE) is None
    turns.leave(second)
    assert admission.requests == 1


async def test_one_that_is_cancelled_as_its_turn_comes_gives_it_to_the_next() -> None:
    admission = Admission(1)
    turns = Turns(admission)
    held = await turns.enter(ONE)
    one, other = asyncio.create_task(turns.enter(ONE)), asyncio.create_task(turns.enter(ONE))
    await asyncio.sleep(0)
    assert held is not None
    turns.leave(held)
    one.cancel()
    assert await other is not None
    assert admission.requests == 1


# The flow, between two fake engines that speak NixlConnector's words.


class Known:
    """The partner's engine."""

    def __init__(self, url: str) -> None:
        self.url, self.served, self.said = url, "tiny", list[str]()
        self.spoilt = list[bool]()

    def failed(self, why: str, *, anew: bool = False) -> None:
        self.said.append(why)
        self.spoilt += [True] if anew else []


class Pair:
    """Two fake engines and the split between them."""

    def __init__(self, reader: FakeEngine, ours: FakeEngine, urls: tuple[str, str], session: aiohttp.ClientSession) -> None:
        self.reader, self.ours, self.session = reader, ours, session
        self.known, self.url = Known(urls[0]), urls[1]
        self.ahead, self.answering = Admission(1000), Admission(1000)
        self.split = Split(self.known, self.ahead, self.answering)
        assert reader.kept is not None
        assert ours.kept is not None
        self.kept, self.taken = reader.kept, ours.kept

    async def post(self, url: str, data: bytes) -> Reply:
        try:
            async with self.session.post(url, data=data) as answer:
                return Reply(answer.status, await answer.read(), "")
        except aiohttp.ClientError as problem:
            return Reply(0, str(problem).encode(), "")

    async def ask(self, prompt: str, **fields: Any) -> str:
        sent = body(prompt, **fields)
        reply = await self.split.ask(demand_of(sent, CHAT)[0], CHAT, sent, self.url, read=self.post, answer=self.post)
        assert reply.status == 200, reply
        return str(json.loads(reply.body)["choices"][0]["message"]["content"])


@asynccontextmanager
async def a_pair(policy: str = "recompute", **settings: Any) -> AsyncGenerator[Pair]:
    sides, runners, urls = [FakeEngine(**settings), FakeEngine(**settings)], list[Any](), list[str]()
    for engine, role in zip(sides, ("kv_producer", "kv_consumer"), strict=True):
        engine.kept = KeptKv({"kv_role": role, "kv_load_failure_policy": policy})
        runner, port = await serve(engine)
        engine.kept.port = port
        runners.append(runner)
        urls.append(f"http://127.0.0.1:{port}")
    async with aiohttp.ClientSession() as session:
        try:
            yield Pair(sides[0], sides[1], (urls[0], urls[1]), session)
        finally:
            for runner in runners:
                await runner.cleanup()


async def test_prompts_are_read_there_and_answered_here_once_each() -> None:
    async with a_pair() as pair:
        answers = await asyncio.gather(*(pair.ask(f"one two n{number}") for number in range(40)))
        assert answers == [f"n{number} two one" for number in range(40)]
        assert pair.taken.counts["read"] == pair.kept.counts["kept"] == 40
        assert pair.split.counts["handed"] == 40
        assert not pair.kept.kept
        assert set(pair.ours.computed.values()) == {1}
        assert (pair.ahead.requests, pair.answering.requests) == (0, 0)


async def test_prompts_are_read_ahead_as_far_as_the_partners_memory_goes_and_no_further() -> None:
    async with a_pair() as pair:
        pair.split.found(Capacity(64, 16))
        pair.answering.resize(Capacity(32, 16))  # two of them at a time
        pair.ours.gate.clear()
        asked = [asyncio.create_task(pair.ask(f"w{number}")) for number in range(20)]
        while pair.taken.counts["read"] < 1 or pair.kept.counts["kept"] < 4:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert pair.kept.counts["kept"] <= 4 + pair.taken.counts["read"]
        assert pair.ours.peak_in_flight <= 2
        pair.ours.gate.set()
        assert await asyncio.gather(*asked) == [f"w{number}" for number in range(20)]
        assert pair.kept.most_kept <= 4
        assert pair.ours.peak_in_flight <= 2


async def test_a_partner_that_says_it_holds_no_more_has_room_before_the_answers_are_there() -> None:
    async with a_pair() as pair:
        pair.split.found(Capacity(32, 16))
        pair.ours.gate.clear()
        asked = [asyncio.create_task(pair.ask(f"w{number}")) for number in range(6)]
        while pair.taken.counts["read"] < 2:
            await asyncio.sleep(0.01)
        assert pair.kept.counts["kept"] == 2  # the answers are not there, and nobody has said that these were read
        while pair.kept.counts["kept"] < 6:
            pair.split.look(Load(0, 0.0, 0), float(pair.kept.tokens), asyncio.get_running_loop().time())
            await asyncio.sleep(0.02)
        pair.ours.gate.set()
        await asyncio.gather(*asked)


@pytest.mark.parametrize("said", ["500", "503", "garbage", "drop", "cut"])
async def test_what_the_partner_does_not_read_is_answered_alone(said: str) -> None:
    async with a_pair() as pair:
        prompt = f"a [[{said} 1]]" if said.isdigit() else f"a [[{said}]]"
        pair.ours.seen[prompt] = 1  # steered already: ours answers at once
        assert await pair.ask(prompt) == " ".join(reversed(prompt.split()))
        assert pair.split.counts["alone"] == 1
        assert bool(pair.known.said) == (said != "503")  # one that is overloaded is there
        assert pair.split.counts["handed"] == 0


async def test_a_partner_that_is_gone_leaves_everything_to_ours_and_is_used_again_once_it_is_back() -> None:
    async with a_pair() as pair:
        url, pair.known.url = pair.known.url, "http://127.0.0.1:9"
        assert await pair.ask("a b") == "b a"
        assert pair.known.said
        pair.known.url = ""
        pair.split.lost()
        assert await pair.ask("c d") == "d c"
        pair.known.url = url
        pair.split.found(Capacity())
        assert await pair.ask("e f") == "f e"
        assert pair.split.counts["handed"] == 1
        assert pair.split.counts["alone"] == 2


async def test_who_waits_for_a_partner_that_is_lost_goes_alone() -> None:
    async with a_pair() as pair:
        pair.split.found(Capacity(16, 16))
        pair.reader.gate.clear()
        asked = [asyncio.create_task(pair.ask(f"w{number}")) for number in range(5)]
        while not pair.reader.in_flight:
            await asyncio.sleep(0.01)
        pair.split.lost()
        assert await asyncio.gather(*asked[1:]) == [f"w{number}" for number in range(1, 5)]
        pair.reader.gate.set()
        assert await asked[0] == "w0"


@pytest.mark.parametrize("policy", ["recompute", "fail"])
async def test_keys_and_values_that_are_gone_cost_no_request(policy: str) -> None:
    async with a_pair(policy) as pair:
        read = pair.post

        async def losing(url: str, data: bytes) -> Reply:
            reply = await read(url, data)
            pair.kept.kept.clear()
            return reply

        sent = body("a b c")
        reply = await pair.split.ask(demand_of(sent, CHAT)[0], CHAT, sent, pair.url, read=losing, answer=pair.post)
        assert json.loads(reply.body)["choices"][0]["message"]["content"] == "c b a"
        assert pair.split.counts["repeated"] == (policy == "fail")
        assert pair.ours.computed.total() == 1


async def test_what_was_kept_for_too_long_is_not_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_module, "FRESH_S", 0.0)
    async with a_pair() as pair:
        assert await pair.ask("a b") == "b a"
        assert pair.split.counts["alone"] == 1
        assert pair.ahead.requests == 1  # in the way there until its time is over


async def test_one_that_is_cancelled_gives_up_its_place_here_at_once_and_there_when_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(split_module, "LEASE_S", 0.05)
    async with a_pair() as pair:
        pair.ours.gate.clear()
        asked = asyncio.create_task(pair.ask("a b"))
        while not pair.ours.in_flight:
            await asyncio.sleep(0.01)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert (pair.answering.requests, pair.ahead.requests) == (0, 1)
        while pair.ahead.requests:
            await asyncio.sleep(0.01)


async def test_what_never_comes_is_answered_alone_and_the_partners_engine_is_to_begin_anew() -> None:
    async with a_pair() as pair:
        began = time.monotonic()
        assert await pair.ask("a b") == "b a"
        pair.taken.comes.clear()
        asked = [asyncio.create_task(pair.ask(f"one n{number}")) for number in range(3)]
        while (seen := (await page_of(pair.session, pair.url)).fetching()) != Fetching(3, 1):
            await asyncio.sleep(0.01)
        assert seen
        late = split_module.STUCK_S
        pair.split.fetching(seen, began)
        pair.split.fetching(seen, began + late - 1)
        assert not pair.known.spoilt
        pair.split.fetching(Fetching(3, 2), began + late - 1)  # one came: the others may
        pair.split.fetching(Fetching(2, 2), began + late + 1)
        assert not pair.known.spoilt
        pair.split.fetching(Fetching(2, 2), began + 3 * late)
        assert await asyncio.gather(*asked) == [f"n{number} one" for number in range(3)]
        assert pair.known.spoilt
        assert (pair.split.counts["stuck"], pair.split.counts["repeated"]) == (3, 3)
        assert set(pair.ours.computed.values()) == {1}
        pair.taken.comes.set()


async def test_an_engine_that_reads_nothing_for_long_is_to_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    now, late = [1000.0], split_module.READ_S
    monkeypatch.setattr(split_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    async with a_pair() as pair:

        async def ask(prompt: str, read: Post) -> None:
            sent = body(prompt)
            reply = await pair.split.ask(demand_of(sent, CHAT)[0], CHAT, sent, pair.url, read=read, answer=pair.post)
            assert reply.status == 200

        async def in_vain(seconds: float) -> None:
            async def read(_url: str, _data: bytes) -> Reply:
                now[0] += seconds
                return Reply(0, b"nothing", "", "timeout")

            await ask("a b", read)

        async def beside(_url: str, _data: bytes) -> Reply:
            await pair.ask("c d")  # another is read meanwhile
            now[0] += late - 1
            return Reply(0, b"nothing", "", "timeout")

        await in_vain(late - 1)
        assert (len(pair.known.said), pair.known.spoilt) == (1, [])
        await pair.ask("one two")
        await in_vain(late - 100)
        now[0] += 10 * late  # nobody asks
        await in_vain(0.0)
        assert (len(pair.known.said), pair.known.spoilt) == (3, [])
        now[0] += late
        await ask("e f", beside)
        assert (len(pair.known.said), pair.known.spoilt) == (4, [])
        await in_vain(1.0)
        assert (len(pair.known.said), pair.known.spoilt) == (5, [True])
        pair.known.url = pair.known.url.replace("127.0.0.1", "localhost")  # it was started anew
        await in_vain(late - 1)
        assert pair.known.spoilt == [True]
        await pair.ask("one two")
        for _ in range(int(late / LONGEST_ASK_S)):
            await in_vain(0.0)
            assert pair.known.spoilt == [True]
            now[0] += LONGEST_ASK_S  # it is left alone for so long after a failure
        await in_vain(0.0)
        assert pair.known.spoilt == [True, True]


async def test_an_engine_that_tells_nothing_of_what_it_fetches_is_believed() -> None:
    async with a_pair() as pair:
        pair.ours.kept = None
        assert (await page_of(pair.session, pair.url)).fetching() is None


async def test_a_link_that_is_too_slow_is_refused_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_module, "_SURE_S", 0.0)
    async with a_pair() as pair:
        pair.split.link = KvLink(bytes_per_s=1e3, bytes_per_token=131072)
        await asyncio.gather(*(pair.ask(f"one two n{number}") for number in range(40)))
        assert "131,072 bytes a token" in pair.split.refused
        assert "0.0 MB/s that the link carried" in pair.split.refused
        before = pair.kept.counts["kept"]
        assert await pair.ask("a b") == "b a"
        assert pair.kept.counts["kept"] == before


@given(st.integers(1, 10**9), st.integers(1, 10**7), st.floats(0, 1e9))
def test_a_link_carries_what_it_does_not_complain_about(bytes_per_s: int, bytes_per_token: int, tokens_per_s: float) -> None:
    link = KvLink(bytes_per_s, bytes_per_token)
    assert bool(link.complaint(tokens_per_s)) == (tokens_per_s > link.most_tokens_per_s)


def test_bytes_a_token_follow_from_the_models_shape() -> None:
    llama = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
    assert kv_bytes_per_token(llama) == 131072
    assert kv_bytes_per_token(llama, ["--kv-cache-dtype=fp8"]) == 65536
    assert kv_bytes_per_token({**llama, "torch_dtype": "float32"}, ["--dtype", "float32"]) == 262144
    assert kv_bytes_per_token({"num_hidden_layers": 27, "kv_lora_rank": 512, "qk_rope_head_dim": 64}) == 27 * 576 * 2
    assert kv_bytes_per_token({"hidden_size": 64}) is None


def test_more_may_be_on_its_way_than_ours_can_hold_while_the_partner_has_room() -> None:
    split = Split(Known("http://x"), Admission(10), Admission(4))
    split.found(Capacity(100, 1))
    assert split.resize(Capacity(50, 1, 512)) == Capacity(150, 1, 512, ahead=10)
    split.lost()
    assert split.room == Capacity(50, 1, 512)
    driver = Admission(4)
    driver.resize(Capacity(150, 1, 512, ahead=10))
    assert driver.room == 14

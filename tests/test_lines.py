"""What a batch file may hold: every check, any bytes at all, and what the checks leave for the rest of the house."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchsched.lines import CHAT, COMPLETIONS, EMBEDDINGS, ENDPOINTS, RESPONSES, LineError, iter_lines, parse
from batchsched.lines.checking import Checker, Facts
from batchsched.lines.rules import Rules

NEEDED: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "hi"}]},
    COMPLETIONS: {"prompt": "hi"},
    EMBEDDINGS: {"input": "hi"},
    RESPONSES: {"input": "hi"},
}


def line(number: int = 1, url: str = CHAT, **body: Any) -> bytes:
    """A sound line with these fields in its body."""
    whole = {"model": "m", **NEEDED[url], **body}
    return json.dumps({"custom_id": f"r{number}", "method": "POST", "url": url, "body": whole}).encode() + b"\n"


def raw(body: bytes, number: int = 1) -> bytes:
    """A line whose body is these bytes."""
    return b'{"custom_id": "r%d", "method": "POST", "url": "/v1/chat/completions", "body": %s}\n' % (number, body)


def checked(data: bytes, rules: Rules | None = None, block: int = 65_536, **more: Any) -> tuple[Checker, Facts | None]:
    """A whole check, the bytes coming in blocks."""

    def blocks() -> Iterator[bytes]:
        return (data[at : at + block] for at in range(0, len(data), block))

    checker = Checker(rules or Rules(), **more)
    checker.run(blocks())
    return checker, checker.finish(blocks)


def error(data: bytes, rules: Rules | None = None, **more: Any) -> tuple[str, str | None, int | None]:
    """The one error of a file: code, param, line."""
    checker, facts = checked(data, rules, **more)
    [found] = checker.errors
    assert facts is None
    assert checker.error_count == 1
    assert found.message.isprintable()
    return found.code, found.param, found.line


MESSAGES = b'"model": "m", "messages": [{"role": "user", "content": "hi"}]'
UNREADABLE = {
    "key twice": (raw(b'{"model": "m", "messages": [], "model": "n"}'), "duplicate_key"),
    "key twice, escaped": (raw(rb'{"model": "m", "messages": [], "mod\u0065l": "n"}'), "duplicate_key"),
    "key twice, deep": (raw(b'{"model": "m", "messages": [{"role": "user", "content": "a", "content": "b"}]}'), "duplicate_key"),
    "custom_id twice": (b'{"custom_id": "a", "custom_id": "b"}\n', "duplicate_key"),
    "NaN": (raw(b'{%s, "temperature": NaN}' % MESSAGES), "invalid_number"),
    "Infinity": (raw(b'{%s, "x": [-Infinity]}' % MESSAGES), "invalid_number"),
    "too large for a double": (raw(b'{%s, "x": {"y": 1e999}}' % MESSAGES), "invalid_number"),
    "thousands of digits": (raw(b'{%s, "x": %s}' % (MESSAGES, b"9" * 5000)), "invalid_number"),
    "lone surrogate": (raw(rb'{"model": "m", "messages": [{"role": "user", "content": "\ud800"}]}'), "lone_surrogate"),
    "other lone surrogate": (raw(rb'{"model": "m", "messages": [{"role": "user", "content": "a\udc00b"}]}'), "lone_surrogate"),
    "lone surrogate in a key": (raw(rb'{"\ud800": 1}'), "lone_surrogate"),
    "surrogate as UTF-8": (raw(b'{"model": "\xed\xa0\x80"}'), "invalid_encoding"),
    "Latin-1": (raw('{"model": "é"}'.encode("latin-1")), "invalid_encoding"),
    "overlong UTF-8": (raw(b'{"model": "\xc0\xaf"}'), "invalid_encoding"),
    "NUL in a string": (raw(b'{"model": "a\0b"}'), "nul_byte"),
    "NUL after the line": (raw(b"{%s}" % MESSAGES)[:-1] + b"\0\n", "nul_byte"),
    "control character": (raw(b'{"model": "a\x01b"}'), "invalid_json_line"),
    "byte order mark": (b"\xef\xbb\xbf" + line(), "byte_order_mark"),
    "UTF-16": (line().decode().encode("utf-16")[:-2], "invalid_encoding"),
    "deep": (raw(b'{%s, "x": %s1%s}' % (MESSAGES, b"[" * 300, b"]" * 300)), "too_deep"),
    "very deep": (raw(b"[" * 100_000), "too_deep"),
    "two objects": (line()[:-1] + line(2), "invalid_json_line"),
    "trailing comma": (raw(b'{"model": "m",}'), "invalid_json_line"),
    "single quotes": (b"{'custom_id': 'a'}\n", "invalid_json_line"),
    "gzip": (b"\x1f\x8b\x08\x00abc\n", "compressed_file"),
    "zstd": (b"\x28\xb5\x2f\xfdabc\n", "compressed_file"),
    "zip": (b"PK\x03\x04abc\n", "compressed_file"),
}


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("before", [0, 3])
def test_what_parsers_might_read_differently_is_refused_with_a_code_of_its_own(name: str, before: int) -> None:
    data, code = UNREADABLE[name]
    sound = b"".join(line(100 + number) for number in range(before))
    assert error(sound + data) == (code, None, before + 1)


@pytest.mark.parametrize(
    "data",
    [
        line(1) + line(2),
        line(1)[:-1] + b"\r\n" + line(2)[:-1] + b"\r\n",
        line(1) + b"\n \t\n\r\n" + line(2),
        line(1) + line(2)[:-1],
        line(1)[:-1] + b"   \n\n" + line(2) + b"\n\n",
        line(1, messages=[{"role": "user", "content": "\ud83d\ude00 é \0"}]) + line(2),
    ],
)
def test_line_ends_of_any_kind_are_fine(data: bytes) -> None:
    checker, facts = checked(data)
    assert not checker.errors
    assert facts is not None
    assert (facts.lines, facts.endpoint, facts.model) == (2, CHAT, "m")


FORBIDDEN: list[tuple[dict[str, Any], str]] = [
    *(({name: value}, f"body.{name}") for name, value in [
        ("api_base", "http://x"), ("base_url", "http://x"), ("api_key", "k"), ("extra_headers", {"a": "b"}), ("extra_body", {}),
        ("extra_query", {}), ("chat_template", "{{ x }}"), ("logits_processors", ["os.system"]), ("prompt_embeds", "AAAA"),
        ("mm_processor_kwargs", {}), ("media_io_kwargs", {}), ("vllm_xargs", {}), ("kv_transfer_params", {}), ("priority", -5),
        ("request_id", "other"),
    ]),
    ({"chat_template_kwargs": {"chat_template": "x"}}, "body.chat_template_kwargs.chat_template"),
    ({"chat_template_kwargs": {"tokenize": True}}, "body.chat_template_kwargs.tokenize"),
    ({"tools": [{"type": "function"}, {"type": "mcp", "server_url": "http://x"}]}, "body.tools.server_url"),
    ({"messages": [{"role": "user", "content": [{"image_embeds": "AAAA"}]}]}, "body.messages.image_embeds"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "param"), FORBIDDEN, ids=[param for _, param in FORBIDDEN])
def test_fields_that_name_addresses_templates_or_headers_are_refused_unless_allowed(body: dict[str, Any], param: str) -> None:
    assert error(line(1) + line(2, **body)) == ("forbidden_field", param, 2)
    assert checked(line(**body), Rules(allow_fields=[param.removeprefix("body.")]))[1]


@pytest.mark.parametrize("body", [{"background": True}, {"previous_response_id": "resp_1"}, {"prompt": {"id": "pmpt_1"}}])
def test_responses_must_be_whole_in_themselves(body: dict[str, Any]) -> None:
    [name] = body
    assert error(line(url=RESPONSES, **body)) == ("forbidden_field", f"body.{name}", 1)
    assert checked(line(url=RESPONSES, background=False, previous_response_id=None))[1]


def seen(part: dict[str, Any]) -> dict[str, Any]:
    """A message with this part in its content."""
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "see"}, part]}]}


REMOTE: list[dict[str, Any]] = [
    {"type": "image_url", "image_url": {"url": "http://evil.example/a.png"}},
    {"type": "image_url", "image_url": "https://evil.example/a.png"},
    {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
    {"type": "image_url", "image_url": {"url": " http://evil.example/"}},
    {"type": "image_url", "image_url": {"url": "//evil.example/"}},
    {"type": "image_url", "image_url": {"url": "gopher://evil.example/"}},
    {"type": "video_url", "video_url": {"url": "http://evil.example/a.mp4"}},
    {"type": "audio_url", "audio_url": {"url": "http://evil.example/a.mp3"}},
    {"type": "input_audio", "input_audio": {"data": "http://evil.example/a.mp3", "format": "mp3"}},
    {"type": "file", "file": {"file_data": "https://evil.example/a.pdf"}},
    {"type": "file", "file": {"file_url": "https://evil.example/a.pdf"}},
    {"type": "image", "url": "http://evil.example/a.png"},
    {"image_url": "http://evil.example/a.png"},
    {"type": "text", "text": "x", "image_url": {"url": "http://evil.example"}, "uuid": "u"},
]


@pytest.mark.parametrize("part", REMOTE, ids=str)
def test_media_from_elsewhere_are_refused(part: dict[str, Any]) -> None:
    code, param, number = error(line(1) + line(2, **seen(part)), Rules(media_domains=["good.example"]))
    assert (code, number) == ("forbidden_url", 2)
    assert (param or "").startswith("body.messages.")


@pytest.mark.parametrize("key", ["input_image", "input_file"])
def test_media_from_elsewhere_are_refused_in_responses_too(key: str) -> None:
    part = {"type": key, "image_url" if key == "input_image" else "file_url": "http://evil.example/a"}
    content = [{"role": "user", "content": [part]}]
    assert error(line(url=RESPONSES, input=content))[0] == "forbidden_url"


URLS = {
    "http://good.example/a.png": True,
    "HTTPS://GOOD.EXAMPLE": True,
    "https://cdn.good.example:443/a?b=c#d": True,
    "https://other.example:8443/a": True,
    "data:image/png;base64,AAAA": True,
    "http://good.example:8080/a.png": False,
    "http://evilgood.example/": False,
    "http://good.example.evil.example/": False,
    "http://good.example@evil.example/": False,
    "http://evil.example#@good.example/": False,
    "http://evil.example\\@good.example/": False,
    "http://good.example\\.evil.example/": False,
    "http://good.example\t.evil.example/": False,
    "http://göod.example/": False,
    "http://good.example。evil.example/": False,
    "http://[::1]/good.example": False,
    "http:good.example": False,
    "ftp://good.example/": False,
    "": False,
}


@pytest.mark.parametrize("url", URLS, ids=str)
def test_media_come_from_allowed_hosts_and_their_subdomains_only(url: str) -> None:
    data = line(**seen({"type": "image_url", "image_url": {"url": url}}))
    rules = Rules(media_domains=["good.example", "other.example:8443"])
    assert (checked(data, rules)[1] is not None) is URLS[url]


@pytest.mark.parametrize(
    "body",
    [
        seen({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}),
        seen({"type": "input_audio", "input_audio": {"data": "//uQxAAA", "format": "mp3"}}),
        seen({"type": "file", "file": {"file_id": "file-1", "filename": "a.pdf"}}),
        seen({"type": "text", "text": "look at http://example.com/a.png and file:///etc/passwd"}),
        {"tools": [{"type": "function", "function": {"parameters": {"properties": {"image_url": {"type": "string"}}}}}]},
        {"messages": [{"role": "assistant", "content": "x", "annotations": [{"url_citation": {"url": "https://a.example"}}]}]},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"properties": {"url": {"type": "string"}}}}}},
        {"chat_template_kwargs": {"enable_thinking": False}, "metadata": {"source": "https://a.example"}},
    ],
)
def test_what_is_harmless_passes(body: dict[str, Any]) -> None:
    assert checked(line(**body))[0].errors == []


@pytest.mark.parametrize(
    ("url", "bodies", "limits"),
    [
        (CHAT, [{"max_tokens": 10}, {"max_tokens": 5, "max_completion_tokens": 7}], (10, 17)),
        (CHAT, [{"max_tokens": 10, "n": 3}], (10, 30)),
        (CHAT, [{"max_tokens": 10}, {}], (None, None)),
        (CHAT, [{"max_tokens": 10, "tools": []}, {"max_tokens": 3, "n": 2, "tools": []}], (10, 16)),
        (CHAT, [{"max_tokens": 10**400}], (2**53, 2**53)),
        (COMPLETIONS, [{}, {"max_tokens": 4, "n": 2, "best_of": 3}], (16, 28)),
        (COMPLETIONS, [{"prompt": ["a", "b"], "max_tokens": 5}, {"prompt": [1, 2, 3], "max_tokens": 5}], (5, 15)),
        (COMPLETIONS, [{"max_tokens": None}], (None, None)),
        (EMBEDDINGS, [{}, {"input": ["a", "b"]}], (0, 0)),
        (RESPONSES, [{"max_output_tokens": 9}, {"max_output_tokens": 1}], (9, 10)),
        (RESPONSES, [{"max_tokens": 9}], (None, None)),
    ],
)
def test_the_limits_of_the_answers_are_added_up(url: str, bodies: list[dict[str, Any]], limits: tuple[int, int]) -> None:
    _, facts = checked(b"".join(line(number, url, **body) for number, body in enumerate(bodies)))
    assert facts is not None
    assert (facts.max_tokens, facts.max_tokens_total) == limits


def test_facts_suit_only_the_batch_that_they_were_found_for() -> None:
    rules = Rules()
    _, facts = checked(line(max_tokens=100), rules)
    assert facts is not None
    kept = msgspec.convert(json.loads(json.dumps(msgspec.to_builtins(facts))), Facts)
    assert kept == facts
    assert kept.suit(rules, CHAT, {"m": 101})
    assert kept.suit(rules, CHAT, {"m": None, "n": 1})
    assert not kept.suit(rules, CHAT, {"m": 100})
    assert not kept.suit(rules, CHAT, {"n": None})
    assert not kept.suit(rules, COMPLETIONS, {"m": None})
    assert not kept.suit(Rules(media_domains=["x"]), CHAT, {"m": None})


def test_lines_that_repeat_a_custom_id_are_named_far_apart_too() -> None:
    data = [line(number) for number in range(5000)]
    checker, facts = checked(b"".join([*data, line(17), line(4), line(17)]))
    assert facts is None
    assert [(found.code, found.line) for found in checker.errors] == [
        ("duplicate_custom_id", number) for number in (5001, 5002, 5003)
    ]
    assert checker.error_count == 3


def test_a_mere_collision_of_hashes_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchsched.lines.checking.hash", len, raising=False)
    checker, facts = checked(b"".join(line(number) for number in range(10)))
    assert facts is not None
    assert not checker.errors


def test_a_file_that_repeats_one_custom_id_all_over_is_told_in_a_hundred_errors() -> None:
    checker, _ = checked(line() * 3000)
    assert (len(checker.errors), checker.error_count) == (100, 2999)


def test_bounds_of_a_file_and_of_a_line() -> None:
    assert error(line(1) + line(2), Rules(max_lines=1)) == ("too_many_requests", None, 2)
    assert error(line(1) + line(2, user="x" * 2000), Rules(max_line_bytes=1500)) == ("line_too_long", None, 2)
    assert error(b"x" * 10_000, Rules(max_line_bytes=1500), block=100) == ("line_too_long", None, 1)


def pieces(data: bytes, facts: Facts) -> Iterator[tuple[int, bytes]]:
    """Number of lines and bytes of each chunk."""
    return ((lines, data[start:end]) for lines, start, end in facts.cuts)


BODIES = st.dictionaries(
    st.text(max_size=8).map(lambda name: f"x{name}"),
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8),
    max_size=3,
)  # fmt: skip
ENDS = st.sampled_from([b"\n", b"\r\n", b"\n\n", b" \n", b"\n \r\n\n"])


@pytest.mark.slow
@given(
    url=st.sampled_from(ENDPOINTS),
    bodies=st.lists(st.one_of(st.just({}), BODIES), min_size=1, max_size=30),
    ends=st.lists(ENDS, min_size=30, max_size=30),
    escaped=st.booleans(),
    block=st.integers(1, 3000),
    chunk_lines=st.integers(1, 7),
    chunk_bytes=st.integers(1, 2000),
)
@settings(max_examples=150)
def test_a_sound_file_is_accepted_cut_whole_and_reaches_the_engine_byte_for_byte(
    url: str, bodies: list[dict[str, Any]], ends: list[bytes], escaped: bool, block: int, chunk_lines: int, chunk_bytes: int
) -> None:
    sent = [{"model": "m", **NEEDED[url], **body} for body in bodies]
    lines = [
        b'{"custom_id": "r%d", "method": "POST", "url": "%s", "body":%s}'
        % (number, url.encode(), json.dumps(body, ensure_ascii=escaped).encode())
        for number, body in enumerate(sent)
    ]
    data = b"".join(text + end for text, end in zip(lines, ends, strict=False))
    rules = Rules(chunk_lines=chunk_lines, chunk_bytes=chunk_bytes)
    checker, facts = checked(data, rules, block)
    assert checker.errors == []
    assert facts is not None
    assert facts.lines == len(sent)
    found: list[bytes] = []
    for count, piece in pieces(data, facts):
        inside = [parse(text.data, 0) for text in iter_lines([piece])]
        assert len(inside) == count <= chunk_lines
        assert count == 1 or len(piece) <= chunk_bytes
        found += [bytes(request.body) for request in inside if not isinstance(request, LineError)]
    assert found == [json.dumps(body, ensure_ascii=escaped).encode() for body in sent]


ODD = st.sampled_from(
    [
        *(body for body, _ in FORBIDDEN),
        *(seen(part) for part in REMOTE[:4]),
        {}, {"model": "n"}, {"model": ""}, {"model": 7}, {"model": "n" * 600}, {"stream": True}, {"stream": 1}, {"n": 2},
        {"max_tokens": 5}, {"max_tokens": None}, {"max_tokens": "5"}, {"max_tokens": 10**30}, {"max_tokens": -1},
        {"temperature": "hot"}, {"messages": "hi"}, {"messages": None}, {"prompt": [1, 2]}, {"prompt": ["a", "b"]},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"headers": 1}}}]}, {"metadata": {"a": "b"}},
        {"response_format": {"type": "json_schema", "json_schema": {"chat_template": "x"}}},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": []}]},
    ]
)  # fmt: skip


@given(lines=st.lists(st.tuples(st.sampled_from(ENDPOINTS[:2]), st.integers(0, 9), ODD), min_size=1, max_size=6), first=ODD)
@settings(max_examples=300)
def test_the_quick_way_and_the_thorough_way_agree(lines: list[tuple[str, int, dict[str, Any]]], first: dict[str, Any]) -> None:
    def refuse(_: bytes) -> Any:
        raise msgspec.ValidationError

    data = line(100, **first) + b"".join(line(number, url, **body) for url, number, body in lines)
    models = {"m": 8, "n": None}
    quick, facts = checked(data, models=models)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batchsched.lines.checking.plain", refuse)
        thorough, same = checked(data, models=models)
    assert quick.errors == thorough.errors
    assert facts == same


def damaged(at: int, by: bytes) -> bytes:
    """Two sound lines with one byte replaced."""
    sound = line() + line(2)
    return sound[:at] + by + sound[at + 1 :]


@given(
    data=st.one_of(
        st.binary(max_size=300),
        st.lists(st.sampled_from([b"{", b"}", b"[", b'"', b":", b",", b"\n", b"\\ud800", b"\\", b"1e999", b"NaN", b"\0", b"\xff",
            b'"custom_id"', b'"method"', b'"POST"', b'"url"', b'"/v1/chat/completions"', b'"body"', b'"model"', b"null", b"a"]),
            max_size=60).map(b"".join),
        st.tuples(st.integers(0, 150), st.binary(min_size=1, max_size=3)).map(lambda put: damaged(*put)),
    ),
    block=st.integers(1, 50),
)  # fmt: skip
@example(data=b"\n" * 5, block=2)
@settings(max_examples=400)
def test_any_bytes_have_an_answer(data: bytes, block: int) -> None:
    checker, facts = checked(data, Rules(max_line_bytes=1024), block)
    assert (facts is None) == (checker.error_count > 0)
    assert all(found.message.isprintable() for found in checker.errors)
    whole, same = checked(data, Rules(max_line_bytes=1024), 1 << 20)
    assert (whole.errors, same) == (checker.errors, facts), "how the bytes were cut into blocks makes a difference"
    for text in iter_lines([data]) if facts else ():
        assert not isinstance(parse(text.data, 0), LineError), "accepted, but the worker cannot read it"

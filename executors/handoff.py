"""The two requests that one becomes where one engine reads the prompt and another answers.

The first asks for a single token and for the prompt's keys and values to be kept; its answer says where they lie, and this goes
unchanged into the second. The words are those of vLLM's NixlConnector. Both prompts must be the same token for token, so what
could have a part in a chat template stays in both; what only shapes the answer is left out of the first.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from batchsched.executors.demand import Demand
from batchsched.lines import CHAT, COMPLETIONS

Fields = dict[str, msgspec.Raw]
TRANSFER = "kv_transfer_params"
LEASE_S = 60
"""How long the first engine keeps what nobody reads; the one that answers renews it while the request waits in its queue."""
_KEEP = msgspec.Raw(b'{"do_remote_decode":true,"do_remote_prefill":false}')
_NULL = msgspec.Raw(b"null")
_NONE = frozenset({b"null", b"false", b"0", b"1"})
_WHOLE = ("best_of", "echo", "use_beam_search", "prompt_embeds")
"""With these set, an engine cannot go on from keys and values of another, or not for all that is asked for."""
_MEDIA = (b'"image_url"', b'"input_audio"', b'"audio_url"', b'"video_url"', b'"image_embeds"')
_OF_THE_ANSWER = (
    *("max_completion_tokens", "min_tokens", "seed", "temperature", "top_p", "top_k", "min_p", "stop", "stop_token_ids"),
    *("logprobs", "top_logprobs", "stream", "stream_options", "return_token_ids", "structured_outputs", "ignore_eos"),
    *("guided_json", "guided_regex", "guided_choice", "guided_grammar", "presence_penalty", "frequency_penalty"),
    *("repetition_penalty", "length_penalty", "logit_bias", "n"),
)
_bodies = msgspec.json.Decoder(Fields)


class Kept(NamedTuple):
    """What the first engine keeps for the second. `params`: where, in its own words; `tokens`: of the prompt."""

    params: msgspec.Raw
    tokens: int


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0


class _Params(msgspec.Struct):
    do_remote_prefill: bool = False


class _Answer(msgspec.Struct):
    kv_transfer_params: msgspec.Raw = msgspec.Raw(b"null")
    usage: _Usage = msgspec.field(default_factory=_Usage)


_answers = msgspec.json.Decoder(_Answer)
_params = msgspec.json.Decoder(_Params | None)


def parts_of(body: bytes, endpoint: str, demand: Demand) -> Fields | None:
    """The request in its fields; None where one engine has to answer it whole.

    Of several answers or prompts only the first would find the keys and values in place: they are given up once they were read.
    Scores of the prompt's own tokens need the prompt computed where they are asked for.
    """
    if endpoint not in {CHAT, COMPLETIONS} or demand.requests != 1 or any(word in body for word in _MEDIA):
        return None
    if (fields := _fields(body)) is None:
        return None
    scored = bytes(fields.get("prompt_logprobs", _NULL)) != b"null"
    return None if scored or any(bytes(fields.get(name, _NULL)) not in _NONE for name in _WHOLE) else fields


def alone(body: bytes) -> bytes:
    """The request for one engine alone: whose keys and values are read is ours to say, never a requester's."""
    fields = _fields(body) if TRANSFER.encode() in body else None
    return body if fields is None else msgspec.json.encode({name: value for name, value in fields.items() if name != TRANSFER})


def first_body(fields: Fields, served: str) -> bytes:
    """For the engine that reads, which serves the model as `served`."""
    kept = {name: value for name, value in fields.items() if name not in _OF_THE_ANSWER}
    plain = {"model": served, "max_tokens": 1, "temperature": 0, TRANSFER: _KEEP}
    return msgspec.json.encode({**kept, **plain})


def second_body(fields: Fields, kept: Kept) -> bytes:
    """For the engine that answers."""
    return msgspec.json.encode({**fields, TRANSFER: kept.params})


def kept_of(answer: bytes) -> Kept | None:
    """What the first engine's answer says that it keeps; None where that is nothing, or the answer none."""
    try:
        found = _answers.decode(answer)
        params = _params.decode(found.kv_transfer_params)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return Kept(found.kv_transfer_params, found.usage.prompt_tokens) if params and params.do_remote_prefill else None


def _fields(body: bytes) -> Fields | None:
    """None where it is no object; an engine may say so."""
    try:
        return _bodies.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None

"""What a line may not bring along: addresses to call, templates, headers, tensors, and media from anywhere but the line itself.

A batch runs beside other people's work, on engines inside the network. A field that makes an engine fetch a URL, run a template
or load a tensor is refused unless the operator allowed it by name (`server.allow_fields`, `server.media_domains`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from batchsched.lines import RESPONSES
from batchsched.lines.strict import Flaw, shown

FIELDS = frozenset({
    # where to send the request, and as whom
    "api_base", "base_url", "api_key", "api_version", "server_url", "proxy", "proxies", "callback_url", "webhook_url",
    "headers", "extra_headers", "default_headers", "extra_body", "extra_query", "default_query",
    # code and data that the engine would run or load
    "chat_template", "tokenizer", "logits_processors", "logits_processor_pattern", "prompt_embeds", "lora_path", "lora_request",
    "mm_processor_kwargs", "media_io_kwargs", "vllm_xargs", "kv_transfer_params", "ec_transfer_params",
    # what is the scheduler's to say
    "priority", "request_id",
})  # fmt: skip
NESTED = {
    "chat_template_kwargs": frozenset({
        "chat_template", "tokenize", "tokenizer", "conversation", "return_tensors", "return_dict", "return_assistant_tokens_mask",
    }),
    "tools": frozenset({"server_url", "connector_id", "headers", "authorization"}),
}  # fmt: skip
"""Fields inside fields: of an object, or of the objects of a list."""
_RESPONSES_ONLY = frozenset({"prompt", "background", "previous_response_id", "conversation"})
"""A stored template, work that answers later, and the memory of an engine: none of them is in the line."""
_URLS = frozenset({"image_url", "video_url", "audio_url", "file_url"})
_MEDIA = (
    frozenset({"input_audio", "input_image", "input_video", "image", "video", "audio", "file", "file_data", "source"}) | _URLS
)
_TENSORS = frozenset({"image_embeds", "audio_embeds", "video_embeds", "prompt_embeds", "image_pil"})
_WATCHED = _MEDIA | _TENSORS
_CONTENT = ("messages", "input", "prompt", "previous_input_messages")
_ADDRESS = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*:")
# Strict on purpose: what two URL parsers could read differently (user info, backslashes, other alphabets, spaces) is refused.
_PLAIN_URL = re.compile(r"(https?)://([a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?::([0-9]{1,5}))?(?:[/?#][!-\[\]-~]*)?", re.IGNORECASE)
_PORTS = {"http": "80", "https": "443"}


def refuse(body: dict[str, Any], endpoint: str, allowed: Collection[str], domains: Sequence[str]) -> None:
    """Look through a request's body. `domains`: hosts (with their subdomains) that media may come from. Raises Flaw."""
    if not FIELDS.isdisjoint(body):
        _refuse_fields(FIELDS, body, "", allowed)
    for name, fields in NESTED.items():
        if name in body:
            inner = body[name]
            for node in inner if type(inner) is list else (inner,):
                if type(node) is dict and not fields.isdisjoint(node):
                    _refuse_fields(fields, node, f"{name}.", allowed)
    if endpoint == RESPONSES and not _RESPONSES_ONLY.isdisjoint(body):
        used = {name: value for name, value in body.items() if value}  # `"background": false` asks for nothing
        _refuse_fields(_RESPONSES_ONLY, used, "", allowed)
    for name in _CONTENT:
        content = body.get(name)
        if type(content) is list or type(content) is dict:
            _refuse_media(content, name, allowed, domains)


def _refuse_fields(fields: Collection[str], node: dict[str, Any], prefix: str, allowed: Collection[str]) -> None:
    for name in node:
        if name in fields and prefix + name not in allowed:
            text = f"'body.{prefix}{name}' is not accepted here; leave it out (an operator may allow it: server.allow_fields)."
            raise Flaw("forbidden_field", text, f"body.{prefix}{name}")


def _refuse_media(content: Any, name: str, allowed: Collection[str], domains: Sequence[str]) -> None:
    stack: list[Any] = [content]
    while stack:
        node = stack.pop()
        if type(node) is dict:
            if not _WATCHED.isdisjoint(node) or "url" in node:
                _refuse_part(node, name, allowed, domains)
            node = node.values()
        stack += [value for value in node if type(value) is dict or type(value) is list]


def _refuse_part(part: dict[str, Any], name: str, allowed: Collection[str], domains: Sequence[str]) -> None:
    _refuse_fields(_TENSORS, part, f"{name}.", allowed)
    for key in _MEDIA.intersection(part):
        _refuse_addresses(part[key], key in _URLS, f"body.{name}.{key}", domains)
    kind = part.get("type")
    if "url" in part and type(kind) is str and (kind in _MEDIA or f"{kind}_url" in _URLS):
        _refuse_addresses(part["url"], True, f"body.{name}.url", domains)


def _refuse_addresses(value: Any, is_url: bool, param: str, domains: Sequence[str]) -> None:
    """Every text at or below a medium: it must be data, or lead to an allowed host. What only may be an address must look so."""
    stack = [(value, is_url)]
    while stack:
        node, is_url = stack.pop()
        if type(node) is str:
            if (is_url or _ADDRESS.match(node)) and not _allowed(node, domains):
                text = (
                    f"'{shown(node)}' is no data: URL, and its host is not one that media may come from (server.media_domains)."
                )
                raise Flaw("forbidden_url", text, param)
        elif type(node) is dict:
            stack += [(inner, key == "url" or key in _URLS) for key, inner in node.items()]
        elif type(node) is list:
            stack += [(inner, is_url) for inner in node]


def _allowed(url: str, domains: Sequence[str]) -> bool:
    if url[:5].lower() == "data:":
        return True
    found = _PLAIN_URL.fullmatch(url)
    if found is None:
        return False
    scheme, host, port = found[1].lower(), found[2].lower(), found[3]
    place = host if port in {None, _PORTS[scheme]} else f"{host}:{port}"
    return any(place == domain or place.endswith(f".{domain}") for domain in domains)

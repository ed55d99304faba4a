"""The published document (/openapi.json), made from the contract and the routes."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any, get_args

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from batchsched.server.contract import CONTRACT, Error, Route
from batchsched.server.rules import RULES

_CLOSED = (400, 401, 403, 503)
"""What every route that asks for a key may answer."""
_LATER = (429, 503, 507)


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document: the routes as FastAPI knows them, bodies and answers as CONTRACT names them."""
    whole = get_openapi(title=app.title, version=app.version, routes=app.routes)
    kinds = {kind for route in CONTRACT.values() for kind in (route.answer, route.body) if _is_type(kind)} | {Error}
    ordered = sorted(kinds, key=str)
    made, components = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    schemas = dict(zip(ordered, made, strict=True))
    for key, route in CONTRACT.items():
        method, path = key.split(" ")
        operation = whole["paths"][re.sub(r":\w+}", "}", path)][method.lower()]
        closed = RULES[key].scope is not None
        _fill(operation, route, schemas, closed=closed)
        if not closed:
            operation["security"] = []
    whole["components"] = {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}}
    whole["security"] = [{"key": []}]
    return whole


def _is_type(kind: Any) -> bool:
    return kind is not None and not isinstance(kind, (dict, tuple))


def _fill(operation: dict[str, Any], route: Route, schemas: dict[Any, Any], *, closed: bool) -> None:
    if isinstance(route.answer, tuple):
        content = {media: {"schema": {"type": "string"} if media.startswith("text/") else {}} for media in route.answer}
    else:
        content = _as_json(schemas[route.answer])
    good: dict[str, Any] = {"description": "Done.", "content": content}
    if route.headers:
        good["headers"] = {name: {"required": True, "schema": {"type": "string"}} for name in route.headers}
    answers: dict[str, Any] = {"200": good}
    for status in sorted({*route.errors, *(_CLOSED if closed else ())}):
        bad: dict[str, Any] = {"description": HTTPStatus(status).phrase, "content": _as_json(schemas[Error])}
        if status in _LATER:
            bad["headers"] = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}}
        answers[str(status)] = bad
    operation["responses"] = answers
    if isinstance(route.body, dict):
        operation["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": route.body}}}
    elif route.body is not None:
        needed = type(None) not in get_args(route.body)
        operation["requestBody"] = {"required": needed, "content": _as_json(schemas[route.body])}


def _as_json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}

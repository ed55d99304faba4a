"""docs/api_reference.md: every route of the server, from the document that it publishes and the table of rights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from batchsched.server.app import create_app
from batchsched.server.openapi import document
from batchsched.server.rules import RULES
from batchsched.server.runtime import Runtime
from batchsched.settings import load
from batchsched.wire import PREFIX

HEADINGS = {
    "files": "Files",
    "batches": "Batches",
    "models": "Models",
    "report": "Reports",
    "plan": "The plan",
    "pools": "Pools",
    "windows": "Windows",
    "schedules": "Recurring jobs",
    "profiles": "Profiles",
    "forecasts": "Forecasts",
    "keys": "Keys",
    "audit": "The audit log",
    "": "Health and metrics",
    "workers": "What workers and launchers say",
}
"""By the first word of a path, in the order of the page."""
OF_WORKERS = frozenset({"leases", "chunks", "launchers", "trials"})
NEWLINE = "\n"
WORDS = {
    "string": "text",
    "boolean": "true or false",
    "integer": "integer",
    "number": "number",
    "null": "null",
    "object": "object",
}


def published() -> dict[str, Any]:
    """What a server answers at /openapi.json; of one that serves nobody, on a folder that is gone afterwards."""
    with TemporaryDirectory() as folder:
        config = Path(folder) / "batchsched.toml"
        config.touch()
        runtime = Runtime(load(config, env={}, flags={"server.data_dir": folder}))
        try:
            return document(create_app(runtime))
        finally:
            runtime.database.close()


def page(note: str) -> str:
    """The page."""
    whole = published()
    found: dict[str, list[str]] = {subject: [] for subject in HEADINGS}
    for key, rule in RULES.items():
        method, path = key.split(" ")
        operation = whole["paths"].get(re.sub(r":\w+}", "}", path), {}).get(method.lower())
        if operation:  # the document itself is not in it
            found[_subject(path)].append(_route(key, operation, rule.scope))
    routes = "\n".join(f"## {heading}\n\n{NEWLINE.join(found[subject])}" for subject, heading in HEADINGS.items())
    return f"""# The HTTP API: reference

{note}
Every route, as `GET /openapi.json` describes it ([the API](api.md)). A server that has keys asks for `Authorization: Bearer KEY`,
and the key for the right that is named ([keys](security.md)). Errors have one form, `Error`; with 429, 503 and 507 comes
`Retry-After`.

{routes}
## Objects

Times are RFC 3339 in UTC, but for those that are said to be Unix seconds. What is not known is null. Fields may be added; none is
taken away or changes its meaning within a minor version.

{NEWLINE.join(_object(name, schema) for name, schema in sorted(whole["components"]["schemas"].items()))}"""


def _subject(path: str) -> str:
    """The first word behind the prefix."""
    word = path.removeprefix(PREFIX).removeprefix("/v1").split("/")[1]
    return "" if not path.startswith("/v1/") else "workers" if word in OF_WORKERS else word


def _route(key: str, operation: dict[str, Any], scope: str | None) -> str:
    lines = [f"### `{key}`", "", _plain(operation.get("description") or operation["summary"]), ""]
    lines.append(f"- Right: `{scope}`" if scope else "- Open to everybody")
    for where in ("query", "header"):
        named = [_parameter(one) for one in operation.get("parameters", ()) if one["in"] == where]
        lines += [f"- {where.capitalize()}: {', '.join(named)}"] if named else []
    if body := operation.get("requestBody"):
        lines.append(f"- Body{'' if body.get('required') else ' (may be left out)'}: {_content(body['content'])}")
    bad = [status for status in operation["responses"] if status != "200"]
    good = operation["responses"]["200"]
    heads = f", with {', '.join(f'`{name}`' for name in good['headers'])}" if "headers" in good else ""
    lines.append(f"- Answers: {_content(good['content'])}{heads}{'; else ' if bad else ''}{', '.join(bad)}")
    return "\n".join(lines) + "\n"


def _parameter(one: dict[str, Any]) -> str:
    needed = ", required" if one.get("required") else ""
    standard = one["schema"].get("default")
    default = f", else `{standard}`" if standard not in (None, "") else ""
    return f"`{one['name']}` ({_kind(one['schema']).removesuffix(' or null')}{needed}{default})"


def _content(content: dict[str, Any]) -> str:
    return " or ".join(_form(media, about["schema"]) for media, about in content.items())


def _form(media: str, schema: dict[str, Any]) -> str:
    if media == "application/json":
        return _kind(schema)
    fields = ", ".join(f"`{name}`" for name in schema.get("properties", ()))
    return f"`{media}`" + (f" with {fields}" if fields else "")


def _object(name: str, schema: dict[str, Any]) -> str:
    rows = [f"| {' | '.join(row)} |" for row in _fields(schema)]
    table = ["| field | type | |", "| --- | --- | --- |", *rows] if rows else [_kind(schema)]
    return "\n".join([f"### {name}", "", _plain(schema.get("description", "")), "", *table]).replace("\n\n\n", "\n\n") + "\n"


def _fields(schema: dict[str, Any]) -> Iterator[list[str]]:
    needed = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        said = [] if name in needed else ["may be left out"]
        said += [_plain(field["description"])] if field.get("description") else []
        yield [f"`{name}`", _kind(field), "; ".join(said)]


def _kind(schema: dict[str, Any]) -> str:
    """A type in words."""
    if several := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return " or ".join(dict.fromkeys(_kind(one) for one in several))
    if "$ref" in schema or "const" in schema or "enum" in schema:
        named = schema.get("enum") or [str(schema.get("$ref", schema.get("const"))).rpartition("/")[2]]
        return " or ".join(f"`{value}`" for value in named)
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items') or {})}"
    if isinstance(more := schema.get("additionalProperties"), dict):
        return f"object of {_kind(more)}"
    return (WORDS.get(str(schema.get("type")), "anything") if schema.get("format") != "date-time" else "time") + _limits(schema)


def _limits(schema: dict[str, Any]) -> str:
    names = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<", "maxLength": "at most"}
    return "".join(f", {sign} {schema[name]}" for name, sign in names.items() if name in schema)


def _plain(text: str) -> str:
    """A docstring as one paragraph of a table or a page."""
    return " ".join(text.split()).replace("|", "\\|")

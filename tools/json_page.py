"""docs/json.md and docs/json.schema.json: what `--json` prints, from the table and the types in batchsched/cli/printed.py."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from batchsched.cli.printed import PRINTED, Printed, type_of


def kinds() -> dict[str, Any]:
    """Every type that is printed, by the name of its schema."""
    return {schema_name(one): type_of(one) for each in PRINTED.values() for one in each if one.kind}


def schema_name(printed: Printed) -> str:
    """Types of the library and of the server may share a name; the schema tells them apart by where they are."""
    module, _, name = printed.kind.partition(":")
    return f"{module}.{name}"


def schemas() -> dict[str, Any]:
    """One JSON Schema document: `commands` says which of `$defs` each prints."""
    found, defs = kinds(), dict[str, Any]()
    for name, kind in found.items():
        (top,), parts = msgspec.json.schema_components([kind], ref_template=f"#/$defs/{name}.{{name}}")
        defs |= {f"{name}.{part}": schema for part, schema in parts.items()}
        defs[name] = top
    said = {
        command: [
            {"schema": f"#/$defs/{schema_name(one)}" if one.kind else None, "lines": one.many, "when": one.when} for one in each
        ]
        for command, each in PRINTED.items()
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "commands": said, "$defs": defs}


def schema_text() -> str:
    """The document as a file."""
    return json.dumps(schemas(), indent=1, sort_keys=True) + "\n"


def page(note: str) -> str:
    """The page for people."""
    document = schemas()
    rows = ["| command | prints | fields |", "| --- | --- | --- |"]
    for command, each in PRINTED.items():
        for one in each:
            much = "lines of objects" if one.many else "one object"
            fields = ", ".join(f"`{field}`" for field in fields_of(document, schema_name(one))) if one.kind else ""
            when = f"{one.when}: " if one.when and one.kind else ""
            rows.append(f"| `{command}` | {when}{much if one.kind else one.when} | {fields} |")
    table = "\n".join(row.replace("|| ", "| ") for row in rows)
    return f"""# What `--json` prints

{note}
Nothing else is on stdout. Either one object, or one object a line. Times are RFC 3339 in UTC, but for the fields that OpenAI's
objects have, which are Unix seconds; what is not known is `null`. Fields may be added; none is taken away or changes its meaning
within a major version.

[json.schema.json](json.schema.json) holds the JSON Schema of each: `commands` names, for each command, the `$defs` that it
prints, whether it is lines, and with which option. A test runs the commands and holds what they print against it.

{table}
"""


def fields_of(document: dict[str, Any], name: str) -> list[str]:
    """Names of the fields of a schema."""
    schema = document["$defs"][name]
    while "$ref" in schema:
        schema = document["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    return list(schema.get("properties", ()))

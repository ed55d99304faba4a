"""The reference page of the SDK, from its source: signatures as they are written, and the docstrings."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

from batchsched import client, testing
from batchsched.client import (
    blocking,
    calls,
    forecasting,
    forecasts,
    loops,
    operating,
    plans,
    profiles,
    recurring,
    results,
    schedules,
    windowing,
    windows,
)

PARTS: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    (
        "The client",
        "`AsyncClient` has the same, with await, and gives `AsyncRun`, `AsyncMapped` and `AsyncResults`, for `async for`.",
        (blocking.Client, blocking.Files, blocking.Batches, blocking.Models),
    ),
    ("", "", (forecasting.Forecasts, operating.Plans, operating.Pools, windowing.Windows, recurring.Schedules)),
    ("", "", (calls.BatchOptions, calls.Changes, windows.WindowOptions, schedules.ScheduleOptions)),
    ("What it gives", "", (client.Run, client.Mapped, client.Results, loops.BatchFunction)),
    (
        "Results",
        "Frozen. Fields that a newer server adds are ignored; None where something is not known.",
        (
            client.Answer,
            client.Failure,
            client.OutputLine,
            client.File,
            client.Model,
            client.Batch,
            client.Scheduling,
            client.Progress,
        ),
    ),
    (
        "",
        "",
        (
            client.Explanation,
            client.Verdict,
            client.Risk,
            client.Option,
            client.Carbon,
            client.BatchError,
            client.Report,
            results.Row,
        ),
    ),
    ("", "", (results.Slice, results.RequestShare, results.PoolEnergy, results.Books, client.Plan, plans.PoolStatus)),
    (
        "",
        "",
        (
            plans.WhatIf,
            plans.Replayed,
            client.Forecast,
            client.ForecastFeed,
            forecasts.Skill,
            profiles.Profiles,
            client.Window,
            client.Opening,
            client.Schedule,
            client.Release,
        ),
    ),
    ("For tests", "", (testing.FakeServer, testing.Asked, testing.Refusal)),
)


def page() -> str:
    """The page, without its title."""
    out = ["The guide is [sdk.md](sdk.md). `batchsched` itself has: " + _names() + ".", ""]
    for heading, text, kinds in PARTS:
        if heading:
            out += [f"## {heading}", ""]
        if text:
            out += [text, ""]
        for kind in kinds:
            out += [*_section(kind), ""]
        if heading == "What it gives":
            out += ["### batch", "", _signed(_parsed(loops.batch)), ""]
    return "\n".join(out).rstrip() + "\n"


def _names() -> str:
    import batchsched

    return ", ".join(f"`{name}`" for name in batchsched.__all__)


def _section(kind: type[Any]) -> Iterator[str]:
    yield f"### {kind.__name__}"
    yield ""
    yield _prose(inspect.getdoc(kind))
    yield ""
    for base in [*reversed(kind.__mro__[:-1])]:
        if base.__module__.startswith("batchsched."):
            for node in _parsed(base).body:
                yield from _member(node)


def _member(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and not node.target.id.startswith("_"):
        default = f" = {ast.unparse(node.value)}" if node.value else ""
        yield f"- `{node.target.id}: {ast.unparse(node.annotation)}{default}`"
    if isinstance(node, ast.FunctionDef) and (_makes(node) or not node.name.startswith("_")):
        marks = {ast.unparse(mark) for mark in node.decorator_list}
        if marks & {"property", "cached_property"}:
            yield f"- `{node.name}: {_type(node.returns)}`: {_prose(ast.get_docstring(node), whole=False)}"
        elif "overload" not in marks:
            yield f"- {_signed(node)}"


def _makes(node: ast.FunctionDef) -> bool:
    """Is it for users to make one? What a client makes of itself is not."""
    return node.name == "__init__" and bool(node.args.kwonlyargs)


def _signed(node: Any) -> str:
    """A function as it is called, and what it does."""
    arguments = node.args
    arguments.args = [argument for argument in arguments.args if argument.arg != "self"]
    name = node.name if node.name != "__init__" else "made by"
    said = f"`{name}({ast.unparse(arguments)})" + (f" -> {_type(node.returns)}`" if node.name != "__init__" else "`")
    text = _prose(ast.get_docstring(node), whole=False)
    return f"{said}: {text}" if text else said


def _type(node: ast.expr | None) -> str:
    return ast.unparse(node) if node else "None"


def _parsed(thing: Any) -> Any:
    return ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]


def _prose(text: str | None, *, whole: bool = True) -> str:
    """A docstring as paragraphs, or as one."""
    paragraphs = [" ".join(part.split()) for part in (text or "").split("\n\n")]
    return ("\n\n" if whole else " ").join(paragraphs)

"""The pages of the documentation as the tests read them: links, anchors, blocks of code, commands that they name."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import click
from markdown_it import MarkdownIt
from markdown_it.token import Token

from batchsched.cli.main import cli
from tools.make_docs import top

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
_READER = MarkdownIt("commonmark").enable("table")
_COMMAND = re.compile(r"(?:^|&& |\$ |\| )(?:\S*/)?batchsched (?P<rest>.*?)(?:\s{2,}.*|\s+#\s.*|\s*&|\s*[|>].*)?$")


class Block(NamedTuple):
    """A block of code: its language (`""`: none is named) and its text."""

    line: int
    language: str
    text: str


@cache
def read(page: Path) -> list[Token]:
    """A page's Markdown."""
    return _READER.parse(page.read_text("utf-8"))


def blocks(page: Path, *languages: str) -> list[Block]:
    """The page's blocks of code in these languages; in all where none is named."""
    fences = [token for token in read(page) if token.type == "fence"]
    found = [Block((token.map or [0])[0] + 1, token.info.strip().partition(" ")[0], token.content) for token in fences]
    return [block for block in found if not languages or block.language in languages]


def links(page: Path) -> Iterator[str]:
    """Where its links and pictures lead."""
    for token in read(page):
        for part in token.children or ():
            target = (
                part.attrs.get("href") if part.type == "link_open" else part.attrs.get("src") if part.type == "image" else None
            )
            if target:
                yield str(target)


def anchors(page: Path) -> set[str]:
    """The anchors of its headings, made as forges make them."""
    seen: dict[str, int] = {}
    found = set[str]()
    tokens = read(page)
    for opened, inline in pairwise(tokens):
        if opened.type == "heading_open":
            text = "".join(part.content for part in inline.children or ())
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if slug in seen else slug)
            seen[slug] = seen.get(slug, 0) + 1
    return found


def code_spans(page: Path) -> Iterator[str]:
    """What stands between backquotes in its text."""
    for token in read(page):
        yield from (part.content for part in token.children or () if part.type == "code_inline")


def commands(text: str) -> Iterator[str]:
    """The commands of ours in shell lines, without `batchsched` itself; lines that a backslash continues are one."""
    for line in text.replace("\\\n", " ").splitlines():
        if found := _COMMAND.search(line.strip()):
            yield found["rest"]


def complaint(line: str) -> str | None:
    """What the command line of ours would refuse of such a command, values of files and of places aside; None: nothing."""
    words = shlex.split(line)
    command: click.Command = cli
    context = top()
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        if found is None:
            return None if command.invoke_without_command else f"there is no command {words[0]!r}"
        command, context = found, click.Context(found, info_name=words.pop(0), parent=context)
    try:
        given, rest, _ = command.make_parser(context).parse_args(words)
        for parameter in command.params:
            value = given.get(parameter.name or "")
            if isinstance(parameter, click.Argument) and parameter.nargs == 1 and value is None and parameter.required:
                return f"{parameter.name} is missing"
            if isinstance(parameter, click.Option) and parameter.required and not value:
                return f"{parameter.opts[0]} is missing"
            convert: Any = parameter.type.convert
            if isinstance(value, str) and isinstance(parameter.type, click.Choice | click.types.IntParamType):
                convert(value, parameter, context)
    except click.UsageError as problem:
        return problem.format_message()
    return f"it takes no {rest[0]!r}" if rest and not isinstance(command, click.Group) else None


def not_shown(expected: str, output: str) -> str | None:
    """The first line of a block of output that is not in what was really printed, in that order; None: all are.

    `...` stands for anything, a number for any number, a mass of grams for any of its units, an id of a batch for any.
    """
    lines = iter(output.splitlines())
    for line in expected.splitlines():
        pattern = re.compile(".*".join(_like(part.strip()) for part in line.split("...")).replace(r"\ ", r"\s+") + r"\s*$")
        if line.strip(". ") and not any(pattern.match(printed.strip()) for printed in lines):
            return line
    return None


def _like(text: str) -> str:
    text = re.sub(r"batch_[0-9a-f]+", "\0id", text)
    text = re.sub(r"\d[\d,]*(?:\.\d+)? (?:[µmk]g|g)\b", "\0grams", text)
    text = re.escape(re.sub(r"(?<![A-Za-z\d])\d[\d,]*(?:\.\d+)?", "\0number", text))
    for name, like in (("id", r"batch_\w+"), ("grams", r"[\d.,e-]+ [µmk]?g"), ("number", r"[\d.,]+")):
        text = text.replace(re.escape("\0") + name, like)
    return text

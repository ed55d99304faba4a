"""The documentation: links lead somewhere, blocks of code are what the product takes, and the site builds without a warning."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from base64 import b64encode
from pathlib import Path

import click
import pytest

from batchsched import settings
from batchsched.catalogue import merged
from batchsched.cli.main import cli
from tests.pages import PAGES, ROOT, anchors, blocks, code_spans, commands, complaint, links, not_shown

NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
MAKEFILE = (ROOT / "Makefile").read_text()
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
SHELL = ("", "sh", "console", "bash")
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=NAMES)


@EVERY_PAGE
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: there is no {target}"
        assert not anchor or anchor in anchors(target), f"{link}: the page has no such heading"


@EVERY_PAGE
def test_commands_exist_with_their_options(page: Path) -> None:
    lines = [line for block in blocks(page, *SHELL) for line in commands(block.text)]
    if page.name not in {"cli.md", "sdk_reference.md"}:
        wrong = {line: said for line in lines if (said := complaint(line))}
        assert not wrong


@EVERY_PAGE
def test_commands_in_the_text_exist_with_their_options(page: Path) -> None:
    """`batchsched ...` between backquotes: the command, and every option by its name; arguments are often left out there."""
    wrong = []
    for span in code_spans(page):
        words = span.split()
        if words[:1] == ["batchsched"] and len(words) > 1 and re.fullmatch(r"[a-z][a-z-]*", words[1]):
            wrong += [span] if not known(words[1:]) else []
    assert not wrong


def known(words: list[str]) -> bool:
    """Whether the words begin with a command of ours, and name no option that it has not."""
    command: click.Command = cli
    while isinstance(command, click.Group) and words and re.fullmatch(r"[a-z][a-z-]*", words[0]):
        found = command.get_command(click.Context(command), words[0])
        if found is None:
            return command.invoke_without_command
        command, words = found, words[1:]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    return all(re.match(r"--[\w-]+", word)[0] in options for word in words if word.startswith("--"))  # type: ignore[index]


@EVERY_PAGE
def test_make_targets_and_extras_exist(page: Path) -> None:
    shell = "\n".join(block.text for block in blocks(page, *SHELL))
    spans = "\n".join(code_spans(page))
    for targets in re.findall(r"^make ((?:[a-z][a-z-]*\b(?!=) ?)+)", f"{shell}\n{spans}", re.MULTILINE):
        for word in targets.split():
            assert f"\n{word}:" in MAKEFILE, f"make {word}"
    for extras in re.findall(r"(?:batchsched|\.)\[([a-z0-9,]+)\]", f"{shell}\n{spans}"):
        assert set(extras.split(",")) <= EXTRAS


@EVERY_PAGE
def test_python_blocks_compile(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block.text, f"{page.name}:{block.line}", "exec")


@EVERY_PAGE
def test_json_blocks_are_json(page: Path) -> None:
    for block in blocks(page, "json"):
        text = block.text if block.text.lstrip().startswith(("{", "[")) else f"{{{block.text}}}"
        json.loads(text)


@EVERY_PAGE
def test_toml_blocks_are_configurations(page: Path, tmp_path: Path) -> None:
    """What a block leaves out is filled in: the sites, pools and models that it names, and files."""
    for block in blocks(page, "toml"):
        file = tmp_path / "block.toml"
        if "[gpus." in block.text:
            file.write_text(block.text)
            assert merged(file).gpus
            continue
        file.write_text(whole(block.text))
        settings.load(file, env={})


def whole(text: str) -> str:
    """A fragment of a configuration with what it takes for granted."""
    tree = tomllib.loads(text)
    pools, sites = tree.get("pools", {}), tree.get("sites", {})
    for name in (name for name, pool in pools.items() if "site" not in pool):
        text = re.sub(rf"^\[pools\.{name}\]$", f'[pools.{name}]\nsite = "home"', text, flags=re.MULTILINE)
    lines = []
    named = {
        "home",
        *(pool["site"] for pool in pools.values() if "site" in pool),
        tree.get("carbon", {}).get("home_site", "home"),
    }
    lines += [f'[sites.{site}]\nzone = "DE"' for site in sorted(named - set(sites))]
    opened = {window["pool"] for window in tree.get("windows", {}).values()}
    lines += [f'[pools.{pool}]\nsite = "home"' for pool in sorted(opened - set(pools))]
    served = {model for pool in pools.values() for model in pool.get("models", [])}
    lines += [f"[models.{model}]" for model in sorted(served - set(tree.get("models", {})))]
    known = {"own", *tree.get("forecast", {}).get("sources", {})}
    asked = set(tree.get("forecast", {}).get("order", []))
    lines += [f'[forecast.sources.{source}]\nkind = "file"\npath = "x.csv"' for source in sorted(asked - known)]
    return "\n".join([text.replace("whsec_...", f"whsec_{b64encode(bytes(24)).decode()}"), *lines])


def test_what_is_shown_is_compared_line_by_line() -> None:
    assert not_shown("a ... 5 mg CO2e\n...\nend batch_12af", "a  1 2.5 g CO2e\nbetween\nend batch_99ff\n") is None
    assert not_shown("first\nsecond", "second\nfirst\n") == "second"


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_asks_no_network(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-d",
        tmp_path / "trees",
        ROOT / "docs",
        tmp_path / "site",
    ]
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    built = {path.relative_to(tmp_path / "site").with_suffix("").as_posix() for path in (tmp_path / "site").rglob("*.html")}
    assert {path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in (ROOT / "docs").rglob("*.md")} <= built
    for path in (tmp_path / "site").rglob("*.html"):
        fetched = re.findall(r'<(?:script|img|link)\b[^>]*(?:src|href)="(?:https?:)?//[^"]*"', path.read_text())
        assert not [tag for tag in fetched if 'rel="canonical"' not in tag], path.name
    for path in (tmp_path / "site").rglob("*.css"):
        assert not re.findall(r"@import|url\([\"']?(?:https?:)?//", path.read_text()), path.name

"""Environments are made where they belong, and nowhere else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools.make_env import make


def refused(python: Path) -> None:
    raise AssertionError(f"{python} was to be filled")


def test_an_environment_that_is_a_link_is_another_checkouts_and_left_alone(tmp_path: Path) -> None:
    theirs, link = tmp_path / "theirs", tmp_path / "link"
    theirs.mkdir()
    (theirs / ".ready").write_text("their key")
    link.symlink_to(theirs)
    with pytest.raises(SystemExit, match=f"is a link to {theirs}"):
        make(link, sys.executable, "our key", refused, pip=False)
    assert (link.is_symlink(), [file.name for file in theirs.iterdir()]) == (True, [".ready"])
    assert (theirs / ".ready").read_text() == "their key"
    make(link, sys.executable, "their key", refused, pip=False)  # a current one may be a link: nothing is done to it

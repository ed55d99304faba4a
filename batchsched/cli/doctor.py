"""`batchsched doctor`: is this machine and its set-up sound?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchsched.cli import exits
from batchsched.cli.common import config_option, json_option, load_checked, print_json, print_table
from batchsched.cli.printed import Examined, Finding
from batchsched.errors import BatchschedError

if TYPE_CHECKING:
    from batchsched.settings import Loaded

Check = Callable[["Loaded"], Iterator[Finding]]
MEND = "Mend what it says, and run `batchsched doctor` again."


@click.command()
@click.option("--server", metavar="URL", help="The server to look for [default: from the configuration].")
@click.option("--recipe", metavar="NAME", help="Hold the engine against this recipe [default: that of the GPU found here].")
@click.option("--quick", is_flag=True, help="Do not load the engine's packages by way of trial, which takes some seconds.")
@config_option
@json_option
def doctor(*, server: str | None, recipe: str | None, quick: bool, config: Path | None, as_json: bool) -> int:
    """Check this machine and its set-up, and say what to do about what is wrong.

    Exits 1 where something is broken; warnings do not count.
    """
    from batchsched.cli.doctor_machine import clock, python

    findings = [python(), *clock()]
    try:
        loaded = load_checked(config, worker__server_url=server)
    except BatchschedError as problem:
        mend = problem.hint or "Correct it; docs/configuration.md lists every key, and `batchsched init -` prints a sound file."
        findings.append(Finding("configuration", "broken", problem.message, mend))
    else:
        findings.append(Finding("configuration", "ok", str(loaded.path or "no file; defaults and the environment")))
        findings += [one for name, check in _checks(recipe or "", quick=quick) for one in guarded(check, loaded, name)]
    broken = any(finding.level == "broken" for finding in findings)
    if as_json:
        print_json(Examined(not broken, tuple(findings)))
    else:
        print_table(("check", "", "finding", "what to do"), [(f.check, f.level, f.text, f.next_step) for f in findings])
    return exits.FAILURE if broken else exits.OK


def _checks(recipe: str, *, quick: bool) -> tuple[tuple[str, Check], ...]:
    """Every check that needs the configuration, with what it is called where it cannot even be made."""
    from batchsched.cli import doctor_database, doctor_engine, doctor_forecast, doctor_machine, doctor_server

    return (
        ("database", doctor_database.database),
        ("extras", doctor_machine.extras),
        ("engine", partial(doctor_engine.engine, quick=quick)),
        ("recipe", partial(doctor_engine.recipe, wanted=recipe)),
        ("caps", doctor_engine.caps),
        ("launches", doctor_engine.launches),
        ("forecast", doctor_forecast.forecast),
        ("data folder", doctor_machine.data_folder),
        ("inputs", doctor_machine.inputs),
        ("store", doctor_machine.store),
        ("bind", doctor_server.bind),
        ("server", doctor_server.server),
    )


def guarded(check: Check, loaded: Loaded, name: str) -> list[Finding]:
    """A check that fails in a way of its own is a finding, not the end of the examination."""
    found: list[Finding] = []
    try:
        found.extend(check(loaded))
    except BatchschedError as problem:
        found.append(Finding(name, "broken", problem.message, problem.hint or MEND))
    except ImportError as problem:
        found.append(Finding(name, "broken", str(problem), "pip install 'batchsched[all]'"))
    except OSError as problem:
        found.append(Finding(name, "broken", str(problem), MEND))
    return found

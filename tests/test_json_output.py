"""What `--json` prints is what docs/json.md and its schemas say: each command is run, and its output held against them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from batchsched.cli.main import cli, main
from batchsched.cli.printed import PRINTED
from batchsched.wire import PREFIX
from tests.live import BASIC, LiveServer, live_server, requests, wait_for
from tests.test_simulate_compare import written
from tools.json_page import schema_name, schemas
from tools.make_docs import commands, top

DOCUMENT = schemas()
ELSEWHERE = {
    "run": "tests/test_run.py runs it with an engine; tests/test_dry_run.py tries it",
    "profile run": "it needs an engine to itself: tests/test_profile_run.py",
}
"""Commands that are not run here, each with where they are."""


MEASURED = "zone,start,end,realised\nNL,2026-05-01T06:00:00Z,2026-05-01T07:00:00Z,100\n"


class Place:
    """A server with something of everything."""

    def __init__(self, server: LiveServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.file = folder / "in.jsonl"
        self.file.write_bytes(requests(3))
        self.grid = folder / "grid.csv"
        self.grid.write_text("zone,start,end,realised\nDE,2026-05-01T06:00:00Z,2026-05-01T07:00:00Z,100\n")
        self.done = server.submit(requests(2))["id"]
        server.worker().drain(self.done)
        server.until(self.done, "completed")
        self.open = server.until(server.submit(requests(2))["id"], "in_progress")["id"]
        self.other = server.until(server.submit(requests(2))["id"], "in_progress")["id"]
        self.key = server.post(f"{PREFIX}/keys", {"scopes": ["read"]})["id"]
        self.runs = [str(written(folder / name, moved=name == "two")) for name in ("one", "two")]
        wait_for(lambda: server.get(f"{PREFIX}/plan")["made_at"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("json")
    (folder / "station.csv").write_text(MEASURED)
    settings = f'{BASIC}[forecast.sources.station]\nkind = "file"\npath = "{folder}/station.csv"\n'
    with live_server(folder, settings, server__inputs_dir=str(folder), server__api_key="static") as server:
        server.http.headers["authorization"] = "Bearer static"
        yield Place(server, folder)


def calls(place: Place) -> dict[str, list[list[str]]]:
    """How each command is run: with what options, by the order of its kinds."""
    window = ["w", "--pool", "local", "--cron", "0 22 * * *", "--duration", "8h"]
    schedule = ["s", "--cron", "0 20 * * *", "--file", "in.jsonl", "--deadline", "2h"]
    changed = {verb: [["w"]] for verb in ("window pause", "window resume", "window skip", "window remove")}
    return {
        "doctor": [["--quick"]],
        "validate": [[str(place.file)]],
        "config show": [[], ["--origin"]],
        "top": [[]],
        "submit": [[str(place.file), "--deadline", "6h"], [str(place.file), "--deadline", "6h", "--dry-run"]],
        "list": [[]],
        "show": [[place.done]],
        "wait": [[place.done]],
        "results": [[place.done], [place.done, "--out", str(place.folder / "got")]],
        "explain": [[place.open]],
        "report": [
            [place.done], ["--by", "batch"], [place.done, "--by", "request"], [place.done, "--books"], ["--meters"],
        ],
        "pause": [[place.open]], "resume": [[place.open]], "start": [[place.open]],
        "update": [[place.open, "--priority", "3"]],
        "cancel": [[place.other]],
        "retry": [[place.other]],
        "plan show": [[]], "plan what-if": [["--pool", "local=+1"]], "plan replay": [[]],
        "plan freeze": [["--until", "1h"]], "plan unfreeze": [[]],
        "window add": [window], "window list": [[]], "window show": [["w"]], "window extend": [["w", "--by", "1h"]], **changed,
        "schedule add": [schedule], "schedule list": [[]], "schedule history": [["s"]],
        **{f"schedule {verb}": [["s"]] for verb in ("show", "pause", "resume", "remove")},
        "pool list": [[]], **{f"pool {verb}": [["local"]] for verb in ("cordon", "drain", "open")},
        "profile show": [[]], "profile compare": [["tiny"]],
        "forecast show": [["WORLD"]], "forecast zones": [[]], "forecast import": [[str(place.grid), "--provider", "mine"]],
        "forecast evaluate": [[]], "forecast backfill": [["NL", "--from", "2026-05-01", "--to", "2026-05-02"]],
        "forecast train": [["NL"]],
        "carbon hardware": [["T4"], []], "carbon compare": [["T4", "A100-40"]], "carbon crossover": [["T4"]],
        "carbon what-if": [["T4", "--stored", "5"], ["T4", "--preset", "greenllm"]],
        "carbon reproduce greenllm": [[]], "carbon reproduce ecoserve": [[]],
        "simulate": [["--quick", "--days", "1", "--policy", "greedy", "--zones", "DE"]], "simulate compare": [place.runs],
        "audit": [[]],
        "key create": [["--scope", "read"]], "key list": [[]], "key revoke": [[place.key]],
    }  # fmt: skip


def test_every_command_that_prints_json_has_a_schema() -> None:
    able = {
        path.removeprefix("batchsched ")
        for path, one, _ in commands(cli, top())
        if any("--json" in parameter.opts for parameter in one.params)
    }
    assert able == set(PRINTED)
    assert not set(ELSEWHERE) - able


def validator(name: str) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": closed(DOCUMENT["$defs"])})


def closed(schema: Any) -> Any:
    """The same, but that no field may be there which it does not name: what is printed is told, all of it."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: closed(one) for name, one in schema.items()}
    return {**inner, "additionalProperties": False} if schema.get("type") == "object" and "properties" in schema else inner


@pytest.mark.slow
def test_what_every_command_prints_is_what_its_schema_says(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHSCHED_SERVER_API_KEY", "static")
    monkeypatch.setenv("BATCHSCHED_WORKER_SERVER_URL", place.server.url)
    monkeypatch.chdir(place.folder)
    asked = calls(place)
    assert set(asked) == set(PRINTED) - set(ELSEWHERE)
    wrong: list[str] = []
    for command, ways in asked.items():
        if command == "retry":
            place.server.until(place.other, "cancelled")
        for options, printed in zip(ways, PRINTED[command], strict=False):
            with pytest.raises(SystemExit) as stop:
                main([*command.split(), *options, "--json"])
            said = capsys.readouterr()
            assert stop.value.code in ({0, 1} if command == "doctor" else {0}), (command, options, said.err)
            lines: list[Any] = [json.loads(line) for line in said.out.splitlines()]
            assert printed.many or len(lines) == 1, (command, said.out)
            if printed.kind:
                for line in lines:
                    found = validator(schema_name(printed)).iter_errors(line)
                    wrong += [f"{command} {options}: {one.instance_path}: {one.message[:200]}" for one in found]
    assert wrong == []

"""The public surface of the SDK: all of it is documented, typed for both checkers, and shows itself in a notebook."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import types
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

import batchsched
from batchsched import AsyncClient, Client, Plan, testing
from batchsched.client import Batch, Report, showing
from batchsched.client.results import BatchError, BatchErrors, Progress, RequestCounts, Scheduling
from batchsched.client.verdicts import Risk, Verdict
from batchsched.testing import FakeServer
from tests.live import LiveServer, live_server, requests, wait_for

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def test_every_public_name_is_documented() -> None:
    text = (DOCS / "sdk.md").read_text() + (DOCS / "sdk_reference.md").read_text()
    for name in {*batchsched.__all__, *batchsched.client.__all__, *testing.__all__}:
        assert re.search(rf"\b{name}\b", text), name
    assert set(dir(batchsched)) >= set(batchsched.__all__)
    assert (ROOT / "batchsched" / "py.typed").exists()


def test_every_public_name_has_a_type_that_is_tested() -> None:
    text = (ROOT / "tests" / "typed_surface.py").read_text()
    for name in {*batchsched.__all__, *batchsched.client.__all__, *testing.__all__} - {"__version__"}:
        assert len(re.findall(rf"\b{name}\b", text)) > 1, name  # imported, and used


@pytest.mark.slow
@pytest.mark.parametrize("checker", [["mypy", "--follow-imports=silent"], ["basedpyright"]], ids=["mypy", "basedpyright"])
def test_the_types_that_users_get(checker: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *checker, "tests/typed_surface.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_guides_code_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "sdk.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    (tmp_path / "one.md").write_text("first")
    names: dict[str, Any] = {"paths": [tmp_path / "one.md"]}
    with FakeServer() as server:
        monkeypatch.setenv("BATCHSCHED_WORKER_SERVER_URL", server.url)
        for block in blocks:
            exec(compile(block, "docs/sdk.md", "exec"), names)
        names["test_my_summaries"]()
    said = capsys.readouterr().out
    assert "0 Why is the sky blue?\n1 Why do cats purr?\n" in said
    assert "one.md: Summarise in one sentence: first\n" in said


NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
EVIL = "<script>alert(1)</script>"


def _batch(**fields: Any) -> Batch:
    return Batch("batch_1", "/v1/chat/completions", "file-1", "24h", fields.pop("status", "in_progress"), 0, **fields)


def test_a_batch_shows_itself() -> None:
    verdict = Verdict(True, 0.97, NOON)
    progress = Progress(3, 10, tokens_per_s=1234.0, waiting_for="cleaner hours", waiting_until=NOON, expected_finish_at=NOON)
    risk = Risk(NOON, 0.5, reason="a pool is away")
    batch = _batch(batchsched=Scheduling(NOON, verdict=verdict, progress=progress, risk=risk), model="tiny")
    html = batch._repr_html_()
    for told in (
        "batch_1: in_progress", '<progress value="3" max="10"', "3 of 10", "tiny", "cleaner hours, until 2026-05-01 12:00 UTC",
        "feasible, probability 97%", "a pool is away", "expected to finish 2026-05-01 12:00 UTC",
    ):  # fmt: skip
        assert told in html, told
    assert showing.line(batch) == (
        "in_progress: 3 of 10 requests, 1,234 tokens/s, waiting for cleaner hours, until 2026-05-01 12:00 UTC"
    )


def test_nothing_that_a_server_says_becomes_markup() -> None:
    errors = BatchErrors((BatchError("x", EVIL, None, 1),))
    batch = _batch(errors=errors, model=EVIL, status="failed", request_counts=RequestCounts(1, 0, 1))
    plan = msgspec.structs.replace(Plan(), notes=(EVIL,), late={EVIL: 1.0}, solver=EVIL)
    report = msgspec.structs.replace(Report(), notes=(EVIL,), energy_j=1.0, energy_by_source={EVIL: 1.0})
    for html in (batch._repr_html_(), plan._repr_html_(), report._repr_html_()):
        assert "<script" not in html
        assert "&lt;script&gt;" in html


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with live_server(tmp_path_factory.mktemp("shown")) as live:
        yield live


def test_a_real_report_and_a_real_plan_show_themselves(server: LiveServer) -> None:
    with Client(server.url, "") as client:
        batch = server.submit(requests(3))
        server.worker().drain(batch["id"])
        shown = client.batches.report(batch["id"])._repr_html_()
        assert "<b>Report</b>" in shown
        assert "local" in shown
        assert "kWh" in shown
        plan = wait_for(lambda: next((found for found in [client.plan()] if found.made_at), None))
    html = plan._repr_html_()  # the client is closed by now, its notebook still open
    assert 'src="data:image/svg+xml;base64,' in html
    assert f"Plan {plan.id}" in html


async def test_the_asynchronous_clients_plan_has_its_picture_too(server: LiveServer) -> None:
    async with AsyncClient(server.url, "") as client:
        assert "data:image/svg+xml" in (await client.plan())._repr_html_()


def test_the_notebook_runs(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell by cell, each as a notebook shows it."""
    monkeypatch.setenv("BATCHSCHED_WORKER_SERVER_URL", server.url)
    cells = json.loads((ROOT / "examples" / "notebook.ipynb").read_text())["cells"]
    names: dict[str, Any] = {}
    shown: list[str] = []
    for cell in cells:
        if cell["cell_type"] == "code":
            *steps, last = ast.parse("".join(cell["source"])).body
            exec(compile(ast.Module(steps, []), "notebook", "exec"), names)
            assert isinstance(last, ast.Expr)
            if "wait" in ast.unparse(last):
                server.worker().drain(names["run"].id)
            value = eval(compile(ast.Expression(last.value), "notebook", "eval"), names)
            shown.append(value._repr_html_() if hasattr(value, "_repr_html_") else repr(value))
    told = ("tiny", "Batch batch_", "completed", "request-2", "<b>Report</b>", "data:image/svg+xml", "None")
    for text, html in zip(told, shown, strict=True):
        assert text in html


def test_a_plan_without_its_server_is_shown_without_its_picture() -> None:
    with Client("http://127.0.0.1:1", "") as client:
        plan = Plan(id=3).drawn_by(client.plans.plot)
        assert "Plan 3" in plan._repr_html_()
        assert "<img" not in plan._repr_html_()
    assert plan == Plan(id=3)
    assert json.loads(msgspec.json.encode(plan))["id"] == 3


class Terminal:
    """Takes what is written to a terminal."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        """As a stream does."""
        self.text += text
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        """It is one."""
        return True


def test_waiting_shows_progress_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeServer() as server, Client(server.url, "") as client:
        client.run(["a"], model="any").wait()
        assert capsys.readouterr() == ("", "")
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        client.run(["a"], model="any").wait()
        assert "completed: 1 of 1 requests" in terminal.text
        before = terminal.text
        run = client.run(["a"], model="any")
        run.wait(progress=False)
        client.batches.wait(run.id)
        assert terminal.text == before
        client.batches.wait(run.id, progress=True)
        assert "completed: 1 of 1 requests" in terminal.text.removeprefix(before)


def test_waiting_keeps_one_table_up_to_date_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what IPython offers to a kernel (it is no dependency): tried in a real kernel by hand."""
    shown: list[Batch] = []

    def display(batch: Batch, *, display_id: bool) -> Any:
        assert display_id
        shown.append(batch)
        return types.SimpleNamespace(update=shown.append)

    shell = types.SimpleNamespace(kernel=object())
    get: Callable[[], Any] = lambda: shell  # noqa: E731
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=get))
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    with FakeServer(by_hand=True) as server, Client(server.url, "") as client:
        run = client.run(["a"], model="any")
        run.wait(on_progress=lambda _: print(server.work()), poll_s=0.01)
    assert [batch.status for batch in shown] == ["in_progress", "completed"]

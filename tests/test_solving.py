"""The solver in a process of its own: whatever becomes of that, there is a verified plan that says what happened."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

import batchsched.planner.cpsat
import batchsched.solving
from batchsched.clock import ManualClock
from batchsched.planner import Plan, make_plan, solve
from batchsched.planner.cpsat import CUT_SHORT
from batchsched.planner.last import standing
from batchsched.planner.verify import violations
from batchsched.planning import Planner
from batchsched.solving import SLOWEST, Solver
from tests.live import PATIENCE_S, wait_for
from tests.planner_cases import fleet_problem, job

PROBLEM = fleet_problem(3, load=0.8)
SETTINGS = Planner(solve_s=0.2)
FOREVER = Planner(solve_s=1e6)
SOME_WORK_S = 0.2
"""The same plan on any machine, where the clock does not cut it short: that bound goes by the settings."""


HELLO = "line.sendall(bytes(8))\n"


@contextmanager
def _solver(settings: Planner = SETTINGS, code: str = "", on_ready: Callable[[], None] = lambda: None) -> Generator[Solver]:
    """With `code` a process that runs that instead; it has `line`, its end of the socket."""
    command = [sys.executable, "-c", f"import socket, sys\nline = socket.socket(fileno=int(sys.argv[-1]))\n{HELLO}{code}"]
    solver = Solver(settings, command if code else None, on_ready)
    solver.start()
    try:
        yield solver
    finally:
        solver.stop()


def test_the_process_gives_the_plan_that_would_be_made_here_and_lives_on() -> None:
    with _solver(FOREVER) as solver:
        wait_for(lambda: solver.ready, 2 * PATIENCE_S)  # the first time on a machine it compiles
        first, again = solver.plan(PROBLEM, SOME_WORK_S), solver.plan(PROBLEM, SOME_WORK_S)
        pid = solver.pid
    assert first.failure is None
    assert first.plan == again.plan == make_plan(PROBLEM, work_s=SOME_WORK_S)
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_solver_that_is_killed_at_work_costs_a_better_plan_and_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batchsched.solving, "FIRST_PAUSE_S", 0.01)
    asked = threading.Event()
    send = batchsched.solving.send

    def telling(*args: Any) -> None:
        send(*args)
        asked.set()

    monkeypatch.setattr(batchsched.solving, "send", telling)
    with _solver(FOREVER, "line.recv(1)\nimport time; time.sleep(1000)") as solver:
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(solver.plan(PROBLEM)))
        thread.start()
        assert asked.wait(PATIENCE_S)
        killed = solver.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        thread.join(PATIENCE_S)
        assert found[0].failure == "died"
        assert found[0].plan.solver == "greedy"
        assert "SIGKILL" in found[0].plan.notes[-1]
        assert violations(PROBLEM, found[0].plan) == []
        wait_for(lambda: solver.pid not in {None, killed})


MEMORY = """
import os, batchsched.solving as solving
solving.solve = lambda *_: bytearray(2**31)
solving._plan_a_fleet = lambda: None
send, told = solving.send, []
solving.send = lambda *what: send(*what) if told else told.append(what)  # hello was said already
line.detach()
sys.exit(solving.main(400, os.getppid(), int(sys.argv[-1])))
"""
ANSWER = (
    "import msgspec, batchsched.solving as s\ns.receive(line)\ns.send(line, msgspec.msgpack.encode(s.Answer({})))\nline.recv(1)"
)
UNSAFE = "s.Plan(s.solve(s.Problem([], [], [])).slots, [], late={'nobody': 1.0})"


@pytest.mark.parametrize(
    ("code", "failure", "word"),
    [
        pytest.param(MEMORY, "memory", "planner.memory_mb", marks=pytest.mark.skipif(sys.platform != "linux", reason="no limit")),
        ("import os; os.abort()", "died", "SIGABRT"),
        ("line.recv(1); line.sendall(b'x' * 64); line.recv(9)", "nonsense", "no message"),
        ("line.recv(1); line.sendall((5).to_bytes(8) + b'12345'); line.recv(9)", "nonsense", "cannot be read"),
        (ANSWER.format(UNSAFE), "unsafe", "unsafe"),
        (ANSWER.format("trouble='ValueError: bad'"), "error", "bad"),
    ],
    ids=["memory", "crash", "noise", "no plan", "unsafe", "exception"],
)
def test_what_goes_wrong_over_there_is_said_here(code: str, failure: str, word: str) -> None:
    with _solver(SETTINGS, code) as solver:
        solved = solver.plan(PROBLEM)
    assert solved.failure == failure
    assert word in solved.plan.notes[-1]
    assert solved.plan.allotments == make_plan(PROBLEM, "greedy").allotments


ORPHAN = """
import sys, time, batchsched.settings, batchsched.solving as solving
solver = solving.Solver(batchsched.settings.Planner())
solver.start()
while solver.pid is None:
    time.sleep(0.01)
print(solver.pid, flush=True)
time.sleep(1000)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_the_process_ends_with_its_server_however_that_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        pid = int(server.stdout.readline())
        server.kill()
    wait_for(lambda: _ended(pid))


def _ended(pid: int) -> bool:
    try:
        return "Z (zombie)" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_solver_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batchsched.solving, "GRACE_S", 0.5)
    with _solver(Planner(solve_s=0.01), "import time; time.sleep(1000)") as solver:
        wait_for(lambda: solver.ready)
        hung = solver.pid
        assert solver.plan(PROBLEM, ready_s=0.0).failure == "timeout"
        assert not solver.ready  # nobody else finds it dead
        wait_for(lambda: solver.pid != hung)


def test_one_that_hangs_while_it_loads_is_ended_and_no_plan_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batchsched.solving, "LOADING_S", 0.2)
    solver = Solver(SETTINGS, [sys.executable, "-c", "import time; time.sleep(1000)"])
    try:
        solved = solver.plan(PROBLEM, ready_s=0.0)
        assert (solved.failure, solved.stood_in) == (None, "it is not up yet")
        wait_for(lambda: solver.pid)
        hung = solver.pid
        wait_for(lambda: solver.pid != hung)
        assert solver.plan(PROBLEM, ready_s=0.0).failure == "died"
    finally:
        solver.stop()


def test_it_tells_when_it_has_come_up_after_a_plan_had_to_do_without() -> None:
    up = threading.Event()
    code = f"import socket, sys\nline = socket.socket(fileno=int(sys.argv[-1]))\n{HELLO}line.recv(1)"
    solver = Solver(SETTINGS, [sys.executable, "-c", code], on_ready=up.set)
    try:
        assert solver.plan(PROBLEM, ready_s=0.0).stood_in
        assert up.wait(PATIENCE_S)
        assert solver.ready
    finally:
        solver.stop()


def test_who_waits_in_line_loses_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that a question has begins when its turn comes."""
    clock, send, lined_up = ManualClock(datetime(2026, 1, 1, tzinfo=UTC)), batchsched.solving.send, threading.Event()
    monkeypatch.setattr(batchsched.solving, "time", clock)
    monkeypatch.setattr(batchsched.solving, "GRACE_S", PATIENCE_S)
    found: list[Any] = []
    ends: list[float] = []

    def ask() -> None:
        found.append(solver.plan(PROBLEM, ready_s=0.0).failure)

    def noted(line: socket.socket, message: bytes, until: float) -> None:
        ends.append(until - clock.monotonic())
        if len(ends) == 1:  # its turn lasts until another has lined up, and five seconds more
            second.start()
            assert lined_up.wait(PATIENCE_S)
            clock.advance(5.0)
        send(line, message, until)

    class Line:
        """The solver's lock, and word of who finds it taken."""

        def __init__(self) -> None:
            self._lock = threading.Lock()

        def __enter__(self) -> None:
            if not self._lock.acquire(blocking=False):
                lined_up.set()
                self._lock.acquire()

        def __exit__(self, *_: object) -> None:
            self._lock.release()

    monkeypatch.setattr(batchsched.solving, "send", noted)
    answer = "import msgspec, batchsched.solving as s\nbody = msgspec.msgpack.encode(s.Answer(trouble='no'))\n"
    answering = "while line.recv(2**20):\n    line.sendall(len(body).to_bytes(8) + body)"
    with _solver(Planner(solve_s=0.01), answer + answering) as solver:
        wait_for(lambda: solver.ready)
        monkeypatch.setattr(solver, "_asking", Line())
        first, second = threading.Thread(target=ask), threading.Thread(target=ask)
        first.start()
        first.join(PATIENCE_S)
        second.join(PATIENCE_S)
    assert found == ["error", "error"]
    assert ends == pytest.approx([PATIENCE_S + SLOWEST * 0.01] * 2)


def test_who_cannot_wait_gets_what_stood_carried_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batchsched.solving, "SOON_S", 0.01)
    old = fleet_problem(0, load=0.4)
    new = job("new", dict.fromkeys(["p0", "p1"], 300.0), 20_000.0)
    now = msgspec.structs.replace(old, jobs=[*old.jobs, new], standing=standing(make_plan(old, work_s=0.2), 0.0))
    meanwhile: list[Plan] = []
    with _solver(
        SETTINGS, ANSWER.replace("\ns.send", "\nimport time; time.sleep(0.1)\ns.send").format("trouble='bad'")
    ) as solver:
        solved = solver.plan(now, meanwhile=meanwhile.append)
    (plan,) = meanwhile
    assert plan.solver == "standing"
    assert plan.of("new")
    assert violations(now, plan) == []
    assert plan.objective < 1.05 * make_plan(now, "greedy").objective
    assert solved.plan.allotments == plan.allotments, "where the solver fails it stays"
    assert "this is what stood" in solved.plan.notes[-1]


COLD = """
import os, threading, batchsched.planner.cpsat, batchsched.solving as solving
batchsched.planner.cpsat.MOST_VARIABLES = 250
send, sent, answered = solving.send, [], threading.Event()
solving._plan_a_fleet = answered.wait
def sending(*what):
    sent.append(what)
    if len(sent) > 1:  # hello was said already
        send(*what)
    if len(sent) > 2:
        answered.set()
solving.send = sending
line.detach()
sys.exit(solving.main(2000, os.getppid(), int(sys.argv[-1])))
"""


def test_while_it_is_compiled_small_problems_are_solved_and_large_ones_made_anew_after_it() -> None:
    compiled = threading.Event()
    with _solver(SETTINGS, COLD, compiled.set) as solver:
        wait_for(lambda: solver.ready)
        one = msgspec.structs.replace(PROBLEM, jobs=PROBLEM.jobs[:1])
        assert not solver.plan(one, ready_s=0.0).stood_in
        solved = solver.plan(PROBLEM, ready_s=0.0)
        assert solved.failure is None
        assert "compiled" in solved.stood_in
        assert compiled.wait(PATIENCE_S)


def test_without_memory_of_its_own_it_solves_here() -> None:
    with _solver(msgspec.structs.replace(FOREVER, memory_mb=0)) as solver:
        assert solver.plan(PROBLEM, SOME_WORK_S).plan == make_plan(PROBLEM, work_s=SOME_WORK_S)
        assert solver.pid is None


@pytest.mark.slow
def test_a_fleets_plan_that_the_clock_cuts_short_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batchsched.planner.cpsat, "MOST_VARIABLES", 0)
    notes = solve(PROBLEM, wall_s=0.0).notes
    assert any(note in {CUT_SHORT, "The fleet's solver found nothing better than the greedy plan"} for note in notes)
    assert CUT_SHORT not in solve(PROBLEM, work_s=0.2).notes

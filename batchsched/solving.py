"""The solver in a process of its own, so that whatever becomes of it, there is a plan.

Native code may crash, eat the machine's memory or never come back. So it works over there (`python -m batchsched.solving`, kept
and warm), and what comes back counts only after the verifier here has seen it. Where nothing good comes in time, there is what
stood carried on, or the greedy plan, made here, and says why. Both sides talk in frames of msgpack over a socket.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from importlib import metadata
from typing import Literal, Protocol

import msgspec

from batchsched.planner import Job, Plan, PoolState, Problem, Slot, make_plan, noted, prepared, solve, sorted_out
from batchsched.planner.churn import carried_on, settled
from batchsched.planner.plan import called
from batchsched.planner.sound import sound
from batchsched.planner.verify import violations
from batchsched.planning import Planner

log = logging.getLogger(__name__)
Kind = Literal["died", "timeout", "memory", "error", "nonsense", "unsafe"]
SEED = 0
SLOWEST = 4.0
"""The solver's work is counted; this many times the seconds that it takes on an idle core, and it is cut short."""
GRACE_S = 10.0
"""On top, for reading and writing; after that the process is ended."""
READY_S = 8.0
"""For one that is still coming up, where somebody waits for that."""
LOADING_S = 300.0
"""After that one that is still coming up is ended."""
SOON_S = 0.5
"""Who cannot wait for the solver for longer gets a plan meanwhile."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
NICE = 5
LARGEST_BYTES = 2**31
_HEAD = 8


class Ask(msgspec.Struct, frozen=True):
    """One question; the answer is an Answer."""

    problem: Problem
    work_s: float
    seed: int
    wall_s: float
    ready_s: float = 0.0
    """How long it may wait for what is still being compiled."""


class Answer(msgspec.Struct, frozen=True):
    """A plan, or why there is none."""

    plan: Plan | None = None
    kind: Kind | None = "error"
    """None: nothing went wrong, it is not up yet."""
    trouble: str = ""


class Solved(msgspec.Struct, frozen=True):
    """A verified plan; `failure`: what the solver did wrong, where this is one without it."""

    plan: Plan
    failure: Kind | None = None
    stood_in: str = ""
    """Why the solver gave none, where this is what can be had without."""


class PlanMaker(Protocol):
    """Who makes the scheduler's plans: the solver, or, in a simulation, whatever is to be compared with it."""

    def start(self) -> None:
        """Begin to load what it needs."""
        ...

    def stop(self) -> None:
        """End it."""
        ...

    def plan(
        self,
        problem: Problem,
        work_s: float | None = None,
        *,
        ready_s: float = READY_S,
        meanwhile: Callable[[Plan], None] | None = None,
    ) -> Solved:
        """As `Solver.plan`."""
        ...


class SolverFailed(Exception):
    """The solver gave no plan."""

    def __init__(self, kind: Kind | None, text: str) -> None:
        """`kind`: None where nothing went wrong: it comes up for the first time."""
        super().__init__(text)
        self.kind: Kind | None = kind


class Solver:
    """Makes plans. Thread-safe: one at a time. Without `memory_mb` it solves in this process."""

    def __init__(self, settings: Planner, command: list[str] | None = None, on_ready: Callable[[], None] = lambda: None) -> None:
        """`command`: what to run instead of this module; the number of its socket is added. `on_ready`: called when it has
        come up after a plan had to do without it."""
        self._settings = settings
        self._command = command or [sys.executable, "-P", "-m", "batchsched.solving", str(settings.memory_mb), str(os.getpid())]
        self._apart = settings.solver != "greedy" and settings.memory_mb > 0
        self._asking = threading.Lock()
        self._changed = threading.Condition()
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._stopping = False
        self._on_ready = on_ready
        self._begun = 0  # processes
        self._missed = False
        self._took_s = 0.0
        # The kernel ends the process with the thread that started it: this one lives as long as we do.
        self._keeper = threading.Thread(target=self._keep, name="solver", daemon=True)

    def start(self) -> None:
        """Begin to load what it needs, which takes a second: better now than when the first batch waits."""
        if self._apart and self._keeper.ident is None:
            self._keeper.start()

    def stop(self) -> None:
        """End the process."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._end()
        if self._keeper.ident is not None:
            self._keeper.join(timeout=30)

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        process = self._process
        return process.pid if process else None

    @property
    def ready(self) -> bool:
        """Has it loaded?"""
        return self._line is not None

    def plan(
        self,
        problem: Problem,
        work_s: float | None = None,
        seed: int = SEED,
        *,
        ready_s: float = READY_S,
        meanwhile: Callable[[Plan], None] | None = None,
    ) -> Solved:
        """A verified plan, the best that the solver finds. Raises UnsafePlan where it finds none and even greedy's is not safe.

        `work_s`: as in the settings where it is None; `ready_s`: how long to wait for a solver that is still coming up;
        `meanwhile`: gets the plan that can be had without the solver, where that takes longer than SOON_S; must not raise.
        """
        work_s = self._settings.solve_s if work_s is None else work_s
        if self._settings.solver == "greedy" or not problem.jobs or not problem.slots:
            return Solved(settled(problem, make_plan(problem, "greedy")))
        stopgap = cache(lambda: carried_on(problem, make_plan(problem, "greedy")))
        sane, wrong = sound(problem)
        question = Ask(sane, work_s, seed, SLOWEST * max(work_s, self._settings.solve_s), ready_s)
        try:
            found = self._answered(question, ready_s, lambda: meanwhile(stopgap()) if meanwhile else None)
            if broken := violations(sane, found):
                raise SolverFailed("unsafe", f"its plan was unsafe: {broken[0]}")
        except SolverFailed as failure:
            level = logging.ERROR if failure.kind else logging.INFO
            log.log(level, "No plan from the solver: %s. %s stands in.", failure, called(stopgap()).capitalize())
            told = f"The solver {'failed' if failure.kind else 'was not asked'} ({failure}); this is {called(stopgap())}"
            return Solved(noted(stopgap(), told), failure.kind, str(failure))
        return Solved(settled(sane, sorted_out(found, wrong)))

    # -- asking --

    def _answered(self, question: Ask, ready_s: float, meanwhile: Callable[[], None]) -> Plan:
        if self._apart:
            return self._ask(question, ready_s, meanwhile)
        if self._took_s > SOON_S:  # in this process nothing else is done until it is through
            meanwhile()
        began = time.monotonic()
        answer = answer_to(question)
        self._took_s = time.monotonic() - began
        return _taken(answer)

    def _ask(self, question: Ask, ready_s: float, meanwhile: Callable[[], None]) -> Plan:
        self.start()
        self._ready(ready_s)
        with self._asking:
            line = self._ready(0.0)  # whoever asked before may have ended it
            until = time.monotonic() + question.ready_s + question.wall_s + GRACE_S
            self._missed = True
            try:
                send(line, msgspec.msgpack.encode(question), until)
                if not comes(line, SOON_S):
                    meanwhile()
                answer = msgspec.msgpack.decode(receive(line, until), type=Answer)
            except TimeoutError:
                self._end()
                waited_s = question.ready_s + question.wall_s + GRACE_S
                raise SolverFailed("timeout", f"it did not answer within {waited_s:g} s") from None
            except (msgspec.DecodeError, ValueError) as problem:
                self._end()
                raise SolverFailed("nonsense", f"its answer cannot be read: {problem}") from None
            except OSError:
                raise self._death() from None
            except Exception:  # nobody is to find this answer
                self._end()
                raise
            self._missed = answer.plan is None and answer.kind is None
        return _taken(answer)

    def _ready(self, patience_s: float) -> socket.socket:
        """The line to a process that lives. Raises SolverFailed where none comes up in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._line or self._stopping, patience_s)
            if self._line is None:
                self._missed = True
                raise SolverFailed("died" if self._begun > 1 else None, "it is not up yet")
            return self._line

    def _death(self) -> SolverFailed:
        process = self._process
        if process is None:
            return SolverFailed("died", "it ended")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        code = process.poll()
        self._end()
        text = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        return SolverFailed("died", f"it ended ({text})")

    def _end(self) -> None:
        with self._changed:
            process, self._line = self._process, None  # nobody else is to find it dead
        if process is not None and process.poll() is None:
            process.kill()

    # -- the process --

    def _keep(self) -> None:
        """Start the process, again and again where it ends; ever more slowly where it ends at once."""
        pause_s = FIRST_PAUSE_S
        while not self._stopping:
            began = time.monotonic()
            try:
                self._run_once()
            except OSError as problem:
                log.error("The solver cannot be started: %s", problem)
            pause_s = FIRST_PAUSE_S if time.monotonic() - began > LONGEST_PAUSE_S else min(LONGEST_PAUSE_S, 2 * pause_s)
            with self._changed:
                self._changed.wait_for(lambda: self._stopping, pause_s)

    def _run_once(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [*self._command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        with self._changed:
            self._process = process
            self._begun += 1
        if self._stopping:
            self._end()
        try:
            receive(ours, time.monotonic() + LOADING_S)  # it has loaded
            self._open(ours)
        except (OSError, ValueError) as problem:
            if not self._stopping:
                log.error("The solver did not come up: %s", problem or "it took too long")
            self._end()
        with process:
            for _ in process.stdout or ():  # a word: all is compiled, which the first time takes a minute
                self._tell()
        with self._changed:
            self._line = None
        with self._asking:  # whoever is asking sees by himself that it is gone
            ours.close()

    def _open(self, line: socket.socket) -> None:
        with self._changed:
            self._line = None if self._stopping else line
            self._changed.notify_all()
        self._tell()

    def _tell(self) -> None:
        with self._changed:
            missed, self._missed = self._missed, False
        if missed and not self._stopping:
            self._on_ready()


def _taken(answer: Answer) -> Plan:
    if answer.plan is None:
        raise SolverFailed(answer.kind, answer.trouble)
    return answer.plan


@cache
def versions() -> dict[str, str]:
    """The packages that decide what a plan looks like."""
    found: dict[str, str] = {}
    for name in ("batchsched", "ortools", "numba", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def send(line: socket.socket, body: bytes, until: float | None = None) -> None:
    """A whole frame. Raises OSError, TimeoutError."""
    line.settimeout(None if until is None else max(0.001, until - time.monotonic()))
    line.sendall(len(body).to_bytes(_HEAD) + body)


def receive(line: socket.socket, until: float | None = None) -> bytes:
    """A whole frame. Raises OSError (ConnectionError) where the other side is gone, TimeoutError, ValueError."""
    size = int.from_bytes(_read(line, _HEAD, until))
    if size > LARGEST_BYTES:
        raise ValueError(f"{size} bytes are no message")
    return _read(line, size, until)


def comes(line: socket.socket, within_s: float) -> bool:
    """Is there something to read, or nobody any more? Raises OSError."""
    line.settimeout(within_s)
    try:
        line.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return False
    return True


def _read(line: socket.socket, size: int, until: float | None) -> bytes:
    body = bytearray()
    while len(body) < size:
        line.settimeout(None if until is None else max(0.001, until - time.monotonic()))
        part = line.recv(min(size - len(body), 2**20))
        if not part:
            raise ConnectionError("the other side is gone")
        body += part
    return bytes(body)


# -- over there --

NOT_YET = Answer(kind=None, trouble="it is still being compiled, which the first start on a machine takes")


def main(memory_mb: int, parent_pid: int, descriptor: int) -> int:
    """Answer questions until the other side hangs up."""
    from batchsched.executors.tether import bind_to_parent

    if not bind_to_parent(parent_pid, signal.SIGKILL):
        return 1
    os.nice(NICE)
    _limit(memory_mb)
    line = socket.socket(fileno=descriptor)
    import ortools.sat.python.cp_model  # noqa: F401  # pyright: ignore[reportUnusedImport]

    import batchsched.planner.cpsat  # noqa: F401  # pyright: ignore[reportUnusedImport]

    compiling = threading.Thread(target=_warm, name="compiling", daemon=True)
    compiling.start()
    send(line, b"")
    while True:
        try:
            question = msgspec.msgpack.decode(receive(line), type=Ask)
        except OSError:
            return 0
        if compiling.is_alive() and _large(question.problem):
            compiling.join(question.ready_s)
        answer = NOT_YET if compiling.is_alive() and _large(question.problem) else answer_to(question)
        send(line, msgspec.msgpack.encode(answer))
        if answer.kind == "memory":
            return 1  # what it holds by now is best given back whole


def _large(problem: Problem) -> bool:
    """Is it one for the solver that must be compiled?"""
    from batchsched.planner.classes import classes
    from batchsched.planner.cpsat import too_large

    with contextlib.suppress(Exception):  # the solver will say so
        fine, due = prepared(problem)
        return too_large(fine, classes(fine, due))
    return False


def _warm() -> None:
    """Compile what the fleet's solver needs, and say so; from the second start on it is read from a cache."""
    with contextlib.suppress(Exception):  # what fails here fails once more where it is asked
        _plan_a_fleet()
    os.write(1, b"\n")


def _plan_a_fleet() -> None:
    from batchsched.planner.classes import classes
    from batchsched.planner.fleet_problem import fleet_plan

    on = {"a": 600.0}
    pool = PoolState("a", "a", "a", 2, [2.0, 2.0], 1.0, [100.0, 50.0])
    jobs = [Job(name, "m", 10, on, {"a": 1000.0}, {"a": 60.0}, 1800.0) for name in ("one", "two")]
    problem, due = Problem([Slot(0.0, 900.0), Slot(900.0, 900.0)], [pool], jobs), {"one": 1800.0, "two": 1800.0}
    fleet_plan(problem, due, classes(problem, due), most_work=1000)


def answer_to(question: Ask) -> Answer:
    """The answer to one question, whatever happens."""
    try:
        return Answer(solve(question.problem, question.work_s, question.seed, question.wall_s))
    except MemoryError:
        return Answer(kind="memory", trouble="it needs more memory than planner.memory_mb allows")
    except Exception as problem:
        return Answer(trouble=f"{type(problem).__name__}: {problem}")


def _limit(memory_mb: int) -> None:
    """What it writes to, not the address space: libraries reserve far more of that than they use."""
    import resource

    with contextlib.suppress(ValueError, OSError):  # some systems know no such limit
        resource.setrlimit(resource.RLIMIT_DATA, (memory_mb * 2**20, memory_mb * 2**20))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))

"""How tests wait: for an event, until a deadline that a busy machine does not reach.

Nothing in a test bets on the machine's speed. A process says that it is ready, with a line or a file; no test sleeps
and hopes. ``python -m tests.waiting`` names every ``time.sleep`` anywhere else in ``tests``, but where a comment says
``# never ends``: a process that only a kill ends; and every deadline that is a number, but where a comment says
``# the promise``: a parameter of the product. ``make check`` asks for it.
"""

import ast
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil

PATIENCE = float(os.environ.get("TEST_PATIENCE") or "1")  # 4 on a machine that is four times as slow
MIN_DEADLINE_S = 60.0
POLL_S = 0.02
NEVER_ENDS = "# never ends"
SLEEPS = ("time.sleep", "sleep")
PROMISE = "# the promise"
WAITS = {"wait": 0, "join": 0, "result": 4, "exception": 4}  # deadlines are above; a result may be of an exit code
BY_DEADLINE = ("unit", "contract", "stand_ins", "deploy")  # the folders whose deadlines are of deadline_s

T = TypeVar("T")


def deadline_s(idle_s: float = 0.0) -> float:
    """How long to wait for what takes at most ``idle_s`` on an idle machine: thrice that, a minute at least."""
    return max(MIN_DEADLINE_S, 3 * idle_s) * PATIENCE


def eventually(true: Callable[[], T | None], what: str = "", idle_s: float = 0.0) -> T:
    """Wait until something is true; its value. AssertionError with ``what`` after the deadline."""
    end_s = time.monotonic() + deadline_s(idle_s)
    while not (value := true()):
        assert time.monotonic() < end_s, f"not so within {deadline_s(idle_s):.0f} s: {what or true}"
        time.sleep(POLL_S)
    return value


def has_ended(pid: int) -> bool:
    """Whether a process runs no more; one that nobody has waited for is a zombie."""
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    return True


def bets(path: Path, with_deadlines: bool) -> Iterator[int]:
    """The lines of a module that sleep or, with ``with_deadlines``, wait until a deadline of their own."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        sleeps = ast.unparse(node.func) in SLEEPS and NEVER_ENDS not in lines[node.lineno - 1]
        if sleeps or (with_deadlines and is_deadline(node) and PROMISE not in lines[node.lineno - 1]):
            yield node.lineno


def is_deadline(call: ast.Call) -> bool:
    """Whether a call waits, and until when is a number of less than a minute."""
    name = getattr(call.func, "attr", "")
    given = [(each.value, 0) for each in call.keywords if each.arg == "timeout"]
    given += [(each, WAITS[name]) for each in call.args[:1] if name in WAITS]
    numbers = [(each.value, above) for each, above in given if isinstance(each, ast.Constant)]
    return any(isinstance(number, int | float) and above < number < MIN_DEADLINE_S for number, above in numbers)


def main() -> int:
    """Name every bet on the machine's speed; 1 if there is one."""
    root, found = Path(__file__).parent, list[str]()
    for path in sorted(root.rglob("*.py")):
        if path != Path(__file__):
            found += [f"{path}:{line}" for line in bets(path, path.relative_to(root).parts[0] in BY_DEADLINE)]
    print("\n".join([*found, f"{len(found)} bets: wait for an event (tests/waiting.py)"] if found else ["no bets"]))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())

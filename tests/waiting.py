"""How tests wait: for an event, until a deadline that a busy machine does not reach.

No test bets on the machine's speed. A process reports that it is ready, with a line or a file; no test sleeps and
hopes. ``python -m tests.waiting``, a part of ``make check``, prints where ``tests`` has a bet outside this module:

- every ``time.sleep``, unless a comment has ``# never ends``: the process ends only by a kill.
- every deadline that is a number, unless a comment has ``# the promise``: the number is a parameter of the product.
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
# Methods whose first argument is a deadline if it is a number above this; a smaller one of ``result`` is an exit code.
WAITS = {"wait": 0, "join": 0, "result": 4, "exception": 4}
BY_DEADLINE = ("unit", "contract", "stand_ins", "deploy")  # the folders whose tests take deadlines from deadline_s

T = TypeVar("T")


def deadline_s(idle_s: float = 0.0) -> float:
    """How long to wait for what takes at most ``idle_s`` on an idle machine: three times that, at least a minute."""
    return max(MIN_DEADLINE_S, 3 * idle_s) * PATIENCE


def eventually(condition: Callable[[], T | None], what: str = "", idle_s: float = 0.0) -> T:
    """Wait until a condition returns a true value, and return that. After the deadline AssertionError with ``what``."""
    end_s = time.monotonic() + deadline_s(idle_s)
    while not (value := condition()):
        assert time.monotonic() < end_s, f"not so within {deadline_s(idle_s):.0f} s: {what or condition}"
        time.sleep(POLL_S)
    return value


def has_ended(pid: int) -> bool:
    """Whether a process has ended. An ended process that nobody has waited for is a zombie until then."""
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    return True


def bets(path: Path, with_deadlines: bool) -> Iterator[int]:
    """The numbers of a module's lines that sleep or, with ``with_deadlines``, have a number as a deadline."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        sleeps = ast.unparse(node.func) in SLEEPS and NEVER_ENDS not in lines[node.lineno - 1]
        if sleeps or (with_deadlines and is_deadline(node) and PROMISE not in lines[node.lineno - 1]):
            yield node.lineno


def is_deadline(call: ast.Call) -> bool:
    """Whether a call waits with a deadline that is a number of less than a minute."""
    name = getattr(call.func, "attr", "")
    arguments = [(each.value, 0) for each in call.keywords if each.arg == "timeout"]
    arguments += [(each, WAITS[name]) for each in call.args[:1] if name in WAITS]
    numbers = [(each.value, above) for each, above in arguments if isinstance(each, ast.Constant)]
    return any(isinstance(number, int | float) and above < number < MIN_DEADLINE_S for number, above in numbers)


def main() -> int:
    """Print every bet on the machine's speed; return 1 if there is one."""
    root, found = Path(__file__).parent, list[str]()
    for path in sorted(root.rglob("*.py")):
        if path != Path(__file__):
            found += [f"{path}:{line}" for line in bets(path, path.relative_to(root).parts[0] in BY_DEADLINE)]
    print("\n".join([*found, f"{len(found)} bets: wait for an event (tests/waiting.py)"] if found else ["no bets"]))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())

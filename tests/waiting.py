"""How tests wait: for an event, until a deadline that a busy machine does not reach.

Nothing in a test bets on the machine's speed. A process says that it is ready, with a line or a file; no test sleeps
and hopes. ``python -m tests.waiting`` names every ``time.sleep`` anywhere else in ``tests``, but where a comment says
``# never ends``: a process that only a kill ends. Tests move here folder by folder; then ``make check`` asks for it.
"""

import ast
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

PATIENCE = float(os.environ.get("TEST_PATIENCE") or "1")  # 4 on a machine that is four times as slow
MIN_DEADLINE_S = 60.0
POLL_S = 0.02
NEVER_ENDS = "# never ends"
SLEEPS = ("time.sleep", "sleep")

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


def sleeps(path: Path) -> Iterator[int]:
    """The lines of a module that sleep."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in SLEEPS and NEVER_ENDS not in lines[node.lineno - 1]:
            yield node.lineno


def main() -> int:
    """Name every sleep; 1 if there is one."""
    root = Path(__file__).parent
    found = [f"{path}:{line}" for path in sorted(root.rglob("*.py")) if path != Path(__file__) for line in sleeps(path)]
    print("\n".join([*found, f"{len(found)} sleeps: wait for an event (tests/waiting.py)"] if found else ["no sleeps"]))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())

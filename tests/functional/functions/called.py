"""Functions that tests let workers call."""

import os
import signal
from pathlib import Path

from tests.waiting import eventually


def echo(value: object) -> object:
    return value


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def count(marks: Path, until: Path) -> int:
    """Append a mark to a file and wait for the file ``until``; return the number of marks then."""
    with marks.open("a") as file:
        file.write("x\n")
    eventually(until.exists)
    return len(marks.read_text().splitlines())


def tail(content: bytes) -> tuple[int, bytes]:
    return len(content), content[-10:]

"""Functions that workers import by name."""

import os
import threading
from collections.abc import Callable

from sparklet import remote
from tests.waiting import deadline_s

let_go = threading.Event()
seen: list[int] = []


@remote
def double(number: int) -> int:
    return 2 * number


@remote(timeout_s=30, retries=3, retry_on=(ConnectionError,))
def shaky(fails: int) -> int:
    seen.append(fails)
    if len(seen) <= fails:
        raise ConnectionError("not yet")
    return len(seen)


@remote(memory_mb=1024)
def pid() -> int:
    return os.getpid()


def plain(first: int, second: int = 0) -> tuple[int, int]:
    return first, second


def fail(text: str) -> None:
    raise ValueError(text)


def leave() -> None:
    raise SystemExit(3)


def wait() -> str:
    let_go.wait(deadline_s())
    return "waited"


def apply(function: Callable[[int], int], number: int) -> int:
    return function(number)

"""Functions that tests have called in workers."""

import os
import signal
import time
from pathlib import Path


def echo(value: object) -> object:
    return value


def pid() -> int:
    return os.getpid()


def fail(message: str) -> None:
    raise ValueError(message)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def count(folder: str, name: str, seconds: float = 0.0) -> int:
    """Leave a mark; how many there are."""
    with (Path(folder) / name).open("a") as file:
        file.write("x\n")
    time.sleep(seconds)
    return len((Path(folder) / name).read_text().splitlines())


def tail(content: bytes) -> tuple[int, bytes]:
    return len(content), content[-10:]

"""Functions that tests let workers call; a call names them by module and name."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from tests.waiting import eventually


def double(number: int) -> int:
    return 2 * number


def keep(value: object, *_: object, **__: object) -> object:
    return value


def size(content: bytes | str, _: int = 0) -> int:
    return len(content)


def parsed(number: str) -> float:
    return float(number)


def pid(_: object = None) -> int:
    return os.getpid()


def refuse(word: str) -> None:
    deep = {"word": word}
    _refuse_deeper(deep)


def _refuse_deeper(deep: dict[str, str]) -> None:
    raise KeyError(deep["word"])


def leave(code: int) -> None:
    sys.exit(code)


def vanish(last_words: str = "") -> None:
    print(last_words, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(duration_s: float, then: object = None) -> object:
    time.sleep(duration_s)  # never ends, if it is longer than its test
    return then


def run_out() -> None:
    raise MemoryError


def large(size_bytes: int) -> bytes:
    return b"\x01" * size_bytes


def write(path: str, text: str = "was here") -> str:
    Path(path).write_text(text)
    return text


def meet(own: str, other: str, within_s: float) -> bool:
    """Wait until another call, which does the same, is under way at the same time."""
    Path(own).touch()
    return eventually(Path(other).exists, idle_s=within_s / 3)


def chatter(lines: int) -> int:
    for number in range(lines):
        print("x" * 100, number)
    return lines


def lock() -> object:
    return threading.Lock()


class AnyError(Exception):
    """The base class of the errors below."""


class TravellingError(AnyError):
    """Can be pickled, and unpickled where the class can be imported."""


class UnpicklableError(AnyError):
    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class OneWayError(AnyError):
    """Can be pickled, but not unpickled."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def raise_unpicklable() -> None:
    raise UnpicklableError


def raise_travelling() -> None:
    raise TravellingError


def raise_one_way() -> None:
    raise OneWayError("one", "way")


class ReadWrong:
    """Can be pickled; raises when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[int, int]]:
        return divmod, (1, 0)


def read_wrong() -> ReadWrong:
    return ReadWrong()


class Spy:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return write, (self.path,)


class EmptyError(Exception):
    """An error that counts as false, like a group that holds no errors."""

    def __len__(self) -> int:
        return 0


def raise_empty() -> None:
    raise EmptyError("empty")

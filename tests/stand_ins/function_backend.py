"""A ``Backend`` in memory whose calls a test answers by hand, and a timer that a test lets go off."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from sparklet.errors import PayloadError, RemoteTaskError
from sparklet.functions.calls import Answer, Call, Contents, TryResult
from sparklet.functions.performer import Performer

KEY = b"a test's key"


@dataclass
class MemoryContents:
    """``Contents`` in a dictionary."""

    stored: dict[str, bytes] = field(default_factory=dict)
    puts: int = 0

    def put(self, name: str, content: bytes) -> str:
        self.puts += 1
        self.stored[f"memory:{name}"] = content
        return f"memory:{name}"

    def get(self, uri: str) -> bytes:
        if uri not in self.stored:
            raise PayloadError(f"{uri} is not there")
        return self.stored[uri]


@dataclass(eq=False)
class Try:
    """A call that was given to the backend."""

    call: Call
    size: int
    done: Callable[[TryResult], None]


@dataclass
class MemoryBackend:
    """Keeps calls until its test answers or fails them; with ``at_once`` it answers within ``start``."""

    slots: int = 2
    sizes: Sequence[int] = (128, 1024)
    codec: Any = "pickle"
    at_once: bool = False
    key: bytes = KEY
    inline_bytes: int = 100_000
    max_timeout_s: float = 900.0
    waiting_s: float = 60.0
    contents: Contents = field(default_factory=MemoryContents)
    under_way: list[Try] = field(default_factory=list)
    given_up: list[Call] = field(default_factory=list)
    closed: int = 0
    most: int = 0  # the highest number of calls under way at a time
    refusals: list[Exception] = field(default_factory=list)  # what the next starts raise

    def start(self, call: Call, size: int, done: Callable[[TryResult], None]) -> None:
        if self.closed:
            raise RemoteTaskError("closed", "refused")
        if self.refusals:
            raise self.refusals.pop()
        begun = Try(call, size, done)
        self.under_way.append(begun)
        self.most = max(self.most, len(self.under_way))
        if self.at_once:
            self.answer(begun)

    def give_up(self, call: Call) -> None:
        self.given_up.append(call)
        self.under_way = [each for each in self.under_way if each.call is not call]

    def close(self) -> None:
        self.closed += 1

    # --- what a test does ---

    def take(self, begun: Try | None = None) -> Try:
        """Take a call, the first unless one is named, from the calls under way, and return it."""
        begun = begun or self.under_way[0]
        self.under_way.remove(begun)
        return begun

    def performed(self, begun: Try) -> Answer:
        """Perform the call as a worker does, and return the worker's answer."""
        performer = Performer(self.key, self.codec, contents=self.contents)
        return Answer.opened(performer.perform(begun.call.sealed(self.key)), self.key)

    def answer(self, begun: Try | None = None) -> Try:
        taken = self.take(begun)
        taken.done(self.performed(taken))
        return taken

    def fail(self, reason: str, begun: Try | None = None) -> Try:
        taken = self.take(begun)
        taken.done(RemoteTaskError(reason, reason))
        return taken


class HandTimer:
    """A ``Timer`` whose actions happen when a test calls ``go``."""

    def __init__(self) -> None:
        self.due: list[list[Any]] = []
        self.stopped = False
        self._order = count()

    def at(self, when_s: float, action: Callable[[], None]) -> list[Any]:
        entry = [when_s, next(self._order), action]
        if not self.stopped:
            self.due.append(entry)
            self.due.sort()
        return entry

    def cancel(self, entry: list[Any]) -> None:
        self.due = [each for each in self.due if each is not entry]

    def stop(self) -> None:
        self.stopped = True
        self.due.clear()

    def go(self, index: int = 0) -> None:
        """Do an action that is due, the earliest unless ``index`` is set."""
        self.due.pop(index)[2]()

"""What processes note, each in a file of its own that is only ever appended to: a death loses no line."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

EXECUTED = "executed"  # the runner did a shard: its effect
TOLD = "told"  # the handler acknowledged the message of an executed shard
BACK = "back"  # the handler gave the message of an executed shard back: its effect does not count
DIED = "died"  # a fault: the worker's process ended itself here
TWICE = "twice"  # a fault: the message was delivered twice
STARVED = "starved"  # a fault: a receive that no invocation followed
LEDGER = "ledger"  # a fault: the ledger refused, or its answer was lost


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that happened to a shard; ``detail`` is the attempt, or where a fault struck."""

    what: str
    shard: int
    detail: str


class Notes:
    """Writes one process's notes."""

    def __init__(self, folder: Path, who: str) -> None:
        self._path = folder / f"{who}-{os.getpid()}.notes"
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def add(self, what: str, shard: int, detail: str = "") -> None:
        """Note it; it is with the kernel when this returns."""
        os.write(self._file, f"{what} {shard} {detail}\n".encode())


def read_notes(folder: Path) -> Iterator[Note]:
    """All notes of all processes."""
    for path in sorted(folder.glob("*.notes")):
        for line in path.read_text().splitlines():
            what, shard, detail = line.split(" ", 2)
            yield Note(what, int(shard), detail)

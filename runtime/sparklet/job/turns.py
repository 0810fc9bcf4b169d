"""Several jobs in one process: where they come from, and how the worker learns that one is done.

A worker whose script allows it hands over its records or shards one by one: the first with the command line, each
further one when the script asks for it, through two named pipes in the folder that ``SPARKLET_TURNS`` names. By asking
the script says that the job before is done, and it waits until that is recorded. Elsewhere all jobs are on the command
line.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sparklet.job.command_line import separate
from sparklet.job.errors import NotReportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sparklet.job.arguments import Job

TURNS = "SPARKLET_TURNS"
ASK, TELL = "ask", "tell"  # the pipes: the script writes into the first, the worker into the second
TURN = "turn.json"  # what a turn is, beside them: it may be more than a pipe holds
NEXT, NO_MORE = b"next\n", b"no more\n"
TURN_MARK = b"\x1esparklet: next turn\n"
"""What standard error holds between the lines of two turns; the worker takes it out."""


def each_job(read: Callable[[list[str]], Job], argv: Sequence[str] | None) -> Iterator[Job]:
    """The jobs of this process; see ``Job.each``.

    Parameters
    ----------
    read
        Makes a job of its arguments.
    """
    job: Job | None = None

    def check() -> None:
        if job is not None and not job.outcome.reported:
            raise NotReportedError("a further job was asked for before this one had called job.report()")

    for arguments in _turns(sys.argv[1:] if argv is None else argv, check):
        if argv is None:
            sys.argv[1:] = arguments
        job = read(arguments)
        yield job


def _turns(argv: Sequence[str], check: Callable[[], None]) -> Iterator[list[str]]:
    """The arguments of each job, each when the one before is done, which ``check`` makes sure of."""
    if not os.environ.get(TURNS):
        first, *others = separate(argv)
        yield first
        for further in others:
            check()
            yield further
        return
    yield list(argv)
    folder = Path(os.environ[TURNS])
    with (folder / ASK).open("wb") as ask, (folder / TELL).open("rb") as tell:
        while True:
            check()
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            ask.write(NEXT)
            ask.flush()
            if tell.readline() != NEXT:
                return
            turn = json.loads((folder / TURN).read_text(encoding="ascii"))
            os.write(2, TURN_MARK)
            os.environ.update(turn["env"])
            yield turn["args"]

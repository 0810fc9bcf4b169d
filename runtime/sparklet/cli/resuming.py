"""Which command goes on with a run whose command was broken off."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sparklet.cli.console import Screen
from sparklet.cli.environment import Environment
from sparklet.errors import LocalStackError, SparkletError


def resume_command(env: Environment, run_id: str) -> list[str]:
    """What goes on with a run that the ledger knows, on the same stack with the same workers."""
    return ["sparklet", "resume", run_id, *env.words]


def again(words: Sequence[str], run_id: str) -> list[str]:
    """The command that begins a run, typed once more for the same run: until the ledger knows it."""
    if any(word.partition("=")[0] in ("--run-id", "--idempotency-key") for word in words):
        return ["sparklet", *words]
    return ["sparklet", *words[:1], "--run-id", run_id, *words[1:]]


@contextmanager
def told_how_to_resume(env: Environment, screen: Screen, command: Sequence[str]) -> Iterator[None]:
    """Print ``command`` if what is done here is interrupted, loses its stack, or meets an error that may pass."""
    try:
        try:
            yield
        except SparkletError:
            env.check()  # a local stack that has ended makes all fail that asks it
            raise
    except (KeyboardInterrupt, SparkletError) as error:
        if isinstance(error, KeyboardInterrupt | LocalStackError) or error.retryable:
            screen.warn(f"broken off, and nothing is lost; this goes on with the run:\n  {shlex.join(command)}")
        raise

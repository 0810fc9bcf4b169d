"""Runs whose command was broken off: which command goes on with them, and what it does."""

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
    """Print ``command`` if what is done here is interrupted, or meets an error that may pass."""
    try:
        yield
    except (KeyboardInterrupt, SparkletError) as error:
        cause = error if isinstance(error, KeyboardInterrupt) else _cause(env, error)
        if isinstance(cause, KeyboardInterrupt | LocalStackError) or cause.retryable:
            screen.warn(f"broken off, and nothing is lost; this goes on with the run:\n  {shlex.join(command)}")
        raise cause from error if cause is not error else error.__cause__


def _cause(env: Environment, error: SparkletError) -> SparkletError:
    """Why it failed: a local stack that has ended makes whatever asks it fail."""
    try:
        env.check()
    except LocalStackError as ended:
        return ended
    return error

"""The command line: ``sparklet --help``."""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from types import FrameType
from typing import Any


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code (see ``console``). ``--debug`` adds the traceback to Sparklet's own errors."""
    import typer

    from sparklet.cli.app import app
    from sparklet.cli.console import FAILURES, INTERRUPTED, USAGE, Screen
    from sparklet.errors import RemoteFailureError, SparkletError
    from sparklet.local.spark_installation import missing

    arguments = list(sys.argv[1:] if argv is None else argv)
    screen = Screen()
    try:
        with _interruptible():
            return int(app(arguments, prog_name="sparklet", standalone_mode=False, obj=arguments) or 0)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except typer.TyperException as error:
        if message := _usage_message(error):
            screen.fail(message)
        return USAGE
    except (SparkletError, ModuleNotFoundError) as error:
        if "--debug" in arguments:
            screen.err.print_exception()
        screen.fail(missing(error.name or "") if isinstance(error, ModuleNotFoundError) else str(error))
        return FAILURES if isinstance(error, RemoteFailureError) else USAGE


def _usage_message(error: Any) -> str:
    """The mistake in a command line, with the nearest option and the command for help."""
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    if nearest := get_close_matches(getattr(error, "option_name", ""), getattr(error, "possibilities", None) or (), 1):
        message = f"{error.message}. Did you mean {nearest[0]}?"
    path = getattr(getattr(error, "ctx", None), "command_path", "") or "sparklet"
    return f"{message} Try: {path} --help" if message else ""


@contextmanager
def _interruptible() -> Iterator[None]:
    """End a command on SIGTERM and SIGHUP as on Ctrl-C: cleanly, with exit code 130."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)

"""The command line: ``sparklet --help``."""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code (see ``exits``).

    An error that Sparklet raises on purpose is shown in a line or two, whatever the command; ``--debug`` adds
    where it came from.
    """
    import typer

    from sparklet.cli.app import app
    from sparklet.cli.console import Screen
    from sparklet.cli.exits import INTERRUPTED, USAGE
    from sparklet.cli.runs import interruptible
    from sparklet.errors import SparkletError

    arguments = list(sys.argv[1:] if argv is None else argv)
    screen = Screen()
    try:
        with interruptible():
            return int(app(arguments, prog_name="sparklet", standalone_mode=False) or 0)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except typer.TyperException as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        if message:
            screen.fail(f"{message} Try: sparklet {_command(arguments)}--help")
        return USAGE
    except SparkletError as error:
        if "--debug" in arguments:
            screen.err.print_exception()
        screen.fail(str(error))
        return USAGE


def _command(arguments: Sequence[str]) -> str:
    return f"{arguments[0]} " if arguments and not arguments[0].startswith("-") else ""

"""The arguments that every script may be given, and a command line that holds several jobs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NoReturn

from sparklet.job.errors import EventError

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are Sparklet's."""

    def error(self, message: str) -> NoReturn:
        raise EventError(f"the script's arguments: {message}")


def command_line() -> argparse.ArgumentParser:
    """The parser of one job's arguments."""
    parser = _Parser(allow_abbrev=False, description="Arguments that sparklet.job reads; others are the script's own.")
    parser.add_argument("--event", metavar="JSON|@FILE", help="the event, or the file that holds it")
    parser.add_argument("--input", action="append", default=[], metavar="URI", help="read this; may be repeated")
    parser.add_argument("--output", metavar="URI", help="write here")
    parser.add_argument("--param", action="append", default=[], type=_pair, metavar="KEY=VALUE", help="a parameter")
    return parser


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} must look like key=value")
    return key, value


def separate(argv: Sequence[str]) -> list[list[str]]:
    """A command line as one for each job: one an ``--event``, or one an ``--input`` with an ``--output`` of its own.

    What else it holds belongs to every job.

    Raises
    ------
    EventError
        If jobs would share an output, or an output has no input.
    """
    parser = _Parser(allow_abbrev=False, add_help=False)
    for name in ("--event", "--input", "--output"):
        parser.add_argument(name, action="append", default=[])
    known, rest = parser.parse_known_args(list(argv))
    if len(known.event) > 1:
        if known.input or known.output:
            raise EventError("several --event and an --input or --output: each event must name its own")
        return [["--event", event, *rest] for event in known.event]
    if len(known.output) > 1:
        if known.event or len(known.input) != len(known.output) or len(set(known.output)) < len(known.output):
            raise EventError(
                f"{len(known.output)} --output, {len(known.input)} --input and {len(known.event)} --event: of several "
                "jobs each must have an --input and an --output of its own"
            )
        pairs = zip(known.input, known.output)  # noqa: B905 - Python 3.9 knows no strict; they are equally many
        return [["--input", read, "--output", written, *rest] for read, written in pairs]
    return [list(argv)]

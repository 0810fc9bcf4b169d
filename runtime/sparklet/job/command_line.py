"""The arguments that every script may be given."""

from __future__ import annotations

import argparse
from typing import NoReturn

from sparklet.job.errors import EventError


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

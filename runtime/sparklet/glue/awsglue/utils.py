"""The arguments of a script."""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from sparklet.job import Job

from . import missing

__getattr__ = missing


class GlueArgumentError(Exception):
    """An argument is missing or wrong."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise GlueArgumentError(f"{message}; write sparklet run … -p NAME=…, --env NAME=… or -- --NAME …")


def this_job(argv: Sequence[str]) -> Job:
    """The task, by its event alone: all other arguments are the script's own."""
    at = argv.index("--event") if "--event" in argv else len(argv)
    return Job.from_args(argv[at : at + 2])


def getResolvedOptions(args: Sequence[str], options: Sequence[str]) -> dict[str, str | None]:
    """The values of ``options``: of the arguments, else of the run's parameters, else of the environment.

    ``JOB_NAME`` is the script's, unless it is given; ``TempDir`` may be missing. Else GlueArgumentError.
    """
    params = {key: each if isinstance(each, str) else json.dumps(each) for key, each in this_job(args).params.items()}
    given = {**os.environ, "TempDir": None, "JOB_NAME": Path(args[0]).stem, **params}
    parser = _Parser(allow_abbrev=False, add_help=False)
    for name in dict.fromkeys(["TempDir", *options]):
        parser.add_argument(f"--{name}", default=given.get(name), required=name not in given)
    return vars(parser.parse_known_args(args[1:])[0])

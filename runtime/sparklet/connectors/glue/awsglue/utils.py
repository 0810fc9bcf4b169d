"""The arguments of a script."""

import argparse
import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from sparklet.job import Job

from . import missing

__getattr__ = missing
__all__ = ["GlueArgumentError", "getResolvedOptions"]
OF_EVENT = f"jr_{uuid.uuid4().hex}"  # JOB_RUN_ID outside of a run


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

    ``JOB_NAME`` is the script's, unless it is given; ``TempDir`` may be missing; ``JOB_RUN_ID`` is always there, and in
    a run every shard's own, the same in each attempt. Else GlueArgumentError.
    """
    job = this_job(args)
    params = {key: value if isinstance(value, str) else json.dumps(value) for key, value in job.params.items()}
    run_id = OF_EVENT if job.shard is None else f"{job.run_id}_{job.shard:06d}"
    defaults = {**os.environ, "TempDir": None, "JOB_NAME": Path(args[0]).stem, "JOB_RUN_ID": run_id, **params}
    parser = _Parser(allow_abbrev=False, add_help=False)
    for name in dict.fromkeys(["TempDir", "JOB_RUN_ID", *options]):
        parser.add_argument(f"--{name}", default=defaults.get(name), required=name not in defaults)
    return vars(parser.parse_known_args(args[1:])[0])

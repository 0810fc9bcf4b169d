"""The arguments of a script."""

import argparse
import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from sparklet.job import Job

from . import refuse_import

__getattr__ = refuse_import
__all__ = ["GlueArgumentError", "getResolvedOptions"]
EVENT_RUN_ID = f"jr_{uuid.uuid4().hex}"  # JOB_RUN_ID outside a run


class GlueArgumentError(Exception):
    """An argument is missing or wrong."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise GlueArgumentError(f"{message}; write sparklet run … -p NAME=…, --env NAME=… or -- --NAME …")


def this_job(argv: Sequence[str]) -> Job:
    """Return the job for the event among the arguments: all other arguments are the script's own."""
    index = argv.index("--event") if "--event" in argv else len(argv)
    return Job.from_args(argv[index : index + 2])


def getResolvedOptions(args: Sequence[str], options: Sequence[str]) -> dict[str, str | None]:
    """Return the values of ``options`` from the arguments, else the run's parameters, else the environment.

    ``JOB_NAME`` is the script's name unless it is set; ``TempDir`` is None unless it is set. ``JOB_RUN_ID`` is always
    set; in a run each shard has its own, the same in each attempt. GlueArgumentError if another option has no value.
    """
    job = this_job(args)
    params = {key: value if isinstance(value, str) else json.dumps(value) for key, value in job.params.items()}
    run_id = EVENT_RUN_ID if job.shard is None else f"{job.run_id}_{job.shard:06d}"
    defaults = {**os.environ, "TempDir": None, "JOB_NAME": Path(args[0]).stem, "JOB_RUN_ID": run_id, **params}
    parser = _Parser(allow_abbrev=False, add_help=False)
    for name in dict.fromkeys(["TempDir", "JOB_RUN_ID", *options]):
        parser.add_argument(f"--{name}", default=defaults.get(name), required=name not in defaults)
    return vars(parser.parse_known_args(args[1:])[0])

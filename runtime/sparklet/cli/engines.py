"""The exact commands that run a script on other engines; nothing is started.

A job that an engine cannot run is a PlanError with the reason and the remedy.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import typer

from sparklet.errors import PlanError
from sparklet.model import SCHEME

BUNDLE = "sparklet-job.zip"
MAX_STEP_CHARACTERS = 10_240  # EMR: of all values of a step
MAX_GLUE_BYTES = 260_000  # Glue: of a job run's arguments
MAX_SERVERLESS_ARGUMENTS = 1024

Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ElsewhereJob:
    """One execution of a script."""

    script: str
    inputs: tuple[str, ...] = ()
    output: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    args: tuple[str, ...] = ()  # the script's own
    py_files: tuple[str, ...] = ()  # in addition to sparklet.job, which every job gets

    @property
    def name(self) -> str:
        """The script's."""
        return self.script.rpartition("/")[2].removesuffix(".py")

    @property
    def document(self) -> Mapping[str, Any]:
        """The event that the script gets; only what there is."""
        given = {"inputs": list(self.inputs), "output_path": self.output, "params": dict(self.params)}
        return {key: value for key, value in given.items() if value}


@dataclass(frozen=True)
class Places:
    """Where the commands send a job; what the user does not name is in capitals."""

    PANEL: ClassVar[str] = "Where it runs"

    staging: Annotated[str, typer.Option("--staging", metavar="S3-FOLDER", help="Where local files are copied to.")] = (
        "s3://BUCKET/sparklet"
    )
    master: Annotated[str, typer.Option("--master", metavar="URL", help="For spark-submit.")] = "spark://HOST:7077"
    cluster_id: Annotated[str, typer.Option("--cluster-id", metavar="ID", help="For EMR.")] = "CLUSTER_ID"
    application_id: Annotated[str, typer.Option("--application-id", metavar="ID", help="For EMR Serverless.")] = (
        "APPLICATION_ID"
    )
    role_arn: Annotated[str, typer.Option("--role-arn", metavar="ARN", help="For EMR Serverless and Glue.")] = (
        "ROLE_ARN"
    )


def commands(job: ElsewhereJob, engine: str, places: Places = Places()) -> tuple[Command, ...]:
    """The commands that run the job on ``engine``, in order; PlanError if it cannot run this job."""
    for uri in (*job.py_files, places.staging):
        if re.search(r"[\s,'\"]", uri):
            raise PlanError(f"{uri!r} has a comma, a quote or white space, which --py-files cannot carry; rename it")
    job = replace(job, py_files=(BUNDLE, *job.py_files))
    copies: Iterable[Command] = ()
    if engine != "spark-submit":
        copies, job = _staged(job, places.staging)
    return (("python", "-m", "sparklet.job.bundle", BUNDLE), *copies, *_COMMANDS[engine](job, places))


def _spark_submit(job: ElsewhereJob, places: Places) -> Iterable[Command]:
    arguments = _arguments(job)
    s3 = ("--conf", "spark.hadoop.fs.s3.impl=org.apache.hadoop.fs.s3a.S3AFileSystem")  # Hadoop's own scheme is s3a://
    uses_s3 = any(SCHEME in part for part in (job.script, *job.py_files, *arguments))
    yield (
        *("spark-submit", "--master", places.master, "--name", job.name, "--py-files", ",".join(job.py_files)),
        *(s3 if uses_s3 else ()),
        *(job.script, *arguments),
    )


def _emr(job: ElsewhereJob, places: Places) -> Iterable[Command]:
    submit = ["spark-submit", "--deploy-mode", "cluster", "--py-files", ",".join(job.py_files), job.script]
    submit += _remote_arguments(job)
    _refuse_above(MAX_STEP_CHARACTERS, sum(map(len, submit)), "characters of arguments in a step of EMR")
    step = {
        "Type": "CUSTOM_JAR",
        "Name": job.name,
        "ActionOnFailure": "CONTINUE",
        "Jar": "command-runner.jar",
        "Args": submit,
    }
    yield ("aws", "emr", "add-steps", "--cluster-id", places.cluster_id, "--steps", json.dumps([step]))


def _emr_serverless(job: ElsewhereJob, places: Places) -> Iterable[Command]:
    arguments = _remote_arguments(job)
    _refuse_above(MAX_SERVERLESS_ARGUMENTS, len(arguments), "arguments in a job of EMR Serverless")
    if not all(argument.strip() for argument in arguments):
        raise PlanError("EMR Serverless takes arguments only if none of them is empty; leave the empty ones out")
    submit = {
        "entryPoint": job.script,
        "entryPointArguments": arguments,
        "sparkSubmitParameters": f"--py-files {','.join(job.py_files)}",
    }
    yield (
        *("aws", "emr-serverless", "start-job-run", "--application-id", places.application_id),
        *("--execution-role-arn", places.role_arn, "--name", job.name),
        *("--job-driver", json.dumps({"sparkSubmit": submit})),
    )


def _glue(job: ElsewhereJob, places: Places) -> Iterable[Command]:
    """A Glue parameter has a key and comes once: all that ``sparklet.job`` reads goes into ``--event``."""
    _refuse_local(job)
    arguments = {"--event": _event_text(job), **_keyed(job.args)}
    _refuse_above(MAX_GLUE_BYTES, len(json.dumps(arguments).encode()), "bytes of arguments in a job of Glue")
    command = {"Name": "glueetl", "PythonVersion": "3", "ScriptLocation": job.script}
    yield (
        *("aws", "glue", "create-job", "--name", job.name, "--role", places.role_arn, "--command", json.dumps(command)),
        *("--glue-version", "5.1", "--worker-type", "G.1X", "--number-of-workers", "2"),
        *("--default-arguments", json.dumps({"--extra-py-files": ",".join(job.py_files)})),
    )
    yield ("aws", "glue", "start-job-run", "--job-name", job.name, "--arguments", json.dumps(arguments))


_COMMANDS: Mapping[str, Callable[[ElsewhereJob, Places], Iterable[Command]]] = {
    "spark-submit": _spark_submit,
    "emr": _emr,
    "emr-serverless": _emr_serverless,
    "glue": _glue,
}
ENGINES = tuple(_COMMANDS)


def _refuse_above(most: int, size: int, what: str) -> None:
    if size > most:
        raise PlanError(f"the job has {size} {what}, at most {most} are possible: name a folder")


def _arguments(job: ElsewhereJob) -> list[str]:
    """The script's arguments, as ``Job.from_args`` reads them."""
    options = [("--input", uri) for uri in job.inputs]
    options += [("--output", job.output)] if job.output else []
    options += [("--param", f"{key}={value}") for key, value in job.params.items()]
    return [*(part for option in options for part in option), *job.args]


def _remote_arguments(job: ElsewhereJob) -> list[str]:
    """The same for an engine on YARN, which expands ``{{`` and ``}}`` wherever it finds them."""
    _refuse_local(job)
    arguments = _arguments(job)
    if any(re.search(r"{{|}}", argument) for argument in arguments):
        arguments = ["--event", _event_text(job), *job.args]
    if any(re.search(r"{{|}}", argument) for argument in arguments):
        raise PlanError("an argument of the script has {{ or }}, which YARN expands; pass it as a parameter (--param)")
    return arguments


def _event_text(job: ElsewhereJob) -> str:
    """The event as JSON in one line, in which no two braces touch."""
    text = json.dumps(job.document, indent=0).replace("\n", " ")
    return re.sub(r'"(?:[^"\\]|\\.)*"', lambda m: m[0].replace("{", "\\u007b").replace("}", "\\u007d"), text)


def _refuse_local(job: ElsewhereJob) -> None:
    for uri in (*job.document.get("inputs", ()), job.document.get("output_path", "s3://")):
        if "://" not in uri or uri.startswith("file:"):
            raise PlanError(f"{uri} lies on this machine, where that engine cannot read or write it; copy it to S3")


def _keyed(args: Sequence[str]) -> dict[str, str]:
    """A script's own arguments as pairs, the only ones that Glue knows."""
    keyed: dict[str, str] = {}
    for key, value in zip(args[::2], args[1::2], strict=False):
        if not key.startswith("--") or key in keyed or key == "--event":
            break
        keyed[key] = value
    if 2 * len(keyed) != len(args):
        raise PlanError(f"Glue passes a script pairs of --key value, each key once, but not {' '.join(args)!r}")
    return keyed


def _staged(job: ElsewhereJob, staging: str) -> tuple[list[Command], ElsewhereJob]:
    """Commands that copy what is local to S3, and the job with the addresses there."""
    names: dict[str, str] = {}
    copies: list[Command] = []

    def place(path: str) -> str:
        if path.startswith(SCHEME):
            return path
        name = path.rstrip("/").rpartition("/")[2]
        if names.setdefault(name, path) != path:
            raise PlanError(f"{path} and {names[name]} have the same name, and would be copied over each other; rename")
        uri = f"{staging.rstrip('/')}/{name}"
        copies.append(("aws", "s3", "cp", path, uri))
        return uri

    script = place(job.script)
    return copies, replace(job, script=script, py_files=tuple(place(path) for path in dict.fromkeys(job.py_files)))

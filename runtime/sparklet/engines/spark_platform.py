"""Spark's platforms as engines: a job of EMR Serverless, a step of EMR, a run of a Glue job for each shard.

Each starts ``worker_package``'s program in a driver, with the worker's settings and command in one argument. They
differ in how a second start with the same token is avoided, and in where a job that has ended says why.
"""

import gzip
import json
import math
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sparklet.aws.clients import AwsClients, explained
from sparklet.aws.object_store import S3ObjectStore
from sparklet.engines.worker_package import stored
from sparklet.errors import ObjectStoreError, RemoteTaskError
from sparklet.model import Failure
from sparklet.ports import Engine
from sparklet.settings import strings

SPARK_CONF, JAVA_OPTIONS = "SPARKLET_SPARK_CONF", "spark.executor.extraJavaOptions"
OF_THE_JVM = ("spark.driver.", "spark.jars")  # which is up before the worker
LOGS = "engine-logs"  # of the stack's bucket
PYTHON = "python3.11"  # EMR 7 has it beside its own, 3.9; so has EMR 8
TOKEN = "--sparklet_token"  # noqa: S105 - a name
MAX_LISTED = 300  # a cluster has at most 256 active steps
TAIL_LINES, TAIL_CHARACTERS = 10, 1_000
MAX_LOG_BYTES = 16 * 2**20
NEEDS_JARS = ("delta", "iceberg")  # on the class path of scripts; what Hudi needs, the commit has
ENDED = {"SUCCESS", "FAILED", "CANCELLED", "COMPLETED", "INTERRUPTED"}  # of EMR's two
ENDED |= {"STOPPED", "SUCCEEDED", "TIMEOUT", "ERROR", "EXPIRED"}  # of Glue's; no state that goes on has such a name
NO_ROOM = {"Exceeded", "InternalServ", "Maximum number of active", "OperationTimeout", "Throttling", "TooManyRequests"}


@dataclass(frozen=True)
class Job:
    """A job as its platform describes it."""

    state: str
    said: str  # why it is in this state
    begun: datetime | None  # None: it waits for room
    logs: str  # a folder of S3 with stdout.gz and stderr.gz, or a group of CloudWatch with /output and /error


@dataclass(frozen=True, kw_only=True)
class Platform(Engine):
    """What the platforms have in common."""

    clients: AwsClients
    env: Mapping[str, str]  # the worker's settings
    conf: Mapping[str, str] = field(default_factory=dict)  # the operator's settings of Spark
    functions: Callable[[], Mapping[str, str]] = dict  # what scripts are set to in the functions

    def stopped(self, task_ids: Sequence[str]) -> Mapping[str, Failure]:
        """Those that have ended, with what platform and log say."""
        jobs = {task_id: self._job(task_id) for task_id in task_ids}
        return {task_id: self._cause(task_id, job) for task_id, job in jobs.items() if job.state in ENDED}

    def begun_s(self, task_id: str) -> float:
        """When it got its room."""
        begun = self._job(task_id).begun
        return begun.timestamp() if begun else math.inf

    def unfit(self, table_format: str) -> str:
        """Too old a release, no jars of the format, or a JVM that is not set as the functions'."""
        release, least, places = self._release()
        if tuple(map(int, re.findall(r"\d+", release)[:2])) < least:
            return f"{release} has no Python 3.11, which the worker needs: {'.'.join(map(str, least))} or later"
        if table_format in NEEDS_JARS and table_format not in places[1]:
            return f"{places[0]} do not name {table_format}; see docs/guide/elsewhere.md"
        return not_handed_on(self.functions(), self.conf, OF_THE_JVM)

    @abstractmethod
    def _job(self, task_id: str) -> Job:
        """As it is now."""

    @abstractmethod
    def _release(self) -> tuple[str, tuple[int, int], tuple[str, str]]:
        """The platform's release, the least that has the worker's Python; where jars are named, and what is there."""

    def _ask(self, call: Callable[..., Any], **arguments: Any) -> Any:
        """A service's answer; RemoteTaskError, ``throttled`` if it refuses only for want of room."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return call(**arguments)
        except (BotoCoreError, ClientError) as error:
            no_room = any(words in str(error) for words in NO_ROOM)
            raise RemoteTaskError(explained(error), "throttled" if no_room else "") from error

    def _packed(self) -> tuple[str, str]:
        """The addresses of the worker's program and package; RemoteTaskError if scripts would be set otherwise."""
        if why := not_handed_on(self.functions(), self.conf, OF_THE_JVM):  # it was not so when the run was planned
            raise RemoteTaskError(why)
        try:
            return stored(S3ObjectStore(self.clients), self.env["SPARKLET_BUCKET"])
        except ObjectStoreError as error:
            raise RemoteTaskError(f"the worker cannot be stored for other engines: {error}") from error

    def _arguments(self, command: Sequence[str]) -> tuple[str, str]:
        """The program's, without adjacent braces, which YARN would expand."""
        env = {"AWS_REGION": self.clients.s3.meta.region_name, **self.functions(), **self.env}
        if conf := strings(env, SPARK_CONF):
            env[SPARK_CONF] = json.dumps({key: value for key, value in conf.items() if key not in self.conf})
        text = json.dumps({"env": env, "command": list(command)})
        return "--sparklet", text.replace("{{", r"\u007b\u007b").replace("}}", r"\u007d\u007d")

    def _cause(self, task_id: str, job: Job) -> Failure:
        in_s3 = job.logs.startswith("s3://")
        read, names = (self._read, ("stdout.gz", "stderr.gz")) if in_s3 else (self._read_group, ("output", "error"))
        lines = next(filter(None, (read(f"{job.logs}/{name}", task_id) for name in names if job.logs)), [])
        log = " | ".join(lines[-TAIL_LINES:])[-TAIL_CHARACTERS:]
        said = (job.said or f"it ended as {job.state}") + (f"; its log ends: {log}" if log else "")
        return Failure(f"Stopped.{job.state}", said, retryable=False)

    def _read(self, uri: str, task_id: str) -> list[str]:
        """A compressed log's lines; none if there is no log, or no right to it."""
        store = S3ObjectStore(self.clients)
        try:
            text = gzip.decompress(store.get(uri)) if store.head(uri).size_bytes < MAX_LOG_BYTES else b""
        except (ObjectStoreError, OSError, EOFError):
            return []
        return [line.strip() for line in text.decode(errors="replace").splitlines() if line.strip()]

    def _read_group(self, group: str, task_id: str) -> list[str]:
        try:
            ask = {"logGroupName": group, "logStreamName": task_id, "limit": TAIL_LINES}
            return [event["message"].strip() for event in self._ask(self.clients.logs.get_log_events, **ask)["events"]]
        except RemoteTaskError:
            return []


def not_handed_on(functions: Mapping[str, str], conf: Mapping[str, str], own: tuple[str, ...]) -> str:
    """Why scripts would be set otherwise than in the functions; "" if all that an engine decides, ``conf`` names.

    ``own``: how Spark's options begin that a worker there cannot set. Options of Java, none of them can.
    """
    asked = {key: "SparkConf" for key in strings(functions, SPARK_CONF) if key.startswith(own)}
    asked |= {JAVA_OPTIONS: "JavaOptions"} if functions.get("SPARKLET_JAVA_OPTIONS") else {}
    missing = next((key for key in asked if key not in conf), "")
    how = f"a worker cannot set {missing} there; make it so and name it in EngineSparkConf"
    return f"the functions have it in {asked[missing]}, and {how}" if missing else ""


def _name(command: Sequence[str]) -> str:
    """For people: the run and the shard of ``shard --run RUN --shard N …``."""
    return f"{command[2]} shard {command[4]}"

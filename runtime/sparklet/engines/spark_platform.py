"""The base of EMR Serverless, EMR and Glue: a Spark job for each shard, whose driver runs the worker.

The driver's program is ``on_platform``; one argument has the worker's environment and command. The platforms differ in
how they prevent a second start with the same token, and in where they report why a job has ended.
"""

import gzip
import json
import math
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from sparklet.aws.clients import AwsClients, explain_error, failing_with
from sparklet.aws.object_store import S3ObjectStore
from sparklet.engines.worker_package import store_worker
from sparklet.errors import ObjectStoreError, RemoteTaskError
from sparklet.model import Failure
from sparklet.ports import Engine
from sparklet.settings import strings

SPARK_CONF, JAVA_OPTIONS = "SPARKLET_SPARK_CONF", "spark.executor.extraJavaOptions"
OF_THE_JVM = ("spark.driver.", "spark.jars")  # options of the driver's JVM, which starts before the worker
LOGS = "engine-logs"  # a folder of the stack's bucket
PYTHON = "python3.11"  # EMR 7 and 8 have it besides their own Python
TAIL_LINES, TAIL_CHARACTERS = 10, 1_000
MAX_LOG_BYTES = 16 * 2**20
NEEDS_JARS = ("delta", "iceberg")  # on the class path of scripts; Hudi's jars are needed by the commit only
ENDED = {"SUCCESS", "FAILED", "CANCELLED", "COMPLETED", "INTERRUPTED"}  # states of EMR Serverless and EMR
ENDED |= {"STOPPED", "SUCCEEDED", "TIMEOUT", "ERROR", "EXPIRED"}  # states of Glue
NO_CAPACITY = {"Exceeded", "InternalServ", "Maximum number of active"}  # parts of the services' error messages
NO_CAPACITY |= {"OperationTimeout", "Throttling", "TooManyRequests"}


@dataclass(frozen=True)
class PlatformJob:
    """A job as its platform describes it."""

    state: str
    reason: str  # why it is in this state
    started: datetime | None  # None while it waits for capacity
    logs: str  # an S3 folder with stdout.gz and stderr.gz, or the prefix of CloudWatch groups …/output, …/error


@dataclass(frozen=True, kw_only=True)
class SparkPlatform(Engine):
    """An engine whose workers are drivers of Spark jobs."""

    least_release: ClassVar[tuple[int, int]] = (7, 0)  # EMR's first with Python 3.11
    sparks: ClassVar[Mapping[str, str]] = {"7": "3.5", "8.0": "4.0", "8": "4.1"}  # by release, from EMR's release guide

    clients: AwsClients
    env: Mapping[str, str]  # the worker's settings
    conf: Mapping[str, str] = field(default_factory=dict)  # the parameter EngineSparkConf: Spark settings
    script_settings: Callable[[], Mapping[str, str]] = dict  # reads the functions' settings

    def stopped(self, task_ids: Sequence[str]) -> Mapping[str, Failure]:
        """The jobs that have ended, with the platform's reason and the end of the log."""
        jobs = {task_id: self._job(task_id) for task_id in task_ids}
        return {task_id: self._cause(task_id, job) for task_id, job in jobs.items() if job.state in ENDED}

    def begun_s(self, task_id: str) -> float:
        """The time when the job started; infinity while it waits for capacity."""
        started = self._job(task_id).started
        return started.timestamp() if started else math.inf

    def unfit(self, table_format: str) -> str:
        """Why the platform is unfit: its release is too old, or jars or a setting are missing. "" if it is fit."""
        release, jars_setting, jars = self._release()
        if tuple(map(int, re.findall(r"\d+", release)[:2])) < self.least_release:
            least = ".".join(map(str, self.least_release))
            return f"{release} has no Python 3.11, which the worker needs: {least} or later"
        if table_format in NEEDS_JARS and table_format not in jars:
            return f"{jars_setting} do not name {table_format}; see docs/guide/elsewhere.md"
        return missing_setting(self.script_settings(), self.conf, OF_THE_JVM)

    def spark(self) -> str:
        """The Spark line (such as 3.5) of the platform's release; "" if it is not known."""
        release = ".".join(re.findall(r"\d+", self._release()[0])[:2])
        return next((line for version, line in self.sparks.items() if f"{release}.".startswith(f"{version}.")), "")

    @abstractmethod
    def _job(self, task_id: str) -> PlatformJob:
        """The job as it is now."""

    @abstractmethod
    def _release(self) -> tuple[str, str, str]:
        """The platform's release, the name of its setting for jars, and the value of that setting."""

    def _call(self, call: Callable[..., Any], **arguments: Any) -> Any:
        """Call a service. RemoteTaskError if it fails, with reason ``throttled`` if the service only lacks capacity."""

        def remote_task_error(error: Exception) -> RemoteTaskError:
            lacks_capacity = any(words in str(error) for words in NO_CAPACITY)
            return RemoteTaskError(explain_error(error), "throttled" if lacks_capacity else "")

        with failing_with(remote_task_error):
            return call(**arguments)

    def _store_worker(self) -> tuple[str, str]:
        """Store the worker; return its program's and package's addresses. RemoteTaskError if a setting is missing."""
        # Checked again, since the functions' settings may have changed after the run was planned.
        if why := missing_setting(self.script_settings(), self.conf, OF_THE_JVM):
            raise RemoteTaskError(why)
        try:
            return store_worker(S3ObjectStore(self.clients), self.env["SPARKLET_BUCKET"])
        except ObjectStoreError as error:
            raise RemoteTaskError(f"the worker cannot be stored for other engines: {error}") from error

    def _arguments(self, command: Sequence[str]) -> tuple[str, str]:
        """The program's arguments: environment and command as JSON, without double braces, which YARN would expand."""
        env = {"AWS_REGION": self.clients.s3.meta.region_name, **self.script_settings(), **self.env}
        if conf := strings(env, SPARK_CONF):
            env[SPARK_CONF] = json.dumps({key: value for key, value in conf.items() if key not in self.conf})
        text = json.dumps({"env": env, "command": list(command)})
        return "--sparklet", text.replace("{{", r"\u007b\u007b").replace("}}", r"\u007d\u007d")

    def _cause(self, task_id: str, job: PlatformJob) -> Failure:
        """The failure of a job that has ended: the platform's reason, and the last lines of the job's log."""
        lines = self._log(task_id, job.logs) if job.logs else []
        log = " | ".join(lines[-TAIL_LINES:])[-TAIL_CHARACTERS:]
        reason = (job.reason or f"it ended as {job.state}") + (f"; its log ends: {log}" if log else "")
        return Failure(f"Stopped.{job.state}", reason, retryable=False)

    def _log(self, task_id: str, logs: str) -> list[str]:
        """The lines of the job's stdout, else of its stderr; [] if there is no log, or no permission to read it."""
        if not logs.startswith("s3://"):
            return []
        return self._log_lines(f"{logs}/stdout.gz") or self._log_lines(f"{logs}/stderr.gz")

    def _log_lines(self, uri: str) -> list[str]:
        store = S3ObjectStore(self.clients)
        try:
            text = gzip.decompress(store.get(uri)) if store.head(uri).size_bytes < MAX_LOG_BYTES else b""
        # Without its log the job's failure still has the platform's reason.
        except (ObjectStoreError, OSError, EOFError):
            return []
        return [line.strip() for line in text.decode(errors="replace").splitlines() if line.strip()]


def missing_setting(
    script_settings: Mapping[str, str], conf: Mapping[str, str], fixed_prefixes: tuple[str, ...]
) -> str:
    """The message, with the remedy, for a setting that the functions have and the engine lacks; "" if it lacks none.

    An engine's worker can set neither Java options nor Spark settings whose names begin like ``fixed_prefixes``. So
    these must be in the engine's ``conf``.
    """
    needed = {key: "SparkConf" for key in strings(script_settings, SPARK_CONF) if key.startswith(fixed_prefixes)}
    needed |= {JAVA_OPTIONS: "SPARKLET_JAVA_OPTIONS"} if script_settings.get("SPARKLET_JAVA_OPTIONS") else {}
    missing = next((key for key in needed if key not in conf), "")
    if not missing:
        return ""
    return (
        f"the functions' {needed[missing]} sets {missing}, which a worker on this engine cannot set: set it on the "
        "engine and name it in EngineSparkConf"
    )


def job_name(command: Sequence[str]) -> str:
    """A job's name in the platform's console, from ``shard --run RUN --shard N …``."""
    return f"{command[2]} shard {command[4]}"

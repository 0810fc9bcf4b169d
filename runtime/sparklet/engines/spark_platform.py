"""The base of EMR Serverless, EMR and Glue: a Spark job for each shard, whose driver runs the worker.

The driver's program is ``on_platform``; one argument has the worker's environment and command. The platforms differ in
how a second start with the same token is avoided, and in where a job that has ended gives the reason.
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

from sparklet.aws.clients import AwsClients, explained, failing_with
from sparklet.aws.object_store import S3ObjectStore
from sparklet.engines.worker_package import store_worker
from sparklet.errors import ObjectStoreError, RemoteTaskError
from sparklet.model import Failure
from sparklet.ports import Engine
from sparklet.settings import strings

SPARK_CONF, JAVA_OPTIONS = "SPARKLET_SPARK_CONF", "spark.executor.extraJavaOptions"
OF_THE_JVM = ("spark.driver.", "spark.jars")  # options of the driver's JVM, which starts before the worker
LOGS = "engine-logs"  # of the stack's bucket
PYTHON = "python3.11"  # EMR 7 and 8 have it beside their own Python
TAIL_LINES, TAIL_CHARACTERS = 10, 1_000
MAX_LOG_BYTES = 16 * 2**20
NEEDS_JARS = ("delta", "iceberg")  # on the class path of scripts; Hudi's jars are needed by the commit only
ENDED = {"SUCCESS", "FAILED", "CANCELLED", "COMPLETED", "INTERRUPTED"}  # states of EMR Serverless and EMR
ENDED |= {"STOPPED", "SUCCEEDED", "TIMEOUT", "ERROR", "EXPIRED"}  # states of Glue
NO_CAPACITY = {"Exceeded", "InternalServ", "Maximum number of active"}  # in the services' errors
NO_CAPACITY |= {"OperationTimeout", "Throttling", "TooManyRequests"}


@dataclass(frozen=True)
class PlatformJob:
    """A job as its platform describes it."""

    state: str
    reason: str  # for this state
    started: datetime | None  # None: it waits for capacity
    logs: str  # a folder of S3 with stdout.gz and stderr.gz, or a group of CloudWatch with /output and /error


@dataclass(frozen=True, kw_only=True)
class SparkPlatform(Engine):
    """An engine whose workers are drivers of Spark jobs."""

    least_release: ClassVar[tuple[int, int]] = (7, 0)  # EMR's first with Python 3.11
    sparks: ClassVar[Mapping[str, str]] = {"7": "3.5", "8.0": "4.0", "8": "4.1"}  # by release, of EMR's release guide

    clients: AwsClients
    env: Mapping[str, str]  # the worker's settings
    conf: Mapping[str, str] = field(default_factory=dict)  # EngineSparkConf: the operator's settings of Spark
    script_settings: Callable[[], Mapping[str, str]] = dict  # the functions' own

    def stopped(self, task_ids: Sequence[str]) -> Mapping[str, Failure]:
        """The jobs that have ended, with the platform's reason and the end of the log."""
        jobs = {task_id: self._job(task_id) for task_id in task_ids}
        return {task_id: self._cause(task_id, job) for task_id, job in jobs.items() if job.state in ENDED}

    def begun_s(self, task_id: str) -> float:
        """When the job started; infinity while it waits for capacity."""
        started = self._job(task_id).started
        return started.timestamp() if started else math.inf

    def unfit(self, table_format: str) -> str:
        """Why it is unfit: its release is too old, or lacks the format's jars or a setting of the functions."""
        release, jars_setting, jars = self._release()
        if tuple(map(int, re.findall(r"\d+", release)[:2])) < self.least_release:
            least = ".".join(map(str, self.least_release))
            return f"{release} has no Python 3.11, which the worker needs: {least} or later"
        if table_format in NEEDS_JARS and table_format not in jars:
            return f"{jars_setting} do not name {table_format}; see docs/guide/elsewhere.md"
        return missing_setting(self.script_settings(), self.conf, OF_THE_JVM)

    def spark(self) -> str:
        """The line of the platform's release."""
        release = ".".join(re.findall(r"\d+", self._release()[0])[:2])
        return next((line for version, line in self.sparks.items() if f"{release}.".startswith(f"{version}.")), "")

    @abstractmethod
    def _job(self, task_id: str) -> PlatformJob:
        """The job as it is now."""

    @abstractmethod
    def _release(self) -> tuple[str, str, str]:
        """The platform's release, the name of its setting for jars, and that setting."""

    def _call(self, call: Callable[..., Any], **arguments: Any) -> Any:
        """A service's answer; RemoteTaskError, ``throttled`` if it only lacks capacity."""

        def ours(error: Exception) -> RemoteTaskError:
            throttled = any(words in str(error) for words in NO_CAPACITY)
            return RemoteTaskError(explained(error), "throttled" if throttled else "")

        with failing_with(ours):
            return call(**arguments)

    def _stored_worker(self) -> tuple[str, str]:
        """The addresses of the worker's program and package; RemoteTaskError if a setting is missing here."""
        if why := missing_setting(self.script_settings(), self.conf, OF_THE_JVM):  # it may be new since the plan
            raise RemoteTaskError(why)
        try:
            return store_worker(S3ObjectStore(self.clients), self.env["SPARKLET_BUCKET"])
        except ObjectStoreError as error:
            raise RemoteTaskError(f"the worker cannot be stored for other engines: {error}") from error

    def _arguments(self, command: Sequence[str]) -> tuple[str, str]:
        """The program's arguments, without adjacent braces, which YARN would expand."""
        env = {"AWS_REGION": self.clients.s3.meta.region_name, **self.script_settings(), **self.env}
        if conf := strings(env, SPARK_CONF):
            env[SPARK_CONF] = json.dumps({key: value for key, value in conf.items() if key not in self.conf})
        text = json.dumps({"env": env, "command": list(command)})
        return "--sparklet", text.replace("{{", r"\u007b\u007b").replace("}}", r"\u007d\u007d")

    def _cause(self, task_id: str, job: PlatformJob) -> Failure:
        lines = self._log(task_id, job.logs) if job.logs else []
        log = " | ".join(lines[-TAIL_LINES:])[-TAIL_CHARACTERS:]
        reason = (job.reason or f"it ended as {job.state}") + (f"; its log ends: {log}" if log else "")
        return Failure(f"Stopped.{job.state}", reason, retryable=False)

    def _log(self, task_id: str, logs: str) -> list[str]:
        """The last lines of the job's output, or else of its errors; none if there is no log, or no right to it."""
        if not logs.startswith("s3://"):
            return []
        return self._unzipped(f"{logs}/stdout.gz") or self._unzipped(f"{logs}/stderr.gz")

    def _unzipped(self, uri: str) -> list[str]:
        store = S3ObjectStore(self.clients)
        try:
            text = gzip.decompress(store.get(uri)) if store.head(uri).size_bytes < MAX_LOG_BYTES else b""
        # The log only adds to a cause that is known.
        except (ObjectStoreError, OSError, EOFError):
            return []
        return [line.strip() for line in text.decode(errors="replace").splitlines() if line.strip()]


def missing_setting(script_settings: Mapping[str, str], conf: Mapping[str, str], not_ours: tuple[str, ...]) -> str:
    """Which setting of the functions' scripts the engine lacks, and the remedy; "" if it lacks none.

    A worker there can set neither options of Java nor Spark's that begin like ``not_ours``: ``conf`` must name them.
    """
    needed = {key: "SparkConf" for key in strings(script_settings, SPARK_CONF) if key.startswith(not_ours)}
    needed |= {JAVA_OPTIONS: "SPARKLET_JAVA_OPTIONS"} if script_settings.get("SPARKLET_JAVA_OPTIONS") else {}
    missing = next((key for key in needed if key not in conf), "")
    remedy = f"a worker cannot set {missing} there; set it on the engine and name it in EngineSparkConf"
    return f"the functions have it in {needed[missing]}, and {remedy}" if missing else ""


def job_name(command: Sequence[str]) -> str:
    """A job's name in the platform's console, from ``shard --run RUN --shard N …``."""
    return f"{command[2]} shard {command[4]}"

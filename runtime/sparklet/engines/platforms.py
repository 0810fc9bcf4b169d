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

from sparklet.aws.clients import AwsClients, client_token, explained
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


@dataclass(frozen=True, kw_only=True)
class EmrServerlessJobs(Platform):
    """Jobs of one application."""

    application: str
    role: str

    def start(self, token: str, command: Sequence[str]) -> str:
        """Start a job; the service knows its token."""
        program, package = self._packed()
        python = "spark.emr-serverless.driverEnv.PYSPARK_DRIVER_PYTHON", "spark.emr-serverless.driverEnv.PYSPARK_PYTHON"
        conf = {**dict.fromkeys((*python, "spark.executorEnv.PYSPARK_PYTHON"), PYTHON), **self.conf}
        submit = {
            "entryPoint": program,
            "entryPointArguments": list(self._arguments(command)),
            "sparkSubmitParameters": f"--py-files {package}",
        }
        logs = {"logUri": f"s3://{self.env['SPARKLET_BUCKET']}/{LOGS}/"}
        job = {
            "applicationId": self.application,
            "executionRoleArn": self.role,
            "name": _name(command),
            "jobDriver": {"sparkSubmit": submit},
            "configurationOverrides": {
                "applicationConfiguration": [{"classification": "spark-defaults", "properties": conf}],
                "monitoringConfiguration": {"s3MonitoringConfiguration": logs},
            },
        }
        start = self.clients.emr_serverless.start_job_run
        return str(self._ask(start, clientToken=client_token(token, job), **job)["jobRunId"])

    def stop(self, task_id: str) -> None:
        """Cancel a job; its driver has time to give back the shard."""
        ask = {"applicationId": self.application, "jobRunId": task_id, "shutdownGracePeriodInSeconds": 60}
        self._ask(self.clients.emr_serverless.cancel_job_run, **ask)

    def _job(self, task_id: str) -> Job:
        ask = {"applicationId": self.application, "jobRunId": task_id}
        job = self._ask(self.clients.emr_serverless.get_job_run, **ask)["jobRun"]
        place = f"{LOGS}/applications/{self.application}/jobs/{task_id}/SPARK_DRIVER"
        logs = f"s3://{self.env['SPARKLET_BUCKET']}/{place}"
        return Job(job["state"], job["stateDetails"], job.get("startedAt"), logs)

    def _release(self) -> tuple[str, tuple[int, int], tuple[str, str]]:
        answer = self._ask(self.clients.emr_serverless.get_application, applicationId=self.application)
        return answer["application"]["releaseLabel"], (7, 0), ("spark.jars", self.conf.get("spark.jars", ""))


@dataclass(frozen=True, kw_only=True)
class EmrSteps(Platform):
    """Steps of one cluster.

    The driver runs on the primary node (``client``), so that cancelling a step reaches the worker, and the step's own
    log is the worker's.
    """

    cluster: str

    def start(self, token: str, command: Sequence[str]) -> str:
        """Add a step, unless the cluster has one whose name ends with the token."""
        program, package = self._packed()
        emr, conf = self.clients.emr, {"spark.pyspark.python": PYTHON, "spark.pyspark.driver.python": PYTHON}
        options = [word for key, value in {**conf, **self.conf}.items() for word in ("--conf", f"{key}={value}")]
        submit = ["spark-submit", "--deploy-mode", "client", "--py-files", package, *options, program]
        newest = {"ClusterId": self.cluster, "PaginationConfig": {"MaxItems": MAX_LISTED}}
        ids = emr.get_paginator("list_steps").paginate(**newest).search(f"Steps[?ends_with(Name, '{token}')].Id")
        if found := self._ask(lambda: next(ids, None)):
            return str(found)
        step = {
            "Name": f"{_name(command)} {token}",
            "ActionOnFailure": "CONTINUE",
            "HadoopJarStep": {"Jar": "command-runner.jar", "Args": [*submit, *self._arguments(command)]},
        }
        return str(self._ask(emr.add_job_flow_steps, JobFlowId=self.cluster, Steps=[step])["StepIds"][0])

    def stop(self, task_id: str) -> None:
        """Cancel a step."""
        self._ask(self.clients.emr.cancel_steps, ClusterId=self.cluster, StepIds=[task_id])

    def _job(self, task_id: str) -> Job:
        step = self._ask(self.clients.emr.describe_step, ClusterId=self.cluster, StepId=task_id)["Step"]
        status = step["Status"]
        details, reason = status.get("FailureDetails", {}), status.get("StateChangeReason", {})
        said = "; ".join(filter(None, (details.get("Reason"), details.get("Message"), reason.get("Message"))))
        logs = details.get("LogFile", "").rpartition("/")[0] or step.get("LogUri", "").rstrip("/")
        begun = status.get("Timeline", {}).get("StartDateTime")
        return Job(status["State"], said, begun, re.sub("^s3n:", "s3:", logs))

    def _release(self) -> tuple[str, tuple[int, int], tuple[str, str]]:
        cluster = self._ask(self.clients.emr.describe_cluster, ClusterId=self.cluster)["Cluster"]
        names = (each.get("Classification", "") for each in cluster.get("Configurations", ()))
        return cluster["ReleaseLabel"], (7, 0), ("the cluster's classifications (delta-defaults, …)", " ".join(names))


@dataclass(frozen=True, kw_only=True)
class GlueJobRuns(Platform):
    """Runs of one job. Its own script is not used: ``--scriptLocation`` takes its place."""

    job: str

    def start(self, token: str, command: Sequence[str]) -> str:
        """Start a run, unless one has this token among its arguments."""
        program, package = self._packed()
        key, value = self._arguments(command)
        arguments = {"--scriptLocation": program, "--extra-py-files": package, key: value, TOKEN: token}
        if self.conf:
            arguments["--conf"] = " --conf ".join(f"{name}={setting}" for name, setting in self.conf.items())
        for run in self._ask(self.clients.glue.get_job_runs, JobName=self.job, MaxResults=200)["JobRuns"]:
            if run.get("Arguments", {}).get(TOKEN) == token:
                return str(run["Id"])
        return str(self._ask(self.clients.glue.start_job_run, JobName=self.job, Arguments=arguments)["JobRunId"])

    def stop(self, task_id: str) -> None:
        """Stop a run."""
        self._ask(self.clients.glue.batch_stop_job_run, JobName=self.job, JobRunIds=[task_id])

    def _job(self, task_id: str) -> Job:
        run = self._ask(self.clients.glue.get_job_run, JobName=self.job, RunId=task_id)["JobRun"]
        state, begun = run["JobRunState"], run.get("StartedOn")
        logs = run.get("LogGroupName", "/aws-glue/jobs")
        return Job(state, run.get("ErrorMessage", ""), None if state == "WAITING" else begun, logs)

    def _release(self) -> tuple[str, tuple[int, int], tuple[str, str]]:
        job = self._ask(self.clients.glue.get_job, JobName=self.job)["Job"]
        formats = job.get("DefaultArguments", {}).get("--datalake-formats", "")
        return f"Glue {job.get('GlueVersion', '0.9')}", (5, 0), ("the job's --datalake-formats", formats)


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

"""Jobs of EMR Serverless, steps of EMR, runs of Glue: requests and responses match the services' models."""

import gzip
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.response import StreamingBody
from botocore.stub import ANY, Stubber

from sparklet.aws.clients import AwsClients
from sparklet.engines.create import engines_of
from sparklet.engines.glue import TOKEN
from sparklet.engines.spark_platform import PYTHON
from sparklet.errors import RemoteTaskError
from sparklet.ports import Engine

ENV = {"SPARKLET_BUCKET": "runs", "SPARKLET_LEDGER_TABLE": "ledger"}
ROLE = "arn:aws:iam::123456789012:role/jobs"
ARN = "arn:aws:emr-serverless:us-east-1:123456789012:/applications/00f1/jobruns/00job"
NAMED: Mapping[str, Mapping[str, Any]] = {
    "emr-serverless": {"application": "00f1", "role": ROLE, "conf": {"spark.executor.instances": "4"}},
    "emr": {"cluster": "j-1", "conf": {"spark.executor.instances": "4"}},
    "glue": {"job": "shards", "conf": {"spark.a": "1", "spark.b": "2"}},
}
COMMAND = ("shard", "--run", "flights-1", "--shard", "7", "--generation", "0")
STARTED = datetime(2026, 11, 22, 10, tzinfo=UTC)
TRACE = "Traceback (most recent call last):\n\nModuleNotFoundError: No module named 'flights'\n"


class Recorded:
    """Fake responses of AWS, in order; requests and responses are checked against the services' models."""

    def __init__(self, clients: AwsClients, stack: ExitStack) -> None:
        self._clients, self._stack, self._made = clients, stack, dict[str, Stubber]()

    def __getattr__(self, service: str) -> Stubber:
        if service not in self._made:
            self._made[service] = self._stack.enter_context(Stubber(getattr(self._clients, service)))
        return self._made[service]

    def stored_worker(self) -> None:
        for _ in range(2):
            self.s3.add_response(
                "put_object", {"ETag": '"1"'}, {"Bucket": "runs", "Key": ANY, "Body": ANY, "IfNoneMatch": "*"}
            )

    def log(self, bucket: str, key: str, text: str) -> None:
        body = gzip.compress(text.encode())
        place = {"Bucket": bucket, "Key": key}
        head = {"ContentLength": len(body), "ETag": '"1"', "LastModified": STARTED}
        self.s3.add_response("head_object", head, place)
        self.s3.add_response("get_object", {**head, "Body": StreamingBody(io.BytesIO(body), len(body))}, place)

    def no_log(self) -> None:
        self.s3.add_client_error("head_object", "404", "Not Found", 404)


@pytest.fixture
def aws(clients: AwsClients) -> Iterator[Recorded]:
    with ExitStack() as stack:
        yield Recorded(clients, stack)


@pytest.fixture
def engine(clients: AwsClients) -> Callable[[str], Engine]:
    return engines_of(clients, NAMED, ENV).__getitem__


def told(arguments: list[str]) -> Any:
    """The arguments that the program on the platform gets."""
    return json.loads(arguments[arguments.index("--sparklet") + 1])


TOLD = {"env": {"AWS_REGION": "us-east-1", **ENV}, "command": list(COMMAND)}


def test_an_unknown_engine_is_refused(clients: AwsClients) -> None:
    for named in ({"databricks": {"workspace": "w"}}, {"emr": {"clusters": "j-1"}}, {"fargate": {"cluster": "c"}}):
        [(name, engine)] = engines_of(clients, named, ENV).items()
        assert name in engine.unfit("")


# --- start ---


def application(release: str, **more: Any) -> Any:
    place = {"applicationId": "00f1", "arn": ARN.partition("/jobruns")[0], "releaseLabel": release, "type": "Spark"}
    return {"application": {**place, "state": "STARTED", "createdAt": STARTED, "updatedAt": STARTED, **more}}


def test_a_job_of_emr_serverless_is_asked_for(aws: Recorded, engine: Callable[[str], Engine]) -> None:
    """It has its application's tags: a job run takes none of a stack."""
    aws.stored_worker()
    asked: dict[str, Any] = {}
    tags = {"team": "data"}
    aws.emr_serverless.add_response("get_application", application("emr-7.13.0", tags=tags), {"applicationId": "00f1"})
    aws.emr_serverless.add_response("start_job_run", {"applicationId": "00f1", "jobRunId": "00job", "arn": ARN})
    aws.emr_serverless.client.meta.events.register_first(
        "before-parameter-build.emr-serverless.StartJobRun", lambda params, **_: asked.update(params)
    )

    assert engine("emr-serverless").start("token-1", COMMAND) == "00job"

    assert (asked["applicationId"], asked["executionRoleArn"], asked["tags"]) == ("00f1", ROLE, tags)
    submit = asked["jobDriver"]["sparkSubmit"]
    assert submit["entryPoint"].startswith("s3://runs/engines/")
    assert submit["sparkSubmitParameters"].endswith("/sparklet-worker.zip")
    assert told(submit["entryPointArguments"]) == TOLD
    [defaults] = asked["configurationOverrides"]["applicationConfiguration"]
    assert defaults["properties"]["spark.executor.instances"] == "4"
    assert defaults["properties"]["spark.emr-serverless.driverEnv.PYSPARK_PYTHON"] == PYTHON


def test_a_step_is_added_unless_the_cluster_has_it(aws: Recorded, engine: Callable[[str], Engine]) -> None:
    asked: list[Any] = []
    aws.emr.client.meta.events.register_first(
        "before-parameter-build.emr.AddJobFlowSteps", lambda params, **_: asked.append(params)
    )
    aws.stored_worker()
    aws.emr.add_response("list_steps", {"Steps": [], "Marker": "more"}, {"ClusterId": "j-1"})
    aws.emr.add_response(
        "list_steps", {"Steps": [{"Id": "s-0", "Name": "other"}]}, {"ClusterId": "j-1", "Marker": "more"}
    )
    aws.emr.add_response("add_job_flow_steps", {"StepIds": ["s-1"]})
    assert engine("emr").start("token-1", COMMAND) == "s-1"

    [step] = asked[0]["Steps"]
    aws.stored_worker()
    aws.emr.add_response("list_steps", {"Steps": [{"Id": "s-1", "Name": step["Name"]}]}, {"ClusterId": "j-1"})
    assert engine("emr").start("token-1", COMMAND) == "s-1"

    assert len(asked) == 1
    assert step["ActionOnFailure"] == "CONTINUE"
    words = step["HadoopJarStep"]["Args"]
    assert words[0] == "spark-submit"
    assert f"spark.pyspark.python={PYTHON}" in words
    assert told(words) == TOLD
    assert not any("{{" in word or "}}" in word for word in words)  # which YARN would expand
    assert "flights-1 shard 7" in step["Name"]


def test_a_glue_run_is_found_again_by_its_argument(aws: Recorded, engine: Callable[[str], Engine]) -> None:
    aws.stored_worker()
    asked: list[Any] = []
    aws.glue.client.meta.events.register_first(
        "before-parameter-build.glue.StartJobRun", lambda params, **_: asked.append(params)
    )
    listed = {"JobName": "shards", "MaxResults": 200}
    aws.glue.add_response("get_job_runs", {"JobRuns": [{"Id": "jr_0", "Arguments": {TOKEN: "token-0"}}]}, listed)
    aws.glue.add_response("start_job_run", {"JobRunId": "jr_1"})
    assert engine("glue").start("token-1", COMMAND) == "jr_1"

    arguments = asked[0]["Arguments"]
    aws.stored_worker()
    aws.glue.add_response("get_job_runs", {"JobRuns": [{"Id": "jr_1", "Arguments": arguments}]}, listed)
    assert engine("glue").start("token-1", COMMAND) == "jr_1"

    assert len(asked) == 1
    assert arguments["--scriptLocation"].startswith("s3://runs/engines/")
    assert told([word for pair in arguments.items() for word in pair]) == TOLD
    assert arguments["--conf"] == "spark.a=1 --conf spark.b=2"  # as Glue takes several


@pytest.mark.parametrize(
    ("name", "code", "message", "reason"),
    [
        ("glue", "ConcurrentRunsExceededException", "Concurrent runs exceeded for shards", "throttled"),
        ("glue", "EntityNotFoundException", "Job shards not found", ""),
        (
            "emr",
            "ValidationException",
            "Maximum number of active steps(State = Running) for cluster exceeded.",
            "throttled",
        ),
        ("emr", "ValidationException", "A job flow that is shutting down, terminated may not be modified.", ""),
        ("emr-serverless", "ThrottlingException", "Rate exceeded", "throttled"),
        ("emr-serverless", "ResourceNotFoundException", "Application 00f1 does not exist", ""),
    ],
)
def test_only_a_lack_of_capacity_is_retried(
    aws: Recorded, engine: Callable[[str], Engine], name: str, code: str, message: str, reason: str
) -> None:
    aws.stored_worker()
    listed: dict[str, Any] = {
        "glue": ("get_job_runs", {"JobRuns": []}),
        "emr": ("list_steps", {"Steps": []}),
        "emr-serverless": ("get_application", application("emr-7.13.0")),
    }
    service = getattr(aws, name.replace("-", "_"))
    if name in listed:
        service.add_response(*listed[name])
    service.add_client_error("add_job_flow_steps" if name == "emr" else "start_job_run", code, message)

    with pytest.raises(RemoteTaskError, match=message[:20]) as raised:
        engine(name).start("token-1", COMMAND)

    assert raised.value.reason == reason


# --- the state of workers ---


def serverless_job(state: str, details: str, **more: Any) -> dict[str, Any]:
    job = {
        "applicationId": "00f1",
        "jobRunId": "00job",
        "arn": ARN,
        "createdBy": ROLE,
        "createdAt": STARTED,
        "updatedAt": STARTED,
        "executionRole": ROLE,
        "releaseLabel": "emr-7.13.0",
        "jobDriver": {"sparkSubmit": {"entryPoint": "s3://runs/p.py"}},
        "state": state,
        "stateDetails": details,
    }
    return {"jobRun": {**job, **more}}


def test_a_failed_emr_serverless_job_has_the_end_of_its_log(aws: Recorded, engine: Callable[[str], Engine]) -> None:
    aws.emr_serverless.add_response("get_job_run", serverless_job("FAILED", "Job failed, please check complete logs"))
    aws.no_log()  # nothing was printed
    aws.log("runs", "engine-logs/applications/00f1/jobs/00job/SPARK_DRIVER/stderr.gz", TRACE)

    cause = engine("emr-serverless").stopped(["00job"])["00job"]

    assert cause.error_class == "Stopped.FAILED"
    assert cause.message.startswith("Job failed")
    assert "No module named 'flights'" in cause.message


def test_a_failed_emr_step_has_the_end_of_its_log(aws: Recorded, engine: Callable[[str], Engine]) -> None:
    details = {"Reason": "Unknown Error.", "LogFile": "s3n://logs/j-1/steps/s-1/stderr.gz"}
    status = {"State": "FAILED", "FailureDetails": details}
    aws.emr.add_response(
        "describe_step", {"Step": {"Id": "s-1", "Status": status}}, {"ClusterId": "j-1", "StepId": "s-1"}
    )
    aws.log("logs", "j-1/steps/s-1/stdout.gz", TRACE)

    cause = engine("emr").stopped(["s-1"])["s-1"]

    assert "Unknown Error" in cause.message
    assert "No module named 'flights'" in cause.message


def test_a_failed_glue_run_has_the_end_of_its_log(aws: Recorded, engine: Callable[[str], Engine]) -> None:
    run = {
        "Id": "jr_1",
        "JobRunState": "FAILED",
        "ErrorMessage": "SystemExit: 75",
        "LogGroupName": "/aws-glue/jobs-role-safe/",
    }
    aws.glue.add_response("get_job_run", {"JobRun": run}, {"JobName": "shards", "RunId": "jr_1"})
    aws.logs.add_client_error("get_log_events", "ResourceNotFoundException", "The log stream does not exist")
    events = [{"timestamp": 1, "message": line} for line in filter(None, TRACE.splitlines())]
    place = {"logGroupName": "/aws-glue/jobs-role-safe/error", "logStreamName": "jr_1", "limit": ANY}
    aws.logs.add_response("get_log_events", {"events": events}, place)

    cause = engine("glue").stopped(["jr_1"])["jr_1"]

    assert "SystemExit: 75" in cause.message
    assert "No module named 'flights'" in cause.message


def test_a_running_worker_is_not_reported_as_stopped(aws: Recorded, engine: Callable[[str], Engine]) -> None:
    aws.emr_serverless.add_response("get_job_run", serverless_job("RUNNING", "it runs", startedAt=STARTED))
    aws.emr.add_response("describe_step", {"Step": {"Id": "s-1", "Status": {"State": "CANCEL_PENDING"}}})
    aws.glue.add_response("get_job_run", {"JobRun": {"Id": "jr_1", "JobRunState": "STOPPING"}})

    for name, task_id in (("emr-serverless", "00job"), ("emr", "s-1"), ("glue", "jr_1")):
        assert engine(name).stopped([task_id]) == {}


def test_a_job_waiting_for_capacity_is_not_a_running_one(aws: Recorded, engine: Callable[[str], Engine]) -> None:
    timeline = {"CreationDateTime": STARTED, "StartDateTime": STARTED}
    for begun in (False, True):
        job = serverless_job("RUNNING", "it runs", startedAt=STARTED) if begun else serverless_job("QUEUED", "it waits")
        aws.emr_serverless.add_response("get_job_run", job)
        status = {"State": "RUNNING", "Timeline": timeline} if begun else {"State": "PENDING"}
        aws.emr.add_response("describe_step", {"Step": {"Status": status}})
        run = {"JobRunState": "RUNNING" if begun else "WAITING", "StartedOn": STARTED}
        aws.glue.add_response("get_job_run", {"JobRun": run})

        for name in NAMED:
            assert engine(name).begun_s("it") == (STARTED.timestamp() if begun else math.inf)


def test_a_worker_is_stopped_with_time_to_give_back(aws: Recorded, engine: Callable[[str], Engine]) -> None:
    asked = {"applicationId": "00f1", "jobRunId": "00job", "shutdownGracePeriodInSeconds": 60}
    aws.emr_serverless.add_response("cancel_job_run", {"applicationId": "00f1", "jobRunId": "00job"}, asked)
    aws.emr.add_response("cancel_steps", {}, {"ClusterId": "j-1", "StepIds": ["s-1"]})
    aws.glue.add_response("batch_stop_job_run", {}, {"JobName": "shards", "JobRunIds": ["jr_1"]})

    for name, task_id in (("emr-serverless", "00job"), ("emr", "s-1"), ("glue", "jr_1")):
        engine(name).stop(task_id)

    for service in (aws.emr_serverless, aws.emr, aws.glue):
        service.assert_no_pending_responses()


# --- missing libraries ---


@pytest.mark.parametrize(
    ("release", "jars", "table", "why"),
    [
        ("emr-6.15.0", "/usr/share/aws/delta/lib/delta-core.jar", "delta", "emr-6.15.0 has no Python 3.11"),
        ("emr-7.13.0", "/usr/share/aws/delta/lib/delta-core.jar", "delta", ""),
        ("emr-7.13.0", "", "delta", "spark.jars do not name delta"),
        ("emr-7.13.0", "", "hudi", ""),
        ("emr-7.13.0", "", "", ""),
        ("emr-spark-8.1.0", "", "parquet", ""),
    ],
)
def test_an_application_lacks_python_or_jars(
    clients: AwsClients, aws: Recorded, release: str, jars: str, table: str, why: str
) -> None:
    aws.emr_serverless.add_response("get_application", application(release), {"applicationId": "00f1"})
    named = {"emr-serverless": {**NAMED["emr-serverless"], "conf": {"spark.jars": jars}}}

    said = engines_of(clients, named, ENV)["emr-serverless"].unfit(table)

    assert said.startswith(why)
    assert bool(said) == bool(why)


@pytest.mark.parametrize(
    ("release", "classified", "table", "why"),
    [
        ("emr-6.15.0", "iceberg-defaults", "iceberg", "Python 3.11"),
        ("emr-7.13.0", "iceberg-defaults", "iceberg", ""),
        ("emr-7.13.0", "spark-defaults", "iceberg", "iceberg"),
    ],
)
def test_a_cluster_lacks_python_or_jars(
    aws: Recorded, engine: Callable[[str], Engine], release: str, classified: str, table: str, why: str
) -> None:
    cluster = {"Id": "j-1", "ReleaseLabel": release, "Configurations": [{"Classification": classified}]}
    aws.emr.add_response("describe_cluster", {"Cluster": cluster}, {"ClusterId": "j-1"})

    said = engine("emr").unfit(table)

    assert why in said
    assert bool(said) == bool(why)


@pytest.mark.parametrize(
    ("release", "line"),
    [("emr-7.13.0", "3.5"), ("emr-spark-8.0.0", "4.0"), ("emr-spark-8.1.0", "4.1"), ("emr-spark-9.0.0", "")],
)
def test_the_spark_version_follows_from_the_emr_release(
    aws: Recorded, engine: Callable[[str], Engine], release: str, line: str
) -> None:
    cluster = {"Id": "j-1", "ReleaseLabel": release, "Configurations": []}
    aws.emr.add_response("describe_cluster", {"Cluster": cluster}, {"ClusterId": "j-1"})

    assert engine("emr").spark() == line


@pytest.mark.parametrize(("version", "line"), [("5.0", "3.5"), ("5.1", "3.5"), ("6.0", "4.1"), ("10.0", "")])
def test_the_spark_version_follows_from_the_glue_version(
    aws: Recorded, engine: Callable[[str], Engine], version: str, line: str
) -> None:
    aws.glue.add_response("get_job", {"Job": {"Name": "shards", "GlueVersion": version}}, {"JobName": "shards"})

    assert engine("glue").spark() == line


@pytest.mark.parametrize(
    ("version", "formats", "table", "why"),
    [
        ("4.0", "delta", "delta", "Glue 4.0 has no Python 3.11"),
        ("5.0", "delta,iceberg", "iceberg", ""),
        ("5.1", "delta", "iceberg", "the job's --datalake-formats do not name iceberg"),
        ("6.0", "", "", ""),
    ],
)
def test_a_job_of_glue_lacks_python_or_jars(
    aws: Recorded, engine: Callable[[str], Engine], version: str, formats: str, table: str, why: str
) -> None:
    job = {"Name": "shards", "GlueVersion": version, "DefaultArguments": {"--datalake-formats": formats}}
    aws.glue.add_response("get_job", {"Job": job}, {"JobName": "shards"})

    said = engine("glue").unfit(table)

    assert said.startswith(why)
    assert bool(said) == bool(why)

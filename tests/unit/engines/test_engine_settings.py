"""Scripts get the same settings in engines as in functions, or the engine is refused."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from botocore.stub import Stubber

from sparklet.aws.clients import AwsClients
from sparklet.aws.stacks import settings_of
from sparklet.engines.create import engines_of
from sparklet.errors import RemoteTaskError, SettingsError
from sparklet.ports import Engine

COMMAND = ("shard", "--run", "flights-1", "--shard", "7", "--generation", "0")
CONF = {"spark.sql.session.timeZone": "Asia/Tokyo", "spark.a": "functions"}
FUNCTIONS = {
    "SPARKLET_SPARK_CONF": json.dumps(CONF),
    "SPARKLET_SCRIPT_ENV": json.dumps({"FORMAT": "{{day}}"}),  # YARN would expand it
    "PYICEBERG_CATALOG__ICEBERG__TYPE": "glue",
}
NAMED: Mapping[str, Mapping[str, Any]] = {
    "fargate": {
        "cluster": "c",
        "taskDefinition": "d:1",
        "subnets": "subnet-1",
        "securityGroups": "sg-1",
        "assignPublicIp": "DISABLED",
    },
    "emr-serverless": {"application": "00f1", "role": "arn:aws:iam::123456789012:role/jobs"},
    "emr": {"cluster": "j-1"},
    "glue": {"job": "shards"},
    "standalone": {"master": "spark://10.0.0.7:7077"},
    "connect": {"remote": "sc://10.0.0.7:15002"},
}
ANSWERS: Mapping[str, tuple[str, str, Any]] = {
    "fargate": ("ecs", "run_task", {"tasks": [{"taskArn": "arn:1"}], "failures": []}),
    "emr-serverless": (
        "emr_serverless",
        "start_job_run",
        {"applicationId": "00f1", "jobRunId": "1", "arn": "arn:" + "1" * 60},
    ),
    "emr": ("emr", "add_job_flow_steps", {"StepIds": ["s-1"]}),
    "glue": ("glue", "start_job_run", {"JobRunId": "jr_1"}),
}
LISTED: Mapping[str, tuple[str, Any]] = {
    "glue": ("get_job_runs", {"JobRuns": []}),
    "emr": ("list_steps", {"Steps": []}),
    "emr-serverless": (
        "get_application",
        {
            "application": {
                "applicationId": "00f1",
                "arn": "arn:" + "1" * 60,
                "releaseLabel": "emr-7.13.0",
                "type": "Spark",
                "state": "STARTED",
                "createdAt": 0,
                "updatedAt": 0,
            }
        },
    ),
}


@pytest.fixture
def clients(clients: AwsClients, monkeypatch: pytest.MonkeyPatch) -> AwsClients:
    monkeypatch.setattr(
        "sparklet.engines.spark_platform.store_worker", lambda store, bucket: ("s3://runs/p.py", "s3://runs/w.zip")
    )
    return clients


def engine(clients: AwsClients, name: str, functions: Mapping[str, str], **own: Any) -> Engine:
    named = {**NAMED, name: {**NAMED[name], **own}}
    return engines_of(clients, named, {"SPARKLET_BUCKET": "runs"}, lambda: functions)[name]


def started(clients: AwsClients, name: str, functions: Mapping[str, str], **own: Any) -> dict[str, str]:
    """The variables that a worker of an engine is started with."""
    service, call, answer = ANSWERS.get(name, ANSWERS["fargate"])
    asked: list[Any] = []
    client = getattr(clients, service)
    client.meta.events.register_first("before-parameter-build.*.*", lambda params, **_: asked.append(params))
    with Stubber(client) as stub:
        if name in LISTED:
            stub.add_response(*LISTED[name])
        stub.add_response(call, answer)
        engine(clients, name, functions, **own).start("token-1", COMMAND)
    if service == "ecs":
        [container] = asked[-1]["overrides"]["containerOverrides"]
        return {each["name"]: each["value"] for each in container["environment"]}
    text = next(text for text in _texts(asked[-1]) if text.startswith('{"env"'))
    assert not ("{{" in text or "}}" in text)
    variables: dict[str, str] = json.loads(text)["env"]
    return variables


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping | list):
        for each in node.values() if isinstance(node, Mapping) else node:
            yield from _texts(each)


@pytest.mark.parametrize("name", [name for name in NAMED if name != "connect"])
def test_an_engines_worker_gets_the_settings_of_functions(clients: AwsClients, name: str) -> None:
    assert FUNCTIONS.items() <= started(clients, name, FUNCTIONS).items()


def test_settings_of_an_engine_itself_win(clients: AwsClients) -> None:
    variables = started(clients, "emr", FUNCTIONS, conf={"spark.a": "engine"})

    assert json.loads(variables["SPARKLET_SPARK_CONF"]) == {"spark.sql.session.timeZone": "Asia/Tokyo"}


JAVA, JARS = {"SPARKLET_JAVA_OPTIONS": "-Duser.timezone=UTC"}, {"SPARKLET_SPARK_CONF": '{"spark.jars": "s3://a/b.jar"}'}


@pytest.mark.parametrize(
    ("name", "functions", "setting"),
    [
        *((name, JAVA, "SPARKLET_JAVA_OPTIONS") for name in ("emr-serverless", "emr", "glue", "standalone", "connect")),
        *((name, JARS, "SparkConf") for name in ("emr-serverless", "emr", "glue")),
        ("connect", FUNCTIONS, "SparkConf"),
    ],
)
def test_an_engine_that_cannot_have_a_setting_is_refused(
    clients: AwsClients, name: str, functions: Mapping[str, str], setting: str
) -> None:
    with pytest.raises(RemoteTaskError, match=f"{setting}.* EngineSparkConf"):
        engine(clients, name, functions).start("token-1", COMMAND)
    if name in ("standalone", "connect"):  # the others ask for their release first
        assert setting in engine(clients, name, functions).unfit("")
    if name != "connect":
        own = {"spark.executor.extraJavaOptions": "-Duser.timezone=UTC", "spark.jars": "s3://a/b.jar"}
        assert started(clients, name, functions, conf=own)


def test_settings_are_read_from_the_published_function_version() -> None:
    clients, others = AwsClients(region="eu-west-1"), {"SPARKLET_BUCKET": "runs", "SPARKLET_JAVA_OPTIONS": ""}
    with Stubber(clients.functions) as functions:
        answer = {"Environment": {"Variables": {**FUNCTIONS, **others}}}
        functions.add_response("get_function_configuration", answer, {"FunctionName": "worker:live"})

        assert settings_of(clients, "worker:live") == FUNCTIONS


@pytest.mark.parametrize(
    "refuse",
    [
        lambda stub: stub.add_client_error("get_function_configuration", "AccessDeniedException"),
        lambda stub: stub.add_response(
            "get_function_configuration", {"Environment": {"Error": {"Message": "kms:Decrypt"}}}
        ),
    ],
)
def test_settings_that_cannot_be_read_are_the_cause(refuse: Callable[[Stubber], None]) -> None:
    clients = AwsClients(region="eu-west-1")
    with Stubber(clients.functions) as functions:
        refuse(functions)
        with pytest.raises(SettingsError, match="the settings of worker:live"):
            settings_of(clients, "worker:live")

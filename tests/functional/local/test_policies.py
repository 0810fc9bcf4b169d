"""The template's policies, enforced: each function can do its work with its own role, and nothing beyond it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.aws.messaging import SqsQueue
from sparklet.aws.s3 import S3Store
from sparklet.cli import main
from sparklet.clock import SystemClock
from sparklet.fanout.deployment import Deployment
from sparklet.fanout.planning.new_run import RunRequest, new_run
from sparklet.local.environment import adopted, of_client, of_host
from sparklet.local.local_template import load_template, localise, to_json
from sparklet.model import InputObject, PartRecord, Position, Run, RunState, Shard, ShardState
from tests.functional.local.conftest import PROBES, eventually
from tests.stand_ins.ministack import free_port
from tests.stand_ins.template_in_s3 import template_url

pytestmark = pytest.mark.stack

PARAMETERS = {"ImageUri": "local", "FunctionTimeoutS": "60", "MaximumConcurrency": "2"}
SECRET = "only the root's"


class Earlier(SystemClock):
    """Two hours ago: whoever planned then is dead by now."""

    def now_s(self) -> float:
        return super().now_s() - 7200


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The template deployed where policies are enforced; functions run with their roles' credentials."""
    folder = tmp_path_factory.mktemp("policies")
    port = free_port()
    client_env = {
        **of_client(f"http://127.0.0.1:{port}", ""),
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }
    del client_env["AWS_SESSION_TOKEN"]
    own = {"AUTH": "true", "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "IOT_MTLS_ENABLED": "0"}
    env = {**of_host(), **client_env, **own, "TMPDIR": str(folder), "LOG_LEVEL": "WARNING"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROBES), env.get("PYTHONPATH")]))
    with open(folder / "aws.log", "wb") as log:
        server = subprocess.Popen([sys.executable, "-m", "ministack"], env=env, stdout=log, stderr=log)
    try:
        with adopted(client_env):
            yield deploy()
    finally:
        server.kill()
        server.wait()


def deploy() -> dict[str, str]:
    formation = boto3.Session().client("cloudformation")

    def answers() -> bool:
        try:
            formation.list_stacks()
        except (BotoCoreError, ClientError):
            return False
        return True

    eventually(answers)
    template = localise(load_template(), PARAMETERS, {"WorkerFunction": "policy_probes.worker"}, {})
    for name in ("BucketPolicy", "QueuePolicy", "DeadLetterQueuePolicy"):
        del template["Resources"][name]  # they refuse whoever comes without TLS, and so everybody here
    body = to_json(template).replace(
        '"sqs:SendMessage"', '["sqs:SendMessage","sqs:SendMessageBatch"]'
    )  # AWS knows no such action
    formation.create_stack(
        StackName="sparklet",
        TemplateURL=template_url(body),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in PARAMETERS.items()],
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
    )
    eventually(lambda: formation.describe_stacks(StackName="sparklet")["Stacks"][0]["StackStatus"] == "CREATE_COMPLETE")
    (stack,) = formation.describe_stacks(StackName="sparklet")["Stacks"]
    functions = boto3.Session().client("lambda")
    for mapping in functions.list_event_source_mappings()["EventSourceMappings"]:
        functions.update_event_source_mapping(UUID=mapping["UUID"], Enabled=False)  # functions are called by name here
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


@pytest.fixture(scope="module")
def at(outputs: dict[str, str]) -> Deployment:
    clients = AwsClients()
    ledger, queue = DynamoLedger(clients, outputs["LedgerTable"]), SqsQueue(clients, outputs["QueueUrl"])
    return Deployment(outputs["BucketName"], S3Store(clients), ledger, queue, Earlier())


@pytest.fixture(scope="module")
def run(at: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose planner died before its first part."""
    script = tmp_path_factory.mktemp("script") / "job.py"
    script.write_text("print('hello')\n")
    at.store.put(f"s3://{at.bucket}/input/1", b"rows")
    request = RunRequest(
        str(script), (f"s3://{at.bucket}/input/",), f"s3://{at.bucket}/output/policies/", run_id="policies"
    )
    return new_run(at, request)


def invoke(function: str, event: Any) -> Any:
    answer: Any = boto3.Session().client("lambda").invoke(FunctionName=function, Payload=json.dumps(event))
    document = json.loads(answer["Payload"].read())
    assert "FunctionError" not in answer, document
    return document


def test_the_roles_suffice_from_a_dead_planner_to_the_manifests(
    outputs: dict[str, str], at: Deployment, run: Run
) -> None:
    # GIVEN a run that nobody has planned
    # WHEN the checker looks, it plans, and sends a message
    report = invoke(outputs["CheckerFunctionName"], {})
    assert report["runs"]["policies"]["planned"] is True
    (message,) = at.queue.receive()

    # WHEN the worker does the shard
    answer = invoke(outputs["WorkerFunctionName"], {"shard": json.loads(message.body), "receipt": message.receipt})

    # THEN its role allowed that and nothing beyond it
    assert set(answer["refused"].values()) == {True}, answer
    assert at.ledger.shards.get("policies", 0).state is ShardState.SUCCEEDED

    # WHEN the checker looks again, it writes the manifests and ends the run
    invoke(outputs["CheckerFunctionName"], {})
    assert at.ledger.runs.get("policies").state is RunState.SUCCEEDED
    assert at.store.head(at.run_uri("policies", "manifest.json")).size_bytes


def test_the_planners_role_suffices_to_enter_and_plan_a_run(outputs: dict[str, str], at: Deployment) -> None:
    at.store.put(f"s3://{at.bucket}/scripts/job.py", b"print('hello')\n")
    at.store.put(f"s3://{at.bucket}/input/planned/1", b"rows")
    request = {
        "script": f"s3://{at.bucket}/scripts/job.py",
        "inputs": f"s3://{at.bucket}/input/planned/",
        "output": f"s3://{at.bucket}/output/planned/",
        "run_id": "planned",
        "incremental": True,
    }

    answer = invoke(outputs["PlannerFunctionName"], request)

    assert (answer["sealed"], answer["shards"]) == (True, 1)
    assert invoke(outputs["PlannerFunctionName"], {"run_id": "planned"}) == answer
    (message,) = at.queue.receive()
    assert json.loads(message.body)["run_id"] == "planned"
    at.queue.delete(message.receipt)
    at.ledger.runs.cancel("planned")  # the checker has enough to do


def test_the_checkers_role_suffices_to_end_a_cancelled_run(outputs: dict[str, str], at: Deployment, run: Run) -> None:
    # GIVEN a run cancelled when its part was sealed, and its shard not entered
    script = run.scripts[0]
    at.ledger.runs.create(Run("cancelled", run.inputs, run.output_uri, (script,), created_s=at.clock.now_s()))
    line = Shard(0, (InputObject(f"{run.inputs[0]}1", 4),)).to_line()
    at.store.put(at.part_uri("cancelled", "part-00000-x.jsonl"), line)
    at.ledger.runs.add_part("cancelled", PartRecord(0, "part-00000-x.jsonl", 0, 1, 1, 4, Position(0, "input/1")))
    at.ledger.runs.cancel("cancelled")

    invoke(outputs["CheckerFunctionName"], {})

    assert at.ledger.runs.get("cancelled").state is RunState.CANCELLED
    assert at.ledger.shards.get("cancelled", 0).error_class == "RunCancelled"
    assert at.store.head(at.run_uri("cancelled", "manifest.json")).size_bytes


def test_the_command_line_finds_a_deployed_stack_its_runs_and_its_logs(
    outputs: dict[str, str], at: Deployment, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = boto3.Session().client("logs")
    own = {"time": "2026-11-20T11:22:33.444Z", "level": "INFO", "message": "claim answered", "attempt": "a1"}
    lines = [json.dumps({**own, "run": "policies", "shard": 0}), "hello from the script"]
    logs.create_log_stream(logGroupName=outputs["WorkerLogGroup"], logStreamName="2026/11/20/[$LATEST]0")
    events = [{"timestamp": round(time.time() * 1000) + n, "message": line} for n, line in enumerate(lines)]
    logs.put_log_events(logGroupName=outputs["WorkerLogGroup"], logStreamName="2026/11/20/[$LATEST]0", logEvents=events)

    assert main(["logs", "policies", "--stack", "sparklet"]) == 0
    assert "hello from the script" in capsys.readouterr().out

    assert main(["redrive", "policies", "--memory", "10240", "--stack", "sparklet"]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "ParameterKey=FunctionMemoryMB,ParameterValue=10240" in told
    assert "ParameterKey=ImageUri,UsePreviousValue=true" in told


def test_doctor_names_what_contradicts_itself_in_a_deployed_stack(
    outputs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The mappings were disabled by hand, see ``deploy``; then somebody repeats the published experiment."""
    attributes: Any = {"RedrivePolicy": json.dumps({"deadLetterTargetArn": outputs["DlqArn"], "maxReceiveCount": 1})}
    disabled = {"mapping of the worker", "mapping of the consumer of dead letters"}

    def found() -> set[str]:
        assert main(["doctor", "--stack", "sparklet", "--json"]) != 0
        return {each["check"] for each in json.loads(capsys.readouterr().out) if not each["ok"]}

    assert found() == disabled
    boto3.Session().client("sqs").set_queue_attributes(QueueUrl=outputs["QueueUrl"], Attributes=attributes)
    assert found() == {*disabled, "maxReceiveCount of Queue, throttling"}
    assert main(["doctor", "--stack", "sparklet"]) != 0
    assert "set maxReceiveCount to 20" in " ".join(capsys.readouterr().out.split())


def test_doctor_finds_every_queue_that_the_worker_reads(
    outputs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """As sam/api.yaml adds one, whose visibility nobody raised with the worker's timeout."""
    sqs, functions = boto3.Session().client("sqs"), boto3.Session().client("lambda")
    url = sqs.create_queue(QueueName="tasks", Attributes={"VisibilityTimeout": "60"})["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    functions.create_event_source_mapping(EventSourceArn=arn, FunctionName=outputs["WorkerAliasArn"], Enabled=False)

    assert main(["doctor", "--stack", "sparklet", "--json"]) != 0

    checks = {each["check"] for each in json.loads(capsys.readouterr().out)}
    assert "visibility of tasks, timeout of the worker" in checks


def test_doctor_looks_at_the_account_before_there_is_a_stack(
    outputs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--stack", "tomorrow", "--json"]) != 0

    stack, account = json.loads(capsys.readouterr().out)
    assert (stack["check"], stack["ok"]) == ("stack tomorrow", False)
    assert (account["check"], account["ok"]) == ("concurrency of the account", True)


def test_the_consumer_of_dead_letters_may_keep_and_settle_them(
    outputs: dict[str, str], at: Deployment, run: Run
) -> None:
    letters = [
        {"messageId": "unreadable", "body": "?", "receiptHandle": "r"},
        {
            "messageId": "done",
            "body": json.dumps({"run_id": "policies", "shard": 0, "generation": 0}),
            "receiptHandle": "r",
        },
    ]

    answer = invoke(outputs["DlqConsumerFunctionName"], {"Records": letters})

    assert answer == {"batchItemFailures": []}
    assert [info.uri for info in at.store.list(f"s3://{at.bucket}/dead-letters/")]

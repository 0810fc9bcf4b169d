"""The template deployed into the local stand-in, and the command line on the deployed stack.

It is deployed with the defaults; ``recorded_stack`` has most parameters set. The settings of queues, roles, alarms and
buckets are asserted on the template itself (``test_templates``, ``tests/unit/template``).
"""

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparklet.app.doctor import contradictions, examine_stack
from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.aws.object_store import S3ObjectStore
from sparklet.aws.services import SqsTaskQueue
from sparklet.aws.stacks import stack_settings, unused_snapshots
from sparklet.cli import main
from sparklet.ledger.clock import SystemClock
from sparklet.local.deploy import load_template, localise, to_json
from sparklet.local.environment import REGION, applied, client_env
from sparklet.local.state import ACCOUNT
from sparklet.planning.new_run import new_run
from sparklet.planning.request import RunRequest
from sparklet.ports.deployment import Deployment
from tests.deploy.recorded_stack import client
from tests.stand_ins.formation import Stack, deploy
from tests.stand_ins.ministack import ministack
from tests.unit.template.reading import MAIN, TEMPLATES, of_type

pytestmark = pytest.mark.stack

DEFAULTS = {"ImageUri": "local", "FunctionTimeoutS": "900", "MaximumConcurrency": "50"}


class Deployed(Stack):
    """A stack whose resources are read from the services."""

    def queue(self, logical_id: str) -> dict[str, str]:
        answer = client("sqs").get_queue_attributes(QueueUrl=self.ids[logical_id], AttributeNames=["All"])
        return dict(answer["Attributes"])

    def mappings(self) -> list[dict[str, Any]]:
        every = client("lambda").list_event_source_mappings()["EventSourceMappings"]
        return [mapping for mapping in every if mapping["UUID"] in self.ids.values()]


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An account with a stream and nothing else."""
    with ministack(tmp_path_factory.mktemp("deployed")) as endpoint_url, applied(client_env(endpoint_url, "")):
        client("kinesis").create_stream(StreamName="events", ShardCount=1)
        yield


@pytest.fixture(scope="module")
def plain(account: None) -> Deployed:
    stack = deploy("plain", to_json(localise(load_template(), DEFAULTS, {}, {})), DEFAULTS)
    return Deployed(stack.name, stack.ids, stack.outputs)


def test_a_stream_of_its_own_stack_reaches_the_worker(plain: Deployed) -> None:
    body = to_json(TEMPLATES["streams.yaml"])
    arn = f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/events"

    stack = deploy("events", body, {"MainStack": "plain", "StreamArn": arn, "StreamBatchSize": "500"})
    try:
        [mapping] = Deployed(stack.name, stack.ids, stack.outputs).mappings()
        assert (mapping["EventSourceArn"], mapping["BatchSize"]) == (arn, 500)
        assert mapping["FunctionArn"] == plain.outputs["WorkerAliasArn"]
        assert mapping["DestinationConfig"]["OnFailure"]["Destination"] == plain.queue("DeadLetterQueue")["QueueArn"]
        policies = client("iam").list_role_policies(RoleName=plain.ids["WorkerRole"])
        assert any(name.startswith("kinesis-") for name in policies["PolicyNames"])
    finally:
        client("cloudformation").delete_stack(StackName="events")


def test_the_defaults_allow_nothing_outside_the_stack(plain: Deployed) -> None:
    assert {m["EventSourceArn"] for m in plain.mappings()} == {
        plain.queue(name)["QueueArn"] for name in ("Queue", "DeadLetterQueue")
    }
    # These two grant rights on the state machine to itself and to its steps; any other policy would grant rights on
    # resources outside the stack.
    policies = of_type(MAIN, "AWS::IAM::Policy").keys() & plain.ids.keys()
    assert policies == {"RunMachinePolicy", "StepPolicy"}
    assert int(plain.queue("Queue")["VisibilityTimeout"]) == 5400


def test_doctor_passes_a_fresh_stack_and_names_manual_changes(plain: Deployed) -> None:
    def contradicted() -> list[str]:
        return [each.check for each in contradictions(stack_settings(AwsClients(), plain.outputs))]

    assert contradicted() == []
    assert [finding.good for finding in examine_stack("plain")] == [True]

    functions, queues, events = client("lambda"), client("sqs"), client("events")
    of_shards = plain.queue("Queue")["QueueArn"]
    [mapping] = [each["UUID"] for each in plain.mappings() if each["EventSourceArn"] == of_shards]
    (rule,) = [each for each in events.list_rules()["Rules"] if each["Name"] in plain.ids.values()]
    receives = json.dumps({"deadLetterTargetArn": plain.queue("DeadLetterQueue")["QueueArn"], "maxReceiveCount": 1})
    changed = {"VisibilityTimeout": "600", "RedrivePolicy": receives, "MessageRetentionPeriod": "86400"}
    queues.set_queue_attributes(QueueUrl=plain.ids["Queue"], Attributes=changed)
    functions.update_event_source_mapping(UUID=mapping, Enabled=False)
    functions.put_function_concurrency(FunctionName=plain.ids["WorkerFunction"], ReservedConcurrentExecutions=5)
    events.disable_rule(Name=rule["Name"])
    # A queue such as sam/api.yaml adds, whose visibility was not raised with the worker's timeout.
    url = queues.create_queue(QueueName="tasks", Attributes={"VisibilityTimeout": "60"})["QueueUrl"]
    arn = queues.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    worker = plain.outputs["WorkerAliasArn"]
    of_tasks = functions.create_event_source_mapping(EventSourceArn=arn, FunctionName=worker, Enabled=False)

    try:
        assert set(contradicted()) == {
            "visibility of Queue, timeout of the worker",
            "visibility of tasks, timeout of the worker",
            "maxReceiveCount of Queue, throttling",
            "retention of Queue, time limit of a run",
            "reserved concurrency of the worker, MaximumConcurrency of its mapping",
            "mapping of the worker",
            "schedule of the checker",
        }
        assert not any(finding.good for finding in examine_stack("plain"))
        assert main(["doctor", "--stack", "plain", "--json"]) != 0
    finally:
        queue = {"VisibilityTimeout": "5400", "RedrivePolicy": receives.replace(": 1}", ": 20}")}
        queue["MessageRetentionPeriod"] = "345600"
        queues.set_queue_attributes(QueueUrl=plain.ids["Queue"], Attributes=queue)
        functions.update_event_source_mapping(UUID=mapping, Enabled=True)
        functions.delete_function_concurrency(FunctionName=plain.ids["WorkerFunction"])
        events.enable_rule(Name=rule["Name"])
        functions.delete_event_source_mapping(UUID=of_tasks["UUID"])
    assert contradicted() == []


def test_doctor_deletes_snapshots_that_no_alias_names(
    plain: Deployed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    functions = client("lambda")
    worker = {"FunctionName": plain.ids["WorkerFunction"]}
    functions.update_function_configuration(
        **worker, SnapStart={"ApplyOn": "PublishedVersions"}, EphemeralStorage={"Size": 512}, Runtime="python3.13"
    )
    before = functions.list_versions_by_function(**worker)["Versions"]
    for memory_mb in (1024, 2048):
        functions.update_function_configuration(**worker, MemorySize=memory_mb)
        unused = functions.publish_version(**worker)["Version"]
    clients = AwsClients()
    assert list(unused_snapshots(clients, plain.outputs).values()) == [1024, 2048]
    assert main(["doctor", "--stack", "plain", "--json"]) == 1
    finding = next(each for each in json.loads(capsys.readouterr().out) if each["check"].startswith("versions"))
    assert unused in finding["found"] and "USD a month" in finding["found"]
    assert "--delete-snapshots" in finding["remedy"]
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert main(["doctor", "--stack", "plain", "--delete-snapshots"]) == 1
    assert len(unused_snapshots(clients, plain.outputs)) == 2
    assert main(["doctor", "--stack", "plain", "--delete-snapshots", "--yes"]) == 0
    left = {each["Version"] for each in functions.list_versions_by_function(**worker)["Versions"]}
    assert left == {each["Version"] for each in before}


def test_doctor_checks_the_account_of_a_missing_stack(account: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--stack", "tomorrow", "--json"]) != 0

    stack, account_check = json.loads(capsys.readouterr().out)
    assert (stack["check"], stack["ok"]) == ("stack tomorrow", False)
    assert (account_check["check"], account_check["ok"]) == ("concurrency of the account", True)
    assert main(["runs", "--stack", "tomorrow"]) == 1
    assert "check --stack" in " ".join(capsys.readouterr().err.split())


def test_the_command_line_finds_a_stack_its_runs_and_logs(
    plain: Deployed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clients, outputs = AwsClients(), plain.outputs
    ledger, queue = DynamoLedger(clients, outputs["LedgerTable"]), SqsTaskQueue(clients, outputs["QueueUrl"])
    deployment = Deployment(outputs["BucketName"], S3ObjectStore(clients), ledger, queue, SystemClock())
    (tmp_path / "job.py").write_text("print('hello')\n")
    deployment.store.put(f"s3://{deployment.bucket}/input/1", b"rows")
    new_run(
        deployment,
        RunRequest(
            str(tmp_path / "job.py"), (f"s3://{deployment.bucket}/input/",), f"s3://{deployment.bucket}/output/", "r"
        ),
    )
    logs = client("logs")
    stream = {"logGroupName": outputs["WorkerLogGroup"], "logStreamName": "2026/11/20/[$LATEST]0"}
    common = {"time": "2026-11-20T11:22:33.444Z", "level": "INFO", "message": "claim answered", "attempt": "a1"}
    lines = [json.dumps({**common, "run": "r", "shard": 0}), "hello from the script"]
    logs.create_log_stream(**stream)
    events = [{"timestamp": round(time.time() * 1000) + n, "message": line} for n, line in enumerate(lines)]
    logs.put_log_events(**stream, logEvents=events)

    assert main(["logs", "r", "--stack", "plain"]) == 0
    assert "hello from the script" in capsys.readouterr().out

    assert main(["redrive", "r", "--memory", "10240", "--stack", "plain"]) == 1
    shown = " ".join(capsys.readouterr().err.split())
    assert "ParameterKey=FunctionMemoryMB,ParameterValue=10240" in shown
    assert "ParameterKey=ImageUri,UsePreviousValue=true" in shown

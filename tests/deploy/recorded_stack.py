"""The template with nearly all parameters set, deployed in a stand-in that enforces policies and records decisions."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.aws.object_store import S3ObjectStore, input_stores
from sparklet.ledger.clock import SystemClock
from sparklet.local.deploy import Template, load_template, localise, to_json
from sparklet.local.environment import REGION
from sparklet.local.java import find_java
from sparklet.local.state import ACCOUNT
from sparklet.ports.deployment import Deployment
from tests.deploy.policies import Call
from tests.functional.worker.conftest import SMALL, local_jars
from tests.stand_ins.enforcing import enforcing_ministack
from tests.stand_ins.formation import deploy
from tests.stand_ins.read_queues import ReadSqsQueue
from tests.waiting import deadline_s

STACK = "sparklet"
OF_WORKERS = ("SPARKLET_SCRATCH",)  # variables that worker_environment sets
OUTSIDE, THEIRS = "outside", "theirs"  # buckets outside the stack; the second can be read only by the role ROLE
ROLE = f"arn:aws:iam::{ACCOUNT}:role/theirs"
PARAMETERS = {
    "ImageUri": "local",
    "LargeFunction": "yes",
    "FunctionTimeoutS": "300",
    "MaximumConcurrency": "2",
    "DefaultScript": f"s3://{OUTSIDE}/in/jobs/job.py",
    "ScriptPrefixes": f"s3://{OUTSIDE}/in/jobs/",
    "ReadObjectArns": f"arn:aws:s3:::{OUTSIDE}/in*",
    "WriteObjectArns": f"arn:aws:s3:::{OUTSIDE}/out*",
    "ListBucketArns": f"arn:aws:s3:::{OUTSIDE}",
    "InputRoleArns": ROLE,
    "AlarmTopicArn": f"arn:aws:sns:{REGION}:{ACCOUNT}:alarms",
    "NoticeTopicArn": f"arn:aws:sns:{REGION}:{ACCOUNT}:notices",
    "NoticeBusArn": f"arn:aws:events:{REGION}:{ACCOUNT}:event-bus/notices",
    "KmsKeyArn": f"arn:aws:kms:{REGION}:{ACCOUNT}:key/11111111-2222-3333-4444-555555555555",
    "SubnetIds": "subnet-1",
    "SecurityGroupIds": "sg-1",
    "RolePath": "/data/",
    "RoleNamePrefix": "data-sparklet-",
    "IcebergCatalogType": "glue",
    "IcebergWarehouse": f"s3://{OUTSIDE}/out/lake",
    "GlueDatabaseArns": f"arn:aws:glue:{REGION}:{ACCOUNT}:database/lake",
    "ReadGlueDatabaseArns": f"arn:aws:glue:{REGION}:{ACCOUNT}:database/sales",
}


def client(service: str) -> Any:
    """A client with the present credentials of this process."""
    return boto3.Session().client(service)  # type: ignore[call-overload]


class Earlier(SystemClock):
    """A clock two hours ago: a planner that began then counts as dead now."""

    def now_s(self) -> float:
        return super().now_s() - 7200


@dataclass
class RecordedStack:
    """A deployed stack, and the records of its functions' calls to AWS."""

    template: Template
    outputs: Mapping[str, str]
    names: Mapping[str, str]  # logical id → physical name
    records: Path

    @property
    def bucket(self) -> str:
        return self.outputs["BucketName"]

    def deployment(self, clock: SystemClock | None = None) -> Deployment:
        """The stack's ports with the account's own credentials, which no policy limits."""
        clients = AwsClients()
        ledger = DynamoLedger(clients, self.outputs["LedgerTable"])
        queue = ReadSqsQueue(clients, self.outputs["QueueUrl"])
        clock = clock or SystemClock()
        return Deployment(self.bucket, S3ObjectStore(clients), ledger, queue, clock, input_stores(clients))

    def invoke(self, function: str, event: Any) -> Any:
        """Call a function by its logical id; return its answer."""
        answer, failed = self._answer(function, event)
        assert not failed, answer
        return answer

    def failure(self, function: str, event: Any) -> str:
        """Call a function that must fail; return its error message."""
        answer, failed = self._answer(function, event)
        assert failed, answer
        return str(answer["errorMessage"])

    def _answer(self, function: str, event: Any) -> tuple[Any, bool]:
        once = Config(read_timeout=deadline_s(120), retries={"total_max_attempts": 1})  # a retry would run beside it
        functions = boto3.Session().client("lambda", config=once)
        response: Any = functions.invoke(FunctionName=self.names[function], Payload=json.dumps(event))
        return json.loads(response["Payload"].read()), "FunctionError" in response

    def calls(self) -> Iterator[Call]:
        """The recorded calls with roles' credentials, in order."""
        for line in self.records.read_text().splitlines():
            record = json.loads(line)
            principal = record["principal"]
            if ":assumed-role/" in principal:
                keys = {key.lower(): value for key, value in record["keys"].items()}
                yield Call(principal.split("/")[1], record["action"], record["resource"], keys, record["allowed"])

    def statements(self, role: str) -> list[dict[str, Any]]:
        """All statements of a deployed role's policies, as IAM returns them."""
        iam = client("iam")
        names = iam.list_role_policies(RoleName=role)["PolicyNames"]
        attached = iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]
        assert not attached, f"{role} has managed policies, which nobody here reads: {attached}"
        documents: list[Any] = [iam.get_role_policy(RoleName=role, PolicyName=n)["PolicyDocument"] for n in names]
        return [statement for document in documents for statement in document["Statement"]]


@contextmanager
def recorded_stack(folder: Path) -> Iterator[RecordedStack]:
    """Deploy the stack and yield it; meanwhile this process has the account's own credentials."""
    with enforcing_ministack(folder, worker_environment(folder)) as (_, records):
        _prepare()
        yield _deploy(records)


def worker_environment(folder: Path) -> dict[str, str]:
    """The environment variables of a small real worker with folders of its own."""
    for name in ("scratch", "logs"):
        (folder / name).mkdir()
    return {
        "JAVA_HOME": str(find_java().parents[1]),
        **local_jars(),
        "SPARKLET_SCRATCH": str(folder / "scratch"),
        "SPARKLET_LOG_DIR": str(folder / "logs"),
        **SMALL,
    }


def _prepare() -> None:
    """Create what is outside the stack: buckets, a database, and another account's role."""
    s3, iam = client("s3"), client("iam")
    for bucket in (OUTSIDE, THEIRS):
        s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket=OUTSIDE, VersioningConfiguration={"Status": "Enabled"})
    client("glue").create_database(DatabaseInput={"Name": "lake"})
    _make_table_of_glue()
    client("sns").create_topic(Name="notices")
    client("events").create_event_bus(Name="notices")
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}}
    reads = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": "arn:aws:s3:::theirs*"}
    iam.create_role(RoleName="theirs", AssumeRolePolicyDocument=_document(trust))
    iam.put_role_policy(RoleName="theirs", PolicyName="read", PolicyDocument=_document(reads))


def _make_table_of_glue() -> None:
    """Create the table ``sales.visits``: CSV with one partition, whose file the scenarios write."""
    glue, hive = client("glue"), "org.apache.hadoop.hive"
    stored: Any = {
        "Columns": [{"Name": "id", "Type": "string"}],
        "Location": f"s3://{OUTSIDE}/in/visits/",
        "InputFormat": "org.apache.hadoop.mapred.TextInputFormat",
        "OutputFormat": f"{hive}.ql.io.HiveIgnoreKeyTextOutputFormat",
        "SerdeInfo": {"SerializationLibrary": f"{hive}.serde2.OpenCSVSerde"},
    }
    table = {"Name": "visits", "TableType": "EXTERNAL_TABLE", "StorageDescriptor": stored}
    partition = {"Values": ["a"], "StorageDescriptor": {**stored, "Location": f"{stored['Location']}day=a/"}}
    glue.create_database(DatabaseInput={"Name": "sales"})
    glue.create_table(DatabaseName="sales", TableInput={**table, "PartitionKeys": [{"Name": "day", "Type": "string"}]})
    glue.create_partition(DatabaseName="sales", TableName="visits", PartitionInput=partition)


def _document(statement: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def _deploy(records: Path) -> RecordedStack:
    template, functions = load_template(), client("lambda")
    stack = deploy(STACK, to_json(localise(template, PARAMETERS, {}, dict.fromkeys(OF_WORKERS, ""))), PARAMETERS)
    assert all(stack.outputs.values()), stack.outputs
    for mapping in functions.list_event_source_mappings()["EventSourceMappings"]:
        functions.update_event_source_mapping(UUID=mapping["UUID"], Enabled=False)  # the tests call functions directly
    events = client("events")
    for rule in events.list_rules()["Rules"]:
        events.disable_rule(Name=rule["Name"])
    return RecordedStack(template, stack.outputs, stack.ids, records)

"""The main template and sam/api.yaml, deployed in a stand-in that enforces policies."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

from sparklet.local.deploy import load_template, localise, parse_template, to_json
from tests.stand_ins.enforcing import enforcing_ministack
from tests.stand_ins.formation import deploy
from tests.unit.template.reading import resolved

ROOT = Path(__file__).resolve().parents[3]
PROBES = Path(__file__).with_name("probes")
MAIN = {"ImageUri": "local", "FunctionTimeoutS": "60", "MaximumConcurrency": "2"}
API = {"MainStack": "sparklet", "FunctionTimeoutS": "60", "Access": "API_KEY", "MaximumConcurrency": "2"}
JOB = """\
import json, os, sys
event = json.loads(sys.argv[sys.argv.index("--event") + 1])
with open(os.path.join(os.environ["SHOWN"], event["sparklet"]["task"]), "a") as f:
    f.write("ran\\n")
if event.get("fail"):
    raise SyntaxError(event["fail"])
with open(os.environ["SPARKLET_OUTCOME_FILE"], "w") as f:
    json.dump({"rows": 7, "answer": {"day": event.get("day")}}, f)
"""


@cache
def client(service: str) -> Any:
    """A client with the account's own credentials, which no policy limits; it needs the fixture ``deployed``."""
    return boto3.Session().client(service)  # type: ignore[call-overload]


@dataclass(frozen=True)
class Answer:
    """The response to a request."""

    status: int
    body: Any
    headers: Mapping[str, str]


@dataclass
class Deployed:
    """Both stacks, and a client of the API."""

    endpoint: str
    main: Mapping[str, str]  # outputs of the main stack
    api: Mapping[str, str]  # outputs of the API's stack
    topic: str
    inbox: str  # the URL of a queue that is subscribed to the topic
    folder: Path
    key: str

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str = "",
        signed: bool = False,
        content_type: str = "application/json",
    ) -> Answer:
        url = f"{self.endpoint}/_aws/execute-api/{self.api['RestApiId']}/v1{path}"
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type, **({"x-api-key": key} if key else {})}
        if signed:
            request = AWSRequest(method, url, headers, data)
            credentials = boto3.Session().get_credentials()
            assert credentials is not None
            SigV4Auth(credentials, "execute-api", "us-east-1").add_auth(request)
            headers = dict(request.headers)
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method)) as answer:
                return Answer(answer.status, json.loads(answer.read() or b"null"), dict(answer.headers))
        except urllib.error.HTTPError as error:
            return Answer(error.code, json.loads(error.read() or b"null"), dict(error.headers))

    def ran(self, task_id: str) -> int:
        """How many times a task's script ran."""
        path = self.folder / "shown" / task_id
        return len(path.read_text().splitlines()) if path.exists() else 0

    def refused(self) -> list[Any]:
        """The functions' calls to AWS that were refused."""
        calls = [json.loads(line) for line in (self.folder / "calls.jsonl").read_text().splitlines()]
        return [c for c in calls if not c["allowed"] and re.search("WorkerRole|DlqConsumerRole", c["principal"])]


@pytest.fixture(scope="package")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("api")
    (folder / "shown").mkdir()
    (folder / "scratch").mkdir()
    client.cache_clear()
    of_worker = {"SHOWN": str(folder / "shown"), "SPARKLET_SCRATCH": str(folder / "scratch")}
    with enforcing_ministack(folder, of_worker, PROBES) as (endpoint, _):
        yield _deploy(endpoint, folder)


def _deploy(endpoint: str, folder: Path) -> Deployed:
    topic, inbox = _topic()
    parameters = {**MAIN, "NoticeTopicArn": topic}
    template = localise(load_template(), parameters, {"WorkerFunction": "api_probes.worker"}, {"SPARKLET_SCRATCH": ""})
    main = deploy("sparklet", to_json(template), parameters).outputs
    job = f"s3://{main['BucketName']}/scripts/job.py"
    client("s3").put_object(Bucket=main["BucketName"], Key="scripts/job.py", Body=JOB.encode())
    api = deploy("sparklet-api", api_body(API), API).outputs
    key = client("apigateway").get_api_key(apiKey=api["ApiKeyId"], includeValue=True)["value"]
    return Deployed(endpoint, {**main, "job": job}, api, topic, inbox, folder, key)


def api_body(parameters: Mapping[str, str]) -> str:
    """The API's template, adapted to the stand-in, which splits no ARN in a condition and takes no text as a number."""
    template = parse_template((ROOT / "sam" / "api.yaml").read_text())
    for name, body in template["Conditions"].items():
        if "Fn::Split" in str(body):
            template["Conditions"][name] = {"Fn::Equals": [resolved(body, template, parameters), True]}
    template["Resources"]["TaskMapping"]["Properties"]["ScalingConfig"]["MaximumConcurrency"] = 2
    return to_json(template)


def _topic() -> tuple[str, str]:
    """Create a topic, and a queue that is subscribed to it; return the topic's ARN and the queue's URL."""
    sns, sqs = client("sns"), client("sqs")
    topic = sns.create_topic(Name="notices")["TopicArn"]
    url = sqs.create_queue(QueueName="heard")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    allow = {"Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage", "Resource": arn}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes={"RawMessageDelivery": "true"})
    return topic, url

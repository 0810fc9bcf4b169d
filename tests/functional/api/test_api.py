"""The deployed asynchronous API: a client's request becomes a task, and the state of the ended task can be read.

The stand-in integrates API Gateway with SQS, but not with DynamoDB, and always calls Lambda synchronously. So the tests
read a task's state with the request that the mapping template makes and with API Gateway's role, and they check only
the configuration of invocations.
"""

import json
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.functional.api.conftest import API, Deployed, api_body, client
from tests.stand_ins.formation import deploy
from tests.waiting import eventually

pytestmark = pytest.mark.stack

ENCODED_ID = "$util.urlEncode($input.params('id'))"


@pytest.fixture(scope="module")
def gateway(deployed: Deployed) -> Any:
    """A client of DynamoDB with the role that API Gateway has."""
    (role,) = (r for r in client("iam").list_roles()["Roles"] if "ApiRole" in r["RoleName"])
    keys = client("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="gateway")["Credentials"]
    session = boto3.Session(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"], "us-east-1")
    return session.client("dynamodb")


def state(gateway: Any, deployed: Deployed, task_id: str) -> Any:
    """A task's state, read with the request that the deployed method makes; None if the task is not recorded."""
    apis = client("apigateway")
    (resource,) = (
        r for r in apis.get_resources(restApiId=deployed.api["RestApiId"])["items"] if r["path"] == "/tasks/{id}"
    )
    method = apis.get_method(restApiId=deployed.api["RestApiId"], resourceId=resource["id"], httpMethod="GET")
    text = method["methodIntegration"]["requestTemplates"]["application/json"]
    response = gateway.get_item(**json.loads(text.replace(ENCODED_ID, task_id)))
    return json.loads(response["Item"]["document"]["S"]) if "Item" in response else None


def ended(gateway: Any, deployed: Deployed, task_id: str) -> Any:
    """Wait until a task has ended; return its state."""

    def ended_task() -> Any:
        task = state(gateway, deployed, task_id)
        return task if task and task["state"] in ("SUCCEEDED", "FAILED") else None

    return eventually(ended_task, f"{task_id} has ended", 40)  # most of the time is the import of scikit-learn


def task_request(deployed: Deployed, **event: Any) -> dict[str, Any]:
    return {"sparklet": {"script": deployed.main["job"]}, **event}


def notices(deployed: Deployed) -> dict[str, Any]:
    """The notices so far, by task; they stay in the queue."""
    received: Any = (
        boto3.Session()
        .client("sqs")
        .receive_message(QueueUrl=deployed.inbox, MaxNumberOfMessages=10, VisibilityTimeout=0)
    )
    bodies = [json.loads(message["Body"]) for message in received.get("Messages", [])]
    return {notice["task"]["id"]: notice for notice in bodies}


def test_a_posted_task_is_accepted_done_and_announced(gateway: Any, deployed: Deployed) -> None:
    answer = deployed.request("POST", "/tasks", task_request(deployed, day="a&b=ü +%"), key=deployed.key)

    assert (answer.status, answer.body["state"]) == (202, "PENDING")
    task = ended(gateway, deployed, answer.body["id"])
    assert (task["state"], task["rows"], task["answer"], task["attempts"]) == ("SUCCEEDED", 7, {"day": "a&b=ü +%"}, 1)
    assert deployed.ran(task["id"]) == 1
    notice = eventually(lambda: notices(deployed).get(task["id"]))
    assert notice == {"version": 1, "kind": "task", "state": "SUCCEEDED", "task": task}


@pytest.mark.parametrize(
    ("task_id", "event", "cause"),
    [
        ("syntax", {"fail": "never closed"}, {"class": "SyntaxError", "message": "never closed (exit code 1)"}),
        ("forbidden", {"sparklet": {"script": "s3://elsewhere/x.py"}}, {"class": "ScriptNotAllowedError"}),
    ],
)
def test_an_impossible_task_ends_as_failed_with_its_cause(
    gateway: Any, deployed: Deployed, task_id: str, event: dict[str, Any], cause: dict[str, str]
) -> None:
    body = {**task_request(deployed), **event}

    assert deployed.request("PUT", f"/tasks/{task_id}", body, key=deployed.key).status == 202

    task = ended(gateway, deployed, task_id)
    assert task["state"] == "FAILED"
    assert cause.items() <= task["error"].items()
    assert eventually(lambda: notices(deployed).get(task_id))["task"] == task


def test_a_dead_letter_fails_its_task(gateway: Any, deployed: Deployed) -> None:
    client("sqs").send_message(
        QueueUrl=deployed.api["TaskDeadLettersUrl"],
        MessageBody="{}",
        MessageAttributes={"sparklet-task": {"DataType": "String", "StringValue": "lost"}},
    )

    task = ended(gateway, deployed, "lost")

    assert (task["state"], task["error"]["class"]) == ("FAILED", "NeverStarted")
    assert eventually(lambda: notices(deployed).get("lost"))["state"] == "FAILED"


def test_a_request_without_the_key_is_refused(deployed: Deployed) -> None:
    for method, path in (("POST", "/tasks"), ("PUT", "/tasks/t"), ("GET", "/tasks/t"), ("POST", "/invocations")):
        assert deployed.request(method, path, {}).status == 403
        assert deployed.request(method, path, {}, key="wrong" * 8).status == 403


def test_api_gateways_role_can_neither_write_nor_list(gateway: Any, deployed: Deployed) -> None:
    table, key = deployed.main["LedgerTable"], {"pk": {"S": "task#t"}, "sk": {"S": "task"}}

    for attempt in (
        lambda: gateway.put_item(TableName=table, Item=key),
        lambda: gateway.delete_item(TableName=table, Key=key),
        lambda: gateway.scan(TableName=table),
    ):
        with pytest.raises(ClientError, match="AccessDenied"):
            attempt()


def test_the_policies_of_both_stacks_are_sufficient(deployed: Deployed) -> None:
    assert deployed.refused() == []


def test_invocations_get_limits_and_destinations_when_set(deployed: Deployed) -> None:
    queue_arn = attributes(deployed.inbox)["QueueArn"]
    limits = {"InvocationRetries": "1", "InvocationMaximumAgeS": "60"}
    destinations = {"OnSuccessArn": deployed.topic, "OnFailureArn": queue_arn}

    parameters = {**API, **limits, **destinations}
    deploy("sparklet-api", api_body(parameters), parameters, update=True)

    worker, alias = deployed.main["WorkerFunctionName"], deployed.main["WorkerAliasName"]
    config = client("lambda").get_function_event_invoke_config(FunctionName=worker, Qualifier=alias)
    assert (int(config["MaximumRetryAttempts"]), int(config["MaximumEventAgeInSeconds"])) == (1, 60)
    assert config["DestinationConfig"] == {
        "OnSuccess": {"Destination": deployed.topic},
        "OnFailure": {"Destination": queue_arn},
    }


def test_with_iam_only_signed_requests_pass(gateway: Any, deployed: Deployed) -> None:
    parameters = {**API, "Access": "IAM"}
    deploy("sparklet-api", api_body(parameters), parameters, update=True)

    assert deployed.request("PUT", "/tasks/signed", task_request(deployed)).status == 403
    assert deployed.request("PUT", "/tasks/signed", task_request(deployed), key=deployed.key).status == 403
    answer = deployed.request("PUT", "/tasks/signed", task_request(deployed), signed=True)

    assert answer.status == 202
    assert ended(gateway, deployed, "signed")["state"] == "SUCCEEDED"


def attributes(url: str) -> Any:
    return client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]

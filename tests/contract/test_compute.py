"""What every ``Compute`` promises: it calls a function and returns the answer, or an error that names the cause."""

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import pytest

from sparklet.aws.clients import AwsClients
from sparklet.aws.services import MAX_PAYLOAD_BYTES, LambdaCompute
from sparklet.errors import RemoteTaskError
from sparklet.ports import Compute
from tests.contract.conftest import ON_STACK
from tests.stand_ins.memory import MemoryCompute

SOURCE = """
def handler(event, context=None):
    if event.get("fail"):
        raise ValueError(f"cannot do {event['fail']}")
    return {"seen": event, "batchItemFailures": []}
"""


def _in_process() -> Compute:
    scope: dict[str, Any] = {}
    exec(SOURCE, scope)
    return MemoryCompute({"task": scope["handler"]})


def _deployed(clients: AwsClients) -> Compute:
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("task.py", SOURCE)
    clients.functions.create_function(
        FunctionName="task",
        Runtime="python3.11",
        Role="arn:aws:iam::000000000000:role/any",
        Handler="task.handler",
        Code={"ZipFile": package.getvalue()},
        Timeout=30,
    )
    return LambdaCompute(clients)


@pytest.fixture(scope="module", params=["memory", pytest.param("ministack", marks=ON_STACK)])
def compute(request: pytest.FixtureRequest) -> Compute:
    return _in_process() if request.param == "memory" else _deployed(request.getfixturevalue("ministack_clients"))


@pytest.mark.parametrize("event", [{}, {"n": 1, "deep": {"list": [1.5, None, "é日本"]}}])
def test_an_answer_comes_back(compute: Compute, event: Mapping[str, Any]) -> None:
    assert compute.invoke("task", event) == {"seen": event, "batchItemFailures": []}


def test_an_error_comes_back_with_its_message(compute: Compute) -> None:
    """The type comes back only if the runtime sends it: ministack's sends a general "handler failed"."""
    with pytest.raises(RemoteTaskError, match=r"task failed: [\w.]+: cannot do sums"):
        compute.invoke("task", {"fail": "sums"})


def test_a_function_that_is_not_there_is_named(compute: Compute) -> None:
    with pytest.raises(RemoteTaskError, match="nobody"):
        compute.invoke("nobody", {})


def test_an_event_that_is_too_large_is_refused_before_it_is_sent() -> None:
    never_used = LambdaCompute(AwsClients(endpoint_url="http://127.0.0.1:1", region="us-east-1"))

    with pytest.raises(RemoteTaskError, match="Put the data into S3"):
        never_used.invoke("task", {"x": "y" * MAX_PAYLOAD_BYTES})

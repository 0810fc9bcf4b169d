"""What every store of the asynchronous API's tasks promises."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoTaskStore
from sparklet.errors import LeaseLostError, LedgerError
from sparklet.ledger.rules import LEASE_EXPIRED, LEASE_GRACE_S
from sparklet.ledger.task_leases import give_up
from sparklet.model import Failure, ShardResult, ShardState, TaskRecord
from sparklet.ports import TaskStore
from tests.contract.conftest import ON_STACK, TABLE
from tests.stand_ins.memory import MemoryTaskStore

NOW_S = 1_700_000_000.25


@pytest.fixture(
    params=["memory", pytest.param("ministack", marks=ON_STACK), pytest.param("dynamodb-local", marks=ON_STACK)]
)
def tasks(request: pytest.FixtureRequest) -> TaskStore:
    if request.param == "memory":
        return MemoryTaskStore()
    return DynamoTaskStore(request.getfixturevalue(f"{request.param.replace('-', '_')}_clients"), TABLE)


@pytest.fixture
def first(run_id: str) -> TaskRecord:
    return TaskRecord(run_id, accepted_s=NOW_S).claimed("a1", NOW_S, 60.0, "stream")


def test_an_unrecorded_task_is_none(tasks: TaskStore, run_id: str) -> None:
    assert tasks.get_task(run_id) is None


def test_a_task_reads_back_as_it_was_written_in_every_state(tasks: TaskStore, first: TaskRecord) -> None:
    released = first.released(Failure("E", "why: ü \ud800", retryable=True), NOW_S + 1)
    again = released.claimed("a2", NOW_S + 2, 60.0, "")
    result = ShardResult(7, 8, ("s3://o/ü",), ({"deep": [1, None, "é\x00"]},))
    done = again.succeeded(result, NOW_S + 3)

    was: TaskRecord | None = None
    for record in (first, released, again, done):
        assert tasks.replace_task(record, was)
        stands = tasks.get_task(first.task_id)
        assert stands and stands.to_document() == record.to_document()
        was = record
    assert done.result == result
    assert (done.state, done.attempts, done.revision) == (ShardState.SUCCEEDED, 2, 4)


def test_one_of_many_concurrent_claims_gets_the_task(tasks: TaskStore, run_id: str) -> None:
    fresh = TaskRecord(run_id)
    claims = [fresh.claimed(f"a{number}", NOW_S, 60.0, "") for number in range(8)]

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda record: tasks.replace_task(record, None), claims))

    assert sum(won) == 1
    stands = tasks.get_task(run_id)
    assert stands and stands.attempt_id == claims[won.index(True)].attempt_id


def test_a_task_that_has_moved_on_is_not_overwritten(tasks: TaskStore, first: TaskRecord) -> None:
    assert tasks.replace_task(first, None)
    done = first.succeeded(ShardResult(), NOW_S)
    assert tasks.replace_task(done, first)

    assert not tasks.replace_task(first.failed(Failure("E", "late"), NOW_S), first)
    assert not tasks.replace_task(first.claimed("a9", NOW_S, 60.0, ""), None)

    stands = tasks.get_task(first.task_id)
    assert stands and stands.state is ShardState.SUCCEEDED


def test_a_task_is_given_up_once_and_not_while_it_is_held(tasks: TaskStore, first: TaskRecord) -> None:
    assert tasks.replace_task(first, None)
    with pytest.raises(LeaseLostError, match="a1 still holds"):
        give_up(tasks, TaskRecord(first.task_id), lambda: first.lease_end_s + LEASE_GRACE_S - 1)

    given_up = give_up(tasks, TaskRecord(first.task_id), lambda: first.lease_end_s + LEASE_GRACE_S + 1)

    assert given_up and given_up.failure and given_up.failure.error_class == LEASE_EXPIRED
    assert give_up(tasks, TaskRecord(first.task_id), lambda: NOW_S + 999) is None


@contextmanager
def losing_the_answer(clients: AwsClients, applied: bool) -> Iterator[None]:
    """Writes whose answer never arrives, applied or not."""
    from botocore.exceptions import ReadTimeoutError

    update = clients.dynamodb.update_item

    def lose(**request: Any) -> Any:
        if applied:
            update(**request)
        raise ReadTimeoutError(endpoint_url="http://ledger")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clients.dynamodb, "update_item", lose)
        yield


@pytest.mark.stack
def test_a_lost_response_is_resolved_by_reading_the_table(ministack_clients: AwsClients, first: TaskRecord) -> None:
    tasks = DynamoTaskStore(ministack_clients, TABLE)

    with losing_the_answer(ministack_clients, applied=False), pytest.raises(LedgerError):
        tasks.replace_task(first, None)
    with losing_the_answer(ministack_clients, applied=True):
        assert tasks.replace_task(first, None)
    assert tasks.get_task(first.task_id) == first
    with losing_the_answer(ministack_clients, applied=False):
        assert not tasks.replace_task(first.claimed("a2", NOW_S, 60.0, ""), None)  # somebody else's stands there
    with losing_the_answer(ministack_clients, applied=False), pytest.raises(LedgerError):
        tasks.replace_task(first.succeeded(ShardResult(), NOW_S), first)


@pytest.mark.stack
def test_a_tasks_item_matches_the_apis_template_and_expires(ministack_clients: AwsClients, first: TaskRecord) -> None:
    import json

    DynamoTaskStore(ministack_clients, TABLE).replace_task(first, None)

    key = {"pk": {"S": f"task#{first.task_id}"}, "sk": {"S": "task"}}
    item: Any = ministack_clients.dynamodb.get_item(TableName=TABLE, Key=key)["Item"]

    assert json.loads(item["document"]["S"]) == first.to_document()
    assert item["state"] == {"S": "RUNNING"}
    assert int(item["expires_s"]["N"]) == int(NOW_S) + 30 * 86_400

"""The ledger over cases of DynamoDB that stand-ins do not show: index lag, conflicts, partial responses."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from botocore.stub import ANY, Stubber

from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import OPEN_INDEX, THROTTLED_S, DynamoLedger, attributes, key_attributes
from sparklet.errors import CheckpointConflictError, LedgerError
from sparklet.ledger import items
from sparklet.model import Counts, Failure, PartRecord, Position, Run, ScriptRef, ShardRecord, ShardState
from tests.stand_ins.memory import FakeClock

RUN = Run("run-1", ("s3://in/",), "s3://out/", (ScriptRef("s3://b/s", "0", "s3://m/s"),), shard_count=2)
PART = PartRecord(0, "part-000000.jsonl", 0, 2, 2, 2, Position(0, "k"))

CONFLICT = {"Code": "TransactionConflict"}


def shard(number: int) -> ShardRecord:
    return ShardRecord("run-1", number, "part-000000.jsonl", 0, 1, 1, 1)


def new_item(number: int) -> dict[str, Any]:
    return attributes(items.shard_item(replace(shard(number), changed_s=10.0)))


def shard_key(run_id: str, number: int) -> dict[str, Any]:
    return key_attributes(items.shard_key(run_id, number))


@pytest.fixture
def clients() -> AwsClients:
    return AwsClients(threads=1, attempts=1)


@pytest.fixture
def ledger(clients: AwsClients) -> DynamoLedger:
    return DynamoLedger(clients, "t", FakeClock(1000.0))


def answers_with_run(stub: Stubber) -> None:
    expected = {"TableName": "t", "Key": ANY, "ConsistentRead": True}
    stub.add_response("get_item", {"Item": attributes(items.run_item(RUN))}, expected)


def cancelled(stub: Stubber, *codes: str) -> None:
    stub.add_client_error(
        "transact_write_items",
        "TransactionCanceledException",
        modeled_fields={"CancellationReasons": [{"Code": code} for code in codes]},
    )


def always(clients: AwsClients, operation: str, code: str, **more: Any) -> None:
    """Let the table refuse every call of an operation."""
    refused = {"Error": {"Code": code, "Message": "not now"}, "ResponseMetadata": {"HTTPStatusCode": 400}, **more}
    answer = SimpleNamespace(status_code=400), refused
    clients.dynamodb.meta.events.register_first(f"before-call.dynamodb.{operation}", cast("Any", lambda **_: answer))


def test_reads_that_end_a_run_are_consistent(clients: AwsClients, ledger: DynamoLedger) -> None:
    found = [{"state": {"S": "SUCCEEDED"}}, {"state": {"S": "PENDING"}}]
    with Stubber(clients.dynamodb) as stub:
        answers_with_run(stub)
        expected = {
            "TableName": "t",
            "ConsistentRead": True,
            "KeyConditionExpression": "pk = :pk",
            "ExpressionAttributeValues": {":pk": {"S": "run-1#0"}},
            "ProjectionExpression": "#state",
            "ExpressionAttributeNames": {"#state": "state"},
        }
        stub.add_response("query", {"Items": found, "LastEvaluatedKey": shard_key("run-1", 1)}, expected)
        again = {**expected, "ExclusiveStartKey": shard_key("run-1", 1)}
        stub.add_response("query", {"Items": found}, again)

        assert ledger.shards.count("run-1") == Counts(pending=2, succeeded=2)


def test_a_lagging_index_does_not_change_the_counts(clients: AwsClients, ledger: DynamoLedger) -> None:
    """GIVEN an index that still lists a shard that has succeeded, THEN the base table's state counts."""
    done = {**new_item(0), "state": {"S": "SUCCEEDED"}}
    still = new_item(1)
    with Stubber(clients.dynamodb) as stub:
        answers_with_run(stub)
        listed = [{**shard_key("run-1", number), "open": {"S": "PENDING#0000000010.000000"}} for number in (0, 1)]
        stub.add_response("query", {"Items": listed}, {**_ANY_INDEX_QUERY})
        wanted = {"t": {"Keys": [shard_key("run-1", 0), shard_key("run-1", 1)], "ConsistentRead": True}}
        stub.add_response("batch_get_item", {"Responses": {"t": [done, still]}}, {"RequestItems": wanted})

        found = [record.number for record in ledger.shards.expired("run-1", ShardState.PENDING, 500.0)]

    assert found == [1]


_ANY_INDEX_QUERY: dict[str, Any] = {
    "TableName": "t",
    "IndexName": OPEN_INDEX,
    "KeyConditionExpression": ANY,
    "ExpressionAttributeNames": ANY,
    "ExpressionAttributeValues": ANY,
    "Limit": ANY,
}


def test_counts_of_the_index_are_never_negative(clients: AwsClients, ledger: DynamoLedger) -> None:
    """An index that is being updated may show a shard in two states."""
    with Stubber(clients.dynamodb) as stub:
        answers_with_run(stub)
        for count in (2, 1, 0):
            stub.add_response("query", {"Count": count})

        assert ledger.shards.glance("run-1") == Counts(pending=2, running=1, succeeded=0, failed=0)


def test_unprocessed_keys_are_requested_again(clients: AwsClients, ledger: DynamoLedger) -> None:
    first, second = (new_item(number) for number in (0, 1))
    left = {"t": {"Keys": [shard_key("run-1", 1)], "ConsistentRead": True}}
    with Stubber(clients.dynamodb) as stub:
        answers_with_run(stub)
        stub.add_response("query", {"Items": [shard_key("run-1", 0), shard_key("run-1", 1)]})
        stub.add_response("batch_get_item", {"Responses": {"t": [first]}, "UnprocessedKeys": left})
        stub.add_response("batch_get_item", {"Responses": {"t": [second]}}, {"RequestItems": left})

        assert [r.number for r in ledger.shards.expired("run-1", ShardState.PENDING, 500.0)] == [0, 1]


def test_transactions_that_meet_others_are_tried_again(clients: AwsClients, ledger: DynamoLedger) -> None:
    with Stubber(clients.dynamodb) as stub:
        cancelled(stub, "TransactionConflict", "None")
        cancelled(stub, "None", "TransactionConflict")
        cancelled(stub, "ProvisionedThroughputExceeded", "None")
        stub.add_response("transact_write_items", {})

        ledger.runs.add_part("run-1", PART)

        stub.assert_no_pending_responses()


def test_transactions_in_endless_conflict_are_a_retryable_error(clients: AwsClients, ledger: DynamoLedger) -> None:
    always(clients, "TransactWriteItems", "TransactionCanceledException", CancellationReasons=[CONFLICT])

    with pytest.raises(LedgerError, match="TransactionCanceled") as caught:
        ledger.runs.add_part("run-1", PART)

    assert caught.value.retryable


def test_a_refused_plan_part_means_another_planner(clients: AwsClients, ledger: DynamoLedger) -> None:
    """This is so even if the transaction also conflicted with another: the failed condition decides."""
    with Stubber(clients.dynamodb) as stub:
        cancelled(stub, "TransactionConflict", "ConditionalCheckFailed")
        stub.add_response("get_item", {"Item": attributes({**items.part_item("run-1", PART), "writer": "another"})})

        with pytest.raises(CheckpointConflictError, match="part 0"):
            ledger.runs.add_part("run-1", PART)


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        ("AccessDeniedException", 400, "its policy does not allow it"),
        ("ResourceNotFoundException", 400, "there is no such table"),
        ("ValidationException", 400, "ValidationException"),
    ],
)
def test_a_write_that_surely_failed_is_raised_at_once(
    clients: AwsClients, ledger: DynamoLedger, code: str, status: int, says: str
) -> None:
    with Stubber(clients.dynamodb) as stub:
        stub.add_client_error("update_item", code, http_status_code=status)

        with pytest.raises(LedgerError, match=says) as caught:
            ledger.attempts.renew("run-1", 0, "a", 16.0)
    assert not caught.value.retryable


def test_an_impossible_transaction_is_raised_at_once(clients: AwsClients, ledger: DynamoLedger) -> None:
    with Stubber(clients.dynamodb) as stub:
        cancelled(stub, "None", "ValidationError")

        with pytest.raises(LedgerError, match="a write in table t failed") as caught:
            ledger.runs.add_part("run-1", PART)
    assert not caught.value.retryable


@pytest.mark.parametrize(
    "write",
    [
        lambda ledger: ledger.attempts.renew("run-1", 0, "a", 16.0),
        lambda ledger: ledger.attempts.release("run-1", 0, "a", Failure("Broken", "in two"), split="halves"),
    ],
    ids=["renew", "to be split"],
)
def test_a_write_into_a_service_in_trouble_is_looked_up(
    clients: AwsClients, ledger: DynamoLedger, write: Callable[[DynamoLedger], None]
) -> None:
    """After a 500 the result is unknown, so the item is read; here it shows that the write was not done."""
    with Stubber(clients.dynamodb) as stub:
        stub.add_client_error("update_item", "InternalServerError", http_status_code=500)
        running = {**new_item(0), "state": {"S": "RUNNING"}, "attempt_id": {"S": "a"}}
        stub.add_response("get_item", {"Item": running})

        with pytest.raises(LedgerError, match="InternalServerError"):
            write(ledger)


def test_an_error_while_shards_are_added_is_raised(clients: AwsClients, ledger: DynamoLedger) -> None:
    with Stubber(clients.dynamodb) as stub:
        stub.add_response("put_item", {})
        stub.add_client_error("put_item", "ValidationException", http_status_code=400)

        with pytest.raises(LedgerError):
            ledger.shards.add(shard(number) for number in range(1_000))


@pytest.mark.parametrize("code", ["ThrottlingException", "ProvisionedThroughputExceededException"])
def test_throttled_requests_are_sent_again(clients: AwsClients, ledger: DynamoLedger, code: str) -> None:
    with Stubber(clients.dynamodb) as stub:
        for _ in range(10):
            stub.add_client_error("put_item", code, http_status_code=400)
        stub.add_response("put_item", {})

        assert ledger.shards.add([shard(0)]) == 1


def test_a_table_that_throttles_for_a_minute_is_reported(clients: AwsClients) -> None:
    clock = FakeClock(1000.0)
    ledger = DynamoLedger(clients, "t", clock)
    always(clients, "GetItem", "ThrottlingException")

    with pytest.raises(LedgerError, match="ThrottlingException") as caught:
        ledger.runs.get("run-1")

    assert caught.value.retryable
    assert THROTTLED_S <= clock.now_s() - 1000.0 <= THROTTLED_S + 2.0

"""The ledger's promises about tasks: those of the asynchronous API, and calls of ``functions``."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.errors import LeaseLostError, LedgerError
from sparklet.ledger import transitions
from sparklet.ledger.rules import LEASE_EXPIRED, LEASE_GRACE_S
from sparklet.model import Claim, ClaimStatus, Failure, ShardResult, ShardState, TaskRecord
from sparklet.ports import Ledger
from tests.contract.conftest import TABLE
from tests.stand_ins.memory import FakeClock

FAILURE = Failure("E", "why: ü \ud800")


def claim(ledger: Ledger, task_id: str, attempt_id: str) -> Claim[TaskRecord]:
    return ledger.tasks.claim(TaskRecord(task_id, accepted_s=5.0), attempt_id, ledger.clock.now_s() + 60, 3, "stream")


def record_of(ledger: Ledger, task_id: str) -> TaskRecord:
    """The record of a task; a second task, which does not exist, is left out of the answer."""
    (record,) = ledger.tasks.get_many([task_id, f"{task_id}-never"])
    return record


def test_a_task_reads_back_as_it_was_written_in_every_state(ledger: Ledger, run_id: str) -> None:
    first = claim(ledger, run_id, "a1").record
    assert record_of(ledger, run_id) == first
    released = ledger.tasks.apply(first, transitions.release, FAILURE)
    assert record_of(ledger, run_id) == released
    again = claim(ledger, run_id, "a2").record
    assert record_of(ledger, run_id) == again
    result = ShardResult(7, 8, ("s3://o/ü",), ({"deep": [1, None, "é\x00"]},))
    done = ledger.tasks.apply(again, transitions.succeed, result)

    assert record_of(ledger, run_id).to_document() == done.to_document()
    assert (done.rows, done.output_bytes, done.outputs, done.answer) == (7, 8, result.outputs, result.answer)
    assert (done.state, done.attempts, done.revision, done.error_class) == (ShardState.SUCCEEDED, 2, 4, "")


def test_one_of_many_concurrent_claims_gets_the_task(ledger: Ledger, run_id: str) -> None:
    names = [f"a{number}" for number in range(8)]

    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda name: claim(ledger, run_id, name), names))

    won = [name for name, each in zip(names, claims, strict=True) if each.status is ClaimStatus.GRANTED]
    assert won == [record_of(ledger, run_id).attempt_id]
    assert {each.status for each in claims} == {ClaimStatus.GRANTED, ClaimStatus.HELD}


def test_a_repeated_report_of_an_attempt_changes_nothing(ledger: Ledger, run_id: str) -> None:
    mine = claim(ledger, run_id, "a").record
    assert claim(ledger, run_id, "a").status is ClaimStatus.GRANTED
    done = ledger.tasks.apply(mine, transitions.succeed, ShardResult(1))

    assert ledger.tasks.apply(mine, transitions.succeed, ShardResult(1)) == done
    assert record_of(ledger, run_id).revision == done.revision == 2


def test_a_task_that_has_moved_on_is_not_overwritten(ledger: Ledger, clock: FakeClock, run_id: str) -> None:
    late = claim(ledger, run_id, "late").record
    clock.advance(60 + LEASE_GRACE_S + 1)
    taken = claim(ledger, run_id, "a2").record

    for transition, outcome in ((transitions.fail, FAILURE), (transitions.succeed, ShardResult())):
        with pytest.raises(LeaseLostError, match="RUNNING by attempt a2"):
            ledger.tasks.apply(late, transition, outcome)
    ledger.tasks.apply(taken, transitions.succeed, ShardResult())

    assert claim(ledger, run_id, "a3").status is ClaimStatus.DONE
    assert record_of(ledger, run_id).state is ShardState.SUCCEEDED


def test_a_task_is_given_up_once_and_not_while_it_is_held(ledger: Ledger, clock: FakeClock, run_id: str) -> None:
    claim(ledger, run_id, "a1")
    clock.advance(60 + LEASE_GRACE_S - 1)
    with pytest.raises(LeaseLostError, match="a1 still holds"):
        ledger.tasks.give_up(TaskRecord(run_id))
    clock.advance(2)

    given_up = ledger.tasks.give_up(TaskRecord(run_id))

    assert (given_up.status, given_up.record.error_class) == (ClaimStatus.EXHAUSTED, LEASE_EXPIRED)
    assert record_of(ledger, run_id) == given_up.record
    assert ledger.tasks.give_up(TaskRecord(run_id)).status is ClaimStatus.DONE


@contextmanager
def losing_the_answer(clients: AwsClients, applied: bool) -> Iterator[None]:
    """Let the responses to writes be lost; the writes take effect if they are ``applied``."""
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
def test_a_lost_response_is_resolved_by_reading_the_table(ministack_clients: AwsClients, run_id: str) -> None:
    ledger = DynamoLedger(ministack_clients, TABLE, FakeClock())

    with losing_the_answer(ministack_clients, applied=False), pytest.raises(LedgerError):
        claim(ledger, run_id, "a1")
    with losing_the_answer(ministack_clients, applied=True):
        mine = claim(ledger, run_id, "a1")
    assert mine.status is ClaimStatus.GRANTED
    assert record_of(ledger, run_id) == mine.record
    with losing_the_answer(ministack_clients, applied=False):
        assert claim(ledger, run_id, "a2").status is ClaimStatus.HELD  # the table has the claim of a1
    with losing_the_answer(ministack_clients, applied=False), pytest.raises(LedgerError):
        ledger.tasks.apply(mine.record, transitions.succeed, ShardResult())


@pytest.mark.stack
def test_a_tasks_item_matches_the_apis_template_and_expires(ministack_clients: AwsClients, run_id: str) -> None:
    import json

    first = claim(DynamoLedger(ministack_clients, TABLE, FakeClock()), run_id, "a1").record

    key = {"pk": {"S": f"task#{run_id}"}, "sk": {"S": "task"}}
    item: Any = ministack_clients.dynamodb.get_item(TableName=TABLE, Key=key)["Item"]

    assert json.loads(item["document"]["S"]) == first.to_document()
    assert item["state"] == {"S": "RUNNING"}
    assert int(item["expires_s"]["N"]) == int(first.changed_s) + 30 * 86_400

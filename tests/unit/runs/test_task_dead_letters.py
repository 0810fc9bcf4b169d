"""Dead letters of the asynchronous API: every one ends its task, or comes back while somebody still has it."""

from typing import Any

import pytest

from sparklet.errors import LeaseLostError
from sparklet.events import TaskRequest
from sparklet.ledger import transitions
from sparklet.model import Failure, ShardResult, ShardState, TaskRecord
from sparklet.ports.deployment import Deployment
from sparklet.runs import handlers
from sparklet.runs.dead_letters import Disposition, consume_task
from tests.stand_ins.memory import MemoryNotifier
from tests.world import BUCKET

REQUEST = TaskRequest("t", "arn:aws:sqs:eu-west-1:123456789012:dead", accepted_s=5.0)


def running(at: Deployment) -> TaskRecord:
    return at.ledger.tasks.claim(TaskRecord("t"), "a1", at.clock.now_s() + 60.0, 3).record


def ended(at: Deployment) -> dict[str, Any]:
    (record,) = at.ledger.tasks.get_many(["t"])
    assert record.state is ShardState.FAILED
    return record.to_document()


def test_a_task_that_no_worker_began_ends_as_never_started(at: Deployment, ear: MemoryNotifier) -> None:
    assert consume_task(at, REQUEST) is Disposition.FAILED

    document = ended(at)
    assert (document["error"]["class"], document["attempts"], document["accepted_s"]) == ("NeverStarted", 0, 5.0)
    assert [notice.document for notice in ear.notices] == [document]


def test_a_released_task_ends_with_the_cause_of_its_last_attempt(at: Deployment) -> None:
    at.ledger.tasks.tell(running(at), transitions.release, Failure("ValueError", "bad value"))

    assert consume_task(at, REQUEST) is Disposition.FAILED
    assert ended(at)["error"] == {"class": "ValueError", "message": "bad value"}


def test_a_held_task_is_kept_and_its_dead_letter_returns(at: Deployment) -> None:
    running(at)

    with pytest.raises(LeaseLostError):
        consume_task(at, REQUEST)

    at.clock.sleep(121)
    assert consume_task(at, REQUEST) is Disposition.FAILED
    assert ended(at)["error"]["class"] == "LeaseExpired"


def test_an_ended_task_is_kept_and_not_announced_again(at: Deployment, ear: MemoryNotifier) -> None:
    at.ledger.tasks.tell(running(at), transitions.succeed, ShardResult())

    assert consume_task(at, REQUEST) is Disposition.DROPPED
    assert consume_task(at, REQUEST) is Disposition.DROPPED
    assert ear.notices == []


def letter(task_id: Any, message_id: str = "m-1") -> dict[str, Any]:
    attributes = {"sparklet-task": {"stringValue": task_id, "dataType": "String"}}
    return {"messageId": message_id, "body": "{}", "receiptHandle": "r", "messageAttributes": attributes}


def test_the_consumer_tells_tasks_from_shards_and_keeps_others(at: Deployment) -> None:
    event = {"Records": [letter("t"), letter("*", "m-2"), letter("no id at all", "m-3")]}

    assert handlers.handle_dead_letters(at, event) == {"batchItemFailures": []}

    assert ended(at)["error"]["class"] == "NeverStarted"
    assert list(at.ledger.tasks.get_many(["m-2"]))
    (kept,) = at.store.list(f"s3://{BUCKET}/dead-letters/")
    assert kept.uri.endswith("/m-3.json")


def test_a_dead_letter_of_a_held_task_is_reported(at: Deployment) -> None:
    running(at)

    answer = handlers.handle_dead_letters(at, {"Records": [letter("t"), letter("u", "m-2")]})

    assert answer == {"batchItemFailures": [{"itemIdentifier": "m-1"}]}


def test_an_unsent_notice_does_not_return_the_dead_letter(
    at: Deployment, ear: MemoryNotifier, capsys: pytest.CaptureFixture[str]
) -> None:
    ear.down = True

    assert handlers.handle_dead_letters(at, {"Records": [letter("t")]}) == {"batchItemFailures": []}

    ended(at)
    assert "a notice was not sent" in capsys.readouterr().out

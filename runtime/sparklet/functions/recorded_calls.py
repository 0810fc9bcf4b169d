"""Calls that are recorded as tasks in the ledger's table: how callers wait for them, and how lost calls end.

The caller polls the records (``Poller``). Lambda reports failed calls (killed, out of memory, timed out, never begun)
to the dead-letter queue; its consumer, ``failures_handler``, records them as FAILED.
"""

import functools
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparklet.errors import LeaseLostError, LedgerError, PayloadError
from sparklet.model import TASK_ID, Failure, TaskRecord
from sparklet.ports import Ledger
from sparklet.settings import ledger_table

MIN_POLL_S, MAX_POLL_S = 0.05, 2.0
POLL_SHARE = 0.1  # the pause between two polls, as a share of the time for which a call has been watched


def claimed_id(envelope: Any) -> str:
    """The id of the record of a call's envelope, whose signature is not verified; PayloadError if it has no such id."""
    try:
        document = json.loads(envelope["sparklet_call"])
        record_id = f"{document['task_id']}.{document['attempt']}"
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise PayloadError(f"this is not a sparklet_call: {type(error).__name__}") from error
    if not TASK_ID.fullmatch(record_id):
        raise PayloadError("this is not a sparklet_call: its task_id and attempt do not form a task's id")
    return record_id


@dataclass(slots=True)
class _WatchedCall:
    on_end: "Callable[[TaskRecord | Exception], None]"
    began_s: float = field(default_factory=time.monotonic)
    due_s: float = 0.0  # when the record is read next


@dataclass
class Poller:
    """Reports records as they end: one thread reads all of them.

    The thread stays when it has nothing to do: if a thread ends while another thread forks, OpenSSL's lock can stay
    taken in the child forever (seen in 2 of 1,500 forks beside ending threads).
    """

    # Returns the records of these ids that exist; can raise any error.
    read: Callable[[Sequence[str]], Iterable[TaskRecord]]
    watched: dict[str, _WatchedCall] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _thread: threading.Thread | None = None
    _closed: bool = False

    def watch(self, record_id: str, on_end: "Callable[[TaskRecord | Exception], None]") -> None:
        """Watch a record: when it has ended, ``on_end`` gets it, or the error of reading it.

        ``on_end`` is called once, in the poller's thread, and must be quick.
        """
        with self._changed:
            self.watched[record_id] = _WatchedCall(on_end)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sparklet-functions-poller", daemon=True)
                self._thread.start()
            self._changed.notify()

    def forget(self, record_id: str) -> bool:
        """Stop watching a record; return whether it was watched."""
        return self.watched.pop(record_id, None) is not None

    def close(self) -> None:
        """Stop watching all records, and end the thread."""
        with self._changed:
            self._closed = True
            self.watched.clear()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            time.sleep(MIN_POLL_S)
            with self._changed:
                self._changed.wait_for(lambda: self.watched or self._closed)
                if self._closed:
                    return
                now_s, watched = time.monotonic(), list(self.watched.items())  # a copy: other threads remove entries
            due = {name: call for name, call in watched if call.due_s <= now_s}
            records: dict[str, TaskRecord | Exception]
            try:
                records = {record.task_id: record for record in self.read(list(due))}
            except Exception as error:  # noqa: BLE001 - else this thread would end, and its callers would wait forever
                # While the ledger does not answer no call is given up here: the executor does that at its deadline.
                records = {} if getattr(error, "retryable", False) else dict.fromkeys(due, error)
            now_s = time.monotonic()
            for name, call in due.items():
                # The longer a call has lasted, the less it matters if its answer is seen later, for fewer requests.
                call.due_s = now_s + min(MAX_POLL_S, POLL_SHARE * (now_s - call.began_s))
                result = records.get(name)
                if result is None or not (isinstance(result, Exception) or result.state.ended):
                    continue
                # The thread that sends the call may also report an error: only the thread that removes the entry does.
                if self.forget(name):
                    call.on_end(result)


def failures_handler(event: Mapping[str, Any], context: object) -> dict[str, Any]:
    """Record FAILED for each dead letter; the response names the messages to deliver again."""
    failed = []
    for message in event["Records"]:
        try:
            fail(_ledger(), json.loads(message["body"]))
        # These causes may be gone when the message is delivered again. A message that cannot be read is given up.
        except (LeaseLostError, LedgerError) as error:
            print(json.dumps({"level": "WARNING", "message": str(error)}))
            failed.append({"itemIdentifier": message["messageId"]})
        except (PayloadError, ValueError, KeyError, TypeError, AttributeError) as error:
            print(json.dumps({"level": "ERROR", "message": f"{message['messageId']} cannot be read: {error}"}))
    return {"batchItemFailures": failed}


def fail(ledger: Ledger, report: Mapping[str, Any]) -> None:
    """Record FAILED for a call that Lambda reports as lost.

    LedgerError if the ledger does not answer, LeaseLostError if another invocation has the call.
    """
    task, context = TaskRecord(claimed_id(report["requestPayload"])), report["requestContext"]
    response = report.get("responsePayload") or {"errorMessage": "Lambda gave the call up"}
    failure = Failure(
        response.get("errorType", context.get("condition", "")), response["errorMessage"], retryable=False
    )
    request_id = context.get("requestId", "")
    # A report is about one invocation, and another one may have claimed the call since.
    ledger.tasks.give_up(task, failure, lambda record: record.attempt_id.startswith(request_id))


@functools.cache
def _ledger() -> Ledger:
    from sparklet.aws.clients import AwsClients
    from sparklet.aws.dynamodb import DynamoLedger

    return DynamoLedger(AwsClients(), ledger_table())

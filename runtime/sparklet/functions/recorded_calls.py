"""Calls recorded as tasks in the ledger's table: how callers wait for them, and how Lambda's reports end them.

The caller polls the records (``Poller``). Lambda's reports of failed calls (killed, out of memory, timed out, never
begun) go to the dead-letter queue, whose consumer is ``failures_handler``.
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
POLL_SHARE = 0.1  # of the time for which a call has been open


def claimed_id(envelope: Any) -> str:
    """The id of an envelope's record, its signature unverified; PayloadError if it has none."""
    try:
        document = json.loads(envelope["sparklet_call"])
        record_id = f"{document['task_id']}.{document['attempt']}"
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise PayloadError(f"this is not a sparklet_call: {type(error).__name__}") from error
    if not TASK_ID.fullmatch(record_id):
        raise PayloadError("this is not a sparklet_call: its task_id and attempt are no task's")
    return record_id


@dataclass(slots=True)
class _Watched:
    ended: "Callable[[TaskRecord | Exception], None]"
    began_s: float = field(default_factory=time.monotonic)
    due_s: float = 0.0


@dataclass
class Poller:
    """Reports each record that has ended: one thread reads all records.

    The thread stays when it has nothing to do: a thread that ends while another one forks leaves OpenSSL's lock taken
    in the child, for good (seen in 2 of 1,500 forks beside ending threads).
    """

    read: Callable[[Sequence[str]], Iterable[TaskRecord]]  # the existing records of these ids; may raise any error
    open: dict[str, _Watched] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _thread: threading.Thread | None = None
    _closed: bool = False

    def watch(self, record_id: str, ended: "Callable[[TaskRecord | Exception], None]") -> None:
        """Call ``ended`` once, in the poller's thread, with the record or the error of reading it; it must be quick."""
        with self._changed:
            self.open[record_id] = _Watched(ended)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sparklet-functions-poller", daemon=True)
                self._thread.start()
            self._changed.notify()

    def forget(self, record_id: str) -> bool:
        """Stop watching a record; return whether it was watched."""
        return self.open.pop(record_id, None) is not None

    def close(self) -> None:
        """Watch nothing any more."""
        with self._changed:
            self._closed = True
            self.open.clear()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            time.sleep(MIN_POLL_S)
            with self._changed:
                self._changed.wait_for(lambda: self.open or self._closed)
                if self._closed:
                    return
                now_s, watched = time.monotonic(), list(self.open.items())  # a copy: other threads remove entries
            due = {name: call for name, call in watched if call.due_s <= now_s}
            records: dict[str, TaskRecord | Exception]
            try:
                records = {record.task_id: record for record in self.read(list(due))}
            except Exception as error:  # noqa: BLE001 - else this thread would end, and its callers wait for good
                # While the ledger is down no call is lost; the caller's deadline for the call still ends it.
                records = {} if getattr(error, "retryable", False) else dict.fromkeys(due, error)
            now_s = time.monotonic()
            for name, call in due.items():
                # The longer a call has been open, the less a later answer matters, and the fewer requests it takes.
                call.due_s = now_s + min(MAX_POLL_S, POLL_SHARE * (now_s - call.began_s))
                end = records.get(name)
                # Whoever takes the entry out tells the end: the thread that sends the call may do so at the same time.
                if end and (isinstance(end, Exception) or end.state.ended) and self.forget(name):
                    call.ended(end)


def failures_handler(event: Mapping[str, Any], context: object) -> dict[str, Any]:
    """Record FAILED for each dead letter; the batch response names the messages that must come back."""
    failed = []
    for message in event["Records"]:
        try:
            fail(_ledger(), json.loads(message["body"]))
        # These may be over when the message is delivered again; what cannot be read stays so, and is given up.
        except (LeaseLostError, LedgerError) as error:
            print(json.dumps({"level": "WARNING", "message": str(error)}))
            failed.append({"itemIdentifier": message["messageId"]})
        except (PayloadError, ValueError, KeyError, TypeError, AttributeError) as error:
            print(json.dumps({"level": "ERROR", "message": f"{message['messageId']} cannot be read: {error}"}))
    return {"batchItemFailures": failed}


def fail(ledger: Ledger, report: Mapping[str, Any]) -> None:
    """Record FAILED for a call that Lambda reports.

    LedgerError if the ledger does not answer, LeaseLostError if another invocation has the call.
    """
    task, context = TaskRecord(claimed_id(report["requestPayload"])), report["requestContext"]
    response = report.get("responsePayload") or {"errorMessage": "Lambda gave the call up"}
    failure = Failure(
        response.get("errorType", context.get("condition", "")), response["errorMessage"], retryable=False
    )
    request_id = context.get("requestId", "")
    # A report is about one delivery, and another invocation may have claimed the call since.
    ledger.tasks.give_up(task, failure, lambda record: record.attempt_id.startswith(request_id))


@functools.cache
def _ledger() -> Ledger:
    from sparklet.aws.clients import AwsClients
    from sparklet.aws.dynamodb import DynamoLedger

    return DynamoLedger(AwsClients(), ledger_table())

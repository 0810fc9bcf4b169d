"""A local stack that has ended, read from its state folder: nothing is started, and an answer takes no second.

The emulator writes each service's state as JSON, and each object as a file. That is what it would load at its next
start, so the answers are those of a running stack. Only commands that change nothing may use it.
"""

import json
from ast import literal_eval
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb.attempts import DynamoAttempts
from sparklet.aws.dynamodb.items import Attributes, Item
from sparklet.aws.dynamodb.runs import DynamoRuns
from sparklet.aws.dynamodb.shards import DynamoShards
from sparklet.aws.dynamodb.table import LedgerTable
from sparklet.aws.object_store import S3ObjectStore
from sparklet.aws.orchestrator import StepFunctionsOrchestrator, execution_arn, execution_status
from sparklet.errors import ObjectNotFoundError
from sparklet.local.attach import Progress, share, start_lock
from sparklet.local.deploy import CUT_OFF
from sparklet.local.environment import REGION
from sparklet.local.lock import Lock, is_locked
from sparklet.local.stack import StackInfo, deployment, stack_info
from sparklet.local.state import StateDir, read_json
from sparklet.model import ExecutionState, ExecutionStatus, split_uri
from sparklet.ports import Clock, ObjectInfo
from sparklet.ports.deployment import Deployment

NOWHERE = "http://127.0.0.1:0"  # what is not read from files fails


class SavedStack(AbstractContextManager["SavedStack"]):
    """In the place of a ``LocalStack``, for commands that only look."""

    def __init__(self, state: StateDir, info: StackInfo) -> None:
        self._state, self.info = state, info
        self.clients = AwsClients(endpoint_url=NOWHERE, region=REGION)
        self.orchestrator = SavedExecutions(self.clients, state)

    @classmethod
    def find(cls, state: StateDir, progress: Progress) -> Self | None:
        """The stack that has ended; None if it runs, or if none was started. Waits for one that is ending."""
        if not state.last_file.exists():
            return None
        with start_lock(state, progress), Lock(state.clients_lock) as hold:
            share(hold, progress)
            return None if is_locked(state.host_lock) else cls(state, stack_info(state, read_json(state.last_file)))

    def deployment(self) -> Deployment:
        """The stack's ports, of which ledger and objects can be read."""
        at = deployment(self.clients, self.info.bucket, self.info.ledger_table, self.info.queue_url)
        table = SavedTable(self.clients, self.info.ledger_table, at.clock, self._state)
        return replace(at, store=SavedObjects(self.clients, self._state), ledger=SavedLedger(table, at.clock))

    def check(self, within_s: float = 0.0) -> None:
        """Do nothing: it has ended."""

    def __exit__(self, *_: object) -> None:
        pass


class SavedLedger:
    """The ledger in a saved table."""

    def __init__(self, table: "SavedTable", clock: Clock) -> None:
        self.runs, self.attempts = DynamoRuns(table, clock), DynamoAttempts(table, clock)
        self.shards = DynamoShards(table, clock, self.runs)


class SavedTable(LedgerTable):
    """The ledger's table, as far as a reader needs it: not the index."""

    def __init__(self, clients: AwsClients, name: str, clock: Clock, state: StateDir) -> None:
        super().__init__(clients, name, clock)
        self._state = state

    @cached_property
    def _partitions(self) -> Mapping[str, Mapping[str, Item]]:
        partitions: Mapping[str, Mapping[str, Item]] = _saved(self._state, "dynamodb", "tables")[self.name]["items"]
        return partitions

    def get(self, key: Attributes) -> Item | None:
        """An item."""
        return self._partitions.get(key["pk"]["S"], {}).get(key["sk"]["S"])

    def get_many(self, keys: Sequence[Attributes]) -> Iterator[Item]:
        """The items of these keys that are there."""
        return filter(None, map(self.get, keys))

    def pages(self, condition: str, values: Mapping[str, Any], **query: Any) -> Iterator[Mapping[str, Any]]:
        """All that a query finds, by the placeholders of the ledger's queries, as one page."""
        state, part = values.get(":state"), values.get(":part", "")
        found = sorted(self._partitions.get(values[":pk"], {}).items(), reverse=not query.get("ScanIndexForward", True))
        yield {"Items": [each for sk, each in found if sk.startswith(part) and state in (None, each["state"]["S"])]}


class SavedObjects(S3ObjectStore):
    """Objects below ``runs/``, and others whose keys are plain paths."""

    def __init__(self, clients: AwsClients, state: StateDir) -> None:
        super().__init__(clients)
        self._state = state

    def list(self, prefix_uri: str, start_after: str = "") -> Iterator[ObjectInfo]:
        """All objects below a prefix in key order, without their ETags."""
        bucket, prefix = split_uri(prefix_uri)
        root = self._state.object_file(bucket)
        files = (path for path in (root / prefix.rpartition("/")[0]).rglob("*") if path.is_file())
        named = {path.relative_to(root).as_posix(): path for path in files if path.suffixes[-2:] != [".meta", ".json"]}
        for key in sorted(named, key=str.encode):
            if key.startswith(prefix) and key > start_after:
                found = named[key].stat()
                yield ObjectInfo(f"s3://{bucket}/{key}", found.st_size, "", found.st_mtime)

    def get(self, uri: str, offset: int = 0, length: int | None = None, etag: str = "", version_id: str = "") -> bytes:
        """An object's bytes, or a range."""
        try:
            with self._state.object_file(*split_uri(uri)).open("rb") as file:
                file.seek(offset)
                return file.read(length)
        except OSError as error:
            raise ObjectNotFoundError(f"{uri} is not there") from error


class SavedExecutions(StepFunctionsOrchestrator):
    """Executions of state machines; one that ran when the stack ended has failed, as the emulator will have it."""

    def __init__(self, clients: AwsClients, state: StateDir) -> None:
        super().__init__(clients)
        self._state = state

    def find(self, machine: str, name: str) -> ExecutionStatus | None:
        """The execution of this name, if there is one."""
        execution = execution_arn(machine, name)
        if (saved := _saved(self._state, "stepfunctions", "executions").get(execution)) is None:
            return None
        times = {key: saved[key] and datetime.fromisoformat(saved[key]) for key in ("startDate", "stopDate")}
        found = execution_status(execution, {**saved, **times})
        return found if found.state.ended else replace(found, state=ExecutionState.FAILED, error=CUT_OFF)


def _saved(state: StateDir, service: str, kind: str) -> dict[str, Any]:
    """What a service had of one kind, by its name; the emulator's keys begin with account and region."""
    path = Path(state.services, f"{service}.json")
    data = json.loads(path.read_bytes())["payload"][kind].get("data", {}) if path.exists() else {}
    return {literal_eval(key.rpartition("\0")[2]): value for key, value in data.items()}

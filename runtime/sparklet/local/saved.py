"""A local stack that has ended, read from its state folder: nothing is started, so a command takes less than a second.

The emulator writes each service's state as JSON, and each object as a file. It would load the same files at its next
start, so the results are those of a running stack. Only commands that change nothing are allowed to use this.
"""

import json
from ast import literal_eval
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

from sparklet.aws.dynamodb import item_of
from sparklet.aws.object_store import S3ObjectStore
from sparklet.aws.services import StepFunctionsOrchestrator, execution_arn
from sparklet.errors import ObjectNotFoundError
from sparklet.ledger import Ledger
from sparklet.ledger.store import Item, Key, MemoryStore
from sparklet.local.attach import Progress, share, start_lock
from sparklet.local.deploy import CUT_OFF
from sparklet.local.lock import Lock, is_locked
from sparklet.local.stack import LocalStack, stack_info
from sparklet.local.state import StateDir, read_json
from sparklet.model import ExecutionState, ExecutionStatus, split_uri
from sparklet.model.quantities import parse_time_s
from sparklet.ports import ObjectInfo
from sparklet.ports.deployment import Deployment

META = [".meta", ".json"]  # suffixes of the file that the emulator writes beside each object


class SavedStack(LocalStack):
    """A ``LocalStack`` that has ended, for commands that only read."""

    @classmethod
    def find(cls, state: StateDir, progress: Progress) -> Self | None:
        """The stack if it has ended (waits while it stops); None if it runs, or if this version never started it."""
        try:
            info = stack_info(read_json(state.last_file))
        # KeyError: another version's document has other fields. TypeError: there is no document.
        except (KeyError, TypeError):
            return None
        with start_lock(state, progress), Lock(state.clients_lock) as clients_lock:
            # A host that is stopping holds this lock until the state is saved.
            share(clients_lock, progress)
            return None if is_locked(state.host_lock) else cls(state, info, ExitStack())

    @cached_property
    def orchestrator(self) -> StepFunctionsOrchestrator:
        """The saved executions of state machines."""
        return SavedExecutions(self._state, self.clients)

    def deployment(self) -> Deployment:
        """The stack's ports. Ledger and objects are read from the state folder; other ports must not be used."""
        deployment = super().deployment()
        items = _saved_entries(self._state, "dynamodb", "tables")[self.info.ledger_table]["items"]
        ledger = Ledger(SavedStore(items), deployment.clock)
        return replace(deployment, store=SavedObjects(self._state, self.clients), ledger=ledger)


class _StateFolderReader:
    """A base class of adapters that read files of the state folder."""

    def __init__(self, state: StateDir, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._state = state


class SavedStore(MemoryStore):
    """The ledger's table. Its items are kept as DynamoDB stores them, and decoded when they are read."""

    def get(self, key: Key) -> Item | None:
        """The item with this key, decoded; None if there is none."""
        stored_item = super().get(key)
        return item_of(stored_item) if stored_item else None

    def _all_items(self, partitions: Sequence[str]) -> list[Item]:
        return [item_of(stored_item) for stored_item in super()._all_items(partitions)]


class SavedObjects(_StateFolderReader, S3ObjectStore):
    """The saved objects whose keys are plain paths, as all keys below ``runs/`` are."""

    def list(self, prefix_uri: str, start_after: str = "") -> Iterator[ObjectInfo]:
        """All objects below a prefix, in the order of their keys, without ETags."""
        bucket, prefix = split_uri(prefix_uri)
        root = self._state.object_file(bucket)
        paths = (root / prefix.rpartition("/")[0]).rglob("*")
        keys = (path.relative_to(root).as_posix() for path in paths if path.is_file() and path.suffixes[-2:] != META)
        # As S3 does: in the order of their UTF-8 bytes, not folder by folder.
        for key in sorted(keys, key=str.encode):
            if key.startswith(prefix) and key > start_after:
                status = (root / key).stat()
                yield ObjectInfo(f"s3://{bucket}/{key}", status.st_size, "", status.st_mtime)

    def get(self, uri: str, offset: int = 0, length: int | None = None, etag: str = "", version_id: str = "") -> bytes:
        """The bytes of an object, or a range of them. The latest version is read, whatever ETag or version is named."""
        try:
            with self._state.object_file(*split_uri(uri)).open("rb") as file:
                file.seek(offset)
                return file.read(length)
        except OSError as error:
            raise ObjectNotFoundError(f"{uri} is not there") from error


class SavedExecutions(_StateFolderReader, StepFunctionsOrchestrator):
    """The saved executions. One that ran when the stack ended is FAILED, as after the emulator's next start."""

    def find(self, machine: str, name: str) -> ExecutionStatus | None:
        """The execution of this name; None if there is none."""
        arn = execution_arn(machine, name)
        if (execution := _saved_entries(self._state, "stepfunctions", "executions").get(arn)) is None:
            return None
        if execution["status"] == ExecutionState.RUNNING:
            execution |= {"status": ExecutionState.FAILED, "error": CUT_OFF}
        began_s, ended_s = (
            parse_time_s(execution[key]) if execution[key] else 0.0 for key in ("startDate", "stopDate")
        )
        input_document, output = (json.loads(execution[key] or "null") for key in ("input", "output"))
        error, cause = execution.get("error") or "", execution.get("cause") or ""
        return ExecutionStatus(
            arn, ExecutionState(execution["status"]), began_s, ended_s, input_document or {}, output, error, cause
        )


def _saved_entries(state: StateDir, service: str, collection: str) -> dict[str, Any]:
    """A collection of a service's saved state, such as DynamoDB's tables: its entries by name."""
    document = read_json(state.services / f"{service}.json") or {"payload": {collection: {}}}
    data = document["payload"][collection].get("data", {})
    # Before the name, the emulator's keys have account and region.
    return {literal_eval(key.rpartition("\0")[2]): entry for key, entry in data.items()}

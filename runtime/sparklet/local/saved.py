"""A local stack that has ended, read from its state folder: nothing is started, and an answer takes no second.

The emulator writes each service's state as JSON, and each object as a file. That is what it would load at its next
start, so the answers are those of a running stack. Only commands that change nothing may use it.
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

META = [".meta", ".json"]  # the emulator's file beside each object


class SavedStack(LocalStack):
    """Stands for a ``LocalStack`` that has ended, for commands that only read."""

    @classmethod
    def find(cls, state: StateDir, progress: Progress) -> Self | None:
        """The stack that has ended; None if it runs, or none of this version was started. Waits for one that ends."""
        try:
            info = stack_info(read_json(state.last_file))
        # Another version's document has other fields; without a file it is None.
        except (KeyError, TypeError):
            return None
        with start_lock(state, progress), Lock(state.clients_lock) as hold:
            # A host that ends holds this lock until the state is saved.
            share(hold, progress)
            return None if is_locked(state.host_lock) else cls(state, info, ExitStack())

    @cached_property
    def orchestrator(self) -> StepFunctionsOrchestrator:
        """Executions of state machines, as they were."""
        return SavedExecutions(self._state, self.clients)

    def deployment(self) -> Deployment:
        """The stack's ports, of which ledger and objects can be read."""
        deployment = super().deployment()
        items = _saved(self._state, "dynamodb", "tables")[self.info.ledger_table]["items"]
        ledger = Ledger(SavedStore(items), deployment.clock)
        return replace(deployment, store=SavedObjects(self._state, self.clients), ledger=ledger)


class _Saved:
    """A part of an adapter that reads files of the state folder."""

    def __init__(self, state: StateDir, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._state = state


class SavedStore(MemoryStore):
    """The ledger's table: its items are decoded when they are read."""

    def get(self, key: Key) -> Item | None:
        """An item."""
        stored_item = super().get(key)
        return item_of(stored_item) if stored_item else None

    def _all(self, partitions: Sequence[str]) -> list[Item]:
        return [item_of(stored_item) for stored_item in super()._all(partitions)]


class SavedObjects(_Saved, S3ObjectStore):
    """Objects whose keys are plain paths, as all below ``runs/`` are."""

    def list(self, prefix_uri: str, start_after: str = "") -> Iterator[ObjectInfo]:
        """All objects below a prefix in key order, without their ETags."""
        bucket, prefix = split_uri(prefix_uri)
        root = self._state.object_file(bucket)
        below = (root / prefix.rpartition("/")[0]).rglob("*")
        keys = (path.relative_to(root).as_posix() for path in below if path.is_file() and path.suffixes[-2:] != META)
        # S3 lists by the bytes of UTF-8, not by folders.
        for key in sorted(keys, key=str.encode):
            if key.startswith(prefix) and key > start_after:
                status = (root / key).stat()
                yield ObjectInfo(f"s3://{bucket}/{key}", status.st_size, "", status.st_mtime)

    def get(self, uri: str, offset: int = 0, length: int | None = None, etag: str = "", version_id: str = "") -> bytes:
        """An object's bytes, or a range."""
        try:
            with self._state.object_file(*split_uri(uri)).open("rb") as file:
                file.seek(offset)
                return file.read(length)
        except OSError as error:
            raise ObjectNotFoundError(f"{uri} is not there") from error


class SavedExecutions(_Saved, StepFunctionsOrchestrator):
    """Executions; one that ran when the stack ended has failed, as the emulator will have it."""

    def find(self, machine: str, name: str) -> ExecutionStatus | None:
        """The execution of this name, if there is one."""
        arn = execution_arn(machine, name)
        if (execution := _saved(self._state, "stepfunctions", "executions").get(arn)) is None:
            return None
        if execution["status"] == ExecutionState.RUNNING:
            execution |= {"status": ExecutionState.FAILED, "error": CUT_OFF}
        began_s, ended_s = (
            parse_time_s(execution[key]) if execution[key] else 0.0 for key in ("startDate", "stopDate")
        )
        input_document, output = (json.loads(execution[key] or "null") for key in ("input", "output"))
        why = execution.get("error") or "", execution.get("cause") or ""
        return ExecutionStatus(
            arn, ExecutionState(execution["status"]), began_s, ended_s, input_document or {}, output, *why
        )


def _saved(state: StateDir, service: str, kind: str) -> dict[str, Any]:
    """What a service had of one kind, by its name; the emulator's keys begin with account and region."""
    document = read_json(state.services / f"{service}.json") or {"payload": {kind: {}}}
    data = document["payload"][kind].get("data", {})
    return {literal_eval(key.rpartition("\0")[2]): value for key, value in data.items()}

"""A batch of objects that a Map state hands to a worker without a planner, and what all batches of one job share."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from sparklet.errors import EventError
from sparklet.model.runs import ScriptRef

JOB_FILE = "objects.json"
BATCH = "batch"


@dataclass(frozen=True, slots=True)
class BatchRef:
    """What an invocation names: where its job is written, and the items of this batch as the reader gave them."""

    job_uri: str
    items: tuple[Any, ...]
    counted: int  # so many the Map state calls them: one of them may hold several

    @classmethod
    def from_document(cls, document: Any) -> Self | None:
        """Read the event of a direct invocation; None if it is no batch: ``{"sparklet": {"batch": …}}``.

        A batch is ``{"job", "items"}``; or what a Distributed Map makes of items ``{"job", "item"}``, that is one of
        them, or ``{"BatchInput", "Items"}`` with an ItemBatcher. An item ``{"batch": [items]}`` is those items.

        Raises
        ------
        EventError
            If it is meant to be one but names no job or no items.
        """
        told = document.get("sparklet") if isinstance(document, dict) else None
        if not isinstance(told, dict) or BATCH not in told:
            return None
        batch = told[BATCH]
        if not isinstance(batch, dict):
            raise EventError(f"the event's sparklet.batch is a {type(batch).__name__}; it must be an object")
        items = batch.get("Items", batch.get("items", [batch["item"]] if "item" in batch else None))
        if not isinstance(items, list) or not items:
            raise EventError("the event's sparklet.batch holds no items: it must have job and items, both filled")
        shared = batch.get("BatchInput")
        job_uri = (shared if isinstance(shared, dict) else batch).get("job")
        if not isinstance(job_uri, str) or not job_uri.endswith(f"/{JOB_FILE}"):
            raise EventError(f"the event's sparklet.batch names no job; it is the s3:// address of an {JOB_FILE}")
        return cls(job_uri, tuple(one for item in items for one in _unwrapped(item)), len(items))


def _unwrapped(item: Any) -> tuple[Any, ...]:
    """The reader's own items within what an ItemSelector or ``unfinished.jsonl`` made of them."""
    if isinstance(item, dict) and item.keys() == {"job", "item"}:
        item = item["item"]
    if isinstance(item, dict) and item.keys() == {BATCH} and isinstance(item[BATCH], list):
        return tuple(item[BATCH])
    return (item,)


@dataclass(frozen=True, slots=True)
class ObjectsJob:
    """One script over objects that Step Functions reads itself; written once, as ``runs/<run_id>/objects.json``."""

    run_id: str
    script: ScriptRef
    output_uri: str
    reader: str
    source_uri: str  # what is read: a prefix, or a list; "" where the items came with the request
    args: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    bucket: str = ""  # of items that name a key alone
    path: str = ""  # where an item's address is; "": found by its names
    encoded_keys: bool = False  # keys are written as in a URL, as S3 Inventory does in CSV
    keep_empty: bool = False
    tolerated_failure_count: int = 0
    tolerated_failure_percentage: float = 0.0
    redo_of: str = ""  # the run whose unfinished batches these are: they write where that one did

    def to_document(self) -> bytes:
        """The file's bytes; the same job gives the same ones."""
        return json.dumps(asdict(self), indent=2, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_document(cls, body: bytes) -> Self:
        """Read the file; EventError if it is none."""
        try:
            told = json.loads(body)
            script = told.pop("script")
            ref = ScriptRef(**{**script, "py_files": tuple(script["py_files"])})
            return cls(**{**told, "script": ref, "args": tuple(told["args"])})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise EventError(f"{JOB_FILE} is not what Sparklet writes: {error}") from error

    def batch_output(self, batch_id: str) -> str:
        """Where a batch writes: a path of this run's own, which another attempt at the same objects replaces."""
        return f"{self.output_uri.rstrip('/')}/batch={self.redo_of or self.run_id}_{batch_id}"

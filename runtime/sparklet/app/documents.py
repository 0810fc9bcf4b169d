"""The documents that commands print with ``--json`` and Python programs get: runs, shards, inputs, causes, plans."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from sparklet.app.explain import SCRIPT, FailureGroup
from sparklet.app.local_files import local_folder, local_inputs, local_part
from sparklet.app.opening import how_to_open, uncommitted_text
from sparklet.app.reporter import time_text
from sparklet.app.stack import OpenStack
from sparklet.errors import PlanError
from sparklet.local.state import StateDir
from sparklet.model import SCHEME, InputObject, PartRecord, Run, Shard, ShardRecord, ShardState, split_uri
from sparklet.model.options import LARGE, LARGE_MB
from sparklet.planning.packing import PlanPreview
from sparklet.planning.plan_files import reasons_for, shards_of
from sparklet.ports.deployment import Deployment
from sparklet.runs.summary import Summary, statistics


@dataclass(frozen=True, slots=True)
class HoldingShard:
    """A shard that holds an input object, or slices, versions or files of that object."""

    shard: Shard
    items: tuple[InputObject, ...]  # the shard's inputs that are the object, or belong to it
    record: ShardRecord | None  # None if the shard is not in the ledger yet


@dataclass(frozen=True, slots=True)
class ObjectStatus:
    """The shards of an input object."""

    uri: str
    # In order; empty if the object was left out, or did not exist when the run was planned.
    shards: tuple[HoldingShard, ...]
    # Why the object, or a version of it, was left out; empty also if a pattern (--include, --exclude) left it out.
    left_out: tuple[str, ...] = ()


def object_status(deployment: Deployment, run_id: str, uri: str) -> ObjectStatus:
    """Find the shards of an object, or of ``ARCHIVE#FILE``, in the parts of the plan, one part in memory at a time.

    If a file of an archive is not an input of its own, its shards are those that hold the whole archive.

    PlanError if the object is below no input of the run, and the run has no list that could have named it.
    """
    run = deployment.ledger.runs.get(run_id)
    archive = uri.partition("#")[0]
    is_below_input = any(
        uri.startswith(input_uri) if input_uri.endswith("/") else input_uri in (uri, archive)
        for input_uri in run.inputs
    )
    if not run.lists and not is_below_input:
        raise PlanError(f"{uri} lies under no input of {run_id}; its inputs are {', '.join(run.inputs)}")
    parts = list(deployment.ledger.runs.parts(run_id))
    shards = tuple(_holding_shards(deployment, run, parts, uri))
    if not shards and archive != uri:
        archive_shards = _holding_shards(deployment, run, parts, archive)
        shards = tuple(holding for holding in archive_shards if not holding.items[0].member)
    return ObjectStatus(uri, shards, tuple(reasons_for(deployment, run, parts, uri)))


def _holding_shards(deployment: Deployment, run: Run, parts: list[PartRecord], uri: str) -> Iterator[HoldingShard]:
    # Without the closing quote, so that the URI of an archive also matches lines that name the archive's files.
    encoded_uri = json.dumps(uri).encode()[:-1]
    # Parts that were added since ``parts`` was read hold the inputs of shards that have been split since then.
    later_parts = (part for part in deployment.ledger.runs.parts(run.run_id) if part.index >= len(parts))
    for part in chain(parts, later_parts):
        for shard in shards_of(deployment, run.run_id, part, encoded_uri):
            record = deployment.known_shard(run.run_id, shard.number)
            if record and record.state is ShardState.SPLIT:
                continue  # a later part holds the inputs of the split shard
            if items := tuple(item for item in shard.objects if uri in (item.uri, item.object_uri)):
                yield HoldingShard(shard, items, record)


OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError")
OUT_OF_TIME = ("DeadlineExceededError",)
NOT_IN_FUNCTIONS = ("TooLargeError", "PySparkAttributeError", "PySparkNotImplementedError")
MAX_TIMEOUT_S = 900
STATISTICS = (  # fields of ``statistics`` that a run's result has unchanged
    *("state", "generation", "objects", "input_bytes", "rows", "output_bytes", "warnings", "skipped", "attempts"),
    *("came_back_unrun", "task_s", "duration_s", "drift"),
)


def preview_document(preview: PlanPreview) -> dict[str, Any]:
    """Return the document of a plan's preview."""
    return asdict(preview) | {"skipped": dict(preview.skipped)}


def run_document(run: Run) -> dict[str, Any]:
    """Return a run's entry for a list of runs."""
    return {
        "run_id": run.run_id,
        "name": run.name,
        "state": str(run.state),
        "generation": run.generation,
        "shards": run.shard_count,
        "objects": run.object_count,
        "input_bytes": run.size_bytes,
        "script": run.scripts[-1].source_uri,
        "created": time_text(run.created_s),
        "ended": time_text(run.ended_s) if run.ended_s else None,
    }


def result_document(stack: OpenStack, run: Run, summary: Summary) -> dict[str, Any]:
    """Return the document of a run's result, with the places of its output and manifest."""
    (output, manifest), figures = places_of(stack, run), statistics(run, summary)
    return {
        "run_id": run.run_id,
        **{name: figures[name] for name in STATISTICS},
        "cancelled": time_text(run.cancelled_s) if run.cancelled_s else None,
        "shards": figures["counts"],
        "has_output": summary.has_output,
        "inputs": list(run.inputs),
        "lists": [source.uri for source in run.lists],
        "conflicts": summary.conflicts,
        "waited_s": round(summary.waited_s, 3),
        "output": output,
        "table": run.table or None,
        "uncommitted": uncommitted_text(stack.deployment, run) or None,
        "open": how_to_open(stack.deployment, run, on_disk(stack, output)) or None,
        "manifest": manifest,
        "manifest_file": on_disk(stack, manifest) if stack.state else None,
        "failures": [asdict(cause) for cause in summary.causes],
    }


def places_of(stack: OpenStack, run: Run) -> tuple[str, str]:
    """Return the places of a run's output (its local folder if it has one, else its URI) and of its manifest."""
    output = str(local_folder(run)) if run.local_output else run.output_uri
    return output, stack.deployment.run_uri(run.run_id, "manifest.json")


def on_disk(stack: OpenStack, address: str) -> str:
    """Return the path on this machine of an object or folder in the local stack's S3; any other address as it is."""
    if stack.state and address.startswith(SCHEME):
        return str(StateDir(stack.state).object_file(*split_uri(address)))
    return address.rstrip("/")


def shard_document(record: ShardRecord) -> dict[str, Any]:
    """Return the document of a shard's record in the ledger."""
    return {
        "run_id": record.run_id,
        "shard": record.number,
        "state": str(record.state),
        "generation": record.generation,
        "attempts": record.attempts,
        "attempt_id": record.attempt_id or None,
        "objects": record.object_count,
        "input_bytes": record.size_bytes,
        "rows": record.rows,
        "redone_since": record.redone or None,
        "has_output": record.has_output,
        "warning": record.warning or None,
        "outputs": list(record.outputs),
        "error_class": record.error_class or None,
        "error_message": record.error_message or None,
        "changed": time_text(record.changed_s),
        "log_stream": record.log_stream or None,
        "engine": record.engine or None,
        "task_id": record.task_id or None,
    }


def object_document(status: ObjectStatus) -> dict[str, Any]:
    """Return the document of an input object: its state as a whole, and in each shard that holds it or a part of it."""
    return {
        "object": status.uri,
        "state": object_state(status) if status.shards else "LEFT_OUT",
        "left_out": list(dict.fromkeys(status.left_out)),
        "shards": [
            {
                **(
                    {"shard": holding.shard.number, "state": None}
                    if holding.record is None
                    else shard_document(holding.record)
                ),
                "slices": [
                    [str(item.slice.kind), item.slice.start, item.slice.end] for item in holding.items if item.slice
                ],
                "versions": [item.version_id for item in holding.items if item.version_id],
                "members": [item.member for item in holding.items if item.member],
            }
            for holding in status.shards
        ],
    }


def object_state(status: ObjectStatus) -> str:
    """Return FAILED if any shard of the object has failed, SUCCEEDED if all have succeeded, else RUNNING or PENDING."""
    states = {holding.record.state if holding.record else ShardState.PENDING for holding in status.shards}
    by_precedence = (ShardState.FAILED, ShardState.RUNNING, ShardState.PENDING, ShardState.SUCCEEDED)
    return str(next(state for state in by_precedence if state in states))


def group_document(stack: OpenStack, group: FailureGroup) -> dict[str, Any]:
    """Return the document of failed shards with one cause, or of a failed task (schema, check, commit) of the run."""
    return {
        "run_id": group.example.run_id,
        "task": group.task or None,
        "error_class": group.error_class,
        "message": group.example.error_message,
        "pattern": group.pattern,
        "count": group.count,
        "shards": group.shards.text(),
        "shards_complete": group.shards.whole,
        "example_shard": group.example.number,
        "example_object": group.example_object or None,
        "example_file": local_file(stack, group) or None,
        "example_engine": group.example.engine or None,
        "script_line": group.line,
        "came_back_unrun": group.unrun,
        "with_earlier_output": group.with_output,
        "reason": group.advice.reason,
        "remedy": group.advice.remedy,
        "at_fault": group.advice.at_fault or None,
        "redrive": redrive_command(stack, group),
    }


def local_file(stack: OpenStack, group: FailureGroup) -> str:
    """Return the local file that was copied to the object of the group's example; "" if there is none."""
    return str(local_part(group.example_object, local_inputs(stack, group.example.run_id)) or "")


def redrive_command(stack: OpenStack, group: FailureGroup) -> str:
    """Return the command that redrives this group's shards, with an option for what must change.

    "" if the schema task failed: without a schema no shard was planned.
    """
    if group.task == "schema":
        return ""
    words = ["sparklet", "redrive", group.redriven, *group.redrive]
    name = group.error_class.rpartition(".")[2]
    other_engines = [engine for engine in stack.deployment.engines if engine not in (LARGE, group.example.engine)]
    if name in OUT_OF_MEMORY and not group.example.engine and stack.size.memory_mb < LARGE_MB:
        words += ["--memory", str(min(LARGE_MB, 2 * stack.size.memory_mb))]
    elif name in OUT_OF_TIME and (stack.state or stack.size.timeout_s < MAX_TIMEOUT_S):
        longer_s = 2 * stack.size.timeout_s
        words += ["--timeout", str(longer_s if stack.state else min(MAX_TIMEOUT_S, longer_s))]
    # Only an engine helps shards that need more than functions have, or another kind of session.
    elif name in (*OUT_OF_MEMORY, *OUT_OF_TIME, *NOT_IN_FUNCTIONS):
        words += ["--engine", next(iter(other_engines), "NAME")]
    elif group.advice.at_fault == SCRIPT:
        words += ["--script", "REPAIRED.py"]
    return shlex.join([*words, *(("--stack", stack.name) if stack.name else ())])

"""Infers a run's one schema, by a task, from a sample of the input (docs/decisions/0062).

The task is the one shard of a run of its own, ``RUN-schema-0``: the run's script over at most ``MAX_OBJECTS`` of its
objects, with ``infer`` as the schema. There ``job.read_csv`` infers the schema, answers with it and ends the script.
The sample is fixed in the ledger as the inputs of ``RUN-schema-0``. The schema is stored with the run before a shard is
planned.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from sparklet.errors import CheckpointConflictError, ObjectNotFoundError, PlanError
from sparklet.job.fields import INFER, LEFT_OUT, SCHEMA
from sparklet.model import Run, RunKind, RunOptions, Shard, ShardRecord, ShardState, follower_id
from sparklet.model.options import MIB, NO_LIMIT_BYTES
from sparklet.planning.new_run import enter_follower
from sparklet.planning.plan_files import Line
from sparklet.ports.deployment import Deployment

MAX_OBJECTS, MAX_BYTES = 10, 64 * MIB  # of the sample
ALL_IN_ONE = RunOptions(target_bytes=NO_LIMIT_BYTES, max_objects=NO_LIMIT_BYTES)
REMEDY = "give it: --schema 'id INT, name STRING, …'"


def schema_run(deployment: Deployment, run: Run, lines: Sequence[Line]) -> Run:
    """The run that infers the schema; if there is none, it is entered with a sample of the shards in ``lines``."""
    # A second planner may have read other lines: the sample is the one that the first planner entered.
    if existing_run := deployment.known_run(follower_id(run.run_id, RunKind.SCHEMA)):
        return existing_run
    options = replace(ALL_IN_ONE, max_attempts=run.options.max_attempts, time_limit_s=run.options.time_limit_s)
    follower = Run("", sample_of(lines), "", (run.scripts[-1],), run.args, run.params, options, kind=RunKind.SCHEMA)
    return enter_follower(deployment, run, replace(follower, access=run.access, table=run.table, schema=INFER))


def sample_of(lines: Iterable[Line]) -> tuple[str, ...]:
    """The addresses of a sample of these shards' objects, spread evenly; PlanError if no object is small enough.

    It has at most ``MAX_OBJECTS``, with at most ``MAX_BYTES`` together once they are decompressed. Objects are read
    whole, so the sizes of an object's slices are added up; an object with slices in later shards is left out.
    """
    sizes, last, has_later_slices = dict[str, int](), "", False
    for line in lines:
        for item in Shard.from_line(line.body).objects:
            last, earlier_bytes = item.uri, sizes.get(item.uri, 0) if item.slice else 0
            sizes[last] = earlier_bytes + item.estimated_bytes
        has_later_slices = line.position.slices > 0
    if has_later_slices:
        del sizes[last]
    small_uris = [uri for uri, size_bytes in sizes.items() if size_bytes <= MAX_BYTES]
    if not small_uris:
        raise PlanError(f"no input is an object of at most {MAX_BYTES // MIB} MiB, so no schema is inferred; {REMEDY}")
    sample, total_bytes = [], 0
    count = min(MAX_OBJECTS, len(small_uris))
    for number in range(count):
        uri = small_uris[number * len(small_uris) // count]
        if total_bytes + sizes[uri] <= MAX_BYTES:
            sample.append(uri)
            total_bytes += sizes[uri]
    return tuple(sample)


def inferred_schema(deployment: Deployment, run: Run, follower: Run) -> str | None:
    """The schema that the run's task has inferred; None as long as the task has not ended.

    PlanError if the task has failed, or its script has not called ``job.read_csv``; CheckpointConflictError if ``run``
    was cancelled.
    """
    record = next(deployment.ledger.shards.list(follower.run_id), None)
    if record is not None and record.state is ShardState.SUCCEEDED:
        if isinstance(schema := _answer(deployment, record).get(SCHEMA), str):
            return schema
        source = run.scripts[-1].source_uri
        raise PlanError(f"{source} did not read its input by job.read_csv(spark), so no schema is inferred; {REMEDY}")
    # Only while there is no answer the run is read: if it was cancelled, there may never be one.
    if deployment.ledger.runs.get(run.run_id).cancelled_s is not None:
        raise CheckpointConflictError(f"the run {run.run_id} was cancelled; no more of it is planned")
    if record is not None and record.state is ShardState.FAILED:
        why = f"{record.error_class}: {record.error_message}"
        raise PlanError(f"no schema could be inferred from {', '.join(follower.inputs)}: {why}; {REMEDY}")
    return None


def left_out(deployment: Deployment, run: Run) -> dict[str, str]:
    """The files that were left out of a run's sample, each with the reason; empty if there is no sample."""
    record = next(deployment.ledger.shards.list(follower_id(run.run_id, RunKind.SCHEMA)), None)
    return dict(_answer(deployment, record).get(LEFT_OUT, {})) if record else {}


def _answer(deployment: Deployment, record: ShardRecord) -> dict[str, Any]:
    try:
        answer = json.loads(deployment.store.get(deployment.run_uri(record.run_id, record.answer_file)))["answer"]
    except ObjectNotFoundError:
        return {}
    return answer if isinstance(answer, dict) else {}

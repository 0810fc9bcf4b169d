"""Splits shards whose bad objects were left out: what is done is SUCCEEDED, and each bad object a FAILED shard.

``ledger.isolation`` finds the bad objects. The worker that has done the others settles the shard. The next check splits
it: it writes the shard's new line, and a plan part in which each bad object is a shard, under names of their own. Then
one transaction of the ledger makes both valid, so each object is in exactly one shard at every moment.
"""

import secrets
from collections import deque
from dataclasses import replace
from itertools import accumulate

from sparklet.errors import PlanError
from sparklet.metrics import SHARDS_FAILED
from sparklet.model import PartRecord, Shard, ShardRecord, ShardState
from sparklet.planning.plan_files import OF_BAD, planned_shard
from sparklet.ports.deployment import Deployment


def split(at: Deployment, record: ShardRecord) -> bool:
    """Split a settled shard, once the run's plan is sealed; False if its line cannot be read."""
    run = at.ledger.runs.get(record.run_id)
    if run.shard_count is None or run.state.ended:
        return True  # a later check does it
    try:
        objects = planned_shard(at, record).objects
    except PlanError:
        return False
    bad = [Shard(number, (objects[place],)) for number, (place, *_) in enumerate(record.bad, run.shard_count)]
    lines, left_out = [each.to_line() for each in bad], {place for place, *_ in record.bad}
    rest = Shard(record.number, tuple(each for place, each in enumerate(objects) if place not in left_out))
    name, line = f"{OF_BAD}{record.number:06d}-{secrets.token_hex(4)}", rest.to_line()
    at.store.put(at.part_uri(run.run_id, f"{name}-rest.jsonl"), line, create_only=True)
    at.store.put(at.part_uri(run.run_id, f"{name}.jsonl"), b"".join(lines), create_only=True)
    last = deque(at.ledger.runs.parts(run.run_id), maxlen=1)[0]
    counts = run.shard_count, len(bad), len(bad), sum(each.size_bytes for each in bad)
    part = PartRecord(last.index + 1, f"{name}.jsonl", *counts, last.position, dispatched=True)
    now_s, offsets = at.clock.now_s(), accumulate(map(len, lines), initial=0)
    entered = [
        ShardRecord(
            *(run.run_id, shard.number, part.part, offset, len(body), 1, shard.size_bytes, record.generation),
            state=ShardState.FAILED,
            attempts=1,
            attempt_id=record.attempt_id,
            changed_s=now_s,
            started_s=now_s,
            error_class=error_class,
            error_message=message,
            log_stream=record.log_stream,
            engine=record.engine,
        )
        for shard, body, offset, (_, error_class, message) in zip(bad, lines, offsets, record.bad, strict=False)
    ]
    moved = replace(record, part=f"{name}-rest.jsonl", offset=0, length=len(line))
    moved = replace(moved, object_count=len(rest.objects), size_bytes=rest.size_bytes)
    done = at.ledger.attempts.split(moved, part, entered)
    at.measure(SHARDS_FAILED, len(bad) if done and not record.engine else 0)  # engines' are counted at the end
    return True

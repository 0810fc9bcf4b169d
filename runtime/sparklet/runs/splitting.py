"""Splits shards that fail because of some of their inputs, until the bad ones are alone (docs/decisions/0055).

A worker records the failure and the inputs that it names. The next check splits the shard: it writes a plan part with
a shard for each piece, then one transaction of the ledger enters these and ends the shard as SPLIT, so each input is in
exactly one shard that counts at every moment. All is decided by records: a check that was killed is made up for by the
next one, and of two at once one wins.
"""

import re
import secrets
from collections.abc import Sequence
from dataclasses import replace

from sparklet.errors import EventError, ObjectNotFoundError, PlanError
from sparklet.ledger.rules import ERROR_MESSAGE_BYTES, cut
from sparklet.model import (
    APART,
    HALVES,
    MAX_NAMED,
    OF_SPLIT,
    PASSED_ON,
    WITH_MEMBERS,
    Failure,
    InputObject,
    PartRecord,
    Run,
    Shard,
    ShardRecord,
    ShardState,
)
from sparklet.model.options import NO_LIMIT_BYTES
from sparklet.planning.packing import grouping
from sparklet.planning.plan_files import Line, planned_shard
from sparklet.planning.planner import records_of, send_messages
from sparklet.ports.deployment import Deployment
from sparklet.ports.metrics import SHARDS_FAILED
from sparklet.runs.dispatch import give_up

BY_SCRIPT = "the script is at fault, not an input: "
_LINE = re.compile(r"\bline \d+ of [^\s;)]+|[\w.-]+\.py, line \d+")
_PLACE = re.compile(r"(.*?)((?: \([^()]*\))?)", re.DOTALL)  # of the script, at the end of a message


def split_failing(deployment: Deployment, run: Run) -> None:
    """Split a run's shards that wait for it; until its plan is sealed none is, since it takes the next numbers."""
    for listed_record in deployment.for_a_while(deployment.ledger.shards.to_split(run.run_id)) if run.sealed else ():
        # Read anew: the split before this one may have joined it with its siblings.
        record = deployment.ledger.shards.get(run.run_id, listed_record.number)
        try:
            if record.split:
                _move_on(deployment, run, record)
        except PlanError as error:
            give_up(deployment, record, record.error_class, str(error))


def _move_on(deployment: Deployment, run: Run, record: ShardRecord) -> None:
    """Split a shard or end it, by how the pieces of its planned shard ended; do nothing while that shows nothing."""
    parts = list(deployment.ledger.runs.parts(record.run_id))
    root = int(record.part.split("-")[1]) if record.part.startswith(OF_SPLIT) else record.number
    how = record.split.removeprefix(WITH_MEMBERS)
    if how == APART:  # no input is bad (docs/decisions/0083)
        inputs = _inputs(deployment, record)
        apart = range(min(len(inputs), MAX_NAMED))
        return _split(deployment, record, parts[-1], root, _pieces(inputs, apart, probes=False))
    if _is_whole_group(deployment, run, parts, root):
        give_up(deployment, record, record.error_class, "a group, or a reduce, stays whole")
        return None
    of_root = [part for part in parts if part.part.startswith(f"{OF_SPLIT}{root:06d}-")]
    numbers = (number for part in of_root for number in range(part.first_shard, part.next_shard))
    family = [deployment.ledger.shards.get(record.run_id, number) for number in numbers]
    siblings = [piece for piece in family if piece.part == record.part]
    # A sibling that still runs may show that the script works; to join after more splits would have to undo these.
    if any(not (piece.split or piece.state.ended) for piece in siblings):
        return None
    has_worked = any(piece.state is ShardState.SUCCEEDED for piece in family)
    bad = sum(piece.state is ShardState.FAILED and piece.object_count == 1 for piece in family)
    inputs = _inputs(deployment, record)
    planned = deployment.ledger.shards.get(record.run_id, root).object_count
    most = max(1, max(planned, len(inputs), *(part.object_count for part in of_root)) // 10)
    # Of three siblings or more one is a single input, named or a probe: if it fails as all others do, no content is to
    # blame.
    if not has_worked and _have_failed_alike(siblings):
        return _join(deployment, record, siblings)
    if bad > most:
        give_up(deployment, record, record.error_class, f"more than {most} of the shard's inputs are bad")
        return None
    # Of a split by names the first sibling is the first input that was named: if it did well alone, the failure names
    # the wrong ones. Of one in halves it is the probe, or the first half.
    is_believed = how != HALVES and (not siblings or siblings[0].state is ShardState.FAILED)
    named = [*map(int, how.split())] if is_believed else []
    probes = not has_worked and bool(siblings or not named)
    return _split(deployment, record, parts[-1], root, _pieces(inputs, named, probes=probes))


def _inputs(deployment: Deployment, record: ShardRecord) -> Sequence[InputObject]:
    """A shard's inputs, as they were planned or, where it has archives, as its worker has found them."""
    if not record.split.startswith(WITH_MEMBERS):
        return planned_shard(deployment, record).objects
    try:
        return Shard.from_line(deployment.store.get(deployment.run_uri(record.run_id, record.members_file))).objects
    except (ObjectNotFoundError, EventError) as error:
        raise PlanError(f"what the archives of shard {record.number} hold is not known: {error}") from error


def _is_whole_group(deployment: Deployment, run: Run, parts: Sequence[PartRecord], root: int) -> bool:
    """Whether a planned shard has all of the group that its inputs are of: the plan cuts those that are too large."""
    if not run.options.group_by and run.options.max_objects < NO_LIMIT_BYTES:  # that is a reduce's
        return False
    group_of = grouping(run.options.group_by)
    planned = sum(part.shard_count for part in parts if not part.part.startswith(OF_SPLIT))
    beside = (deployment.ledger.shards.get(run.run_id, n) for n in range(max(0, root - 1), min(root + 2, planned)))
    groups = {record.number: group_of(planned_shard(deployment, record).objects[0].uri) for record in beside}
    return [*groups.values()].count(groups[root]) == 1


def _have_failed_alike(siblings: Sequence[ShardRecord]) -> bool:
    """Whether three pieces or more of a shard have failed, all with one class at one line."""
    matches = [_LINE.search(sibling.error_message) for sibling in siblings]
    causes = {(sibling.error_class, match and match[0]) for sibling, match in zip(siblings, matches, strict=True)}
    failed = all((sibling.split or sibling.state is ShardState.FAILED) and not sibling.winner for sibling in siblings)
    return failed and len(siblings) > 2 and len(causes) == 1


def _pieces(inputs: Sequence[InputObject], named: Sequence[int], *, probes: bool) -> list[tuple[InputObject, ...]]:
    """A shard's inputs in pieces: those at the ``named`` places, each alone, and the rest, or else halves.

    With ``probes`` one more input is alone: if it fails like all others, its content is not to blame.
    """
    rest = sorted(set(range(len(inputs))).difference(named))
    first = 1 if probes and len(rest) > 2 else 0
    middle = first if named else first + (len(rest) - first + 1) // 2
    alone = [[index] for index in (*named, *rest[:first])]
    pieces = [*alone, *filter(None, (rest[first:middle], rest[middle:]))]
    return [tuple(map(inputs.__getitem__, piece)) for piece in pieces]


def _split(
    deployment: Deployment, record: ShardRecord, last: PartRecord, root: int, pieces: Sequence[tuple[InputObject, ...]]
) -> None:
    # Read anew: each split before this one has changed the number of shards, on which the write depends.
    run = deployment.ledger.runs.get(record.run_id)
    shards = [Shard(n, piece) for n, piece in enumerate(pieces, last.next_shard)]
    lines = [Line.of(shard, shard.to_line()) for shard in shards]
    file = f"{OF_SPLIT}{root:06d}-{record.number:06d}-{secrets.token_hex(4)}.jsonl"
    # The file comes first, under a name of this check's own: until the transaction names it, it is garbage.
    deployment.store.put(deployment.part_uri(run.run_id, file), b"".join(line.body for line in lines), create_only=True)
    counts = last.next_shard, len(lines), sum(map(len, pieces)), sum(shard.size_bytes for shard in shards)
    # It counts as dispatched, since its shards are entered with it: a message that a crash keeps from being sent is one
    # that a later check finds missing.
    part = PartRecord(last.index + 1, file, *counts, last.position, dispatched=True)
    alike = {name: getattr(record, name) for name in PASSED_ON}
    into = list(records_of(run.run_id, file, lines, changed_s=deployment.clock.now_s(), **alike))
    if record.split.endswith(APART):  # what is left is split again
        into = [replace(piece, split=APART if piece.object_count > 1 else "") for piece in into]
    if deployment.ledger.attempts.split(record, run, part, into):
        send_messages(deployment, run, into)


def _join(deployment: Deployment, record: ShardRecord, siblings: Sequence[ShardRecord]) -> None:
    """End the shard that was split as FAILED: no piece of it has done well, and all have failed alike."""
    run = deployment.ledger.runs.get(record.run_id)
    parent = deployment.ledger.shards.get(record.run_id, int(record.part.split("-")[2]))
    text, where = _PLACE.fullmatch(record.error_message).groups()  # type: ignore[union-attr]
    message = BY_SCRIPT + cut(text, ERROR_MESSAGE_BYTES - len((BY_SCRIPT + where).encode())) + where
    done = deployment.ledger.attempts.join(parent, run, siblings, Failure(record.error_class, message))
    deployment.measure(SHARDS_FAILED, done)

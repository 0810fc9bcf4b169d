"""Splits shards that fail because of some of their inputs, until the bad ones are alone (docs/decisions/0055).

A worker records the failure and the inputs that it names. The next check splits the shard: it writes a plan part with
a shard for each piece, then one transaction of the ledger enters these shards and ends the split one as SPLIT: so at
every moment each input is in exactly one shard that counts. Checks decide by the ledger's records alone: if a check is
killed, the next one continues, and of two checks at once one wins.
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
_PLACE = re.compile(r"(.*?)((?: \([^()]*\))?)", re.DOTALL)  # the place in the script, at the end of a message


def split_failing(deployment: Deployment, run: Run) -> None:
    """Split a run's shards that wait for that; not before its plan is sealed, since the plan takes the next numbers."""
    if not run.sealed:
        return
    for listed_record in deployment.within_time_limit(deployment.ledger.shards.to_split(run.run_id)):
        # Read anew: the split before this one may have joined it with its siblings.
        record = deployment.ledger.shards.get(run.run_id, listed_record.number)
        try:
            if record.split:
                _split_or_end(deployment, run, record)
        except PlanError as error:
            give_up(deployment, record, record.error_class, str(error))


def _split_or_end(deployment: Deployment, run: Run, record: ShardRecord) -> None:
    """Split or end a failing shard, depending on its siblings' ends; do nothing while one of them may still succeed.

    ``root`` is the planned shard of which this one is a piece, or this one itself; its pieces are the family.
    """
    parts = list(deployment.ledger.runs.parts(record.run_id))
    root = int(record.part.split("-")[1]) if record.part.startswith(OF_SPLIT) else record.number
    named_inputs = record.split.removeprefix(WITH_MEMBERS)  # indexes, or APART or HALVES
    if named_inputs == APART:  # no input is bad (docs/decisions/0083)
        inputs = _inputs(deployment, record)
        single_indexes = range(min(len(inputs), MAX_NAMED))
        return _split(deployment, record, parts[-1], root, _pieces(inputs, single_indexes, probes=False))
    if _is_whole_group(deployment, run, parts, root):
        give_up(deployment, record, record.error_class, "a group, or a reduce, stays whole")
        return None
    family_parts = [part for part in parts if part.part.startswith(f"{OF_SPLIT}{root:06d}-")]
    numbers = (number for part in family_parts for number in range(part.first_shard, part.next_shard))
    family = [deployment.ledger.shards.get(record.run_id, number) for number in numbers]
    siblings = [piece for piece in family if piece.part == record.part]
    # A sibling that still runs may show that the script works; siblings could not be joined after further splits.
    if any(not (piece.split or piece.state.ended) for piece in siblings):
        return None
    has_worked = any(piece.state is ShardState.SUCCEEDED for piece in family)
    bad_inputs = sum(piece.state is ShardState.FAILED and piece.object_count == 1 for piece in family)
    inputs = _inputs(deployment, record)
    input_count = deployment.ledger.shards.get(record.run_id, root).object_count
    max_bad = max(1, max(input_count, len(inputs), *(part.object_count for part in family_parts)) // 10)
    # One of three siblings or more is a single input, which was named or is a probe: if that fails like all the others,
    # no input's content is to blame.
    if not has_worked and _have_failed_alike(siblings):
        return _join(deployment, record, siblings)
    if bad_inputs > max_bad:
        give_up(deployment, record, record.error_class, f"more than {max_bad} of the shard's inputs are bad")
        return None
    # After a split by names the first sibling is the first named input: if that succeeded alone, the failure has named
    # the wrong inputs. After a split in halves the first sibling is the probe, or the first half.
    is_believed = named_inputs != HALVES and (not siblings or siblings[0].state is ShardState.FAILED)
    bad_indexes = [*map(int, named_inputs.split())] if is_believed else []
    probes = not has_worked and bool(siblings or not bad_indexes)
    return _split(deployment, record, parts[-1], root, _pieces(inputs, bad_indexes, probes=probes))


def _inputs(deployment: Deployment, record: ShardRecord) -> Sequence[InputObject]:
    """A shard's inputs as they were planned; if they have archives, the members that the worker has found."""
    if not record.split.startswith(WITH_MEMBERS):
        return planned_shard(deployment, record).objects
    try:
        return Shard.from_line(deployment.store.get(deployment.run_uri(record.run_id, record.members_file))).objects
    except (ObjectNotFoundError, EventError) as error:
        raise PlanError(f"the members of the archives of shard {record.number} are not known: {error}") from error


def _is_whole_group(deployment: Deployment, run: Run, parts: Sequence[PartRecord], root: int) -> bool:
    """Whether a planned shard has the whole group of its inputs: the plan cuts groups that are too large."""
    is_reduce = run.options.max_objects >= NO_LIMIT_BYTES
    if not run.options.group_by and not is_reduce:
        return False
    group_of = grouping(run.options.group_by)
    shard_count = sum(part.shard_count for part in parts if not part.part.startswith(OF_SPLIT))
    numbers = range(max(0, root - 1), min(root + 2, shard_count))  # the shard and its neighbours
    records = (deployment.ledger.shards.get(run.run_id, number) for number in numbers)
    groups = {record.number: group_of(planned_shard(deployment, record).objects[0].uri) for record in records}
    return [*groups.values()].count(groups[root]) == 1


def _have_failed_alike(siblings: Sequence[ShardRecord]) -> bool:
    """Whether a shard was split into three pieces or more, and all have failed with one class at one line."""
    matches = [_LINE.search(sibling.error_message) for sibling in siblings]
    causes = {(sibling.error_class, match and match[0]) for sibling, match in zip(siblings, matches, strict=True)}
    failed = all((sibling.split or sibling.state is ShardState.FAILED) and not sibling.winner for sibling in siblings)
    return failed and len(siblings) > 2 and len(causes) == 1


def _pieces(
    inputs: Sequence[InputObject], single_indexes: Sequence[int], *, probes: bool
) -> list[tuple[InputObject, ...]]:
    """Cut a shard's inputs into pieces: each input of ``single_indexes`` alone and the rest, or else two halves.

    With ``probes`` one more input is alone: if it fails like all others, its content is not to blame.
    """
    rest = sorted(set(range(len(inputs))).difference(single_indexes))
    first = 1 if probes and len(rest) > 2 else 0
    middle = first if single_indexes else first + (len(rest) - first + 1) // 2
    single_pieces = [[index] for index in (*single_indexes, *rest[:first])]
    pieces = [*single_pieces, *filter(None, (rest[first:middle], rest[middle:]))]
    return [tuple(map(inputs.__getitem__, piece)) for piece in pieces]


def _split(
    deployment: Deployment, record: ShardRecord, last: PartRecord, root: int, pieces: Sequence[tuple[InputObject, ...]]
) -> None:
    """Enter a shard for each piece, send their messages, and end the shard ``record`` as SPLIT."""
    # Read anew: each split before this one has changed the number of shards, on which the write depends.
    run = deployment.ledger.runs.get(record.run_id)
    shards = [Shard(n, piece) for n, piece in enumerate(pieces, last.next_shard)]
    lines = [Line.of(shard, shard.to_line()) for shard in shards]
    file = f"{OF_SPLIT}{root:06d}-{record.number:06d}-{secrets.token_hex(4)}.jsonl"
    # The file comes first, under a name that no other check uses: until the transaction names it, it is garbage.
    deployment.store.put(deployment.part_uri(run.run_id, file), b"".join(line.body for line in lines), create_only=True)
    counts = last.next_shard, len(lines), sum(map(len, pieces)), sum(shard.size_bytes for shard in shards)
    # The part counts as dispatched, since its shards are entered with it. If a crash prevents a message, a later check
    # finds that it is missing.
    part = PartRecord(last.index + 1, file, *counts, last.position, dispatched=True)
    inherited_fields = {name: getattr(record, name) for name in PASSED_ON}
    records = list(records_of(run.run_id, file, lines, changed_s=deployment.clock.now_s(), **inherited_fields))
    if record.split.endswith(APART):  # a piece of several inputs is split again
        records = [replace(piece, split=APART if piece.object_count > 1 else "") for piece in records]
    if deployment.ledger.attempts.split(record, run, part, records):
        send_messages(deployment, run, records)


def _join(deployment: Deployment, record: ShardRecord, siblings: Sequence[ShardRecord]) -> None:
    """End the shard that was split into these siblings as FAILED, since they have all failed alike."""
    run = deployment.ledger.runs.get(record.run_id)
    parent = deployment.ledger.shards.get(record.run_id, int(record.part.split("-")[2]))
    text, place = _PLACE.fullmatch(record.error_message).groups()  # type: ignore[union-attr]
    message = BY_SCRIPT + cut(text, ERROR_MESSAGE_BYTES - len((BY_SCRIPT + place).encode())) + place
    was_joined = deployment.ledger.attempts.join(parent, run, siblings, Failure(record.error_class, message))
    deployment.measure(SHARDS_FAILED, was_joined)

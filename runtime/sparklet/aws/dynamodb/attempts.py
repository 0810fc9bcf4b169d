"""A shard's transitions in the ledger's table: each is one conditional write.

The condition names everything that the transition depends on, so the item itself refuses a write that is late,
repeated, or from an attempt that has lost its lease. A refusal comes with the item, which shows its reason.
"""

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from operator import attrgetter
from typing import Any

from sparklet.aws.dynamodb import items
from sparklet.aws.dynamodb.table import OnTable, Written, new_writer
from sparklet.errors import LedgerError, ShardNotFoundError
from sparklet.ledger import rules
from sparklet.ledger.isolation import after_failure, isolates
from sparklet.model import (
    Claim,
    ClaimStatus,
    Failure,
    Isolation,
    PartRecord,
    RunState,
    ShardRecord,
    ShardRef,
    ShardResult,
    ShardState,
)

Values = dict[str, Any]  # Python values by placeholder
Change = tuple[str, Values]  # the end of an update, and its values
NO_CHANGE: Change = ("", {})

CLAIM_TRIES = 5
_OWNED = "attempt_id = :me AND #state = :running"
_UNMOVED = (
    "#state = :was AND generation = :generation AND attempts = :attempts AND requeues = :requeues "
    "AND attempt_id = :attempt"
)


class DynamoAttempts(OnTable):
    """``Attempts`` in the ledger's table."""

    def claim(
        self,
        ref: ShardRef,
        attempt_id: str,
        lease_s: float,
        max_attempts: int,
        log_stream: str = "",
        *,
        engine: str = "",
        escalate: str = "",
    ) -> Claim:
        for _ in range(CLAIM_TRIES):
            now_s = self._clock.now_s()
            outcome = self._take(ref, attempt_id, now_s, lease_s, max_attempts, log_stream, engine)
            record = _existing(ref.run_id, ref.shard, outcome)
            if outcome.applied:
                return Claim(ClaimStatus.GRANTED, record)
            if answer := rules.refusal(record, ref, attempt_id, now_s, engine):
                return answer
            if outcome.lost:
                raise outcome.lost
            if record.attempts < max_attempts:
                continue
            ended = self._exhaust(record, rules.exhausted_failure(record), escalate)
            if ended and (ended.state.ended or ended.engine != record.engine):
                return Claim(ClaimStatus.EXHAUSTED if ended.state.ended else ClaimStatus.HELD, ended)
        raise LedgerError(f"shard {ref.shard} of run {ref.run_id} changed under {CLAIM_TRIES} claims; try again")

    def _take(
        self, ref: ShardRef, attempt_id: str, now_s: float, lease_s: float, most: int, log_stream: str, engine: str
    ) -> Written:
        lease_end_s = now_s + lease_s
        return self._table.update(
            items.shard_key(ref.run_id, ref.shard),
            "SET taken_from = #state, #state = :running, #open = :open, attempts = attempts + :one, attempt_id = :me, "
            "lease_end_s = :end, changed_s = :now, started_s = :now, log_stream = :log REMOVE settled",
            "generation = :generation AND attempts < :most AND attempt_id <> :me "
            "AND (attribute_not_exists(fmt) OR fmt <= :format) AND (attribute_not_exists(engine) OR engine = :engine) "
            "AND (#state = :pending "
            "OR (#state = :running AND lease_end_s < :expired AND attribute_not_exists(settled)))",
            {
                ":running": ShardState.RUNNING,
                ":pending": ShardState.PENDING,
                ":open": items.open_value(ShardState.RUNNING, lease_end_s),
                ":one": 1,
                ":me": attempt_id,
                ":end": lease_end_s,
                ":now": now_s,
                ":log": rules.cut(log_stream, rules.LOG_STREAM_BYTES),
                ":generation": ref.generation,
                ":most": most,
                ":expired": now_s - rules.LEASE_GRACE_S,
                ":format": items.FORMAT,
                ":engine": engine,
            },
        )

    def renew(
        self, run_id: str, number: int, attempt_id: str, lease_s: float, staged: ShardResult | None = None
    ) -> None:
        """Let the lease end ``lease_s`` from now. The index is not updated: its readers look into the table anyway."""
        update, condition, end_s = "SET lease_end_s = :end", _OWNED, self._clock.now_s() + lease_s
        values: Values = {":end": end_s, ":me": attempt_id, ":running": ShardState.RUNNING}
        if staged is not None:
            of_result, more = _result(staged)
            update, values = f"{update}, winner = :me, {of_result}", {**values, **more}
            condition += " AND (attribute_not_exists(winner) OR winner = :me)"
        outcome = self._table.update(items.shard_key(run_id, number), update, condition, values)
        if outcome.applied:
            return
        record = _existing(run_id, number, outcome)
        mine = record.attempt_id == attempt_id and record.state is ShardState.RUNNING
        if mine and record.lease_end_s == end_s and (staged is None or record.winner == attempt_id):
            return  # the answer was lost, not the write
        if mine and outcome.lost:
            raise outcome.lost
        raise rules.not_owned(record, attempt_id)

    def succeed(self, run_id: str, number: int, attempt_id: str, result: ShardResult) -> None:
        of_result, values = _result(result)
        update = f"SET #state = :wanted, changed_s = :now, {of_result} REMOVE #open"
        self._end_owned(run_id, number, attempt_id, ShardState.SUCCEEDED, update, values)

    def settle(self, record: ShardRecord, result: ShardResult) -> None:
        of_result, values = _result(result)
        update = "SET #state = :wanted, settled = :yes, lease_end_s = :now, changed_s = :now, #open = :open, "
        values |= {":yes": True, ":open": items.open_value(ShardState.RUNNING, self._clock.now_s())}
        self._end_owned(*_owner(record), ShardState.RUNNING, update + of_result, values)

    def split(self, rest: ShardRecord, part: PartRecord, bad: Sequence[ShardRecord]) -> bool:
        writer, run_id = new_writer(), rest.run_id
        lines = {name: getattr(rest, name) for name in ("part", "offset", "length", "object_count", "size_bytes")}
        shard = self._table.change(
            items.shard_key(run_id, rest.number),
            "SET #state = :done, part = :part, #offset = :offset, #length = :length, object_count = :object_count, "
            "size_bytes = :size_bytes REMOVE #open, settled, bad, suspects, trial",
            f"{_OWNED} AND attribute_exists(settled)",
            {
                **{f":{name}": value for name, value in lines.items()},
                ":me": rest.attempt_id,
                ":running": ShardState.RUNNING,
                ":done": ShardState.SUCCEEDED,
            },
        )
        counts = {":was": part.first_shard, ":now": part.next_shard, ":running": RunState.RUNNING}
        counted = "#state = :running AND shard_count = :was"
        run = self._table.change(items.run_key(run_id), "SET shard_count = :now", counted, counts)
        sealed = self._table.create(items.part_item(run_id, part, writer))
        entered = [self._table.create(items.bad_shard_item(each, writer)) for each in bad]
        return self._table.transact(items.part_key(run_id, part.index), [shard, run, sealed, *entered]).carries(writer)

    def fail(self, run_id: str, number: int, attempt_id: str, failure: Failure) -> None:
        self._give_up((run_id, number, attempt_id), ShardState.FAILED, failure)

    def release(self, run_id: str, number: int, attempt_id: str, failure: Failure, engine: str = "") -> None:
        self._give_up((run_id, number, attempt_id), ShardState.PENDING, failure, engine)

    def isolate(self, record: ShardRecord, failure: Failure, found: Isolation) -> None:
        self._give_up(_owner(record), ShardState.PENDING, failure, record.engine, _isolating(found))

    def escalate(self, run_id: str, number: int, attempt_id: str, failure: Failure, engine: str) -> None:
        self._give_up((run_id, number, attempt_id), ShardState.PENDING, failure, engine, _anew(engine))

    def _give_up(
        self,
        attempt: tuple[str, int, str],
        wanted: ShardState,
        failure: Failure,
        engine: str = "",
        more: Change = NO_CHANGE,
    ) -> None:
        kept, open_at = rules.bounded_failure(failure), items.open_value(wanted, self._clock.now_s(), engine)
        update, values = more
        values = {":open": open_at, ":class": kept.error_class, ":message": kept.message, **values}
        ends = "SET #state = :wanted, changed_s = :now, #open = :open, error_class = :class, error_message = :message"
        self._end_owned(*attempt, wanted, ends + update, values)

    def _end_owned(
        self, run_id: str, number: int, attempt_id: str, wanted: ShardState, update: str, values: Values
    ) -> None:
        """RUNNING → ``wanted``, fenced by attempt id and state; ending it twice does no harm."""
        fence: Values = {":me": attempt_id, ":running": ShardState.RUNNING}
        change: Values = {**values, ":wanted": wanted, ":now": self._clock.now_s()}
        outcome = self._table.update(items.shard_key(run_id, number), update, _OWNED, {**fence, **change})
        if outcome.applied:
            return
        record = _existing(run_id, number, outcome)
        ended = record.settled if wanted is ShardState.RUNNING else record.state is wanted
        if ended and record.attempt_id == attempt_id:
            return
        if outcome.lost and record.attempt_id == attempt_id and record.state is ShardState.RUNNING:
            raise outcome.lost
        raise rules.not_owned(record, attempt_id)

    def expire(self, record: ShardRecord, max_attempts: int, escalate: str = "") -> ShardRecord | None:
        if record.state is not ShardState.RUNNING or record.lease_end_s > self._clock.now_s():
            return None
        if record.attempts < max_attempts:
            return self._end_unmoved(record, ShardState.PENDING, rules.expired_failure(record))
        return self._exhaust(record, rules.expired_failure(record), escalate)

    def _exhaust(self, record: ShardRecord, failure: Failure, escalate: str) -> ShardRecord | None:
        """End a shard without an attempt left, unless it goes on in an engine."""
        if engine := rules.next_engine(record, failure, escalate):
            return self._end_unmoved(replace(record, engine=engine), ShardState.PENDING, failure, _anew(engine))
        if isolates(record, failure):
            found = after_failure(record, failure)
            if isinstance(found, Isolation):
                return self._end_unmoved(record, ShardState.PENDING, failure, _isolating(found))
            failure = found
        return self._end_unmoved(record, ShardState.FAILED, failure)

    def abandon(self, record: ShardRecord, failure: Failure) -> bool:
        if record.state is not ShardState.PENDING:
            return False
        return self._end_unmoved(record, ShardState.FAILED, failure) is not None

    def count_requeue(self, record: ShardRecord, *, unrun: bool = False, task_id: str = "") -> ShardRecord | None:
        if record.state is not ShardState.PENDING:
            return None
        update = "SET requeues = :more, changed_s = :now, #open = :open, writer = :writer"
        values: Values = {":more": record.requeues + 1}
        if unrun:
            update, values = f"{update}, unrun = :unrun", {**values, ":unrun": record.unrun + 1}
        if task_id:
            update, values = f"{update}, task_id = :task", {**values, ":task": task_id}
        return self._change_unmoved(record, ShardState.PENDING, update, values)

    def _end_unmoved(
        self, record: ShardRecord, state: ShardState, failure: Failure, more: Change = NO_CHANGE
    ) -> ShardRecord | None:
        kept = rules.bounded_failure(failure)
        update = (
            "SET #state = :state, changed_s = :now, #open = :open, error_class = :class, error_message = :message, "
            "writer = :writer"
        )
        also, values = more
        values = {":state": state, ":class": kept.error_class, ":message": kept.message, **values}
        return self._change_unmoved(record, state, update + also, values)

    def _change_unmoved(
        self, record: ShardRecord, state: ShardState, update: str, values: Values
    ) -> ShardRecord | None:
        """Change a shard that is as it was read, to ``state``; None if it has moved on."""
        writer, now_s = new_writer(), self._clock.now_s()
        condition = _UNMOVED
        if record.state is ShardState.RUNNING:  # a lease that was renewed since is not over
            condition, values = f"{_UNMOVED} AND lease_end_s = :lease_end", {**values, ":lease_end": record.lease_end_s}
        unmoved: Values = {f":{name}": getattr(record, name) for name in ("generation", "attempts", "requeues")}
        unmoved |= {":was": record.state, ":attempt": record.attempt_id}
        change: Values = {":now": now_s, ":open": items.open_value(state, now_s, record.engine), ":writer": writer}
        key = items.shard_key(record.run_id, record.number)
        outcome = self._table.update(key, update, condition, {**values, **unmoved, **change})
        found = _existing(record.run_id, record.number, outcome)
        if outcome.applied or (outcome.carries(writer) and found.state is state):
            return found
        if outcome.lost and _version(found) == _version(record):  # the write would still be applied
            raise outcome.lost
        return None

    def redrive(
        self, run_id: str, number: int, generation: int, engine: str = "", isolate: int = 0
    ) -> ShardRecord | None:
        item = self._table.get(items.shard_key(run_id, number))
        record = _existing(run_id, number, Written(applied=False, item=item))
        if record.state is not ShardState.FAILED or record.generation >= generation:
            return None
        update, values = _anew(engine)
        update = (
            "SET #state = :state, generation = :next, changed_s = :now, #open = :open, writer = :writer, "
            f"isolate = :isolate{update}" + ("" if record.winner else " REMOVE bad, suspects, trial")
        )
        values |= {":state": ShardState.PENDING, ":next": generation, ":isolate": isolate}
        record = replace(record, engine=engine or record.engine)
        return self._change_unmoved(record, ShardState.PENDING, update, values)


def _anew(engine: str) -> Change:
    """The end of an update after which nothing is counted, and ``engine``, if one is named, does the shard."""
    values: Values = {":none": 0}
    update = ", attempts = :none, requeues = :none, unrun = :none"
    if engine:  # the format: an older worker would claim it, or do its bad objects, too
        return f"{update}, engine = :engine, fmt = :format", {**values, ":engine": engine, ":format": items.FORMAT}
    return update, values


def _isolating(isolation: Isolation) -> Change:
    """The end of an update after which the next attempt goes by an isolation."""
    update, values = _anew("")
    assigned = ", ".join(f"{each.name} = :{each.name}" for each in fields(isolation))
    found = {f":{name}": value for name, value in asdict(isolation).items()}
    return f"{update}, {assigned}, fmt = :format", {**values, **found, ":format": items.FORMAT}


def _result(result: ShardResult) -> tuple[str, Values]:
    """What a shard's item keeps of a result: assignments, and their values."""
    kept = rules.bounded_result(result)
    values: Values = {":outputs": kept.outputs}
    update = "outputs = :outputs"
    if kept.rows is not None:
        update, values[":rows"] = f"{update}, #rows = :rows", kept.rows
    if kept.output_bytes is not None:
        update, values[":bytes"] = f"{update}, output_bytes = :bytes", kept.output_bytes
    if kept.memory_mb is not None:
        update, values[":memory"] = f"{update}, memory_mb = :memory", kept.memory_mb
    if kept.schemas:
        update, values[":schemas"] = f"{update}, schemas = :schemas", kept.schemas
    return update, values


def _existing(run_id: str, number: int, outcome: Written) -> ShardRecord:
    if outcome.item is None:
        raise ShardNotFoundError(f"run {run_id} has no shard {number}")
    return items.shard_record(outcome.item)


_owner = attrgetter("run_id", "number", "attempt_id")
_version = attrgetter("state", "generation", "attempts", "requeues", "attempt_id", "lease_end_s")

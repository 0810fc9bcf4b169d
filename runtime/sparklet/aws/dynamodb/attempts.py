"""What happens to a shard in the ledger's table: each transition is one conditional write.

The condition names everything the transition rests on, so a write that comes late, twice or from a zombie is
refused by the item itself. A refusal comes with the item; what it means is told from that.
"""

from sparklet.aws.dynamodb.items import FORMAT, Attributes, num, open_value, shard_key, shard_record, text
from sparklet.aws.dynamodb.runs import new_writer, wrote
from sparklet.aws.dynamodb.table import OnTable, Written
from sparklet.errors import LedgerError, ShardNotFoundError
from sparklet.ledger_rules import (
    LEASE_GRACE_S,
    LOG_STREAM_BYTES,
    bounded_failure,
    bounded_result,
    cut,
    is_held,
    lapse_failure,
    not_owned,
)
from sparklet.model import Claim, ClaimStatus, Failure, ShardRecord, ShardRef, ShardResult, ShardState

CLAIM_TRIES = 5
_OWNED = "attempt_id = :me AND #state = :running"
_UNMOVED = (
    "#state = :was AND generation = :generation AND attempts = :attempts AND requeues = :requeues "
    "AND attempt_id = :attempt"
)


class AttemptLedger(OnTable):
    """The part of ``DynamoLedger`` that changes shards."""

    # --- workers ---

    def claim(self, ref: ShardRef, attempt_id: str, lease_s: float, max_attempts: int, log_stream: str = "") -> Claim:
        """Take the shard and count the attempt."""
        for _ in range(CLAIM_TRIES):
            now_s = self._clock.now_s()
            outcome = self._take(ref, attempt_id, now_s, lease_s, max_attempts, log_stream)
            record = _existing(ref.run_id, ref.shard, outcome)
            if outcome.applied:
                return Claim(ClaimStatus.GRANTED, record)
            if answer := _refusal(record, ref, attempt_id, now_s, outcome):
                return answer
            if record.attempts >= max_attempts and (ended := self._exhaust(record)):
                return Claim(ClaimStatus.EXHAUSTED, ended)
        raise LedgerError(f"shard {ref.shard} of run {ref.run_id} changed under {CLAIM_TRIES} claims; try again")

    def _take(
        self, ref: ShardRef, attempt_id: str, now_s: float, lease_s: float, max_attempts: int, log_stream: str
    ) -> Written:
        lease_end_s = now_s + lease_s
        return self._table.update(
            shard_key(ref.run_id, ref.shard),
            "SET #state = :running, #open = :open, attempts = attempts + :one, attempt_id = :me, lease_end_s = :end, "
            "changed_s = :now, started_s = :now, log_stream = :log",
            "generation = :generation AND attempts < :most AND attempt_id <> :me "
            "AND (attribute_not_exists(fmt) OR fmt <= :format) "
            "AND (#state = :pending OR (#state = :running AND lease_end_s < :lapsed))",
            {
                ":running": text(ShardState.RUNNING),
                ":pending": text(ShardState.PENDING),
                ":open": text(open_value(ShardState.RUNNING, lease_end_s)),
                ":one": num(1),
                ":me": text(attempt_id),
                ":end": num(lease_end_s),
                ":now": num(now_s),
                ":log": text(cut(log_stream, LOG_STREAM_BYTES)),
                ":generation": num(ref.generation),
                ":most": num(max_attempts),
                ":lapsed": num(now_s - LEASE_GRACE_S),
                ":format": num(FORMAT),
            },
        )

    def _exhaust(self, record: ShardRecord) -> ShardRecord | None:
        """PENDING or a lapsed RUNNING → FAILED; None if the shard has moved on."""
        if record.state is ShardState.RUNNING:
            return self._end_unmoved(record, ShardState.FAILED, lapse_failure(record))
        return self._end_unmoved(record, ShardState.FAILED, Failure(record.error_class, record.error_message))

    def renew(
        self, run_id: str, number: int, attempt_id: str, lease_s: float, staged: ShardResult | None = None
    ) -> None:
        """Let the lease end ``lease_s`` from now; with ``staged`` this attempt has won.

        The index keeps the end that the claim gave: it guides, and a write to it costs as much as one to the table.
        """
        update, condition, end_s = "SET lease_end_s = :end", _OWNED, self._clock.now_s() + lease_s
        values: Attributes = {
            ":end": num(end_s),
            ":me": text(attempt_id),
            ":running": text(ShardState.RUNNING),
        }
        if staged is not None:
            of_result, more = _result(staged)
            update, values = f"{update}, winner = :me, {of_result}", {**values, **more}
            condition += " AND (attribute_not_exists(winner) OR winner = :me)"
        outcome = self._table.update(shard_key(run_id, number), update, condition, values)
        if outcome.applied:
            return
        record = _existing(run_id, number, outcome)
        mine = record.attempt_id == attempt_id and record.state is ShardState.RUNNING
        if mine and record.lease_end_s == end_s and (staged is None or record.winner == attempt_id):
            return  # the answer was lost, not the write
        if mine and outcome.lost:
            raise outcome.lost
        raise not_owned(record, attempt_id)

    def succeed(self, run_id: str, number: int, attempt_id: str, result: ShardResult) -> None:
        """RUNNING → SUCCEEDED."""
        of_result, values = _result(result)
        update = f"SET #state = :wanted, changed_s = :now, {of_result} REMOVE #open"
        self._end_owned(run_id, number, attempt_id, ShardState.SUCCEEDED, update, values)

    def fail(self, run_id: str, number: int, attempt_id: str, failure: Failure) -> None:
        """RUNNING → FAILED."""
        self._give_up(run_id, number, attempt_id, ShardState.FAILED, failure)

    def release(self, run_id: str, number: int, attempt_id: str, failure: Failure) -> None:
        """RUNNING → PENDING."""
        self._give_up(run_id, number, attempt_id, ShardState.PENDING, failure)

    def _give_up(self, run_id: str, number: int, attempt_id: str, wanted: ShardState, failure: Failure) -> None:
        kept, now_s = bounded_failure(failure), self._clock.now_s()
        values: Attributes = {
            ":open": text(open_value(wanted, now_s)),
            ":class": text(kept.error_class),
            ":message": text(kept.message),
        }
        update = "SET #state = :wanted, changed_s = :now, #open = :open, error_class = :class, error_message = :message"
        self._end_owned(run_id, number, attempt_id, wanted, update, values)

    def _end_owned(
        self, run_id: str, number: int, attempt_id: str, wanted: ShardState, update: str, values: Attributes
    ) -> None:
        """RUNNING → ``wanted``, fenced by attempt id and state; what it says already is not said again."""
        fence: Attributes = {
            ":me": text(attempt_id),
            ":running": text(ShardState.RUNNING),
            ":wanted": text(wanted),
            ":now": num(self._clock.now_s()),
        }
        outcome = self._table.update(shard_key(run_id, number), update, _OWNED, {**values, **fence})
        if outcome.applied:
            return
        record = _existing(run_id, number, outcome)
        if record.attempt_id == attempt_id and record.state is wanted:
            return
        if outcome.lost and record.attempt_id == attempt_id and record.state is ShardState.RUNNING:
            raise outcome.lost
        raise not_owned(record, attempt_id)

    # --- checker, dead letters, redrive ---

    def lapse(self, record: ShardRecord, max_attempts: int) -> ShardRecord | None:
        """End a lease that is over."""
        if record.state is not ShardState.RUNNING or record.lease_end_s > self._clock.now_s():
            return None
        state = ShardState.PENDING if record.attempts < max_attempts else ShardState.FAILED
        return self._end_unmoved(record, state, lapse_failure(record))

    def abandon(self, record: ShardRecord, failure: Failure) -> bool:
        """PENDING → FAILED for a shard that nobody will claim."""
        if record.state is not ShardState.PENDING:
            return False
        return self._end_unmoved(record, ShardState.FAILED, failure) is not None

    def count_requeue(self, record: ShardRecord, *, unrun: bool = False) -> ShardRecord | None:
        """Count a message sent again; the shard's waiting time begins anew."""
        if record.state is not ShardState.PENDING:
            return None
        update = "SET requeues = :more, changed_s = :now, #open = :open, writer = :writer"
        values = {":more": num(record.requeues + 1)}
        if unrun:
            update, values = f"{update}, unrun = :unrun", {**values, ":unrun": num(record.unrun + 1)}
        return self._change_unmoved(record, ShardState.PENDING, update, values)

    def _end_unmoved(self, record: ShardRecord, state: ShardState, failure: Failure) -> ShardRecord | None:
        kept = bounded_failure(failure)
        update = (
            "SET #state = :state, changed_s = :now, #open = :open, error_class = :class, error_message = :message, "
            "writer = :writer"
        )
        values: Attributes = {
            ":state": text(state),
            ":class": text(kept.error_class),
            ":message": text(kept.message),
        }
        return self._change_unmoved(record, state, update, values)

    def _change_unmoved(
        self, record: ShardRecord, state: ShardState, update: str, values: Attributes
    ) -> ShardRecord | None:
        """Change a shard that is as it was read, to ``state``; None if it has moved on."""
        writer, now_s = new_writer(), self._clock.now_s()
        condition = _UNMOVED
        if record.state is ShardState.RUNNING:  # a lease that was renewed since is not over
            condition, values = (
                f"{_UNMOVED} AND lease_end_s = :lease_end",
                {**values, ":lease_end": num(record.lease_end_s)},
            )
        unmoved: Attributes = {
            ":was": text(record.state),
            ":generation": num(record.generation),
            ":attempts": num(record.attempts),
            ":requeues": num(record.requeues),
            ":attempt": text(record.attempt_id),
            ":now": num(now_s),
            ":open": text(open_value(state, now_s)),
            ":writer": text(writer),
        }
        key = shard_key(record.run_id, record.number)
        outcome = self._table.update(key, update, condition, {**values, **unmoved})
        found = _existing(record.run_id, record.number, outcome)
        if outcome.applied or (wrote(outcome, writer) and found.state is state):
            return found
        if outcome.lost and _same(found, record):
            raise outcome.lost
        return None

    def redrive(self, run_id: str, number: int, generation: int) -> ShardRecord | None:
        """FAILED → PENDING in a later generation."""
        writer, now_s = new_writer(), self._clock.now_s()
        outcome = self._table.update(
            shard_key(run_id, number),
            "SET #state = :pending, generation = :generation, attempts = :none, requeues = :none, unrun = :none, "
            "changed_s = :now, #open = :open, writer = :writer",
            "#state = :failed AND generation < :generation",
            {
                ":pending": text(ShardState.PENDING),
                ":failed": text(ShardState.FAILED),
                ":generation": num(generation),
                ":none": num(0),
                ":now": num(now_s),
                ":open": text(open_value(ShardState.PENDING, now_s)),
                ":writer": text(writer),
            },
        )
        record = _existing(run_id, number, outcome)
        if wrote(outcome, writer) and record.state is ShardState.PENDING:
            return record
        if outcome.lost and record.state is ShardState.FAILED and record.generation < generation:
            raise outcome.lost
        return None


def _result(result: ShardResult) -> tuple[str, Attributes]:
    """What a shard's item keeps of a result: assignments, and their values."""
    kept = bounded_result(result)
    update, values = "outputs = :outputs", Attributes({":outputs": {"L": [text(uri) for uri in kept.outputs]}})
    if kept.rows is not None:
        update, values[":rows"] = f"{update}, #rows = :rows", num(kept.rows)
    if kept.output_bytes is not None:
        update, values[":bytes"] = f"{update}, output_bytes = :bytes", num(kept.output_bytes)
    return update, values


def _existing(run_id: str, number: int, outcome: Written) -> ShardRecord:
    if outcome.item is None:
        raise ShardNotFoundError(f"run {run_id} has no shard {number}")
    return shard_record(outcome.item)


def _same(found: ShardRecord, record: ShardRecord) -> bool:
    """Whether a write that rests on ``record`` would still be taken."""
    return (found.state, found.generation, found.attempts, found.requeues, found.attempt_id, found.lease_end_s) == (
        record.state,
        record.generation,
        record.attempts,
        record.requeues,
        record.attempt_id,
        record.lease_end_s,
    )


def _refusal(record: ShardRecord, ref: ShardRef, attempt_id: str, now_s: float, outcome: Written) -> Claim | None:
    """What the item that refused a claim answers; None if the shard could be taken all the same."""
    if record.attempt_id == attempt_id and record.state is ShardState.RUNNING and record.generation == ref.generation:
        return Claim(ClaimStatus.GRANTED, record)  # also after a lost answer: the claim was mine
    if ref.generation > record.generation:
        raise LedgerError(
            f"shard {ref.shard} of run {ref.run_id} is at generation {record.generation}, "
            f"the message at {ref.generation}: try again"
        )
    if ref.generation < record.generation:
        return Claim(ClaimStatus.STALE, record)
    if record.state.ended:
        return Claim(ClaimStatus.DONE, record)
    if record.attempt_id == attempt_id:
        raise LedgerError(f"attempt {attempt_id} of shard {ref.shard} has ended; claim with an id of its own")
    if is_held(record, now_s):
        return Claim(ClaimStatus.HELD, record)
    if outcome.lost:
        raise outcome.lost
    return None

"""The end of a run that somebody asked for: nothing new is begun, and every shard still has a known end.

``cancel`` marks the run; what follows can be done by anybody, any number of times, from the beginning::

    enter the shards of parts that are sealed but not dispatched (no messages)
    seal the plan with what its parts hold
    end leases that are over, give up what is PENDING

A mark is never overtaken by a planner: the ledger takes no part of a cancelled run. What is RUNNING ends by itself,
or its lease lapses. A worker that gets a message later finds the shard ended and acknowledges it.
"""

from contextlib import suppress
from dataclasses import dataclass

from sparklet.errors import CheckpointConflictError, PlanError
from sparklet.fanout.checking.follow_ups import open_follow_ups
from sparklet.fanout.checking.in_time import for_a_while
from sparklet.fanout.deployment import Deployment
from sparklet.fanout.plan_parts import Sealed
from sparklet.fanout.planning.dispatch import enter_part
from sparklet.ledger_rules import LEASE_GRACE_S, last_cause
from sparklet.model import Counts, Failure, Run, ShardRecord, ShardState

RUN_CANCELLED = "RunCancelled"
NOT_PLANNED = "not planned: the run was cancelled before its plan was done"
"""Among the objects left out, with the number 0: nobody has listed them, so nobody knows how many they are."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What cancelling came to so far."""

    run: Run
    abandoned: int  # shards given up now
    counts: Counts


def cancel(at: Deployment, run_id: str) -> Cancelled:
    """Stop a run; asking again goes on where the first asking came to.

    Raises
    ------
    PlanError
        If the run has ended otherwise.
    """
    run = at.ledger.runs.cancel(run_id)
    if run.cancelled_s is None:
        raise PlanError(f"the run {run_id} has ended already, it is {run.state}; there is nothing to cancel")
    cancel_follow_ups(at, run)
    if run.state.ended:
        return Cancelled(run, 0, at.ledger.shards.count(run_id))
    run = seal_as_it_is(at, run)
    abandoned = give_up(at, run)
    return Cancelled(run, abandoned, at.ledger.shards.count(run_id))


def cancel_follow_ups(at: Deployment, run: Run) -> None:
    """Cancel the run that judges a cancelled one; and a next run, which a checker entered just before the mark."""
    for follower in open_follow_ups(at, run):
        with suppress(PlanError):  # it has ended meanwhile
            cancel(at, follower.run_id)


def seal_as_it_is(at: Deployment, run: Run) -> Run:
    """Seal a cancelled run's plan with the shards of its sealed parts, all of them in the ledger."""
    if run.sealed:
        return run
    sealed = Sealed()
    for part in at.ledger.runs.parts(run.run_id):
        if not part.dispatched:
            enter_part(at, run, part, at.store.get(at.part_uri(run.run_id, part.part)))
            at.ledger.runs.mark_dispatched(run.run_id, part.index)
        sealed = sealed.and_part(part)
    skipped = {NOT_PLANNED: 0, **sealed.skipped}
    try:
        at.ledger.runs.seal_plan(run.run_id, sealed.shards, sealed.objects, sealed.size_bytes, skipped)
    except CheckpointConflictError:
        if not at.ledger.runs.get(run.run_id).sealed:
            raise
    return at.ledger.runs.get(run.run_id)


def give_up(at: Deployment, run: Run) -> int:
    """PENDING → FAILED for all shards of a cancelled run, leases that are over ended first; how many.

    The index guides: what it does not show yet, or what would take too long, is given up the next time.
    """
    abandoned = 0
    for record in for_a_while(at.clock, at.ledger.shards.expired(run.run_id, ShardState.RUNNING, at.clock.now_s())):
        at.ledger.attempts.lapse(record, run.options.max_attempts)
    waiting = at.ledger.shards.expired(run.run_id, ShardState.PENDING, at.clock.now_s() + LEASE_GRACE_S)
    for record in for_a_while(at.clock, waiting):
        abandoned += at.ledger.attempts.abandon(record, _cancelled(record))
    return abandoned


def _cancelled(record: ShardRecord) -> Failure:
    return Failure(
        RUN_CANCELLED, f"the run was cancelled before this shard was done{last_cause(record)}", retryable=False
    )

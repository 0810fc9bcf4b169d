"""Cancelling a run.

``cancel`` marks the run; after that the ledger refuses further plan parts. The next steps can be repeated from the
beginning, also by another caller::

    enter the shards of parts that are sealed but not dispatched, without messages
    seal the plan with the shards of its parts
    end expired leases, fail PENDING shards
"""

from collections import deque
from contextlib import suppress
from dataclasses import dataclass

from sparklet.errors import CheckpointConflictError, PlanError
from sparklet.model import Counts, Run
from sparklet.planning.planner import dispatch_sealed
from sparklet.ports.deployment import Deployment
from sparklet.runs.dispatch import RUN_CANCELLED, end_leases, give_up_all
from sparklet.runs.phases import open_followers

NOT_PLANNED = "not planned: the run was cancelled before its plan was done"
"""A reason in ``Run.skipped``, with the number 0, since the number of these objects is not known."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What a call of ``cancel`` has done."""

    run: Run
    abandoned: int  # shards that this call failed
    counts: Counts


def cancel(deployment: Deployment, run_id: str) -> Cancelled:
    """Cancel a run and the open runs that follow it; seal its plan as it is, and fail its PENDING shards.

    A second call continues an interrupted one. PlanError if the run has ended without being cancelled.
    """
    run = deployment.ledger.runs.cancel(run_id)
    if run.cancelled_s is None:
        raise PlanError(f"the run {run_id} has ended already, it is {run.state}; there is nothing to cancel")
    cancel_followers(deployment, run)
    if run.state.ended:
        return Cancelled(run, 0, deployment.ledger.shards.count(run_id))
    run = seal_as_it_is(deployment, run)
    abandoned = give_up(deployment, run)
    return Cancelled(run, abandoned, deployment.ledger.shards.count(run_id))


def cancel_followers(deployment: Deployment, run: Run) -> None:
    """Cancel the open runs that follow a cancelled run; once a run is marked as cancelled, no more are entered."""
    for follower in open_followers(deployment, run):
        with suppress(PlanError):  # the follower has ended meanwhile
            cancel(deployment, follower.run_id)


def seal_as_it_is(deployment: Deployment, run: Run) -> Run:
    """Seal a cancelled run's plan with the shards of its sealed parts; first enter those that the ledger lacks."""
    if run.sealed:
        return run
    progress = dispatch_sealed(deployment, run)
    skipped = {NOT_PLANNED: 0, **progress.skipped}
    try:
        deployment.ledger.runs.seal_plan(run.run_id, progress.shards, progress.objects, progress.size_bytes, skipped)
    except CheckpointConflictError:
        # A check, another command or the planner may have sealed the plan in between; then nothing is left to do.
        if not deployment.ledger.runs.get(run.run_id).sealed:
            raise
    return deployment.ledger.runs.get(run.run_id)


def give_up(deployment: Deployment, run: Run) -> int:
    """End a cancelled run's expired leases, fail its PENDING shards, and return how many; the next check continues."""
    deque(end_leases(deployment, run), maxlen=0)
    return give_up_all(deployment, run, RUN_CANCELLED, "the run was cancelled before this shard was done")

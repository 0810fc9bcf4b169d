"""Which runs a scheduled check looks at, and when one is left alone: see ``docs/decisions/0025``.

A run is unsettled from its creation until it has ended, its end was told and its manifest was found right. So what a
check costs depends on what is open, not on how many runs there ever were.
"""

from collections.abc import Collection, Iterable, Sequence

from sparklet.fanout.checking.telling import is_time_to_tell, owes_notice
from sparklet.fanout.deployment import Deployment
from sparklet.model import Run

MOST_SETTLED = 20  # a check


def due(at: Deployment, unsettled: Iterable[Run]) -> Sequence[Run]:
    """Runs that need a check, newest first: those that have not ended, then ended ones that nobody was told of.

    Among the open ones those still planned come last, since continuing a plan takes long.
    """
    runs = [run for run in unsettled if not run.state.ended or is_time_to_tell(at, run)]
    return sorted(runs, key=lambda run: (run.state.ended, not run.sealed))


def almost_settled(at: Deployment, unsettled: Iterable[Run]) -> Sequence[Run]:
    """Ended runs of which nobody waits to hear, those first that ended first; the next check takes what is too many."""
    ended = [run for run in unsettled if run.state.ended and not owes_notice(at, run)]
    return sorted(ended, key=lambda run: run.ended_s or run.created_s)[:MOST_SETTLED]


def settle(at: Deployment, runs: Iterable[Run], differing: Collection[str]) -> None:
    """Leave these ended runs alone from now on, but for those that differ; a redrive since they were read wins."""
    for run in runs:
        if run.run_id not in differing:
            at.ledger.runs.finalize(run)


def find_forgotten(at: Deployment) -> int:
    """Look through the next few of the settled runs for what is not: how many are looked at from now on.

    An older Sparklet, or whoever nobody thought of, may have entered or redriven a run without saying so.
    """
    found = 0
    for run in at.ledger.runs.next_finalized():
        if not run.state.ended or owes_notice(at, run):
            at.ledger.runs.unfinalize(run)
            found += 1
    return found

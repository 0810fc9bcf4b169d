"""Deleting ended runs.

A run is retired (no redrive opens it any more), its files are deleted, then its items in the ledger. After a crash the
run is still there, and the next ``clean`` deletes it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sparklet.errors import PlanError
from sparklet.model import Run
from sparklet.ports.deployment import Deployment
from sparklet.runs.follow_ups import open_follow_ups


@dataclass(frozen=True, slots=True)
class RunFiles:
    """How much a run keeps in the bucket."""

    run: Run
    files: int
    size_bytes: int


def ended_runs(at: Deployment, *, older_than_s: float = 0.0, keep: int = 0) -> Iterator[Run]:
    """Runs that ended so long ago, newest first, without the ``keep`` newest.

    Left out are runs with an open check or next run, whose scripts they keep, and check and next runs whose parent is
    still in the ledger.
    """
    now_s, kept = at.clock.now_s(), 0
    for run in at.ledger.runs.list():
        if not run.state.ended or _is_needed(at, run):
            continue
        kept += 1
        old = kept > keep and now_s - (run.ended_s or run.created_s) >= older_than_s
        if old and not any(open_follow_ups(at, run)):
            yield run


def named_run(at: Deployment, run_id: str) -> Run:
    """One run; PlanError unless it, its check and its next run have ended."""
    run = at.ledger.runs.get(run_id)
    if _is_needed(at, run):
        raise PlanError(f"the run {run_id} belongs to {run.parent}, which may be redriven; clean that one first")
    if not run.state.ended:
        raise PlanError(f"the run {run_id} has not ended, it is {run.state}; cancel it first: sparklet cancel {run_id}")
    _refuse_open_follow_ups(at, run)
    return run


def _refuse_open_follow_ups(at: Deployment, run: Run) -> None:
    for follower in open_follow_ups(at, run):
        raise PlanError(f"the run {follower.run_id} has not ended and needs the files of {run.run_id}; cancel it first")


def _is_needed(at: Deployment, run: Run) -> bool:
    """Whether this is a check or next run whose parent may have a later generation."""
    return bool(run.parent) and at.known_run(run.parent) is not None


def files_of(at: Deployment, run: Run, folders: Sequence[str]) -> RunFiles:
    """How much a run keeps below ``folders`` (see ``folders_of``)."""
    files = size_bytes = 0
    for folder in folders:
        for info in at.store.list(folder):
            files, size_bytes = files + 1, size_bytes + info.size_bytes
    return RunFiles(run, files, size_bytes)


def folders_of(at: Deployment, run_id: str) -> tuple[str, ...]:
    """The folders that belong to a run alone: its files, its uploaded inputs, and output that was not published."""
    return at.run_uri(run_id), f"s3://{at.bucket}/input/{run_id}/", f"s3://{at.bucket}/staged/{run_id}/"


def clean(at: Deployment, run: Run, folders: Sequence[str]) -> None:
    """Retire an ended run, then delete its files and its items; PlanError if its check or next run is open."""
    _refuse_open_follow_ups(at, at.ledger.runs.retire(run.run_id))
    for folder in folders:
        at.store.delete_all(info.uri for info in at.store.list(folder))
    at.ledger.runs.delete(run.run_id)

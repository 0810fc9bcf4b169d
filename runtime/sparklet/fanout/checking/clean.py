"""Runs that nobody needs any more: which they are, and how they are forgotten, ledger items last.

The order decides what a crash leaves behind: retire the run (no redrive opens it any more) → delete its files →
forget it. A run that is retired but still there is cleaned by the next ``clean``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sparklet.errors import PlanError
from sparklet.fanout.checking.follow_ups import open_follow_ups
from sparklet.fanout.deployment import Deployment
from sparklet.model import Run
from sparklet.ports import ObjectInfo


@dataclass(frozen=True, slots=True)
class RunFiles:
    """What a run keeps in the bucket."""

    run: Run
    files: int
    size_bytes: int


def ended_runs(at: Deployment, *, older_than_s: float = 0.0, keep: int = 0) -> Iterator[Run]:
    """Ended runs, newest first, that ended so long ago; never one of the ``keep`` newest, nor one that has an open
    check or next run, whose scripts lie with it, nor a check or next run whose parent is still there.
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
    """One run, if it has ended and so has what follows it; else PlanError."""
    run = at.ledger.runs.get(run_id)
    if _is_needed(at, run):
        raise PlanError(f"the run {run_id} belongs to {run.parent}, which may be redriven; clean that one first")
    if not run.state.ended:
        raise PlanError(f"the run {run_id} has not ended, it is {run.state}; cancel it first: sparklet cancel {run_id}")
    _refuse_open_follow_ups(at, run)
    return run


def _refuse_open_follow_ups(at: Deployment, run: Run) -> None:
    for follower in open_follow_ups(at, run):
        raise PlanError(f"the run {follower.run_id} has not ended and needs what {run.run_id} keeps; cancel it first")


def _is_needed(at: Deployment, run: Run) -> bool:
    """Whether a later generation of its parent would ask what became of a check or next run."""
    return bool(run.parent) and at.known_run(run.parent) is not None


def files_of(at: Deployment, run: Run, folders: Sequence[str]) -> RunFiles:
    """How much a run keeps below ``folders`` (see ``folders_of``)."""
    files = size_bytes = 0
    for info in _listed(at, folders):
        files, size_bytes = files + 1, size_bytes + info.size_bytes
    return RunFiles(run, files, size_bytes)


def folders_of(at: Deployment, run_id: str) -> tuple[str, ...]:
    """What belongs to a run alone: its own folder, inputs put into the bucket for it, output that nobody published."""
    return at.run_uri(run_id), f"s3://{at.bucket}/input/{run_id}/", f"s3://{at.bucket}/staged/{run_id}/"


def clean(at: Deployment, run: Run, folders: Sequence[str]) -> RunFiles:
    """Forget an ended run: its files below ``folders``, then what the ledger has of it.

    Once it is retired nothing follows it any more; PlanError if what follows it already is open and needs its files.
    """
    _refuse_open_follow_ups(at, at.ledger.runs.retire(run.run_id))
    found = files_of(at, run, folders)
    for folder in folders:
        at.store.delete_all(info.uri for info in at.store.list(folder))
    at.ledger.runs.delete(run.run_id)
    return found


def _listed(at: Deployment, folders: Sequence[str]) -> Iterator[ObjectInfo]:
    for folder in folders:
        yield from at.store.list(folder)

"""Deleting ended runs.

A run is retired (no redrive opens it any more), its files are deleted, then its items in the ledger. After a crash the
run is still there, and the next ``clean`` deletes it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sparklet.app.local_files import forget_inputs, is_complete, local_folder
from sparklet.app.reporter import Reporter
from sparklet.app.stack import OpenStack
from sparklet.errors import PlanError
from sparklet.model import Run
from sparklet.planning.output_claims import delete_half_published, refuse_read
from sparklet.ports.deployment import Deployment
from sparklet.runs.phases import open_followers


@dataclass(frozen=True, slots=True)
class RunFiles:
    """How much a run keeps in the folders that are deleted with it."""

    run: Run
    folders: tuple[str, ...]
    files: int
    size_bytes: int


def runs_to_clean(
    stack: OpenStack, run_ids: Sequence[str], older_than_s: float, keep: int, reporter: Reporter
) -> Iterator[RunFiles]:
    """The runs to delete, with their files: the named ones, or all that ended that long ago but the ``keep`` newest."""
    ended = ended_runs(stack.deployment, older_than_s=older_than_s, keep=keep)
    chosen = [named_run(stack.deployment, run_id) for run_id in run_ids] if run_ids else list(ended)
    incremental = {run.name for run in stack.deployment.ledger.runs.list() if run.options.incremental}
    for name in sorted({run.name for run in chosen} & incremental):
        reporter.warn(f"--incremental runs of the name {name} will process again what only deleted runs have processed")
    for run in chosen:
        folders = _folders(stack, run, reporter)
        sizes = [info.size_bytes for folder in folders for info in stack.deployment.store.list(folder)]
        yield RunFiles(run, folders, len(sizes), sum(sizes))


def _folders(stack: OpenStack, run: Run, reporter: Reporter) -> tuple[str, ...]:
    """The folders to delete with a run: its own, and the bucket's copy of its output if the local one is complete."""
    run_folders = folders_of(stack.deployment, run.run_id)
    if not run.local_output:
        return run_folders
    if is_complete(stack, run, folder := local_folder(run)):
        return *run_folders, run.output_uri
    reporter.warn(f"the output of {run.run_id} is not complete in {folder}; the bucket's copy is kept")
    return run_folders


def delete_run(stack: OpenStack, run: Run, folders: Sequence[str]) -> None:
    """Delete an ended run: its files below ``folders``, its items in the ledger, and the names of its local folders."""
    clean(stack.deployment, run, folders)
    forget_inputs(stack, run.run_id)


def ended_runs(deployment: Deployment, *, older_than_s: float = 0.0, keep: int = 0) -> Iterator[Run]:
    """Runs that ended at least that long ago, newest first, without the ``keep`` newest.

    Left out are runs with an open check or next run, whose scripts they keep, and check and next runs whose parent is
    still in the ledger.
    """
    now_s, count = deployment.clock.now_s(), 0
    for run in deployment.ledger.runs.list():
        if not run.state.ended or _is_needed(deployment, run):
            continue
        count += 1
        old = count > keep and now_s - (run.ended_s or run.created_s) >= older_than_s
        if old and not any(open_followers(deployment, run)):
            yield run


def named_run(deployment: Deployment, run_id: str) -> Run:
    """One run; PlanError unless it, its check and its next run have ended."""
    run = deployment.ledger.runs.get(run_id)
    if _is_needed(deployment, run):
        raise PlanError(f"the run {run_id} belongs to {run.parent}, which may be redriven; clean that one first")
    if not run.state.ended:
        raise PlanError(f"the run {run_id} has not ended, it is {run.state}; cancel it first: sparklet cancel {run_id}")
    _refuse_open_followers(deployment, run)
    return run


def _refuse_open_followers(deployment: Deployment, run: Run) -> None:
    for follower in open_followers(deployment, run):
        raise PlanError(f"the run {follower.run_id} has not ended and needs the files of {run.run_id}; cancel it first")


def _is_needed(deployment: Deployment, run: Run) -> bool:
    """Whether this is a check or next run whose parent may have a later generation."""
    return bool(run.parent) and deployment.known_run(run.parent) is not None


def folders_of(deployment: Deployment, run_id: str) -> tuple[str, ...]:
    """The folders that belong to a run alone: its files, its uploaded inputs, and output that was not published."""
    return (
        deployment.run_uri(run_id),
        f"s3://{deployment.bucket}/input/{run_id}/",
        f"s3://{deployment.bucket}/staged/{run_id}/",
    )


def clean(deployment: Deployment, run: Run, folders: Sequence[str]) -> None:
    """Retire an ended run, then delete its files and its items; PlanError if an open run needs or reads them.

    Its output stays, but for files of shards that FAILED while they were published.
    """
    for folder in folders:
        refuse_read(deployment, folder, (info.uri for info in deployment.store.list(folder)))
    # Asked again once no redrive can open the run: a follower may have been entered since the look before.
    _refuse_open_followers(deployment, deployment.ledger.runs.retire(run.run_id))
    delete_half_published(deployment, run)
    for folder in folders:
        deployment.store.delete_all((info.uri for info in deployment.store.list(folder)), folder)
    deployment.ledger.runs.delete(run.run_id)

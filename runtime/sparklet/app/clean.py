"""Deletes ended runs.

First a run is retired, so that no redrive can open it any more; then its files are deleted, then its items in the
ledger. After a crash the run is still in the ledger, and the next ``clean`` deletes it.
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
    """The folders that are deleted with a run, and how many files and bytes they hold."""

    run: Run
    folders: tuple[str, ...]
    files: int
    size_bytes: int


def runs_to_clean(
    stack: OpenStack, run_ids: Sequence[str], older_than_s: float, keep: int, reporter: Reporter
) -> Iterator[RunFiles]:
    """Yield the runs to delete, with their files.

    These are the runs ``run_ids``; without ids all runs that ended at least ``older_than_s`` ago, except the
    ``keep`` newest runs.
    """
    if run_ids:
        runs = [named_run(stack.deployment, run_id) for run_id in run_ids]
    else:
        runs = list(ended_runs(stack.deployment, older_than_s=older_than_s, keep=keep))
    incremental = {run.name for run in stack.deployment.ledger.runs.list() if run.options.incremental}
    for name in sorted({run.name for run in runs} & incremental):
        reporter.warn(f"--incremental runs of the name {name} will process again what only deleted runs have processed")
    for run in runs:
        folders = _folders(stack, run, reporter)
        sizes = [info.size_bytes for folder in folders for info in stack.deployment.store.list(folder)]
        yield RunFiles(run, folders, len(sizes), sum(sizes))


def _folders(stack: OpenStack, run: Run, reporter: Reporter) -> tuple[str, ...]:
    """Return the folders to delete with a run: its own, and its output in the bucket if a local copy is complete."""
    run_folders = folders_of(stack.deployment, run.run_id)
    if not run.local_output:
        return run_folders
    if is_complete(stack, run, folder := local_folder(run)):
        return *run_folders, run.output_uri
    reporter.warn(f"the output of {run.run_id} is not complete in {folder}; the bucket's copy is kept")
    return run_folders


def delete_run(stack: OpenStack, run: Run, folders: Sequence[str]) -> None:
    """Delete an ended run: its files below ``folders``, its items in the ledger, and the record of its local inputs."""
    clean(stack.deployment, run, folders)
    forget_inputs(stack, run.run_id)


def ended_runs(deployment: Deployment, *, older_than_s: float = 0.0, keep: int = 0) -> Iterator[Run]:
    """Yield runs that ended at least ``older_than_s`` ago, newest first, without the ``keep`` newest.

    Runs with an open check, commit or next run are left out, since that run still needs their files. Check, commit and
    next runs whose parent is still in the ledger are left out, too.
    """
    now_s, count = deployment.clock.now_s(), 0
    for run in deployment.ledger.runs.list():
        if not run.state.ended or _belongs_to_a_kept_run(deployment, run):
            continue
        count += 1
        is_old = count > keep and now_s - (run.ended_s or run.created_s) >= older_than_s
        if is_old and not any(open_followers(deployment, run)):
            yield run


def named_run(deployment: Deployment, run_id: str) -> Run:
    """Return a run that can be deleted; PlanError if it or a follower of it is open, or if its parent still exists."""
    run = deployment.ledger.runs.get(run_id)
    if _belongs_to_a_kept_run(deployment, run):
        raise PlanError(f"the run {run_id} belongs to {run.parent}, which may be redriven; clean that one first")
    if not run.state.ended:
        raise PlanError(f"the run {run_id} has not ended, it is {run.state}; cancel it first: sparklet cancel {run_id}")
    _refuse_open_followers(deployment, run)
    return run


def _refuse_open_followers(deployment: Deployment, run: Run) -> None:
    for follower in open_followers(deployment, run):
        raise PlanError(f"the run {follower.run_id} has not ended and needs the files of {run.run_id}; cancel it first")


def _belongs_to_a_kept_run(deployment: Deployment, run: Run) -> bool:
    """Return whether this is a check, commit or next run whose parent, still in the ledger, needs it for a redrive."""
    return bool(run.parent) and deployment.known_run(run.parent) is not None


def folders_of(deployment: Deployment, run_id: str) -> tuple[str, ...]:
    """Return the folders that belong to one run: its files, its uploaded inputs, and output that was not published."""
    return (
        deployment.run_uri(run_id),
        f"s3://{deployment.bucket}/input/{run_id}/",
        f"s3://{deployment.bucket}/staged/{run_id}/",
    )


def clean(deployment: Deployment, run: Run, folders: Sequence[str]) -> None:
    """Retire an ended run, then delete its files and its items; PlanError if an open run needs or reads them.

    The run's output stays, unless ``folders`` has it; files of shards that FAILED while they published them are
    deleted in any case.
    """
    for folder in folders:
        refuse_read(deployment, folder, (info.uri for info in deployment.store.list(folder)))
    # Checked again now that no redrive can open the run, since a follower can have been entered after the first check.
    _refuse_open_followers(deployment, deployment.ledger.runs.retire(run.run_id))
    delete_half_published(deployment, run)
    for folder in folders:
        deployment.store.delete_all((info.uri for info in deployment.store.list(folder)), folder)
    deployment.ledger.runs.delete(run.run_id)

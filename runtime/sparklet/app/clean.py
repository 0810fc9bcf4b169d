"""Ended runs are found and deleted, with all that they keep."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from sparklet.app.local_files import FOLDER, is_complete, local_paths
from sparklet.app.reporter import Reporter
from sparklet.app.stack import OpenStack
from sparklet.model import Run
from sparklet.runs.clean import RunFiles, clean, ended_runs, files_of, folders_of, named_run


def runs_to_clean(
    stack: OpenStack, run_ids: Sequence[str], older_than_s: float, keep: int, reporter: Reporter
) -> Iterator[tuple[RunFiles, tuple[str, ...]]]:
    """The named runs, or all that ended so long ago but for the ``keep`` newest, with the folders to delete."""
    ended = ended_runs(stack.at, older_than_s=older_than_s, keep=keep)
    chosen = [named_run(stack.at, run_id) for run_id in run_ids] if run_ids else list(ended)
    incremental = {run.name for run in stack.at.ledger.runs.list() if run.options.incremental}
    for name in sorted({run.name for run in chosen} & incremental):
        reporter.warn(f"--incremental runs of the name {name} will process again what only deleted runs have processed")
    for run in chosen:
        folders = _folders(stack, run, reporter)
        yield files_of(stack.at, run, folders), folders


def _folders(stack: OpenStack, run: Run, reporter: Reporter) -> tuple[str, ...]:
    """The folders to delete with a run: its own, and the bucket's copy of its output if the local one is complete."""
    own = folders_of(stack.at, run.run_id)
    output = local_paths(stack, run.run_id).output
    if not output:
        return own
    if is_complete(stack, run, Path(output)):
        return *own, run.output_uri
    reporter.warn(f"the output of {run.run_id} is not complete in {output}; the bucket's copy is kept")
    return own


def delete_run(stack: OpenStack, run: Run, folders: Sequence[str]) -> None:
    """Delete an ended run: its files below ``folders``, its items in the ledger, and the names of its local folders."""
    clean(stack.at, run, folders)
    if stack.state:
        (stack.state / FOLDER / f"{run.run_id}.json").unlink(missing_ok=True)

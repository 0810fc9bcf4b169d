"""Ended runs forgotten from the command line: also what the command line itself has put somewhere for them."""

from collections.abc import Sequence
from pathlib import Path

from sparklet.cli.console import Screen
from sparklet.cli.environment import Environment
from sparklet.cli.transfer import LocalPaths
from sparklet.fanout.checking.ending import RunFiles, clean, ended_runs, files_of, folders_of, named_run
from sparklet.model import Run, ShardState


class Cleaning:
    """What is to be forgotten in one environment, and how."""

    def __init__(self, env: Environment, screen: Screen) -> None:
        self._env = env
        self._screen = screen

    def chosen(self, run_ids: Sequence[str], older_than_s: float, keep: int) -> list[RunFiles]:
        """The runs that were named, or all that ended so long ago but the newest, with what each keeps."""
        at = self._env.at
        ended = ended_runs(at, older_than_s=older_than_s, keep=keep)
        runs = [named_run(at, run_id) for run_id in run_ids] if run_ids else list(ended)
        self._warn_of_increments(runs)
        return [files_of(at, run, self._folders(run)) for run in runs]

    def _warn_of_increments(self, runs: Sequence[Run]) -> None:
        """Say what an incremental run will do again: it knows what is done from the runs there are."""
        incremental = {run.name for run in self._env.at.ledger.runs.list() if run.options.incremental}
        for name in sorted({run.name for run in runs} & incremental):
            self._screen.warn(f"--incremental runs of the name {name} will do again what only forgotten runs have done")

    def clean(self, found: RunFiles) -> None:
        """Forget one run."""
        run = found.run
        clean(self._env.at, run, self._folders(run))
        if self._env.local:
            (self._env.paths_dir / f"{run.run_id}.json").unlink(missing_ok=True)

    def _folders(self, run: Run) -> tuple[str, ...]:
        own = folders_of(self._env.at, run.run_id)
        if not self._env.local:
            return own
        output = LocalPaths.load(self._env.paths_dir, run.run_id).output
        if not output:
            return own
        if self._is_whole(run, Path(output)):
            return *own, run.output_uri
        self._screen.warn(f"the output of {run.run_id} is not whole in {output}; the bucket's copy is kept")
        return own

    def _is_whole(self, run: Run, folder: Path) -> bool:
        """Whether a local folder has every file that succeeded shards wrote, by name and size."""
        records = self._env.at.ledger.shards.list(run.run_id, ShardState.SUCCEEDED)
        succeeded = {run.shard_output(record.number).rpartition("/")[2] for record in records}
        for info in self._env.at.store.list(run.output_uri):
            name = info.uri.removeprefix(run.output_uri)
            if name.partition("/")[0] not in succeeded or name.endswith("/"):
                continue
            path = folder / name
            if not (path.is_file() and path.stat().st_size == info.size_bytes):
                return False
        return True

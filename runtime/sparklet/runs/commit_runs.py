"""Commits to tables: what the winners of all shards have declared is fixed in a file, then a commit run makes it.

``docs/tables.md`` has the protocol and its promises, ``planning.commit_files`` the files.
A commit run is a follow-up run of one shard, with lease and attempts; its inputs are the commit files. If it fails, so
does its run. A redrive's end fixes one more commit, maybe an empty one, and its commit run begins with what is missing.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import attrgetter

from sparklet.errors import CheckpointConflictError
from sparklet.model import WRITES, Counts, Run, RunState, ScriptRef
from sparklet.model.quantities import parse_every
from sparklet.planning.commit_files import (
    CommitFile,
    commit_files,
    commit_uri,
    commits_made,
    kept_files,
    winner_of,
    winners_in,
)
from sparklet.planning.follow_up_ids import follow_up_id
from sparklet.planning.new_run import entered
from sparklet.planning.schema_task import ALL_IN_ONE
from sparklet.ports.deployment import Deployment, put_once
from sparklet.runs.follow_ups import last_commit_run, time_left_s
from sparklet.runs.summary import tolerated_failures

SCRIPT = b"from sparklet.connectors.tables.commit import main\n\nmain()\n"
SOURCE = "sparklet.connectors.tables.commit"
MADE = "commits_made"  # the parameter that names the commits which need no look at the table


def end_commit(deployment: Deployment, run: Run) -> Run | None:
    """The commit run that this generation's end waits for, if it was entered."""
    commit_run = last_commit_run(deployment, run)
    files = commit_files(deployment, run) if commit_run else ()
    return commit_run if files and _is_end(deployment, run, files[-1]) else None


def commit_at_end(deployment: Deployment, run: Run, counts: Counts, drive: Callable[[Run], Run]) -> Run | None:
    """The commit run of a generation whose shards have ended, entered if need be; None: all is committed."""
    if not has_declared(deployment, run):
        return None
    files = commit_files(deployment, run)
    last = drive(_entered(deployment, run, files)) if files else None
    # Of two commits at once the later would find the earlier one missing and make it, too: so one follows the other.
    if last and (not last.state.ended or _is_end(deployment, run, files[-1])):
        return last
    # The redrive of a run whose commit has failed may declare nothing new: an empty file gives it a commit run, which
    # makes what is missing.
    missing = last is not None and last.state is not RunState.SUCCEEDED
    if not _fix(deployment, run, files, counts, at_end=True, even_empty=missing):
        return None
    return commit_at_end(deployment, run, counts, drive)  # the file may be another checker's, and not of the end


def commit_early(deployment: Deployment, run: Run, counts: Counts) -> Run | None:
    """The last commit run of a run with ``commit_every``; the next is entered if due, unless too much has failed."""
    every = run.options.commit_every
    if (
        not every
        or counts.failed > (tolerated_failures(run.options, counts.total) or 0)
        or not has_declared(deployment, run)
    ):
        return None
    files = commit_files(deployment, run)
    last = _entered(deployment, run, files) if files else None
    if last and last.state is not RunState.SUCCEEDED:
        return last
    shards, every_s = parse_every(every)
    fresh = counts.succeeded - (files[-1].header(deployment.store)["succeeded"] if files else 0)
    since_s = files[-1].written_s if files else run.created_s
    due = fresh >= shards if shards else fresh > 0 and deployment.clock.now_s() - since_s >= every_s
    if due and _fix(deployment, run, files, counts, at_end=False, even_empty=False):
        return _entered(deployment, run, commit_files(deployment, run))
    return last


def has_declared(deployment: Deployment, run: Run) -> bool:
    """Whether any attempt at a shard has declared writes to tables."""
    # One request: most runs write to no table, and need no pass over their shards.
    return next(iter(deployment.store.list(deployment.run_uri(run.run_id, WRITES))), None) is not None


def _is_end(deployment: Deployment, run: Run, file: CommitFile) -> bool:
    return bool(file.header(deployment.store)["ends"] == run.generation)


def _fix(
    deployment: Deployment, run: Run, files: Sequence[CommitFile], counts: Counts, *, at_end: bool, even_empty: bool
) -> bool:
    """Write the next commit file, of winners in none of ``files``; False if empty. A faster checker's file counts."""
    committed_winners = winners_in(deployment.store, files)
    winners = kept_files(deployment, run.run_id, WRITES, attrgetter("writes_file"))
    fresh = [uri for record, uri in winners if winner_of(record) not in committed_winners]
    if not fresh and not even_empty:
        return False
    number = len(files)
    header = {
        "identity": run.identity,
        "run_id": run.run_id,
        "commit": number,
        "ends": run.generation if at_end else None,  # the generation whose end waits for it
        "succeeded": counts.succeeded,
        "fixed_at_s": deployment.clock.now_s(),
    }
    # Whole declarations are copied, so the commit run needs these files alone, and a repeated commit has the same
    # content.
    lines = [json.dumps(header).encode(), *(body.strip() for body in deployment.store.get_all(fresh))]
    # A faster checker may have fixed other winners under this number: its file is the commit, and what it lacks goes
    # into the next one.
    put_once(deployment.store, (commit_uri(deployment, run, number), b"\n".join(lines) + b"\n"))
    return True


def _entered(deployment: Deployment, run: Run, files: Sequence[CommitFile]) -> Run:
    """The run that makes these commits, entered if it is not known.

    The parent is read after its file was written: a run that plans again what a cancelled one has not committed either
    sees the file, or no commit run is entered for it.
    """
    made_id = follow_up_id(run.run_id, "commit", files[-1].number)
    if existing_run := deployment.known_run(made_id):
        return existing_run
    now = deployment.ledger.runs.get(run.run_id)
    if now.state.ended or now.cancelled_s is not None:
        raise CheckpointConflictError(f"the run {run.run_id} was cancelled or has ended; no further commit begins")
    digest = hashlib.sha256(SCRIPT).hexdigest()
    script = ScriptRef(deployment.run_uri(made_id, f"script/{digest}/commit.py"), digest, SOURCE)
    put_once(deployment.store, (script.uri, SCRIPT))
    made = commits_made(deployment, run.run_id, len(files) - 1)
    follower = Run(
        made_id,
        tuple(file.uri for file in files),
        f"s3://{deployment.bucket}/output/{made_id}/",
        (script,),
        params={**run.params, MADE: list(range(made))},
        options=replace(ALL_IN_ONE, max_attempts=run.options.max_attempts, time_limit_s=time_left_s(deployment, run)),
        name=f"{run.name}-commit",
    )
    return entered(deployment, run, follower)

"""The phases of a run, each done by a run of its own, and what each phase begins with.

``schema → shards → check → commit → next → end``. All phases but the shards are runs like any other (``Run.kind``). A
phase's run is entered once its parent needs it, in one transaction that also writes its name into the parent's record:
so a second checker finds it, and after a crash between any two steps the next check continues. ``PHASES`` has all::

    the plan's first part → the schema run (see ``planning.schema_task``) → its shards
    all shards have ended, within what the run tolerates
      → statistics to runs/<run_id>/_summary-<identity>-<generation>.json → the check run, whose input that is → its end
      → the commit runs, if shards have declared writes to tables → their end
      → the next run, whose input is what this run wrote → the end of this run

The summary's name begins with an underscore, so the worker fetches it (``worker.inputs``): the script gets it as a
file, and needs no permission to list ``runs/``.

A commit: a file records what the winners of all shards have declared; then a commit run of one shard, with lease and
attempts, makes the commit. Its inputs are all commit files (``planning.commit_files``; for the promises see
``docs/tables.md``). If it fails, so does its parent. The end of a redrive writes one more commit file, which may be
empty; its run begins with the commits that are missing.
"""

import hashlib
import json
import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, islice
from operator import attrgetter
from typing import Any, Self

from sparklet.errors import PlanError
from sparklet.model import (
    WRITES,
    Counts,
    ListSource,
    Run,
    RunKind,
    RunOptions,
    RunState,
    ScriptRef,
    ShardState,
    follower_id,
)
from sparklet.model.quantities import parse_every
from sparklet.model.redaction import redacted
from sparklet.planning import routes
from sparklet.planning.commit_files import (
    CommitFile,
    commit_files,
    commit_uri,
    commits_made,
    kept_files,
    winner_of,
    winners_in,
)
from sparklet.planning.inputs.lists import MAX_ITEM_BYTES
from sparklet.planning.inputs.selection import is_hidden
from sparklet.planning.new_run import enter_follower
from sparklet.planning.output_claims import earlier_followers, half_published_shards, take_outputs
from sparklet.planning.outputs import published_files
from sparklet.planning.schema_task import ALL_IN_ONE
from sparklet.ports.deployment import Deployment, put_once
from sparklet.runs.summary import Summary, statistics, summarize, tolerated_failures, write_results

MIN_CHECK_S = 3600.0  # the least time limit of a check or commit run, even if its parent's time is over
TOO_MANY_FAILED = "too many shards have FAILED while their output was published"
MAX_LEFT_OUT = 500  # how many such shards a next run leaves out, each by a pattern
NO_ANSWERS = "no shard has given an answer (job.answer), or the answers are too many or too large for items"
INHERITED = (  # options of a next run
    *("target_bytes", "max_attempts", "time_limit_s", *routes.ROUTE),
    *("isolate", "tolerated_failure_count", "tolerated_failure_percentage", "allow_drift"),
)
COMMIT_SCRIPT = b"from sparklet.connectors.tables.commit import main\n\nmain()\n"
COMMIT_SOURCE = "sparklet.connectors.tables.commit"
MADE = "commits_made"  # the parameter with the commits that are known to be in their tables


@dataclass(frozen=True, slots=True)
class EndingRun:
    """A run whose shards have all ended, with no more failures than it tolerates."""

    run: Run
    counts: Counts
    state: RunState  # how the run ends if its check and commit runs succeed
    drive: Callable[[Run], Run]  # checks and plans the check or commit run, and returns it as it is after that


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase that a run of its own does for its parent."""

    kind: RunKind
    script: Callable[[Run], ScriptRef | None] = lambda _: None  # the user's script for this phase
    # At the parent's end: returns the phase's run, which it enters if that has not been done.
    enter: Callable[[Deployment, EndingRun], Run | None] | None = None


def check_phase(deployment: Deployment, ending: EndingRun) -> Run | None:
    """The check run, in which the user's script judges a generation by its statistics; None if no script is given."""
    run = ending.run
    if run.check is None:
        return None
    if follower_run_id := run.follower_ids.get(RunKind.CHECK):
        return ending.drive(deployment.ledger.runs.get(follower_run_id))
    uri = deployment.run_uri(run.run_id, f"_summary-{run.identity}-{run.generation}.json")
    # A faster checker writes the same file, since the shards have ended.
    put_once(deployment.store, (uri, _summary(deployment, run, ending.state)))
    options = RunOptions(max_attempts=run.options.max_attempts, time_limit_s=_time_left_s(deployment, run))
    follower = Run("", (uri,), "", (run.check,), params=run.params, options=options)
    return ending.drive(enter_follower(deployment, run, replace(follower, kind=RunKind.CHECK, number=run.generation)))


def _summary(deployment: Deployment, run: Run, state: RunState) -> bytes:
    document = statistics(run, summarize(deployment, run, state))
    request = {"inputs": list(run.inputs), "args": redacted(run.args), "params": redacted(run.params)}
    return json.dumps({**document, **request}, indent=2).encode() + b"\n"


def _time_left_s(deployment: Deployment, run: Run) -> float:
    """The time limit of a check or commit run entered now: the rest of its parent's time, at least ``MIN_CHECK_S``."""
    return max(run.created_s + run.options.time_limit_s - deployment.clock.now_s(), MIN_CHECK_S)


# --- commits ---


def commit_phase(deployment: Deployment, ending: EndingRun) -> Run | None:
    """The commit run of a generation whose shards have ended; None if everything is committed."""
    run = ending.run
    if not has_declared_writes(deployment, run):
        return None
    files = commit_files(deployment, run)
    last = ending.drive(_commit_run(deployment, run, files)) if files else None
    # One commit follows another: of two at once, the later one would find the earlier one missing, and make it, too.
    if last and (not last.state.ended or _is_of_end(deployment, run, files)):
        return last
    # The redrive of a run whose commit has failed may declare nothing new: by an empty file it gets a commit run, which
    # makes the missing commits.
    last_has_failed = last is not None and last.state is not RunState.SUCCEEDED
    if not _write_commit_file(deployment, run, files, ending.counts, at_end=True, even_empty=last_has_failed):
        return None
    # Anew, since another checker may have written the file, for an early commit.
    return commit_phase(deployment, ending)


def commit_early(deployment: Deployment, run: Run, counts: Counts) -> Run | None:
    """The last commit run of a run with ``commit_every``, which is entered if it is due.

    None if the run has not begun to commit, or if too many shards have failed.
    """
    every = run.options.commit_every
    if not every or counts.failed > (tolerated_failures(run.options, counts.total) or 0):
        return None
    if not has_declared_writes(deployment, run):
        return None
    files = commit_files(deployment, run)
    last = _commit_run(deployment, run, files) if files else None
    if last and last.state is not RunState.SUCCEEDED:
        return last
    shards, every_s = parse_every(every)
    new_shards = counts.succeeded - (files[-1].header(deployment.store)["succeeded"] if files else 0)
    since_s = files[-1].written_s if files else run.created_s
    is_due = new_shards >= shards if shards else new_shards > 0 and deployment.clock.now_s() - since_s >= every_s
    if is_due and _write_commit_file(deployment, run, files, counts, at_end=False, even_empty=False):
        return _commit_run(deployment, run, commit_files(deployment, run))
    return last


def _is_of_end(deployment: Deployment, run: Run, files: Sequence[CommitFile]) -> bool:
    """Whether the last commit is the one for which this generation's end waits."""
    return bool(files[-1].header(deployment.store)["ends"] == run.generation)


def has_declared_writes(deployment: Deployment, run: Run) -> bool:
    """Whether any attempt at a shard has declared writes to tables."""
    # This takes one request: most runs write to no table, and need no pass over their shards.
    return next(iter(deployment.store.list(deployment.run_uri(run.run_id, WRITES))), None) is not None


def _write_commit_file(
    deployment: Deployment, run: Run, files: Sequence[CommitFile], counts: Counts, *, at_end: bool, even_empty: bool
) -> bool:
    """Write the next commit file, with the winners that none of ``files`` has; return False if there are none."""
    committed_winners = winners_in(deployment.store, files)
    winners = kept_files(deployment, run.run_id, WRITES, attrgetter("writes_file"))
    new_uris = [uri for record, uri in winners if winner_of(record) not in committed_winners]
    if not new_uris and not even_empty:
        return False
    number = len(files)
    header = {
        "identity": run.identity,
        "run_id": run.run_id,
        "commit": number,
        "ends": run.generation if at_end else None,  # the generation whose end waits for this commit
        "succeeded": counts.succeeded,
        "fixed_at_s": deployment.clock.now_s(),
    }
    # Whole declarations are copied, so that the commit run needs no other files, and a repeated commit has the same
    # content.
    lines = [json.dumps(header).encode(), *(body.strip() for body in deployment.store.get_all(new_uris))]
    # A faster checker may have written other winners under this number: its file is the commit, and the next commit has
    # the winners that it lacks.
    put_once(deployment.store, (commit_uri(deployment, run, number), b"\n".join(lines) + b"\n"))
    return True


def _commit_run(deployment: Deployment, run: Run, files: Sequence[CommitFile]) -> Run:
    """The run that makes the commits of ``files``; it is entered if it does not exist.

    It is not entered if the parent was cancelled after its commit files were written. Otherwise input could be
    committed twice: by the commit run, and by a later run that plans a cancelled run's uncommitted input again. That
    run looks for commit files: what they commit it leaves out. If it finds none, no commit run will be entered.
    """
    number = files[-1].number
    commit_run_id = follower_id(run.run_id, RunKind.COMMIT, number)
    if number <= run.followers.get(RunKind.COMMIT, -1):
        return deployment.ledger.runs.get(commit_run_id)
    digest = hashlib.sha256(COMMIT_SCRIPT).hexdigest()
    script = ScriptRef(deployment.run_uri(commit_run_id, f"script/{digest}/commit.py"), digest, COMMIT_SOURCE)
    put_once(deployment.store, (script.uri, COMMIT_SCRIPT))
    commit_count = commits_made(deployment, run.run_id, number)
    options = replace(ALL_IN_ONE, max_attempts=run.options.max_attempts, time_limit_s=_time_left_s(deployment, run))
    params = {**run.params, MADE: list(range(commit_count))}
    follower = Run("", tuple(file.uri for file in files), "", (script,), params=params, options=options)
    return enter_follower(deployment, run, replace(follower, kind=RunKind.COMMIT, number=number))


# --- the next run ---


def next_phase(deployment: Deployment, ending: EndingRun) -> Run | None:
    """The next run, which processes the output of this run; a driver of its own plans it.

    Its input is what SUCCEEDED shards of this run have published, and no other file of the folder; or their answers, if
    its inputs are items. None if no next run is requested or it was entered before, if there are no answers, or if more
    than ``MAX_LEFT_OUT`` shards failed while their output was published. Open next runs of earlier generations are
    cancelled, since this one replaces their output.
    """
    run, items_uri = ending.run, ""
    if run.next is None or run.next_run_id:
        return None  # no next run is wanted, or an earlier check has entered it
    if run.next.items:
        items_uri = _list_uri(deployment, run, "items")
        entry = write_results(deployment, run, items_uri, MAX_ITEM_BYTES)
        if not (entry and "Key" in entry):
            return None
    records = half_published_shards(deployment, run) if ending.counts.failed else iter(())
    left_out = {record.number for record in islice(records, MAX_LEFT_OUT + 1)}
    if len(left_out) > MAX_LEFT_OUT:
        return None
    earlier = earlier_followers(deployment, run.run_id, RunKind.NEXT, run.generation)
    for earlier_run in earlier:
        deployment.ledger.runs.cancel(earlier_run.run_id)
    options = RunOptions(
        include=() if items_uri or run.options.output_per else (run.patterns(),),
        exclude=() if items_uri or run.options.output_per else tuple(map(run.patterns, sorted(left_out))),
        existing="append" if earlier else run.options.existing,
        **{name: getattr(run.options, name) for name in INHERITED},
    )
    if run.next.shards:
        options = routes.for_one_shard(deployment, options)
    list_uri = items_uri
    if not items_uri and run.options.output_per and (left_out or run.options.existing == "append"):
        # Listed, since the names of these files do not show which run or shard has written them.
        list_uri = _list_outputs(deployment, run, left_out)
    # The follower may be planned much later: then a list that was replaced is refused by its ETag.
    etag = deployment.store.head(list_uri).etag if list_uri else ""
    lists = (ListSource(list_uri, "jsonl", etag=etag, items=bool(items_uri)),) if list_uri else ()
    inputs = () if lists else (run.output_uri,)
    follower = Run("", inputs, run.next.output_uri, (run.next.script,), params=run.params, options=options, lists=lists)
    follower = replace(follower, dispatch=run.dispatch, kind=RunKind.NEXT, number=run.generation)
    next_run = enter_follower(deployment, run, follower)
    if not next_run.state.ended:
        # The outputs are taken over while they are still the parent's. After a PlanError the next run has FAILED.
        with suppress(PlanError):
            take_outputs(deployment, next_run)
    return next_run


def _list_uri(deployment: Deployment, run: Run, name: str) -> str:
    """An address that no other check uses: with a KMS key a second upload of the same bytes would change the ETag."""
    return deployment.run_uri(run.run_id, f"{name}-{run.generation}-{secrets.token_hex(4)}.jsonl")


def _list_outputs(deployment: Deployment, run: Run, left_out: Collection[int]) -> str:
    """Write a list of the files that a run has published, except those of some shards; return the list's address."""
    base, uri = f"{run.output_uri.rstrip('/')}/", _list_uri(deployment, run, "outputs")
    lines = [
        json.dumps({"uri": info.uri, "size": info.size_bytes, "etag": info.etag})
        for number, info in published_files(deployment.store, run)
        if number not in left_out and not is_hidden(info.uri[len(base) :])
    ]
    deployment.store.put(uri, "\n".join(lines).encode())
    return uri


# --- all phases ---

PHASES = (
    Phase(RunKind.SCHEMA),  # which the planner enters
    Phase(RunKind.CHECK, lambda run: run.check, check_phase),
    # After the check: rows that the check refuses get into no table, except by early commits of ``commit_every``.
    Phase(RunKind.COMMIT, enter=commit_phase),
    Phase(RunKind.NEXT, lambda run: run.next.script if run.next else None, next_phase),
)
TASKS = tuple(phase.kind for phase in PHASES if phase.kind is not RunKind.NEXT)


def end_state(deployment: Deployment, ending: EndingRun) -> RunState | None:
    """How a run ends after its phases, which begin one after another; None while one of them has not ended."""
    for phase in PHASES:
        if phase.enter and (follower := phase.enter(deployment, ending)) and follower.is_task:
            if not follower.state.ended:
                return None
            if follower.state is not RunState.SUCCEEDED:
                return RunState.FAILED
    return ending.state


def open_task(deployment: Deployment, run: Run) -> Run | None:
    """The check or commit run for which the end of a run waits; None if that has not begun, or has ended."""
    for phase in PHASES:
        run_id = run.follower_ids.get(phase.kind, "")
        if phase.script(run) and not run_id:
            return None  # this phase comes first, and has not begun
        if not (phase.enter and run_id) or (task := deployment.ledger.runs.get(run_id)).state.ended:
            continue
        # An early commit that still runs does not delay the end of a run whose shards have failed.
        is_early = phase.kind is RunKind.COMMIT and not _is_of_end(deployment, run, commit_files(deployment, run))
        if task.is_task and not is_early:
            return task
    return None


def open_followers(deployment: Deployment, run: Run) -> Iterator[Run]:
    """The runs that follow this one, or an earlier generation of it, and have not ended."""
    # Only the last commit run can be open, since each begins once the one before has ended.
    kinds = [kind for kind in RunKind if kind.of_generation and kind in run.followers]
    earlier = (earlier_followers(deployment, run.run_id, kind, run.generation) for kind in kinds)
    followers = chain(deployment.ledger.runs.followers(run).values(), *earlier)
    return (follower for follower in followers if not follower.state.ended)


@dataclass(frozen=True, slots=True)
class PhaseStatus:
    """The status of a phase's run."""

    run_id: str
    state: str  # the run's state, or "not begun"
    error_class: str = ""  # why the run failed
    message: str = ""

    @classmethod
    def of(cls, deployment: Deployment, follower: Run) -> Self:
        """The status of a phase that has begun."""
        if follower.state not in (RunState.FAILED, RunState.CANCELLED):
            return cls(follower.run_id, follower.state)
        failed = next(deployment.ledger.shards.list(follower.run_id, ShardState.FAILED), None)
        if failed is None:  # the run was not planned in time, or was cancelled when all its shards had succeeded
            why = f"the run {follower.run_id} has ended as {follower.state}"
            return cls(follower.run_id, follower.state, str(follower.state), why)
        return cls(follower.run_id, follower.state, failed.error_class, failed.error_message)

    def to_document(self) -> dict[str, Any]:
        """The entry in the outcome of the phase's parent."""
        error = {"class": self.error_class, "message": self.message} if self.error_class else None
        return {"run_id": self.run_id, "state": str(self.state), "error": error}


def task_status(deployment: Deployment, run: Run) -> dict[RunKind, PhaseStatus]:
    """The status of each phase that has begun and for which the run waits, in order."""
    followers = deployment.ledger.runs.followers(run)
    return {kind: PhaseStatus.of(deployment, task) for kind, task in followers.items() if task.is_task}


def outcome(deployment: Deployment, run: Run, summary: Summary) -> dict[str, Any]:
    """How a run and its phases ended, as the JSON document that its manifest and its notice contain."""
    tasks = task_status(deployment, run)
    ended_well = summary.state in (RunState.SUCCEEDED, RunState.SUCCEEDED_WITH_FAILURES)
    has_no_next = run.next and ended_well and summary.counts.total and not run.next_run_id
    # Why a run that ended well has no next run, although one was requested.
    reason = NO_ANSWERS if run.next and run.next.items else TOO_MANY_FAILED
    return {
        **statistics(run, summary),
        **{str(kind): tasks[kind].to_document() if kind in tasks else None for kind in TASKS},
        "next_run_id": run.next_run_id,
        "no_next_run": reason if has_no_next else None,
    }


def failed_end(deployment: Deployment, run: Run) -> PhaseStatus | None:
    """The check run, or else the last commit run, because of which a run has FAILED; None if neither is the cause."""
    if run.state is not RunState.FAILED:
        return None
    # Also a check of an earlier generation: a redrive that was refused has begun a generation without a check.
    numbers = [(kind, run.followers[kind]) for kind in (RunKind.CHECK, RunKind.COMMIT) if kind in run.followers]
    followers = (deployment.ledger.runs.get(follower_id(run.run_id, kind, number)) for kind, number in numbers)
    statuses = (PhaseStatus.of(deployment, follower) for follower in followers)
    return next((status for status in statuses if status.error_class), None)


def refuse_same_commit(deployment: Deployment, run: Run, end: PhaseStatus) -> None:
    """PlanError if the run's last two commits failed alike; after a repair of the table ``--cause`` repeats the end."""
    if end.run_id != run.follower_ids.get(RunKind.COMMIT):
        return
    before = deployment.known_run(follower_id(run.run_id, RunKind.COMMIT, run.followers[RunKind.COMMIT] - 1))
    if before and PhaseStatus.of(deployment, before).error_class == end.error_class:
        raise PlanError(
            f"two commits have failed with {end.error_class}: {end.message}; a third will fail too, unless the table "
            f"was repaired. If it was: sparklet redrive {run.run_id} --cause {end.error_class}; else start a new run"
        )

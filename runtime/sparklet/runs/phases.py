"""The phases of a run, each of which another run does, and what each of them begins with.

``schema → shards → check → commit → next → end``. All but the shards are runs like any other (``Run.kind``), entered
once their parent needs them, in one transaction with their names in its record: so a second checker finds them there,
and after a crash between any two steps the next check continues. ``PHASES`` has them all::

    the plan's first part → the schema run (see ``planning.schema_task``) → its shards
    all shards have ended, within what the run tolerates
      → statistics to runs/<run_id>/_summary-<identity>-<generation>.json → the check run, whose input that is → its end
      → the commit runs, if shards have declared writes to tables → their end
      → the next run, whose input is what this run wrote → the end of this run

The summary's name begins with an underscore, so the worker fetches it (``worker.inputs``): the script gets it as a
file without a permission to list ``runs/``.

A commit: what the winners of all shards have declared is fixed in a file, then a commit run of one shard, with lease
and attempts, makes it; its inputs are the commit files (``planning.commit_files``; the promises: ``docs/tables.md``).
If it fails, so does its run. A redrive's end fixes one more commit, maybe an empty one, whose run begins with what is
missing.
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

MIN_CHECK_S = 3600.0  # time limit of a check or commit run, at least, even if its run's time is over
TOO_MANY_FAILED = "too many shards have FAILED while their output was published"
MAX_LEFT_OUT = 500  # such shards, which a next run leaves out, each by a pattern
NO_ANSWERS = "no shard has given an answer (job.answer), or the answers are too many or too large for items"
INHERITED = (  # options of a next run
    *("target_bytes", "max_attempts", "time_limit_s", *routes.ROUTE),
    *("isolate", "tolerated_failure_count", "tolerated_failure_percentage", "allow_drift"),
)
COMMIT_SCRIPT = b"from sparklet.connectors.tables.commit import main\n\nmain()\n"
COMMIT_SOURCE = "sparklet.connectors.tables.commit"
MADE = "commits_made"  # the parameter that names the commits which need no look at the table


@dataclass(frozen=True, slots=True)
class AtEnd:
    """A run whose shards have all ended, with no more failures than it tolerates."""

    run: Run
    counts: Counts
    state: RunState  # how it ends if its check and commit runs succeed
    drive: Callable[[Run], Run]  # a check of the check or commit run, which also plans it


@dataclass(frozen=True, slots=True)
class Phase:
    """What a run of its own does for its parent."""

    kind: RunKind
    script: Callable[[Run], ScriptRef | None] = lambda _: None  # the user's for it
    enter: Callable[[Deployment, AtEnd], Run | None] | None = None  # at the end: its run, which this may have entered


def check_phase(deployment: Deployment, end: AtEnd) -> Run | None:
    """The run of the user's script that judges a generation by its statistics."""
    run = end.run
    if run.check is None:
        return None
    if made_id := run.follower_ids.get(RunKind.CHECK):
        return end.drive(deployment.ledger.runs.get(made_id))
    uri = deployment.run_uri(run.run_id, f"_summary-{run.identity}-{run.generation}.json")
    # A faster checker's is the same: the shards have ended.
    put_once(deployment.store, (uri, _summary(deployment, run, end.state)))
    options = RunOptions(max_attempts=run.options.max_attempts, time_limit_s=_time_left_s(deployment, run))
    follower = Run("", (uri,), "", (run.check,), params=run.params, options=options)
    return end.drive(enter_follower(deployment, run, replace(follower, kind=RunKind.CHECK, number=run.generation)))


def _summary(deployment: Deployment, run: Run, state: RunState) -> bytes:
    document = statistics(run, summarize(deployment, run, state))
    more = {"inputs": list(run.inputs), "args": redacted(run.args), "params": redacted(run.params)}
    return json.dumps({**document, **more}, indent=2).encode() + b"\n"


def _time_left_s(deployment: Deployment, run: Run) -> float:
    """The time limit of a check or commit run that is entered now: what is left of its run's."""
    return max(run.created_s + run.options.time_limit_s - deployment.clock.now_s(), MIN_CHECK_S)


# --- commits ---


def commit_phase(deployment: Deployment, end: AtEnd) -> Run | None:
    """The commit run of a generation whose shards have ended; None: all is committed."""
    run = end.run
    if not has_declared(deployment, run):
        return None
    files = commit_files(deployment, run)
    last = end.drive(_commit_run(deployment, run, files)) if files else None
    # Of two commits at once the later would find the earlier one missing and make it, too: so one follows the other.
    if last and (not last.state.ended or _is_of_end(deployment, run, files)):
        return last
    # The redrive of a run whose commit has failed may declare nothing new: an empty file gives it a commit run, which
    # makes what is missing.
    missing = last is not None and last.state is not RunState.SUCCEEDED
    if not _write_commit_file(deployment, run, files, end.counts, at_end=True, even_empty=missing):
        return None
    return commit_phase(deployment, end)  # the file may be another checker's, and not of the end


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
    last = _commit_run(deployment, run, files) if files else None
    if last and last.state is not RunState.SUCCEEDED:
        return last
    shards, every_s = parse_every(every)
    fresh = counts.succeeded - (files[-1].header(deployment.store)["succeeded"] if files else 0)
    since_s = files[-1].written_s if files else run.created_s
    due = fresh >= shards if shards else fresh > 0 and deployment.clock.now_s() - since_s >= every_s
    if due and _write_commit_file(deployment, run, files, counts, at_end=False, even_empty=False):
        return _commit_run(deployment, run, commit_files(deployment, run))
    return last


def _is_of_end(deployment: Deployment, run: Run, files: Sequence[CommitFile]) -> bool:
    """Whether the last commit is the one that this generation's end waits for."""
    return bool(files[-1].header(deployment.store)["ends"] == run.generation)


def has_declared(deployment: Deployment, run: Run) -> bool:
    """Whether any attempt at a shard has declared writes to tables."""
    # One request: most runs write to no table, and need no pass over their shards.
    return next(iter(deployment.store.list(deployment.run_uri(run.run_id, WRITES))), None) is not None


def _write_commit_file(
    deployment: Deployment, run: Run, files: Sequence[CommitFile], counts: Counts, *, at_end: bool, even_empty: bool
) -> bool:
    """Write the next commit file, with the winners that no file in ``files`` has; False if there are none."""
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


def _commit_run(deployment: Deployment, run: Run, files: Sequence[CommitFile]) -> Run:
    """The run that makes these commits, entered if it is not known.

    A parent that was cancelled after its file was written gets none: so a run that plans a cancelled run's uncommitted
    input again either sees the file, or no commit run is entered for that file.
    """
    number = files[-1].number
    made_id = follower_id(run.run_id, RunKind.COMMIT, number)
    if number <= run.followers.get(RunKind.COMMIT, -1):
        return deployment.ledger.runs.get(made_id)
    digest = hashlib.sha256(COMMIT_SCRIPT).hexdigest()
    script = ScriptRef(deployment.run_uri(made_id, f"script/{digest}/commit.py"), digest, COMMIT_SOURCE)
    put_once(deployment.store, (script.uri, COMMIT_SCRIPT))
    made = commits_made(deployment, run.run_id, number)
    options = replace(ALL_IN_ONE, max_attempts=run.options.max_attempts, time_limit_s=_time_left_s(deployment, run))
    params = {**run.params, MADE: list(range(made))}
    follower = Run("", tuple(file.uri for file in files), "", (script,), params=params, options=options)
    return enter_follower(deployment, run, replace(follower, kind=RunKind.COMMIT, number=number))


# --- the next run ---


def next_phase(deployment: Deployment, end: AtEnd) -> Run | None:
    """The run that processes this one's output; its driver plans it.

    Its input is what SUCCEEDED shards of this run have published, and no other file of the folder; or their answers, as
    items, if it asks for items. None if there are none, or if more than ``MAX_LEFT_OUT`` shards failed while
    their output was published. Open next runs of earlier generations are cancelled: this one replaces their output.
    """
    run, items_uri = end.run, ""
    if run.next is None or run.next_run_id:
        return None  # an earlier check has entered it
    if run.next.items:
        items_uri = _list_uri(deployment, run, "items")
        written = write_results(deployment, run, items_uri, MAX_ITEM_BYTES)
        if not (written and "Key" in written):
            return None
    records = half_published_shards(deployment, run) if end.counts.failed else iter(())
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
        list_uri = _listed_outputs(deployment, run, left_out)  # names do not tell whose the folder's files are
    # The follower may be planned much later: a list that was replaced by then is refused.
    etag = deployment.store.head(list_uri).etag if list_uri else ""
    lists = (ListSource(list_uri, "jsonl", etag=etag, items=bool(items_uri)),) if list_uri else ()
    inputs = () if lists else (run.output_uri,)
    follower = Run("", inputs, run.next.output_uri, (run.next.script,), params=run.params, options=options, lists=lists)
    follower = replace(follower, dispatch=run.dispatch, kind=RunKind.NEXT, number=run.generation)
    made = enter_follower(deployment, run, follower)
    if not made.state.ended:
        with suppress(PlanError):  # it has FAILED then
            take_outputs(deployment, made)  # while they are still its parent's
    return made


def _list_uri(deployment: Deployment, run: Run, name: str) -> str:
    """An address for this check alone: a second upload of the same bytes has another ETag under a KMS key."""
    return deployment.run_uri(run.run_id, f"{name}-{run.generation}-{secrets.token_hex(4)}.jsonl")


def _listed_outputs(deployment: Deployment, run: Run, left_out: Collection[int]) -> str:
    """The address of a list of the files that a run has published for its inputs, except some shards' files."""
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
    # After the check: what that refuses gets into no table, except by earlier commits of ``commit_every``.
    Phase(RunKind.COMMIT, enter=commit_phase),
    Phase(RunKind.NEXT, lambda run: run.next.script if run.next else None, next_phase),
)
TASKS = tuple(phase.kind for phase in PHASES if phase.kind is not RunKind.NEXT)


def end_state(deployment: Deployment, end: AtEnd) -> RunState | None:
    """How a run ends after its phases, which begin one after another; None: one of them goes on."""
    for phase in PHASES:
        if phase.enter and (follower := phase.enter(deployment, end)) and follower.is_task:
            if not follower.state.ended:
                return None
            if follower.state is not RunState.SUCCEEDED:
                return RunState.FAILED
    return end.state


def open_task(deployment: Deployment, run: Run) -> Run | None:
    """The check or commit run that the end of a run waits for, as far as its phases have begun."""
    for phase in PHASES:
        run_id = run.follower_ids.get(phase.kind, "")
        if phase.script(run) and not run_id:
            return None  # it comes first
        if not (phase.enter and run_id) or (task := deployment.ledger.runs.get(run_id)).state.ended:
            continue
        # Shards that have failed end the run beside an earlier commit.
        is_early = phase.kind is RunKind.COMMIT and not _is_of_end(deployment, run, commit_files(deployment, run))
        if task.is_task and not is_early:
            return task
    return None


def open_followers(deployment: Deployment, run: Run) -> Iterator[Run]:
    """The runs that follow this one, in whatever generation, and have not ended."""
    # Of the commits only the last can be open: each begins once the one before has ended.
    kinds = [kind for kind in RunKind if kind.of_generation and kind in run.followers]
    earlier = (earlier_followers(deployment, run.run_id, kind, run.generation) for kind in kinds)
    followers = chain(deployment.ledger.runs.followers(run).values(), *earlier)
    return (follower for follower in followers if not follower.state.ended)


@dataclass(frozen=True, slots=True)
class PhaseStatus:
    """How a phase's run stands."""

    run_id: str
    state: str  # a run's, or "not begun"
    error_class: str = ""  # why it failed
    message: str = ""

    @classmethod
    def of(cls, deployment: Deployment, follower: Run) -> Self:
        """The status of a phase that has begun."""
        if follower.state not in (RunState.FAILED, RunState.CANCELLED):
            return cls(follower.run_id, follower.state)
        failed = next(deployment.ledger.shards.list(follower.run_id, ShardState.FAILED), None)
        if failed is None:  # it was not planned in time, or cancelled when all its shards had succeeded
            why = f"the run {follower.run_id} has ended as {follower.state}"
            return cls(follower.run_id, follower.state, str(follower.state), why)
        return cls(follower.run_id, follower.state, failed.error_class, failed.error_message)

    def to_document(self) -> dict[str, Any]:
        """Its entry in the run's outcome."""
        error = {"class": self.error_class, "message": self.message} if self.error_class else None
        return {"run_id": self.run_id, "state": str(self.state), "error": error}


def task_status(deployment: Deployment, run: Run) -> dict[RunKind, PhaseStatus]:
    """The phases that a run waits for and that have begun, in their order."""
    followers = deployment.ledger.runs.followers(run)
    return {kind: PhaseStatus.of(deployment, task) for kind, task in followers.items() if task.is_task}


def outcome(deployment: Deployment, run: Run, summary: Summary) -> dict[str, Any]:
    """How a run has ended, and how its phases stand, as one JSON document: what its manifest and its notice share."""
    tasks = task_status(deployment, run)
    ended_well = summary.state in (RunState.SUCCEEDED, RunState.SUCCEEDED_WITH_FAILURES)
    lacks_next = NO_ANSWERS if run.next and run.next.items else TOO_MANY_FAILED
    return {
        **statistics(run, summary),
        **{str(kind): tasks[kind].to_document() if kind in tasks else None for kind in TASKS},
        "next_run_id": run.next_run_id,
        "no_next_run": lacks_next if run.next and ended_well and summary.counts.total and not run.next_run_id else None,
    }


def failed_end(deployment: Deployment, run: Run) -> PhaseStatus | None:
    """The check run, or else the last commit run, because of which a run has FAILED; None if there is none."""
    if run.state is not RunState.FAILED:
        return None
    # The check of an earlier generation, too: a redrive that was refused has opened one that has none.
    numbers = [(kind, run.followers[kind]) for kind in (RunKind.CHECK, RunKind.COMMIT) if kind in run.followers]
    ends = (deployment.ledger.runs.get(follower_id(run.run_id, *which)) for which in numbers)
    return next((status for end in ends if (status := PhaseStatus.of(deployment, end)).error_class), None)


def refuse_same_commit(deployment: Deployment, run: Run, end: PhaseStatus) -> None:
    """PlanError if the run's last two commits failed alike: whoever has repaired the table says so by ``--cause``."""
    if end.run_id != run.follower_ids.get(RunKind.COMMIT):
        return
    before = deployment.known_run(follower_id(run.run_id, RunKind.COMMIT, run.followers[RunKind.COMMIT] - 1))
    if before and PhaseStatus.of(deployment, before).error_class == end.error_class:
        raise PlanError(
            f"two commits have failed with {end.error_class}: {end.message}; another fails, too, unless the table was "
            f"repaired. If so, sparklet redrive {run.run_id} --cause {end.error_class}; else start a new run"
        )

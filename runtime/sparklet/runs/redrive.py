"""Redrives a run: its FAILED shards are PENDING again in a new generation, with the same script or a repaired one.

SUCCEEDED shards are redriven only if they are named; their output stays until the new output is published, see
``worker.shards``.

The steps are: begin the generation → move the shards → send their messages. After a crash a second redrive moves the
shards that are still FAILED, and sends missing messages; a check that finds a stalled run sends these, too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sparklet.errors import LedgerError, PlanError
from sparklet.model import Run, RunState, ScriptRef, ShardRecord, ShardState
from sparklet.model.options import LARGE
from sparklet.planning import routes
from sparklet.planning.commit_files import commit_files, declarations, uncommitted_shards, winner_of
from sparklet.planning.output_claims import claim_outputs, refuse_overtaken, refuse_read
from sparklet.planning.outputs import published_files
from sparklet.planning.planner import send_messages
from sparklet.ports.deployment import Deployment
from sparklet.runs.cancel import NOT_PLANNED
from sparklet.runs.phases import failed_end, has_declared_writes

MAX_NAMED = 10


@dataclass(frozen=True, slots=True)
class Again:
    """How shards are done again."""

    engine: str = ""  # the engine that does the shards; if "", each shard is done where it was done before
    isolate: bool = False  # whether shards that fail are split, also if they fail for lack of memory or time

    def by_large_function(self, deployment: Deployment) -> "Again | None":
        """The same, but by ``lambda-large``; None if the stack has no such function, or ``engine`` is set."""
        return replace(self, engine=LARGE) if LARGE in deployment.engines and not self.engine else None


@dataclass(frozen=True, slots=True)
class Redriven:
    """What a redrive did."""

    run: Run
    shards: int  # FAILED or SUCCEEDED before, PENDING now
    messages: int  # sent, also for shards that an interrupted redrive had moved; 0 if checks send them
    unplanned: bool = False  # cancelling cut the plan short, and objects that were not planned stay unplanned


def redrive(
    deployment: Deployment,
    run_id: str,
    shards: Sequence[int] | None = None,
    script: ScriptRef | None = None,
    how: Again = Again(),
) -> Redriven:
    """Repeat shards in a new generation: ``shards``, or all FAILED shards if that is None.

    If no shard has FAILED, but the check or commit run has, the run's end is repeated; so is that of a cancelled run
    whose tables may lack declared writes. ``script`` is the new generation's script (see ``new_run.repaired_script``),
    by default the last generation's. PlanError if the stack cannot do the shards in this way (``how``), the run is
    being planned or cancelled, one of ``shards`` cannot be done again (see ``redrivable``), or there is nothing to
    repeat.
    """
    run, has_missing_output = redrivable(deployment, run_id, shards)
    engine = routes.of_redrive(deployment, how.engine, run.table)
    moved_count = 0
    has_shards = next(_shards_to_redrive(deployment, run_id, shards), None) is not None
    # The tables may lack what the shards of a cancelled run have declared.
    may_lack_commits = run.state is RunState.CANCELLED and has_declared_writes(deployment, run)
    repeats_end = not has_shards and shards is None and (may_lack_commits or failed_end(deployment, run) is not None)
    if has_shards or repeats_end:
        run = _start_generation(deployment, run, script or run.scripts[-1], has_missing_output=has_missing_output)
        level = 2 if how.isolate else int(run.options.isolate)
        moved_count = sum(
            deployment.ledger.attempts.redrive(run_id, n, run.generation, engine, isolate=level) is not None
            for n in _shards_to_redrive(deployment, run_id, shards)
        )
    run = _reopen_if_ended(deployment, run_id, run.generation if moved_count else None)
    if not (moved_count or repeats_end or run.cancelled_s is not None or next(_shards_to_send(deployment, run), None)):
        raise PlanError(f"the run {run_id} has no FAILED shard; there is nothing to redrive")
    messages = send_messages(deployment, run, _shards_to_send(deployment, run))
    return Redriven(run, moved_count, messages, unplanned=NOT_PLANNED in run.skipped)


def _start_generation(
    deployment: Deployment,
    run: Run,
    script: ScriptRef,
    *,
    stays_cancelled: bool = False,
    has_missing_output: bool = True,
) -> Run:
    """Begin a run's next generation, and claim its outputs.

    PlanError if other runs have claimed the outputs; then the run ends as before. ``has_missing_output``: see
    ``redrivable``.
    """
    opened = deployment.ledger.runs.start_generation(
        run.run_id, run.generation + 1, script, stays_cancelled=stays_cancelled
    )
    try:
        # Claimed after the generation has begun, since a claim is valid only while its run is open in the ledger.
        claim_outputs(deployment, opened)
        refuse_overtaken(deployment, opened, has_missing_output=has_missing_output)
    except PlanError:
        # A run can end as CANCELLED only if it is marked so, and the new generation has removed the mark.
        former_state = RunState.FAILED if run.state is RunState.CANCELLED and not stays_cancelled else run.state
        deployment.ledger.runs.finish(run.run_id, opened.generation, former_state)
        raise
    return opened


def matches_cause(record: ShardRecord, cause: str) -> bool:
    """Whether ``--cause`` matches a shard's failure: its class, with or without package, or words of its message."""
    text = f"{record.error_class}: {record.error_message}"
    return cause in (record.error_class, record.error_class.rpartition(".")[2]) or cause.casefold() in text.casefold()


def failed_with(deployment: Deployment, run_id: str, cause: str, among: Sequence[int] | None = None) -> tuple[int, ...]:
    """The FAILED shards, all or ``among`` some, that ``cause`` matches (``matches_cause``); PlanError if none do."""
    numbers, causes = [], set()
    for record in deployment.ledger.shards.list(run_id, ShardState.FAILED):
        causes.add(record.error_class or "(no cause given)")
        if (among is None or record.number in among) and matches_cause(record, cause):
            numbers.append(record.number)
    if not numbers:
        named_causes = ", ".join(sorted(causes)[:MAX_NAMED]) or "none"
        raise PlanError(f"no FAILED shard of {run_id} has the cause {cause!r}; their causes are: {named_causes}")
    return tuple(numbers)


def redrivable(deployment: Deployment, run_id: str, shards: Sequence[int] | None = None) -> tuple[Run, bool]:
    """The run, and whether a shard to redrive has no output, or has declared writes that no table has.

    PlanError if the run, or one of ``shards``, cannot be redriven now. SUCCEEDED shards can be redriven once the run
    has ended, unless a table would have their rows twice, or another run reads their output.
    """
    run = deployment.ledger.runs.get(run_id)
    if run.is_task:
        raise PlanError(
            f"{run_id} is the {run.kind} run of {run.parent}, which repeats it: sparklet redrive {run.parent}"
        )
    if run.cancelled_s is not None and not run.state.ended:
        raise PlanError(f"the run {run_id} is being cancelled; redrive it once it has ended (sparklet watch {run_id})")
    if not run.sealed:
        raise PlanError(f"the run {run_id} is still being planned; redrive it once its plan is sealed")
    requested_shards = [(number, deployment.known_shard(run_id, number)) for number in shards or ()]
    states = (ShardState.FAILED, ShardState.SUCCEEDED) if run.state.ended else (ShardState.FAILED,)
    unfit_shards = [
        f"{n} ({record.state if record else 'unknown'})"
        for n, record in requested_shards
        if not record or record.state not in states
    ]
    if unfit_shards:
        when = "" if run.state.ended else " before the run has ended"
        raise PlanError(
            f"only {' and '.join(states)} shards of {run_id} can be redriven{when}, not {_some_of(unfit_shards)}"
        )
    has_all = shards is not None and all(record and record.has_output for _, record in requested_shards)
    # Output that the run has stays until the new output is published.
    has_missing_output = not (has_all and uncommitted_shards(deployment, run).isdisjoint(shards or ()))
    refuse_overtaken(deployment, run, has_missing_output=has_missing_output)
    succeeded = {
        number: record for number, record in requested_shards if record and record.state is ShardState.SUCCEEDED
    }
    _refuse_committed(deployment, run, [*succeeded.values()])
    if succeeded:
        published = published_files(deployment.store, run)
        refuse_read(deployment, run.output_uri, (info.uri for number, info in published if number in succeeded))
    return run, has_missing_output


def _some_of(texts: Sequence[str]) -> str:
    return ", ".join(texts[:MAX_NAMED]) + (f" and {len(texts) - MAX_NAMED} more" if texts[MAX_NAMED:] else "")


def _refuse_committed(deployment: Deployment, run: Run, succeeded: Sequence[ShardRecord]) -> None:
    """PlanError if a table has rows that one of these SUCCEEDED shards has appended."""
    files = commit_files(deployment, run) if succeeded else ()
    winners = set(map(winner_of, succeeded))
    for declaration in declarations(deployment.store, files):
        appended = [write["table"] for write in declaration["writes"] if write["mode"] == "append"]
        if appended and (declaration["shard"], declaration["attempt"]) in winners:
            raise PlanError(
                f"shard {declaration['shard']} has appended to {appended[0]}, which would have its rows twice: only "
                "shards that upsert, or that overwrite partitions, can be done again (or delete the shard's rows, and "
                "process its inputs in another run)"
            )


def _shards_to_redrive(deployment: Deployment, run_id: str, shards: Sequence[int] | None) -> Iterator[int]:
    """``shards``, or the FAILED shards if that is None."""
    if shards is not None:
        return iter(shards)
    return (record.number for record in deployment.ledger.shards.list(run_id, ShardState.FAILED))


def _reopen_if_ended(deployment: Deployment, run_id: str, own_generation: int | None) -> Run:
    """Return the run; reopen it first if it has ended with PENDING shards.

    ``own_generation`` is the generation in which this redrive has moved shards, if it has moved any. A check ends the
    run if it comes between the beginning of the new generation and its first shard, also if the redrive has crashed
    there. A check that ends the run only after this function reopens it itself.
    """
    run = deployment.ledger.runs.get(run_id)
    if run.state.ended and next(deployment.ledger.shards.list(run_id, ShardState.PENDING), None):
        stays_cancelled = run.state is RunState.CANCELLED and run.generation == own_generation
        return reopen(deployment, run, stays_cancelled=stays_cancelled)
    return run


def reopen(deployment: Deployment, run: Run, *, stays_cancelled: bool) -> Run:
    """Begin one more generation of an ended run with its last script; if another process has done so, return that run.

    If the run ``stays_cancelled``, the next check fails its PENDING shards.
    """
    # Whether a pending shard has no output from an earlier generation.
    has_missing_output = not all(
        record.has_output for record in deployment.ledger.shards.list(run.run_id, ShardState.PENDING)
    )
    try:
        return _start_generation(
            deployment, run, run.scripts[-1], stays_cancelled=stays_cancelled, has_missing_output=has_missing_output
        )
    except LedgerError:
        # Another process may have begun the generation in between. If the run is not open, the error is raised.
        run = deployment.ledger.runs.get(run.run_id)
        if run.state.ended:
            raise
        return run


def _shards_to_send(deployment: Deployment, run: Run) -> Iterator[ShardRecord]:
    """Redriven shards that were not claimed yet: they may need a message."""
    if run.state.ended or run.cancelled_s is not None:
        return
    for record in deployment.ledger.shards.list(run.run_id, ShardState.PENDING):
        if record.generation and not record.attempts:
            yield record

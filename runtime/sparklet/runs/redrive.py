"""A further generation of a run: FAILED shards are PENDING again, with the same script or a repaired one.

So are SUCCEEDED ones if they are named; their output stays until the new one is published, see ``worker.shards``.

The steps are: open the generation → move the shards → send their messages. After a crash a second redrive moves the
shards that are still FAILED and sends missing messages, as the checker's stall rule does.
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
from sparklet.runs.phases import failed_end, has_declared

MAX_NAMED = 10


@dataclass(frozen=True, slots=True)
class Again:
    """How shards are done again."""

    engine: str = ""  # does them; "": each stays where it was done
    isolate: bool = False  # they are split where they fail, also for lack of memory or time

    def by_large_function(self, deployment: Deployment) -> "Again | None":
        """The same by ``lambda-large``; None if the stack has none, or another engine is to do them."""
        return replace(self, engine=LARGE) if LARGE in deployment.engines and not self.engine else None


@dataclass(frozen=True, slots=True)
class Redriven:
    """What a redrive did."""

    run: Run
    shards: int  # FAILED or SUCCEEDED before, PENDING now
    messages: int  # sent, also for shards that an interrupted redrive had moved; 0 where checks do that
    unplanned: bool = False  # the plan was cut short by cancelling: objects that were never planned stay so


def redrive(
    deployment: Deployment,
    run_id: str,
    shards: Sequence[int] | None = None,
    script: ScriptRef | None = None,
    how: Again = Again(),
) -> Redriven:
    """Repeat shards (None: all FAILED) in a new generation; if only the check or commit run has FAILED, repeat the end.

    ``script`` is the new generation's (see ``new_run.repaired_script``); None: the last one's. PlanError if the
    stack cannot do them so (``how``), the run is being planned or cancelled, one of ``shards`` cannot be done again
    (see ``redrivable``), or there is nothing to repeat.
    """
    run, lacks = redrivable(deployment, run_id, shards)
    engine = routes.of_redrive(deployment, how.engine, run.table)
    moved = 0
    again = next(_shards_to_redrive(deployment, run_id, shards), None) is not None
    unfinished = run.state is RunState.CANCELLED and has_declared(
        deployment, run
    )  # its tables may lack what it declared
    ends_again = not again and shards is None and (unfinished or failed_end(deployment, run) is not None)
    if again or ends_again:
        run = _opened(deployment, run, script or run.scripts[-1], lacks=lacks)
        level = 2 if how.isolate else int(run.options.isolate)
        moved = sum(
            deployment.ledger.attempts.redrive(run_id, n, run.generation, engine, isolate=level) is not None
            for n in _shards_to_redrive(deployment, run_id, shards)
        )
    run = _reopened(deployment, run_id, run.generation if moved else None)
    if not (moved or ends_again or run.cancelled_s is not None or next(_unstarted(deployment, run), None)):
        raise PlanError(f"the run {run_id} has no FAILED shard; there is nothing to redrive")
    messages = send_messages(deployment, run, _unstarted(deployment, run))
    return Redriven(run, moved, messages, unplanned=NOT_PLANNED in run.skipped)


def _opened(
    deployment: Deployment, run: Run, script: ScriptRef, *, stays_cancelled: bool = False, lacks: bool = True
) -> Run:
    """The run in its next generation, its outputs claimed; PlanError, and it ends as before, if others have them."""
    opened = deployment.ledger.runs.start_generation(
        run.run_id, run.generation + 1, script, stays_cancelled=stays_cancelled
    )
    try:
        # After the generation is open: a claim binds only while its run is open in the ledger.
        claim_outputs(deployment, opened)
        refuse_overtaken(deployment, opened, lacks=lacks)
    except PlanError:
        # A run ends as CANCELLED only with the mark, which a new generation has taken away.
        as_before = RunState.FAILED if run.state is RunState.CANCELLED and not stays_cancelled else run.state
        deployment.ledger.runs.finish(run.run_id, opened.generation, as_before)
        raise
    return opened


def matches_cause(record: ShardRecord, cause: str) -> bool:
    """Whether ``--cause`` matches this failure: its class, with or without package, or words of its message."""
    text = f"{record.error_class}: {record.error_message}"
    return cause in (record.error_class, record.error_class.rpartition(".")[2]) or cause.casefold() in text.casefold()


def failed_with(deployment: Deployment, run_id: str, cause: str, among: Sequence[int] | None = None) -> tuple[int, ...]:
    """The FAILED shards, all or ``among`` these, with ``cause``, a class or words of the message; PlanError if none."""
    chosen, causes = [], set()
    for record in deployment.ledger.shards.list(run_id, ShardState.FAILED):
        causes.add(record.error_class or "(no cause given)")
        if (among is None or record.number in among) and matches_cause(record, cause):
            chosen.append(record.number)
    if not chosen:
        named_causes = ", ".join(sorted(causes)[:MAX_NAMED]) or "none"
        raise PlanError(f"no FAILED shard of {run_id} has the cause {cause!r}; the causes there are: {named_causes}")
    return tuple(chosen)


def redrivable(deployment: Deployment, run_id: str, shards: Sequence[int] | None = None) -> tuple[Run, bool]:
    """The run, and whether it lacks what is redriven; PlanError if it, or one of ``shards``, cannot be redriven now.

    SUCCEEDED shards can once the run has ended, unless a table would have their rows twice, or another run reads them.
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
    chosen = [(number, deployment.known_shard(run_id, number)) for number in shards or ()]
    states = (ShardState.FAILED, ShardState.SUCCEEDED) if run.state.ended else (ShardState.FAILED,)
    unfit = [
        f"{n} ({record.state if record else 'unknown'})"
        for n, record in chosen
        if not record or record.state not in states
    ]
    if unfit:
        only = "FAILED and SUCCEEDED shards" if run.state.ended else "FAILED shards, before the run's end,"
        raise PlanError(f"only {only} of {run_id} can be redriven, not {_named(unfit)}")
    has_all = shards is not None and all(record and record.has_output for _, record in chosen)
    # What it has stays until then.
    lacks = not (has_all and uncommitted_shards(deployment, run).isdisjoint(shards or ()))
    refuse_overtaken(deployment, run, lacks=lacks)
    again = {number: record for number, record in chosen if record and record.state is ShardState.SUCCEEDED}
    _refuse_committed(deployment, run, [*again.values()])
    if again:
        refuse_read(
            deployment, run.output_uri, (info.uri for n, info in published_files(deployment.store, run) if n in again)
        )
    return run, lacks


def _named(texts: Sequence[str]) -> str:
    return ", ".join(texts[:MAX_NAMED]) + (f" and {len(texts) - MAX_NAMED} more" if texts[MAX_NAMED:] else "")


def _refuse_committed(deployment: Deployment, run: Run, again: Sequence[ShardRecord]) -> None:
    """PlanError if a table has rows that SUCCEEDED shards have appended."""
    files = commit_files(deployment, run) if again else ()
    winners = set(map(winner_of, again))
    for declaration in declarations(deployment.store, files):
        appended = [write["table"] for write in declaration["writes"] if write["mode"] == "append"]
        if appended and (declaration["shard"], declaration["attempt"]) in winners:
            raise PlanError(
                f"shard {declaration['shard']} has appended to {appended[0]}, which would have its rows twice: only "
                "what is upserted, or overwrites partitions, is done again (or delete its rows, and do it in another "
                "run)"
            )


def _shards_to_redrive(deployment: Deployment, run_id: str, shards: Sequence[int] | None) -> Iterator[int]:
    if shards is not None:
        return iter(shards)
    return (record.number for record in deployment.ledger.shards.list(run_id, ShardState.FAILED))


def _reopened(deployment: Deployment, run_id: str, opened: int | None) -> Run:
    """The run, opened again if it has ended with PENDING shards; ``opened`` is the generation that this redrive began.

    A check between the new generation and its first shard ends the run, and so does one after a crash there; one that
    ends it only after this look reopens it itself.
    """
    run = deployment.ledger.runs.get(run_id)
    if run.state.ended and next(deployment.ledger.shards.list(run_id, ShardState.PENDING), None):
        return reopened(deployment, run, stays_cancelled=run.state is RunState.CANCELLED and run.generation == opened)
    return run


def reopened(deployment: Deployment, run: Run, *, stays_cancelled: bool) -> Run:
    """An ended run in one more generation with the same script, unless somebody else has opened it meanwhile.

    If it ``stays_cancelled``, the next check fails its PENDING shards.
    """
    lacks = not all(record.has_output for record in deployment.ledger.shards.list(run.run_id, ShardState.PENDING))
    try:
        return _opened(deployment, run, run.scripts[-1], stays_cancelled=stays_cancelled, lacks=lacks)
    except LedgerError:
        # Somebody else has opened the generation in between; what was not opened at all is an error.
        run = deployment.ledger.runs.get(run.run_id)
        if run.state.ended:
            raise
        return run


def _unstarted(deployment: Deployment, run: Run) -> Iterator[ShardRecord]:
    """Redriven shards that were not claimed yet, which may need a message."""
    if run.state.ended or run.cancelled_s is not None:
        return
    for record in deployment.ledger.shards.list(run.run_id, ShardState.PENDING):
        if record.generation and not record.attempts:
            yield record

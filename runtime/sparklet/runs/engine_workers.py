"""Workers of engines: started for the shards that wait for them, watched until they claim, stopped for cancelled runs.

A worker is started with a token made from the ledger's counters, and recorded there: after a crash in between, the same
token names the same worker. A superfluous worker does no harm: the ledger grants a shard to one attempt.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice

from sparklet.errors import LedgerError, RemoteTaskError, SettingsError
from sparklet.model import Failure, Run, ShardRecord, ShardState
from sparklet.planning.routes import DO_ELSEWHERE, NO_WORKER
from sparklet.ports import Engine
from sparklet.ports.deployment import Deployment
from sparklet.runs.concurrency_cap import within_cap
from sparklet.runs.redelivery import WORKER, give_up

MAX_LOOKED_AT = 1_000  # waiting shards of a run at each check
CLAIMS_WITHIN_S = 900.0  # fetching the image takes minutes; then the worker is stopped


def start_workers(deployment: Deployment, run: Run) -> tuple[int, str]:
    """Start workers for shards that wait for engines, as far as those have capacity; how many, and why not others.

    A shard is FAILED if a worker cannot be started, or if too many of them end before they claim it
    (``redelivery``). Any other error of an engine holds up its own shards alone.
    """
    if not deployment.starts_workers:
        return 0, ""
    waiting = list(islice(deployment.for_a_while(deployment.ledger.shards.for_engines(run.run_id)), MAX_LOOKED_AT))
    if run.options.max_concurrency:
        waiting = within_cap(deployment, run, waiting)
    started, troubles = 0, []
    for name in dict.fromkeys(record.engine for record in waiting):
        try:
            for was_started in _each(deployment, run, name, [record for record in waiting if record.engine == name]):
                started += was_started
        # The ledger's trouble is that of all engines: the check ends, and the next one tries again.
        except LedgerError:
            raise
        except Exception as error:  # noqa: BLE001 - such as no capacity now
            troubles.append(f"{name}: {error}")
    return started, "; ".join(troubles)


def _each(deployment: Deployment, run: Run, name: str, waiting: Sequence[ShardRecord]) -> Iterator[bool]:
    """Do what each shard that waits for an engine needs; whether a worker was started for it."""
    if name in deployment.engines:
        if most := deployment.engines[name].at_once:
            working = sum(record.engine == name for record in _running(deployment, run))
            # Shards with a worker on its way come first: that has taken a place already.
            waiting = sorted(waiting, key=lambda record: not record.unclaimed)[: max(0, most - working)]
        stopped = deployment.engines[name].stopped([record.task_id for record in waiting if record.unclaimed])
        yield from (
            _go_on(deployment, deployment.engines[name], record, stopped.get(record.task_id)) for record in waiting
        )
    elif deployment.engines:
        raise SettingsError(f"the stack's parameters name no such engine; {DO_ELSEWHERE}")


def stop_workers(deployment: Deployment, run: Run) -> None:
    """Stop the engines' workers that hold shards of a cancelled run; the ledger refuses the claims of all others."""
    if not (deployment.engines and deployment.starts_workers):
        return
    for record in _running(deployment, run):
        if record.task_id and record.engine in deployment.engines:
            with suppress(Exception):  # the next check tries again
                deployment.engines[record.engine].stop(record.task_id)


def _running(deployment: Deployment, run: Run) -> Iterator[ShardRecord]:
    # The index is in order of the leases' ends, and none lasts an hour: so these are all that run.
    return deployment.ledger.shards.expired(run.run_id, ShardState.RUNNING, deployment.clock.now_s() + 3600)


def _go_on(deployment: Deployment, engine: Engine, record: ShardRecord, end: Failure | None) -> bool:
    """Start a worker, if none is starting and the last one ended (``end``) long enough ago; give up after too many."""
    workers, now_s = record.unclaimed, deployment.clock.now_s()
    if workers and end is None:
        # A worker that still waits for capacity has not begun, and its time has not, either.
        if now_s - record.changed_s < CLAIMS_WITHIN_S or now_s - engine.begun_s(record.task_id) < CLAIMS_WITHIN_S:
            return False
        # It may have ended just now. If it lives and claims after all, the ledger grants the shard to one of the two.
        with suppress(RemoteTaskError):
            engine.stop(record.task_id)
        end = Failure("Unclaimed", f"it did not claim the shard within {CLAIMS_WITHIN_S:.0f} s")
    if end and WORKER.is_spent(record):
        return _give_up(deployment, record, f"{workers} workers ended before a claim; {end.error_class}: {end.message}")
    if workers and not WORKER.is_due(record, now_s):
        return False
    counted = (record.run_id, record.number, record.generation, record.attempts, record.requeues, record.attempt_id)
    token = hashlib.sha256(repr(counted).encode()).hexdigest()[:32]
    ref = ("--run", record.run_id, "--shard", str(record.number), "--generation", str(record.generation))
    try:
        task_id = engine.start(token, ("shard", *ref))
    except RemoteTaskError as error:
        if error.reason in ("throttled", "killed"):  # killed: the answer was lost, and it may have been started
            raise
        return _give_up(deployment, record, str(error))
    # After the start: a crash before this write leaves the counters, and so the token, as they were.
    return deployment.ledger.attempts.count_requeue(record, task_id=task_id) is not None


def _give_up(deployment: Deployment, record: ShardRecord, why: str) -> bool:
    give_up(deployment, record, NO_WORKER, f"{record.engine}: {why}")
    return False

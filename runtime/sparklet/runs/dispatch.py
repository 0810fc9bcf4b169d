"""How checks dispatch shards: again, by one rule; under a run's cap; and to workers of engines.

**Again**: a message, a child of a Map or a worker that was started may be lost before it claims its shard, and the
ledger only shows that the shard is PENDING. So the shard is dispatched again once it ``is_due``, and the ledger counts
that. Once the shard ``is_spent``, it is given up (FAILED) instead: at once if the last dispatch is known to be lost (a
dead-letter message, a worker that has ended), else if no shard of the run moves any more.

``checker`` and ``dead_letters`` dispatch shards by messages; shards for engines get workers of their own. It does no
harm to dispatch a shard twice: the ledger grants it to one attempt. The rule is not for an attempt that is lost after
its claim: its lease expires, and it counts as an attempt.

**Under a cap** (``--max-concurrency``) a run's messages are sent by its checks, for so many shards at once and no more.
Its planner sends none. A check counts the shards that have a message or are RUNNING, and sends messages for the next
PENDING shards, in order of number, up to the cap. A file makes it unnecessary to read all shards each time::

    runs/<run_id>/capped/<identity>/sent-<generation>.json    {"next": shard, "sent": {shard: when}}

Shards before ``next`` were read in this generation; ``sent`` has the ones that had not ended. However old the file is,
the cap holds: shards whose messages were sent since come first again, and count (docs/decisions/0038). A Map state
keeps the cap itself, so messages are sent here only for shards that the Map has left.

**Workers of engines** are started for the shards that wait for them, watched until they claim, and stopped for
cancelled runs. A worker is started with a token made from the ledger's counters, and recorded there: after a crash in
between, the same token names the same worker. A superfluous worker does no harm: the ledger grants a shard to one
attempt.
"""

import hashlib
import json
import math
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, islice, takewhile
from typing import Any

from sparklet.errors import LedgerError, RemoteTaskError, SettingsError
from sparklet.ledger.rules import LEASE_EXPIRED, LEASE_GRACE_S, last_cause
from sparklet.model import Dispatch, Failure, Run, ShardRecord, ShardState, next_of
from sparklet.planning import routes
from sparklet.planning.planner import send_messages
from sparklet.planning.routes import DO_ELSEWHERE, NO_WORKER
from sparklet.ports import Engine
from sparklet.ports.deployment import Deployment
from sparklet.ports.metrics import SHARDS_FAILED

RUN_CANCELLED, RUN_TIME_LIMIT, TOLERANCE_EXCEEDED = "RunCancelled", "RunTimeLimit", "ToleranceExceeded"
BY_CHECKS = {routes.NO_WORKER, LEASE_EXPIRED, RUN_CANCELLED, RUN_TIME_LIMIT, TOLERANCE_EXCEEDED}
"""Causes of failures that checks record, and that they count in the metrics themselves."""


@dataclass(frozen=True, slots=True)
class Way:
    """How often, and after what time, one way of dispatch sends a PENDING shard again (docs/decisions/0079)."""

    times: Callable[[ShardRecord], int]  # how often the shard was dispatched again, by the ledger
    again_after_s: float  # the time without a claim; doubled with each time
    most: float = math.inf  # the most times; without this limit a shard is given up only at the run's time limit

    def is_due(self, record: ShardRecord, now_s: float, sent_s: float = 0.0) -> bool:
        """Whether to dispatch a PENDING shard again; ``sent_s`` is the last dispatch if the ledger does not know it."""
        factor = 2 ** min(self.times(record), self.most)
        return now_s - max(record.changed_s, sent_s) >= self.again_after_s * factor

    def is_spent(self, record: ShardRecord) -> bool:
        """Whether a PENDING shard was dispatched again as often as this way allows."""
        return self.times(record) >= self.most


# Longer than a cold start takes; and only if no shard of the run moves.
MESSAGE = Way(lambda record: record.requeues, 60.0)
# Even if other shards move: a lost message keeps its place under the cap.
CAPPED = Way(lambda record: record.requeues, 600.0)
# The shard has waited enough, but may have killed its workers.
DEAD_LETTER = Way(lambda record: record.unrun, 0.0, most=3)
# Each start costs money, and those that fail often fail for a lasting cause.
WORKER = Way(lambda record: record.unclaimed - 1, 60.0, most=2)


def has_stalled(deployment: Deployment, run: Run, since_s: float) -> bool:
    """Whether no shard of a run is RUNNING in a function or has changed in one since then; this reads all shards."""
    records = (record for record in deployment.ledger.shards.list(run.run_id) if record.by_function)
    return all(record.state is not ShardState.RUNNING and record.changed_s <= since_s for record in records)


def give_up(deployment: Deployment, record: ShardRecord, cause: str, why: str) -> bool:
    """Fail a PENDING shard, with ``why`` and the last attempt's cause; return False if the shard has changed."""
    failed = deployment.ledger.attempts.abandon(record, Failure(cause, why + last_cause(record), retryable=False))
    deployment.measure(SHARDS_FAILED, failed and cause != RUN_CANCELLED)
    return failed


def give_up_all(
    deployment: Deployment, run: Run, cause: str, why: str, keep: Callable[[ShardRecord], bool] = lambda _: False
) -> int:
    """Fail a run's PENDING shards except those to ``keep``, and return how many; the next check does the rest."""
    # The grace includes shards that were changed just now by a machine whose clock is ahead of this one.
    pending = deployment.ledger.shards.expired(run.run_id, ShardState.PENDING, deployment.clock.now_s() + LEASE_GRACE_S)
    return sum(
        give_up(deployment, record, cause, why) for record in deployment.within_time_limit(pending) if not keep(record)
    )


def end_leases(deployment: Deployment, run: Run, *, escalate: bool = False) -> Iterator[ShardRecord]:
    """End a run's expired leases while the result is read; yield each shard as it is after that, PENDING or FAILED.

    With ``escalate`` a shard that may need more memory or time moves to the next engine of the run's route.
    """
    for record in deployment.within_time_limit(
        deployment.ledger.shards.expired(run.run_id, ShardState.RUNNING, deployment.clock.now_s())
    ):
        larger_engine = next_of(run.options.engine, record.engine) if escalate else ""
        if changed := deployment.ledger.attempts.expire(record, run.options.max_attempts, larger_engine):
            yield changed


FOLDER, SENT = "capped/", "sent-{:06d}.json"


def within_cap(deployment: Deployment, run: Run, waiting: list[ShardRecord]) -> list[ShardRecord]:
    """The waiting shards that have a place under the cap, by ``send_up_to_cap``."""
    if not waiting or run.has_map:
        return waiting
    sent_times = _cap_files(deployment, run).get(SENT.format(run.generation), {"sent": {}})["sent"]
    return [record for record in waiting if str(record.number) in sent_times]


def has_sent_messages(deployment: Deployment, run: Run) -> bool:
    """Whether a check has sent messages of this run under its cap."""
    return bool(_cap_files(deployment, run))


def send_up_to_cap(deployment: Deployment, run: Run) -> int:
    """Send messages for as many shards as the cap allows, and lost messages again; return how many were lost."""
    files, now_s, sent = _cap_files(deployment, run), deployment.clock.now_s(), dict[int, float]()
    file = SENT.format(run.generation)
    # Names are padded, so the greatest one is the latest generation's.
    newest = max(files, default="")
    earlier_document = files.get(newest, {"sent": {}})
    is_same_generation = newest == file  # else a redrive has moved shards that had ended
    to_send: list[ShardRecord] = []
    for number, when_s in earlier_document["sent"].items():
        record = deployment.ledger.shards.get(run.run_id, int(number))
        if record.state.ended or record.split:
            continue
        sent[record.number] = when_s
        if not is_same_generation:
            to_send.append(record)
        elif record.is_for_functions and CAPPED.is_due(record, now_s, when_s):
            to_send += filter(None, [deployment.ledger.attempts.count_requeue(record)])
    lost_count = len(to_send) if is_same_generation else 0
    next_number = earlier_document["next"] if is_same_generation else 0
    room = run.options.max_concurrency - _running_in_map(deployment, run, sent)
    for number in deployment.within_time_limit(takewhile(lambda _: len(sent) < room, count(next_number))):
        if (next_record := deployment.known_shard(run.run_id, number)) is None:
            break  # not planned yet, or there are no more shards
        next_number += 1
        if not (next_record.state.ended or next_record.split or number in sent):
            sent[number] = now_s
            to_send.append(next_record)
    # Sent before the file is written: after a crash in between the next check finds the same shards first, and gives
    # them places again. In the other order a shard could have a place but no message.
    send_messages(deployment, run, to_send, by_check=True)
    deployment.store.put(
        deployment.run_uri(run.run_id, f"{FOLDER}{run.identity}/{file}"),
        json.dumps({"next": next_number, "sent": sent}).encode(),
    )
    return lost_count


def _running_in_map(deployment: Deployment, run: Run, sent: Container[int]) -> int:
    """How many shards are RUNNING without a message: as children of a Map that has not ended."""
    if run.dispatch is Dispatch.QUEUE:
        return 0
    running = deployment.ledger.shards.list(run.run_id, ShardState.RUNNING)
    return sum(record.number not in sent and record.by_function for record in running)


def _cap_files(deployment: Deployment, run: Run) -> dict[str, Any]:
    """The documents of a run's cap, by file name; listed, since a role has no permission to read a missing file."""
    folder = deployment.run_uri(run.run_id, f"{FOLDER}{run.identity}/")
    return {
        info.uri.removeprefix(folder): json.loads(deployment.store.get(info.uri))
        for info in deployment.store.list(folder)
    }


MAX_SERVED = 1_000  # how many waiting shards of a run one check serves
CLAIMS_WITHIN_S = 900.0  # a worker that has not claimed by then is stopped; fetching the image alone takes minutes


def start_workers(deployment: Deployment, run: Run) -> tuple[int, str]:
    """Start workers for shards that wait for engines; return how many, and why other workers could not be started.

    A shard is FAILED if a worker cannot be started for it, or if too many of its workers end before they claim it. Any
    other error of an engine, such as a lack of capacity, delays only the shards of that engine.
    """
    if not deployment.starts_workers:
        return 0, ""
    waiting = list(islice(deployment.within_time_limit(deployment.ledger.shards.for_engines(run.run_id)), MAX_SERVED))
    if run.options.max_concurrency:
        waiting = within_cap(deployment, run, waiting)
    started, troubles = 0, []
    for name in dict.fromkeys(record.engine for record in waiting):
        try:
            for_engine = [record for record in waiting if record.engine == name]
            for was_started in _serve(deployment, run, name, for_engine):
                started += was_started
        # An error of the ledger concerns all engines: the check ends, and the next one tries again.
        except LedgerError:
            raise
        except Exception as error:  # noqa: BLE001 - an engine may raise anything
            troubles.append(f"{name}: {error}")
    return started, "; ".join(troubles)


def _serve(deployment: Deployment, run: Run, name: str, waiting: Sequence[ShardRecord]) -> Iterator[bool]:
    """Do what the shards that wait for one engine need; yield for each whether a worker was started.

    SettingsError if the stack has other engines, but not this one.
    """
    if name in deployment.engines:
        if most := deployment.engines[name].at_once:
            working = sum(record.engine == name for record in _running(deployment, run))
            # Shards whose worker is starting come first, since that worker has taken a place already.
            waiting = sorted(waiting, key=lambda record: not record.unclaimed)[: max(0, most - working)]
        stopped = deployment.engines[name].stopped([record.task_id for record in waiting if record.unclaimed])
        yield from (
            _start_if_due(deployment, deployment.engines[name], record, stopped.get(record.task_id))
            for record in waiting
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
    # The index is ordered by the ends of leases, and no lease lasts an hour: so these are all RUNNING shards.
    return deployment.ledger.shards.expired(run.run_id, ShardState.RUNNING, deployment.clock.now_s() + 3600)


def _start_if_due(deployment: Deployment, engine: Engine, record: ShardRecord, failure: Failure | None) -> bool:
    """Start a worker for a shard, or give the shard up after too many workers; return whether a worker was started.

    No worker is started while one is starting, or if the last one has ended (with ``failure``) just now.
    """
    workers, now_s = record.unclaimed, deployment.clock.now_s()
    if workers and failure is None:
        # The time of a worker that still waits for capacity has not begun.
        if now_s - record.changed_s < CLAIMS_WITHIN_S or now_s - engine.begun_s(record.task_id) < CLAIMS_WITHIN_S:
            return False
        # The worker may have ended just now. If it claims after all, the ledger grants the shard to one of the two.
        with suppress(RemoteTaskError):
            engine.stop(record.task_id)
        failure = Failure("Unclaimed", f"it did not claim the shard within {CLAIMS_WITHIN_S:.0f} s")
    if failure and WORKER.is_spent(record):
        last = f"{failure.error_class}: {failure.message}"
        return _give_up_worker(deployment, record, f"{workers} workers ended before a claim; {last}")
    if workers and not WORKER.is_due(record, now_s):
        return False
    counters = (record.run_id, record.number, record.generation, record.attempts, record.requeues, record.attempt_id)
    token = hashlib.sha256(repr(counters).encode()).hexdigest()[:32]
    ref = ("--run", record.run_id, "--shard", str(record.number), "--generation", str(record.generation))
    try:
        task_id = engine.start(token, ("shard", *ref))
    except RemoteTaskError as error:
        if error.reason in ("throttled", "killed"):  # killed: the answer was lost, so the worker may have been started
            raise
        return _give_up_worker(deployment, record, str(error))
    # Counted after the start: a crash in between leaves the counters, and so the token, as they were.
    return deployment.ledger.attempts.count_requeue(record, task_id=task_id) is not None


def _give_up_worker(deployment: Deployment, record: ShardRecord, why: str) -> bool:
    """Fail a shard for which no worker can be started; return False, since none was."""
    give_up(deployment, record, NO_WORKER, f"{record.engine}: {why}")
    return False

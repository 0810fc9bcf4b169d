"""How checks dispatch shards: again, by one rule; under a run's cap; and to workers of engines.

**Again**: a message, a child of a Map or a worker that was started may be lost before it claims its shard, and the
ledger only shows that the shard is PENDING. So the shard is dispatched again once it ``is_due``, and the ledger counts
that. Once it ``is_spent``, it is given up (FAILED) instead: at once if the last dispatch is known to be lost, as
a dead-letter message and a worker that has ended are, else if nothing of the run moves any more.

``checker`` and ``dead_letters`` dispatch shards by messages; others get workers of their own. To dispatch a shard twice
does no harm: the ledger grants it to one attempt. An attempt that is lost after its claim is no matter of this rule:
its lease expires, and it counts as an attempt.

**Under a cap** (``--max-concurrency``) a run's messages are sent by its checks, for so many shards at once and no more.
Its planner sends none. A check counts the shards that have a message or are RUNNING, and sends for the next PENDING
ones, in order of number, up to the cap. A file saves reading all shards each time::

    runs/<run_id>/capped/<identity>/sent-<generation>.json    {"next": shard, "sent": {shard: when}}

Shards before ``next`` were looked at in this generation; those among them that had not ended are in ``sent``. However
old the file is, the cap holds: what was sent since comes first again, and counts (docs/decisions/0038). A Map state has
the cap as its own, so only what it leaves is sent here.

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
"""Causes that checks give, and count."""


@dataclass(frozen=True, slots=True)
class Way:
    """How often, and after what time, one way of dispatch sends a PENDING shard again (docs/decisions/0079)."""

    times: Callable[[ShardRecord], int]  # how often the ledger has counted that the shard was dispatched again
    again_after_s: float  # without a claim; doubled with each time
    most: float = math.inf  # times; without it a shard is given up at the run's time limit only

    def is_due(self, record: ShardRecord, now_s: float, given_s: float = 0.0) -> bool:
        """Whether a PENDING shard is to be dispatched again; ``given_s``: when it was, if the ledger does not know."""
        doubled = 2 ** min(self.times(record), self.most)
        return now_s - max(record.changed_s, given_s) >= self.again_after_s * doubled

    def is_spent(self, record: ShardRecord) -> bool:
        """Whether a PENDING shard was dispatched again as often as it may be."""
        return self.times(record) >= self.most


MESSAGE = Way(lambda record: record.requeues, 60.0)  # and nothing moves: longer than a cold start takes
CAPPED = Way(lambda record: record.requeues, 600.0)  # though others move: a lost message keeps its place under the cap
DEAD_LETTER = Way(lambda record: record.unrun, 0.0, most=3)  # it has waited enough, and may have killed its workers
WORKER = Way(lambda record: record.unclaimed - 1, 60.0, most=2)  # each start costs, and fails for a lasting cause


def has_stalled(deployment: Deployment, run: Run, since_s: float) -> bool:
    """Whether no shard of a run is RUNNING in a function, or has changed there since then; this reads all of them."""
    records = (record for record in deployment.ledger.shards.list(run.run_id) if record.by_function)
    return all(record.state is not ShardState.RUNNING and record.changed_s <= since_s for record in records)


def give_up(deployment: Deployment, record: ShardRecord, cause: str, why: str) -> bool:
    """PENDING → FAILED, with the last attempt's cause behind ``why``; False if the shard has moved on."""
    failed = deployment.ledger.attempts.abandon(record, Failure(cause, why + last_cause(record), retryable=False))
    deployment.measure(SHARDS_FAILED, failed and cause != RUN_CANCELLED)
    return failed


def give_up_all(
    deployment: Deployment, run: Run, cause: str, why: str, keep: Callable[[ShardRecord], bool] = lambda _: False
) -> int:
    """Give up a run's PENDING shards but those to ``keep``; how many. The next check does what is left."""
    # The grace takes in what was changed just now by a clock that is ahead of this one.
    pending = deployment.ledger.shards.expired(run.run_id, ShardState.PENDING, deployment.clock.now_s() + LEASE_GRACE_S)
    return sum(
        give_up(deployment, record, cause, why) for record in deployment.for_a_while(pending) if not keep(record)
    )


def end_leases(deployment: Deployment, run: Run, *, escalate: bool = False) -> Iterator[ShardRecord]:
    """End a run's expired leases; return those shards as they are then, PENDING or FAILED."""
    for record in deployment.for_a_while(
        deployment.ledger.shards.expired(run.run_id, ShardState.RUNNING, deployment.clock.now_s())
    ):
        larger = next_of(run.options.engine, record.engine) if escalate else ""
        if now := deployment.ledger.attempts.expire(record, run.options.max_attempts, larger):
            yield now


FOLDER, SENT = "capped/", "sent-{:06d}.json"


def within_cap(deployment: Deployment, run: Run, waiting: list[ShardRecord]) -> list[ShardRecord]:
    """The waiting shards to which ``send_up_to_cap`` gave a place under the cap."""
    if not waiting or run.has_map:
        return waiting
    placed = _stored(deployment, run).get(SENT.format(run.generation), {"sent": {}})["sent"]
    return [record for record in waiting if str(record.number) in placed]


def has_begun(deployment: Deployment, run: Run) -> bool:
    """Whether a check has sent a message of this run."""
    return bool(_stored(deployment, run))


def send_up_to_cap(deployment: Deployment, run: Run) -> int:
    """Send messages for as many shards as the cap has room for, and lost ones again; return how many were lost."""
    stored, now_s, sent = _stored(deployment, run), deployment.clock.now_s(), dict[int, float]()
    file = SENT.format(run.generation)
    # Names are padded, so the last one as text is that of the latest generation.
    newest = max(stored, default="")
    was, goes_on = stored.get(newest, {"sent": {}}), newest == file  # else a redrive has moved shards that had ended
    to_send: list[ShardRecord] = []
    for number, when_s in was["sent"].items():
        record = deployment.ledger.shards.get(run.run_id, int(number))
        if record.state.ended or record.split:
            continue
        sent[record.number] = when_s
        if not goes_on:
            to_send.append(record)
        elif record.is_for_functions and CAPPED.is_due(record, now_s, when_s):
            to_send += filter(None, [deployment.ledger.attempts.count_requeue(record)])
    lost = len(to_send) if goes_on else 0
    next_number = was["next"] if goes_on else 0
    room = run.options.max_concurrency - _beside(deployment, run, sent)
    for number in deployment.for_a_while(takewhile(lambda _: len(sent) < room, count(next_number))):
        if (later := deployment.known_shard(run.run_id, number)) is None:
            break  # not planned yet, or there are no more
        next_number += 1
        if not (later.state.ended or later.split or number in sent):
            sent[number] = now_s
            to_send.append(later)
    # Sent before it is noted: after a crash in between the next check meets the same shards first, and gives them
    # places again. Noted first, a shard could have a place and no message.
    send_messages(deployment, run, to_send, by_check=True)
    deployment.store.put(
        deployment.run_uri(run.run_id, f"{FOLDER}{run.identity}/{file}"),
        json.dumps({"next": next_number, "sent": sent}).encode(),
    )
    return lost


def _beside(deployment: Deployment, run: Run, sent: Container[int]) -> int:
    """How many shards are RUNNING without a message: children of a Map that goes on."""
    if run.dispatch is Dispatch.QUEUE:
        return 0
    running = deployment.ledger.shards.list(run.run_id, ShardState.RUNNING)
    return sum(record.number not in sent and record.by_function for record in running)


def _stored(deployment: Deployment, run: Run) -> dict[str, Any]:
    """The documents of a run, by name; they are listed, since a role may not ask for one that is not there."""
    folder = deployment.run_uri(run.run_id, f"{FOLDER}{run.identity}/")
    return {
        info.uri.removeprefix(folder): json.loads(deployment.store.get(info.uri))
        for info in deployment.store.list(folder)
    }


MAX_LOOKED_AT = 1_000  # waiting shards of a run at each check
CLAIMS_WITHIN_S = 900.0  # fetching the image takes minutes; then the worker is stopped


def start_workers(deployment: Deployment, run: Run) -> tuple[int, str]:
    """Start workers for shards that wait for engines, as far as those have capacity; how many, and why not others.

    A shard is FAILED if a worker cannot be started, or if too many of them end before they claim
    it. Any other error of an engine holds up its own shards alone.
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
    """Do what each shard that waits for an engine needs; yield whether a worker was started for it."""
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

"""How long a state machine waits between two looks at a run: soon enough for its end, seldom enough for its history.

An execution may have 25,000 events. A look (check, choose, wait) makes some ten, a map batch some fifteen. Three bounds
make a wait:

- at least a fortieth of the time since the execution began. So looks become rare like a geometric series: 40 of them
  while the wait is at its least, 40 more for each e-fold of time until it is 300 s, then one every 300 s. In three days
  that is at most 40 × ln(300) + 864 = 1,100 looks, whatever the run does (a test counts them);
- longer while the end is far: a tenth of the estimated rest, from the run's throughput so far;
- but no more than a tenth of the run's age, since an estimate from its first shards is worth little. So an end is seen
  late by a tenth of the run's own time at most.

Map batches are a twentieth of the execution's age apart, 900 s at most: some 400 in three days. A batch lasts as long
as its children, so hardly any waits for that; but shards that are lost one by one must not make a batch each.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sparklet.errors import EventError, NoticeError, PlanError
from sparklet.metrics import SHARDS_FAILED
from sparklet.model import RUN_ID, Counts, Dispatch, Failure, Notice, Run, RunState, ShardState
from sparklet.planning.deployment import Deployment
from sparklet.runs.checker import CheckReport, check, log_unnotified
from sparklet.runs.follow_ups import next_run
from sparklet.runs.log import log
from sparklet.runs.map_batches import MapBatch, hand_out
from sparklet.runs.summary import tolerated_failures

SMALL_RUN_SHARDS = 40
MIN_OF_SMALL_S, MIN_S, MAX_S = 1, 5, 300
LOOKS_PER_AGE = 40
LOOKS_PER_REST = 10
LATEST_SHARE = 10
BATCHES_PER_AGE = 20
MAX_BETWEEN_BATCHES_S = 900


def wait_s(run: Run, counts: Counts, now_s: float, since_s: float | None = None) -> int:
    """How long to wait before the next look.

    Parameters
    ----------
    since_s
        When the execution began whose history is to be spared; None: with the run.
    """
    run_age_s = max(0.0, now_s - run.created_s)
    far_s = min(_rest_s(run, counts, run_age_s) / LOOKS_PER_REST, run_age_s / LATEST_SHARE)
    return math.ceil(min(MAX_S, max(_min_s(run, counts), _age_s(run, now_s, since_s) / LOOKS_PER_AGE, far_s)))


def between_batches_s(run: Run, counts: Counts, now_s: float, since_s: float | None = None) -> float:
    """The least time from one map batch to the next one."""
    return min(MAX_BETWEEN_BATCHES_S, max(_min_s(run, counts), _age_s(run, now_s, since_s) / BATCHES_PER_AGE))


def _min_s(run: Run, counts: Counts) -> float:
    return MIN_OF_SMALL_S if run.sealed and counts.total <= SMALL_RUN_SHARDS else MIN_S


def _age_s(run: Run, now_s: float, since_s: float | None) -> float:
    return max(0.0, now_s - (run.created_s if since_s is None else since_s))


def _rest_s(run: Run, counts: Counts, age_s: float) -> float:
    """The estimated time until the run's end, from its throughput since it began; 0 if it is unknown.

    It is unknown for a redriven run: shards that ended in earlier generations say nothing about this one.
    """
    ended = counts.total - counts.open
    return age_s * counts.open / ended if ended and not run.generation else 0.0


TOLERANCE_EXCEEDED = "ToleranceExceeded"
MAX_INLINE_BATCHES = 2  # an inline Map adds some ten events a shard and try to the history, a distributed one six
CAUSE_CHARACTERS = 32_768  # what Step Functions keeps of a cause

Answer = dict[str, Any]


def take_step(at: Deployment, map_concurrency: int, event: Any) -> Answer:
    """Do the step that an event names; a Map that it hands shards out to has ``map_concurrency`` children at once.

    Raises
    ------
    EventError
        If it names none, or lacks what that step needs: asking again does not help.
    PlanError
        If the step does not fit the run.
    RunNotFoundError
        If there is no such run.
    """
    step = STEPS.get(_text(event, "step"))
    if step is None:
        raise EventError(f"there is no step {_text(event, 'step')[:40]!r}; there are {', '.join(STEPS)}")
    return step(at, map_concurrency, event)


def _check(at: Deployment, map_concurrency: int, event: Mapping[str, Any]) -> Answer:
    return _status(at, check(at, _run_id(event)), event)


def _batch(at: Deployment, map_concurrency: int, event: Mapping[str, Any]) -> Answer:
    """Check, then hand out what is PENDING."""
    run_id, number = _run_id(event), _count(event, "batch")
    if (run := at.ledger.runs.get(run_id)).dispatch is not Dispatch.MAP:
        raise PlanError(f"the shards of {run_id} are handed out by {run.dispatch}; the loop machine drives such a run")
    report = check(at, run_id)
    run, counts = report.run, report.counts
    batch = MapBatch()
    if counts.pending and run.sealed and not run.state.ended and run.cancelled_s is None:
        between_s = between_batches_s(run, counts, at.clock.now_s(), _started_s(event))
        batch = hand_out(at, run, number, between_s=between_s)
    how = "none"
    if batch.count:
        how = "inline" if batch.items and number < MAX_INLINE_BATCHES else "map"
    return _status(at, report, event) | {
        "how": how,
        "count": batch.count,
        "bucket": at.bucket,
        "key": batch.key,
        "items": [json.loads(ref.to_body()) for ref in batch.items] if how == "inline" else [],
        "batch": number + 1,
        "max_concurrency": map_concurrency,
        "tolerated_failures": _failures_left(run, counts, batch),
    }


def _failures_left(run: Run, counts: Counts, batch: MapBatch) -> int:
    """After how many more failures the run has failed anyway; where it sets no limit, more than the batch can have."""
    tolerated = tolerated_failures(run.options, counts.total)
    return batch.count if tolerated is None else max(0, tolerated - counts.failed)


def _record(at: Deployment, map_concurrency: int, event: Mapping[str, Any]) -> Answer:
    """Record why an execution failed, and notify; the run goes on without it."""
    run_id = _run_id(event) if event.get("run_id") else ""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", _text(event, "execution").rpartition(":")[2])[-120:] or "unnamed"
    named = {key: _text(event, key) for key in ("execution", "machine", "where", "error")}
    cause = _text(event, "cause")[:CAUSE_CHARACTERS]
    uri = at.run_uri(run_id, f"executions/{name}.json") if run_id else f"s3://{at.bucket}/executions/{name}.json"
    document = {"run_id": run_id, **named, "cause": cause, "request": event.get("request")}
    at.store.put(uri, json.dumps(document | {"recorded_s": at.clock.now_s()}, indent=2).encode() + b"\n")
    log("ERROR", "an execution failed", run_id or named["execution"], **named, cause=cause[:1000], recorded=uri)
    if at.notifier is not None:
        try:
            at.notifier.notify(Notice.of_execution(**named, cause=cause, run_id=run_id, recorded=uri))
        except NoticeError as error:  # the file is written, which is what the step promises
            log("ERROR", "a notice was not sent", run_id or named["execution"], error=str(error))
    return {"run_id": run_id, "recorded": uri}


def _give_up(at: Deployment, map_concurrency: int, event: Mapping[str, Any]) -> Answer:
    """PENDING → FAILED, if by the ledger too more shards have failed than the run tolerates."""
    run_id, reason = _run_id(event), _text(event, "reason")
    counts, run = at.ledger.shards.count(run_id), at.ledger.runs.get(run_id)
    tolerated = tolerated_failures(run.options, counts.total)
    if not run.state.ended and run.sealed and tolerated is not None and counts.failed > tolerated:
        failure = Failure(TOLERANCE_EXCEEDED, f"not done: more shards failed than the run tolerates ({reason})", False)
        for record in at.ledger.shards.list(run_id, ShardState.PENDING):
            at.measure(SHARDS_FAILED, at.ledger.attempts.abandon(record, failure))
    return _check(at, map_concurrency, event)


STEPS: Mapping[str, Callable[[Deployment, int, Mapping[str, Any]], Answer]] = {
    "check": _check,
    "batch": _batch,
    "record": _record,
    "give_up": _give_up,
}
"""Every step by its name."""


def _status(at: Deployment, report: CheckReport, event: Mapping[str, Any]) -> Answer:
    """A run's status, as machines read it."""
    run = report.run
    counts = (
        at.ledger.shards.glance(run.run_id) if report.planned else report.counts
    )  # which are those before it was planned
    log_unnotified(report)
    return {
        "run_id": run.run_id,
        "state": str(run.state),
        "ended": run.state.ended,
        "wait_s": wait_s(run, counts, at.clock.now_s(), _started_s(event)),
        "generation": run.generation,
        "counts": counts.by_state(),
        "next_run_id": _next_run_id(at, run),
    }


def _next_run_id(at: Deployment, run: Run) -> str:
    """The run to start now that this one has ended well, "" if there is none."""
    follower = next_run(at, run) if run.state in (RunState.SUCCEEDED, RunState.SUCCEEDED_WITH_FAILURES) else None
    return follower.run_id if follower else ""


def _started_s(event: Mapping[str, Any]) -> float | None:
    text = _text(event, "started")
    if not text:
        return None
    try:
        started_s = datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise EventError("started must be a time as Step Functions writes it: 2026-11-20T08:30:00.000Z") from None
    return started_s if math.isfinite(started_s) else None


def _run_id(event: Mapping[str, Any]) -> str:
    run_id = _text(event, "run_id")
    if not RUN_ID.fullmatch(run_id):
        raise EventError(f"run_id is {run_id[:80]!r}; it must be a run's id")
    return run_id


def _count(event: Mapping[str, Any], key: str) -> int:
    value = event.get(key, 0)
    if type(value) is not int or value < 0:
        raise EventError(f"{key} is a {type(value).__name__}; it must be a whole number from 0")
    return value


def _text(event: Any, key: str) -> str:
    if not isinstance(event, Mapping):
        raise EventError(f"a step's event must be a JSON object, not a {type(event).__name__}")
    value = event.get(key)
    if value is not None and not isinstance(value, str):
        raise EventError(f"{key} is a {type(value).__name__}; it must be a string")
    return value or ""

"""The steps that state machines call: each is idempotent, and none of them knows which machine it is called by.

An event names its step; the answer is small (far below the 256 KiB of a state) and has the same keys each time::

    {"step": "check", "run_id": …}                          → how the run stands, and how long to wait
    {"step": "wave", "run_id": …, "wave": 0}                → the same, and the shards to hand out now
    {"step": "record", "execution": …, "machine": …,
     "where": …, "error": …, "cause": …, "run_id": …}       → where the failure of an execution was written down
    {"step": "give_up", "run_id": …, "reason": …}           → how the run stands, what was PENDING given up

``started`` (the execution's own start, ``$$.Execution.StartTime``) may be given with each: waits are bounded by it.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sparklet.errors import EventError, NoticeError, PlanError
from sparklet.fanout.checking.checker import CheckReport, check, log_untold
from sparklet.fanout.checking.follow_ups import next_run
from sparklet.fanout.deployment import Deployment
from sparklet.fanout.log import log
from sparklet.fanout.machines.waiting import between_waves_s, wait_s
from sparklet.fanout.machines.waves import Wave, hand_out
from sparklet.fanout.reporting.summary import tolerated_failures
from sparklet.metrics import SHARDS_FAILED
from sparklet.model import RUN_ID, Counts, Dispatch, Failure, Notice, Run, RunState, ShardState

TOLERANCE_EXCEEDED = "ToleranceExceeded"
INLINE_WAVES = 2  # an inline Map adds some ten events a shard and try to the history, a distributed one six in all
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
    return _told(at, check(at, _run_id(event)), event)


def _wave(at: Deployment, map_concurrency: int, event: Mapping[str, Any]) -> Answer:
    """Check, then hand out what is PENDING."""
    run_id, number = _run_id(event), _count(event, "wave")
    if (run := at.ledger.get_run(run_id)).dispatch is not Dispatch.MAP:
        raise PlanError(f"the shards of {run_id} are handed out by {run.dispatch}; the loop machine drives such a run")
    report = check(at, run_id)
    run, counts = report.run, report.counts
    wave = Wave()
    if counts.pending and run.sealed and not run.state.ended and run.cancelled_s is None:
        between_s = between_waves_s(run, counts, at.clock.now_s(), _started_s(event))
        wave = hand_out(at, run, number, between_s=between_s)
    how = "none"
    if wave.count:
        how = "inline" if wave.items and number < INLINE_WAVES else "map"
    return _told(at, report, event) | {
        "how": how,
        "count": wave.count,
        "bucket": at.bucket,
        "key": wave.key,
        "items": [json.loads(ref.to_body()) for ref in wave.items] if how == "inline" else [],
        "wave": number + 1,
        "max_concurrency": map_concurrency,
        "tolerated_failures": _failures_left(run, counts, wave),
    }


def _failures_left(run: Run, counts: Counts, wave: Wave) -> int:
    """After how many more failures the run has failed anyway; where it sets no limit, more than the wave can have."""
    tolerated = tolerated_failures(run.options, counts.total)
    return wave.count if tolerated is None else max(0, tolerated - counts.failed)


def _record(at: Deployment, map_concurrency: int, event: Mapping[str, Any]) -> Answer:
    """Write down why an execution failed, and tell it; the run goes on without it."""
    run_id = _run_id(event) if event.get("run_id") else ""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", _text(event, "execution").rpartition(":")[2])[-120:] or "unnamed"
    said = {key: _text(event, key) for key in ("execution", "machine", "where", "error")}
    cause = _text(event, "cause")[:CAUSE_CHARACTERS]
    uri = at.run_uri(run_id, f"executions/{name}.json") if run_id else f"s3://{at.bucket}/executions/{name}.json"
    document = {"run_id": run_id, **said, "cause": cause, "request": event.get("request")}
    at.store.put(uri, json.dumps(document | {"recorded_s": at.clock.now_s()}, indent=2).encode() + b"\n")
    log("ERROR", "an execution failed", run_id or said["execution"], **said, cause=cause[:1000], recorded=uri)
    if at.notifier is not None:
        try:
            at.notifier.notify(Notice.of_execution(**said, cause=cause, run_id=run_id, recorded=uri))
        except NoticeError as error:  # it is written down; that is what the step promises
            log("ERROR", "a notice was not sent", run_id or said["execution"], error=str(error))
    return {"run_id": run_id, "recorded": uri}


def _give_up(at: Deployment, map_concurrency: int, event: Mapping[str, Any]) -> Answer:
    """PENDING → FAILED, if the ledger too says that more has failed than the run puts up with."""
    run_id, reason = _run_id(event), _text(event, "reason")
    counts, run = at.ledger.count(run_id), at.ledger.get_run(run_id)
    tolerated = tolerated_failures(run.options, counts.total)
    if not run.state.ended and run.sealed and tolerated is not None and counts.failed > tolerated:
        failure = Failure(TOLERANCE_EXCEEDED, f"not done: more shards failed than the run tolerates ({reason})", False)
        for record in at.ledger.shards(run_id, ShardState.PENDING):
            at.measure(SHARDS_FAILED, at.ledger.abandon(record, failure))
    return _check(at, map_concurrency, event)


STEPS: Mapping[str, Callable[[Deployment, int, Mapping[str, Any]], Answer]] = {
    "check": _check,
    "wave": _wave,
    "record": _record,
    "give_up": _give_up,
}
"""Every step by its name."""


def _told(at: Deployment, report: CheckReport, event: Mapping[str, Any]) -> Answer:
    """How a run stands, as machines are told."""
    run = report.run
    counts = at.ledger.glance(run.run_id) if report.planned else report.counts  # which are those before it was planned
    log_untold(report)
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
        raise EventError(f"{key} is a {type(value).__name__}; it must be a text")
    return value or ""

"""The steps that a run's state machine calls, each of which can be repeated, and its waits between two checks.

An execution can have 25,000 events at most. A check (check, choose, wait) makes some ten events. A wait is

- at least a fortieth of the execution's age, at most 300 s: in three days at most 1,100 checks (a test counts them);
- longer while the end is far: a tenth of the remaining time, estimated from the run's throughput so far, but at most a
  tenth of the run's age, since an estimate from its first shards is worth little.

The Map state is begun once a run, over its plan's index.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sparklet.errors import EventError, NoticeError, OrchestrationError, PlanError
from sparklet.log import Log
from sparklet.model import RUN_ID, Counts, Dispatch, Notice, Run, RunOptions, RunState, ShardState, split_uri
from sparklet.model.redaction import redacted
from sparklet.planning.plan_files import INDEX, claim_dispatch, index_info, inline_items
from sparklet.ports.deployment import Deployment
from sparklet.runs.checker import CheckReport, check, log_unnotified
from sparklet.runs.dispatch import TOLERANCE_EXCEEDED, give_up
from sparklet.runs.summary import tolerated_failures

SMALL_RUN_SHARDS = 40
MIN_OF_SMALL_S, MIN_S, MAX_S = 1, 5, 300  # the shortest wait of a small run, and of others; the longest wait
CHECKS_PER_AGE = 40  # a wait is at least this fraction of the execution's age
CHECKS_PER_REST = 10  # while the end is far, a wait is this fraction of the remaining time
LATEST_SHARE = 10  # but at most this fraction of the run's age
CAUSE_CHARACTERS = 32_768  # as many as Step Functions keeps of a cause

Response = dict[str, Any]


def wait_s(run: Run, counts: Counts, now_s: float, since_s: float | None = None) -> int:
    """How long to wait before the next check; ``since_s`` is the execution's start, by default the run's creation."""
    run_age_s = max(0.0, now_s - run.created_s)
    ended = counts.total - counts.open
    # The remaining time by the throughput so far. In a redriven run most shards ended long ago, so it is not known.
    remaining_s = run_age_s * counts.open / ended if ended and not run.generation else 0.0
    least_s = MIN_OF_SMALL_S if run.sealed and counts.total <= SMALL_RUN_SHARDS else MIN_S
    age_s = run_age_s if since_s is None else max(0.0, now_s - since_s)
    return _wait_s(least_s, age_s, run_age_s, remaining_s)


def checks_until(end_s: float, shards: int) -> int:
    """How many checks an execution makes if its run's shards end evenly until ``end_s``."""
    now_s, count, least_s = 0.0, 1, MIN_OF_SMALL_S if shards <= SMALL_RUN_SHARDS else MIN_S
    end_s = min(end_s, RunOptions().time_limit_s)
    while now_s < end_s:
        now_s, count = now_s + _wait_s(least_s, now_s, now_s, end_s - now_s), count + 1
    return count


def _wait_s(least_s: float, age_s: float, run_age_s: float, remaining_s: float) -> int:
    wait_for_end_s = min(remaining_s / CHECKS_PER_REST, run_age_s / LATEST_SHARE)
    return math.ceil(min(MAX_S, max(least_s, age_s / CHECKS_PER_AGE, wait_for_end_s)))


def take_step(deployment: Deployment, map_concurrency: int, event: Any) -> Response:
    """Do the step that an event names; EventError or PlanError if the event is wrong, so that no repetition helps."""
    if not isinstance(event, Mapping):
        raise EventError(f"a step's event must be a JSON object, not a {type(event).__name__}")
    step = STEPS.get(_text(event, "step"))
    if step is None:
        raise EventError(f"there is no step {_text(event, 'step')[:40]!r}; there are {', '.join(STEPS)}")
    return step(deployment, map_concurrency, event)


def _check(deployment: Deployment, map_concurrency: int, event: Mapping[str, Any]) -> Response:
    return _status(deployment, check(deployment, _run_id(event)), event)


def _map(deployment: Deployment, map_concurrency: int, event: Mapping[str, Any]) -> Response:
    """The input of the Map state; the first execution that calls this is recorded as the run's dispatcher.

    It has no shards if the run has another dispatcher, was redriven or was cancelled: checks then send the messages of
    its shards, or end it. PlanError if the run is not for a Map, or its plan is not complete.
    """
    run = deployment.ledger.runs.get(_run_id(event))
    if run.dispatch is not Dispatch.MAP:
        raise PlanError(f"{run.run_id} cannot begin a Map: its dispatch is {run.dispatch}, and must be map")
    if not run.sealed:
        raise PlanError(f"{run.run_id} cannot begin its Map: its plan is not complete yet")
    shards, items, map_kind = run.shard_count or 0, list[Any](), "none"
    if (
        run.has_map
        and run.cancelled_s is None
        and claim_dispatch(deployment, run, _text(event, "execution"))
        and (index := index_info(deployment, run))
        and index.size_bytes
    ):
        items = inline_items(deployment, run)
        map_kind = "inline" if items else "distributed"
    tolerated = tolerated_failures(run.options, shards)
    return {
        "run_id": run.run_id,
        "how": map_kind,
        "bucket": deployment.bucket,
        "key": split_uri(deployment.run_uri(run.run_id, INDEX))[1],
        "items": items,
        "max_concurrency": min(map_concurrency, run.options.max_concurrency or map_concurrency),
        "tolerated_failures": shards if tolerated is None else tolerated,  # without a limit no failure stops the Map
    }


def _record(deployment: Deployment, map_concurrency: int, event: Mapping[str, Any]) -> Response:
    """Record why an execution failed, and send a notice; the run continues without the execution."""
    run_id = _run_id(event) if event.get("run_id") else ""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", _text(event, "execution").rpartition(":")[2])[-120:] or "unnamed"
    texts = {key: _text(event, key) for key in ("execution", "machine", "where", "error")}
    cause = redacted(_text(event, "cause"))[:CAUSE_CHARACTERS]
    uri = (
        deployment.run_uri(run_id, f"executions/{name}.json")
        if run_id
        else f"s3://{deployment.bucket}/executions/{name}.json"
    )
    document = {"run_id": run_id, **texts, "cause": cause, "request": redacted(_request(deployment, event))}
    deployment.store.put(
        uri, json.dumps(document | {"recorded_s": deployment.clock.now_s()}, indent=2).encode() + b"\n"
    )
    Log().error("an execution failed", subject=run_id or texts["execution"], **texts, cause=cause[:1000], recorded=uri)
    if deployment.notifier is not None:
        try:
            deployment.notifier.notify(Notice.of_execution(**texts, cause=cause, run_id=run_id, recorded=uri))
        except NoticeError as error:  # the file is written, as the step promises
            Log().error("a notice was not sent", subject=run_id or texts["execution"], error=str(error))
    return {"run_id": run_id, "recorded": uri}


def _request(deployment: Deployment, event: Mapping[str, Any]) -> Any:
    """The execution's input, which is too long for a state with an error; only older state machines still pass it."""
    if "request" in event or deployment.input_of is None:
        return event.get("request")
    try:
        return deployment.input_of(_text(event, "execution"))
    except OrchestrationError as error:
        return f"not known: {error}"


def _give_up(deployment: Deployment, map_concurrency: int, event: Mapping[str, Any]) -> Response:
    """Fail the PENDING shards if the ledger confirms that more shards failed than the run tolerates; then check."""
    run_id, reason = _run_id(event), _text(event, "reason")
    counts, run = deployment.ledger.shards.count(run_id), deployment.ledger.runs.get(run_id)
    tolerated = tolerated_failures(run.options, counts.total)
    # A Map counts children that failed; only the ledger counts shards.
    if not run.state.ended and run.sealed and tolerated is not None and counts.failed > tolerated:
        why = f"not done: more shards failed than the run tolerates ({reason})"
        for record in deployment.ledger.shards.list(run_id, ShardState.PENDING):
            give_up(deployment, record, TOLERANCE_EXCEEDED, why)
    return _check(deployment, map_concurrency, event)


STEPS: Mapping[str, Callable[[Deployment, int, Mapping[str, Any]], Response]] = {
    "check": _check,
    "map": _map,
    "record": _record,
    "give_up": _give_up,
}


def _status(deployment: Deployment, report: CheckReport, event: Mapping[str, Any]) -> Response:
    """What a state machine needs to know after a check: whether the run has ended, or how long to wait."""
    run = report.run
    # The report's counts are older than the shards that this check has planned.
    counts = deployment.ledger.shards.glance(run.run_id) if report.planned else report.counts
    has_next = run.state in (RunState.SUCCEEDED, RunState.SUCCEEDED_WITH_FAILURES)
    log_unnotified(report)
    return {
        "run_id": run.run_id,
        "state": str(run.state),
        "ended": run.state.ended,
        "wait_s": wait_s(run, counts, deployment.clock.now_s(), _started_s(event)),
        "generation": run.generation,
        "counts": asdict(counts),
        "next_run_id": run.next_run_id if has_next else "",
    }


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


def _text(event: Mapping[str, Any], key: str) -> str:
    value = event.get(key)
    if value is not None and not isinstance(value, str):
        raise EventError(f"{key} is a {type(value).__name__}; it must be a string")
    return value or ""

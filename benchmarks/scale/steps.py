"""The steps that are not a worker's, each measured in a process of its own: plan, watch, manifests.

    python -m benchmarks.scale.steps {plan|watch|manifests} WORLD

Each prints JSON lines; the last one has the step's time, its requests by kind and its process's peak memory.
"""

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.scale.faults import Faults, LedgerFaults
from benchmarks.scale.mapping import INDEX
from benchmarks.scale.notes import LEDGER, Notes
from benchmarks.scale.world import World, set_environment
from sparklet.aws.clients import AwsClients
from sparklet.errors import SparkletError
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import PlanProgress, plan
from sparklet.ports.deployment import Deployment
from sparklet.runs.checker import check
from sparklet.runs.handlers import handle_dead_letters
from sparklet.runs.manifest import write_manifests
from sparklet.runs.state_machine_steps import take_step
from sparklet.spark.processes import die_with_parent
from sparklet.worker.handler import memory_peak_mb
from tests.stand_ins.read_queues import ReadSqsQueue

# A check costs the stand-in, whose index queries read a whole partition, far more than DynamoDB: the pause behind it is
# so many times longer than it took, up to so many seconds a shard of the run.
MIN_WAIT_S, WAIT_SHARE, WAIT_S_A_SHARD = 1.0, 8.0, 0.001


class Requests:
    """Counts a process's requests to the ledger, and the items that they read."""

    def __init__(self, clients: AwsClients) -> None:
        self.counts: Counter[str] = Counter()
        self.items = 0
        clients.dynamodb.meta.events.register("after-call.dynamodb", self)

    def __call__(self, parsed: Mapping[str, Any], event_name: str, **_: Any) -> None:
        """One request was answered."""
        operation = event_name.rpartition(".")[2]
        self.counts[operation] += 1
        self.items += parsed.get("ScannedCount", 1 if operation == "GetItem" else 0)

    def said(self) -> dict[str, Any]:
        """What there was, by operation."""
        return {"requests": dict(self.counts), "requests_in_all": self.counts.total(), "items_read": self.items}

    def reset(self) -> None:
        """Count from here on."""
        self.counts.clear()
        self.items = 0


def main() -> None:
    """Do one step."""
    set_environment()
    die_with_parent(os.getppid(), signal.SIGTERM)
    step, world = sys.argv[1], World.from_json(sys.argv[2])
    clients = world.clients()
    deployment, requests = world.deployment(clients), Requests(clients)
    if world.faults:
        notes = Notes(world.notes, step)
        faults = LedgerFaults(Faults(world.seed, world.faults), lambda shard, what: notes.add(LEDGER, shard, what))
        faults.register(clients.dynamodb)
    before_mb, started_s, started_cpu_s = memory_peak_mb(), time.perf_counter(), time.process_time()
    steps: Mapping[str, Callable[[World, AwsClients, Deployment, Requests], dict[str, Any]]] = {
        "plan": _plan,
        "watch": _watch,
        "manifests": _manifests,
    }
    told = steps[step](world, clients, deployment, requests)
    _say(
        step=step,
        done=True,
        took_s=round(time.perf_counter() - started_s, 3),
        cpu_s=round(time.process_time() - started_cpu_s, 3),  # its own, without the stand-in's
        peak_rss_mb=memory_peak_mb(),
        before_mb=before_mb,
        **requests.said(),
        **told,
    )


def _plan(world: World, clients: AwsClients, deployment: Deployment, requests: Requests) -> dict[str, Any]:
    """Enter the run and plan it; a planner that a fault ends is started again, as the state machine does."""
    restarts = 0
    started_s = time.perf_counter()

    def progress(now: PlanProgress) -> None:
        if now.shards % 10_000 == 0:
            _say(planned=now.shards, after_s=round(time.perf_counter() - started_s, 1))

    while True:
        try:
            run = plan(deployment, new_run(deployment, world.request()).run_id, progress)
        except SparkletError as error:
            if not error.retryable:
                raise
            restarts += 1
            _say(restarted_because=str(error))
        else:
            return {"shards": run.shard_count, "restarts": restarts}


def _watch(world: World, clients: AwsClients, deployment: Deployment, requests: Requests) -> dict[str, Any]:
    """Check the run and consume dead letters until it has ended, as the scheduled functions do."""
    letters = ReadSqsQueue(clients, world.queue_url(clients, "-dead"))
    checks, fates, expired, requeued, problems = 0, 0, 0, 0, 0
    while True:
        requests.reset()
        started_s = time.perf_counter()
        try:
            _begin_map(world, deployment)
            report = check(deployment, world.run_id)
        except SparkletError as error:
            problems += 1
            _say(problem=str(error))
            time.sleep(MIN_WAIT_S)
            continue
        took_s = time.perf_counter() - started_s
        checks, expired, requeued = checks + 1, expired + report.expired, requeued + report.requeued
        counts = report.counts
        _say(
            check_s=round(took_s, 3),
            succeeded=counts.succeeded,
            failed=counts.failed,
            running=counts.running,
            pending=counts.pending,
            lapsed=report.expired,
            state=str(report.run.state),
            **requests.said(),
        )
        if report.run.state.ended:
            break
        fates += _consume(deployment, letters)
        time.sleep(max(MIN_WAIT_S, min(WAIT_SHARE * took_s, WAIT_S_A_SHARD * world.shards)))
    return {"checks": checks, "letters": fates, "lapsed": expired, "requeued": requeued, "problems": problems}


def _begin_map(world: World, deployment: Deployment) -> None:
    """Hand the index of a sealed plan to the walkers, once, by the step that the state machine takes."""
    is_begun = world.dispatch == "queue" or (world.notes / INDEX).exists()
    if is_begun or not deployment.ledger.runs.get(world.run_id).sealed:
        return
    answer = take_step(deployment, world.pollers, {"step": "map", "run_id": world.run_id})
    draft = world.notes / f"next.{INDEX}"
    draft.write_text(f"s3://{answer['bucket']}/{answer['key']}")
    draft.rename(world.notes / INDEX)


def _consume(deployment: Deployment, letters: ReadSqsQueue) -> int:
    """Have the real consumer deal with what is in the dead-letter queue, in its event's form."""
    consumed = 0
    while messages := letters.receive():
        records = [{"messageId": m.message_id, "body": m.body, "receiptHandle": m.receipt} for m in messages]
        refused = {each["itemIdentifier"] for each in _quietly(deployment, {"Records": records})["batchItemFailures"]}
        for message in messages:
            if message.message_id not in refused:
                letters.delete(message.receipt)
                consumed += 1
    return consumed


def _quietly(deployment: Deployment, event: Mapping[str, Any]) -> dict[str, Any]:
    """The consumer's answer; its log lines go to standard error."""
    stdout, sys.stdout = sys.stdout, sys.stderr
    try:
        return handle_dead_letters(deployment, event)
    finally:
        sys.stdout = stdout


def _manifests(world: World, clients: AwsClients, deployment: Deployment, requests: Requests) -> dict[str, Any]:
    """Write the manifests again, alone: what they cost; and the same ledger must give the same bytes."""
    run = deployment.ledger.runs.get(world.run_id)
    before = {
        info.uri: info.etag for info in deployment.store.list(deployment.run_uri(run.run_id)) if _is_manifest(info.uri)
    }
    write_manifests(deployment, run, run.state)
    after = {
        info.uri: info.etag for info in deployment.store.list(deployment.run_uri(run.run_id)) if _is_manifest(info.uri)
    }
    return {"files": len(after), "same_bytes": before == after}


def _is_manifest(uri: str) -> bool:
    return uri.endswith(".json") and uri.rpartition("/")[2].startswith(
        ("manifest", "SUCCEEDED_", "FAILED_", "PENDING_")
    )


def _say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    main()

"""Scenarios for the steps of the state machine: a run of each dispatch, and records of failed executions."""

from dataclasses import replace
from pathlib import Path

from sparklet.aws.services import execution_arn
from sparklet.model import ClaimStatus, Dispatch, Failure, RunOptions, RunState, ShardResult
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from sparklet.planning.request import RunRequest
from sparklet.runs.redrive import redrive
from tests.deploy.recorded_stack import RecordedStack

JOB = Path(__file__).parent / "scripts" / "job.py"


def take_steps(stack: RecordedStack) -> None:
    """Take every step that the state machine calls."""
    follow_a_queue(stack)
    stop_a_map(stack)
    for run_id in ("mapped", ""):
        execution = execution_arn(stack.outputs["RunMachineArn"], f"{run_id}-1")
        failure = {"execution": execution, "machine": "m", "where": "Check", "error": "E", "cause": "why"}
        assert stack.invoke("StepFunction", {"step": "record", "run_id": run_id, **failure})["recorded"]


def follow_a_queue(stack: RecordedStack) -> None:
    """Check a run of the queue: a lease of it expires, it is judged by its check run, and followed by a next run."""
    deployment = stack.deployment()
    enter(stack, "stepped", Dispatch.QUEUE, 1, RunOptions(max_objects=1), follow=True)
    lost = deployment.ledger.shards.get("stepped", 0)
    assert deployment.ledger.attempts.claim(lost.ref, "killed", 1, 3).status is ClaimStatus.GRANTED
    deployment.clock.sleep(
        max(0.0, deployment.ledger.shards.get("stepped", 0).lease_end_s - deployment.clock.now_s()) + 0.1
    )
    assert check(stack, "stepped") == "RUNNING"
    succeed(stack, "stepped", 0)
    deployment.store.put(f"s3://{stack.bucket}/output/stepped/shard=old_1f_000000/part.csv", b"1\n")
    assert check(stack, "stepped") == "RUNNING"  # its check run has begun
    succeed(stack, "stepped-check-0", 0)
    assert check(stack, "stepped-check-0") == "SUCCEEDED"
    assert check(stack, "stepped") == "SUCCEEDED"
    assert deployment.ledger.runs.get("stepped-next-0").parent == "stepped"
    assert deployment.ledger.runs.get("stepped").notified_s is not None
    deployment.ledger.runs.cancel("stepped-next-0")
    assert check(stack, "stepped-next-0") == "CANCELLED"


def stop_a_map(stack: RecordedStack) -> None:
    """Stop a Map since too many shards failed, then redrive the run to success."""
    deployment = stack.deployment()
    enter(stack, "mapped", Dispatch.MAP, 3, RunOptions(max_objects=1, tolerated_failure_count=1))
    map_input = stack.invoke("StepFunction", {"step": "map", "run_id": "mapped"})
    assert (map_input["how"], len(map_input["items"])) == ("inline", 3)
    for number in (0, 1):
        ref = deployment.ledger.shards.get("mapped", number).ref
        deployment.ledger.attempts.claim(ref, f"a{number}", 60, 3)
        deployment.ledger.attempts.fail("mapped", number, f"a{number}", Failure("E", "no", retryable=False))
    given_up = stack.invoke("StepFunction", {"step": "give_up", "run_id": "mapped", "reason": "its Map stopped"})
    assert (given_up["state"], given_up["counts"]["failed"]) == ("FAILED", 3)
    assert redrive(deployment, "mapped").messages == 3
    for number in range(3):
        succeed(stack, "mapped", number)
    assert check(stack, "mapped") == "SUCCEEDED"  # the files of failed attempts are deleted
    assert deployment.ledger.runs.get("mapped").state is RunState.SUCCEEDED


def enter(
    stack: RecordedStack, run_id: str, dispatch: Dispatch, shards: int, options: RunOptions, *, follow: bool = False
) -> None:
    """Enter a run and plan it, as state machines do before these steps."""
    deployment, own = stack.deployment(), f"s3://{stack.bucket}"
    for number in range(shards):
        deployment.store.put(f"{own}/input/{run_id}/{number}.csv", b"1\n")
    folders, output = (f"{own}/input/{run_id}/",), f"{own}/output/{run_id}/"
    request = RunRequest(str(JOB), folders, output, run_id, options=options, dispatch=dispatch)
    if follow:
        request = replace(request, check=str(JOB), next=str(JOB), next_output=f"{own}/output/{run_id}-next/")
    new_run(deployment, request)
    plan(deployment, run_id)


def succeed(stack: RecordedStack, run_id: str, number: int) -> None:
    ledger = stack.deployment().ledger
    claim = ledger.attempts.claim(ledger.shards.get(run_id, number).ref, f"done-{number}", 60, 3)
    assert claim.status is ClaimStatus.GRANTED
    ledger.attempts.succeed(run_id, number, f"done-{number}", ShardResult(rows=1))


def check(stack: RecordedStack, run_id: str) -> str:
    """Take the step ``check``; return the run's state after it."""
    return str(stack.invoke("StepFunction", {"step": "check", "run_id": run_id})["state"])

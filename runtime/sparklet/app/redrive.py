"""The redrive of failed shards, if need be on workers of another size."""

import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from sparklet.app.local_files import changed, local_inputs, local_part, upload
from sparklet.app.reporter import Reporter, count_text
from sparklet.app.stack import OpenStack, StackSelection
from sparklet.app.state_machines import drive, driver_of, machine_of, was_driven
from sparklet.errors import PlanError
from sparklet.model import Run, ShardState
from sparklet.model.options import LARGE, LARGE_MB
from sparklet.planning.new_run import repaired_script
from sparklet.planning.plan_files import planned_shard
from sparklet.ports.deployment import Deployment
from sparklet.runs.redrive import failed_end, failed_with, refuse_same_commit
from sparklet.runs.redrive import redrive as redrive_shards

TIMEOUTS_S = (60, 120, 180, 300, 600, 900)  # that the template's queue has a visibility for


def selected(at: Deployment, run_id: str, numbers: tuple[int, ...], cause: str) -> tuple[int, ...]:
    """The shards that --shards and --cause select; empty: all failed ones, or the check or commit that failed."""
    run, failed = at.ledger.runs.get(run_id), next(at.ledger.shards.list(run_id, ShardState.FAILED), None)
    end = None if numbers or failed else failed_end(at, run)
    if end and not cause:
        refuse_same_commit(at, run, end)
    names_end = end is not None and cause.casefold() in f"{end.error_class}: {end.message}".casefold()
    return failed_with(at, run_id, cause, numbers or None) if cause and not names_end else numbers


def resized(selection: StackSelection) -> StackSelection:
    """The same; if the running local stack's workers have another size, it is to be restarted with the selected one."""
    from sparklet.local.stack import running

    info = None if selection.stack else running(selection.state)
    if info is None:
        return selection
    memory_mb, timeout_s = selection.memory_mb or info.memory_mb, selection.timeout_s or info.timeout_s
    if (memory_mb, timeout_s) == (info.memory_mb, info.timeout_s):
        return selection
    return replace(selection, workers=info.workers, memory_mb=memory_mb, timeout_s=timeout_s, replace_kept=True)


def engine_of_size(stack: OpenStack, memory_mb: int | None, timeout_s: int | None, engine: str = "") -> str:
    """The engine for shards that --memory and --timeout are for; PlanError with the remedy if workers have other sizes.

    The local stack restarts with that size unless another command uses it. A deployed stack is not changed from here:
    that needs permission to change its functions, and affects every run on it. It may have lambda-large.
    """
    is_larger = (memory_mb or 0) > stack.size.memory_mb and not stack.state and not engine
    if is_larger and LARGE in stack.at.engines and (timeout_s or 0) <= TIMEOUTS_S[-1]:
        return LARGE
    sizes = {
        "--memory": ("FunctionMemoryMB", memory_mb, stack.size.memory_mb),
        "--timeout": ("FunctionTimeoutS", timeout_s, stack.size.timeout_s),
    }
    other = {option: size for option, size in sizes.items() if size[1] not in (None, size[2])}
    if not other:
        return engine
    wanted = " and ".join(f"{option} {size}" for option, (_, size, _) in other.items())
    if stack.state:
        raise PlanError(
            f"{wanted} is not possible: another command uses the local stack as it is "
            f"({stack.size.memory_mb} MB, {stack.size.timeout_s} s); wait for its end, or stop the stack: sparklet stop"
        )
    if timeout_s is not None and timeout_s not in TIMEOUTS_S:
        raise PlanError(f"--timeout {timeout_s} must be one of {', '.join(map(str, TIMEOUTS_S))} on a deployed stack")
    raise PlanError(
        f"{wanted}: the workers of {stack.name} have {stack.size.memory_mb} MB and {stack.size.timeout_s} s, and a "
        f"redrive does not change a deployed stack. LargeFunction=yes adds lambda-large, which does shards with up to "
        f"{LARGE_MB:,} MB; or change the workers, then redrive without {wanted}:\n"
        f"{_update_command(stack, {parameter: str(size) for parameter, size, _ in other.values()})}"
    )


def _update_command(stack: OpenStack, changes: Mapping[str, str]) -> str:
    """The command that changes only these parameters, and waits until the stack is updated."""
    given = [
        f"ParameterKey={key}," + (f"ParameterValue={changes[key]}" if key in changes else "UsePreviousValue=true")
        for key in sorted({*stack.parameters, *changes})
    ]
    update = ["aws", "cloudformation", "update-stack", "--stack-name", stack.name, "--use-previous-template"]
    capabilities = ["--capabilities", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"]
    wait = ["aws", "cloudformation", "wait", "stack-update-complete", "--stack-name", stack.name]
    return f"{shlex.join([*update, *capabilities, '--parameters', *given])} && {shlex.join(wait)}"


def redrive_run(
    stack: OpenStack,
    run_id: str,
    shards: tuple[int, ...],
    script: str,
    reporter: Reporter,
    engine: str = "",
    *,
    isolate: bool = False,
) -> None:
    """Copy repaired local inputs and dispatch failed shards again, through the state machine if one drove the run."""
    run = stack.at.ledger.runs.get(run_id)
    driven = was_driven(stack, run)
    if driven and not shards and _only_its_machine_is_gone(stack, run):
        drive(stack, run, reporter)
        return
    if driven:
        machine_of(stack, run.dispatch)
    _upload_repaired(stack, run, reporter)
    ref = repaired_script(stack.at, run, script) if script else None
    redriven = redrive_shards(stack.at, run_id, shards or None, ref, engine, isolate=isolate)
    sent = f"{count_text(max(redriven.messages, redriven.shards), 'shard')} sent again"
    if (end := failed_end(stack.at, run)) and not (redriven.messages or redriven.shards):
        sent = f"what {end.run_id} could not do is done again, it failed with {end.error_class}: {end.message}"
    reporter.say(f"run {run_id}: {sent}, generation {redriven.run.generation}")
    if driven:
        drive(stack, redriven.run, reporter)
    if redriven.unplanned:
        reporter.warn(
            f"{run_id} was cancelled before its plan was complete: the rest of its objects is not planned; "
            "start another run for them (--incremental leaves out what this run processes)"
        )


def _only_its_machine_is_gone(stack: OpenStack, run: Run) -> bool:
    """Whether the run is open and no shard has failed, but its execution has ended."""
    if run.state.ended or run.cancelled_s is not None:
        return False
    driver = driver_of(stack, run)
    if driver is None or driver.state.ended:
        return next(stack.at.ledger.shards.list(run.run_id, ShardState.FAILED), None) is None
    return False


def _upload_repaired(stack: OpenStack, run: Run, reporter: Reporter) -> None:
    inputs = local_inputs(stack, run.run_id)
    if not inputs:
        return
    repaired = changed(stack.at.store, _failed_inputs(stack, run, inputs))
    if repaired:
        reporter.say(f"copying {count_text(len(repaired), 'repaired file')} to the bucket")
        upload(stack.at.store, repaired, reporter.say)


def _failed_inputs(stack: OpenStack, run: Run, inputs: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    for record in stack.at.ledger.shards.list(run.run_id, ShardState.FAILED):
        for each in planned_shard(stack.at, record).objects:
            path = local_part(each.object_uri, inputs)
            if path is not None and path.is_file() and os.access(path, os.R_OK):
                yield path, each.object_uri

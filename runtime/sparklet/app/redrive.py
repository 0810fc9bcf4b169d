"""Failures as ``explain`` shows them, and the redrive of failed shards, if need be on workers of another size."""

import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sparklet.app.explain import FailureGroup
from sparklet.app.local_files import changed, local_part, upload
from sparklet.app.stack import Environment, StackSelection
from sparklet.app.state_machines import drive, driver_of, machine_of, was_driven
from sparklet.cli.console import Screen, count_text
from sparklet.errors import PlanError
from sparklet.model import Run, ShardState
from sparklet.planning.new_run import repaired_script
from sparklet.planning.plan_files import planned_shard
from sparklet.ports.deployment import Deployment
from sparklet.runs.redrive import failed_with
from sparklet.runs.redrive import redrive as redrive_shards

OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError")
OUT_OF_TIME = ("DeadlineExceededError",)
MAX_MEMORY_MB, MAX_TIMEOUT_S = 10240, 900
TIMEOUTS_S = (60, 120, 180, 300, 600, 900)  # that the template's queue has a visibility for


def redrive_command(env: Environment, run_id: str, group: FailureGroup) -> str:
    """The exact command that redrives this group's shards, with larger workers if size was the cause."""
    words = ["sparklet", "redrive", run_id, *group.redrive]
    name = group.error_class.rpartition(".")[2]
    if name in OUT_OF_MEMORY and env.size.memory_mb < MAX_MEMORY_MB:
        words += ["--memory", str(min(MAX_MEMORY_MB, 2 * env.size.memory_mb))]
    if name in OUT_OF_TIME and (env.local or env.size.timeout_s < MAX_TIMEOUT_S):
        longer_s = 2 * env.size.timeout_s
        words += ["--timeout", str(longer_s if env.local else min(MAX_TIMEOUT_S, longer_s))]
    return shlex.join([*words, *(("--stack", env.stack) if env.stack else ())])


def local_file(env: Environment, run_id: str, group: FailureGroup) -> str:
    """The local file that was copied to the example's object; "" if there is none."""
    path = local_part(group.example_object, env.local_paths(run_id).inputs)
    return "" if path is None else str(path)


def group_document(env: Environment, run_id: str, group: FailureGroup) -> dict[str, Any]:
    """One cause, for --json."""
    return {
        "error_class": group.error_class,
        "message": group.pattern,
        "count": group.count,
        "shards": group.shards.text(),
        "shards_complete": group.shards.whole,
        "example_shard": group.example.number,
        "example_object": group.example_object or None,
        "example_file": local_file(env, run_id, group) or None,
        "example_message": group.example.error_message,
        "example_engine": group.example.engine or None,
        "script_line": group.line,
        "came_back_unrun": group.unrun,
        "reason": group.advice.reason,
        "remedy": group.advice.remedy,
        "redrive": redrive_command(env, run_id, group),
    }


def group_table(env: Environment, run_id: str, group: FailureGroup) -> RenderableType:
    """One cause, for people."""
    title = Text(f"{count_text(group.count, 'shard')}: {group.error_class or '(no cause given)'}", style="bold red")
    facts = Table.grid(padding=(0, 2))
    shown = local_file(env, run_id, group) or group.example_object
    example = f"shard {group.example.number}" + (f", {shown}" if shown else "")
    example += f", in {group.example.engine}" if group.example.engine else ""
    more = group.example.object_count - 1
    facts.add_row("  example", Text(example + (f" and {more} more" if more > 0 else "")))
    facts.add_row("  says", Text(group.example.error_message))
    if group.unrun:
        facts.add_row(
            "  came back unrun", Text(f"{count_text(group.unrun, 'message')}: receives that no attempt followed")
        )
    facts.add_row("  reason", Text(group.advice.reason))
    facts.add_row("  remedy", Text(group.advice.remedy))
    facts.add_row("  then", Text(redrive_command(env, run_id, group), style="cyan"))
    return Group(title, facts, Text(""))


def selected(at: Deployment, run_id: str, numbers: tuple[int, ...], cause: str) -> tuple[int, ...]:
    """The shards that --shards and --cause select; empty: all failed ones."""
    return failed_with(at, run_id, cause, numbers or None) if cause else numbers


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


def refuse_other_size(env: Environment, memory_mb: int | None, timeout_s: int | None) -> None:
    """PlanError with the remedy if the workers have another size than --memory and --timeout select.

    The local stack restarts with that size unless another command uses it. A deployed stack is not changed from here:
    that needs permission to change its functions, and affects every run on it.
    """
    changes: dict[str, str] = {}  # parameters of the stack
    options: list[str] = []
    if memory_mb not in (None, env.size.memory_mb):
        changes["FunctionMemoryMB"] = str(memory_mb)
        options.append(f"--memory {memory_mb}")
    if timeout_s not in (None, env.size.timeout_s):
        changes["FunctionTimeoutS"] = str(timeout_s)
        options.append(f"--timeout {timeout_s}")
    if not changes:
        return
    wanted = " and ".join(options)
    if env.local:
        raise PlanError(
            f"{wanted} is not possible: another command uses the local stack as it is "
            f"({env.size.memory_mb} MB, {env.size.timeout_s} s); wait for its end, or stop the stack: sparklet stop"
        )
    if timeout_s is not None and timeout_s not in TIMEOUTS_S:
        raise PlanError(f"--timeout {timeout_s} must be one of {', '.join(map(str, TIMEOUTS_S))} on a deployed stack")
    raise PlanError(
        f"{wanted}: the workers of {env.stack} have {env.size.memory_mb} MB and {env.size.timeout_s} s, and a redrive "
        f"does not change a deployed stack. Change it, then redrive without {wanted}:\n"
        f"{_update_command(env, changes)}"
    )


def _update_command(env: Environment, changes: Mapping[str, str]) -> str:
    """The command that changes only these parameters, and waits until the stack is updated."""
    given = [
        f"ParameterKey={key}," + (f"ParameterValue={changes[key]}" if key in changes else "UsePreviousValue=true")
        for key in sorted({*env.parameters, *changes})
    ]
    update = ["aws", "cloudformation", "update-stack", "--stack-name", env.stack, "--use-previous-template"]
    capabilities = ["--capabilities", "CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"]
    wait = ["aws", "cloudformation", "wait", "stack-update-complete", "--stack-name", env.stack]
    return f"{shlex.join([*update, *capabilities, '--parameters', *given])} && {shlex.join(wait)}"


def redrive_run(
    env: Environment, run_id: str, shards: tuple[int, ...], script: str, screen: Screen, engine: str = ""
) -> None:
    """Copy repaired local inputs and dispatch failed shards again, through the state machine if one drove the run."""
    run = env.at.ledger.runs.get(run_id)
    driven = was_driven(env, run)
    if driven and not shards and _only_its_machine_is_gone(env, run):
        drive(env, run, screen)
        return
    if driven:
        machine_of(env, run.dispatch)
    _upload_repaired(env, run, screen)
    ref = repaired_script(env.at, run, script) if script else None
    redriven = redrive_shards(env.at, run_id, shards or None, ref, engine)
    sent = count_text(max(redriven.messages, redriven.shards), "shard")
    screen.say(f"run {run_id}: {sent} sent again, generation {redriven.run.generation}")
    if driven:
        drive(env, redriven.run, screen)
    if redriven.unplanned:
        screen.warn(
            f"{run_id} was cancelled before its plan was complete: the rest of its objects is not planned; "
            "start another run for them (--incremental leaves out what this run processes)"
        )


def _only_its_machine_is_gone(env: Environment, run: Run) -> bool:
    """Whether the run is open and no shard has failed, but its execution has ended."""
    if run.state.ended or run.cancelled_s is not None:
        return False
    driver = driver_of(env, run)
    if driver is None or driver.state.ended:
        return next(env.at.ledger.shards.list(run.run_id, ShardState.FAILED), None) is None
    return False


def _upload_repaired(env: Environment, run: Run, screen: Screen) -> None:
    inputs = env.local_paths(run.run_id).inputs
    if not inputs:
        return
    repaired = changed(env.at.store, _failed_inputs(env, run, inputs))
    if repaired:
        screen.say(f"copying {count_text(len(repaired), 'repaired file')} to the bucket")
        upload(env.at.store, repaired, screen.say)


def _failed_inputs(env: Environment, run: Run, inputs: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    for record in env.at.ledger.shards.list(run.run_id, ShardState.FAILED):
        for each in planned_shard(env.at, record).objects:
            path = local_part(each.uri, inputs)
            if path is not None and path.is_file() and os.access(path, os.R_OK):
                yield path, each.uri

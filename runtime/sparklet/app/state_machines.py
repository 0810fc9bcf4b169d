"""Chooses a run's dispatch; starts, finds, watches and stops the executions of the state machine that drives the run.

Only the ledger holds a run's state. The name of an execution is made of the run and its generation, so a run that is
started twice has one execution. An execution that ended before its run gets a successor, named ``-2`` and so on.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from sparklet.app.reporter import Reporter, time_text
from sparklet.app.stack import OpenStack
from sparklet.errors import ObjectStoreError, OrchestrationError, PlanError
from sparklet.model import MAX_INLINE, Dispatch, ExecutionStatus, Run, execution_name, successor
from sparklet.planning.packing import PackedInput, preview
from sparklet.planning.request import RunRequest

DispatchMode = Literal["queue", "loop", "map", "inline"]
CHECK_EVERY_S = 15.0
CAUSE_CHARACTERS = 300


def dispatch_of_mode(stack: OpenStack, request: RunRequest, mode: DispatchMode, packed: PackedInput) -> Dispatch:
    """Return the dispatch of a mode that needs a state machine; PlanError, before anything is written, if it cannot be.

    For ``inline`` the inputs are read into ``packed``, since an inline Map has a limit of shards.
    """
    machine_of(stack)
    if mode == "inline" and (shards := preview(stack.deployment, request, packed).shards) > MAX_INLINE:
        raise PlanError(
            f"--dispatch-mode inline: {shards:,} shards are more than the {MAX_INLINE} that run at once in an inline "
            "Map; use map or loop"
        )
    return Dispatch.MAP if mode in ("map", "inline") else Dispatch.QUEUE


def machine_of(stack: OpenStack) -> str:
    """Return the ARN of the stack's state machine; PlanError if the stack has none."""
    if not stack.machine:
        stack_text = f"the stack {stack.name}" if stack.name else "the local stack"
        raise PlanError(
            f"{stack_text} has no state machine: deploy the newest sam/template.yaml, or use --dispatch-mode queue"
        )
    return stack.machine


def driver_of(stack: OpenStack, run: Run, generation: int | None = None) -> ExecutionStatus | None:
    """Return the newest execution that a command line started; None if there is none, or no state machine."""
    if not stack.machine:
        return None
    newest, name = None, execution_name(run.run_id, run.generation if generation is None else generation)
    # The names follow from the run, so each is looked up; a listing would return the executions of all runs.
    while status := stack.orchestrator.find(stack.machine, name):
        newest, name = status, successor(name)
    return newest


def was_driven(stack: OpenStack, run: Run) -> bool:
    """Return whether a state machine has driven the run.

    Each run that a Map dispatches is; another run is if any of its generations has an execution.
    """
    if run.dispatch is Dispatch.MAP:
        return True
    return any(driver_of(stack, run, generation) for generation in range(run.generation, -1, -1))


def drive(stack: OpenStack, run: Run, reporter: Reporter) -> None:
    """Start an execution that drives the run, unless one runs already or the run has ended."""
    machine = machine_of(stack)
    if run.state.ended:
        reporter.say(f"run {run.run_id} is there already and has ended; nothing is started")
        return
    driver = driver_of(stack, run)
    if driver and not driver.state.ended:
        reporter.say(f"run {run.run_id} is there already, driven by {driver.name}; nothing is started twice")
        return
    # Step Functions refuses a used name for 90 days (API reference, StartExecution), so an execution that ended before
    # its run gets a successor with another name.
    name = successor(driver.name) if driver else execution_name(run.run_id, run.generation)
    execution = stack.orchestrator.start(machine, name, {"run_id": run.run_id})
    reporter.say(f"run {run.run_id}: driven by {execution}")


def stop_execution(stack: OpenStack, run: Run, reporter: Reporter) -> None:
    """Stop the execution that drives a cancelled run; the checker ends the run."""
    try:
        driver = driver_of(stack, run)
        if driver and not driver.state.ended:
            stack.orchestrator.stop(driver.execution, f"the run {run.run_id} was cancelled")
            reporter.say(f"{driver.name} was stopped; the stack's checker ends the run")
    except OrchestrationError as error:
        reporter.warn(f"the run is cancelled, but its state machine could not be stopped: {error}")


def recorded_failures(stack: OpenStack, run: Run) -> Iterator[Mapping[str, str]]:
    """Return the records of the run's failed executions, whoever started them, as the state machines wrote them."""
    for info in stack.deployment.store.list(stack.deployment.run_uri(run.run_id, "executions/")):
        if info.modified_s < run.created_s:
            continue  # it is a record of an older run with the same id, from another ledger
        try:
            document = json.loads(stack.deployment.store.get(info.uri))
        except (ObjectStoreError, ValueError):
            continue  # it was deleted since it was listed, or is not Sparklet's
        if isinstance(document, dict):
            fields = {key: str(document.get(key, "")) for key in ("execution", "machine", "where", "error", "cause")}
            yield {**fields, "recorded": time_text(info.modified_s)}


def driver_text(run: Run, driver: ExecutionStatus) -> str:
    """Return the name and state of an execution; if it ended before its run, also why, and how the run continues."""
    if not driver.ended_early or run.state.ended:
        return f"{driver.name}: {driver.state}"
    return ended_early_text(run, driver.name, str(driver.state), driver.error, driver.cause)


def ended_early_text(run: Run, name: str, state: str, error: str, cause: str) -> str:
    """Return why an execution ended before its run, and how the run continues."""
    reason = ": ".join(filter(None, (error, cause[:CAUSE_CHARACTERS]))) or "no cause was given"
    remedy = "the run continues with its queue and the stack's checker; nothing need be done"
    return f"{name} has {state} while {run.run_id} is open ({reason}); {remedy}"


@dataclass
class MachineWatch:
    """Reports each execution that ended before its run, once; checks at most every 15 s."""

    stack: OpenStack
    _checked_s: float = float("-inf")
    _reported: set[str] = field(default_factory=set)

    def reports(self, run: Run) -> list[str]:
        """Return new reports, usually none; after an error the next check tries again."""
        now_s = self.stack.deployment.clock.now_s()
        if run.state.ended or run.cancelled_s is not None or now_s - self._checked_s < CHECK_EVERY_S:
            return []
        self._checked_s = now_s
        try:
            text_by_name = dict(self._ended_early(run))
        except (OrchestrationError, ObjectStoreError):
            return []
        if not text_by_name or self.stack.deployment.ledger.runs.get(run.run_id).state.ended:
            return []  # the run has just ended, and its execution with it
        reports = [text for name, text in text_by_name.items() if name not in self._reported]
        self._reported |= text_by_name.keys()
        return reports

    def _ended_early(self, run: Run) -> Iterator[tuple[str, str]]:
        """Return names and texts of executions that ended before the run.

        These are the newest execution from a command line, and those whose failure was recorded since it began.
        """
        driver = driver_of(self.stack, run)
        if driver and driver.ended_early:
            yield driver.name, driver_text(run, driver)
        for failure in recorded_failures(self.stack, run):
            name = failure["execution"].rpartition(":")[2]
            is_newer = driver is None or (name != driver.name and failure["recorded"] >= time_text(driver.started_s))
            if is_newer:
                state = f"FAILED in {failure['where']}"
                yield name, ended_early_text(run, name, state, failure["error"], failure["cause"])

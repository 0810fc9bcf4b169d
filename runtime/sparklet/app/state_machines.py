"""The dispatch mode of a run, and the state machine that drives it: started, found again, watched, stopped.

Only the ledger holds a run's state. The name of an execution is made of the run and its generation, so a run that is
started twice has one execution; one that ended too early gets a successor, ``-2`` and so on.
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
LOOK_EVERY_S = 15.0
CAUSE_CHARACTERS = 300


def chosen_dispatch(stack: OpenStack, request: RunRequest, mode: DispatchMode, packed: PackedInput) -> Dispatch:
    """The dispatch of a mode that needs a state machine; an impossible mode is refused before anything is written.

    For ``inline`` the inputs are read into ``packed``, since the number of shards decides.
    """
    machine_of(stack)
    if mode == "inline" and (shards := preview(stack.deployment, request, packed).shards) > MAX_INLINE:
        raise PlanError(
            f"--dispatch-mode inline: {shards:,} shards are more than the {MAX_INLINE} that run at once in an inline "
            "Map; use map or loop"
        )
    return Dispatch.MAP if mode in ("map", "inline") else Dispatch.QUEUE


def machine_of(stack: OpenStack) -> str:
    """The stack's state machine; PlanError if it has none."""
    if not stack.machine:
        where = f"the stack {stack.name}" if stack.name else "the local stack"
        raise PlanError(
            f"{where} has no state machine: deploy the newest sam/template.yaml, or use --dispatch-mode queue"
        )
    return stack.machine


def driver_of(stack: OpenStack, run: Run, generation: int | None = None) -> ExecutionStatus | None:
    """The newest execution that a command line started; None without one, or if the stack has no state machine."""
    if not stack.machine:
        return None
    newest, name = None, execution_name(run.run_id, run.generation if generation is None else generation)
    # Names follow from the run, so they are looked up; a listing would hold the executions of all runs.
    while status := stack.orchestrator.find(stack.machine, name):
        newest, name = status, successor(name)
    return newest


def was_driven(stack: OpenStack, run: Run) -> bool:
    """Whether a state machine drives the run: always in a map, else if one was started for any generation."""
    if run.dispatch is Dispatch.MAP:
        return True
    return any(driver_of(stack, run, generation) for generation in range(run.generation, -1, -1))


def drive(stack: OpenStack, run: Run, reporter: Reporter) -> None:
    """Start the run's machine, unless it runs already or the run has ended."""
    machine = machine_of(stack)
    if run.state.ended:
        reporter.say(f"run {run.run_id} is there already and has ended; nothing is started")
        return
    driver = driver_of(stack, run)
    if driver and not driver.state.ended:
        reporter.say(f"run {run.run_id} is there already, driven by {driver.name}; nothing is started twice")
        return
    # Step Functions refuses a name for 90 days (API reference, StartExecution), so an execution that ended too early
    # gets a successor.
    name = successor(driver.name) if driver else execution_name(run.run_id, run.generation)
    execution = stack.orchestrator.start(machine, name, {"run_id": run.run_id})
    reporter.say(f"run {run.run_id}: driven by {execution}")


def end_waiting(stack: OpenStack, run: Run, reporter: Reporter) -> None:
    """Stop the execution that drives a cancelled run; the checker ends the run."""
    try:
        driver = driver_of(stack, run)
        if driver and not driver.state.ended:
            stack.orchestrator.stop(driver.execution, f"the run {run.run_id} was cancelled")
            reporter.say(f"{driver.name} was stopped; the stack's checker ends the run")
    except OrchestrationError as error:
        reporter.warn(f"the run is cancelled, but its state machine could not be stopped: {error}")


def recorded_failures(stack: OpenStack, run: Run) -> Iterator[Mapping[str, str]]:
    """Failed executions of this run, from any source, as the state machines recorded them."""
    for info in stack.deployment.store.list(stack.deployment.run_uri(run.run_id, "executions/")):
        if info.modified_s < run.created_s:
            continue  # of a run of this id in another ledger
        try:
            document = json.loads(stack.deployment.store.get(info.uri))
        except (ObjectStoreError, ValueError):
            continue  # deleted since it was listed, or not Sparklet's
        if isinstance(document, dict):
            fields = {key: str(document.get(key, "")) for key in ("execution", "machine", "where", "error", "cause")}
            yield {**fields, "recorded": time_text(info.modified_s)}


def driver_text(run: Run, driver: ExecutionStatus) -> str:
    """An execution by its name and state, and if it ended before its run, why and how to continue."""
    if not driver.ended_early or run.state.ended:
        return f"{driver.name}: {driver.state}"
    return ended_early_text(run, driver.name, str(driver.state), driver.error, driver.cause)


def ended_early_text(run: Run, name: str, state: str, error: str, cause: str) -> str:
    """Why an execution ended before its run, and how to continue."""
    why = ": ".join(filter(None, (error, cause[:CAUSE_CHARACTERS]))) or "no cause was given"
    remedy = "the run continues with its queue and the stack's checker; nothing need be done"
    return f"{name} has {state} while {run.run_id} is open ({why}); {remedy}"


@dataclass
class MachineWatch:
    """Reports each execution of a run that has ended too early, once; looks every 15 s."""

    stack: OpenStack
    _looked_s: float = float("-inf")
    _reported: set[str] = field(default_factory=set)

    def reports(self, run: Run) -> list[str]:
        """New reports, usually none; after an error the next look tries again."""
        now_s = self.stack.deployment.clock.now_s()
        if run.state.ended or run.cancelled_s is not None or now_s - self._looked_s < LOOK_EVERY_S:
            return []
        self._looked_s = now_s
        try:
            by_name = dict(self._ended_early(run))
        except (OrchestrationError, ObjectStoreError):
            return []
        if not by_name or self.stack.deployment.ledger.runs.get(run.run_id).state.ended:
            return []  # it has just ended with its run
        reports = [text for name, text in by_name.items() if name not in self._reported]
        self._reported |= by_name.keys()
        return reports

    def _ended_early(self, run: Run) -> Iterator[tuple[str, str]]:
        """Executions that ended early, by name: the newest from a command line, and those recorded since it began."""
        driver = driver_of(self.stack, run)
        if driver and driver.ended_early:
            yield driver.name, driver_text(run, driver)
        for failure in recorded_failures(self.stack, run):
            name = failure["execution"].rpartition(":")[2]
            if driver is None or (name != driver.name and failure["recorded"] >= time_text(driver.started_s)):
                yield (
                    name,
                    ended_early_text(run, name, f"FAILED in {failure['where']}", failure["error"], failure["cause"]),
                )

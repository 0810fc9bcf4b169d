"""The dispatch mode of a run, and the state machine that drives it: started, found again, watched, stopped.

``planning.dispatch_modes`` says what the modes are. The ledger says what has become of a run; an execution of a
state machine only drives it. Its name is made of the run and its generation, so that starting a run twice finds the
execution that is there; one that ended too early gets a successor, ``-2`` and so on.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sparklet.cli.console import Screen, time_text
from sparklet.cli.environment import Environment
from sparklet.cli.estimates import preview_in
from sparklet.cli.options import WantedMode
from sparklet.errors import ObjectStoreError, OrchestrationError, PlanError
from sparklet.model import Dispatch, ExecutionState, ExecutionStatus, Run, execution_name, successor
from sparklet.planning.dispatch_modes import DispatchMode, automatic_mode, inline_refusal
from sparklet.planning.request import RunRequest

LOOK_EVERY_S = 15.0
CAUSE_CHARACTERS = 300


@dataclass(frozen=True)
class Driver:
    """The newest execution that was started from a command line for a run's generation."""

    name: str
    status: ExecutionStatus

    @property
    def broken_off(self) -> bool:
        """Whether it has ended other than by bringing its run to an end."""
        return self.status.state.ended and self.status.state is not ExecutionState.SUCCEEDED

    def broken_off_text(self, run: Run) -> str:
        """Why it ended before its run, and how to go on."""
        return broken_off_text(run, self.name, str(self.status.state), self.status.error, self.status.cause)


def chosen_mode(env: Environment, request: RunRequest, wanted: WantedMode, screen: Screen) -> DispatchMode:
    """The dispatch mode of a run. What cannot be done is refused before anything is put anywhere.

    ``auto`` and ``inline`` need to know how many shards there will be: the inputs are listed for it.
    """
    if wanted == "auto":
        mode, reason = automatic_mode(preview_in(env, request).shards, request.options.rate_per_s)
        screen.say(f"dispatch mode {mode}: {reason}")
    else:
        mode = DispatchMode(wanted)
    if mode.machine:
        machine_of(env, mode.machine)
    if wanted == "inline" and (refused := inline_refusal(preview_in(env, request).shards)):
        raise PlanError(f"--dispatch-mode inline: {refused} (--dispatch-mode auto chooses)")
    return mode


def machine_of(env: Environment, name: str) -> str:
    """The stack's state machine of this name; PlanError if it has none."""
    if env.orchestrator is None or name not in env.machines:
        where = f"the stack {env.stack}" if env.stack else "the local stack"
        raise PlanError(
            f"{where} has no state machine for {name}: deploy the newest sam/template.yaml, "
            "or use --dispatch-mode queue"
        )
    return env.machines[name]


def machine_name(dispatch: Dispatch) -> str:
    """The state machine that drives runs whose shards are handed out so."""
    return "map" if dispatch is Dispatch.MAP else "loop"


def driver_of(env: Environment, run: Run, generation: int | None = None) -> Driver | None:
    """What was started for a run; None if nothing was, or the stack has no machines."""
    machine = env.machines.get(machine_name(run.dispatch))
    if env.orchestrator is None or machine is None:
        return None
    newest, name = None, execution_name(run.run_id, run.generation if generation is None else generation)
    while status := env.orchestrator.find(machine, name):
        newest, name = Driver(name, status), successor(name)
    return newest


def was_driven(env: Environment, run: Run) -> bool:
    """Whether a machine must, or did, drive the run: always where a map hands out its shards."""
    if run.dispatch is Dispatch.MAP:
        return True
    return any(driver_of(env, run, generation) for generation in range(run.generation, -1, -1))


def drive(env: Environment, run: Run, screen: Screen) -> None:
    """Start the run's machine, unless it runs already or the run has ended."""
    machine = machine_of(env, machine_name(run.dispatch))
    assert env.orchestrator is not None  # machine_of has seen to it
    if run.state.ended:
        screen.say(f"run {run.run_id} is there already and has ended; nothing is started")
        return
    there = driver_of(env, run)
    if there and not there.status.state.ended:
        screen.say(f"run {run.run_id} is there already, driven by {there.name}; nothing is started twice")
        return
    name = successor(there.name) if there else execution_name(run.run_id, run.generation)
    execution = env.orchestrator.start(machine, name, {"run_id": run.run_id})
    screen.say(f"run {run.run_id}: driven by {execution}")


def end_waiting(env: Environment, run: Run, screen: Screen) -> None:
    """Stop the execution that drives a cancelled run; the checker ends the run."""
    try:
        there = driver_of(env, run)
        if there and env.orchestrator and not there.status.state.ended:
            env.orchestrator.stop(there.status.execution, f"the run {run.run_id} was cancelled")
            screen.say(f"{there.name} was stopped; the stack's checker ends the run")
    except OrchestrationError as error:
        screen.warn(f"the run is cancelled, but its state machine could not be stopped: {error}")


def recorded_failures(env: Environment, run: Run) -> Iterator[Mapping[str, str]]:
    """Executions of this run that failed, from any starter, as the state machines recorded them."""
    for info in env.at.store.list(env.at.run_uri(run.run_id, "executions/")):
        try:
            document = json.loads(env.at.store.get(info.uri))
        except (ObjectStoreError, ValueError):
            continue  # gone since it was listed, or not ours
        if isinstance(document, dict):
            fields = {key: str(document.get(key, "")) for key in ("execution", "machine", "where", "error", "cause")}
            yield {**fields, "recorded": time_text(info.modified_s)}


def broken_off_text(run: Run, name: str, state: str, error: str, cause: str) -> str:
    """Why an execution ended before its run, and how to go on."""
    why = ": ".join(filter(None, (error, cause[:CAUSE_CHARACTERS]))) or "no cause was given"
    if run.dispatch is Dispatch.MAP:
        remedy = f"unless another execution hands out its shards, sparklet redrive {run.run_id} starts a machine for it"
    else:
        remedy = "the run goes on by its queue and the stack's checker; nothing need be done"
    return f"{name} has {state} while {run.run_id} is open ({why}); {remedy}"


@dataclass
class MachineWatch:
    """Looks at a run's executions every so often, and reports each that has ended too early once."""

    env: Environment
    _looked_s: float = float("-inf")
    _reported: set[str] = field(default_factory=set)

    def news(self, run: Run) -> list[str]:
        """What to report now, usually nothing; an error now is tried again later."""
        now_s = self.env.at.clock.now_s()
        if run.state.ended or run.cancelled_s is not None or now_s - self._looked_s < LOOK_EVERY_S:
            return []
        self._looked_s = now_s
        try:
            found = dict(self._broken(run))
        except (OrchestrationError, ObjectStoreError):
            return []
        if not found or self.env.at.ledger.runs.get(run.run_id).state.ended:  # it ended with its run, just now
            return []
        news = [text for name, text in found.items() if name not in self._reported]
        self._reported |= found.keys()
        return news

    def _broken(self, run: Run) -> Iterator[tuple[str, str]]:
        """By their names: the newest of a command line, and what was recorded of others since that one began."""
        driver = driver_of(self.env, run)
        if driver and driver.broken_off:
            yield driver.name, driver.broken_off_text(run)
        for each in recorded_failures(self.env, run):
            name = each["execution"].rpartition(":")[2]
            if driver is None or (name != driver.name and each["recorded"] >= time_text(driver.status.started_s)):
                yield name, broken_off_text(run, name, f"FAILED in {each['where']}", each["error"], each["cause"])

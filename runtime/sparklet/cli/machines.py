"""State machines from the command line: started for a run, found again, told of when they fail.

The ledger says what has become of a run; an execution only drives it. Its name is made of the run and its generation,
so that starting a run twice finds the execution that is there; one that ended too early gets a successor, ``-2`` and
so on.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sparklet.cli.console import Screen
from sparklet.cli.environment import Environment
from sparklet.cli.sizes import time_text
from sparklet.errors import ObjectStoreError, OrchestrationError, PlanError
from sparklet.fanout.choosing.ways import Way
from sparklet.model import Dispatch, ExecutionState, ExecutionStatus, Run, execution_name, successor

LOOK_EVERY_S = 15.0
MOST_SUCCESSORS = 50
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


def machine_of(env: Environment, dispatch: Dispatch) -> str:
    """The machine that drives runs of this kind; PlanError if the stack has none."""
    name = _machine_name(dispatch)
    if env.orchestrator is None or name not in env.machines:
        where = f"the stack {env.stack}" if env.stack else "the local stack"
        raise PlanError(
            f"{where} has no state machine for {name}: deploy the newest sam/template.yaml, or use --via none"
        )
    return env.machines[name]


def dispatch_of(way: Way | None) -> Dispatch:
    """Who hands out the shards of a run that goes this way."""
    return Dispatch.MAP if way in (Way.MAP, Way.INLINE) else Dispatch.QUEUE


def driver_of(env: Environment, run: Run, generation: int | None = None) -> Driver | None:
    """What was started for a run; None if nothing was, or the stack has no machines."""
    machine = env.machines.get(_machine_name(run.dispatch))
    if env.orchestrator is None or machine is None:
        return None
    newest = None
    for name in _names(run, run.generation if generation is None else generation):
        status = env.orchestrator.find(machine, name)
        if status is None:
            break
        newest = Driver(name, status)
    return newest


def was_driven(env: Environment, run: Run) -> bool:
    """Whether a machine must, or did, drive the run: always where a map hands out its shards."""
    if run.dispatch is Dispatch.MAP:
        return True
    return any(driver_of(env, run, generation) for generation in range(run.generation, -1, -1))


def drive(env: Environment, run: Run, screen: Screen) -> None:
    """Start the run's machine, unless it runs already or the run has ended."""
    machine = machine_of(env, run.dispatch)
    assert env.orchestrator is not None  # machine_of has seen to it
    if run.state.ended:
        screen.say(f"run {run.run_id} is there already and has ended; nothing is started")
        return
    there = driver_of(env, run)
    if there and not there.status.state.ended:
        screen.say(f"run {run.run_id} is there already, driven by {there.name}; nothing is started twice")
        return
    name = next(_after(_names(run, run.generation), there.name if there else ""), None)
    if name is None:
        raise PlanError(f"{run.run_id} was driven by {MOST_SUCCESSORS} executions, and each broke off: see why first")
    execution = env.orchestrator.start(machine, name, {"run_id": run.run_id})
    screen.say(f"run {run.run_id}: driven by {execution}")


def end_waiting(env: Environment, run: Run, screen: Screen) -> None:
    """Stop the execution that drives a cancelled run: it would only wait for what the checker sees anyway."""
    try:
        there = driver_of(env, run)
        if there and env.orchestrator and not there.status.state.ended:
            env.orchestrator.stop(there.status.execution, f"the run {run.run_id} was cancelled")
            screen.say(f"{there.name} was stopped; the stack's checker ends the run")
    except OrchestrationError as error:
        screen.warn(f"the run is cancelled, but its state machine could not be stopped: {error}")


def recorded_failures(env: Environment, run: Run) -> Iterator[Mapping[str, str]]:
    """Executions of this run that failed, whoever started them: machines write down why."""
    for info in env.at.store.list(env.at.run_uri(run.run_id, "executions/")):
        try:
            document = json.loads(env.at.store.get(info.uri))
        except (ObjectStoreError, ValueError):
            continue  # gone since it was listed, or not ours
        if isinstance(document, dict):
            said = {key: str(document.get(key, "")) for key in ("execution", "machine", "where", "error", "cause")}
            yield {**said, "recorded": time_text(info.modified_s)}


def broken_off_text(run: Run, driver: Driver) -> str:
    """Why an execution ended before its run, and how to go on."""
    status = driver.status
    return _broken_off(run, driver.name, str(status.state), status.error, status.cause)


def _broken_off(run: Run, name: str, state: str, error: str, cause: str) -> str:
    why = ": ".join(filter(None, (error, cause[:CAUSE_CHARACTERS]))) or "no cause was given"
    if run.dispatch is Dispatch.MAP:
        remedy = f"if nobody else hands out its shards, sparklet redrive {run.run_id} starts a machine for it"
    else:
        remedy = "the run goes on by its queue and the stack's checker; nothing need be done"
    return f"{name} has {state} while {run.run_id} is open ({why}); {remedy}"


@dataclass
class MachineWatch:
    """Looks at a run's executions every so often, and tells once of each that has ended too early."""

    env: Environment
    _looked_s: float = float("-inf")
    _told: set[str] = field(default_factory=set)

    def news(self, run: Run) -> list[str]:
        """What is to be told now; usually nothing. What cannot be asked now is asked again later."""
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
        news = [text for name, text in found.items() if name not in self._told]
        self._told |= found.keys()
        return news

    def _broken(self, run: Run) -> Iterator[tuple[str, str]]:
        """By their names: the newest of a command line, and what was recorded of others since that one began."""
        driver = driver_of(self.env, run)
        if driver and driver.broken_off:
            yield driver.name, broken_off_text(run, driver)
        for each in recorded_failures(self.env, run):
            name = each["execution"].rpartition(":")[2]
            if driver is None or (name != driver.name and each["recorded"] >= time_text(driver.status.started_s)):
                yield name, _broken_off(run, name, f"FAILED in {each['where']}", each["error"], each["cause"])


def _machine_name(dispatch: Dispatch) -> str:
    return "map" if dispatch is Dispatch.MAP else "loop"


def _names(run: Run, generation: int) -> Iterator[str]:
    name = execution_name(run.run_id, generation)
    for _ in range(MOST_SUCCESSORS):
        yield name
        name = successor(name)


def _after(names: Iterator[str], taken: str) -> Iterator[str]:
    """The names behind the one that is taken; all if none is."""
    if taken:
        for name in names:
            if name == taken:
                break
    yield from names

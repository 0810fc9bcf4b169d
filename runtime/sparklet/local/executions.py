"""Executions of state machines that a stop of the local stack cut off: each is started again for the same run.

The stand-in keeps no thread of an execution beyond its own end: what was RUNNING then has FAILED when it comes up
again, and Step Functions' redrive it lacks. A run is driven from where its ledger stands, so a new execution with the
same run goes on, and one too many does no harm.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

from sparklet.local.control import Control, RefusedError

CUT_OFF = "States.ServiceRestart"  # the stand-in's own error
LONGEST_NAME = 80
_NUMBERED = re.compile(r"(.+-g\d+)-(\d+)")  # as the command line names those that came after


def start_again(control: Control, machines: Iterable[str]) -> list[str]:
    """Start again what was cut off; the new executions' names."""
    started = []
    for machine in machines:
        failed = control.states("ListExecutions", {"stateMachineArn": machine, "statusFilter": "FAILED"})
        for execution in failed["executions"]:
            found = control.states("DescribeExecution", {"executionArn": execution["executionArn"]})
            if found.get("error") == CUT_OFF and (name := _start_successor(control, machine, found)):
                started.append(name)
    return started


def successor(name: str) -> str:
    """What an execution is called that goes on with another one's run."""
    if numbered := _NUMBERED.fullmatch(name):
        return f"{numbered[1]}-{int(numbered[2]) + 1}"
    return f"{name}-2"


def same_run(name: str, given: Any) -> Any:
    """An execution's input, so that another execution asks for the same run: the first one's name was its key."""
    if not isinstance(given, dict) or "run_id" in given or "idempotency_key" in given:
        return given
    return {**given, "idempotency_key": name}


def _start_successor(control: Control, machine: str, found: Any) -> str:
    """Its name; "" if it was started before, or cannot be."""
    name = successor(found["name"])
    if len(name) > LONGEST_NAME:
        return ""
    body = json.dumps(same_run(found["name"], json.loads(found["input"])))
    try:
        control.states("StartExecution", {"stateMachineArn": machine, "name": name, "input": body})
    except RefusedError as error:
        if "already exists" in str(error):
            return ""
        raise
    return name

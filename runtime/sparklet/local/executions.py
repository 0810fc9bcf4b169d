"""Executions of state machines that a stop of the local stack cut off: each is started again for the same run.

The stand-in keeps no thread of an execution beyond its own end: what was RUNNING then has FAILED when it comes up
again, and Step Functions' redrive it lacks. A run is driven from where its ledger stands, so a new execution with the
same run goes on, and one too many does no harm.
"""

import json
from collections.abc import Iterable
from typing import Any

from sparklet.local.control import Control, RefusedError
from sparklet.model import LONGEST_NAME, successor

CUT_OFF = "States.ServiceRestart"  # the stand-in's own error


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

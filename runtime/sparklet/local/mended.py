"""What the stand-in's Step Functions and Lambda lack of AWS', as far as the project's state machines rest on it.

Everything here is found by names within ministack; a test of each says when a newer one has no need of it.
"""

import re
import threading
from typing import Any

from ministack.services import lambda_svc, stepfunctions

PATHS = ("MaxConcurrency", "ToleratedFailureCount", "ToleratedFailurePercentage")  # each also as a path into the input
_CLASS = re.compile(r"(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*)(?::|$)")


class Executions:
    """Step Functions' executions, until they rest."""

    def __init__(self) -> None:
        self._resting = threading.Event()
        self._name_errors()
        self._read_map_paths()
        self._rest_before_calls()

    def rest(self) -> None:
        """From now on none calls a function: the stand-in is ending, and their threads end with it."""
        self._resting.set()

    def _name_errors(self) -> None:
        """A function's failure is told by its error's class, for ``Retry`` and ``Catch``; ministack has one name."""
        execute = lambda_svc._execute_function_with_config_scope

        def named(*arguments: Any, **keywords: Any) -> Any:
            result = execute(*arguments, **keywords)
            body = result.get("body")
            if result.get("error") and isinstance(body, dict) and body.get("errorType") == "Runtime.HandlerError":
                body["errorType"] = error_class(str(result.get("log", ""))) or "Runtime.ExitError"
            return result

        lambda_svc._execute_function_with_config_scope = named

    def _read_map_paths(self) -> None:
        """A Map's limits given as paths; ministack reads numbers only."""
        run = stepfunctions._run_map_items

        def with_numbers(state_def: Any, raw_input: Any, execution: Any, ctx: Any) -> Any:
            effective = stepfunctions._apply_input_path(state_def, raw_input, ctx)
            given = {
                key: stepfunctions._resolve_path_or_ctx(state_def[f"{key}Path"], effective, ctx)
                for key in PATHS
                if f"{key}Path" in state_def
            }
            return run({**state_def, **given}, raw_input, execution, ctx)

        stepfunctions._run_map_items = with_numbers

    def _rest_before_calls(self) -> None:
        call = stepfunctions._call_lambda

        def called(*arguments: Any) -> Any:
            if self._resting.is_set():
                threading.Event().wait()
            return call(*arguments)

        stepfunctions._call_lambda = called


def error_class(log: str) -> str:
    """The class of the exception that a log's last traceback ends with; "" if there is none.

    Its line is the first one behind the traceback's indented ones: a message may have several lines.
    """
    _, found, trace = log.rpartition("Traceback (most recent call last):")
    if not found:
        return ""
    for line in trace.splitlines()[1:]:
        if line and not line[0].isspace() and (named := _CLASS.match(line)):
            return named[1]
    return ""

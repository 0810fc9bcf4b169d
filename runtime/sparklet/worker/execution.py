"""One execution of a script: scratch space, arguments, runner, and what came of it."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparklet.errors import EventError, ScriptFailedError
from sparklet.events import Event
from sparklet.model import ShardResult
from sparklet.worker.guards import Deadline, TaskDir, scratch_space
from sparklet.worker.log import Log
from sparklet.worker.runner import Runner, ScriptCall, ScriptResult
from sparklet.worker.shard_conf import InputSize
from sparklet.worker.staging import Staging, staged_event

LONGEST_OUTCOME_BYTES = 64 * 1024 * 1024  # an answer of 6 MB grows sixfold where all of it is escaped
LONGEST_ARGUMENT_BYTES = 100 * 1024  # Linux holds 128 KiB in one argument (MAX_ARG_STRLEN)

PERMANENT_CAUSES = frozenset(
    {
        "AccessDeniedException",
        "AnalysisException",
        "AttributeError",
        "ExpectationError",
        "ImportError",
        "IndentationError",
        "ModuleNotFoundError",
        "NameError",
        "ParseException",
        "SyntaxError",
        "TabError",
        "UnknownStoreException",
    }
)
"""Root causes that another attempt on the same input must meet again. Whatever else makes a script exit is
retried: one S3 503 inside a script must not end a shard."""


@dataclass(frozen=True, slots=True)
class Execution:
    """What is to be executed."""

    attempt_id: str
    script_uri: str
    script: Path
    event: Event
    args: tuple[str, ...] = ()
    py_files: tuple[Path, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)  # beside the function's own; never of an event
    own_paths: bool = False  # whether input_path and output_path of the event are the worker's own word
    staging: Staging | None = None  # inputs of the event of which some must be fetched first
    input_size: InputSize = field(default_factory=InputSize)
    work_end_s: Callable[[], float] | None = None  # see ``Lease``; None: only the deadline ends the script


def execute(
    execution: Execution, runner: Runner, deadline: Deadline, scratch: Path, min_free_bytes: int, log: Log
) -> ShardResult:
    """Run a script to its end in a folder of its own and read what it reported.

    Raises
    ------
    ScratchFullError
        Before any work, if ``scratch`` has less than ``min_free_bytes`` left, or would have with what must be fetched.
    ScriptFailedError
        If the script exits with another code than 0.
    DeadlineExceededError, GatewayLostError, OutOfMemoryError
        From the runner.
    ObjectStoreError, PlanError
        From fetching what must be.
    """
    with scratch_space(scratch, min_free_bytes), TaskDir(scratch, execution.attempt_id) as folder:
        outcome_file = folder / "outcome.json"
        event = _event(execution, folder, deadline, min_free_bytes, log)
        call = ScriptCall(
            script=execution.script,
            args=("--event", _event_argument(event, folder), *execution.args),
            work_dir=folder,
            deadline_s=deadline.at_s,
            env={**_own_paths(execution, event), **execution.env, "SPARKLET_OUTCOME_FILE": str(outcome_file)},
            py_files=execution.py_files,
            input_size=execution.input_size,
            moving_end_s=execution.work_end_s,
        )
        started_s = time.monotonic()
        log.info("script started", script=execution.script_uri)
        result = runner.run(call, log.output)
        log.info("script ended", exit_code=result.exit_code, duration_s=round(time.monotonic() - started_s, 3))
        if result.exit_code != 0:
            raise _failed(execution, result, folder)
        return read_outcome(outcome_file)


def _event(execution: Execution, folder: Path, deadline: Deadline, min_free_bytes: int, log: Log) -> Event:
    """The event for the script, its inputs fetched where Spark could not read them."""
    if execution.staging is None:
        return execution.event
    started_s = time.monotonic()
    uris = execution.staging.fetch(folder, deadline, min_free_bytes)
    log.info("inputs fetched", inputs=len(uris), duration_s=round(time.monotonic() - started_s, 3))
    return staged_event(execution.event, uris)


def _own_paths(execution: Execution, event: Event) -> dict[str, str]:
    """Where a shard reads and writes, for scripts that look for it in the environment; "" where no one path says it."""
    names = ("input_path", "output_path") if execution.own_paths else ()
    return {name: event[name] or "" for name in names}  # or they would take the function's own for the shard's


def _event_argument(event: Event, folder: Path) -> str:
    """The event as an argument; what does not fit into one goes through a file, ``@<path>``."""
    try:
        text = json.dumps(event, separators=(",", ":"))
    except RecursionError as error:
        raise EventError("the event is nested too deeply to be handed to a script") from error
    if len(text) <= LONGEST_ARGUMENT_BYTES:  # json.dumps writes ASCII: characters are bytes
        return text
    path = folder / "event.json"
    path.write_text(text, encoding="ascii")
    return f"@{path}"


def _failed(execution: Execution, result: ScriptResult, folder: Path) -> ScriptFailedError:
    cause, stderr_tail = result.cause, result.stderr_tail
    if execution.staging is not None:  # nobody knows the fetched files, and they are gone
        cause, stderr_tail = (execution.staging.told(text, folder) for text in (cause, stderr_tail))
    return ScriptFailedError(
        execution.script_uri,
        result.exit_code,
        cause_class=result.cause_class,
        cause=cause,
        place=result.place,
        stderr_tail=stderr_tail,
        permanent=result.cause_class.rsplit(".", 1)[-1] in PERMANENT_CAUSES,
    )


def read_outcome(path: Path) -> ShardResult:
    """What the script reported through ``sparklet.job``; nothing if it knows nothing of Sparklet.

    Raises
    ------
    EventError
        If the file is not what ``sparklet.job`` writes: what a shard did must not be guessed.
    """
    if not path.exists() or path.stat().st_size == 0:
        return ShardResult()
    if path.stat().st_size > LONGEST_OUTCOME_BYTES:
        raise EventError(f"the script's outcome file has {path.stat().st_size} bytes; give large results to S3")
    try:
        document: Any = json.loads(path.read_bytes())
        rows, size, state = document.get("rows"), document.get("output_bytes"), document.get("state")
        return ShardResult(
            rows=None if rows is None else int(rows),
            output_bytes=None if size is None else int(size),
            outputs=tuple(str(uri) for uri in document.get("outputs") or ()),
            answer=(document["answer"],) if "answer" in document else (),
            state=None if state is None else dict(state),
        )
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise EventError(f"the script's outcome file is not what sparklet.job writes: {error}") from error

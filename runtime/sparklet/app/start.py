"""Starts a run: reads its request, copies local files, enters the run in the ledger, plans it, dispatches shards."""

import hashlib
import itertools
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sparklet.app.local_files import (
    checked_output,
    refuse_own_input,
    refuse_replaced_input,
    refuse_taken_names,
    wanted_files,
    with_local_files,
)
from sparklet.app.reporter import Reporter, count_text, size_text
from sparklet.app.stack import OpenStack, StackSelection
from sparklet.app.state_machines import DispatchMode, dispatch_of_mode, drive
from sparklet.errors import (
    CheckpointConflictError,
    LocalStackError,
    PlanError,
    RemoteTaskError,
    SettingsError,
    SparkletError,
)
from sparklet.job.fields import INFER, SCHEMA
from sparklet.local.state import StateDir
from sparklet.model import Run
from sparklet.model.quantities import parse_duration_s
from sparklet.model.redaction import redacted
from sparklet.planning import routes
from sparklet.planning.inputs.list_requests import ListRequest
from sparklet.planning.new_run import files_beside, modules_of, new_run, run_id_of, script_body
from sparklet.planning.packing import PackedInput
from sparklet.planning.planner import PlanProgress, plan
from sparklet.planning.request import RunRequest, places, read_request
from sparklet.planning.schema_task import left_out
from sparklet.runs.checker import check
from sparklet.settings import script_environment

STANDARD_INPUT = "-"
SCHEMA_POLL_S = 0.5
BUSY_POLL_S = 1.0
MAX_NAME_BYTES = 255  # of a file


def run_request(options: Mapping[str, Any], stack: StackSelection, *, dry_run: bool = False) -> RunRequest:
    """Make a request from options of a command line; SettingsError or PlanError name the option and the remedy.

    Mistakes that this machine can find are reported before ``stack`` is opened. The option ``list_format`` is the
    format of all lists, which by default follows from their names; the request holds it with each list.
    """
    document: dict[str, Any] = dict(options)
    for name in ("params", "env", "files", "conf"):
        if isinstance(document.get(name), list):  # a command line has texts KEY=VALUE
            document[name] = parse_pairs(places()[name].option, document[name])
    if "env" in document:
        script_environment(document["env"], "--env")
    if schema := document.get("schema"):
        document["schema"] = _schema_ddl(schema)
    if "since" in document:
        document["since"] = _absolute_time(document["since"])
    inputs = document.pop("inputs", [])
    document["inputs"] = [source for source in inputs if source != STANDARD_INPUT]
    list_format = document.pop("list_format", "")
    object_lists = [*document.pop("lists", []), *(source for source in inputs if source == STANDARD_INPUT)]
    item_lists = document.pop("items", [])
    if sources := [*object_lists, *item_lists]:
        document["lists"] = [_read_list(source, list_format, items=False) for source in object_lists]
        document["lists"] += [_read_list(source, list_format, items=True) for source in item_lists]
    elif list_format:
        raise PlanError("--list-format needs a list: add --list FILE")
    if sources.count(STANDARD_INPUT) > 1:
        raise PlanError("standard input (-) can be read once only; name it once")
    request = read_request(document, command=True, dry_run=dry_run)
    local_inputs = [source for source in request.inputs if "://" not in source]
    if request.options.incremental and local_inputs:
        raise PlanError(
            f"--incremental needs inputs in S3: {local_inputs[0]} is copied to the bucket for each run; "
            "use --since for local files"
        )
    return request if dry_run else _check_local_files(request, stack)


def _schema_ddl(schema: str) -> str:
    """Return the text of --schema: DDL, the content of the file with this name, or ``INFER``.

    PlanError if it is one other word, and no file has this name.
    """
    # The system refuses a longer name by an error, which `is_file` passes on.
    can_be_a_file = "\n" not in schema and len(os.fsencode(schema)) <= MAX_NAME_BYTES
    if schema != INFER and can_be_a_file and Path(schema).is_file():
        return Path(schema).read_text(encoding="utf-8").strip()
    if schema != INFER and len(schema.split()) < 2:
        raise PlanError(f"--schema {schema} is neither DDL, such as 'id INT, name STRING', nor a file, nor {INFER}")
    return schema


def _check_local_files(request: RunRequest, stack: StackSelection) -> RunRequest:
    """Check a request's local files and output; return the request, with a catalog for a local Iceberg table."""
    for source in filter(None, (request.script, request.check, request.next)):
        if "://" not in source:
            script_body(source)
    files_beside(request.py_files, request.spark_files, request.conf)
    replaces_output, files_read = request.options.existing == "overwrite", [*map(Path, request.files.values())]
    for input_path in request.inputs:
        if "://" not in input_path:
            refuse_own_input(Path(input_path), request.output_uri, stack.state)
            files_read += (path for path, _ in wanted_files(Path(input_path), request.options) if replaces_output)
    for name, path in request.files.items():
        if not Path(path).is_file():
            raise PlanError(f"--param-file {name}={path}: there is no such file (you are in {Path.cwd()})")
    if replaces_output:
        refuse_replaced_input(files_read, request)
    if request.output_uri and "://" not in request.output_uri:
        request = checked_output(request, stack.state)
        refuse_taken_names(request)
    return request


def parse_pairs(option: str, arguments: list[str] | None) -> dict[str, str]:
    """Return the ``key=value`` arguments of an option as a dict; SettingsError without a ``=``, or if a key repeats."""
    pairs: dict[str, str] = {}
    for pair in arguments or ():
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise SettingsError(f"{option} {pair!r} must look like key=value")
        if key in pairs:
            raise SettingsError(f"{option} {key} is given twice")
        pairs[key] = value
    return pairs


def _absolute_time(since: str) -> str:
    """Return the time as text if ``since`` is a duration such as ``36h`` before now; any other text is unchanged."""
    try:
        return (datetime.now(UTC) - timedelta(seconds=parse_duration_s(since))).isoformat()
    except SettingsError:
        return since


def _read_list(source: str | ListRequest, list_format: str, *, items: bool) -> ListRequest:
    """Return a list of objects, or of ``items``, with its content if it is local."""
    if isinstance(source, ListRequest):
        return source
    body, list_format = None, list_format or ("lines" if source == STANDARD_INPUT else "")
    if "://" not in source:
        try:
            body = sys.stdin.buffer.read() if source == STANDARD_INPUT else Path(source).read_bytes()
        except OSError as error:
            raise PlanError(f"the list {source} cannot be read: {error.strerror}") from error
    return ListRequest(source, body, list_format, items)


def begin(
    stack: OpenStack, request: RunRequest, dispatch_mode: DispatchMode, reporter: Reporter, words: Sequence[str] = ()
) -> Run:
    """Start a run whose shards fit the stack's workers: copy local files, enter the run, plan and dispatch it.

    In any ``dispatch_mode`` but queue, a state machine plans and dispatches the run. ``words`` are the command's
    arguments; without them an interrupted start reports no command that continues the run.
    """
    request = request.fitted(stack.size.memory_mb, stack.size.scratch_bytes)
    # The id is chosen before local files are copied to a folder of this name: the command that continues an
    # interrupted start must find the copies, though the ledger may not know the run yet.
    request = replace(request, run_id=run_id_of(request, stack.deployment.clock.now_s()), idempotency_key="")
    with closing(PackedInput()) as packed:
        by_machine = dispatch_mode != "queue"
        if by_machine:
            request = replace(request, dispatch=dispatch_of_mode(stack, request, dispatch_mode, packed))
        lists = (list_request.source for list_request in request.lists)
        addresses = (*request.inputs, *lists, request.output_uri, request.script)
        if stack.state and (s3_uri := next((uri for uri in addresses if uri.startswith("s3")), "")):
            reporter.say(f"{s3_uri} is in the local stack's own S3; for AWS name a deployed stack: --stack NAME")
        with resume_hint(stack, reporter, lambda: _start_command(words, request.run_id)):
            request = with_local_files(stack, request, reporter)
            existing_run = stack.deployment.known_run(request.run_id)
            run = new_run(stack.deployment, request, packed)
        script = stack.deployment.store.get(run.scripts[0].uri)
        for warning in routes.warnings(stack.deployment, run.options, script):
            reporter.warn(warning)
        if not by_machine and existing_run:
            reporter.say(f"run {run.run_id} exists already, {run.state}; this is the same run")
        return continue_run(stack, run, reporter, packed, by_machine=by_machine)


def continue_run(
    stack: OpenStack, run: Run, reporter: Reporter, packed: PackedInput | None = None, *, by_machine: bool
) -> Run:
    """Plan the rest of a run in the ledger; with ``by_machine`` start its state machine unless it runs already.

    If the run is cancelled meanwhile, a warning says so. If planning fails with a PlanError, a check of the run follows
    before the error is raised again.
    """

    def show(progress: PlanProgress) -> None:
        skipped = "".join(f", {count} {reason} left out" for reason, count in sorted(progress.skipped.items()))
        planned_text = f"{count_text(progress.shards, 'shard')} of {count_text(progress.objects, 'object')}"
        text = f"  {planned_text}, {size_text(progress.size_bytes)}{skipped}"
        reporter.say(f"{text}, all sent" if progress.sealed else text)
        if progress.sealed and progress.whole:
            reasons = ", ".join(f"{count} ({reason})" for reason, count in sorted(progress.whole.items()))
            reporter.warn(f"large objects that could not be sliced and are planned whole: {reasons}")

    def wait(schema_run: Run) -> bool:
        time.sleep(SCHEMA_POLL_S)
        return bool(check(stack.deployment, schema_run.run_id).run)

    with resume_hint(stack, reporter, lambda: ["sparklet", "resume", run.run_id, *stack.command_options]):
        if by_machine:
            drive(stack, run, reporter)
        else:
            infers_schema = run.params.get(SCHEMA) == INFER and not run.schema
            reporter.say(f"run {run.run_id}: planning{', a first task infers the schema' if infers_schema else ''}")
            try:
                run = plan(stack.deployment, run.run_id, show, packed, wait=wait)
                if infers_schema:
                    _report_schema(stack, run, reporter)
            except PlanError:
                # The check ends a run for which no schema could be inferred.
                check(stack.deployment, run.run_id, planner_silent_s=0.0)
                raise
            except CheckpointConflictError:
                run = stack.deployment.ledger.runs.get(run.run_id)
                if run.cancelled_s is None:
                    raise
                reporter.warn(f"run {run.run_id} was cancelled during planning")
        return run


def _report_schema(stack: OpenStack, run: Run, reporter: Reporter) -> None:
    reporter.say(f"  schema {run.schema}")
    for uri, reason in left_out(stack.deployment, run).items():
        reporter.warn(f"{uri} is left out of the schema's sample: {reason}")


def _start_command(words: Sequence[str], run_id: str) -> list[str]:
    """Return the command that starts the same run once more, for a run not in the ledger yet; [] without ``words``."""
    if any(word.partition("=")[0] in ("--run-id", "--idempotency-key") for word in words):
        return ["sparklet", *redacted(words)]
    return [] if not words else ["sparklet", *words[:1], "--run-id", run_id, *redacted(words[1:])]


@contextmanager
def resume_hint(stack: OpenStack, reporter: Reporter, command: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Report ``command``, which continues the run, if the block ends by Ctrl-C, the stack's end or a transient error.

    The exception is raised again.
    """
    try:
        try:
            yield
        except SparkletError:
            stack.check()  # raises LocalStackError if the local stack has ended, which then is the cause
            raise
    except (KeyboardInterrupt, SparkletError) as error:
        can_continue = isinstance(error, KeyboardInterrupt | LocalStackError) or error.retryable
        if can_continue and (words := command()):
            reporter.warn(f"interrupted, and nothing is lost; this continues the run:\n  {shlex.join(words)}")
            # Without --keep-stack the local stack stops with its last client, and its shards wait.
            stack_goes_on = stack.state is None or StateDir(stack.state).keep_file.exists()
            if isinstance(error, KeyboardInterrupt) and words[1] == "resume" and stack_goes_on:
                stack_options = ["--state-dir", str(stack.state)] if stack.state else ["--stack", stack.name]
                cancel = shlex.join(["sparklet", "cancel", words[2], *stack_options])
                reporter.warn(f"shards that were sent go on in the stack meanwhile; `{cancel}` ends the run")
        raise


# --- one script on one event, without a run ---


def invoke_script(
    stack: OpenStack,
    script: str,
    event: Any,
    arguments: tuple[str, ...],
    variables: Mapping[str, str],
    *,
    py_files: Sequence[str] = (),
    files: Sequence[str] = (),
    conf: Mapping[str, str] = {},
    batch_handling: str = "",
    invocation: str = "",
    on_busy: Callable[[], None] = lambda: None,
) -> Mapping[str, Any]:
    """Invoke the worker function with ``event`` for ``script``; return the worker's answer.

    Local files and environment variables are copied to ``scripts/`` of the bucket first; the invocation names the
    copies. PlanError if a file cannot be read or compiled, RemoteFailureError if the script failed.

    Parameters
    ----------
    invocation
        The name of the invocation in the workers' logs.
    on_busy
        Called once if all workers are busy.
    """
    body = b"" if "://" in script else script_body(script)
    uri = _store_in_bucket(stack, script, body) if body else script
    task: dict[str, Any] = {"script": uri, "args": list(arguments), "event": event, "invocation": invocation}
    task["batch_handling"] = batch_handling
    local_files = files_beside(py_files, files, conf)
    modules = modules_of(script, body, py_files) if body else []
    copies = {path: _store_in_bucket(stack, path, body) for path, body in (*local_files, *modules)}
    task["py_files"] = [*(file_uri for file_uri in (*py_files, *files) if "://" in file_uri), *copies.values()]
    if variables:
        task["env"] = _store_in_bucket(stack, "env.json", json.dumps(dict(variables)).encode())
    # A throttled call has run nothing, so it can be repeated safely; after any other failure the script might have run.
    for tries in itertools.count():
        try:
            answer: Mapping[str, Any] = stack.compute.invoke(stack.worker_function, {"sparklet": task})
            break
        except RemoteTaskError as error:
            if error.reason != "throttled":
                raise
        if not tries:
            on_busy()
        stack.check()
        stack.deployment.clock.sleep(BUSY_POLL_S)
    return answer


def _store_in_bucket(stack: OpenStack, name: str, body: bytes) -> str:
    """Store a file in the bucket under its digest; return the URI."""
    uri = f"s3://{stack.deployment.bucket}/scripts/{hashlib.sha256(body).hexdigest()}/{name.rpartition('/')[2]}"
    stack.deployment.store.put(uri, body)
    return uri

"""A run is requested and begun: its request read, local files copied, the run entered, planned and dispatched."""

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
from sparklet.app.state_machines import DispatchMode, chosen_dispatch, drive
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
    """The request that options of a command line make; SettingsError or PlanError with the option and the remedy.

    Mistakes that this machine can find are reported before ``stack`` is opened. ``list_format`` (by default by their
    names) is how lists are read; the request holds it with each list.
    """
    document: dict[str, Any] = dict(options)
    for name in ("params", "env", "files", "conf"):
        if isinstance(document.get(name), list):  # of a command line
            document[name] = parse_pairs(places()[name].option, document[name])
    if "env" in document:
        script_environment(document["env"], "--env")
    if named := document.get("schema"):
        document["schema"] = _ddl(named)
    if "since" in document:
        document["since"] = _absolute(document["since"])
    named = document.pop("inputs", [])
    document["inputs"] = [source for source in named if source != STANDARD_INPUT]
    form = document.pop("list_format", "")
    objects = [*document.pop("lists", []), *(source for source in named if source == STANDARD_INPUT)]
    if sources := [*objects, *document.pop("items", [])]:
        document["lists"] = [_read_list(source, form, items=n >= len(objects)) for n, source in enumerate(sources)]
    elif form:
        raise PlanError("--list-format needs a list: add --list FILE")
    if sources.count(STANDARD_INPUT) > 1:
        raise PlanError("standard input (-) can be read once only; name it once")
    request = read_request(document, command=True, dry_run=dry_run)
    local = [source for source in request.inputs if "://" not in source]
    if request.options.incremental and local:
        raise PlanError(
            f"--incremental needs inputs in S3: {local[0]} is copied to the bucket for each run; "
            "use --since for local files"
        )
    return request if dry_run else _checked(request, stack)


def _ddl(schema: str) -> str:
    """The DDL that is given itself, or in a file; PlanError if it is one word, and there is no such file."""
    # The system refuses a longer name by an error, which `is_file` passes on.
    may_be_a_file = "\n" not in schema and len(os.fsencode(schema)) <= MAX_NAME_BYTES
    if schema != INFER and may_be_a_file and Path(schema).is_file():
        return Path(schema).read_text(encoding="utf-8").strip()
    if schema != INFER and len(schema.split()) < 2:
        raise PlanError(f"--schema {schema} is neither DDL, such as 'id INT, name STRING', nor a file, nor {INFER}")
    return schema


def _checked(request: RunRequest, stack: StackSelection) -> RunRequest:
    """The request, with the catalog of a local output; PlanError or SettingsError for mistakes seen on this machine."""
    for source in filter(None, (request.script, request.check, request.next)):
        if "://" not in source:
            script_body(source)
    files_beside(request.py_files, request.spark_files, request.conf)
    replaces, read = request.options.existing == "overwrite", [*map(Path, request.files.values())]
    for input_path in request.inputs:
        if "://" not in input_path:
            refuse_own_input(Path(input_path), request.output_uri, stack.state)
            read += (path for path, _ in wanted_files(Path(input_path), request.options) if replaces)
    for name, path in request.files.items():
        if not Path(path).is_file():
            raise PlanError(f"--param-file {name}={path}: there is no such file (you are in {Path.cwd()})")
    if replaces:
        refuse_replaced_input(read, request)
    if request.output_uri and "://" not in request.output_uri:
        request = checked_output(request, stack.state)
        refuse_taken_names(request)
    return request


def parse_pairs(option: str, arguments: list[str] | None) -> dict[str, str]:
    """``key=value`` pairs; SettingsError if a pair has no ``=``, or a key comes twice."""
    pairs: dict[str, str] = {}
    for pair in arguments or ():
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise SettingsError(f"{option} {pair!r} must look like key=value")
        if key in pairs:
            raise SettingsError(f"{option} {key} is given twice")
        pairs[key] = value
    return pairs


def _absolute(since: str) -> str:
    """The time that is ``36h`` ago, in the form of a request; other text unchanged."""
    try:
        return (datetime.now(UTC) - timedelta(seconds=parse_duration_s(since))).isoformat()
    except SettingsError:
        return since


def _read_list(source: str | ListRequest, form: str, *, items: bool) -> ListRequest:
    """A list, with its content if it is local."""
    if isinstance(source, ListRequest):
        return source
    body, form = None, form or ("lines" if source == STANDARD_INPUT else "")
    if "://" not in source:
        try:
            body = sys.stdin.buffer.read() if source == STANDARD_INPUT else Path(source).read_bytes()
        except OSError as error:
            raise PlanError(f"the list {source} cannot be read: {error.strerror}") from error
    return ListRequest(source, body, form, items)


def begin(
    stack: OpenStack, request: RunRequest, dispatch_mode: DispatchMode, reporter: Reporter, words: Sequence[str] = ()
) -> Run:
    """Start a run whose shards fit the stack's workers: copy local files, enter it, plan and dispatch it.

    In a mode with a state machine that one plans and dispatches the run. ``words`` are the command's arguments; without
    them an interrupted start names no command that continues it.
    """
    request = request.fitted(stack.size.memory_mb, stack.size.scratch_bytes)
    # Fixed here, since copies of local files lie below the id before the ledger knows the run: the command that
    # continues an interrupted start must find them.
    request = replace(request, run_id=run_id_of(request, stack.deployment.clock.now_s()), idempotency_key="")
    with closing(PackedInput()) as packed:
        by_machine = dispatch_mode != "queue"
        if by_machine:
            request = replace(request, dispatch=chosen_dispatch(stack, request, dispatch_mode, packed))
        named = (
            *request.inputs,
            *(list_request.source for list_request in request.lists),
            request.output_uri,
            request.script,
        )
        if stack.state and (s3_uri := next((uri for uri in named if uri.startswith("s3")), "")):
            reporter.say(f"{s3_uri} is in the local stack's own S3; for AWS name a deployed stack: --stack NAME")
        with resumable(stack, reporter, lambda: _again(words, request.run_id)):
            request = with_local_files(stack, request, reporter)
            existing_run = stack.deployment.known_run(request.run_id)
            run = new_run(stack.deployment, request, packed)
        script = stack.deployment.store.get(run.scripts[0].uri)
        for warning in routes.warnings(stack.deployment, run.options, script):
            reporter.warn(warning)
        if not by_machine and existing_run:
            reporter.say(f"run {run.run_id} exists already, {run.state}; this is the same run")
        return go_on(stack, run, reporter, packed, by_machine=by_machine)


def go_on(
    stack: OpenStack, run: Run, reporter: Reporter, packed: PackedInput | None = None, *, by_machine: bool
) -> Run:
    """Plan the rest of an entered run, or start its state machine if it does not run."""

    def show(progress: PlanProgress) -> None:
        skipped = "".join(f", {count} {reason} left out" for reason, count in sorted(progress.skipped.items()))
        planned = f"{count_text(progress.shards, 'shard')} of {count_text(progress.objects, 'object')}"
        text = f"  {planned}, {size_text(progress.size_bytes)}{skipped}"
        reporter.say(f"{text}, all sent" if progress.sealed else text)
        if progress.sealed and progress.whole:
            reasons = ", ".join(f"{count} ({reason})" for reason, count in sorted(progress.whole.items()))
            reporter.warn(f"large objects that could not be sliced and are planned whole: {reasons}")

    def wait(schema_run: Run) -> bool:
        time.sleep(SCHEMA_POLL_S)
        return bool(check(stack.deployment, schema_run.run_id).run)

    with resumable(stack, reporter, lambda: ["sparklet", "resume", run.run_id, *stack.command_options]):
        if by_machine:
            drive(stack, run, reporter)
        else:
            infers = run.params.get(SCHEMA) == INFER and not run.schema
            reporter.say(f"run {run.run_id}: planning{', a first task infers the schema' if infers else ''}")
            try:
                run = plan(stack.deployment, run.run_id, show, packed, wait=wait)
                if infers:
                    _say_schema(stack, run, reporter)
            except PlanError:
                check(stack.deployment, run.run_id, planner_silent_s=0.0)  # a run without a schema ends
                raise
            except CheckpointConflictError:
                run = stack.deployment.ledger.runs.get(run.run_id)
                if run.cancelled_s is None:
                    raise
                reporter.warn(f"run {run.run_id} was cancelled during planning")
        return run


def _say_schema(stack: OpenStack, run: Run, reporter: Reporter) -> None:
    reporter.say(f"  schema {run.schema}")
    for uri, why in left_out(stack.deployment, run).items():
        reporter.warn(f"{uri} is left out of the schema's sample: {why}")


def _again(words: Sequence[str], run_id: str) -> list[str]:
    """The command that starts the same run again, while the ledger does not know the run."""
    if any(word.partition("=")[0] in ("--run-id", "--idempotency-key") for word in words):
        return ["sparklet", *redacted(words)]
    return [] if not words else ["sparklet", *words[:1], "--run-id", run_id, *redacted(words[1:])]


@contextmanager
def resumable(stack: OpenStack, reporter: Reporter, command: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Report ``command``, which continues the run, after an interruption, the end of the stack or a transient error."""
    try:
        try:
            yield
        except SparkletError:
            stack.check()  # if the local stack has ended, that is the cause
            raise
    except (KeyboardInterrupt, SparkletError) as error:
        if (isinstance(error, KeyboardInterrupt | LocalStackError) or error.retryable) and (words := command()):
            reporter.warn(f"interrupted, and nothing is lost; this continues the run:\n  {shlex.join(words)}")
            # Without --keep-stack the local stack ends with its last client, and its work rests.
            is_kept = stack.state is None or StateDir(stack.state).keep_file.exists()
            if isinstance(error, KeyboardInterrupt) and words[1] == "resume" and is_kept:
                where = ["--state-dir", str(stack.state)] if stack.state else ["--stack", stack.name]
                stop = ["sparklet", "cancel", words[2], *where]
                reporter.warn(f"what has been sent goes on in the stack meanwhile; `{shlex.join(stop)}` ends it")
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
    waiting: Callable[[], None] = lambda: None,
) -> Mapping[str, Any]:
    """Invoke the worker function with ``event`` for ``script``; return the worker's answer.

    Local files and environment variables are copied to ``scripts/`` of the bucket first; the invocation only names
    them. PlanError if one cannot be read or compiled, RemoteFailureError if the script failed.

    Parameters
    ----------
    invocation
        Its name in the workers' logs.
    waiting
        Called once if all workers are busy.
    """
    body = b"" if "://" in script else script_body(script)
    uri = _stored(stack, script, body) if body else script
    task: dict[str, Any] = {"script": uri, "args": list(arguments), "event": event, "invocation": invocation}
    task["batch_handling"] = batch_handling
    beside = files_beside(py_files, files, conf)
    modules = modules_of(script, body, py_files) if body else []
    copies = {path: _stored(stack, path, body) for path, body in (*beside, *modules)}
    task["py_files"] = [*(file_uri for file_uri in (*py_files, *files) if "://" in file_uri), *copies.values()]
    if variables:
        task["env"] = _stored(stack, "env.json", json.dumps(dict(variables)).encode())
    # A throttled call has run nothing, so it may be made again; any other failure may have had an effect.
    for tries in itertools.count():
        try:
            answer: Mapping[str, Any] = stack.compute.invoke(stack.worker_function, {"sparklet": task})
            break
        except RemoteTaskError as error:
            if error.reason != "throttled":
                raise
        if not tries:
            waiting()
        stack.check()
        stack.deployment.clock.sleep(BUSY_POLL_S)
    return answer


def _stored(stack: OpenStack, name: str, body: bytes) -> str:
    """Store a file in the bucket under its digest; return its URI."""
    uri = f"s3://{stack.deployment.bucket}/scripts/{hashlib.sha256(body).hexdigest()}/{name.rpartition('/')[2]}"
    stack.deployment.store.put(uri, body)
    return uri

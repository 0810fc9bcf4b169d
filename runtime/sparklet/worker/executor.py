"""Runs a script: fetches it and its inputs, makes its event and its folder, and reads the file with its result.

The event is our contract with every script; ``docs/schemas/event.json`` describes it. An event of a source (S3, SQS,
Kinesis, …) that is neither a shard nor a task request reaches the script as Lambda received it.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from secrets import token_hex
from typing import Any, NamedTuple

from sparklet.errors import (
    EventError,
    MixedInputsError,
    ObjectForbiddenError,
    ObjectNotFoundError,
    ObjectStoreError,
    PlanError,
    ScriptFailedError,
    ScriptFetchError,
    SettingsError,
    SparkRuntimeError,
)
from sparklet.events import Event, Source, Task
from sparklet.job.fields import SCHEMA
from sparklet.job.outcome import CLAIMED, DIRECT, EVENT, EVENT_FILE, OUTCOME_FILE
from sparklet.model import (
    CONF_FILE,
    INPUT,
    LIBRARIES,
    MIB,
    NOTHING,
    OUTPUT,
    PY_FILE_SUFFIXES,
    SCHEME,
    ExecutionResult,
    JobOutcome,
    Run,
    ScriptRef,
    Shard,
    ShardRecord,
    ShardState,
    check_script,
)
from sparklet.model.redaction import hidden, redacted
from sparklet.model.shards import OF_SPLIT
from sparklet.ports import ObjectStore
from sparklet.settings import WorkerSettings, script_environment, strings
from sparklet.spark.runner import Deadline, Runner, ScriptCall, ScriptResult, task_folder
from sparklet.spark.script import EVENT_FILE_OPTION, EVENT_OPTION, Script
from sparklet.spark.script_acts import ARGUMENTS, COMMITTED, ELSEWHERE, MISNAMED_INPUT, OPENED, SEEN
from sparklet.spark.script_output import GONE
from sparklet.spark.spark_options import EMPTY, INPUTS, ORIGINS, SCHEMAS, UNCOMMITTED, WRITER
from sparklet.worker.attempt import Attempt
from sparklet.worker.inputs import LOCAL, ShardInputs, SparkInput, View, description_of, with_origins
from sparklet.worker.left_behind import (
    Acts,
    changed_addresses,
    checkpoint_message,
    left_behind_message,
    left_behind_names,
    read_by_name_message,
    repetition_message,
    unregistered_tables_message,
)
from sparklet.worker.origins import read_origins
from sparklet.worker.without_view import WithoutView

WORK, OUTCOME = "work", "outcome.json"  # the script's folder in the task's folder, and the script's report in WORK
MAX_OUTCOME_BYTES = 64 * MIB  # escaping may make an answer of 6 MB six times as long
LOST = "LeaseExpired"
STOPPED = (LOST, "DeadlineExceededError", "GatewayLostError", "OutOfMemoryError")
"""Causes of failure that can stop a script at any line."""
MAX_ARGUMENT_BYTES = 100 * 1024  # Linux holds 128 KiB in one argument (MAX_ARG_STRLEN)

PERMANENT_CAUSES = frozenset(
    {
        *("AttributeError", "ImportError", "IndentationError", "ModuleNotFoundError", "NameError"),  # Python
        *("GlueArgumentError", "SyntaxError", "TabError"),
        *("AccessDeniedException", "AnalysisException", "ParseException", "UnknownStoreException"),  # Spark, S3A
        *("InvalidFileTypeException", "RemoteFileChangedException"),  # an input is misnamed, or was replaced
        "InvalidRequestException",  # our S3A has no such input, or refuses a slice to a reader with these options
        *("CommitStateUnknownError", "CommittedBeforeException", "DriftError", "ExpectationError", "TableError"),
        *("PySparkAttributeError", "PySparkNotImplementedError"),  # for what Spark Connect does not have
    }
)
"""Root causes that each attempt on the same input would meet again. All others are retried, such as S3's 503."""
FORGETTING = frozenset(
    {Source.SQS, Source.KINESIS, Source.DYNAMODB, Source.S3, Source.SNS, Source.MSK, Source.KAFKA, Source.EVENTBRIDGE}
)
"""Sources that delete an event, or go on to the next one, once a script has ended well."""
NO_EVENT = (
    "the script reads arguments and was given no event, since it names no --event, and it has not read the event in "
    "another way: the event would be lost. Give the script an option --event (JSON) or --event-file (a path), read "
    "SPARKLET_EVENT or sparklet.job, or write '# sparklet: event=yes' into it"
)
# Raised as well while another shard creates the same table, so that another attempt may succeed.
MADE_MEANWHILE = "[DELTA_CREATE_TABLE_WITH_NON_EMPTY_LOCATION]"


class Fetched(NamedTuple):
    """The local files of a script, and of what a run gives it."""

    path: Path
    script: Script
    py_files: tuple[Path, ...]
    files: tuple[Path, ...]
    conf: Path | None  # the run's Spark options


@dataclass(frozen=True, slots=True)
class Execution:
    """A script, its event and its options."""

    script: ScriptRef
    event: Event
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)  # added to the function's own
    is_shard: bool = False  # input_path and output_path are set by the worker, and also go into the environment
    inputs: ShardInputs = field(default_factory=ShardInputs)  # of a shard
    deletes: bool = False  # whether the event's source deletes the event once the script has ended well
    is_alone: Callable[[], bool] = lambda: True  # whether the run has no other shard
    is_planned: Callable[[str], bool] = lambda _: True  # whether an address below the run's input is input of a shard
    claim: Callable[[Mapping[str, bool]], None] | None = None  # for a shard: records addresses that its script wrote
    discard: Callable[[], None] = lambda: None  # deletes the output of a try, before the script is run again
    committers: tuple[str, ...] = ()  # for a shard: prefixes of the ids of its attempts' commits, see ``DeltaCommit``
    since_s: float = 0.0  # the earliest time at which an attempt may have committed
    is_again: bool = False  # whether an earlier attempt or try may have committed
    empty_outputs: bool = False  # whether an input without rows gets an output file as well
    verify: Callable[[Collection[str]], None] | None = None  # checks all inputs but the given ones, which Spark checked
    keep_events: Callable[[Path], None] | None = None  # stores Spark's event log, which is in the given folder


@dataclass
class Executor:
    """Runs scripts with one runner, one after the other."""

    settings: WorkerSettings
    runner: Runner
    scripts: "ScriptCache"
    inputs_to: ObjectStore | None = None  # for copies of inputs, if Spark's executors run on other machines

    def _view(self, execution: Execution, script: Script) -> View:
        """The object that makes the inputs for this runner's Spark."""
        is_given_folder = any(INPUT in argument for argument in execution.args)
        reads_folder = execution.is_shard and (is_given_folder or script.asks_for_folders)
        if self.runner.has_view:
            return View(execution.inputs, script, reads_folder)
        copies = f"{execution.event['output_path']}-inputs" if execution.is_shard else ""
        return WithoutView(execution.inputs, script, reads_folder, self.inputs_to, copies)

    def execute(self, execution: Execution, attempt: Attempt) -> ExecutionResult:
        """Run a script in a folder of its own and return its result.

        The script is run again if an earlier script may have spoilt the JVM, or if an input's first bytes are not what
        its name says. Raises the errors of fetching and of the runner; ScratchFullError before any work if less than
        ``min_free_bytes`` would stay free; ScriptFailedError if the script's exit code is not 0.
        """
        deadline, log, min_free_bytes = attempt.deadline, attempt.log, self.settings.min_free_bytes
        fetched = self.scripts.fetch(execution.script)
        view = self._view(execution, fetched.script)
        with (
            task_folder(self.settings.scratch, attempt.attempt_id, min_free_bytes) as attempt_folder,
            ExitStack() as exits,  # left before the folder is deleted: Spark's event log is in it
        ):
            (folder := attempt_folder / WORK).mkdir()  # empty but for the run's files
            for path in fetched.files:
                (folder / path.name).symlink_to(path)
            inputs = exits.enter_context(view.provide(attempt, attempt_folder, min_free_bytes))
            if execution.inputs.apart:
                (attempt_folder / ORIGINS).mkdir()
            if view.has_our_s3a:
                _inform_java(attempt_folder, execution, view, inputs)
            event_log_folder = None
            if execution.keep_events:
                (event_log_folder := attempt_folder / "events").mkdir()
                exits.callback(execution.keep_events, event_log_folder)  # also if the attempt fails
            call = _script_call(execution, fetched, inputs, attempt_folder, deadline)
            call = replace(call, sees_options=view.has_our_s3a and view.sees_options(inputs), events=event_log_folder)
            started_s = time.monotonic()
            log.info("script started", script=execution.script.source_uri)
            result = self.runner.run(call, log.output)
            log.info("script ended", exit_code=result.exit_code, duration_s=round(time.monotonic() - started_s, 3))
            acts = Acts.read(attempt_folder / SEEN, fetched.script) if view.has_our_s3a else Acts({}, fetched.script)
            # If Spark has found an input whose first bytes do not fit its name, an exit code of 0 proves nothing.
            planned = execution.inputs
            is_misnamed = bool(planned.items) and not planned.checks_first_bytes and MISNAMED_INPUT in acts.seen
            if result.exit_code == 0 and not is_misnamed:
                return self._report(execution, view, inputs, acts, attempt_folder)
            if not (result.suspect or is_misnamed):
                raise _script_failure(execution, result, inputs, acts, folder, is_local=self.inputs_to is None)
        cause = f"Spark failed in a JVM that other scripts had used: {result.cause_class}: {result.cause}"
        if is_misnamed:
            cause = "an input's first bytes are not what its name says"
            execution = replace(execution, inputs=replace(planned, checks_first_bytes=True))
        # A second try takes about as long as the first. If there is no time for it, this error blames no input.
        elif deadline.remaining_s() < time.monotonic() - started_s:
            raise SparkRuntimeError(f"{cause}; too little time was left to run the script again, in a new one")
        log.warning("the script is run again", cause=cause)
        execution.discard()
        return self.execute(replace(execution, is_again=True), attempt)  # since the first try may have committed

    def _report(
        self, execution: Execution, view: View, inputs: Sequence[SparkInput], acts: Acts, attempt_folder: Path
    ) -> ExecutionResult:
        """Check what a script that has ended well has read and written, and return its result.

        Raises PlanError if its work is lost or an input was not read as planned, MixedInputsError if it is unknown from
        which input an output was made, and the errors of ``verify``.
        """
        outcome = read_outcome(attempt_folder / WORK / OUTCOME)
        warning = failed_rules(outcome.quality) if outcome.quality else ""
        if view.has_our_s3a:
            _refuse_other_readers(execution, acts, inputs, reads_folder=view.reads_folder)
            warning = _warnings_of_work(attempt_folder, acts, outcome, execution, warning)
        objects = {each.key: each.origin for each in inputs if each.item.uri}
        if execution.verify:
            # Spark has read the inputs that it opened by their planned ETags, so they need no HEAD request.
            execution.verify({objects[key].object_uri for key in acts.places(OPENED) if key in objects})
        uris, origins = {key: item.uri for key, item in objects.items()}, dict[str, tuple[str, int]]()
        if execution.inputs.apart:
            try:
                origins = read_origins(attempt_folder / ORIGINS, uris, acts.script)
            except MixedInputsError as error:
                error.direct = _is_direct(acts, attempt_folder / WORK)
                raise
        uncommitted, schemas = (
            [*folder.iterdir()] if folder.exists() else []
            for folder in (attempt_folder / UNCOMMITTED, attempt_folder / SCHEMAS)
        )
        return ExecutionResult(
            outcome,
            warning,
            uncommitted=tuple(path.name for path in uncommitted),
            schema_reports={path.name: path.read_text(encoding="utf-8") for path in schemas},
            objects=uris,
            origins=origins,
        )

    def execute_task(self, attempt: Attempt) -> ExecutionResult:
        """Run the script of a task that belongs to no run."""
        task = attempt.task
        script, args = self._choose_script(task)
        event = request_event(task.event, task.request.task_id) if task.request else task.event
        env = {**event_variables(event, self.settings.event_variables), **self._environment(task.chosen or {})}
        result = self.execute(Execution(script, event, args, env, deletes=task.source in FORGETTING), attempt)
        if result.warning:
            attempt.log.warning(result.warning)
        if result.outcome.writes:
            raise EventError(
                f"{script.source_uri} staged a write to a table, and only a run commits staged writes: pass "
                "commit='direct', or hand the worker an event without a run"
            )
        return result

    def _choose_script(self, task: Task) -> tuple[ScriptRef, tuple[str, ...]]:
        """The script and its arguments: those that a direct event or a task request names, else the function's own."""
        choice: Any = task.chosen
        # Only the caller of a direct event or a task request can choose a script: records of other sources are data.
        if choice is None and isinstance(task.event, dict) and (task.source is Source.DIRECT or task.request):
            choice = task.event.get("sparklet")
        if isinstance(choice, dict) and "script" in choice:
            uri, *lists = choice["script"], choice.get("args", []), choice.get("py_files", [])
            are_texts = all(isinstance(entries, list) and all(isinstance(a, str) for a in entries) for entries in lists)
            if not isinstance(uri, str) or not are_texts:
                raise EventError("the event's sparklet.script must be a URI, args and py_files lists of strings")
            args, py_files = lists
            return unpinned_script(uri, tuple(py_files)), tuple(args)
        if not self.settings.default_script:
            raise SettingsError("no script to run: set SCRIPT_LOCATION (or SCRIPT_BUCKET and SPARK_SCRIPT)")
        return unpinned_script(self.settings.default_script), ()

    def _environment(self, choice: Mapping[str, Any]) -> Mapping[str, str]:
        """The variables for this invocation, from the operator's file if the event names one."""
        if "env" not in choice:
            return {}
        uri = str(choice["env"])
        # Fetched like a script, so that only files under the operator's prefixes can set variables.
        text = self.scripts.fetch(unpinned_script(uri)).path.read_text(encoding="utf-8", errors="replace")
        return script_environment(strings({uri: text}, uri), uri)


def _script_failure(
    execution: Execution,
    result: ScriptResult,
    inputs: Sequence[SparkInput],
    acts: Acts,
    folder: Path,
    *,
    is_local: bool,
) -> ScriptFailedError:
    """The error for a script that has failed, with what the script reported before."""
    has_read_planned_bytes = is_local and inputs and all(each.item.etag for each in inputs)  # since Spark reads by ETag
    # Local paths become addresses, since the user does not know the local copies.
    cause, stderr_tail, *files = (
        with_origins(text, inputs) for text in (result.cause, result.stderr_tail, *result.files)
    )
    names = {name for each in inputs for name in (each.item.uri, description_of(each.origin))}
    is_input_gone = re.search(GONE, cause) and not names.isdisjoint(files)
    event, secrets = execution.event, set[str]()
    # Parameters, arguments and variables may be credentials, and the cause goes into the ledger and a run's documents.
    redacted([event["params"] if execution.is_shard else event, execution.args, execution.env], secrets)
    cause, stderr_tail = hidden(cause, secrets), hidden(stderr_tail, secrets)
    failure = ScriptFailedError(
        execution.script.source_uri,
        result.exit_code,
        cause_class=result.cause_class,
        cause=cause,
        place=result.place,
        stderr_tail=stderr_tail,
        permanent=(result.cause_class.rsplit(".", 1)[-1] in PERMANENT_CAUSES and MADE_MEANWHILE not in cause)
        # Each attempt reads the same bytes, those of the planned ETags: a malformed row stays malformed, and a
        # missing object missing.
        or bool((result.comes_again or is_input_gone) and has_read_planned_bytes),
        files=tuple(files),
    )
    failure.direct = _is_direct(acts, folder)
    # The report of a killed script may be cut off; the script's own failure matters more than that.
    with suppress(EventError):
        failure.committed = read_outcome(folder / OUTCOME).committed
    return failure


def _script_call(
    execution: Execution, fetched: Fetched, inputs: Sequence[SparkInput], attempt_folder: Path, deadline: Deadline
) -> ScriptCall:
    """Write the script's event into the attempt's folder; return the script with its arguments, variables and files."""
    event = with_read_paths(execution.event, inputs) if execution.is_shard else execution.event
    event_env = write_event(event, attempt_folder, is_shard=execution.is_shard)
    claimed = {CLAIMED: "1"} if execution.is_shard else {}
    folder = attempt_folder / WORK
    return ScriptCall(
        script=fetched.path,
        source=fetched.script,
        args=script_arguments(
            execution.args, event if execution.is_shard else {}, fetched.script.event_option, event_env
        ),
        work_dir=folder,
        deadline=deadline,
        env={**event_env, **execution.env, OUTCOME_FILE: str(folder / OUTCOME), **claimed},
        py_files=fetched.py_files,
        files=fetched.files,
        conf=json.loads(fetched.conf.read_bytes()) if fetched.conf else {},
        inputs=tuple(each.item for each in inputs),
        output=execution.event["output_path"] if execution.is_shard else "",
        files_apart=execution.inputs.apart,
    )


def _refuse_other_readers(
    execution: Execution, acts: Acts, inputs: Sequence[SparkInput], *, reads_folder: bool
) -> None:
    """PlanError if a script that has ended well did not use Spark for inputs that only Spark reads as planned."""
    paths_for_spark = [each.path for each in inputs if (each.copy or each.item.slice) and each.path.startswith(SCHEME)]
    if paths_for_spark and not acts.has("part"):
        raise PlanError(
            f"the script did not read {paths_for_spark[0]} by Spark, and other readers see all of the object, not its "
            "planned part or version: read it by Spark, or plan without --split"
        )
    if reads_folder and not acts.has("input", "part") and not any(each.path.startswith(LOCAL) for each in inputs):
        raise PlanError(
            read_by_name_message(acts, execution.is_planned)
            or "the script is given the folder of its inputs and did not read it by Spark; other readers see all "
            "of the run's input: read it by Spark, or read job.inputs"
        )


def _warnings_of_work(
    attempt_folder: Path,
    acts: Acts,
    outcome: JobOutcome,
    execution: Execution,
    warning: str,
) -> str:
    """Return the warnings about the script's work, joined to one text and led by ``warning``; "" if there are none.

    Also claims the addresses that a shard's script has written outside its output, see ``Execution.claim``. Raises
    PlanError if it is certain that the script's work is lost, or that other shards do the same work.
    """
    names, warnings = left_behind_names(attempt_folder / WORK), [warning] if warning else []
    if names:
        left_behind, is_lost = left_behind_message(names, acts, attempt_folder / WORK)
        # An error only if nothing else was done; else the script may have done its work in another place.
        if is_lost and outcome.is_empty and not acts.has("output", "written"):
            raise PlanError(left_behind)
        warnings.append(left_behind)
    checkpoint = checkpoint_message(acts) if execution.is_shard else ""
    warnings += filter(None, [unregistered_tables_message(acts), checkpoint])
    has_input, has_output = (any(name in argument for argument in execution.args) for name in (INPUT, OUTPUT))
    has_input |= acts.script.event_option != ""
    knows_event = acts.has_read_event_or_output(in_arguments=has_input or has_output)
    if execution.deletes and acts.has(ARGUMENTS) and outcome.is_empty and not knows_event:
        raise PlanError(NO_EVENT)
    repetition, is_certain = "", False
    if outcome.is_empty:
        has_read_event = acts.has_read_event(in_arguments=has_input)
        repetition, is_certain = repetition_message(acts, has_read_event=has_read_event)
    changes = {} if outcome.writes else changed_addresses(acts)  # the commit takes care of a table's staged files
    read_by_name = read_by_name_message(acts, execution.is_planned)
    if execution.claim and (repetition or changes or read_by_name) and not execution.is_alone():
        if is_certain:
            raise PlanError(repetition)
        warnings += filter(None, [repetition, read_by_name])
        execution.claim(changes)
    has_done_work = (attempt_folder / WORK / OUTCOME).exists() or acts.has("output", "written", "deleted")
    event = execution.event["params"] if execution.is_shard else execution.event
    event_text = json.dumps([event, execution.args, dict(execution.env)])
    if not (has_done_work or warnings or acts.has(ELSEWHERE) or acts.script.may_write_unobserved(event_text)):
        warnings.append(NOTHING)
    return "; ".join(warnings)


def _inform_java(attempt_folder: Path, execution: Execution, view: View, inputs: Sequence[SparkInput]) -> None:
    """Write the files that our Java reads: the planned inputs, the ids of this shard's commits, the empty inputs."""
    (attempt_folder / SEEN).touch()
    (attempt_folder / INPUTS).write_text(view.lines(inputs), encoding="ascii")
    if execution.committers:
        # The id has a token, since one attempt may run its script twice, and the second run must recognize the commits
        # of the first as earlier ones.
        own_prefix = f"{execution.committers[0]}{execution.event['sparklet']['attempt']}/{token_hex(4)}/"
        earlier_prefixes = execution.committers if execution.is_again else ()
        (attempt_folder / WRITER).write_text(
            "\n".join([own_prefix, f"{execution.since_s * 1000:.0f}", *earlier_prefixes])
        )
    if execution.empty_outputs:  # our Java writes their outputs, since no Spark task reads an input of 0 bytes
        empty_keys = "\0".join(each.key for each in inputs if not each.item.size_bytes)
        (attempt_folder / EMPTY).write_text(empty_keys, encoding="utf-8")


def _is_direct(acts: Acts, folder: Path) -> bool:
    """Whether a script has begun a write that it commits at once, or has committed by itself."""
    # The bytes are searched, since the file of a killed script may be cut off, and is then no valid document.
    return acts.has(COMMITTED) or ((folder / OUTCOME).exists() and DIRECT in (folder / OUTCOME).read_bytes())


def shard_event(run: Run, record: ShardRecord, shard: Shard, output_uri: str) -> dict[str, Any]:
    """The event of a shard; ``output_uri`` is the attempt's own folder."""
    uris = shard.inputs
    items = [] if uris else shard.items  # a shard has either inputs or items
    table = run.lists[0].table if run.lists else {}
    folders = [uri for uri in run.inputs if uri.endswith("/")]
    return {
        "sparklet": {
            "run": run.run_id,
            "identity": run.identity,
            "shard": record.number,
            "attempt": record.attempt_id,
            "generation": record.generation,
            **({"split_off": True} if record.part.startswith(OF_SPLIT) else {}),
            **({"redone": True} if record.redone else {}),
            **({"allow_drift": True} if run.options.allow_drift else {}),
            **(_previous_attempt(record) if record.attempts > 1 or record.error_class else {}),
        },
        "inputs": uris,
        "input_path": uris[0] if len(uris) == 1 else None,
        **({"input_folders": folders} if folders else {}),
        "output_path": output_uri,
        "params": {**run.params, **({SCHEMA: run.schema} if run.schema else {})},
        **({"table": run.table} if run.table else {}),
        **({"items": items} if items else {}),
        **({"catalog_table": {**table, "values": [item.partition for item in shard.objects]}} if table else {}),
    }


def _previous_attempt(record: ShardRecord) -> dict[str, Any]:
    """The event's field on the previous attempt. If that was stopped, the state of its commits is unknown."""
    error_class, message = record.error_class, record.error_message
    if record.taken_from == ShardState.RUNNING:  # it recorded no error; the ledger has that of an earlier attempt
        error_class, message = LOST, "its worker was lost"
    state = "unknown" if error_class in STOPPED else None
    number = record.attempts - 1  # 0 if the previous attempt was in an earlier generation
    previous = {"number": number, "error_class": error_class, "message": message, "commit_state": state}
    return {"previous_attempt": previous}


def with_read_paths(event: Mapping[str, Any], inputs: Iterable[SparkInput]) -> Mapping[str, Any]:
    """A shard's event with the paths by which Spark reads its inputs and, if they differ, the inputs' addresses."""
    objects = [each for each in inputs if each.item.uri]
    paths = [each.path for each in objects]
    if paths == event["inputs"] and all(each.origin is each.item for each in objects):
        return event
    origins = [each.origin.object_uri for each in objects]
    return {**event, "inputs": paths, "input_path": paths[0] if len(paths) == 1 else None, "origins": origins}


def request_event(body: Mapping[str, Any], task_id: str) -> dict[str, Any]:
    """The event of a task request: the client's own, with the request's id."""
    return {**body, "sparklet": {**body.get("sparklet", {}), "task": task_id}}


def event_variables(event: Any, names: Iterable[str]) -> dict[str, str]:
    """The environment variables that an event sets: those of its fields that have these names.

    Raises EventError if such a field is neither a text nor a number, or is too long.
    """
    fields = {name: event[name] for name in names if isinstance(event, Mapping) and event.get(name) is not None}
    for name, value in fields.items():
        if not isinstance(value, str | int | float) or "\0" in str(value) or len(str(value)) > MAX_ARGUMENT_BYTES:
            raise EventError(f"the event's {name} cannot become a variable: it must be a text or a number")
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}


def write_event(event: Any, folder: Path, *, is_shard: bool) -> dict[str, str]:
    """Write the event to a file in ``folder``; return the environment variables in which the script finds it.

    SPARKLET_EVENT has the value of ``--event`` (JSON, or ``@<path>`` if it is long), SPARKLET_EVENT_FILE the path. A
    shard also has its ``input_path`` and ``output_path`` in variables of these names, in small letters and in capitals;
    "" if there is no single path.
    """
    paths = {name: event[name] or "" for name in ("input_path", "output_path")} if is_shard else {}
    try:
        text = json.dumps(event, separators=(",", ":"))
    except RecursionError as error:
        raise EventError("the event is nested too deeply to be handed to a script") from error
    path = folder / "event.json"
    path.write_text(text, encoding="ascii")
    argument = text if len(text) <= MAX_ARGUMENT_BYTES else f"@{path}"  # json.dumps writes ASCII: characters are bytes
    return {
        **paths,
        **{name.upper(): address for name, address in paths.items()},
        EVENT: argument,
        EVENT_FILE: str(path),
    }


def script_arguments(
    args: Sequence[str], event: Mapping[str, Any], option: str, event_env: Mapping[str, str]
) -> tuple[str, ...]:
    """A script's arguments; with a shard's ``event``, its addresses are put in place of ``{input}`` and ``{output}``.

    If the script has an ``option`` for its event, this comes last, with the value in ``event_env``; see
    ``write_event``.
    """
    if event:
        # If there are several inputs but no folder, no address stands for all, so ``{input}`` is not replaced.
        [address, *_] = event.get("input_folders") or [event["input_path"] or INPUT]
        args = [argument.replace(INPUT, address).replace(OUTPUT, event["output_path"]) for argument in args]
    if not option:
        return tuple(args)
    variable = {EVENT_OPTION: EVENT, EVENT_FILE_OPTION: EVENT_FILE}[option]
    return (*args, option, event_env[variable])


def read_outcome(path: Path) -> JobOutcome:
    """The report that the script wrote by ``sparklet.job``, empty without a file; EventError if it is malformed."""
    size_bytes = path.stat().st_size if path.exists() else 0
    if not size_bytes:
        return JobOutcome()
    if size_bytes > MAX_OUTCOME_BYTES:
        raise EventError(f"the script's outcome file has {size_bytes} bytes; write large results to S3")
    try:
        document: Any = json.loads(path.read_bytes())
        rows, size, state = document.get("rows"), document.get("output_bytes"), document.get("state")
        return JobOutcome(
            rows=None if rows is None else int(rows),
            output_bytes=None if size is None else int(size),
            outputs=tuple(str(uri) for uri in document.get("outputs") or ()),
            answer=(document["answer"],) if "answer" in document else (),
            state=None if state is None else dict(state),
            failed=dict(document.get("failed") or {}),
            committed=tuple(map(str, document.get("committed") or ())),
            writes=tuple(dict(write) for write in document.get("writes") or ()),
            quality=tuple(document.get("quality") or ()),
        )
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise EventError(f"the script's outcome file is not what sparklet.job writes: {error}") from error


def failed_rules(checks: Sequence[Any]) -> str:
    """The warning that names the failed rules; "" if none has failed.

    It has no numbers, so that the warnings of all shards are equal.
    """
    failed = [rule["Rule"] for check in checks for rule in check["rules"] if rule["Outcome"] != "Passed"]
    return f"rules of data quality failed: {', '.join(dict.fromkeys(failed))}" if failed else ""


def unpinned_script(uri: str, py_files: tuple[str, ...] = ()) -> ScriptRef:
    """A reference to a script without a digest: its current content is run."""
    return ScriptRef(uri, sha256="", source_uri=uri, py_files=py_files)


@dataclass
class ScriptCache:
    """Keeps scripts in a local folder between tasks; a file is used again only if its digest has not changed."""

    _store: ObjectStore
    _folder: Path
    _allowed: tuple[str, ...]  # prefixes (``s3://bucket/folder/``) of scripts
    _digests: dict[Path, str] = field(default_factory=dict)
    _scripts: dict[tuple[tuple[Path, str], ...], Script] = field(default_factory=dict)  # by their files and digests

    def fetch(self, script: ScriptRef) -> Fetched:
        """Fetch a script and its other files. Raises ScriptNotAllowedError or ScriptFetchError.

        A run's files are verified by the digests in the run and in the URIs. For a script without a digest, the
        current content is fetched.
        """
        uris = (script.uri, *script.py_files)
        for uri in uris[:1] if script.sha256 else uris:
            check_script(uri, self._allowed)
        digests = (script.sha256 and uri.split("/")[-2] for uri in script.py_files)  # …/<sha256>/<name>, by planning
        path, *other_files = map(self._fetch_file, uris, (script.sha256, *digests))
        py_files = tuple(file for file in other_files if file.suffix in PY_FILE_SUFFIXES)
        files = tuple(file for file in other_files if file not in py_files and file.name != CONF_FILE)
        conf = next((file for file in other_files if file.name == CONF_FILE), None)
        own_files = tuple(file for file in py_files if file.name != LIBRARIES)
        key = tuple((file, self._digests[file]) for file in (path, *own_files))
        if key not in self._scripts:
            self._scripts[key] = Script(path.read_bytes(), own_files)
        return Fetched(path, self._scripts[key], py_files, files, conf)

    def _fetch_file(self, uri: str, sha256: str) -> Path:
        """Fetch the file with this digest; if ``sha256`` is empty, the current one."""
        try:
            # A HEAD request for each task, so that a stale script is never run.
            etag = "" if sha256 else self._store.head(uri).etag
            name = sha256 or hashlib.sha256(f"{uri}\n{etag}".encode()).hexdigest()
            path = self._folder / name / uri.rsplit("/", 1)[-1]
            known_sha256 = self._digests.get(path)
            # The copy is hashed again, since scripts have the worker's rights and may have changed it.
            if known_sha256 and path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == known_sha256:
                return path
            path.parent.mkdir(parents=True, exist_ok=True)
            self._store.download(uri, path, etag=etag)
        except ObjectStoreError as error:
            permanent = isinstance(error, ObjectNotFoundError | ObjectForbiddenError)
            raise ScriptFetchError(
                f"the script {uri} could not be fetched: {error}", retryable=not permanent
            ) from error
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if sha256 and digest != sha256:
            path.unlink()
            changed = f"a script changed after planning: {uri} has the digest {digest[:12]}…, not {sha256[:12]}…"
            raise ScriptFetchError(changed, retryable=False)
        self._digests[path] = digest
        return path

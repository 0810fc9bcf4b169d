"""Runs a script: fetches it and its inputs, makes its event and its folder, and reads the file with its result.

The event is our contract with every script; ``docs/schemas/event.json`` describes it. That of a source (S3, SQS,
Kinesis, …) without a shard or a task request reaches the script as Lambda received it.
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
from sparklet.worker.inputs import LOCAL, ShardInputs, SparkInput, View, described, with_origins
from sparklet.worker.left_behind import (
    Acts,
    changed_addresses,
    left_behind,
    outliving_checkpoint,
    read_by_name,
    repeats,
    told,
    unregistered,
)
from sparklet.worker.origins import told_origins
from sparklet.worker.without_view import WithoutView

WORK, OUTCOME = "work", "outcome.json"  # the script's folder in the task's, and its report in that
MAX_OUTCOME_BYTES = 64 * MIB  # escaping may make an answer of 6 MB six times as long
LOST = "LeaseExpired"
STOPPED = (LOST, "DeadlineExceededError", "GatewayLostError", "OutOfMemoryError")
"""Causes of attempts whose scripts may have been stopped at any line."""
MAX_ARGUMENT_BYTES = 100 * 1024  # Linux holds 128 KiB in one argument (MAX_ARG_STRLEN)

PERMANENT_CAUSES = frozenset(
    {
        *("AttributeError", "ImportError", "IndentationError", "ModuleNotFoundError", "NameError"),  # Python
        *("GlueArgumentError", "SyntaxError", "TabError"),
        *("AccessDeniedException", "AnalysisException", "ParseException", "UnknownStoreException"),  # Spark, S3A
        *("InvalidFileTypeException", "RemoteFileChangedException"),  # an input is misnamed, or was replaced
        "InvalidRequestException",  # our S3A shows a reader with these options no slice, or has no such input
        *("CommitStateUnknownError", "CommittedBeforeException", "DriftError", "ExpectationError", "TableError"),
        *("PySparkAttributeError", "PySparkNotImplementedError"),  # what Spark Connect does not have
    }
)
"""Root causes that every attempt on the same input has. All others are retried, such as a 503 of S3 in a script."""
FORGETTING = frozenset(
    {Source.SQS, Source.KINESIS, Source.DYNAMODB, Source.S3, Source.SNS, Source.MSK, Source.KAFKA, Source.EVENTBRIDGE}
)
"""Sources that delete an event, or go on behind it, once a script has ended well."""
NO_EVENT = (
    "the script reads arguments and was given no event, since it names no --event, and it has not asked for it "
    "otherwise: it would be lost. Give the script an option --event (JSON) or --event-file (a path), read "
    "SPARKLET_EVENT or sparklet.job, or write '# sparklet: event=yes' into it"
)
MADE_MEANWHILE = "[DELTA_CREATE_TABLE_WITH_NON_EMPTY_LOCATION]"  # maybe another shard makes the same table right now


class Fetched(NamedTuple):
    """A script, and what a run has beside it."""

    path: Path
    script: Script
    py_files: tuple[Path, ...]
    files: tuple[Path, ...]
    conf: Path | None  # the run's options of Spark


@dataclass(frozen=True, slots=True)
class Execution:
    """A script, its event and its options."""

    script: ScriptRef
    event: Event
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)  # added to the function's own
    is_shard: bool = False  # the event's input_path and output_path are the worker's own, and go into the environment
    inputs: ShardInputs = field(default_factory=ShardInputs)  # a shard's
    deletes: bool = False  # whether its source forgets the event once the script has ended well
    is_alone: Callable[[], bool] = lambda: True  # whether the run has no other shard
    is_planned: Callable[[str], bool] = lambda _: True  # whether an address below its input is input of a shard
    claim: Callable[[Mapping[str, bool]], None] | None = None  # a shard's: its script's own addresses
    discard: Callable[[], None] = lambda: None  # deletes what a try has left, before another one
    committers: tuple[str, ...] = ()  # a shard's: what begins the ids of its attempts' commits, see ``DeltaCommit``
    since_s: float = 0.0  # when the first of them may have been made
    is_again: bool = False  # whether one may have been made
    empty_outputs: bool = False  # whether an input without rows has a file, too
    verify: Callable[[Collection[str]], None] | None = None  # inputs but those that Spark has read as they are planned
    keep_events: Callable[[Path], None] | None = None  # stores what is in the folder of Spark's event log


@dataclass
class Executor:
    """Runs scripts with one runner, one after the other."""

    settings: WorkerSettings
    runner: Runner
    scripts: "ScriptCache"
    inputs_to: ObjectStore | None = None  # for executors that see none of this machine's files, nor have a view

    def _view(self, execution: Execution, script: Script) -> View:
        """What makes the inputs for the Spark here."""
        is_given_folder = any(INPUT in argument for argument in execution.args)
        reads_folder = execution.is_shard and (is_given_folder or script.asks_for_folders)
        what = execution.inputs, script, reads_folder
        if self.runner.has_view:
            return View(*what)
        return WithoutView(
            *what, self.inputs_to, f"{execution.event['output_path']}-inputs" if execution.is_shard else ""
        )

    def execute(self, execution: Execution, attempt: Attempt) -> ExecutionResult:
        """Run a script to its end in its own folder and read its result; once more if its JVM or an input is suspect.

        Raises the errors of fetching and of the runner; ScratchFullError before any work, if less than
        ``min_free_bytes`` would stay free; ScriptFailedError if the script exits with another code than 0.
        """
        deadline, log, min_free_bytes = attempt.deadline, attempt.log, self.settings.min_free_bytes
        fetched = self.scripts.fetch(execution.script)
        view = self._view(execution, fetched.script)
        with (
            task_folder(self.settings.scratch, attempt.attempt_id, min_free_bytes) as attempt_folder,
            ExitStack() as ending,  # before the folder, out of which it stores Spark's event log
        ):
            (folder := attempt_folder / WORK).mkdir()  # the script finds nothing there
            for path in fetched.files:
                (folder / path.name).symlink_to(path)
            inputs = ending.enter_context(view.shown(attempt, attempt_folder, min_free_bytes))
            if execution.inputs.apart:
                (attempt_folder / ORIGINS).mkdir()
            if view.tells:
                _tell_java(attempt_folder, execution, view, inputs)
            events = None
            if execution.keep_events:
                (events := attempt_folder / "events").mkdir()
                ending.callback(execution.keep_events, events)  # that of a failed attempt, too
            call = _script_call(execution, fetched, inputs, attempt_folder, deadline)
            call = replace(call, sees_options=view.tells and view.sees_options(inputs), events=events)
            started_s = time.monotonic()
            log.info("script started", script=execution.script.source_uri)
            result = self.runner.run(call, log.output)
            log.info("script ended", exit_code=result.exit_code, duration_s=round(time.monotonic() - started_s, 3))
            acts = Acts.read(attempt_folder / SEEN, fetched.script) if view.tells else Acts({}, fetched.script)
            # Spark has met first bytes that a name does not promise. An exit code of 0 then proves nothing.
            looks = bool(execution.inputs.items) and not execution.inputs.looks and MISNAMED_INPUT in acts.seen
            if result.exit_code == 0 and not looks:
                return self._report(execution, view, inputs, acts, attempt_folder)
            if not (result.suspect or looks):
                raise _failed(execution, result, inputs, acts, folder, is_local=self.inputs_to is None)
        cause = f"Spark failed in a JVM that other scripts had used: {result.cause_class}: {result.cause}"
        if looks:
            cause = "an input's first bytes are not what its name says"
            execution = replace(execution, inputs=replace(execution.inputs, looks=True))
        # A second try takes about as long as the first. Without time for it this error says so, and blames no input.
        elif deadline.remaining_s() < time.monotonic() - started_s:
            raise SparkRuntimeError(f"{cause}; too little time was left to run the script again, in a new one")
        log.warning("the script is run again", cause=cause)
        execution.discard()
        return self.execute(replace(execution, is_again=True), attempt)  # the first may have committed to a table

    def _report(
        self, execution: Execution, view: View, inputs: Sequence[SparkInput], acts: Acts, attempt_folder: Path
    ) -> ExecutionResult:
        """What a script that has ended well has done; PlanError if its work is lost."""
        outcome = read_outcome(attempt_folder / WORK / OUTCOME)
        warning = failed_rules(outcome.quality) if outcome.quality else ""
        if view.tells:
            _refuse_unseen(execution, acts, inputs, reads_folder=view.reads_folder)
            warning = _judge(attempt_folder, acts, outcome, execution, warning)
        objects = {each.key: each.origin for each in inputs if each.item.uri}
        if execution.verify:
            # What Spark has opened was read by the planned ETag, and needs no HEAD.
            execution.verify({objects[key].object_uri for key in acts.places(OPENED) if key in objects})
        uris, tasks = {key: item.uri for key, item in objects.items()}, dict[str, tuple[str, int]]()
        if execution.inputs.apart:
            try:
                tasks = told_origins(attempt_folder / ORIGINS, uris, acts.script)
            except MixedInputsError as error:
                error.direct = _is_direct(acts, attempt_folder / WORK)
                raise
        begun, schemas = (
            [*folder.iterdir()] if folder.exists() else []
            for folder in (attempt_folder / UNCOMMITTED, attempt_folder / SCHEMAS)
        )
        return ExecutionResult(
            outcome,
            warning,
            uncommitted=tuple(path.name for path in begun),
            schema_reports={path.name: path.read_text(encoding="utf-8") for path in schemas},
            objects=uris,
            origins=tasks,
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
                f"{script.source_uri} staged a write to a table, and only a run commits such: pass commit='direct', or "
                "hand the worker an event without a run"
            )
        return result

    def _choose_script(self, task: Task) -> tuple[ScriptRef, tuple[str, ...]]:
        """The function's own script, or the one that a direct event or a task request names under an allowed prefix."""
        choice: Any = task.chosen
        # The caller has written a direct event or a task's body. Records of other sources are data, and choose no
        # script.
        if choice is None and isinstance(task.event, dict) and (task.source is Source.DIRECT or task.request):
            choice = task.event.get("sparklet")
        if isinstance(choice, dict) and "script" in choice:
            uri, *lists = choice["script"], choice.get("args", []), choice.get("py_files", [])
            are_texts = all(isinstance(entries, list) and all(isinstance(a, str) for a in entries) for entries in lists)
            if not isinstance(uri, str) or not are_texts:
                raise EventError("the event's sparklet.script must be a URI, args and py_files lists of strings")
            return unpinned(uri, tuple(lists[1])), tuple(lists[0])
        if not self.settings.default_script:
            raise SettingsError("no script to run: set SCRIPT_LOCATION (or SCRIPT_BUCKET and SPARK_SCRIPT)")
        return unpinned(self.settings.default_script), ()

    def _environment(self, choice: Mapping[str, Any]) -> Mapping[str, str]:
        """The variables for this invocation, in the operator's file that the event names."""
        if "env" not in choice:
            return {}
        uri = str(choice["env"])
        # As a script is fetched, so that only files under the operator's prefixes set variables.
        text = self.scripts.fetch(unpinned(uri)).path.read_text(encoding="utf-8", errors="replace")
        return script_environment(strings({uri: text}, uri), uri)


def _failed(
    execution: Execution,
    result: ScriptResult,
    inputs: Sequence[SparkInput],
    acts: Acts,
    folder: Path,
    *,
    is_local: bool,
) -> ScriptFailedError:
    """Why a script has failed, in its users' words, and what it had told in its folder before."""
    as_planned = is_local and inputs and all(each.item.etag for each in inputs)  # are read by their ETag
    # The user does not know the fetched files.
    cause, stderr_tail, *files = (
        with_origins(text, inputs) for text in (result.cause, result.stderr_tail, *result.files)
    )
    names = {name for each in inputs for name in (each.item.uri, described(each.origin))}
    gone = re.search(GONE, cause) and not names.isdisjoint(files)  # since the plan
    event, secrets = execution.event, set[str]()
    # Parameters, arguments and variables may be credentials, and a cause goes into the ledger and a run's documents.
    redacted([event["params"] if execution.is_shard else event, execution.args, execution.env], secrets)
    cause, stderr_tail = hidden(cause, secrets), hidden(stderr_tail, secrets)
    failed = ScriptFailedError(
        execution.script.source_uri,
        result.exit_code,
        cause_class=result.cause_class,
        cause=cause,
        place=result.place,
        stderr_tail=stderr_tail,
        permanent=(result.cause_class.rsplit(".", 1)[-1] in PERMANENT_CAUSES and MADE_MEANWHILE not in cause)
        # Attempts that read by the planned ETags read the same bytes: malformed rows and missing objects stay so.
        or bool((result.comes_again or gone) and as_planned),
        files=tuple(files),
    )
    failed.direct = _is_direct(acts, folder)
    # A script that was killed may have left half a report; why it was matters more.
    with suppress(EventError):
        failed.committed = read_outcome(folder / OUTCOME).committed
    return failed


def _script_call(
    execution: Execution, fetched: Fetched, inputs: Sequence[SparkInput], attempt_folder: Path, deadline: Deadline
) -> ScriptCall:
    """A script with its arguments, variables and files; its event is written into the attempt's folder."""
    event = with_shown_inputs(execution.event, inputs) if execution.is_shard else execution.event
    of_event = handed_over(event, attempt_folder, is_shard=execution.is_shard)
    claimed = {CLAIMED: "1"} if execution.is_shard else {}
    folder = attempt_folder / WORK
    return ScriptCall(
        script=fetched.path,
        source=fetched.script,
        args=script_arguments(
            execution.args, event if execution.is_shard else {}, fetched.script.event_option, of_event
        ),
        work_dir=folder,
        deadline=deadline,
        env={**of_event, **execution.env, OUTCOME_FILE: str(folder / OUTCOME), **claimed},
        py_files=fetched.py_files,
        files=fetched.files,
        conf=json.loads(fetched.conf.read_bytes()) if fetched.conf else {},
        inputs=tuple(each.item for each in inputs),
        output=execution.event["output_path"] if execution.is_shard else "",
        files_apart=execution.inputs.apart,
    )


def _refuse_unseen(execution: Execution, acts: Acts, inputs: Sequence[SparkInput], *, reads_folder: bool) -> None:
    """PlanError if a script that has ended well did not read by Spark what only Spark sees as it is planned."""
    in_place = [each.path for each in inputs if (each.copy or each.item.slice) and each.path.startswith(SCHEME)]
    if in_place and not acts.has("part"):
        raise PlanError(
            f"the script did not read {in_place[0]} by Spark, and other readers see all of the object, not its "
            "planned part or version: read it by Spark, or plan without --split"
        )
    if reads_folder and not acts.has("input", "part") and not any(each.path.startswith(LOCAL) for each in inputs):
        raise PlanError(
            read_by_name(acts, execution.is_planned)
            or "the script is given the folder of its inputs and did not read it by Spark; other readers see all "
            "of the run's input: read it by Spark, or read job.inputs"
        )


def _judge(
    attempt_folder: Path,
    acts: Acts,
    outcome: JobOutcome,
    execution: Execution,
    warning: str,
) -> str:
    """What else to warn of; PlanError if it was seen that a script's work is lost, or the same as other shards'."""
    names, warnings = left_behind(attempt_folder / WORK), [warning] if warning else []
    if names:
        what, is_lost = told(names, acts, attempt_folder / WORK)
        # An error only where it was seen that nothing else was done: elsewhere a script may have done more than is
        # seen.
        if is_lost and outcome.is_empty and not acts.has("output", "written"):
            raise PlanError(what)
        warnings.append(what)
    warnings += filter(None, [unregistered(acts), outliving_checkpoint(acts) if execution.is_shard else ""])
    has_input, has_output = (any(name in argument for argument in execution.args) for name in (INPUT, OUTPUT))
    has_input |= acts.script.event_option != ""
    asked = acts.asked(of_arguments=has_input or has_output)
    if execution.deletes and acts.has(ARGUMENTS) and outcome.is_empty and not asked:
        raise PlanError(NO_EVENT)
    asked_more = acts.asked_more(of_arguments=has_input)
    what, was_seen = repeats(acts, asked=asked_more) if outcome.is_empty else ("", False)
    changed = {} if outcome.writes else changed_addresses(acts)  # staged files of a table are the commit's
    named = read_by_name(acts, execution.is_planned)
    if execution.claim and (what or changed or named) and not execution.is_alone():
        if was_seen:
            raise PlanError(what)
        warnings += filter(None, [what, named])
        execution.claim(changed)
    done = (attempt_folder / WORK / OUTCOME).exists() or acts.has("output", "written", "deleted")
    event = execution.event["params"] if execution.is_shard else execution.event
    words = json.dumps([event, execution.args, dict(execution.env)])
    if not (done or warnings or acts.has(ELSEWHERE) or acts.script.may_write_unseen(words)):
        warnings.append(NOTHING)
    return "; ".join(warnings)


def _tell_java(attempt_folder: Path, execution: Execution, view: View, inputs: Sequence[SparkInput]) -> None:
    """Write what is planned, whose commits these are, and what to tell, for our Java."""
    (attempt_folder / SEEN).touch()
    (attempt_folder / INPUTS).write_text(view.lines(inputs), encoding="ascii")
    if execution.committers:
        # With a token for each try, since one attempt may run its script twice, and the second must find the first's
        # commits.
        mine = f"{execution.committers[0]}{execution.event['sparklet']['attempt']}/{token_hex(4)}/"
        earlier = execution.committers if execution.is_again else ()
        (attempt_folder / WRITER).write_text("\n".join([mine, f"{execution.since_s * 1000:.0f}", *earlier]))
    if execution.empty_outputs:  # no task of Spark reads an input without a byte
        without = "\0".join(each.key for each in inputs if not each.item.size_bytes)
        (attempt_folder / EMPTY).write_text(without, encoding="utf-8")


def _is_direct(acts: Acts, folder: Path) -> bool:
    """Whether a script has begun a write that it commits at once, or has committed by itself."""
    # By its bytes: the file of a script that was killed may be no whole document.
    return acts.has(COMMITTED) or ((folder / OUTCOME).exists() and DIRECT in (folder / OUTCOME).read_bytes())


def shard_event(run: Run, record: ShardRecord, shard: Shard, output_uri: str) -> dict[str, Any]:
    """The event of a shard; ``output_uri`` is the attempt's own folder."""
    uris = shard.inputs
    items = [] if uris else shard.items  # a shard has either
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
    """The attempt before, from the ledger; the state of its commits is unknown if it was stopped."""
    error_class, message = record.error_class, record.error_message
    if record.taken_from == ShardState.RUNNING:  # it left no error; what is there is an earlier attempt's
        error_class, message = LOST, "its worker was lost"
    state = "unknown" if error_class in STOPPED else None
    number = record.attempts - 1  # 0: of an earlier generation
    previous = {"number": number, "error_class": error_class, "message": message, "commit_state": state}
    return {"previous_attempt": previous}


def with_shown_inputs(event: Mapping[str, Any], inputs: Iterable[SparkInput]) -> Mapping[str, Any]:
    """A shard's event with the names under which Spark reads its inputs, and their addresses, if others."""
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
    """The variables that an event gives to its task: its own texts and numbers of these names; else EventError."""
    fields = {name: event[name] for name in names if isinstance(event, Mapping) and event.get(name) is not None}
    for name, value in fields.items():
        if not isinstance(value, str | int | float) or "\0" in str(value) or len(str(value)) > MAX_ARGUMENT_BYTES:
            raise EventError(f"the event's {name} cannot become a variable: it must be a text or a number")
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}


def handed_over(event: Any, folder: Path, *, is_shard: bool) -> dict[str, str]:
    """The variables in which a script finds its event, which is also written to a file in ``folder``.

    SPARKLET_EVENT is what ``--event`` has (JSON, or ``@<path>`` if it is long), SPARKLET_EVENT_FILE the path. A shard's
    ``input_path`` and ``output_path`` are there by these names, also in capitals; "" if there is no single path.
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
    args: Sequence[str], event: Mapping[str, Any], option: str, handed: Mapping[str, str]
) -> tuple[str, ...]:
    """A script's arguments, in a shard with its addresses for ``{input}`` and ``{output}``.

    The event comes last, by the ``option`` that the script takes it by; ``handed``: see ``handed_over``.
    """
    if event:
        # For several inputs without a folder no address stands for all, so ``{input}`` stays as it is.
        [address, *_] = event.get("input_folders") or [event["input_path"] or INPUT]
        args = [argument.replace(INPUT, address).replace(OUTPUT, event["output_path"]) for argument in args]
    of_event = {"": (), EVENT_OPTION: (option, handed[EVENT]), EVENT_FILE_OPTION: (option, handed[EVENT_FILE])}
    return (*args, *of_event[option])


def read_outcome(path: Path) -> JobOutcome:
    """The script's report through ``sparklet.job``, or an empty one; raises EventError if the file is malformed."""
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
    """What a run's report says of them: the same for all shards with the same failed rules; "" if none has failed."""
    failed = [rule["Rule"] for check in checks for rule in check["rules"] if rule["Outcome"] != "Passed"]
    return f"rules of data quality failed: {', '.join(dict.fromkeys(failed))}" if failed else ""


def unpinned(uri: str, py_files: tuple[str, ...] = ()) -> ScriptRef:
    """A script that no run has pinned."""
    return ScriptRef(uri, sha256="", source_uri=uri, py_files=py_files)


@dataclass
class ScriptCache:
    """Keeps scripts in a local folder between tasks; a file is used again only with the digest it was fetched with."""

    _store: ObjectStore
    _folder: Path
    _allowed: tuple[str, ...]  # prefixes (``s3://bucket/folder/``) of scripts
    _digests: dict[Path, str] = field(default_factory=dict)
    _scripts: dict[tuple[tuple[Path, str], ...], Script] = field(default_factory=dict)  # by their files and digests

    def fetch(self, script: ScriptRef) -> Fetched:
        """A script and what lies beside it; raises ScriptNotAllowedError or ScriptFetchError.

        A run's are verified by the digests in the run and in the URIs; a script without a digest is the current one.
        """
        uris = (script.uri, *script.py_files)
        for uri in uris[:1] if script.sha256 else uris:
            check_script(uri, self._allowed)
        digests = (script.sha256 and uri.split("/")[-2] for uri in script.py_files)  # …/<sha256>/<name>, by planning
        path, *beside = map(self._file, uris, (script.sha256, *digests))
        py_files = tuple(file for file in beside if file.suffix in PY_FILE_SUFFIXES)
        files = tuple(file for file in beside if file not in py_files and file.name != CONF_FILE)
        conf = next((file for file in beside if file.name == CONF_FILE), None)
        own_files = tuple(file for file in py_files if file.name != LIBRARIES)
        read = tuple((file, self._digests[file]) for file in (path, *own_files))
        if read not in self._scripts:
            self._scripts[read] = Script(path.read_bytes(), own_files)
        return Fetched(path, self._scripts[read], py_files, files, conf)

    def _file(self, uri: str, sha256: str) -> Path:
        """The file of this digest; "": whatever is current."""
        try:
            # Looked at for each task: a stale script is never run.
            etag = "" if sha256 else self._store.head(uri).etag
            name = sha256 or hashlib.sha256(f"{uri}\n{etag}".encode()).hexdigest()
            path = self._folder / name / uri.rsplit("/", 1)[-1]
            known_sha256 = self._digests.get(path)
            # Hashed again, since a task may have altered the copy: scripts run with the worker's rights.
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

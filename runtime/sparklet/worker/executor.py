"""Runs a script: fetches it and its inputs, makes its folder, and reads the file with its result."""

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
from sparklet.job.outcome import CLAIMED, DIRECT, OUTCOME_FILE
from sparklet.model import (
    CONF_FILE,
    INPUT,
    LIBRARIES,
    MIB,
    MISNAMED,
    NOTHING,
    OUTPUT,
    PY_FILE_SUFFIXES,
    SCHEME,
    ExecutionResult,
    InputObject,
    JobOutcome,
    ScriptRef,
    SliceKind,
    check_script,
    split_uri,
)
from sparklet.model.redaction import hidden, redacted
from sparklet.ports import ObjectStore
from sparklet.settings import WorkerSettings, script_environment, strings
from sparklet.spark.runner import Deadline, Runner, ScriptCall, ScriptResult, task_folder
from sparklet.spark.script import Script
from sparklet.spark.script_acts import ARGUMENTS, ELSEWHERE, SEEN
from sparklet.spark.script_output import GONE
from sparklet.spark.spark_options import (
    COMMITTED,
    EMPTY,
    INPUTS,
    MISNAMED_RULE,
    OPENED,
    ORIGINS,
    SCHEMAS,
    UNCOMMITTED,
    WRITER,
)
from sparklet.worker.attempt import Attempt
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
from sparklet.worker.script_event import (
    event_variables,
    handed_over,
    request_event,
    script_arguments,
    with_shown_inputs,
)
from sparklet.worker.staging import LOCAL, Staging, uploaded

WORK, OUTCOME = "work", "outcome.json"  # the script's folder in the task's, and its report in that
MAX_OUTCOME_BYTES = 64 * MIB  # escaping may make an answer of 6 MB six times as long

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
    inputs: tuple[InputObject, ...] = ()  # a shard's: their sizes decide how Spark reads them
    partitions: Mapping[str, str] = field(default_factory=dict)  # of inputs and folders of others: where theirs begin
    staging: Staging | None = None  # fetches some of the event's inputs first
    deletes: bool = False  # whether its source forgets the event once the script has ended well
    is_alone: Callable[[], bool] = lambda: True  # whether the run has no other shard
    is_planned: Callable[[str], bool] = lambda _: True  # whether an address below its input is input of a shard
    claim: Callable[[Mapping[str, bool]], None] | None = None  # a shard's: its script's own addresses
    discard: Callable[[], None] = lambda: None  # deletes what a try has left, before another one
    committers: tuple[str, ...] = ()  # a shard's: what begins the ids of its attempts' commits, see ``DeltaCommit``
    since_s: float = 0.0  # when the first of them may have been made
    is_again: bool = False  # whether one may have been made
    empty_outputs: bool = False  # whether an input without rows has a file, too
    per_input: bool = False  # whether what is written must be told apart by inputs
    verify: Callable[[Collection[str]], None] | None = None  # inputs but those that Spark has read as they are planned
    keep_events: Callable[[Path], None] | None = None  # stores what is in the folder of Spark's event log

    @property
    def params(self) -> str:
        """A run's parameters as JSON; "" without a run."""
        return json.dumps(self.event.get("params")) if self.is_shard else ""


@dataclass
class Executor:
    """Runs scripts with one runner, one after the other."""

    settings: WorkerSettings
    runner: Runner
    scripts: "ScriptCache"
    inputs_to: ObjectStore | None = None  # for executors that see none of this machine's files, nor have a view

    def execute(self, execution: Execution, attempt: Attempt) -> ExecutionResult:
        """Run a script to its end in its own folder and read its result; once more if its JVM or an input is suspect.

        Raises the errors of fetching and of the runner; ScratchFullError before any work, if less than
        ``min_free_bytes`` would stay free; ScriptFailedError if the script exits with another code than 0.
        """
        deadline, log, min_free_bytes = attempt.deadline, attempt.log, self.settings.min_free_bytes
        planned, fetched = execution, self.scripts.fetch(execution.script)
        script = fetched.script
        with (
            task_folder(self.settings.scratch, attempt.attempt_id, min_free_bytes) as attempt_folder,
            ExitStack() as ending,  # before the folder, out of which it stores Spark's event log
        ):
            (folder := attempt_folder / WORK).mkdir()  # the script finds nothing there
            for path in fetched.files:
                (folder / path.name).symlink_to(path)
            is_given_folder = any(INPUT in argument for argument in execution.args)
            reads_folder = execution.is_shard and (is_given_folder or script.asks_for_folders)
            if not self.runner.has_view:
                _refuse_without_view(execution, script, reads_folder=reads_folder)
            execution, uris, copies = self._inputs(execution, attempt_folder, attempt, ending, script)
            _tell_java(attempt_folder, execution, copies, script)
            events = None
            if execution.keep_events:
                (events := attempt_folder / "events").mkdir()
                ending.callback(execution.keep_events, events)  # that of a failed attempt, too
            sees_options = self.runner.has_view and (
                copies or (execution.partitions and script.may_set_base_path(execution.params))
            )
            call = _script_call(execution, fetched, attempt_folder, deadline)
            call = replace(call, sees_options=bool(sees_options), events=events)
            started_s = time.monotonic()
            log.info("script started", script=execution.script.source_uri)
            result = self.runner.run(call, log.output)
            log.info("script ended", exit_code=result.exit_code, duration_s=round(time.monotonic() - started_s, 3))
            # Spark has met first bytes that a name does not promise. An exit code of 0 then proves nothing.
            looks = (
                planned.staging is not None
                and not planned.staging.looks
                and (attempt_folder / SEEN / MISNAMED_RULE).exists()
            )
            if result.exit_code == 0 and not looks:
                parts = [number for number, item in enumerate(execution.inputs) if number in copies or item.slice]
                acts = Acts(attempt_folder / SEEN, script)
                self._refuse_unseen(execution, acts, uris, parts, reads_folder=reads_folder)
                return self._report(execution, acts, attempt_folder)
            if not (result.suspect or looks):
                raise _failed(execution, result, uris, folder, is_local=self.inputs_to is None)
        cause = f"Spark failed in a JVM that other scripts had used: {result.cause_class}: {result.cause}"
        if looks and planned.staging:
            cause = "an input's first bytes are not what its name says"
            planned = replace(planned, staging=replace(planned.staging, looks=True))
        # A second try takes about as long as the first. Without time for it this error says so, and blames no input.
        elif deadline.remaining_s() < time.monotonic() - started_s:
            raise SparkRuntimeError(f"{cause}; too little time was left to run the script again, in a new one")
        log.warning("the script is run again", cause=cause)
        execution.discard()
        return self.execute(replace(planned, is_again=True), attempt)  # the first may have committed to a table

    def _report(self, execution: Execution, acts: Acts, attempt_folder: Path) -> ExecutionResult:
        """What a script that has ended well has done; PlanError if its work is lost."""
        outcome = read_outcome(attempt_folder / WORK / OUTCOME)
        warning = failed_rules(outcome.quality) if outcome.quality else ""
        if self.runner.has_view:
            warning = _judge(attempt_folder, acts, outcome, execution, warning)
        packed = execution.staging.origins if execution.staging else {}
        origins = (packed.get(item.uri, item) for item in execution.inputs)
        keys = (attempt_folder / INPUTS).read_text(encoding="utf-8").split("\0")[::8]  # those of inputs come first
        objects = dict(zip(keys, origins, strict=False))
        if execution.verify:
            opened = (attempt_folder / OPENED).read_text(encoding="utf-8").split("\0")
            # What Spark has opened was read by the planned ETag, and needs no HEAD.
            execution.verify({objects[key].object_uri for key in opened if key in objects})
        uris, tasks = {key: item.uri for key, item in objects.items()}, dict[str, tuple[str, int]]()
        if execution.per_input:
            try:
                tasks = told_origins(attempt_folder / ORIGINS, uris, acts.script)
            except MixedInputsError as error:
                error.direct = _is_direct(attempt_folder / WORK)
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

    def _refuse_unseen(
        self, execution: Execution, acts: Acts, uris: Sequence[str], parts: Iterable[int], *, reads_folder: bool
    ) -> None:
        """PlanError if a script that has ended well did not read by Spark what only Spark sees as it is planned."""
        in_place = [uris[n] for n in parts if self.runner.has_view and uris[n].startswith(SCHEME)]
        if in_place and not acts.has("copy"):
            raise PlanError(
                f"the script did not read {in_place[0]} by Spark, and other readers see all of the object, not its "
                "planned part or version: read it by Spark, or plan without --split"
            )
        if reads_folder and not acts.has("input", "copy") and not any(uri.startswith(LOCAL) for uri in uris):
            raise PlanError(
                read_by_name(acts, execution.is_planned)
                or "the script is given the folder of its inputs and did not read it by Spark; other readers see all "
                "of the run's input: read it by Spark, or read job.inputs"
            )

    def _inputs(
        self, execution: Execution, attempt_folder: Path, attempt: Attempt, ending: ExitStack, script: Script
    ) -> tuple[Execution, list[str], Mapping[int, Path]]:
        """Fetch what Spark cannot read; what the script then reads, the addresses of it all, and the local copies."""
        staging = execution.staging and replace(execution.staging, in_view=self.runner.has_view)
        if staging is None or not (staging.looks or any(map(staging.is_fetched, staging.items))):
            return execution, [item.uri for item in execution.inputs], {}
        started_s = time.monotonic()
        staging, copies = staging.fetch(
            attempt_folder, attempt.deadline, self.settings.min_free_bytes, unpack=script.unpacks
        )
        execution, uris = _with_members(execution, staging), [item.uri for item in staging.items]
        if self.runner.has_view:  # of file:// nobody tells who opens it, nor by which options
            uris = staging.shown(
                copies,
                set(uris) if execution.per_input or script.filters_names(execution.params) else execution.partitions,
            )
        elif script.filters_names(execution.params) and copies:
            raise PlanError(
                "the script has pathGlobFilter, and inputs that are fetched have other names here: choose them by the "
                "run's --include instead, or run the script in functions"
            )
        else:
            uris = [f"{LOCAL}{copies[number]}" if number in copies else uri for number, uri in enumerate(uris)]
        if self.inputs_to is not None:
            uris = ending.enter_context(uploaded(uris, self.inputs_to, f"{execution.event['output_path']}-inputs"))
        attempt.log.info("inputs fetched", inputs=len(copies), duration_s=round(time.monotonic() - started_s, 3))
        if copies:
            origins = [staging.origins.get(item.uri, item).object_uri for item in execution.inputs]
            execution = replace(execution, event=with_shown_inputs(execution.event, uris, origins))
        return execution, uris, copies

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


def _with_members(execution: Execution, staging: Staging) -> Execution:
    """An execution over the members of packed inputs, which lie where these lie."""
    roots, objects = execution.partitions, {uri: item.object_uri for uri, item in staging.origins.items()}
    packed = {*objects.values()}
    partitions = {uri: root for uri, root in roots.items() if uri not in packed}
    partitions |= {uri: roots[packed_as] for uri, packed_as in objects.items() if packed_as in roots}
    return replace(execution, inputs=staging.items, partitions=partitions, staging=staging)


def _failed(
    execution: Execution, result: ScriptResult, uris: Sequence[str], folder: Path, *, is_local: bool
) -> ScriptFailedError:
    """Why a script has failed, in its users' words, and what it had told in its folder before."""
    as_planned = is_local and execution.inputs and all(item.etag for item in execution.inputs)  # are read by their ETag
    cause, stderr_tail, staging, files = result.cause, result.stderr_tail, execution.staging, [*result.files]
    if staging is not None:  # the user does not know the fetched files
        cause, stderr_tail, *files = (staging.with_origins(text, uris) for text in (cause, stderr_tail, *files))
    gone = re.search(GONE, cause) and not {item.uri for item in execution.inputs}.isdisjoint(files)  # since the plan
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
    failed.direct = _is_direct(folder)
    # A script that was killed may have left half a report; why it was matters more.
    with suppress(EventError):
        failed.committed = read_outcome(folder / OUTCOME).committed
    return failed


def _script_call(execution: Execution, fetched: Fetched, attempt_folder: Path, deadline: Deadline) -> ScriptCall:
    """A script with its arguments, variables and files; its event is written into the attempt's folder."""
    of_event = handed_over(execution.event, attempt_folder, is_shard=execution.is_shard)
    claimed = {CLAIMED: "1"} if execution.is_shard else {}
    folder = attempt_folder / WORK
    return ScriptCall(
        script=fetched.path,
        source=fetched.script,
        args=script_arguments(
            execution.args, execution.event if execution.is_shard else {}, fetched.script.event_option, of_event
        ),
        work_dir=folder,
        deadline=deadline,
        env={**of_event, **execution.env, OUTCOME_FILE: str(folder / OUTCOME), **claimed},
        py_files=fetched.py_files,
        files=fetched.files,
        conf=json.loads(fetched.conf.read_bytes()) if fetched.conf else {},
        inputs=execution.inputs,
        output=execution.event["output_path"] if execution.is_shard else "",
        per_input=execution.per_input,
    )


def _refuse_without_view(execution: Execution, script: Script, *, reads_folder: bool) -> None:
    """PlanError where Spark would list all of the run's input, read all of a file, or find no columns in folders."""
    if reads_folder:
        raise PlanError(
            "the script is given the folder of its inputs, and Spark here does not list a shard's inputs alone: let it "
            "read job.inputs, or run it in functions"
        )
    if any(item.slice and item.slice.kind is SliceKind.ROW_GROUPS for item in execution.inputs):
        raise PlanError(
            "only Sparklet's S3A shows a part of a Parquet file, and Spark here has another: plan without --split, or "
            "run the script in functions"
        )
    is_cut = any(item.slice and item.slice.kind is SliceKind.LINES for item in execution.inputs)
    if is_cut and (option := script.option_of_rows):
        raise PlanError(
            f"the script has {option}, with which rows may end elsewhere than slices, and only Sparklet's "
            "S3A sees a reader's options: plan without --split, or run the script in functions"
        )
    if execution.partitions and not script.has_base_path:
        [root, *_] = execution.partitions.values()
        raise PlanError(
            f"the inputs lie in folders like name=value below {root}, and Spark here reads files without these columns:"
            " give the reader that folder as basePath, or run the script in functions"
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


def _tell_java(attempt_folder: Path, execution: Execution, copies: Mapping[int, Path], script: Script) -> None:
    """Write what is planned, whose commits these are, and what to tell, for our Java."""
    words = _words_for_java(execution, copies, script)
    (attempt_folder / INPUTS).write_text("\0".join(words), encoding="utf-8")
    if execution.committers:
        # With a token for each try, since one attempt may run its script twice, and the second must find the first's
        # commits.
        mine = f"{execution.committers[0]}{execution.event['sparklet']['attempt']}/{token_hex(4)}/"
        earlier = execution.committers if execution.is_again else ()
        (attempt_folder / WRITER).write_text("\n".join([mine, f"{execution.since_s * 1000:.0f}", *earlier]))
    # A script that is shown packed inputs themselves reads them as they are: ``(?!)`` matches no name.
    (attempt_folder / MISNAMED_RULE).write_text(MISNAMED if script.unpacks else "(?!)")
    (attempt_folder / SEEN).mkdir()
    if execution.per_input:
        (attempt_folder / ORIGINS).mkdir()
    if execution.empty_outputs:  # no task of Spark reads an input without a byte
        without = (key for key, item in zip(words[::8], execution.inputs, strict=False) if not item.size_bytes)
        (attempt_folder / EMPTY).write_text("\0".join(without), encoding="utf-8")
    if execution.verify:
        (attempt_folder / OPENED).touch()


def _words_for_java(execution: Execution, copies: Mapping[int, Path], script: Script) -> list[str]:
    """For ``TaskS3A`` and ``StagedS3A`` eight words for each input, and for folders.

    The address; of an input the ETag; the folder below which its partitions begin; of a fetched one the file, how many
    bytes of it are a slice's header (-1: it is no slice), and whether it is the first slice; of a slice of Parquet no
    file, and its first byte and the one behind its last; of an object that is read in place, and whole, size and time
    in milliseconds, if both are planned; of one that is fetched and has another name here, its own, instead of the
    time. Folders are those with other values of partitions, and, by the address alone, the run's inputs.
    """
    roots = {uri: f"/{split_uri(root)[1]}" for uri, root in execution.partitions.items()}
    uris = [item.uri for item in execution.inputs]
    if execution.staging and copies:
        uris = execution.staging.shown(copies, set(uris))
    words = list[str]()
    for number, item in enumerate(execution.inputs):
        words += (uris[number].partition("://")[2], item.etag.strip('"'), roots.get(item.uri, ""))
        part, file = item.slice, str(copies.get(number, ""))
        if part is None:
            words += (file, "-1", "")
        elif part.kind is SliceKind.LINES:
            words += (file, str(part.header_bytes), "1" if part.start == part.header_bytes else "")
        elif script.numbers_rows(execution.params):
            raise PlanError(
                "the script has row_index, the number of a row in its file, and a part of a Parquet file counts from"
                " its own first one: plan without --split"
            )
        else:
            words += ("", str(part.start), str(part.end))
        # With all of these S3A needs no HEAD, and opens just the planned object.
        is_known = item.etag and item.modified_s and not part and number not in copies
        own_name = "" if uris[number] == item.uri else item.uri.rpartition("/")[2]
        words += (str(item.size_bytes), str(int(item.modified_s * 1000))) if is_known else ("", own_name)
    for folder in roots.keys() - {item.uri for item in execution.inputs}:
        words += (folder.partition("://")[2], "", roots[folder], *[""] * 5)
    for folder in execution.event.get("input_folders", ()) if execution.is_shard else ():
        words += (folder.partition("://")[2], *[""] * 7)
    return words


def _is_direct(folder: Path) -> bool:
    """Whether a script has begun a write that it commits at once, or has committed by itself."""
    if (folder.parent / SEEN / COMMITTED).exists():
        return True
    # By its bytes: the file of a script that was killed may be no whole document.
    return (folder / OUTCOME).exists() and DIRECT in (folder / OUTCOME).read_bytes()


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

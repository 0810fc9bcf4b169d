"""Explains why shards failed: groups failures by cause, and gives each group its likely reason and a remedy."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sparklet.app.reporter import count_text
from sparklet.errors import ObjectStoreError, PlanError
from sparklet.ledger.rules import CONFLICTS
from sparklet.model import MAX_CONFLICTS, Run, ShardRecord
from sparklet.planning.plan_files import planned_shard
from sparklet.planning.routes import DO_ELSEWHERE, FOR_ROOM, NO_WORKER
from sparklet.ports.deployment import Deployment
from sparklet.runs.redrive import matches_cause
from sparklet.spark.script_output import GONE

MAX_GROUPS = 200  # further causes are counted together as OTHER
MAX_RANGES = 12  # of shard numbers: more are hard to read or type
OTHER = "(other causes)"

_VARIABLE_PARTS = (
    (re.compile(r"(?<=Request ID: )[^;,)\s…]+"), "<id>"),
    # Addresses and paths come first, so that their parts do not become placeholders of their own.
    (re.compile(r"\b(?:s3[an]?|file|hdfs|https?)://[^\s'\",;)\]]+"), "<address>"),
    (re.compile(r"(?<![\w.])/(?:[\w.@%+=~-]+/)+[\w.@%+=~-]*"), "<path>"),
    (
        re.compile(r"\b[\w@%+=-]+(?:\.[\w@%+=-]+)*\.(?:csv|jsonl?|ndjson|parquet|avro|orc|txt|gz|bz2|zst|xml)\b"),
        "<file>",
    ),
    (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE), "<id>"),
    (re.compile(r"\b(?=[0-9a-f]*\d)(?=\d*[a-f])[0-9a-f]{8,}\b", re.IGNORECASE), "<id>"),
    (re.compile(r"(?<![\w<])[-+]?\d[\d.,:]*\d|(?<![\w<])\d"), "<n>"),
)
_SCRIPT_LINE = re.compile(r"\bline (\d+) of [\w.-]+\.py\b|\b[\w.-]+\.py, line (\d+)")  # unchanged in a pattern
_PLACEHOLDER = re.compile(r"<(?:address|path|file|id|n)>")
_PLACE = re.compile(r"\bline \d+ of [^\s;,:)]+|\b[^\s(;,]+\.py, line \d+")
DATA, SCRIPT, EITHER = "data", "script", "data or script"
_GONE = "an input (or the bucket) is gone"
_SEE_LOGS = "see what it wrote: sparklet logs RUN SHARD"
_FIX_DATA = "repair that input, then sparklet redrive RUN; or start a new run without it (--exclude)"
_FIX_AND_REDRIVE = "repair it, then sparklet redrive RUN --script REPAIRED.py; no succeeded shard is repeated"


@dataclass(frozen=True, slots=True)
class Advice:
    """Why a shard most likely failed, and what to do before it is redriven."""

    reason: str
    remedy: str
    at_fault: str = ""  # what must be repaired before a redrive can succeed: DATA, SCRIPT, EITHER; "" if nothing


@dataclass(frozen=True, slots=True)
class _Rule(Advice):
    """Advice for failures with one of some error classes, or with a message that fits."""

    classes: str = ""  # separated by spaces, without their packages
    message: str = ""  # a regular expression, case-insensitive

    def fits(self, error_class: str, message: str) -> bool:
        by_message = self.message and re.search(self.message, message, re.IGNORECASE)
        return error_class in self.classes.split() or bool(by_message)


_OWN_ADDRESS = Advice(
    "the script reads or writes an address of its own, which is not there",
    "create it, or read INPUT_PATH, {input} or job.inputs; " + _FIX_AND_REDRIVE,
    SCRIPT,
)
_GONE_OUTSIDE = (
    "what the script reads, or its bucket, is not there: create it, or let the script read what its event names "
    "(job.inputs, INPUT_PATH)"
)
_WRAPPERS = ("ScriptFailedError", "RemoteFailureError", "Py4JJavaError", "SparkException")

# The first rule that fits is used, so a rule for a message stands before the rules for its class or for more messages.
_RULES = (
    # --- shards that Sparklet itself ended ---
    _Rule(
        "the run was cancelled before the shard was done",
        "nothing, if that was intended; else sparklet redrive RUN",
        classes="RunCancelled",
    ),
    _Rule(
        "the run's time limit was over before the shard was done",
        "see why it took so long (sparklet status RUN), then sparklet redrive RUN: the limit starts again",
        classes="RunTimeLimit",
    ),
    _Rule(
        "no worker ever claimed the shard: the functions are throttled, or cannot start at all",
        "check the function's log and its reserved concurrency, and run sparklet doctor; then sparklet redrive RUN",
        classes="NeverStarted NeverClaimed DeadLetter",
    ),
    _Rule(
        "the shard was too much for a function, and no worker of an engine started to run it",
        "the message has the engine's error: repair its cause (docs/reference/errors.md), then sparklet redrive RUN",
        classes=NO_WORKER,
    ),
    _Rule(
        "more shards had failed than the run tolerates, so the state machine stopped before this one was done",
        "see why the other shards failed (sparklet explain RUN), then sparklet redrive RUN runs all of them again",
        classes="ToleranceExceeded",
    ),
    _Rule(
        "the shard is larger than one function can process",
        f"{DO_ELSEWHERE}; or start a new run with smaller shards (--shard-size), or {FOR_ROOM}",
        classes="TooLargeError",
    ),
    _Rule(
        f"other writers of the table committed first, again and again; the first {MAX_CONFLICTS} times used no attempt",
        "write by job.append or job.upsert, which commit once for all shards; or sparklet redrive RUN",
        classes=" ".join(sorted(CONFLICTS)),
    ),
    _Rule(
        "an earlier attempt committed rows to the table before it failed, and another attempt would write them twice",
        "if that version of the table has all of the shard's rows, nothing; else RESTORE the table to the version "
        "before it, and sparklet redrive RUN writes the rows again. job.append, instead of the script's own write, "
        "commits each row once",
        SCRIPT,
        "CommittedBeforeException",
    ),
    _Rule("an input has other columns than the schema", "another run, --schema or --allow-drift", DATA, "DriftError"),
    _Rule("it fails whatever its input is", _FIX_AND_REDRIVE, SCRIPT, message=r"^the script is at fault, not an input"),
    _Rule("too many inputs are bad", _FIX_DATA, EITHER, message=r"^more than \d+ of the shard's inputs are bad"),
    _Rule("rows of inputs are brought together", "--max-objects 1, or another script", SCRIPT, "MixedInputsError"),
    _Rule(
        "the worker was lost: most often killed for lack of memory, or at the function's timeout",
        "sparklet redrive RUN --memory MB with more, or a new run with smaller shards (--shard-size); the end of the "
        "log shows how far it came: sparklet logs RUN SHARD",
        classes="LeaseExpired",
    ),
    _Rule(
        "the script needs longer than the function may run",
        "make shards smaller (--shard-size), give the function more time or memory (CPU comes with it), or "
        f"{FOR_ROOM}; a stream ends by itself only with trigger(availableNow=True)",
        classes="DeadlineExceededError",
    ),
    _Rule(
        "another attempt took the shard over while this one was still at work",
        "nothing: the other attempt's result counts; if it recurs, the function's timeout is too short",
        classes="LeaseLostError",
    ),
    # --- the deployment ---
    _Rule(
        "the plan in the bucket is not the one that was written: a part was changed or deleted",
        "do not change runs/RUN/plan/; start the run again with another id",
        message=r"\bplan part\b|/plan/part-",
    ),
    _Rule(
        "the ledger was written by a newer Sparklet than the one that reads it",
        "upgrade Sparklet here and on the function to the same version",
        message=r"written by a newer Sparklet",
    ),
    _Rule(
        "the script is outside the prefixes that the operator allowed",
        "put it below one of them, or add its prefix to SPARKLET_SCRIPT_PREFIXES",
        classes="ScriptNotAllowedError",
    ),
    _Rule(
        "the run's copy of the script is not the one that was planned",
        "do not change runs/RUN/script/; sparklet redrive RUN --script SCRIPT.py stores a good copy",
        message=r"changed after planning",
    ),
    _Rule(
        "the credentials are missing, wrong or have expired",
        "renew them, or give the function's role what it needs; then sparklet redrive RUN",
        classes="NoAuthWithAWSException CredentialInitializationException",
        message=r"wrong credentials|\b(?:ExpiredToken|InvalidAccessKeyId|SignatureDoesNotMatch|UnrecognizedClient)"
        r"|\bInvalidClientTokenId|unable to load (?:AWS )?credentials|no AWS credentials|unable to locate credentials",
    ),
    # --- memory, disk and the JVM ---
    _Rule(
        "memory was used up",
        "give the function more memory, make shards smaller (--shard-size), collect less into the driver, or "
        f"{FOR_ROOM}",
        classes="OutOfMemoryError MemoryError",
        message=r"OutOfMemoryError|Java heap space|GC overhead limit|Cannot allocate memory|SIGKILL|\bexit code -9\b"
        r"|Python worker exited unexpectedly",
    ),
    _Rule(
        "the scratch space (/tmp) was full",
        "give the function more ephemeral storage (up to 10 GiB), or start a new run with smaller shards "
        "(--shard-size)",
        classes="ScratchFullError",
        message=r"No space left on device|Disk quota exceeded|Errno 28\b",
    ),
    _Rule(
        "the JVM was lost under the script",
        "more memory for the function if it was killed; else see its log: sparklet logs RUN SHARD",
        classes="GatewayLostError Py4JNetworkError",
        message=r"the JVM (?:was ended|ended|did not start)|Answer from Java side is empty",
    ),
    # --- the input ---
    _Rule(
        "permission was denied",
        "allow the function's role to read the inputs (s3:GetObject, s3:ListBucket, kms:Decrypt) and to write the "
        "output, which WriteEncryption encrypts as its bucket's policy demands; then sparklet redrive RUN",
        classes="ObjectForbiddenError AccessDeniedException AccessControlException",
        message=r"Access ?Denied|Status Code: 403|\b403 Forbidden\b|may not be accessed",
    ),
    _Rule(
        "the script reads by a pattern, and no input of this shard fits it",
        "a new run over those that fit (--include), or let the script read the input's folder itself",
        EITHER,
        message=r"\[PATH_NOT_FOUND\][^:]*: s3a?://[^ ]*[*?{]",
    ),
    _Rule(
        "the script reads an S3 address as a local path, or with Python's own functions, which cannot read S3",
        "read it by Spark, boto3 or pandas, as it was given, without os.path or pathlib; " + _FIX_AND_REDRIVE,
        SCRIPT,
        message=r"No such file or directory: '([^']*/)?(s3[an]?|hdfs):/|path does not exist: file:/\S*/s3[an]?:/",
    ),
    _Rule(
        "the script reads a local file, but the folder in which it runs has only the files of --files",
        "read job.inputs, INPUT_PATH or {input}, or an address such as s3://…; for a small file use --files, and read "
        "it by its name, without its folders; " + _FIX_AND_REDRIVE,
        SCRIPT,
        message=r"path does not exist: file:/|No such file or directory: '",
    ),
    _Rule(
        _GONE + ", or was replaced after the run was planned",
        "put it back and sparklet redrive RUN, or start a new run without it",
        DATA,
        classes="ObjectNotFoundError ObjectChangedError FileNotFoundException SparkFileNotFoundException "
        "RemoteFileChangedException UnknownStoreException",
        message=rf"\[PATH_NOT_FOUND\]|NoSuchBucket|bucket does not exist|Path does not exist|{GONE}",
    ),
    _Rule(
        "an input is empty, or lies in a folder that Spark does not read",
        "leave it out (objects of 0 bytes are not planned unless --keep-empty), or let the script give a schema; "
        "Spark reads folders below the input's folder, except partitions, only with recursiveFileLookup",
        DATA,
        message=r"UNABLE_TO_INFER_SCHEMA|length is too low: 0\b|\bis empty\b|No columns to parse|EmptyDataError",
    ),
    _Rule(
        "quotes in a value are not doubled, as job.read_csv expects them",
        'if they are written as \\", job.read_csv(spark, escape="\\\\"); else repair that input; then '
        "sparklet redrive RUN --script REPAIRED.py",
        EITHER,
        message=r"Unescaped quote character",
    ),
    _Rule(
        "an input is not in the format the script reads",
        "repair that object, or let the script tolerate it, then sparklet redrive RUN; or start a new run without it "
        "(--exclude)",
        EITHER,
        classes="BadRecordException NumberFormatException DateTimeParseException ZipException EOFException "
        "ParquetDecodingException JSONDecodeError UnicodeDecodeError JsonParseException FileFormatException "
        "InvalidAvroMagicException SchemaColumnConvertNotSupportedException TTransportException",
        message=r"is not a Parquet file|MALFORMED_(CSV_)?RECORD|CANNOT_READ_FILE|FAILED_READ_FILE"
        r"|not (in|a) gzip (format|file)|Could not read footer|CSV header does not conform|CAST_INVALID_INPUT"
        r"|Number of column in CSV header is not equal|PARSE_DATETIME_BY_NEW_PARSER",
    ),
    _Rule(
        "S3 or another service failed for a moment: too many requests, or no response",
        "sparklet redrive RUN; if it recurs, fewer workers at a time (--max-concurrency, the mapping's concurrency)",
        classes="ObjectStoreError AWSServiceIOException ThrottlingException ConnectTimeoutException "
        "SocketTimeoutException UnknownHostException",
        message=r"Slow ?Down|Status Code: 50[0-9]|\bThrottl|Connection refused|Unable to execute HTTP request"
        r"|Could not connect to the endpoint|timed? ?out",
    ),
    # --- the script ---
    _Rule("the script does not compile", _FIX_AND_REDRIVE, SCRIPT, "SyntaxError IndentationError TabError"),
    _Rule(
        "the script is an exported notebook: outside of the notebook nothing defines its session",
        "begin it with: from pyspark.sql import SparkSession; spark = SparkSession.builder.getOrCreate(); "
        "sc = spark.sparkContext; and use no dbutils and display; " + _FIX_AND_REDRIVE,
        SCRIPT,
        message=r"name '(spark|sc|sqlContext|glueContext|dbutils|display)' is not defined",
    ),
    _Rule("the script uses an undefined name", _FIX_AND_REDRIVE, SCRIPT, classes="NameError UnboundLocalError"),
    _Rule(
        "the script names a catalog that Spark here does not know",
        "name it for the run, with its type and warehouse: --conf spark.sql.catalog.NAME=org.apache.iceberg.spark."
        "SparkCatalog …; Glue and S3 Tables by --param warehouse=… (docs/guide/tables.md); then sparklet redrive RUN",
        SCRIPT,
        message=r"\[CATALOG_NOT_FOUND\]|[Cc]atalog '?\S+'? plugin class not found|_LEGACY_ERROR_TEMP_1055"
        r"|REQUIRES_SINGLE_PART_NAMESPACE",
    ),
    _Rule(
        "the script writes to a table that is in the task's own catalog or in none, and each task has its own",
        "write by job.append or job.upsert to iceberg:DATABASE.TABLE, delta:s3://… or hudi:s3://… "
        "(docs/guide/tables.md); " + _FIX_AND_REDRIVE,
        SCRIPT,
        message=r"TABLE_OR_VIEW_NOT_FOUND[\s\S]*(InsertInto|MergeInto|UpdateTable|DeleteFrom|AlterTable)",
    ),
    _Rule(
        "the script names a table that is neither in the task's own catalog, which begins empty, nor in Glue's",
        "read the table by its address, or a table of Glue's catalog as DATABASE.TABLE; " + _FIX_AND_REDRIVE,
        SCRIPT,
        message=r"TABLE_OR_VIEW_NOT_FOUND",
    ),
    _Rule(
        "the script makes a table in a database that is not in the task's own catalog; Glue's catalog can only be read",
        "write by job.append, by getSink, or to an address (docs/guide/tables.md); " + _FIX_AND_REDRIVE,
        SCRIPT,
        message=r"SCHEMA_NOT_FOUND|Database '\S+' not found",
    ),
    _Rule(
        "a jar that the script asks for by its coordinates could not be fetched",
        "put it into the image (docker/extra-jars, EXTRA_COORDINATES: docs/guide/image.md), or allow the functions to "
        "reach its repository; then sparklet redrive RUN",
        SCRIPT,
        message=r"unresolved dependenc|UNRESOLVED DEPENDENCIES|download failed: ",
    ),
    _Rule(
        "the script uses a table, column or type that is not there",
        "compare it with the input's schema and repair one of them, then sparklet redrive RUN (--script REPAIRED.py); "
        "no succeeded shard is repeated",
        EITHER,
        classes="AnalysisException ParseException",
    ),
    _Rule(
        "the script uses what a remote session (Spark Connect) does not have: SparkContext, RDDs, the JVM",
        f"{DO_ELSEWHERE}; or {_FIX_AND_REDRIVE}",
        classes="PySparkAttributeError PySparkNotImplementedError",
    ),
    _Rule(
        "the script makes a pool, queue or lock of multiprocessing, and Lambda has no /dev/shm for it",
        "use threads (ThreadPoolExecutor, ThreadPool), Spark itself, or Process with Pipe; " + _FIX_AND_REDRIVE,
        SCRIPT,
        message=r"\[Errno 38\] Function not implemented",
    ),
    _Rule(
        "the script needs a Java class, such as a data source, and no jar has it",
        "use --conf spark.jars.packages=GROUP:NAME:VERSION, or put the jar into the image (docs/guide/image.md); or "
        + _FIX_AND_REDRIVE,
        SCRIPT,
        classes="ClassNotFoundException NoClassDefFoundError",
        message=r"DATA_SOURCE_NOT_FOUND|failed to find (the )?data source",
    ),
    _Rule(
        "the script imports a module that is not there",
        "start a new run with it (a library: --requirements, a file: --py-files), or put it into the image; or "
        + _FIX_AND_REDRIVE,
        SCRIPT,
        classes="ModuleNotFoundError ImportError",
    ),
    _Rule(
        "the script could not be fetched",
        "check that its copy below runs/RUN/script/ exists and the functions have permission to read it; "
        "sparklet redrive RUN --script SCRIPT.py",
        classes="ScriptFetchError",
    ),
    _Rule(
        "the script's report, or the event, is not valid",
        "report through sparklet.job (job.report); " + _FIX_AND_REDRIVE,
        SCRIPT,
        classes="EventError",
    ),
    _Rule(
        "the run does not meet the check script's expectations",
        "look at the output; once it is right, redrive the run that was checked, which checks the output again",
        classes="ExpectationError",
    ),
    _Rule(
        "a setting is missing or wrong",
        "sparklet doctor names it; set it on the function, then sparklet redrive RUN",
        classes="SettingsError",
    ),
)


_TASK_ADVICE = {
    "schema": Advice("no schema could be inferred from a sample", "a new run with --schema 'id INT, name STRING, …'"),
    "check": Advice("the check script failed", f"{_SEE_LOGS}; a redrive runs it again, only a new run a repaired one"),
    "commit": Advice(
        "the table does not accept the rows that the shards have written for it",
        "change the table so that it does (columns, features): sparklet redrive RUN repeats the commit alone; else a "
        "new run with a repaired script, since a redrive repeats no succeeded shard",
    ),
}


def advice(error_class: str, message: str, task: str = "") -> Advice:
    """Return the likely reason and the remedy of a failed shard, or of a failed ``task`` of a run.

    ``error_class`` can be with or without its package.
    """
    name = error_class.rpartition(".")[2]
    # Rules that blame data or script are for shards alone, not for tasks.
    fitting_rules = (rule for rule in _RULES if rule.fits(name, message) and not (task and rule.at_fault))
    base_advice = next(fitting_rules, None) or _TASK_ADVICE.get(task) or _script_error(name)
    match = _PLACE.search(message)
    return Advice(
        f"{base_advice.reason}, at {match[0]}" if match else base_advice.reason,
        base_advice.remedy,
        base_advice.at_fault,
    )


def advice_outside_of_runs(message: str) -> str:
    """Return reason and remedy of a script's failure on a single event, by the message; "" if no rule fits."""
    class_names = [name for name in re.findall(r"\b\w+(?:Error|Exception)\b", message) if name not in _WRAPPERS]
    rule_advice = advice(next(iter(class_names), ""), message)
    if rule_advice.reason.startswith(_GONE):
        return _GONE_OUTSIDE
    # Without a run there is nothing to redrive, so the remedy ends before its commands.
    commands = r"[;,]? *(?:(?:then|or|and) )?(?:sparklet (?:redrive|logs)|see what it wrote)"
    remedy = re.split(commands, rule_advice.remedy)[0]
    is_from_rule = any(rule.remedy == rule_advice.remedy for rule in _RULES)
    return f"{rule_advice.reason}: {remedy}" if is_from_rule and remedy else ""


def _script_error(name: str) -> Advice:
    event = f"raised {name}" if name and name != "ScriptFailedError" else "ended with an exit code other than 0"
    return Advice(f"the script {event}", f"{_SEE_LOGS}; if the script is at fault {_FIX_AND_REDRIVE}", EITHER)


def _with_fault(base_advice: Advice, failed_count: int, succeeded_count: int) -> Advice:
    """Return the advice, which blames data or script by how many shards failed alike, and how many succeeded.

    The advice is unchanged if the error class alone shows what is at fault.
    """
    if base_advice.at_fault != EITHER:
        return base_advice
    if succeeded_count:
        fault, remedy = DATA, f"{_SEE_LOGS}; {_FIX_DATA}"
        why = f"the data is at fault, since {count_text(succeeded_count, 'shard')} succeeded with this script"
    elif failed_count > 1:
        fault, remedy = SCRIPT, f"{_SEE_LOGS}; {_FIX_AND_REDRIVE}"
        why = f"the script is at fault, since no shard succeeded and {failed_count} failed alike"
    else:
        fault, remedy = EITHER, base_advice.remedy
        why = "one shard alone does not tell whether its data or the script is at fault"
    return Advice(f"{base_advice.reason}; {why}", remedy, fault)


# --- failures in groups ---


@dataclass(slots=True)
class ShardRanges:
    """Shard numbers in ascending order, as ranges; only the first ranges are kept."""

    ranges: list[list[int]] = field(default_factory=list)
    whole: bool = True  # no number was left out

    def add(self, number: int) -> None:
        """Add a number, which is larger than all numbers before."""
        if self.ranges and self.whole and self.ranges[-1][1] == number - 1:
            self.ranges[-1][1] = number
        elif len(self.ranges) < MAX_RANGES:
            self.ranges.append([number, number])
        else:
            self.whole = False

    def text(self) -> str:
        """Return the ranges in the form of ``--shards``: ``3,17,20-25``."""
        return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in self.ranges)


@dataclass(slots=True)
class FailureGroup:
    """Failed shards with one cause, or a failed task of a run."""

    error_class: str
    pattern: str  # the message with <n>, <file>, <address>, … in place of parts that differ from shard to shard
    example: ShardRecord
    count: int = 0
    unrun: int = 0  # dead-letter messages of these shards without an attempt
    with_output: int = 0  # how many of these shards had succeeded before they were redriven
    shards: ShardRanges = field(default_factory=ShardRanges)
    example_object: str = ""  # the first input of the example; "" if its plan part cannot be read
    advice: Advice = field(default_factory=lambda: Advice("", ""))
    redrive: tuple[str, ...] = ()  # options of `sparklet redrive RUN` that choose exactly these shards
    redriven: str = ""  # the run to redrive: the shards' own, or the run that the task belongs to
    task: str = ""  # "" for shards, else the task that failed: schema, check, commit

    @property
    def line(self) -> int | None:
        """The script's line that the message names; None if it names none."""
        match = None if self.task else _SCRIPT_LINE.search(self.example.error_message)
        return int(match[1] or match[2]) if match else None


def count_failure(groups: dict[tuple[str, str], FailureGroup], record: ShardRecord) -> None:
    """Count one failed shard in the group of its class and pattern."""
    key = record.error_class, pattern_of(record.error_message)
    if key not in groups and len(groups) >= MAX_GROUPS:
        key = OTHER, ""
    group = groups.setdefault(key, FailureGroup(*key, record))
    group.count += 1
    group.unrun += record.unrun
    group.with_output += record.has_output
    group.shards.add(record.number)


def explain(
    deployment: Deployment, run: Run, failures: Iterable[FailureGroup], succeeded: Mapping[int, int]
) -> tuple[FailureGroup, ...]:
    """Add advice to the groups of a run's failures; return the groups, the most frequent cause first.

    ``succeeded`` counts the succeeded shards by generation. To find out what is at fault, only shards that
    succeeded with the same script as the failed ones count.
    """
    groups = sorted(failures, key=lambda group: (-group.count, group.error_class, group.pattern))
    task = run.kind if run.is_task else ""
    for group in groups:
        group.task, group.redriven = task, run.parent if task else run.run_id
        group_advice = advice(group.example.error_class, group.example.error_message, task)
        if group_advice.reason.startswith(_GONE) and not _may_concern_an_input(run, group.example.error_message):
            group_advice = _OWN_ADDRESS
        script = run.scripts[group.example.generation]
        succeeded_with_script = sum(
            count for generation, count in succeeded.items() if run.scripts[generation] == script
        )
        group_advice = _with_fault(group_advice, group.count, succeeded_with_script)
        names = {"logs RUN": f"logs {run.run_id}", "RUN": group.redriven, "SHARD": str(group.example.number)}
        reason, remedy = _with_names(group_advice.reason, names), _with_names(group_advice.remedy, names)
        group.advice = replace(group_advice, reason=reason, remedy=remedy)
        group.example_object = "" if task in ("check", "commit") else first_object(deployment, group.example)
        group.redrive = ("--cause", group.error_class) if task == "commit" else _redrive_options(group, groups)
    return tuple(groups)


def _may_concern_an_input(run: Run, message: str) -> bool:
    """Return False if a message names addresses, and none of them is in the run's inputs.

    True also where that is not known: the message names no address, or the inputs come from lists or Glue's catalog.
    """
    addresses = [uri.replace("s3a://", "s3://") for uri in re.findall(r"s3a?://[^\s'\",;)\]]+", message)]
    has_other_inputs = run.lists or any(input_uri.startswith("glue:") for input_uri in run.inputs)
    if not addresses or has_other_inputs:
        return True
    # A message can also name only the bucket, or a folder above the input.
    pairs = ((uri, input_uri) for uri in addresses for input_uri in run.inputs)
    return any(uri.startswith(input_uri) or input_uri.startswith(uri) for uri, input_uri in pairs)


def pattern_of(message: str) -> str:
    """Return a message with placeholders in place of addresses, files, ids and numbers.

    Line numbers of scripts stay, since failures at two lines of a script have two causes.
    """
    script_lines = [match[0] for match in _SCRIPT_LINE.finditer(message)]
    texts_between = _SCRIPT_LINE.split(message)[:: 1 + _SCRIPT_LINE.groups]
    for expression, placeholder in _VARIABLE_PARTS:
        texts_between = [expression.sub(placeholder, piece) for piece in texts_between]
    return "".join(piece for pair in zip(texts_between, [*script_lines, ""], strict=True) for piece in pair)


def _with_names(text: str, names: Mapping[str, str]) -> str:
    """Return the text with a run and a shard in place of RUN and SHARD."""
    return re.sub(r"\b(?:logs RUN|RUN|SHARD)\b", lambda match: names[match[0]], text)


def first_object(deployment: Deployment, record: ShardRecord) -> str:
    """Return the name of a shard's first input; "" if the shard's plan cannot be read."""
    try:
        return planned_shard(deployment, record).objects[0].name
    except (ObjectStoreError, PlanError, IndexError):
        return ""


def _redrive_options(group: FailureGroup, all_groups: Sequence[FailureGroup]) -> tuple[str, ...]:
    """Return options that select only this group: its class, a piece of its message, or else its shards' numbers.

    () if there is no other group.
    """
    other_groups = [other for other in all_groups if other is not group]
    if not other_groups:
        return ()
    for cause in () if group.error_class == OTHER else _causes_of(group):
        if not any(_could_match(other, cause) for other in other_groups):
            return ("--cause", cause)
    return ("--shards", group.shards.text())


def _causes_of(group: FailureGroup) -> Iterator[str]:
    """Yield texts for ``--cause``: the class, then the fixed pieces of the message, the longest piece first."""
    if group.error_class:
        yield group.error_class
    pieces = [piece.strip(" '\":,;()[]") for piece in _PLACEHOLDER.split(group.pattern)]
    yield from sorted((piece for piece in pieces if len(piece) >= 4), key=len, reverse=True)


def _could_match(group: FailureGroup, cause: str) -> bool:
    """Return whether ``--cause`` can select shards of this group; always True for the group of other causes."""
    return (
        group.error_class == OTHER
        or matches_cause(group.example, cause)
        or cause.casefold() in group.pattern.casefold()
    )

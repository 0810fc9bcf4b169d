"""From what the ledger keeps of a failure to what a person does about it.

Pure: class and message in, likely reason and remedy out. The rules are read in order and the first that fits
counts, so what Sparklet itself knows for certain stands first, what a message only suggests after it, and the
script's own error last.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Advice:
    """Why a shard most likely failed, and what to do before it is redriven."""

    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class _Rule:
    """Fits by the class of a failure, or by what its message says."""

    advice: Advice
    classes: frozenset[str] = frozenset()
    message: re.Pattern[str] | None = None

    def fits(self, error_class: str, message: str) -> bool:
        return error_class in self.classes or bool(self.message and self.message.search(message))


_PLACE = re.compile(r"\bline \d+ of [^\s;,:)]+|\b[^\s(;,]+\.py, line \d+")
_FIX_AND_REDRIVE = "repair it, then sparklet redrive RUN --script REPAIRED.py; finished shards are not done again"


def advice(error_class: str, message: str) -> Advice:
    """What to make of a failure as the ledger keeps it.

    Parameters
    ----------
    error_class, message
        ``error_class`` and ``error_message`` of a shard; the class may come with its package.
    """
    name = error_class.rpartition(".")[2]
    found = next((rule.advice for rule in _RULES if rule.fits(name, message)), None) or _script_error(name)
    place = _PLACE.search(message)
    return Advice(f"{found.reason}, at {place[0]}", found.remedy) if place else found


def _script_error(name: str) -> Advice:
    what = f"raised {name}" if name and name != "ScriptFailedError" else "ended with an exit code other than 0"
    return Advice(
        f"the script {what}",
        "see what it wrote: sparklet logs RUN SHARD; if the script is at fault " + _FIX_AND_REDRIVE,
    )


def _rule(reason: str, remedy: str, *classes: str, says: str = "") -> _Rule:
    return _Rule(Advice(reason, remedy), frozenset(classes), re.compile(says, re.IGNORECASE) if says else None)


_ENDED_BY_SPARKLET = (
    _rule(
        "the run was cancelled before the shard was done",
        "nothing, if that was meant; sparklet redrive RUN does it after all",
        "RunCancelled",
    ),
    _rule(
        "the run's time limit was over before the shard was done",
        "see why it took so long (sparklet status RUN), then sparklet redrive RUN: the limit begins anew",
        "RunTimeLimit",
    ),
    _rule(
        "no worker ever claimed the shard: the functions are throttled, or cannot start at all",
        "look at the function's log and its reserved concurrency; sparklet doctor; then sparklet redrive RUN",
        "NeverStarted",
        "NeverClaimed",
        "DeadLetter",
    ),
    _rule(
        "more shards had failed than the run tolerates, so the state machine stopped before this one was done",
        "see why those failed (sparklet explain RUN), then sparklet redrive RUN does all of them",
        "ToleranceExceeded",
    ),
    _rule(
        "the shard is larger than one function can take on",
        "a new run that cuts it (--split), or another engine for it (EMR Serverless, Glue, ECS Fargate: the same"
        " script; sparklet commands)",
        "ShardTooLargeError",
    ),
    _rule(
        "the worker vanished without a word: most often killed for want of memory, or at the function's timeout",
        "sparklet redrive RUN --memory MB with more, or a new run with smaller shards (--shard-size); the end of the "
        "log says how far it came: sparklet logs RUN SHARD",
        "LeaseExpired",
    ),
    _rule(
        "the script needs longer than the function may run",
        "make shards smaller (--shard-size), give the function more time or memory (CPU comes with it)",
        "DeadlineExceededError",
    ),
    _rule(
        "another attempt took the shard over while this one was still at work",
        "nothing: the other attempt's result counts; if it recurs, the function's timeout is too short",
        "LeaseLostError",
    ),
)

_OF_THE_SETTING = (
    _rule(
        "the plan in the bucket is not the one that was written: a part was altered, or is gone",
        "do not touch runs/RUN/plan/; start the run again under another id",
        says=r"\bplan part\b|/plan/part-",
    ),
    _rule(
        "the ledger was written by a newer Sparklet than the one that reads it",
        "upgrade Sparklet here and on the function to the same version",
        says=r"written by a newer Sparklet",
    ),
    _rule(
        "the script lies outside the prefixes that the operator allowed",
        "put it below one of them, or add its prefix to SPARKLET_SCRIPT_PREFIXES",
        "ScriptNotAllowedError",
    ),
    _rule(
        "the run's copy of the script is not the one that was planned",
        "do not touch runs/RUN/script/; sparklet redrive RUN --script SCRIPT.py puts a good copy there",
        says=r"changed after planning",
    ),
    _rule(
        "the credentials are missing, wrong or have expired",
        "renew them, or give the function's role what it needs; then sparklet redrive RUN",
        "NoAuthWithAWSException",
        "CredentialInitializationException",
        says=r"wrong credentials|\b(?:ExpiredToken|InvalidAccessKeyId|SignatureDoesNotMatch|UnrecognizedClient)"
        r"|\bInvalidClientTokenId|unable to load (?:AWS )?credentials|no AWS credentials|unable to locate credentials",
    ),
)

_OF_RESOURCES = (
    _rule(
        "memory was used up",
        "give the function more memory, make shards smaller (--shard-size), or collect less into the driver",
        "OutOfMemoryError",
        "MemoryError",
        says=r"OutOfMemoryError|Java heap space|GC overhead limit|Cannot allocate memory|SIGKILL|\bexit code -9\b"
        r"|Python worker exited unexpectedly",
    ),
    _rule(
        "the scratch space (/tmp) was full",
        "give the function more ephemeral storage (up to 10 GiB), or start a new run with smaller shards "
        "(--shard-size)",
        "ScratchFullError",
        says=r"No space left on device|Disk quota exceeded|Errno 28\b",
    ),
    _rule(
        "the JVM was lost under the script",
        "more memory for the function if it was killed; else see what it said: sparklet logs RUN SHARD",
        "GatewayLostError",
        "Py4JNetworkError",
        says=r"the JVM (?:was ended|ended|did not start)|Answer from Java side is empty",
    ),
)

_OF_INPUT = (
    _rule(
        "permission was denied",
        "allow the function's role to read the inputs (s3:GetObject, s3:ListBucket, kms:Decrypt) and to write the "
        "output; then sparklet redrive RUN",
        "ObjectForbiddenError",
        "AccessDeniedException",
        "AccessControlException",
        says=r"Access ?Denied|Status Code: 403|\b403 Forbidden\b|may not be accessed",
    ),
    _rule(
        "an input (or the bucket) is gone, or was replaced after the run was planned",
        "put it back and sparklet redrive RUN, or start a new run without it",
        "ObjectNotFoundError",
        "ObjectChangedError",
        "FileNotFoundException",
        "SparkFileNotFoundException",
        "RemoteFileChangedException",
        "UnknownStoreException",
        says=r"\[PATH_NOT_FOUND\]|NoSuchKey|NoSuchBucket|bucket does not exist"
        r"|No such file or directory: '?s3|Path does not exist",
    ),
    _rule(
        "an input is empty",
        "leave it out (objects of 0 bytes are not planned unless --keep-empty), or let the script give a schema",
        says=r"UNABLE_TO_INFER_SCHEMA|length is too low: 0\b|\bis empty\b|No columns to parse|EmptyDataError",
    ),
    _rule(
        "an input is not in the format the script reads",
        "repair or --exclude that object, or let the script tolerate it; then sparklet redrive RUN",
        "BadRecordException",
        "NumberFormatException",
        "DateTimeParseException",
        "ZipException",
        "EOFException",
        "ParquetDecodingException",
        "JSONDecodeError",
        "UnicodeDecodeError",
        says=r"is not a Parquet file|MALFORMED_RECORD|CANNOT_READ_FILE|FAILED_READ_FILE|not in GZIP format"
        r"|Could not read footer|CSV header does not conform",
    ),
    _rule(
        "S3 or another service refused for a moment: too many requests, or no answer",
        "sparklet redrive RUN; if it recurs, fewer workers at a time (--rate, the mapping's concurrency)",
        "ObjectStoreError",
        "AWSServiceIOException",
        "ThrottlingException",
        "ConnectTimeoutException",
        "SocketTimeoutException",
        "UnknownHostException",
        says=r"Slow ?Down|Status Code: 50[0-9]|\bThrottl|Connection refused|Unable to execute HTTP request"
        r"|Could not connect to the endpoint|timed? ?out",
    ),
)

_OF_THE_SCRIPT = (
    _rule("the script does not compile", _FIX_AND_REDRIVE, "SyntaxError", "IndentationError", "TabError"),
    _rule(
        "the script asks for a table, column or type that is not there",
        "compare it with the input's schema and " + _FIX_AND_REDRIVE,
        "AnalysisException",
        "ParseException",
    ),
    _rule(
        "the script imports what is not there",
        "bring it with --py-files, or put it into the image; then sparklet redrive RUN",
        "ModuleNotFoundError",
        "ImportError",
        "ClassNotFoundException",
        "NoClassDefFoundError",
    ),
    _rule("the script uses a name that is not there", _FIX_AND_REDRIVE, "NameError", "AttributeError"),
    _rule(
        "the script could not be fetched",
        "see that its copy below runs/RUN/script/ is there and may be read; sparklet redrive RUN --script SCRIPT.py",
        "ScriptFetchError",
    ),
    _rule(
        "the script reported something that is no report, or the event is not what it must be",
        "let it report through sparklet.job (job.report); then " + _FIX_AND_REDRIVE,
        "EventError",
    ),
    _rule(
        "what the check script expects of the run is not so",
        "look at the output; once it is right, sparklet redrive of the run that was judged has it judged again",
        "ExpectationError",
    ),
    _rule(
        "a setting is missing or wrong",
        "sparklet doctor names it; set it on the function, then sparklet redrive RUN",
        "SettingsError",
    ),
)

_RULES = (*_ENDED_BY_SPARKLET, *_OF_THE_SETTING, *_OF_RESOURCES, *_OF_INPUT, *_OF_THE_SCRIPT)

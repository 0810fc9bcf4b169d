"""From what the ledger keeps of a failure to its likely reason and a remedy.

The rules are read in order and the first that fits counts: what Sparklet itself knows for certain comes first, what a
message only suggests after it, and the script's own error last.
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
    """An advice that fits by the class of a failure, or by its message."""

    reason: str
    remedy: str
    classes: str = ""  # separated by blanks, without their packages
    message: str = ""  # a regular expression; case does not count

    def fits(self, error_class: str, message: str) -> bool:
        by_message = self.message and re.search(self.message, message, re.IGNORECASE)
        return error_class in self.classes.split() or bool(by_message)


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
    found = next((rule for rule in _RULES if rule.fits(name, message)), None) or _script_error(name)
    place = _PLACE.search(message)
    return Advice(f"{found.reason}, at {place[0]}" if place else found.reason, found.remedy)


def _script_error(name: str) -> Advice:
    what = f"raised {name}" if name and name != "ScriptFailedError" else "ended with an exit code other than 0"
    return Advice(
        f"the script {what}",
        "see what it wrote: sparklet logs RUN SHARD; if the script is at fault " + _FIX_AND_REDRIVE,
    )


_RULES = (
    # what Sparklet itself ended
    _Rule(
        "the run was cancelled before the shard was done",
        "nothing, if that was meant; sparklet redrive RUN does it after all",
        classes="RunCancelled",
    ),
    _Rule(
        "the run's time limit was over before the shard was done",
        "see why it took so long (sparklet status RUN), then sparklet redrive RUN: the limit begins anew",
        classes="RunTimeLimit",
    ),
    _Rule(
        "no worker ever claimed the shard: the functions are throttled, or cannot start at all",
        "look at the function's log and its reserved concurrency; sparklet doctor; then sparklet redrive RUN",
        classes="NeverStarted NeverClaimed DeadLetter",
    ),
    _Rule(
        "more shards had failed than the run tolerates, so the state machine stopped before this one was done",
        "see why those failed (sparklet explain RUN), then sparklet redrive RUN does all of them",
        classes="ToleranceExceeded",
    ),
    _Rule(
        "the shard is larger than one function can take on",
        "a new run that cuts it (--split), or another engine for it (EMR Serverless, Glue, ECS Fargate: the same"
        " script; sparklet commands)",
        classes="ShardTooLargeError",
    ),
    _Rule(
        "the worker vanished without a word: most often killed for want of memory, or at the function's timeout",
        "sparklet redrive RUN --memory MB with more, or a new run with smaller shards (--shard-size); the end of the "
        "log says how far it came: sparklet logs RUN SHARD",
        classes="LeaseExpired",
    ),
    _Rule(
        "the script needs longer than the function may run",
        "make shards smaller (--shard-size), give the function more time or memory (CPU comes with it)",
        classes="DeadlineExceededError",
    ),
    _Rule(
        "another attempt took the shard over while this one was still at work",
        "nothing: the other attempt's result counts; if it recurs, the function's timeout is too short",
        classes="LeaseLostError",
    ),
    # the deployment around the run
    _Rule(
        "the plan in the bucket is not the one that was written: a part was altered, or is gone",
        "do not touch runs/RUN/plan/; start the run again under another id",
        message=r"\bplan part\b|/plan/part-",
    ),
    _Rule(
        "the ledger was written by a newer Sparklet than the one that reads it",
        "upgrade Sparklet here and on the function to the same version",
        message=r"written by a newer Sparklet",
    ),
    _Rule(
        "the script lies outside the prefixes that the operator allowed",
        "put it below one of them, or add its prefix to SPARKLET_SCRIPT_PREFIXES",
        classes="ScriptNotAllowedError",
    ),
    _Rule(
        "the run's copy of the script is not the one that was planned",
        "do not touch runs/RUN/script/; sparklet redrive RUN --script SCRIPT.py puts a good copy there",
        message=r"changed after planning",
    ),
    _Rule(
        "the credentials are missing, wrong or have expired",
        "renew them, or give the function's role what it needs; then sparklet redrive RUN",
        classes="NoAuthWithAWSException CredentialInitializationException",
        message=r"wrong credentials|\b(?:ExpiredToken|InvalidAccessKeyId|SignatureDoesNotMatch|UnrecognizedClient)"
        r"|\bInvalidClientTokenId|unable to load (?:AWS )?credentials|no AWS credentials|unable to locate credentials",
    ),
    # memory, disk and the JVM
    _Rule(
        "memory was used up",
        "give the function more memory, make shards smaller (--shard-size), or collect less into the driver",
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
    # the input
    _Rule(
        "permission was denied",
        "allow the function's role to read the inputs (s3:GetObject, s3:ListBucket, kms:Decrypt) and to write the "
        "output; then sparklet redrive RUN",
        classes="ObjectForbiddenError AccessDeniedException AccessControlException",
        message=r"Access ?Denied|Status Code: 403|\b403 Forbidden\b|may not be accessed",
    ),
    _Rule(
        "an input (or the bucket) is gone, or was replaced after the run was planned",
        "put it back and sparklet redrive RUN, or start a new run without it",
        classes="ObjectNotFoundError ObjectChangedError FileNotFoundException SparkFileNotFoundException "
        "RemoteFileChangedException UnknownStoreException",
        message=r"\[PATH_NOT_FOUND\]|NoSuchKey|NoSuchBucket|bucket does not exist"
        r"|No such file or directory: '?s3|Path does not exist",
    ),
    _Rule(
        "an input is empty",
        "leave it out (objects of 0 bytes are not planned unless --keep-empty), or let the script give a schema",
        message=r"UNABLE_TO_INFER_SCHEMA|length is too low: 0\b|\bis empty\b|No columns to parse|EmptyDataError",
    ),
    _Rule(
        "an input is not in the format the script reads",
        "repair or --exclude that object, or let the script tolerate it; then sparklet redrive RUN",
        classes="BadRecordException NumberFormatException DateTimeParseException ZipException EOFException "
        "ParquetDecodingException JSONDecodeError UnicodeDecodeError",
        message=r"is not a Parquet file|MALFORMED_RECORD|CANNOT_READ_FILE|FAILED_READ_FILE|not in GZIP format"
        r"|Could not read footer|CSV header does not conform",
    ),
    _Rule(
        "S3 or another service refused for a moment: too many requests, or no answer",
        "sparklet redrive RUN; if it recurs, fewer workers at a time (--rate, the mapping's concurrency)",
        classes="ObjectStoreError AWSServiceIOException ThrottlingException ConnectTimeoutException "
        "SocketTimeoutException UnknownHostException",
        message=r"Slow ?Down|Status Code: 50[0-9]|\bThrottl|Connection refused|Unable to execute HTTP request"
        r"|Could not connect to the endpoint|timed? ?out",
    ),
    # the script
    _Rule(
        "the script does not compile",
        _FIX_AND_REDRIVE,
        classes="SyntaxError IndentationError TabError",
    ),
    _Rule(
        "the script asks for a table, column or type that is not there",
        "compare it with the input's schema and " + _FIX_AND_REDRIVE,
        classes="AnalysisException ParseException",
    ),
    _Rule(
        "the script imports what is not there",
        "bring it with --py-files, or put it into the image; then sparklet redrive RUN",
        classes="ModuleNotFoundError ImportError ClassNotFoundException NoClassDefFoundError",
    ),
    _Rule(
        "the script uses a name that is not there",
        _FIX_AND_REDRIVE,
        classes="NameError AttributeError",
    ),
    _Rule(
        "the script could not be fetched",
        "see that its copy below runs/RUN/script/ is there and may be read; sparklet redrive RUN --script SCRIPT.py",
        classes="ScriptFetchError",
    ),
    _Rule(
        "the script reported something that is no report, or the event is not what it must be",
        "let it report through sparklet.job (job.report); then " + _FIX_AND_REDRIVE,
        classes="EventError",
    ),
    _Rule(
        "what the check script expects of the run is not so",
        "look at the output; once it is right, redrive the run that was checked: it is checked again",
        classes="ExpectationError",
    ),
    _Rule(
        "a setting is missing or wrong",
        "sparklet doctor names it; set it on the function, then sparklet redrive RUN",
        classes="SettingsError",
    ),
)

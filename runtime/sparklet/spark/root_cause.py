"""The root cause of a script's failure, and the script's line, from what Python and Java wrote to standard error."""

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from urllib.parse import unquote

MAX_MESSAGE = 1000  # characters
GONE = "NoSuchKey|No such file or directory: '?s3"  # a cause's words: an object is not there

_NAME = r"(?P<name>(?:(?:[A-Za-z_$][\w$]*|<locals>)\.)*[A-Za-z_$][\w$]*)(?:: ?(?P<message>.*))?$"
_HEADER = re.compile(r"(?<!: )Traceback \(most recent call last\):$", re.MULTILINE)  # maybe after a progress bar
_ERROR = re.compile(f"^{_NAME}", re.MULTILINE)  # frames are indented, the error is not
_SYNTAX_ERROR = re.compile(r"^(?:SyntaxError|IndentationError|TabError): ", re.MULTILINE)
_SYNTAX_PLACE = re.compile(r"^  File \"(?P<file>.*)\", line (?P<line>\d+)$", re.MULTILINE)
_GROUP_EDGE = re.compile(r"^  (?:\| |\+ Exception Group (?=Traceback))", re.MULTILINE)
_THRIFT = re.compile(r"^(Caused by: [\w.$]+)\(message:(.*)\)$", re.MULTILINE)  # as Hive's metastore tells errors
_CAUSED_BY = re.compile(f"^Caused by: {_NAME}", re.MULTILINE)
_JAVA_TOP = re.compile(rf"^(?:: |Exception in thread \"[^\"]*\" ){_NAME}", re.MULTILINE)
_OF_S3A = re.compile(
    r"(?:`?(?P<uri>s3[an]?://[^\s']+)'?|(?P<key>\S+)(?=: [^:]* on (?P=key): )): "  # a write's names the key alone
    r"(?:.*?Exception: )?(?P<text>.*?) \(Service: [^;,]*[;,] Status Code: (?P<status>\d+)"
    r"(?:; Error Code: (?P<code>[^;)]*)|, [^)]*\)(?: \(SDK Attempt Count: \d+\))?:(?:null|(?P<code_of_sdk_2>\w+)))"
)
_CREDENTIALS = ("ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch")
_NO_JVM = "Error: Could not create the Java Virtual Machine."
_CRASHED = "Python worker exited unexpectedly"
_READING = re.compile(r"(?:while reading file (?P<uri>\S+?)|read footer for file: (?P<file>\S+?))\. ")
_LOST_TASK = re.compile(rf"executor [^ )]+\): {_NAME}", re.MULTILINE)
_TASK, _READER = re.compile(r"\(TID (?P<task>\d+)\) \([^)]*executor"), re.compile(r"\n\tat \S*\.FileScanRDD\$")
_OF_THE_INPUT = re.compile(
    r"\[(?:MALFORMED_(?:CSV_RECORD|RECORD_IN_PARSING)|CAST_(?:INVALID_INPUT|OVERFLOW))\b|PARSE_DATETIME_BY_NEW_PARSER"
    r"|CSV header does not conform|Number of column in CSV header is not equal|Unescaped quote character"
)
_OTHER_TYPES = "SchemaColumnConvertNotSupportedException", "ParquetDecodingException", "UnsupportedOperationException"
"""Root causes where a file of Parquet has other types than the schema by which it is read."""
_OF_SPARK_ITSELF = re.compile(  # a broken class or compiler; a mistake that Java found in Spark's own code
    r"java\.lang\.(?!OutOfMemory|StackOverflow)\w+Error\b|org\.codehaus\.\S+Exception\b|java\.(?:lang|util)\.(?:NullPointer|"
    r"ClassCast|IllegalState|NoSuchElement|ConcurrentModification|\w*IndexOutOfBounds)Exception\b.*\n"
    r"(?:\tat (?:[\w.]+/)?(?:java|jdk|sun)\..*\n)*\tat (?:org\.apache\.(?:spark|hadoop)|org\.codehaus|scala)\."
)
_INTERNAL_ERROR = re.compile(r"\[INTERNAL_ERROR\w*\]")
_AFTERMATH = re.compile(r"^(?:Error in atexit\._run_exitfuncs|Exception ignored in)", re.MULTILINE)
_FROM = "The above exception was the direct cause of the following exception:"
_MEANWHILE = "During handling of the above exception, another exception occurred:"

_FRAME = re.compile(r"^  File \"(?P<file>.*)\", line (?P<line>\d+),? in ", re.MULTILINE)  # a dump has no comma
_DUMP = re.compile(r"^(?P<current>Current thread|Thread) .*\n(?P<frames>(?:  File .*\n)+)", re.MULTILINE)

Cause = tuple[str, str]


def root_cause(stderr: str, file: str = "") -> Cause:
    """Class (without its package) and message of the innermost exception; without one "" and the last line.

    ``file``: the one that could not be read, which the message names, too.
    """
    text = _cleaned(stderr)
    name, message = _python_cause(text) or _java_cause(text) or ("", _last_line(text))
    prefix = f"{file}: " if PurePath(file).name not in message else ""
    return name.rpartition(".")[2], f"{prefix}{message.strip().rstrip(';')}"[:MAX_MESSAGE]


def bad_file(stderr: str, reads: Mapping[str, str]) -> str:
    """The address of the file whose reader raised the root cause; "" if that cannot be told.

    ``reads``: by id of Spark's task, the URI of the file that it has begun to read last. Only a cause with the reader's
    own frame is this file's: what is raised later may come of rows that were read long before.
    """
    text = _innermost(stderr)
    if reading := _READING.search(text):
        return reading["file"] or unquote(reading["uri"])
    for part in text.split("\nDriver stacktrace:"):
        if (task := _TASK.search(part)) and _READER.search(part, task.end()):
            return unquote(reads.get(task["task"], ""))
    return ""


def must_come_again(stderr: str) -> bool:
    """Whether Spark says that a value of the input is at fault, with an error that every attempt has."""
    return bool(_OF_THE_INPUT.search(_innermost(stderr))) or root_cause(stderr)[0] in _OTHER_TYPES


def is_sparks_own(stderr: str) -> bool:
    """Whether Spark's own code failed, as in a JVM that a script has broken, and not for a value or this script."""
    text = _innermost(stderr)
    chain = _java_chain(text)
    match = bool(chain) and _OF_SPARK_ITSELF.match(text, chain[0].start("name"))
    return bool(match or _INTERNAL_ERROR.search(text))


def script_line(stderr: str, files: Iterable[str]) -> str:
    """The script's line in the innermost exception's traceback, as ``line 7 of job.py``; "" if there is none.

    ``files``: the script and its py-files; a module within an archive counts as its file.
    """
    frames = list(_FRAME.finditer(_report(_cleaned(stderr)) or ""))
    return _place(reversed(frames), files)


def where_it_was(stderr: str, files: Iterable[str]) -> str:
    """The script's line in the last stack dump, as ``line 7 of job.py``; "" if there is none.

    The main thread's, else another's: a script that ends waits for its threads.
    """
    ends = [match for match in _DUMP.finditer(stderr) if match["current"] == "Current thread"]
    since = ends[-2].end() if len(ends) > 1 else 0
    threads = sorted(_DUMP.finditer(stderr, since), key=lambda match: match["current"])  # the current one first
    places = (_place(_FRAME.finditer(match["frames"]), files) for match in threads)
    return next(filter(None, places), "")


def _place(frames: Iterable[re.Match[str]], files: Iterable[str]) -> str:
    script_files = tuple(files)
    for frame in frames:
        if any(frame["file"] == file or frame["file"].startswith(f"{file}/") for file in script_files):
            return f"line {frame['line']} of {PurePath(frame['file']).name}"
    return ""


def _cleaned(stderr: str) -> str:
    """The text without the borders of exception groups, and without what failed later, as the interpreter ended."""
    text = _THRIFT.sub(r"\1: \2", _GROUP_EDGE.sub("", stderr.replace("\r\n", "\n")))
    aftermath = _AFTERMATH.search(text)
    return text[: aftermath.start()] if aftermath and _HEADER.search(text, 0, aftermath.start()) else text


def _python_cause(text: str) -> Cause | None:
    report = _report(text)
    if report is None:
        match = _SYNTAX_ERROR.search(text)  # a script that does not compile has no traceback
        return _error_in(text) if match else None
    return _error_in(report)


def _innermost(stderr: str) -> str:
    text = _cleaned(stderr)
    return _report(text) or text


def _report(text: str) -> str | None:
    """The last traceback, or that of the error it was raised ``from``, and the text after it."""
    headers = [match.end() for match in _HEADER.finditer(text)]
    if not headers:
        return None
    # ``from`` is the script's own word for the cause. Without it the later of two errors counts: the script was
    # handling the earlier one.
    last = len(headers) - 1
    while last > 0 and _FROM in text[headers[last - 1] : headers[last]]:
        last -= 1
    report = text[headers[last] :]
    for link in (_FROM, _MEANWHILE):
        report = report.partition(link)[0]
    return report


def _error_in(report: str) -> Cause | None:
    error = _ERROR.search(report)
    if error is None:
        return None
    name, message = error["name"], error["message"] or ""
    rest = report[error.end() :]
    if name.endswith("Py4JJavaError"):
        return _java_cause(rest) or (name, message)
    if _SYNTAX_ERROR.match(error[0]) and (places := list(_SYNTAX_PLACE.finditer(report))):
        return name, f"{message} ({PurePath(places[-1]['file']).name}, line {places[-1]['line']})"
    # Some messages, as those of several lines, begin on the line after the class.
    return name, message if message.strip() or ":" not in error[0] else _first_line(rest)


def _java_chain(text: str) -> list[re.Match[str]]:
    """Java's exceptions, the innermost first: each ``Caused by``, the lost task's error, the exception itself."""
    outer = [match for match in (_LOST_TASK.search(text), _JAVA_TOP.search(text)) if match]
    return [*reversed(list(_CAUSED_BY.finditer(text))), *outer]


def _java_cause(text: str) -> Cause | None:
    """The innermost exception of Java, or an outer one that says more."""
    if not (chain := _java_chain(text)):
        return None
    if outside := _outer_cause(chain):
        return outside
    name, message = chain[0]["name"], chain[0]["message"] or ""
    if message.startswith("Traceback "):  # a Python exception that passed through the JVM
        return _error_in(text[chain[0].end() :]) or (name, message)
    return name, message


def _outer_cause(chain: Iterable[re.Match[str]]) -> Cause | None:
    """An outer exception that says more than the innermost: S3A's names the object, Spark's a dead Python worker."""
    for match in chain:
        message = match["message"] or ""
        if message.startswith(_CRASHED):
            return match["name"], message
        # The expression backtracks, which on an endless message would take very long.
        if of_s3a := _OF_S3A.match(message[: 2 * MAX_MESSAGE]):
            status, code = of_s3a["status"], of_s3a["code"] or of_s3a["code_of_sdk_2"] or ""
            code = code.removeprefix(status).strip()
            denied = "permission denied: " if status == "403" else ""
            what = "wrong credentials: " if code in _CREDENTIALS else denied
            answer = f"{status} {code}".strip()
            return match["name"], f"{what}{of_s3a['uri'] or of_s3a['key']}: {of_s3a['text'].strip()} ({answer})"
    return None


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip()), "")


def _last_line(text: str) -> str:
    text = text.partition(_NO_JVM)[0] or text  # the line before it names the reason
    return _first_line("\n".join(reversed(text.splitlines())))

"""The output of a script: it is passed on line by line, and its last lines are searched for the cause of a failure."""

import re
import signal
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Literal
from urllib.parse import unquote

from sparklet.errors import GatewayLostError, OutOfMemoryError, ScratchFullError, SparkRuntimeError
from sparklet.spark.runner import Output, ScriptCall, ScriptResult, Stream

MAX_PIECE_BYTES = 64 * 1024  # a longer line is passed on in pieces
TAIL_BYTES = 8 * 1024
OUT_OF_MEMORY = b"Terminating due to java.lang.OutOfMemoryError"  # the message of Java's ExitOnOutOfMemoryError
CAUSE_WINDOW_BYTES = 128 * 1024  # a Spark failure prints its stack three times
MORE_MEMORY = "give the function more memory, or make shards smaller"
MORE_SPACE = "give the function more ephemeral storage, or make shards smaller"
KILLED = "killed from outside, as the kernel does when memory is used up"
JAVAS_MEMORY = frozenset({"OutOfMemoryError", "SparkOutOfMemoryError"})  # the JVM survives the latter
PYTHONS_MEMORY = frozenset({"MemoryError", "_ArrayMemoryError", "ArrowMemoryError"})
MAX_READS = 1000  # how many Spark tasks are remembered with their files; few run at a time
# A line of log4j2.properties. A thread that feeds a Python worker does not name its task.
READS = re.compile(
    rb"(?>(.*?)sparklet\.reads )(?>.*?\(TID (\d+)\)|.*?(?= Reading File)) Reading File path: (.*?), range: "
)
NO_SPACE = re.compile(r"No space left on device|\[Errno 28\]|Disk quota exceeded")


class LineFeed:
    """Splits the bytes of a pipe into lines."""

    def __init__(self, sink: Callable[[bytes], None]) -> None:
        self._sink = sink
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        """Pass on all complete lines. An empty chunk means the end: the rest is passed on as well."""
        *complete_lines, rest = (self._rest + chunk).split(b"\n")
        lines = [line + b"\n" for line in complete_lines]
        if not chunk or len(rest) >= MAX_PIECE_BYTES:
            lines.append(rest)
            rest = b""
        self._rest = rest
        for line in lines:
            for start in range(0, len(line), MAX_PIECE_BYTES):
                self._sink(line[start : start + MAX_PIECE_BYTES])


class Tail:
    """The last bytes of a stream."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._bytes = bytearray()

    def add(self, line: bytes) -> None:
        """Append a line; old bytes are dropped."""
        self._bytes += line
        # Only at twice the size, since otherwise each line would move all bytes.
        if len(self._bytes) > 2 * self._size:
            del self._bytes[: -self._size]

    def text(self) -> str:
        """The kept lines, without a first line whose beginning was dropped."""
        content = bytes(self._bytes[-self._size :])
        if len(self._bytes) > self._size and b"\n" in content[:-1]:
            content = content[content.index(b"\n") + 1 :]
        return content.decode(errors="replace")


class ScriptOutput:
    """The output of one script, and of the JVM while the script runs."""

    def __init__(self, output: Output, call: ScriptCall) -> None:
        self._output, self.call = output, call
        self.files = tuple(str(path) for path in (call.script, *call.py_files))  # a cause can have a line of these
        self.out_of_memory = ""  # Java's message if the JVM ran out of memory
        self._reads = dict[str, str]()  # by Spark task, the file that the task reads
        self._tail = Tail(TAIL_BYTES)  # of standard error, for the result
        # A longer part of standard error, by source: the cause of a failure is looked for in it.
        self._windows = {"script": Tail(CAUSE_WINDOW_BYTES), "jvm": Tail(CAUSE_WINDOW_BYTES)}

    def add(self, source: Literal["script", "jvm"], stream: Stream, line: bytes) -> None:
        """Pass a line on. Keep it if it comes from standard error, where the cause of a failure is looked for later.

        A report on the file that a Spark task reads is recorded and not passed on.
        """
        if stream == "stderr":
            if not (line := self._strip_read_report(line)):
                return
            self._tail.add(line)
            self._windows[source].add(line)
        if source == "jvm" and line.startswith(OUT_OF_MEMORY):
            self.out_of_memory = line.decode(errors="replace").rpartition(": ")[2].strip()
        self._output(stream, line)

    def result(self, exit_code: int, *, started: bool = True, used: bool = False) -> ScriptResult:
        """The script's result, with the cause of a failure from the script's output or, if that is empty, the JVM's.

        ``started`` tells whether the script reached its first line (if not, any output of the JVM is about that), and
        ``used`` whether other scripts have used the JVM before. Raises OutOfMemoryError if Python ran out of memory, or
        the JVM did and survived it; ScratchFullError if there was no space left.
        """
        if exit_code == 0:
            return ScriptResult(0, self._tail.text())
        output = self._windows["script"].text()
        file = bad_file(output, self._reads)
        cause_class, cause = root_cause(output, file)
        if not output.strip():
            cause_class, cause = root_cause(self._windows["jvm"].text())
            if started and not cause_class:
                cause = ""  # without an exception it is the log's last line, which is no cause
        line = script_line(output, self.files)
        _raise_if_used_up(cause_class, cause, line)
        if exit_code < 0 and not cause_class:
            killed = f": {KILLED}" if exit_code == -signal.SIGKILL else ""
            cause = f"ended by {signal_name(-exit_code)}{killed}"
        files = (file,) if file else ()
        comes_again, suspect = must_come_again(output), used and is_spark_failure(output)
        return ScriptResult(exit_code, self._tail.text(), cause_class, cause, line, files, comes_again, suspect)

    def _strip_read_report(self, line: bytes) -> bytes:
        """If the line ends in a report on the file that a Spark task reads, record that; return the line without it."""
        if not (match := READS.match(line)):
            return line
        task, file = ((group or b"").decode(errors="replace") for group in match.groups()[1:])
        # Removed first, so that the task becomes the youngest entry: the oldest is dropped below.
        self._reads.pop(task, None)
        self._reads[task] = file
        if len(self._reads) > MAX_READS:
            del self._reads[next(iter(self._reads))]
        return match[1]

    def jvm_failure(self, code: int) -> SparkRuntimeError:
        """The error for a JVM that ended before the script did."""
        if self.out_of_memory:
            return OutOfMemoryError(f"the JVM ran out of memory: {self.out_of_memory}; {MORE_MEMORY}")
        end = f"was ended by {signal_name(-code)}" if code < 0 else f"ended with {code}"
        hint = "; is the function's memory too small?" if code == -signal.SIGKILL else ""
        cause = ": ".join(filter(None, root_cause(self._windows["jvm"].text())))
        return GatewayLostError(f"the JVM {end} under the script{hint}" + (f"; its output: {cause}" if cause else ""))

    def script_stderr(self) -> str:
        """The kept part of the script's standard error."""
        return self._windows["script"].text()


def _raise_if_used_up(cause_class: str, cause: str, line: str) -> None:
    """Raise OutOfMemoryError or ScratchFullError if the script failed for lack of memory or space."""
    position = f" at {line}" if line else ""
    if cause_class in JAVAS_MEMORY:
        raise OutOfMemoryError(f"the JVM ran out of memory{position}: {cause}; {MORE_MEMORY}")
    if cause_class in PYTHONS_MEMORY:
        message = f": {cause}" if cause else ""
        raise OutOfMemoryError(f"the script's Python ran out of memory{position}{message}; {MORE_MEMORY}")
    if NO_SPACE.search(cause):
        raise ScratchFullError(f"there was no space left{position}: {cause}; {MORE_SPACE}")


def signal_name(number: int) -> str:
    """The name of a signal, such as ``SIGKILL`` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


MAX_MESSAGE = 1000  # characters
GONE = "NoSuchKey|No such file or directory: '?s3"  # found in a cause if an object is not there

_NAME = r"(?P<name>(?:(?:[A-Za-z_$][\w$]*|<locals>)\.)*[A-Za-z_$][\w$]*)(?:: ?(?P<message>.*))?$"
_HEADER = re.compile(r"(?<!: )Traceback \(most recent call last\):$", re.MULTILINE)  # can follow a progress bar
_ERROR = re.compile(f"^{_NAME}", re.MULTILINE)  # frames are indented, the error itself is not
_SYNTAX_ERROR = re.compile(r"^(?:SyntaxError|IndentationError|TabError): ", re.MULTILINE)
_SYNTAX_PLACE = re.compile(r"^  File \"(?P<file>.*)\", line (?P<line>\d+)$", re.MULTILINE)
_GROUP_EDGE = re.compile(r"^  (?:\| |\+ Exception Group (?=Traceback))", re.MULTILINE)
_THRIFT = re.compile(r"^(Caused by: [\w.$]+)\(message:(.*)\)$", re.MULTILINE)  # as Hive's metastore writes errors
_CAUSED_BY = re.compile(f"^Caused by: {_NAME}", re.MULTILINE)
_JAVA_TOP = re.compile(rf"^(?:: |Exception in thread \"[^\"]*\" ){_NAME}", re.MULTILINE)
_S3A_ERROR = re.compile(
    r"(?:`?(?P<uri>s3[an]?://[^\s']+)'?|(?P<key>\S+)(?=: [^:]* on (?P=key): )): "  # after a write it names only the key
    r"(?:.*?Exception: )?(?P<text>.*?) \(Service: [^;,]*[;,] Status Code: (?P<status>\d+)"
    r"(?:; Error Code: (?P<code>[^;)]*)|, [^)]*\)(?: \(SDK Attempt Count: \d+\))?:(?:null|(?P<code_of_sdk_2>\w+)))"
)
_CREDENTIALS = ("ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch")
_NO_JVM = "Error: Could not create the Java Virtual Machine."
_WORKER_CRASH = "Python worker exited unexpectedly"
_READING = re.compile(r"(?:while reading file (?P<uri>\S+?)|read footer for file: (?P<file>\S+?))\. ")
_LOST_TASK = re.compile(rf"executor [^ )]+\): {_NAME}", re.MULTILINE)
_TASK, _READER = re.compile(r"\(TID (?P<task>\d+)\) \([^)]*executor"), re.compile(r"\n\tat \S*\.FileScanRDD\$")
_INPUT_ERROR = re.compile(
    r"\[(?:MALFORMED_(?:CSV_RECORD|RECORD_IN_PARSING)|CAST_(?:INVALID_INPUT|OVERFLOW))\b|PARSE_DATETIME_BY_NEW_PARSER"
    r"|CSV header does not conform|Number of column in CSV header is not equal|Unescaped quote character"
)
_TYPE_MISMATCHES = (
    "SchemaColumnConvertNotSupportedException",
    "ParquetDecodingException",
    "UnsupportedOperationException",
)
"""Root causes if a Parquet file has other types than the schema with which it is read."""
# A class that cannot be loaded, a compiler's error, or an exception such as NullPointerException in Spark's own code.
_SPARKS_OWN_ERROR = re.compile(
    r"java\.lang\.(?!OutOfMemory|StackOverflow)\w+Error\b|org\.codehaus\.\S+Exception\b|java\.(?:lang|util)\.(?:NullPointer|"
    r"ClassCast|IllegalState|NoSuchElement|ConcurrentModification|\w*IndexOutOfBounds)Exception\b.*\n"
    r"(?:\tat (?:[\w.]+/)?(?:java|jdk|sun)\..*\n)*\tat (?:org\.apache\.(?:spark|hadoop)|org\.codehaus|scala)\."
)
_INTERNAL_ERROR = re.compile(r"\[INTERNAL_ERROR\w*\]")
_AFTERMATH = re.compile(r"^(?:Error in atexit\._run_exitfuncs|Exception ignored in)", re.MULTILINE)
_CAUSE_LINK = "The above exception was the direct cause of the following exception:"
_CONTEXT_LINK = "During handling of the above exception, another exception occurred:"

_FRAME = re.compile(r"^  File \"(?P<file>.*)\", line (?P<line>\d+),? in ", re.MULTILINE)  # stack dumps have no comma
_DUMP = re.compile(r"^(?P<current>Current thread|Thread) .*\n(?P<frames>(?:  File .*\n)+)", re.MULTILINE)

Cause = tuple[str, str]


def root_cause(stderr: str, file: str = "") -> Cause:
    """Class (without its package) and message of the innermost exception; "" and the last line if there is none.

    If ``file``, which could not be read, is not in the message, it is put in front.
    """
    text = _clean_text(stderr)
    name, message = _python_cause(text) or _java_cause(text) or ("", _last_line(text))
    prefix = f"{file}: " if PurePath(file).name not in message else ""
    return name.rpartition(".")[2], f"{prefix}{message.strip().rstrip(';')}"[:MAX_MESSAGE]


def bad_file(stderr: str, reads: Mapping[str, str]) -> str:
    """The address of the file whose reader raised the root cause; "" if it is unknown.

    ``reads`` has, by Spark task, the URI of the file that the task has begun to read last. This file is only blamed if
    the cause has the reader's own frame: other errors may be due to rows that were read long before.
    """
    text = _innermost_report(stderr)
    if reading := _READING.search(text):
        return reading["file"] or unquote(reading["uri"])
    for part in text.split("\nDriver stacktrace:"):
        if (task := _TASK.search(part)) and _READER.search(part, task.end()):
            return unquote(reads.get(task["task"], ""))
    return ""


def must_come_again(stderr: str) -> bool:
    """Whether each attempt would fail in the same way, since Spark blames a value of the input."""
    return bool(_INPUT_ERROR.search(_innermost_report(stderr))) or root_cause(stderr)[0] in _TYPE_MISMATCHES


def is_spark_failure(stderr: str) -> bool:
    """Whether Spark's own code failed, as in a JVM that an earlier script has broken."""
    text = _innermost_report(stderr)
    chain = _java_chain(text)
    match = bool(chain) and _SPARKS_OWN_ERROR.match(text, chain[0].start("name"))
    return bool(match or _INTERNAL_ERROR.search(text))


def script_line(stderr: str, files: Iterable[str]) -> str:
    """The script's line in the innermost exception's traceback, as ``line 7 of job.py``; "" if there is none.

    ``files`` are the script and its py-files; lines of modules in an archive count as well.
    """
    frames = list(_FRAME.finditer(_report(_clean_text(stderr)) or ""))
    return _script_line_in(reversed(frames), files)


def line_reached(stderr: str, files: Iterable[str]) -> str:
    """The script's line in the last stack dump, as ``line 7 of job.py``; "" if there is none.

    It is the main thread's line or, if the main thread only waits for others at its end, another thread's.
    """
    # A dump's last entry is the current thread, so the last dump begins behind the last but one of these.
    dump_ends = [match for match in _DUMP.finditer(stderr) if match["current"] == "Current thread"]
    since = dump_ends[-2].end() if len(dump_ends) > 1 else 0
    threads = sorted(_DUMP.finditer(stderr, since), key=lambda match: match["current"])  # the current thread first
    places = (_script_line_in(_FRAME.finditer(match["frames"]), files) for match in threads)
    return next(filter(None, places), "")


def _script_line_in(frames: Iterable[re.Match[str]], files: Iterable[str]) -> str:
    """The line of the first frame that is in one of the files, as ``line 7 of job.py``; "" if there is none."""
    script_files = tuple(files)
    for frame in frames:
        if any(frame["file"] == file or frame["file"].startswith(f"{file}/") for file in script_files):
            return f"line {frame['line']} of {PurePath(frame['file']).name}"
    return ""


def _clean_text(stderr: str) -> str:
    """The text without the borders of exception groups, and without errors that the interpreter reported at its end."""
    text = _THRIFT.sub(r"\1: \2", _GROUP_EDGE.sub("", stderr.replace("\r\n", "\n")))
    aftermath = _AFTERMATH.search(text)
    return text[: aftermath.start()] if aftermath and _HEADER.search(text, 0, aftermath.start()) else text


def _python_cause(text: str) -> Cause | None:
    report = _report(text)
    if report is None:
        match = _SYNTAX_ERROR.search(text)  # a script that does not compile has no traceback
        return _error_in(text) if match else None
    return _error_in(report)


def _innermost_report(stderr: str) -> str:
    text = _clean_text(stderr)
    return _report(text) or text


def _report(text: str) -> str | None:
    """The last traceback with the text after it, or the traceback of its ``from``; None if there is no traceback."""
    headers = [match.end() for match in _HEADER.finditer(text)]
    if not headers:
        return None
    # With ``raise … from`` the script itself names the earlier error as the cause. Otherwise the later error counts,
    # since the script was handling the earlier one.
    last = len(headers) - 1
    while last > 0 and _CAUSE_LINK in text[headers[last - 1] : headers[last]]:
        last -= 1
    report = text[headers[last] :]
    for link in (_CAUSE_LINK, _CONTEXT_LINK):
        report = report.partition(link)[0]
    return report


def _error_in(report: str) -> Cause | None:
    """Class and message of the error behind a traceback, or of its cause in Java; None if there is no error."""
    error = _ERROR.search(report)
    if error is None:
        return None
    name, message = error["name"], error["message"] or ""
    rest = report[error.end() :]
    if name.endswith("Py4JJavaError"):
        return _java_cause(rest) or (name, message)
    if _SYNTAX_ERROR.match(error[0]) and (places := list(_SYNTAX_PLACE.finditer(report))):
        return name, f"{message} ({PurePath(places[-1]['file']).name}, line {places[-1]['line']})"
    # Some messages, such as those of several lines, begin on the line after the class.
    if ":" in error[0] and not message.strip():
        message = _first_line(rest)
    return name, message


def _java_chain(text: str) -> list[re.Match[str]]:
    """Java's exceptions, the innermost first: those after ``Caused by``, the lost task's error, the outermost one."""
    outer = [match for match in (_LOST_TASK.search(text), _JAVA_TOP.search(text)) if match]
    return [*reversed(list(_CAUSED_BY.finditer(text))), *outer]


def _java_cause(text: str) -> Cause | None:
    """The innermost Java exception, or an outer one that says more; None if there is none."""
    if not (chain := _java_chain(text)):
        return None
    if outer_cause := _outer_cause(chain):
        return outer_cause
    name, message = chain[0]["name"], chain[0]["message"] or ""
    if message.startswith("Traceback "):  # a Python exception that passed through the JVM
        return _error_in(text[chain[0].end() :]) or (name, message)
    return name, message


def _outer_cause(chain: Iterable[re.Match[str]]) -> Cause | None:
    """The first exception that says more than the innermost one; None if there is none.

    S3A's exception names the object, and Spark's says that a Python worker crashed.
    """
    for match in chain:
        message = match["message"] or ""
        if message.startswith(_WORKER_CRASH):
            return match["name"], message
        # The message is cut: on a long one the expression would backtrack for very long.
        if error := _S3A_ERROR.match(message[: 2 * MAX_MESSAGE]):
            status, code = error["status"], error["code"] or error["code_of_sdk_2"] or ""
            code = code.removeprefix(status).strip()
            prefix = ""
            if code in _CREDENTIALS:
                prefix = "wrong credentials: "
            elif status == "403":
                prefix = "permission denied: "
            http_status = f"{status} {code}".strip()
            return match["name"], f"{prefix}{error['uri'] or error['key']}: {error['text'].strip()} ({http_status})"
    return None


def _first_line(text: str) -> str:
    """The first line that is not blank; "" if there is none."""
    return next((line for line in text.splitlines() if line.strip()), "")


def _last_line(text: str) -> str:
    """The last line that is not blank; "" if there is none."""
    text = text.partition(_NO_JVM)[0] or text  # the line before this message names the reason
    return _first_line("\n".join(reversed(text.splitlines())))

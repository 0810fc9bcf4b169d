"""The output of a script: passed on line by line, its last lines kept for the root cause of a failure."""

import re
import signal
from collections.abc import Callable
from typing import Literal

from sparklet.errors import GatewayLostError, OutOfMemoryError, ScratchFullError, SparkRuntimeError
from sparklet.spark.root_cause import bad_file, is_sparks_own, must_come_again, root_cause, script_line
from sparklet.spark.runner import Output, ScriptCall, ScriptResult, Stream

MAX_PIECE_BYTES = 64 * 1024  # a longer line is passed on in pieces
TAIL_BYTES = 8 * 1024
OUT_OF_MEMORY = b"Terminating due to java.lang.OutOfMemoryError"  # the message of Java's ExitOnOutOfMemoryError
CAUSE_WINDOW_BYTES = 128 * 1024  # a Spark failure prints its stack three times
MORE_MEMORY = "give the function more memory, or make shards smaller"
MORE_SPACE = "give the function more ephemeral storage, or make shards smaller"
KILLED = "killed from outside, as the kernel does when memory is used up"
JAVAS_MEMORY = frozenset({"OutOfMemoryError", "SparkOutOfMemoryError"})  # the JVM survives Spark's own
PYTHONS_MEMORY = frozenset({"MemoryError", "_ArrayMemoryError", "ArrowMemoryError"})
MAX_READS = 1000  # of Spark's tasks, of which few run at a time
READS = re.compile(  # log4j2's; a thread that feeds a worker of Python does not name its task
    rb"(?>(.*?)sparklet\.reads )(?>.*?\(TID (\d+)\)|.*?(?= Reading File)) Reading File path: (.*?), range: "
)
NO_SPACE = re.compile(r"No space left on device|\[Errno 28\]|Disk quota exceeded")


class LineFeed:
    """Splits the bytes of a pipe into lines."""

    def __init__(self, sink: Callable[[bytes], None]) -> None:
        self._sink = sink
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        """Pass on the lines that are complete now; an empty chunk is the end, and flushes."""
        *complete, rest = (self._rest + chunk).split(b"\n")
        lines = [line + b"\n" for line in complete]
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
        """Append a line; older ones are dropped."""
        self._bytes += line
        # At twice the size only, or each line would move all bytes.
        if len(self._bytes) > 2 * self._size:
            del self._bytes[: -self._size]

    def text(self) -> str:
        """The kept lines, without one whose beginning is lost."""
        content = bytes(self._bytes[-self._size :])
        if len(self._bytes) > self._size and b"\n" in content[:-1]:
            content = content[content.index(b"\n") + 1 :]
        return content.decode(errors="replace")


class ScriptOutput:
    """The output of one script and of its JVM meanwhile."""

    def __init__(self, output: Output, call: ScriptCall) -> None:
        self._output, self.call = output, call
        self.files = tuple(str(path) for path in (call.script, *call.py_files))  # whose lines a cause may name
        self.out_of_memory = ""  # Java's message
        self._reads = dict[str, str]()  # by id of Spark's task, the file that it reads
        self._tail = Tail(TAIL_BYTES)
        self._windows = {"script": Tail(CAUSE_WINDOW_BYTES), "jvm": Tail(CAUSE_WINDOW_BYTES)}

    def add(self, source: Literal["script", "jvm"], stream: Stream, line: bytes) -> None:
        """Pass a line on and keep it if a cause may need it."""
        if stream == "stderr":
            if not (line := self._without_reads(line)):
                return
            self._tail.add(line)
            self._windows[source].add(line)
        if source == "jvm" and line.startswith(OUT_OF_MEMORY):
            self.out_of_memory = line.decode(errors="replace").rpartition(": ")[2].strip()
        self._output(stream, line)

    def result(self, exit_code: int, *, started: bool = True, used: bool = False) -> ScriptResult:
        """The script's result; its cause comes from the script's own output, else from the JVM's.

        ``started``: whether the script reached its first line; if not, the JVM's output is about that. ``used``:
        whether other scripts had the JVM before. Raises OutOfMemoryError if Python ran out of memory, or the JVM did
        and survived it, ScratchFullError without space.
        """
        if exit_code == 0:
            return ScriptResult(0, self._tail.text())
        output = self._windows["script"].text()
        file = bad_file(output, self._reads)
        cause_class, cause = root_cause(output, file)
        if not output.strip():
            jvms = root_cause(self._windows["jvm"].text())
            cause_class, cause = jvms if jvms[0] or not started else ("", "")  # a log's last line is no cause
        line = script_line(output, self.files)
        _raise_if_used_up(cause_class, cause, line)
        if exit_code < 0 and not cause_class:
            killed = f": {KILLED}" if exit_code == -signal.SIGKILL else ""
            cause = f"ended by {signal_name(-exit_code)}{killed}"
        files = (file,) if file else ()
        again, suspect = must_come_again(output), used and is_sparks_own(output)
        return ScriptResult(exit_code, self._tail.text(), cause_class, cause, line, files, again, suspect)

    def _without_reads(self, line: bytes) -> bytes:
        """Note which file a task of Spark reads now, if the line says so; what is left of the line."""
        if not (match := READS.match(line)):
            return line
        task, file = ((group or b"").decode(errors="replace") for group in match.groups()[1:])
        # Taken out first, so that it becomes the youngest: the oldest is dropped below.
        self._reads.pop(task, None)
        self._reads[task] = file
        if len(self._reads) > MAX_READS:
            del self._reads[next(iter(self._reads))]
        return match[1]

    def jvm_failure(self, code: int) -> SparkRuntimeError:
        """The error for a JVM that ended before the script did."""
        if self.out_of_memory:
            return OutOfMemoryError(f"the JVM ran out of memory: {self.out_of_memory}; {MORE_MEMORY}")
        how = f"was ended by {signal_name(-code)}" if code < 0 else f"ended with {code}"
        hint = "; is the function's memory too small?" if code == -signal.SIGKILL else ""
        cause = ": ".join(filter(None, root_cause(self._windows["jvm"].text())))
        return GatewayLostError(f"the JVM {how} under the script{hint}" + (f"; its output: {cause}" if cause else ""))

    def script_stderr(self) -> str:
        """The kept part of the script's standard error."""
        return self._windows["script"].text()


def _raise_if_used_up(cause_class: str, cause: str, line: str) -> None:
    """Raise OutOfMemoryError or ScratchFullError if that is the cause of a script's failure."""
    position = f" at {line}" if line else ""
    if cause_class in JAVAS_MEMORY:
        raise OutOfMemoryError(f"the JVM ran out of memory{position}: {cause}; {MORE_MEMORY}")
    if cause_class in PYTHONS_MEMORY:
        message = f": {cause}" if cause else ""
        raise OutOfMemoryError(f"the script's Python ran out of memory{position}{message}; {MORE_MEMORY}")
    if NO_SPACE.search(cause):
        raise ScratchFullError(f"there was no space left{position}: {cause}; {MORE_SPACE}")


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

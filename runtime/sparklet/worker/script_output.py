"""What a script writes: passed on line by line, the end of it kept.

However much comes, and however long a line is, memory stays bounded.
"""

import re
import signal
from collections.abc import Callable
from functools import partial
from typing import Literal

from sparklet.errors import GatewayLostError, OutOfMemoryError, ScratchFullError, SparkRuntimeError
from sparklet.worker.root_cause import root_cause, script_line
from sparklet.worker.runner import Output, ScriptCall, ScriptResult, Stream

MAX_PIECE_BYTES = 64 * 1024  # a longer line is passed on in pieces
TAIL_BYTES = 8 * 1024
OUT_OF_MEMORY = b"Terminating due to java.lang.OutOfMemoryError"  # what Java's ExitOnOutOfMemoryError says
CAUSE_WINDOW_BYTES = 128 * 1024  # a Spark failure tells its stack three times


MORE_MEMORY = "give the function more memory, or make shards smaller"
MORE_SPACE = "give the function more ephemeral storage, or make shards smaller"
KILLED = "killed from outside, as the kernel does when memory is used up"
JAVAS_MEMORY = frozenset({"OutOfMemoryError", "SparkOutOfMemoryError"})  # the JVM survives Spark's own
PYTHONS_MEMORY = frozenset({"MemoryError", "_ArrayMemoryError", "ArrowMemoryError"})
NO_SPACE = re.compile(r"No space left on device|\[Errno 28\]|Disk quota exceeded")


class LineFeed:
    """Cuts what comes from a pipe into lines."""

    def __init__(self, sink: Callable[[bytes], None]) -> None:
        self._sink = sink
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        """Pass on the lines that are complete now; an empty chunk is the end, and flushes."""
        if not chunk:
            self._pass_on(self._rest)
            self._rest = b""
            return
        lines = (self._rest + chunk).split(b"\n")
        for line in lines[:-1]:
            self._pass_on(line + b"\n")
        self._rest = lines[-1]
        if len(self._rest) >= MAX_PIECE_BYTES:
            self.feed(b"")

    def _pass_on(self, line: bytes) -> None:
        for start in range(0, len(line), MAX_PIECE_BYTES):
            self._sink(line[start : start + MAX_PIECE_BYTES])


class Tail:
    """The last bytes of a stream."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._bytes = bytearray()

    def add(self, line: bytes) -> None:
        """Take more in; what is too old goes."""
        self._bytes += line
        if len(self._bytes) > 2 * self._size:
            del self._bytes[: -self._size]

    def text(self) -> str:
        """What is kept, without a line that is cut off at its beginning."""
        kept = bytes(self._bytes[-self._size :])
        if len(self._bytes) > self._size and b"\n" in kept[:-1]:
            kept = kept[kept.index(b"\n") + 1 :]
        return kept.decode(errors="replace")


class TaskOutput:
    """All that is written during one task, by the script and by the JVM."""

    def __init__(self, output: Output, call: ScriptCall) -> None:
        self._output = output
        self.files = tuple(str(path) for path in (call.script, *call.py_files))  # whose lines a cause may name
        self.out_of_memory = ""  # what Java says of it
        self._tail = Tail(TAIL_BYTES)
        self._windows = {"script": Tail(CAUSE_WINDOW_BYTES), "jvm": Tail(CAUSE_WINDOW_BYTES)}

    def sink(self, source: Literal["script", "jvm"], stream: Stream) -> Callable[[bytes], None]:
        """Where lines of one pipe go."""
        return partial(self.add, source, stream)

    def add(self, source: Literal["script", "jvm"], stream: Stream, line: bytes) -> None:
        """Pass a line on and remember what may be needed of it."""
        if stream == "stderr":
            self._tail.add(line)
            self._windows[source].add(line)
        if source == "jvm" and line.startswith(OUT_OF_MEMORY):
            self.out_of_memory = line.decode(errors="replace").rpartition(": ")[2].strip()
        self._output(stream, line)

    def result(self, exit_code: int, *, started: bool = True) -> ScriptResult:
        """The script's result; its own words name the cause before the JVM's log does.

        Parameters
        ----------
        started
            Whether the script came to its first line; if not, all that the JVM said is about that.

        Raises
        ------
        OutOfMemoryError
            If it failed because memory was used up: Python's, or the JVM's though the JVM outlived that.
        ScratchFullError
            If it failed because there was no space left.
        """
        if exit_code == 0:
            return ScriptResult(0, self._tail.text())
        own = self._windows["script"].text()
        cause_class, cause = root_cause(own)
        if not own.strip():
            told = root_cause(self._windows["jvm"].text())
            cause_class, cause = told if told[0] or not started else ("", "")  # a log's last line is no cause
        place = script_line(own, self.files)
        _refuse_want(cause_class, cause, place)
        if exit_code < 0 and not cause_class:
            killed = f": {KILLED}" if exit_code == -signal.SIGKILL else ""
            cause = f"ended by {signal_name(-exit_code)}{killed}"
        return ScriptResult(exit_code, self._tail.text(), cause_class, cause, place)

    def jvm_failure(self, code: int) -> SparkRuntimeError:
        """What to raise when the JVM ended under the script."""
        if self.out_of_memory:
            return OutOfMemoryError(f"the JVM ran out of memory: {self.out_of_memory}; {MORE_MEMORY}")
        how = f"was ended by {signal_name(-code)}" if code < 0 else f"ended with {code}"
        hint = "; is the function's memory too small?" if code == -signal.SIGKILL else ""
        last = root_cause(self._windows["jvm"].text())
        said = ": ".join(part for part in last if part)
        return GatewayLostError(f"the JVM {how} under the script{hint}" + (f"; it said: {said}" if said else ""))

    def script_stderr(self) -> str:
        """What the script itself wrote, as far as it is kept."""
        return self._windows["script"].text()


def _refuse_want(cause_class: str, cause: str, place: str) -> None:
    """Raise what a script's failure comes from if memory or space was used up."""
    at = f" at {place}" if place else ""
    if cause_class in JAVAS_MEMORY:
        raise OutOfMemoryError(f"the JVM ran out of memory{at}: {cause}; {MORE_MEMORY}")
    if cause_class in PYTHONS_MEMORY:
        said = f": {cause}" if cause else ""
        raise OutOfMemoryError(f"the script's Python ran out of memory{at}{said}; {MORE_MEMORY}")
    if NO_SPACE.search(cause):
        raise ScratchFullError(f"there was no space left{at}: {cause}; {MORE_SPACE}")


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

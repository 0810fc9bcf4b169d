"""What a script writes: passed on line by line, the end of it kept.

However much comes, and however long a line is, memory stays bounded.
"""

import signal
from collections.abc import Callable
from functools import partial
from typing import Literal

from sparklet.errors import GatewayLostError, OutOfMemoryError, SparkRuntimeError
from sparklet.worker.root_cause import root_cause
from sparklet.worker.runner import Output, ScriptResult, Stream

LONGEST_PIECE_BYTES = 64 * 1024  # a longer line is passed on in pieces
TAIL_BYTES = 8 * 1024
OUT_OF_MEMORY = b"Terminating due to java.lang.OutOfMemoryError"  # what Java's ExitOnOutOfMemoryError says
CAUSE_WINDOW_BYTES = 128 * 1024  # a Spark failure tells its stack three times


MORE_MEMORY = "give the function more memory, or make shards smaller"


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
        if len(self._rest) >= LONGEST_PIECE_BYTES:
            self.feed(b"")

    def _pass_on(self, line: bytes) -> None:
        for start in range(0, len(line), LONGEST_PIECE_BYTES):
            self._sink(line[start : start + LONGEST_PIECE_BYTES])


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

    def __init__(self, output: Output) -> None:
        self._output = output
        self._tail = Tail(TAIL_BYTES)
        self._windows = {"script": Tail(CAUSE_WINDOW_BYTES), "jvm": Tail(CAUSE_WINDOW_BYTES)}
        self.out_of_memory = ""  # what Java says of it

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

    def result(self, exit_code: int) -> ScriptResult:
        """The script's result; its own words name the cause before the JVM's log does.

        Raises
        ------
        OutOfMemoryError
            If it failed because the JVM's memory was used up, though the JVM outlived that.
        """
        if exit_code == 0:
            return ScriptResult(0, self._tail.text())
        script, jvm = self._windows["script"].text(), self._windows["jvm"].text()
        cause_class, cause = root_cause(script if script.strip() else jvm)
        if cause_class == "OutOfMemoryError":
            raise OutOfMemoryError(f"the JVM ran out of memory: {cause}; {MORE_MEMORY}")
        if exit_code < 0 and not cause_class:
            cause = f"ended by {signal_name(-exit_code)}"
        return ScriptResult(exit_code, self._tail.text(), cause_class, cause)

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


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

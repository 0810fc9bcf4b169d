"""Finds a run's lines in the logs of workers, and the shard and attempt of each line.

A worker runs one task at a time. Its own JSON log lines name the attempt; the lines between them are from the script or
the JVM. So each log line belongs to the attempt that was named last.
"""

import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TextIO

from sparklet.app.reporter import Reporter
from sparklet.app.stack import OpenStack
from sparklet.errors import LogsError
from sparklet.job.event_objects import read_json
from sparklet.model.redaction import printable
from sparklet.ports import WorkerLogs
from sparklet.ports.metrics import is_metrics_line

INVOCATION = "invoke-"
"""Names of single invocations begin with this; log lines of an invocation have its name as their run."""
MAX_PRINTED, MAX_PRINTED_BYTES = 200, 4096  # printed text is kept of so many shards, and of each only the end
POLL_S = 0.2
LAG_S = 5.0  # CloudWatch returns a line only some seconds after it was written
_OWN = ("time", "level", "message", "attempt")  # fields of each of a worker's own lines
_NOT_APPENDED = (*_OWN, "run", "shard", "request_id", "record")
_PLATFORM = re.compile(r"(START|END|REPORT) RequestId: (\S+)")  # lines that Lambda itself writes


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a worker's log."""

    stream: str
    run: str
    shard: int
    attempt: str
    text: str
    own: Mapping[str, Any] | None = None  # the fields of a worker's own line; None for lines of the script or JVM

    def document(self) -> dict[str, Any]:
        """Return the line as --json prints it, with the text unchanged."""
        return {"run": self.run, "shard": self.shard, "attempt": self.attempt, "stream": self.stream, "line": self.text}

    def readable(self) -> str:
        """Return the text for people, without control characters; a worker's own line is shortened."""
        if self.own is None:
            return printable(self.text)
        time = str(self.own["time"])[11:23]
        fields = " ".join(f"{name}={value}" for name, value in self.own.items() if name not in _NOT_APPENDED)
        line = f"{time} {self.own['level']:<7} {self.own['message']}" + (f" ({fields})" if fields else "")
        return printable(line)


@dataclass
class Attribution:
    """Assigns the lines of one stream to attempts."""

    stream: str
    _run: str = ""
    _shard: Any = None
    _attempt: str = ""
    _request: str = ""

    def take(self, text: str) -> LogLine | None:
        """Return the next line of the stream with its attempt; None if the line belongs to no shard."""
        if is_metrics_line(text):
            return None
        fields = _own_fields(text)
        if fields is not None:
            self._run, self._shard = str(fields.get("run", "")), fields.get("shard")
            self._attempt, self._request = str(fields["attempt"]), str(fields.get("request_id", ""))
        elif (platform := _PLATFORM.match(text)) and platform[2] != self._request:
            self._run = ""  # the function's next invocation has begun
        if not self._run or type(self._shard) is not int:
            return None
        return LogLine(self.stream, self._run, self._shard, self._attempt, text, fields)


@dataclass
class LogReader:
    """Reads a run's lines from all its streams, each stream from its last position."""

    logs: WorkerLogs
    run_id: str
    shard: int | None = None
    attempt: str = ""  # the first characters of the attempt's id
    since_s: float = 0.0
    _positions: dict[str, str] = field(default_factory=dict)
    _attributions: dict[str, Attribution] = field(default_factory=dict)

    def lines(self) -> Iterator[LogLine]:
        """Return the lines since the last call, stream by stream."""
        for stream, since_s in self.logs.streams(self.run_id, self.shard, self.since_s).items():
            attribution = self._attributions.setdefault(stream, Attribution(stream))
            while True:
                position = self._positions.get(stream, "")
                texts, self._positions[stream] = self.logs.read(stream, position, since_s)
                lines = filter(None, map(attribution.take, texts))
                yield from (line for line in lines if self._is_selected(line))
                # CloudWatch can return pages without lines before the end; at the end it returns the token it got.
                if not texts and self._positions[stream] == position:
                    break

    def _is_selected(self, line: LogLine) -> bool:
        return line.run == self.run_id and self.shard in (None, line.shard) and line.attempt.startswith(self.attempt)


@contextmanager
def shown_logs(stack: OpenStack, run_id: str, show: Callable[[LogLine], None], reporter: Reporter) -> Iterator[None]:
    """Show what scripts and JVMs of a run, or of an invocation, print during the block; at its end show the rest."""
    reader, block_ended = LogReader(stack.logs, run_id, since_s=stack.deployment.clock.now_s()), threading.Event()

    def show_new_lines() -> None:
        for line in reader.lines():
            if line.own is None:
                show(line)

    def follow() -> None:
        with suppress(LogsError):  # the last reading, below, warns of an error
            while not block_ended.wait(POLL_S):
                show_new_lines()

    thread = threading.Thread(target=follow, name="sparklet-logs", daemon=True)
    thread.start()
    interrupted = False
    try:
        yield
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        block_ended.set()
        if not interrupted:
            # Without this join two threads would use the reader, whose positions have no lock, and show lines twice.
            thread.join()
            stack.deployment.clock.sleep(0.0 if stack.state else LAG_S)
            try:
                show_new_lines()
            except LogsError as error:
                reporter.warn(str(error))


def line_writer(file: TextIO) -> Callable[[LogLine], None]:
    """Return a function that writes a line to ``file`` at once."""

    def write(line: LogLine) -> None:
        file.write(f"{line.readable()}\n")
        file.flush()

    return write


def printed_texts(stack: OpenStack, run_id: str, since_s: float) -> dict[int, str]:
    """Return the end of what the last attempt of each shard printed, for at most ``MAX_PRINTED`` shards."""
    text_by_shard, attempt_by_shard = defaultdict[int, str](str), dict[int, str]()
    for line in LogReader(stack.logs, run_id, since_s=since_s).lines():
        if line.own is None and (line.shard in text_by_shard or len(text_by_shard) < MAX_PRINTED):
            is_same_attempt = attempt_by_shard.get(line.shard) == line.attempt
            earlier_text = text_by_shard[line.shard] if is_same_attempt else ""
            attempt_by_shard[line.shard] = line.attempt
            text_by_shard[line.shard] = f"{earlier_text}{line.readable()}\n"[-MAX_PRINTED_BYTES:]
    return text_by_shard


def _own_fields(text: str) -> Mapping[str, Any] | None:
    fields = read_json(text) if text.startswith("{") else None
    return fields if isinstance(fields, dict) and all(isinstance(fields.get(name), str) for name in _OWN) else None

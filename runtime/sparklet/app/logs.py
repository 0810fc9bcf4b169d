"""A run's lines in the logs of workers, with shard and attempt.

A worker runs one task at a time, and its own JSON log lines name the attempt; the lines between them are the script's,
or its JVM's. So each log line belongs to the attempt that was named last.
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
"""Begins the names of single invocations, which stand in the log in the place of a run."""
MAX_PRINTED, MAX_PRINTED_BYTES = 200, 4096  # shards whose print is kept, and of how much its end
POLL_S = 0.2
LAG_S = 5.0  # CloudWatch has a line a few seconds after it was written
_OWN = ("time", "level", "message", "attempt")  # what each of a worker's own lines has
_SHOWN_ELSEWHERE = (*_OWN, "run", "shard", "request_id", "record")
_PLATFORM = re.compile(r"(START|END|REPORT) RequestId: (\S+)")


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a worker's log."""

    stream: str
    run: str
    shard: int
    attempt: str
    text: str
    own: Mapping[str, Any] | None = None  # the fields of a worker's own line; None: a line of the script or JVM

    def document(self) -> dict[str, Any]:
        """The line as --json prints it, its text unchanged."""
        return {"run": self.run, "shard": self.shard, "attempt": self.attempt, "stream": self.stream, "line": self.text}

    def readable(self) -> str:
        """The text as people read it: a worker's line shortened, any other without control characters."""
        if self.own is None:
            return printable(self.text)
        time = str(self.own["time"])[11:23]
        more = " ".join(f"{name}={value}" for name, value in self.own.items() if name not in _SHOWN_ELSEWHERE)
        line = f"{time} {self.own['level']:<7} {self.own['message']}" + (f" ({more})" if more else "")
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
        """The line with its attempt; None if it belongs to no shard."""
        if is_metrics_line(text):
            return None
        fields = _own_fields(text)
        if fields is not None:
            self._run, self._shard = str(fields.get("run", "")), fields.get("shard")
            self._attempt, self._request = str(fields["attempt"]), str(fields.get("request_id", ""))
        elif (platform := _PLATFORM.match(text)) and platform[2] != self._request:
            self._run = ""  # the next invocation has begun
        if not self._run or type(self._shard) is not int:
            return None
        return LogLine(self.stream, self._run, self._shard, self._attempt, text, fields)


@dataclass
class LogReader:
    """Reads a run's lines from all its streams, each from its last position."""

    logs: WorkerLogs
    run_id: str
    shard: int | None = None
    attempt: str = ""  # the beginning of its id
    since_s: float = 0.0
    _positions: dict[str, str] = field(default_factory=dict)
    _attributions: dict[str, Attribution] = field(default_factory=dict)

    def lines(self) -> Iterator[LogLine]:
        """The lines since the last call, stream by stream."""
        for stream, since_s in self.logs.streams(self.run_id, self.shard, self.since_s).items():
            attribution = self._attributions.setdefault(stream, Attribution(stream))
            while True:
                before = self._positions.get(stream, "")
                texts, self._positions[stream] = self.logs.read(stream, before, since_s)
                lines = filter(None, map(attribution.take, texts))
                yield from (line for line in lines if self._wanted(line))
                # CloudWatch answers pages without lines before the end, where it returns the token that it was given.
                if not texts and self._positions[stream] == before:
                    break

    def _wanted(self, line: LogLine) -> bool:
        return line.run == self.run_id and self.shard in (None, line.shard) and line.attempt.startswith(self.attempt)


@contextmanager
def shown_logs(stack: OpenStack, run_id: str, show: Callable[[LogLine], None], reporter: Reporter) -> Iterator[None]:
    """Show the output of a run's, or an invocation's, scripts and JVMs as it arrives; when the block ends, the rest."""
    reader, ended = LogReader(stack.logs, run_id, since_s=stack.deployment.clock.now_s()), threading.Event()

    def pass_on() -> None:
        for line in reader.lines():
            if line.own is None:
                show(line)

    def follow() -> None:
        with suppress(LogsError):  # the last look tells it
            while not ended.wait(POLL_S):
                pass_on()

    thread = threading.Thread(target=follow, name="sparklet-logs", daemon=True)
    thread.start()
    interrupted = False
    try:
        yield
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        ended.set()
        if not interrupted:
            # Two readers at once would pass on lines twice: positions are kept without a lock.
            thread.join()
            stack.deployment.clock.sleep(0.0 if stack.state else LAG_S)
            try:
                pass_on()
            except LogsError as error:
                reporter.warn(str(error))


def written(to: TextIO) -> Callable[[LogLine], None]:
    """Shows lines as they come, in a file."""

    def show(line: LogLine) -> None:
        to.write(f"{line.readable()}\n")
        to.flush()

    return show


def printed(stack: OpenStack, run_id: str, since_s: float) -> dict[int, str]:
    """The last lines that each shard's last attempt has printed, of the first ``MAX_PRINTED`` shards that printed."""
    text_by_shard, last = defaultdict[int, str](str), dict[int, str]()
    for line in LogReader(stack.logs, run_id, since_s=since_s).lines():
        if line.own is None and (line.shard in text_by_shard or len(text_by_shard) < MAX_PRINTED):
            before = text_by_shard[line.shard] if last.get(line.shard) == line.attempt else ""
            last[line.shard] = line.attempt
            text_by_shard[line.shard] = f"{before}{line.readable()}\n"[-MAX_PRINTED_BYTES:]
    return text_by_shard


def _own_fields(text: str) -> Mapping[str, Any] | None:
    fields = read_json(text) if text.startswith("{") else None
    return fields if isinstance(fields, dict) and all(isinstance(fields.get(name), str) for name in _OWN) else None

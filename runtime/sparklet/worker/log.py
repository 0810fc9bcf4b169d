"""JSON log lines about the work; the script's own output goes beside them as it comes."""

import json
import sys
import threading
from datetime import UTC, datetime
from typing import Any, BinaryIO, Literal, Self

from sparklet.worker.runner import Stream


class Log:
    """Writes one JSON object a line, with the fields bound to it (run, shard, attempt, request id).

    Lines are written whole, whichever thread they come from, to the stream that Lambda collects.
    """

    def __init__(self, sink: BinaryIO | None = None, fields: dict[str, Any] | None = None) -> None:
        self._sink = sink
        self._fields = fields or {}

    def bind(self, **fields: Any) -> Self:
        """A log with further fields on every line."""
        return type(self)(self._sink, {**self._fields, **fields})

    def info(self, message: str, **fields: Any) -> None:
        """Something went as it should."""
        self._write("INFO", message, fields)

    def warning(self, message: str, **fields: Any) -> None:
        """Something went wrong and is dealt with."""
        self._write("WARNING", message, fields)

    def error(self, message: str, **fields: Any) -> None:
        """Something went wrong for good."""
        self._write("ERROR", message, fields)

    def line(self, text: str) -> None:
        """Write a line as it is."""
        self._emit(text.encode() + b"\n")

    def output(self, stream: Stream, line: bytes) -> None:
        """Pass a line of the script's output through, byte for byte."""
        self._emit(line if line.endswith(b"\n") else line + b"\n")

    def _write(self, level: Literal["INFO", "WARNING", "ERROR"], message: str, fields: dict[str, Any]) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"time": time, "level": level, "message": message, **self._fields, **fields}
        self._emit(json.dumps(line, default=str).encode() + b"\n")

    def _emit(self, line: bytes) -> None:
        # Looked up each time: a host may replace sys.stdout after this module was imported.
        sink = self._sink or getattr(sys.stdout, "buffer", None)
        with _LOCK:
            if sink is None:
                sys.stdout.write(line.decode("utf-8", "replace"))
                sys.stdout.flush()
            else:
                sink.write(line)
                sink.flush()


_LOCK = threading.Lock()

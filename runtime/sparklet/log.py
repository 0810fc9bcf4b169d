"""The log of worker, planner, checker and the consumer of dead letters: each line is a JSON object."""

import json
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, BinaryIO, Literal

_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True)
class Log:
    """Writes whole lines, from any thread; each line has the fields that were added by ``bind``."""

    sink: BinaryIO | None = None  # None: standard output, which Lambda collects
    fields: Mapping[str, Any] = field(default_factory=dict)

    def bind(self, **fields: Any) -> "Log":
        """A log with further fields on every line."""
        return Log(self.sink, {**self.fields, **fields})

    def info(self, message: str, **fields: Any) -> None:
        """Write a line of level INFO."""
        self._write("INFO", message, fields)

    def warning(self, message: str, **fields: Any) -> None:
        """Write a line of level WARNING: something failed, but the work continues."""
        self._write("WARNING", message, fields)

    def error(self, message: str, **fields: Any) -> None:
        """Write a line of level ERROR: something failed for good."""
        self._write("ERROR", message, fields)

    def line(self, text: str) -> None:
        """Write the text as a line, without other fields."""
        self.output("stdout", text.encode())

    def output(self, stream: Literal["stdout", "stderr"], line: bytes) -> None:
        """Write a line of the script's output unchanged."""
        line = line if line.endswith(b"\n") else line + b"\n"
        # Looked up for each line, since a host program can replace sys.stdout.
        sink = self.sink or getattr(sys.stdout, "buffer", None)
        with _LOCK:
            # A replacement of sys.stdout, as in a notebook, can lack the attribute ``buffer``.
            if sink is None:
                sys.stdout.write(line.decode("utf-8", "replace"))
                sys.stdout.flush()
            else:
                sink.write(line)
                sink.flush()

    def _write(self, level: Literal["INFO", "WARNING", "ERROR"], message: str, fields: Mapping[str, Any]) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        document = {"time": time, "level": level, "message": message, **self.fields, **fields}
        self.output("stdout", json.dumps(document, default=str).encode())

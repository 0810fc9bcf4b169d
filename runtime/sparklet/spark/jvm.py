"""A warm JVM as the worker sees it: whether it is up, prepared before a task, cleaned after it.

The worker calls ``WarmJvm.java`` through a connection of its own, of which no script knows, in Py4J's protocol but
without Py4J: answers are events, so that pipes are read meanwhile. Before a JVM's first script its process prepares it.
"""

import contextlib
import logging
import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sparklet.errors import GatewayLostError
from sparklet.spark.host_process import Answered, Gone, HostProcess
from sparklet.spark.script_output import Tail

PREPARE_LIMIT_S = CLEAN_LIMIT_S = 10.0
MIN_CLEAN_S = 1.0  # of the grace, if the script took all the time there was
MIN_SHARED = 0.5  # an archive holds three quarters of a JVM's classes, Java's own archive a sixth
UNUSED = "only %s classes came from the class-data archive, so the JVM started slowly: sparklet doctor says why"

_COUNTED = re.compile(r"(\d+) classes \((\d+) shared\)")
_ESCAPED = str.maketrans({"\\": r"\\", "\n": r"\n", "\r": r"\r"})
_log = logging.getLogger(__name__)


class NotStartedError(GatewayLostError):
    """The JVM was lost before the script's first line: it can be run again at once."""


@dataclass(slots=True)
class Jvm:
    """A JVM that is booting, up, or has ended."""

    name: str
    folder: Path  # its java.io.tmpdir, deleted with it
    aws: Mapping[str, str]  # when the JVM started: Java does not see later changes
    archived: bool = False  # whether it has a class-data archive
    log: Tail = field(default_factory=lambda: Tail(8 * 1024))  # its output while it boots
    port: int = 0
    secret: str = ""
    line: socket.socket | None = None  # the worker's own, to Py4J
    tasks: int = 0
    exit_code: int | None = None

    @property
    def connection_file(self) -> Path:
        """The file to which it writes port and secret once it is up."""
        return self.folder / "connection"

    def is_up(self) -> bool:
        """Whether it can be reached; reads port and secret."""
        if not self.port and self.connection_file.exists():
            content = self.connection_file.read_bytes()
            self.port = int.from_bytes(content[:4], "big")
            self.secret = content[8:].decode()
        return bool(self.port)

    def call(self, host: HostProcess, until_s: float, method: str, *arguments: str, of: str = "t") -> str:
        """Call ``WarmJvm``; the answer in Py4J's words, or "" if none came in time or the JVM has ended."""
        with contextlib.suppress(OSError):  # it has ended: an event tells
            self.line = self.line or host.connect(self.name, self.port, self.secret)
            words = ("c", of, method, *(argument.translate(_ESCAPED) for argument in arguments), "e")
            self.line.sendall("".join(f"{word}\n" for word in words).encode(errors="replace"))
        for event in host.events(until_s):
            match event:
                case Answered(name, text) if name == self.name:
                    return text
                case Gone(name, code) if name == self.name:
                    self.exit_code = code
                    break
                case Gone("host"):
                    raise GatewayLostError("the script host was killed from outside")
        return ""

    def hang_up(self) -> None:
        """Close the worker's connection."""
        if self.line is not None:
            self.line.close()

    def prepare(self, host: HostProcess, properties: str, *, restored: bool) -> None:
        """Renew random states after a restore, set the next task's system properties; raises NotStartedError."""
        calls = [("prepare", f"s{properties}")]
        if restored:
            calls.insert(0, ("reseed", f"L{int.from_bytes(os.urandom(8), 'big', signed=True)}"))
        for method, argument in calls:
            answer = self.call(host, time.time() + PREPARE_LIMIT_S, method, argument)
            if not answer.startswith("!y"):
                raise NotStartedError(f"the JVM could not be made ready: {answer or 'it does not answer'}")

    def clean(self, guard_s: float, host: HostProcess, *, may_keep: bool) -> str:
        """Clean it after a task, whose context may be kept; returns why it should be replaced, or ""."""
        if self.exit_code is not None:
            return "it has ended"
        now_s = time.time()
        until_s = max(now_s + MIN_CLEAN_S, min(now_s + CLEAN_LIMIT_S, guard_s))
        answer = self.call(host, until_s, "clean", f"b{'true' if may_keep else 'false'}")
        cause = self.call(host, until_s, "toString", of=answer[3:]) if answer.startswith("!xr") else ""
        first = self.archived and self.tasks == 1
        counted = _COUNTED.search(self.call(host, until_s, "loaded")) if first and answer == "!ys" else None
        survivors = host.end(spare="jvm")
        if survivors:
            return f"processes {', '.join(map(str, survivors))} do not end"
        if not answer.startswith("!ys"):
            return f"it could not be cleaned: {cause.removeprefix('!ys') or 'it took too long'}"
        loaded, shared = map(int, counted.groups()) if counted else (0, 0)
        if shared < MIN_SHARED * loaded:
            _log.warning(UNUSED, f"{shared} of {loaded}")
        return answer.removeprefix("!ys")

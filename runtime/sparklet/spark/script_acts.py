"""What a script's own process does, for the worker to judge the script by (``worker.left_behind``).

An audit hook (PEP 578) hears of files, connections and processes, whatever library asks for them; what extension
modules do in C, it does not hear. Each act is a line of JSON in the task's file ``seen``, where Spark's side leaves its
own (``Seen.java``). A process that the script forks leaves them there, too.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, SupportsIndex, overload

from sparklet.job.outcome import EVENT, EVENT_FILE, OUTCOME_FILE

ARGUMENTS, ASKED, ELSEWHERE, READ = "arguments", "asked", "elsewhere", "read"
"""It has read its arguments; its event; connected to others, or started a process; read files of its folder."""
ASKED_OUTPUT = "asked-output"  # where it is to write, and nothing else
OPENED, MISNAMED_INPUT, COMMITTED = "opened", "misnamed", "committed"
"""Spark has opened an input; met first bytes that a name does not promise; committed to a table at once."""
SEEN = "seen"
OF_EVENT = dict.fromkeys((EVENT, EVENT_FILE, "input_path", "INPUT_PATH"), ASKED)
OF_EVENT |= dict.fromkeys(("output_path", "OUTPUT_PATH"), ASKED_OUTPUT)
OF_SPARK = ("pyspark", "py4j")  # whose connections are to the JVM
HEARD = (*OF_SPARK, "sparklet.connectors.data_catalog")  # what it finds is read by Spark, whose side tells of it
HARMLESS = (*OF_SPARK, "platform", "uuid", "numpy.testing")  # they ask the system by small processes
PROCESSES = ("subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "pty.spawn")
OF_PANDAS = ("zstandard", "numexpr", "bottleneck")  # which it imports if they are there
PURE = frozenset(
    {*sys.stdlib_module_names, *OF_SPARK, "sparklet", "numpy", "pandas", "pyarrow", "scipy", "sklearn", *OF_PANDAS}
)
"""Packages whose compiled modules connect to nobody, unless an address says so."""


class Acts:
    """The acts of this process, each reported once."""

    def __init__(self, outcome_file: str) -> None:
        task = Path(outcome_file).parents[1]
        self._seen, self._event_file = task / SEEN, os.environ.get(EVENT_FILE, "")
        self._work = f"{Path(outcome_file).parent}/"
        self._told: set[str] = set()
        self._ours = frozenset(sys.modules)

    def tell(self, what: str, path: str = "") -> None:
        """Leave a line; there may be no room."""
        if f"{what} {path}" in self._told:
            return
        self._told.add(f"{what} {path}")
        try:
            # Appended, since Spark and forks of the script leave their lines in the same file.
            seen = os.open(self._seen, os.O_WRONLY | os.O_APPEND)
            os.write(seen, f"{json.dumps({'seen': what, **({'place': path} if path else {})})}\n".encode())
            os.close(seen)
        except OSError:
            return

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook: it must never raise, or the script's own call would fail."""
        if event == "open":
            self._hear_open(*arguments[:2])
        elif (event == "socket.connect" and not _is_by(HEARD)) or (event in PROCESSES and not _is_by(HARMLESS)):
            self.tell(ELSEWHERE)

    def _hear_open(self, path: Any, mode: Any) -> None:
        if not isinstance(path, str):
            return
        if path == self._event_file:
            self.tell(ASKED)
        elif mode in ("r", "rb"):
            with suppress(OSError):  # the current folder is gone; the script's own call will say so
                if (whole := str(Path(path).absolute())).startswith(self._work):
                    self.tell(READ, whole)

    def end(self) -> None:
        """Report imported compiled modules, which the audit hook does not hear."""
        packages = [sys.modules[name] for name in PURE & sys.modules.keys()]
        folders = tuple(f"{path}/" for package in packages for path in getattr(package, "__path__", ()))
        for name in sys.modules.keys() - self._ours:
            file = getattr(sys.modules[name], "__file__", None)
            if not isinstance(file, str) or not file.endswith(".so") or file.startswith(folders):
                continue  # scipy has modules such as _csparsetools, whose names are without their package
            if name.partition(".")[0] not in PURE:
                self.tell(ELSEWHERE)


def _is_by(packages: tuple[str, ...]) -> bool:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if f"{frame.f_globals.get('__name__')}.".startswith(tuple(f"{package}." for package in packages)):
            return True
        frame = frame.f_back
    return False


class _Environment(os._Environ[str]):
    """``os.environ`` for the script: reading a variable of the event is reported."""

    def __getitem__(self, name: str) -> str:
        if name in OF_EVENT and acts:
            acts.tell(OF_EVENT[name])
        return super().__getitem__(name)


class _Arguments(list[str]):
    """``sys.argv`` for the script: reading more than the script's name is reported."""

    @overload
    def __getitem__(self, index: SupportsIndex) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: Any) -> Any:
        if index != 0 and acts:
            acts.tell(ARGUMENTS)
        return super().__getitem__(index)

    def __iter__(self) -> Iterator[str]:
        if acts:
            acts.tell(ARGUMENTS)
        return super().__iter__()

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


acts: Acts | None = None


def watch(script: str, arguments: list[str]) -> None:
    """Let this process tell what the script does from now on, if a worker has asked for it; it sets ``sys.argv``."""
    global acts
    sys.argv = [script, *arguments]
    if OUTCOME_FILE in os.environ:
        acts = Acts(os.environ[OUTCOME_FILE])
        sys.argv = _Arguments(sys.argv)
        # The object must stay, since modules have imported it by name; only its class can change.
        os.environ.__class__ = _Environment
        sys.addaudithook(acts.hear)


def end() -> None:
    """The script has ended."""
    if acts:
        acts.end()

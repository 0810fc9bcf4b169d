"""Records what a script's own process does, by which the worker judges the script (``worker.left_behind``).

An audit hook (PEP 578) is called for files, connections and processes, whatever library opens or starts them, but not
for what extension modules do in C. Each act becomes a line of JSON in the task's file ``seen``. Spark's side
(``Seen.java``) and processes that the script forks write to the same file.
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
"""The script has read its arguments; read its event; connected or started a process; read a file of its folder."""
ASKED_OUTPUT = "asked-output"  # the script has read the address of its output
OPENED, MISNAMED_INPUT, COMMITTED = "opened", "misnamed", "committed"
"""Spark has opened an input; found first bytes that do not fit a name; committed to a table at once."""
SEEN = "seen"
OF_EVENT = dict.fromkeys((EVENT, EVENT_FILE, "input_path", "INPUT_PATH"), ASKED)
OF_EVENT |= dict.fromkeys(("output_path", "OUTPUT_PATH"), ASKED_OUTPUT)
OF_SPARK = ("pyspark", "py4j")  # their connections are to the JVM
# Packages whose connections are not reported: what the catalog's search finds is read by Spark, whose side reports it.
OBSERVED = (*OF_SPARK, "sparklet.connectors.data_catalog")
HARMLESS = (*OF_SPARK, "platform", "uuid", "numpy.testing")  # they start small processes that only read the system
PROCESSES = ("subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "pty.spawn")
OF_PANDAS = ("zstandard", "numexpr", "bottleneck")  # pandas imports them if they are installed
PURE = frozenset(
    {*sys.stdlib_module_names, *OF_SPARK, "sparklet", "numpy", "pandas", "pyarrow", "scipy", "sklearn", *OF_PANDAS}
)
"""Packages whose compiled modules make no connections, unless a script gives them an address."""


class Acts:
    """Reports the acts of this process, each once."""

    def __init__(self, outcome_file: str) -> None:
        task = Path(outcome_file).parents[1]
        self._seen, self._event_file = task / SEEN, os.environ.get(EVENT_FILE, "")
        self._work = f"{Path(outcome_file).parent}/"
        self._reported: set[str] = set()
        self._our_modules = frozenset(sys.modules)

    def report(self, act: str, path: str = "") -> None:
        """Append a line for the act to the file ``seen``; nothing happens if there is no space for it."""
        if f"{act} {path}" in self._reported:
            return
        self._reported.add(f"{act} {path}")
        try:
            # Appended, since Spark and forks of the script write to the same file.
            seen = os.open(self._seen, os.O_WRONLY | os.O_APPEND)
            os.write(seen, f"{json.dumps({'seen': act, **({'place': path} if path else {})})}\n".encode())
            os.close(seen)
        except OSError:
            return

    def on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        """The audit hook. It must never raise, since the script's own call would fail then."""
        if event == "open":
            self._on_open(*arguments[:2])
        elif (event == "socket.connect" and not _is_by(OBSERVED)) or (event in PROCESSES and not _is_by(HARMLESS)):
            self.report(ELSEWHERE)

    def _on_open(self, path: Any, mode: Any) -> None:
        if not isinstance(path, str):
            return
        if path == self._event_file:
            self.report(ASKED)
        elif mode in ("r", "rb"):
            with suppress(OSError):  # the current folder is gone, so the script's own call will fail
                if (absolute_path := str(Path(path).absolute())).startswith(self._work):
                    self.report(READ, absolute_path)

    def end(self) -> None:
        """At the script's end, report if it has imported compiled modules: the audit hook does not see what they do."""
        packages = [sys.modules[name] for name in PURE & sys.modules.keys()]
        folders = tuple(f"{path}/" for package in packages for path in getattr(package, "__path__", ()))
        for name in sys.modules.keys() - self._our_modules:
            file = getattr(sys.modules[name], "__file__", None)
            if not isinstance(file, str) or not file.endswith(".so") or file.startswith(folders):
                continue  # the folder counts, since scipy's modules such as _csparsetools are named without the package
            if name.partition(".")[0] not in PURE:
                self.report(ELSEWHERE)


def _is_by(packages: tuple[str, ...]) -> bool:
    """Whether code of one of the packages is among the callers of the audit hook."""
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
            acts.report(OF_EVENT[name])
        return super().__getitem__(name)


class _Arguments(list[str]):
    """``sys.argv`` for the script: reading more than the script's name is reported."""

    @overload
    def __getitem__(self, index: SupportsIndex) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: Any) -> Any:
        if index != 0 and acts:
            acts.report(ARGUMENTS)
        return super().__getitem__(index)

    def __iter__(self) -> Iterator[str]:
        if acts:
            acts.report(ARGUMENTS)
        return super().__iter__()

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


acts: Acts | None = None


def watch(script: str, arguments: list[str]) -> None:
    """Set ``sys.argv``; under a worker, report what this process does from now on."""
    global acts
    sys.argv = [script, *arguments]
    if OUTCOME_FILE in os.environ:
        acts = Acts(os.environ[OUTCOME_FILE])
        sys.argv = _Arguments(sys.argv)
        # The object must stay, since modules have imported it by name; only its class can change.
        os.environ.__class__ = _Environment
        sys.addaudithook(acts.on_event)


def end() -> None:
    """Report what is only known once the script has ended."""
    if acts:
        acts.end()

"""The script host: the process that starts and ends the JVM, the scripts and all their processes.

::

    worker ──control socket── host ─┬─ JVM ── Spark's Python workers
                                    └─ script, forked from the host ── whatever it starts

It stays single-threaded, so that it can be forked, and has imported pyspark, without numpy, for all scripts. As a
subreaper it inherits every orphan below it. It ends itself and them when the worker ends, which closes the socket.
"""

import atexit
import builtins
import contextlib
import fcntl
import gc
import importlib
import importlib.util
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Sequence
from functools import update_wrapper
from pathlib import Path
from select import POLLIN, poll
from types import FunctionType, ModuleType
from typing import Any

from sparklet.spark.catalog_calls import know_catalog_tables
from sparklet.spark.processes import (
    become_subreaper,
    descendants,
    die_with_parent,
    end_descendants,
    signal_process,
    wait_until_handled,
)
from sparklet.spark.script_main import (
    DUMP_SIGNAL,
    enter,
    execute,
    keep_master,
    place_fds,
    pool_threads,
    report,
    retry_conflicts,
)

Message = dict[str, Any]
Afterwards = Callable[[], None]
MAX_FDS = 8
END_LIMIT_S = 5.0
_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\f": r"\f"})
DUMP_LIMIT_S = 1.0  # for a script to write its stacks before it is ended


def send(control: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send a message and descriptors through a stream socket."""
    body = json.dumps(message).encode()
    socket.send_fds(control, [len(body).to_bytes(4, "big")], fds)
    control.sendall(body)


def receive(control: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message with its descriptors; None when the other side has ended."""
    try:
        # A side that ends with unread messages resets the socket, which is an end like any other.
        head, fds, _, _ = socket.recv_fds(control, 4, MAX_FDS)
        body = bytearray()
        while head and len(body) < (size := int.from_bytes(head, "big")):
            chunk = control.recv(size - len(body))
            if not chunk:
                return None
            body += chunk
    except ConnectionResetError:
        return None
    return (json.loads(body), fds) if head else None


def conf_apart(command: Sequence[str], descriptor: int = 0) -> tuple[list[str], int]:
    """Java's command with main class and settings in a pipe: every user of the machine can read a command line.

    Returns the pipe, too; ``descriptor``: its number in Java, if it is another one there.
    """
    start = end = command.index("--conf")
    while command[end : end + 1] == ["--conf"]:
        end += 2
    words = os.fsencode("".join(f'"{word.translate(_ESCAPED)}"\n' for word in command[start - 1 : end]))
    held, fill = os.pipe()
    # All is written before Java reads, and by itself a pipe holds 64 KiB.
    fcntl.fcntl(fill, fcntl.F_SETPIPE_SZ, len(words))
    os.write(fill, words)
    os.close(fill)
    return [*command[: start - 1], f"@/proc/self/fd/{descriptor or held}", *command[end:]], held


class ScriptHost:
    """Serves the worker's requests, one after the other."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._worker_pid = os.getppid()
        self._children: dict[int, str] = {}  # by pid, as the worker calls them
        self._jvm_name = ""
        self._jvm_stdin: int | None = None
        self._wake, wake_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # The handler does nothing, but without one no byte is written to the pipe, and ``poll`` sleeps on when a child
        # ends.
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake_end)

    def serve(self) -> Afterwards | None:
        """Serve until the worker ends, and end all that was started; in a fork, return the fork's work."""
        waiting = poll()
        waiting.register(self._control, POLLIN)
        waiting.register(self._wake, POLLIN)
        while os.getppid() == self._worker_pid:
            ready = {fd for fd, _ in waiting.poll(1000)}
            if self._wake in ready:
                os.read(self._wake, 4096)
            self._reap()
            if self._control.fileno() in ready:
                request = receive(self._control)
                if request is None:
                    break
                afterwards = self._handle(*request)
                if afterwards is not None:
                    return afterwards
        end_descendants((), self._reap, END_LIMIT_S)
        return None

    def _handle(self, message: Message, fds: list[int]) -> Afterwards | None:
        afterwards: Afterwards | None = None
        match message["do"]:
            case "jvm":
                self._start_jvm(message, fds)
            case "preload":
                import_pyspark()
            case "script":
                afterwards = self._fork(message["name"], lambda: run_script(message, fds))
            case "interrupt":
                self._dump(message["script"])
                afterwards = self._fork(message["name"], lambda: cancel_jobs(message))
            case "end":
                self._end(message)
        if afterwards is None:
            for fd in fds:
                os.close(fd)
        return afterwards

    def _start_jvm(self, message: Message, fds: list[int]) -> None:
        """Start Java, or a remote session's Python, with standard streams and further descriptors at their places."""
        if self._jvm_stdin is not None:
            os.close(self._jvm_stdin)
        # Spark's gateway server runs until its standard input ends: so it ends with this process, however that ends.
        stdin, self._jvm_stdin = os.pipe()  # both close-on-exec: only this process keeps the JVM's stdin open
        own_pid, command, java = os.getpid(), message["command"], message.get("java", True)
        command, conf = conf_apart(command, len(fds) + 1) if java else (command, os.open(os.devnull, os.O_RDONLY))
        pid = os.fork()
        if pid == 0:
            try:
                die_with_parent(own_pid)
                os.setsid()
                os.chdir(message["cwd"])
                place_fds([stdin, *fds, conf])
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                # As subprocess does: Python ignores SIGPIPE, and what is ignored stays so after exec.
                signal.signal(signal.SIGPIPE, signal.SIG_DFL)
                os.execve(command[0], command, message["env"])  # noqa: S606 - no shell is the point
            except (OSError, ValueError) as error:  # such as an argument with a null character
                os.write(2, f"{command[0]} cannot be started: {error}\n".encode())
            finally:
                # Whatever has failed, this fork must not go on as a second host.
                os._exit(127)
        os.close(stdin)
        os.close(conf)
        self._children[pid] = self._jvm_name = message["name"]
        self._report({"name": self._jvm_name, "pid": pid})

    def _fork(self, name: str, afterwards: Afterwards) -> Afterwards | None:
        pid = os.fork()
        if pid == 0:
            self._control.detach()  # or collecting it would close whatever the fork has opened under its number
            return afterwards
        self._children[pid] = name
        return None

    def _end(self, message: Message) -> None:
        """Kill all processes but ``spare``: the ``jvm``, or the ``jvm tree`` with Spark's Python workers."""
        spare, jvm = message["spare"], {pid for pid, name in self._children.items() if name == self._jvm_name}
        self._dump(message["dump"])
        spared = jvm if spare else ()
        survivors = end_descendants(spared, self._reap, END_LIMIT_S, spare_below=spare == "jvm tree")
        self._report({"ended": sorted(survivors)})

    def _dump(self, script: int) -> None:
        """Let a script write its stacks, if it lives."""
        # Another process may have got its number meanwhile.
        if script and script in descendants(os.getpid()):
            signal_process(script, DUMP_SIGNAL)
            wait_until_handled(script, DUMP_SIGNAL, DUMP_LIMIT_S)

    def _reap(self) -> None:
        """Collect ended processes, orphans included, and report the worker's own."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            name = self._children.pop(pid, None)
            if name is not None:
                self._report({"gone": name, "code": os.waitstatus_to_exitcode(status)})

    def _report(self, event: Message) -> None:
        with contextlib.suppress(OSError):  # the worker has ended; serve() sees it next
            send(self._control, event)


def run_script(message: Message, fds: list[int]) -> None:
    """In a fork: become the script's interpreter."""
    status = enter(*fds, parent_pid=message["host"])
    os.environ.clear()
    os.environ.update(message["env"])
    # The host's C library knows the worker's TZ, and tempfile the first folder that the host has asked for.
    time.tzset()
    tempfile.tempdir = None
    os.chdir(message["cwd"])
    sys.path[:0] = [part for part in os.environ["PYTHONPATH"].split(os.pathsep) if part not in sys.path]
    # The host's finders know the folders as they were at its own imports.
    importlib.invalidate_caches()
    if message["first"]:  # else the worker has prepared the JVM
        details = {key: message[key] for key in ("properties", "keep", "restored")}
        jvm_calls().prepare(message["port"], message["secret"], **details)
    if message["keep"]:
        jvm_calls().keep_contexts()
        know_catalog_tables()
    ours = sys.modules.keys() - {"__main__"}
    # Not earlier: what fails before this report may be run once more, in a new JVM (``warm_runner``).
    report(status, "started", os.getpid())
    try:
        execute(message["script"], message["args"])
    except SystemExit as end:
        if end.code not in (None, 0):
            raise
    _end(ours)


def _end(ours: Collection[str]) -> None:
    """End a script's process as the interpreter would, but without unloading the modules that the host had imported.

    They are in memory that is shared with the host.
    """
    import ctypes  # the fork has it already; it would delay the host, which starts the JVM

    threading._shutdown()  # type: ignore[attr-defined] # waits for the script's threads
    atexit._run_exitfuncs()
    entry: Any  # a script may put anything in these places
    try:
        for entry in [sys.modules.pop(name) for name in reversed(list(sys.modules)) if name not in ours]:
            names = vars(entry) if isinstance(entry, ModuleType) else {}
            for name in sorted(names.keys() - {"__builtins__"}, key=lambda name: name[:1] != "_"):
                names[name] = None  # not left to the collector, which would close a file before it is flushed
        gc.collect()
        for entry in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            if entry is not None and not getattr(entry, "closed", False):
                entry.flush()
    except Exception:  # noqa: BLE001 - the interpreter reports it in its own way
        return
    # PyDLL keeps Python's lock, unlike CDLL: no daemon thread runs while the process ends.
    ctypes.PyDLL(None).exit(0)  # C's own, for what libraries have left to its end


def cancel_jobs(message: Message) -> None:
    """In a fork: cancel Spark's jobs until the host ends this process with all others."""
    die_with_parent(message["host"])
    jvm_calls().cancel_jobs(message["port"], message["secret"])


def jvm_calls() -> ModuleType:
    """The module, imported late: it needs Py4J, which a host without warm JVM may not have."""
    return importlib.import_module("sparklet.spark.jvm_calls")


def import_pyspark() -> None:
    """Import what nearly every script needs, for all forks at once, but not numpy: it starts threads and has a state.

    PySpark imports numpy if it is installed, so PySpark gets ``_NumpyLater``, which imports it at its first use.
    """
    from sparklet.job.spark_lines import SparkTestingLater

    if importlib.util.find_spec("numpy") is not None:
        sys.modules["numpy"] = _NumpyLater("numpy")
    try:
        for name in ("pyspark.sql.functions", "pyspark.sql.types", "py4j.clientserver"):
            importlib.import_module(name)
    finally:
        # A script's own import must find the real one.
        sys.modules.pop("numpy", None)
    sys.modules.setdefault(SparkTestingLater.NAME, SparkTestingLater(SparkTestingLater.NAME))
    _spare_create_data_frame()
    keep_master()
    retry_conflicts()
    pool_threads()
    jvm_calls().own_callbacks()
    jvm_calls().remember_names()
    # Objects that are frozen are not touched by collections, so forks go on sharing their memory.
    gc.collect()
    gc.freeze()


def _spare_create_data_frame() -> None:
    """Let createDataFrame import numpy, pandas and pyarrow only where the data can be of them.

    It imports them to look at the data's type, which would take half a second of each script.
    """
    from pyspark.sql import SparkSession

    shown_by = {"numpy": "numpy", "pandas": "numpy", "pyarrow": "pyarrow"}  # it makes frames of numpy's arrays

    def imported(name: str, *details: Any) -> ModuleType:
        if shown_by.get(name, "sys") not in sys.modules:
            raise ModuleNotFoundError(f"{name} is not there yet")
        return __import__(name, *details)

    create: Any = SparkSession.createDataFrame
    create.__globals__["__builtins__"] = {**vars(builtins), "__import__": imported}  # of functions made from now on
    details = (create.__code__, create.__globals__, create.__name__, create.__defaults__, create.__closure__)
    SparkSession.createDataFrame = update_wrapper(FunctionType(*details), create)


class _NumpyLater(ModuleType):
    """PySpark's ``np``: until a script imports the real numpy, nothing can be an instance of its classes."""

    def __getattr__(self, name: str) -> Any:
        # Python's imports ask modules for such names, and must not load numpy by that.
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get("numpy") is self:  # ``from numpy import …``, while PySpark is imported
            return lambda *args, **kwargs: getattr(importlib.import_module("numpy"), name)(*args, **kwargs)
        if name in ("generic", "ndarray") and "numpy" not in sys.modules:
            return _Nothing
        return getattr(importlib.import_module("numpy"), name)


class _Nothing:
    """Has no instances."""


def main() -> None:
    """``python -P -m sparklet.spark.script_host CONTROL_FD``, in a folder that goes when it ends."""
    home = Path.cwd()
    become_subreaper()
    host = ScriptHost(socket.socket(fileno=int(sys.argv[1])))
    afterwards = host.serve()
    if afterwards is not None:
        afterwards()
        return
    from sparklet.spark.owned import delete_own  # late: at its beginning it would delay the JVM

    delete_own(home)


if __name__ == "__main__":
    main()

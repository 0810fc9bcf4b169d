"""The script host: the process that starts and ends the JVM, the scripts and all their processes.

::

    worker ──control socket── host ─┬─ JVM ── Spark's Python workers
                                    └─ script, forked from the host ── whatever it starts

The host stays single-threaded, so that it can be forked, and has imported pyspark, without numpy, for all scripts. As
a subreaper it becomes the parent of all orphans below it. When the worker ends, the socket is closed; then the host
ends all its processes and itself.
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
    become_script,
    execute,
    keep_master,
    place_fds,
    pool_threads,
    report,
    retry_conflicts,
)

Message = dict[str, Any]
ForkWork = Callable[[], None]  # what a fork of the host does, in place of the host's own work
MAX_FDS = 8
END_LIMIT_S = 5.0
_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\f": r"\f"})
DUMP_LIMIT_S = 1.0  # how long a script can take to write its stacks before it is ended


def send(control: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send a message and descriptors through a stream socket."""
    body = json.dumps(message).encode()
    socket.send_fds(control, [len(body).to_bytes(4, "big")], fds)
    control.sendall(body)


def receive(control: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message with its descriptors; None if the other side has ended."""
    try:
        # A side that ends before it has read all messages resets the socket, which is treated as any other end.
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


def with_conf_in_pipe(command: Sequence[str], descriptor: int = 0) -> tuple[list[str], int]:
    """Move the main class and settings of Java's command into a pipe, since all users can read a command line.

    Return the new command and the pipe. ``descriptor`` is the pipe's number in Java if it differs from the number here.
    """
    start = end = command.index("--conf")
    while command[end : end + 1] == ["--conf"]:
        end += 2
    words = os.fsencode("".join(f'"{word.translate(_ESCAPED)}"\n' for word in command[start - 1 : end]))
    read_end, write_end = os.pipe()
    # The pipe must hold all words, since Java reads them later; by default it holds 64 KiB.
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, len(words))
    os.write(write_end, words)
    os.close(write_end)
    return [*command[: start - 1], f"@/proc/self/fd/{descriptor or read_end}", *command[end:]], read_end


class ScriptHost:
    """Serves the worker's requests, one after the other."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._worker_pid = os.getppid()
        self._children: dict[int, str] = {}  # the worker's names of child processes, by pid
        self._jvm_name = ""
        self._jvm_stdin: int | None = None
        self._wake, wake_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # The handler does nothing. But only with a handler is a byte written to the pipe when a child ends, which wakes
        # ``poll``.
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake_end)

    def serve(self) -> ForkWork | None:
        """Serve until the worker ends, then end all processes and return None; in a fork, return the fork's work."""
        poller = poll()
        poller.register(self._control, POLLIN)
        poller.register(self._wake, POLLIN)
        while os.getppid() == self._worker_pid:
            ready = {fd for fd, _ in poller.poll(1000)}
            if self._wake in ready:
                os.read(self._wake, 4096)
            self._reap()
            if self._control.fileno() in ready:
                request = receive(self._control)
                if request is None:
                    break
                fork_work = self._handle(*request)
                if fork_work is not None:
                    return fork_work
        end_descendants((), self._reap, END_LIMIT_S)
        return None

    def _handle(self, message: Message, fds: list[int]) -> ForkWork | None:
        fork_work: ForkWork | None = None
        match message["do"]:
            case "jvm":
                self._start_jvm(message, fds)
            case "preload":
                import_pyspark()
            case "script":
                fork_work = self._fork(message["name"], lambda: run_script(message, fds))
            case "interrupt":
                self._dump(message["script"])
                fork_work = self._fork(message["name"], lambda: cancel_jobs(message))
            case "end":
                self._end(message)
        if fork_work is None:
            for fd in fds:
                os.close(fd)
        return fork_work

    def _start_jvm(self, message: Message, fds: list[int]) -> None:
        """Start Java, or Python for Spark Connect, with ``fds`` as its descriptors from 1 on."""
        if self._jvm_stdin is not None:
            os.close(self._jvm_stdin)
        # Spark's gateway server runs until its standard input ends. Only this process holds the other side of the pipe
        # (both are close-on-exec), so the JVM ends with it in any case.
        stdin, self._jvm_stdin = os.pipe()
        own_pid, command = os.getpid(), message["command"]
        if message.get("java", True):
            command, conf = with_conf_in_pipe(command, len(fds) + 1)
        else:
            conf = os.open(os.devnull, os.O_RDONLY)
        pid = os.fork()
        if pid == 0:
            try:
                die_with_parent(own_pid)
                os.setsid()
                os.chdir(message["cwd"])
                place_fds([stdin, *fds, conf])
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                # As in subprocess: Python ignores SIGPIPE, and an ignored signal stays ignored after exec.
                signal.signal(signal.SIGPIPE, signal.SIG_DFL)
                os.execve(command[0], command, message["env"])  # noqa: S606 - without a shell on purpose
            except (OSError, ValueError) as error:  # ValueError: an argument with a null character
                os.write(2, f"{command[0]} cannot be started: {error}\n".encode())
            finally:
                # After any failure this fork must not go on as a second host.
                os._exit(127)
        os.close(stdin)
        os.close(conf)
        self._children[pid] = self._jvm_name = message["name"]
        self._report({"name": self._jvm_name, "pid": pid})

    def _fork(self, name: str, fork_work: ForkWork) -> ForkWork | None:
        """Fork this process. In the fork return ``fork_work``, in the host None."""
        pid = os.fork()
        if pid == 0:
            # Otherwise the garbage collector might later close a file that the fork has opened under the same number.
            self._control.detach()
            return fork_work
        self._children[pid] = name
        return None

    def _end(self, message: Message) -> None:
        """Kill all processes except those that ``spare`` names: ``jvm``, or ``jvm tree`` with its Python workers."""
        spare, jvm = message["spare"], {pid for pid, name in self._children.items() if name == self._jvm_name}
        self._dump(message["dump"])
        spared = jvm if spare else ()
        survivors = end_descendants(spared, self._reap, END_LIMIT_S, spare_below=spare == "jvm tree")
        self._report({"ended": sorted(survivors)})

    def _dump(self, script: int) -> None:
        """Let a script write its stacks, if it still runs."""
        # Only a descendant is signalled, since another process may have got the script's pid.
        if script and script in descendants(os.getpid()):
            signal_process(script, DUMP_SIGNAL)
            wait_until_handled(script, DUMP_SIGNAL, DUMP_LIMIT_S)

    def _reap(self) -> None:
        """Collect ended processes, also orphans, and report those that the worker has named."""
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
        with contextlib.suppress(OSError):  # the worker has ended, and ``serve`` will notice
            send(self._control, event)


def run_script(message: Message, fds: list[int]) -> None:
    """In a fork: run the script and end this process as the interpreter would."""
    status_fd = become_script(*fds, parent_pid=message["host"])
    os.environ.clear()
    os.environ.update(message["env"])
    # The C library has cached the worker's TZ, and tempfile may have cached the host's temporary folder.
    time.tzset()
    tempfile.tempdir = None
    os.chdir(message["cwd"])
    sys.path[:0] = [part for part in os.environ["PYTHONPATH"].split(os.pathsep) if part not in sys.path]
    # The host's import finders have cached the folders' content.
    importlib.invalidate_caches()
    if message["first"]:  # for later scripts the worker has prepared the JVM
        details = {key: message[key] for key in ("properties", "keep", "restored")}
        jvm_calls().prepare(message["port"], message["secret"], **details)
    if message["keep"]:
        jvm_calls().keep_contexts()
        know_catalog_tables()
    our_modules = sys.modules.keys() - {"__main__"}
    # Not earlier: if something fails before this report, the script is run again in a new JVM (``warm_runner``).
    report(status_fd, "started", os.getpid())
    try:
        execute(message["script"], message["args"])
    except SystemExit as end:
        if end.code not in (None, 0):
            raise
    _exit(our_modules)


def _exit(our_modules: Collection[str]) -> None:
    """End a script's process as the interpreter would, but without unloading ``our_modules``.

    The host has imported these modules, and their memory is shared with the host.
    """
    import ctypes  # not at the top of the module, where it would delay the start of the JVM

    threading._shutdown()  # type: ignore[attr-defined] # waits for the script's threads
    atexit._run_exitfuncs()
    module: Any  # a script can put any object into sys.modules, and in place of a stream
    stream: Any
    try:
        for module in [sys.modules.pop(name) for name in reversed(list(sys.modules)) if name not in our_modules]:
            names = vars(module) if isinstance(module, ModuleType) else {}
            for name in sorted(names.keys() - {"__builtins__"}, key=lambda name: name[:1] != "_"):
                names[name] = None  # the garbage collector might close a file before it is flushed
        gc.collect()
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
    except Exception:  # noqa: BLE001 - the interpreter then ends the process, and reports the error in its own way
        return
    # C's own exit calls the exit functions of libraries. PyDLL, unlike CDLL, keeps Python's lock, so that no daemon
    # thread runs meanwhile.
    ctypes.PyDLL(None).exit(0)


def cancel_jobs(message: Message) -> None:
    """In a fork: cancel Spark's jobs until the host ends all processes."""
    die_with_parent(message["host"])
    jvm_calls().cancel_jobs(message["port"], message["secret"])


def jvm_calls() -> ModuleType:
    """The module ``jvm_calls``, imported late: it needs Py4J, which a host without a warm JVM may not have."""
    return importlib.import_module("sparklet.spark.jvm_calls")


def import_pyspark() -> None:
    """Import what nearly every script needs, once for all forks.

    numpy is not imported, since it starts threads and has a random state. PySpark would import it if it is installed,
    so PySpark gets ``_NumpyLater``, which imports numpy at its first use.
    """
    from sparklet.job.spark_lines import SparkTestingLater

    if importlib.util.find_spec("numpy") is not None:
        sys.modules["numpy"] = _NumpyLater("numpy")
    try:
        for name in ("pyspark.sql.functions", "pyspark.sql.types", "py4j.clientserver"):
            importlib.import_module(name)
    finally:
        # A script's own import must find the real numpy.
        sys.modules.pop("numpy", None)
    sys.modules.setdefault(SparkTestingLater.NAME, SparkTestingLater(SparkTestingLater.NAME))
    _skip_imports_of_create_data_frame()
    keep_master()
    retry_conflicts()
    pool_threads()
    jvm_calls().use_unique_callback_ids()
    jvm_calls().remember_names()
    # The garbage collector does not touch frozen objects, so the forks keep sharing their memory.
    gc.collect()
    gc.freeze()


def _skip_imports_of_create_data_frame() -> None:
    """Let createDataFrame import numpy, pandas and pyarrow only if the data can have their types.

    It imports them just to check the data's type, which would take half a second of each script.
    """
    from pyspark.sql import SparkSession

    # Each package is needed once this module is imported: createDataFrame uses pandas for arrays of numpy as well.
    needed_with = {"numpy": "numpy", "pandas": "numpy", "pyarrow": "pyarrow"}

    def import_if_needed(name: str, *details: Any) -> ModuleType:
        if needed_with.get(name, "sys") not in sys.modules:
            raise ModuleNotFoundError(f"{name} is not there yet")
        return __import__(name, *details)

    create: Any = SparkSession.createDataFrame
    # A function takes its builtins from the globals when it is made, so createDataFrame is made anew below.
    create.__globals__["__builtins__"] = {**vars(builtins), "__import__": import_if_needed}
    details = (create.__code__, create.__globals__, create.__name__, create.__defaults__, create.__closure__)
    SparkSession.createDataFrame = update_wrapper(FunctionType(*details), create)


class _NumpyLater(ModuleType):
    """PySpark's ``np``: until a script imports the real numpy, nothing can be an instance of its classes."""

    def __getattr__(self, name: str) -> Any:
        # Python's import system reads such names of modules, which must not load numpy.
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get("numpy") is self:  # PySpark is being imported, and has ``from numpy import …``
            return lambda *args, **kwargs: getattr(importlib.import_module("numpy"), name)(*args, **kwargs)
        if name in ("generic", "ndarray") and "numpy" not in sys.modules:
            return _Nothing
        return getattr(importlib.import_module("numpy"), name)


class _Nothing:
    """Has no instances."""


def main() -> None:
    """Run ``python -P -m sparklet.spark.script_host CONTROL_FD``; its current folder is deleted at the end."""
    home = Path.cwd()
    become_subreaper()
    host = ScriptHost(socket.socket(fileno=int(sys.argv[1])))
    fork_work = host.serve()
    if fork_work is not None:
        fork_work()
        return
    from sparklet.spark.owned import delete_own  # not at the top of the module, where it would delay the JVM

    delete_own(home)


if __name__ == "__main__":
    main()

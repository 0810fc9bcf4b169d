"""Runs a script in a process forked for it, as ``python script.py arguments`` would.

Under ``submit`` spark-submit runs ``main``; under ``warm`` the script host uses ``become_script`` and ``execute``.
"""

import errno
import faulthandler
import fcntl
import functools
import importlib
import json
import os
import random
import signal
import stat
import sys
import time
import types
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import TracebackType
from typing import Any

from sparklet.spark import script_acts
from sparklet.spark.catalog_calls import know_catalog_tables

STDOUT, STDERR, STATUS = 3, 4, 5
"""The descriptors of the script's own pipes in the JVM of ``submit``; Java's other children do not inherit them."""

AS_IN_LAMBDA = "SPARKLET_AS_IN_LAMBDA"  # set by local stacks, so that scripts fail here where they would fail in Lambda

CONFLICT, MAX_CONFLICTS = "HoodieWriteConflictException", 10

DUMP_SIGNAL = signal.SIGRTMAX - 1
"""Makes a script write its stacks; sent before the script is ended at its deadline."""


def report(status_fd: int, event: str, value: int) -> None:
    """Report an event to the worker and close the pipe: ``started`` with the pid, or ``exited`` with the exit code."""
    os.write(status_fd, json.dumps({event: value}).encode() + b"\n")
    os.close(status_fd)


def become_script(stdout_fd: int, stderr_fd: int, status_fd: int, *, parent_pid: int) -> int:
    """Make this fork the script's process, which keeps only its standard streams and the status pipe.

    Return the descriptor that the status pipe has from now on.
    """
    from sparklet.spark.processes import die_with_parent

    die_with_parent(parent_pid)
    os.setsid()
    # The host's handler would write to a descriptor, whose number may later belong to a file of the script.
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    place_fds([os.open(os.devnull, os.O_RDONLY), stdout_fd, stderr_fd, status_fd])
    os.set_inheritable(3, False)
    faulthandler.register(DUMP_SIGNAL, file=2, all_threads=True)
    return 3


def place_fds(fds: Sequence[int]) -> None:
    """Make ``fds`` the descriptors 0, 1, 2, …, inheritable; close all others."""
    # They are moved to higher numbers first, since one of them may have a number that another one is to get.
    high_fds = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, len(fds)) for fd in fds]
    for number, fd in enumerate(high_fds):
        os.dup2(fd, number, inheritable=True)
    os.closerange(len(fds), os.sysconf("SC_OPEN_MAX"))


def refuse_semaphores() -> None:
    """Let locks between processes fail when a script makes one, as in Lambda, which has no ``/dev/shm``."""
    _multiprocessing: Any = importlib.import_module("_multiprocessing")

    class SemLock(_multiprocessing.SemLock):  # type: ignore[misc]
        def __new__(cls, *args: object, **named: object) -> "SemLock":  # OSError, since joblib handles that
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    _multiprocessing.SemLock = SemLock


def execute(script: str, args: Sequence[str]) -> None:
    """Run a script as ``__main__`` and raise SystemExit, so that the interpreter ends as usual."""
    if AS_IN_LAMBDA in os.environ:
        refuse_semaphores()
    path = Path(script).absolute()
    # As Python itself does: the modules of a script that is a link are beside the link's target.
    sys.path.insert(0, str((path.resolve() if path.is_symlink() else path).parent))
    script_acts.watch(script, [*args])
    module = types.ModuleType("__main__")
    module.__dict__.update(
        __file__=script, __cached__=None, __loader__=SourceFileLoader("__main__", script), __annotations__={}
    )
    sys.modules["__main__"] = module
    try:
        code = compile(Path(script).read_bytes(), script, "exec", dont_inherit=True)
        exec(code, module.__dict__)  # noqa: S102 - running scripts is the purpose
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # noqa: BLE001 - handled as the interpreter would
        # As in Python itself, the traceback begins with the script's frame, and a hook set by the script is called.
        error.with_traceback(_without_our_frames(error.__traceback__))
        sys.excepthook(type(error), error, error.__traceback__)
        sys.exit(1)
    finally:
        script_acts.end()
    sys.exit(0)


def _without_our_frames(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


def keep_master() -> None:
    """Let scripts that name a cluster as master run locally, since Spark would wait for YARN for minutes.

    If the JVM's master is local, the script's master is ignored with a warning.
    """
    from pyspark import SparkConf

    set_option = SparkConf.set

    def set_all_but_master(self: SparkConf, key: str, value: str) -> SparkConf:
        if key == "spark.master" and not str(value).startswith("local"):
            master = self.get(key) or ""
            if master.startswith("local"):
                sys.stderr.write(f"sparklet: the script's master {value} is not used: Spark runs here, as {master}\n")
                return self
        return set_option(self, key, value)

    SparkConf.set = set_all_but_master


def pool_threads() -> None:
    """Let pools of threads work without locks between processes, which Lambda lacks and these pools do not need.

    ``Pool`` always makes a queue between processes; in pools of threads it only wakes a thread of this process.
    """
    from multiprocessing import get_context, pool

    class Notifier:
        def __init__(self) -> None:
            self._reader, self._writer = get_context().Pipe(duplex=False)
            self.get, self.put = self._reader.recv, self._writer.send

        def empty(self) -> bool:
            return not self._reader.poll()

        def close(self) -> None:
            self._reader.close()
            self._writer.close()

    class Context:
        SimpleQueue = Notifier

        def __getattr__(self, name: str) -> Any:
            return getattr(get_context(), name)

    def start(self: Any, processes: int | None = None, initializer: Any = None, initargs: Sequence[Any] = ()) -> None:
        pool.Pool.__init__(self, processes, initializer, initargs, context=Context())

    pool.ThreadPool.__init__ = start  # type: ignore[assignment, method-assign]


def retry_conflicts() -> None:
    """Repeat Hudi's writes that conflict with another writer; Hudi's option for this cannot be set by default."""
    from py4j.protocol import Py4JJavaError
    from pyspark.sql import DataFrameWriter

    save = DataFrameWriter.save

    def save_again(self: DataFrameWriter, *args: Any, **options: Any) -> None:
        conflicts = 0
        while True:
            try:
                save(self, *args, **options)
                return
            except Py4JJavaError as error:
                conflicts += 1
                if conflicts > MAX_CONFLICTS or CONFLICT not in error.java_exception.toString():
                    raise
            # The pause is random, since otherwise two writers would conflict again.
            time.sleep(random.uniform(0, 2 * conflicts))

    DataFrameWriter.save = functools.wraps(save)(save_again)


def main() -> None:
    """Run ``script_main.py SCRIPT ARGUMENTS…`` under spark-submit, as a child of the JVM, or under Spark Connect.

    The script gets its own process, so that its exit code is reported however it ends. It gets the pipes that the JVM
    holds for it, since Java's own pipe would mix standard error into standard output.
    """
    has_jvm = "PYSPARK_GATEWAY_PORT" in os.environ
    holder_pid = os.getppid() if has_jvm else os.getpid()
    stdout_fd, stderr_fd, status_fd = (
        _open_pipe(f"/proc/{holder_pid}/fd/{number}") for number in (STDOUT, STDERR, STATUS)
    )
    if has_jvm:
        _log_in()
    own_pid = os.getpid()
    script_pid = os.fork()
    if script_pid == 0:
        del sys.path[0]  # this file's folder
        report(become_script(stdout_fd, stderr_fd, status_fd, parent_pid=own_pid), "started", os.getpid())
        if has_jvm:
            keep_master()
            context: Any = importlib.import_module("pyspark").SparkContext
            calls = importlib.import_module("sparklet.spark.jvm_calls")
            context._initialize_context = calls.with_inferred_types(context._initialize_context)
            retry_conflicts()
            know_catalog_tables()
        pool_threads()
        execute(sys.argv[1], sys.argv[2:])
    code = os.waitstatus_to_exitcode(os.waitpid(script_pid, 0)[1])
    report(status_fd, "exited", code)
    os._exit(jvm_code(code))


def jvm_code(script_code: int) -> int:
    """The exit code that spark-submit's JVM has after its script: the script's, or 128 plus the signal's number."""
    return script_code if script_code >= 0 else 128 - script_code


def _log_in() -> None:
    """Log in to Hadoop, as ``jvm_calls.prepare`` does for the warm JVM."""
    from sparklet.spark.processes import has_name

    if not has_name():
        from sparklet.spark.jvm_calls import connected, log_in

        with connected(int(os.environ["PYSPARK_GATEWAY_PORT"]), os.environ["PYSPARK_GATEWAY_SECRET"]) as client:
            log_in(client)


def _open_pipe(path: str) -> int:
    fd = os.open(path, os.O_WRONLY)
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        raise SystemExit(f"{path} is not the pipe that the worker made")
    return fd


if __name__ == "__main__":
    main()

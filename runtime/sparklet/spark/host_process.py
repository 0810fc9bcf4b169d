"""The worker's side of the script host (``script_host``): sends requests to it, reads its reports and all pipes.

There is no thread: pipes are read while the worker waits. No process gets the worker's own standard input or
output, which Lambda's runtime may use.
"""

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from signal import SIGKILL
from typing import Any, cast

from sparklet.errors import GatewayLostError
from sparklet.spark.owned import delete_own
from sparklet.spark.processes import cpu_times_s, end_marked, signal_process
from sparklet.spark.runner import COLLECTORS, LOOKS, WATCHED_S, CollectorWatch, Deadline
from sparklet.spark.script_host import END_LIMIT_S, receive, send
from sparklet.spark.script_output import LineFeed, ScriptOutput

CHUNK_BYTES = 64 * 1024
INTERRUPT = "interrupt"
MAX_WAIT_S = 1.0  # the deadline is a time of day, so the clock must be read soon after a thaw
CONNECTS_WITHIN_S = 5.0
DRAIN_ROUNDS = 64  # a pipe may never be empty

Sink = Callable[[bytes], None]


class HostProcess:
    """A script host, started by exec in a folder of its own under scratch, and the state of its processes."""

    def __init__(self, scratch: Path, env: Mapping[str, str]) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="sparklet-", dir=scratch))
        self.mark = {"SPARKLET_HOST": str(self.home)}  # in the environment of all processes that the host starts
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                # Without -P the host's folder would be first in sys.path, also in each forked script.
                [sys.executable, "-P", "-m", "sparklet.spark.script_host", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd=self.home,
                env=env,
                start_new_session=True,  # so that only the worker gets Ctrl-C
            )
        self.pid = self._process.pid
        self.alive = True
        self.pids: dict[str, int] = {}  # the pids of JVMs, and of scripts that have begun, by name
        self.codes: dict[str, int] = {}  # the exit codes of processes that have ended, by name
        self.answers: dict[str, str] = {}  # each JVM's answer to the last call, as Py4J encodes it, by the JVM's name
        self._survivors: list[tuple[int, ...]] = []  # the host's answer to ``end``
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._control, selectors.EVENT_READ)

    def pipe(self, sink: Sink) -> int:
        """Make a pipe whose lines are passed to ``sink``; return the descriptor to write to, for ``request``."""
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        self._selector.register(open(ours, "rb", 0), selectors.EVENT_READ, LineFeed(sink))  # noqa: SIM115 - until it ends
        return theirs

    def status_pipe(self, name: str) -> int:
        """A pipe for the reports that a script has started and, under spark-submit, with which code it has exited."""

        def on_report(line: bytes) -> None:
            for event, value in json.loads(line).items():
                (self.pids if event == "started" else self.codes)[name] = value

        return self.pipe(on_report)

    def connect(self, name: str, port: int, secret: str) -> socket.socket:
        """Connect to the Py4J server of the JVM ``name``; its answers to calls go to ``answers``. Raises OSError."""
        connection = socket.create_connection(("127.0.0.1", port), CONNECTS_WITHIN_S)
        connection.sendall(f"A\n{secret}\n".encode())
        connection.recv(CHUNK_BYTES)  # not checked: after a refused secret no call gets an answer
        connection.settimeout(None)
        on_answer = LineFeed(lambda answer: self.answers.update({name: answer.decode().rstrip("\n")}))
        self._selector.register(connection, selectors.EVENT_READ, on_answer)
        return connection

    def request(self, action: str, fds: Sequence[int] = (), **details: Any) -> None:
        """Send a request and descriptors to the host; raises GatewayLostError if the host has ended.

        A process that is started needs a unique ``name``, since its end may be reported late.
        """
        try:
            send(self._control, {"do": action, **details}, fds)
        except OSError as error:
            self.alive = False
            raise GatewayLostError("the script host has ended; the next task gets a new one") from error
        finally:
            # The host has its own copies. A pipe ends only once all copies of its other side are closed.
            for fd in fds:
                os.close(fd)

    def wait(self, until_s: float | Callable[[], float], done: Callable[[], object] = lambda: False) -> None:
        """Read all pipes until ``done()`` is true, the host ends, or the time is ``until_s``.

        ``until_s`` can be a function, since a deadline may change in the meantime.
        """
        while self.alive and not done():
            wait_s = min(MAX_WAIT_S, (until_s() if callable(until_s) else until_s) - time.time())
            if wait_s <= 0:
                self.drain()
                return
            self._read(wait_s)

    def wait_for_script(self, script_output: ScriptOutput, jvm: str, done: Callable[[], object]) -> None:
        """Wait until ``done()`` is true, the host ends, or the deadline has passed.

        A JVM that lacks memory, so that it does nothing but collect garbage, is killed.
        """
        watch = CollectorWatch(time.monotonic() + WATCHED_S / LOOKS)

        def is_done() -> bool:
            if done():
                return True
            pid = self.pids.get(jvm, 0)
            if watch.is_stuck(time.monotonic(), lambda: cpu_times_s(pid, COLLECTORS)):
                script_output.out_of_memory = (
                    f"GC overhead limit exceeded, for {WATCHED_S:.0f} s it only collected garbage"
                )
                signal_process(pid, SIGKILL)
            return False

        self.wait(lambda: script_output.call.deadline.guard_s, is_done)

    def end(self, spare: str = "", dump: int = 0) -> tuple[int, ...]:
        """Kill all processes that the host started, except ``spare``; return those still alive after a few seconds.

        ``spare`` is ``jvm``, or ``jvm tree`` to spare Spark's Python workers as well. ``dump`` is the pid of a script
        that writes its stacks before it is killed, or 0.
        """
        self.request("end", spare=spare, dump=dump)
        self.wait(time.time() + 2 * END_LIMIT_S, lambda: self._survivors)
        # A late answer would be mistaken for the answer to the next request, so this host is given up.
        if not self._survivors:
            self.alive = False
            raise GatewayLostError("the script host does not answer; the next task gets a new one")
        # The last output of the killed processes is still in the pipes, and may name a cause.
        self.drain()
        return self._survivors.pop()

    def end_script(self, pid: int, deadline: Deadline, port: int, secret: str) -> bool:
        """End a script whose deadline is over, and all other processes; return whether it had a grace period.

        In the grace period Spark's jobs are cancelled: so the driver can finish a commit that has begun, but a commit
        whose data is still being written does not begin. Then all processes are killed.
        """
        # The fork that interrupts may end before the script, so it must not count as the script's end.
        since_s, earlier_names = time.time(), {*self.codes, INTERRUPT}
        has_grace = bool(pid) and deadline.grace_end_s(since_s) > since_s
        if has_grace:
            self.request("interrupt", name=INTERRUPT, host=self.pid, script=pid, port=port, secret=secret)
            self.wait(lambda: deadline.grace_end_s(since_s), lambda: self.codes.keys() - earlier_names)
        self.end(dump=0 if has_grace else pid)  # the interrupt has already written the stacks
        return has_grace

    def drain(self) -> None:
        """Read the current content of the pipes."""
        for _ in range(DRAIN_ROUNDS):
            if not self._read(0):
                return

    def close(self) -> None:
        """End the host and all its processes."""
        self.alive = False
        self._control.close()  # the host ends when it reads the end of this socket
        try:
            code = self._process.wait(2 * END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if code != 0:
            # The host could not end its processes. They have no parent any more that leads to them, so they are found
            # by the host's variable in their environment.
            [mark] = self.mark.items()
            end_marked(mark)
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                cast("Any", key.fileobj).close()
        self._selector.close()
        delete_own(self.home)

    def _read(self, wait_s: float) -> bool:
        """Wait for input and process it; return whether there was any."""
        ready = self._selector.select(wait_s)
        for key, _ in ready:
            if key.data is None:
                self._read_report()
            else:
                self._read_pipe(key.fileobj, key.data)
        return bool(ready)

    def _read_pipe(self, pipe: Any, lines: LineFeed) -> None:
        """Pass a pipe's next bytes on; close the pipe at its end."""
        chunk = b""
        with contextlib.suppress(ConnectionResetError):  # the JVM was killed
            chunk = os.read(pipe.fileno(), CHUNK_BYTES)
        if not chunk:
            self._selector.unregister(pipe)
            pipe.close()
        lines.feed(chunk)

    def _read_report(self) -> None:
        """Read the host's next message: a process has started or ended, or the answer to ``end``; or notice its end."""
        received = receive(self._control)
        if received is None:
            self._selector.unregister(self._control)
            self.alive = False
            return
        message, _ = received
        if "gone" in message:
            self.codes[message["gone"]] = message["code"]
        elif "pid" in message:
            self.pids[message["name"]] = message["pid"]
        else:
            self._survivors.append(tuple(message["ended"]))

"""The worker's side of the script host (``script_host``): requests to it, what it reports, its processes' pipes.

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
MAX_WAIT_S = 1.0  # the deadline is a time of day: look at the clock after every thaw
CONNECTS_WITHIN_S = 5.0
DRAIN_ROUNDS = 64  # a pipe may never end

Sink = Callable[[bytes], None]


class HostProcess:
    """A script host, started by exec, in a folder of its own under scratch; and what is known of its processes."""

    def __init__(self, scratch: Path, env: Mapping[str, str]) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="sparklet-", dir=scratch))
        self.mark = {"SPARKLET_HOST": str(self.home)}  # in the environment of all that it starts
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                # Without -P the host's folder would lead sys.path, in each forked script, too.
                [sys.executable, "-P", "-m", "sparklet.spark.script_host", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd=self.home,
                env=env,
                start_new_session=True,  # Ctrl-C is the worker's business
            )
        self.pid = self._process.pid
        self.alive = True
        self.pids: dict[str, int] = {}  # by name, of JVMs, and of scripts that have begun
        self.codes: dict[str, int] = {}  # by name, of processes that have ended
        self.answers: dict[str, str] = {}  # by the JVM's name, to the last call, in Py4J's words
        self._ended: list[tuple[int, ...]] = []  # the host's answer to ``end``
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._control, selectors.EVENT_READ)

    def pipe(self, sink: Sink) -> int:
        """A pipe for ``ask``; ``sink`` gets its lines."""
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        self._selector.register(open(ours, "rb", 0), selectors.EVENT_READ, LineFeed(sink))  # noqa: SIM115 - until it ends
        return theirs

    def status_pipe(self, name: str) -> int:
        """A pipe that tells when a script begins, and under spark-submit how it ends."""

        def hear(line: bytes) -> None:
            for what, value in json.loads(line).items():
                (self.pids if what == "started" else self.codes)[name] = value

        return self.pipe(hear)

    def connect(self, name: str, port: int, secret: str) -> socket.socket:
        """A connection to the Py4J of a JVM, for calls; see ``answers``. Raises OSError."""
        line = socket.create_connection(("127.0.0.1", port), CONNECTS_WITHIN_S)
        line.sendall(f"A\n{secret}\n".encode())
        line.recv(CHUNK_BYTES)  # if it refuses, no call is answered
        line.settimeout(None)
        hear = LineFeed(lambda answer: self.answers.update({name: answer.decode().rstrip("\n")}))
        self._selector.register(line, selectors.EVENT_READ, hear)
        return line

    def ask(self, what: str, fds: Sequence[int] = (), **details: Any) -> None:
        """Send a request and descriptors to the host; raises GatewayLostError if the host has ended.

        A started process needs a unique ``name``, since its end may be reported late.
        """
        try:
            send(self._control, {"do": what, **details}, fds)
        except OSError as error:
            self.alive = False
            raise GatewayLostError("the script host has ended; the next task gets a new one") from error
        finally:
            # The host has its own copies; a pipe ends only when the last copy of its other end is closed.
            for fd in fds:
                os.close(fd)

    def wait(self, until_s: float | Callable[[], float], done: Callable[[], object] = lambda: False) -> None:
        """Read all pipes until ``done``, the end of the host, or ``until_s``, which may move."""
        while self.alive and not done():
            wait_s = min(MAX_WAIT_S, (until_s() if callable(until_s) else until_s) - time.time())
            if wait_s <= 0:
                self.drain()
                return
            self._read(wait_s)

    def wait_for_script(self, task: ScriptOutput, jvm: str, done: Callable[[], object]) -> None:
        """Wait until ``done`` or the deadline; a JVM that only collects garbage is killed, as one without memory."""
        watch = CollectorWatch(time.monotonic() + WATCHED_S / LOOKS)

        def ended() -> object:
            pid = self.pids.get(jvm, 0)
            if not (end := done()) and watch.is_stuck(time.monotonic(), lambda: cpu_times_s(pid, COLLECTORS)):
                task.out_of_memory = f"GC overhead limit exceeded, for {WATCHED_S:.0f} s it only collected garbage"
                signal_process(pid, SIGKILL)
            return end

        self.wait(lambda: task.call.deadline.guard_s, ended)

    def end(self, spare: str = "", dump: int = 0) -> tuple[int, ...]:
        """Kill all started processes but ``spare``; returns those still alive after a few seconds.

        ``spare``: ``jvm``, or ``jvm tree``: with Spark's Python workers. ``dump``: pid of a script, which first writes
        its stacks; 0: none.
        """
        self.ask("end", spare=spare, dump=dump)
        self.wait(time.time() + 2 * END_LIMIT_S, lambda: self._ended)
        # The late answer of this host would be taken for that to the next request, so the host is given up.
        if not self._ended:
            self.alive = False
            raise GatewayLostError("the script host does not answer; the next task gets a new one")
        # The last words of what was killed are still in the pipes, and a cause may be among them.
        self.drain()
        return self._ended.pop()

    def end_script(self, pid: int, deadline: Deadline, port: int, secret: str) -> bool:
        """End a script whose deadline is over, and all else: cancel Spark's jobs, wait a moment, then kill.

        So its driver can finish a commit, and a commit whose data is still being written does not begin. Returns
        whether there was such a moment.
        """
        # The fork that interrupts may end first, and its end is not the script's.
        since_s, before = time.time(), {*self.codes, INTERRUPT}
        has_grace = bool(pid) and deadline.grace_end_s(since_s) > since_s
        if has_grace:
            self.ask("interrupt", name=INTERRUPT, host=self.pid, script=pid, port=port, secret=secret)
            self.wait(lambda: deadline.grace_end_s(since_s), lambda: self.codes.keys() - before)
        self.end(dump=0 if has_grace else pid)  # its stacks have been written
        return has_grace

    def drain(self) -> None:
        """Read the current content of the pipes."""
        for _ in range(DRAIN_ROUNDS):
            if not self._read(0):
                return

    def close(self) -> None:
        """End the host and all its processes."""
        self.alive = False
        self._control.close()  # it ends when it reads this
        try:
            code = self._process.wait(2 * END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        # The tree is torn once the host is dead: only their environment still tells whose its orphans are.
        if code != 0:  # it could not end its processes
            end_marked(next(iter(self.mark.items())))
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
                self._hear_host()
            else:
                self._read_pipe(key.fileobj, key.data)
        return bool(ready)

    def _read_pipe(self, pipe: Any, lines: LineFeed) -> None:
        chunk = b""
        with contextlib.suppress(ConnectionResetError):  # of a JVM that was killed
            chunk = os.read(pipe.fileno(), CHUNK_BYTES)
        if not chunk:
            self._selector.unregister(pipe)
            pipe.close()
        lines.feed(chunk)

    def _hear_host(self) -> None:
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
            self._ended.append(tuple(message["ended"]))

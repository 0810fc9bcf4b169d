"""Several calls of one script in one process, where the script allows it; every other call as it comes.

A script that says ``# sparklet: batch=together`` gets the first call as always. When it asks for the next one
(``sparklet.job.turns``), the first has succeeded: it is answered for, the next one is claimed and handed over, and only
then the script goes on. So each call has an end of its own, and if the process dies that is the failure of the call at
hand alone. The last call of a batch ends with its process, as a call does that has one to itself.

The runner runs the process in a thread, with a deadline that moves from turn to turn, so that whoever hands out calls
does that in a straight line.
"""

import json
import logging
import os
import time
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from select import POLLIN, poll
from typing import TYPE_CHECKING

from sparklet.errors import SparkletError
from sparklet.job.turns import ASK, NEXT, NO_MORE, TELL, TURN, TURN_MARK, TURNS
from sparklet.worker.guards import MIB, TaskDir
from sparklet.worker.runner import Output, Runner, ScriptCall, ScriptResult, Stream
from sparklet.worker.spark_submit import read_options

if TYPE_CHECKING:
    from concurrent.futures import Future

SMALL_BYTES = 16 * MIB  # up to here Spark's settings for an input are the least ones
LEAST_END_S = 5.0  # for a process to end when there is no turn left, though its last turn's time be over

_log = logging.getLogger(__name__)


@dataclass
class Turns:
    """Runs calls, as a runner does; of a batch those that may be turns of one process are.

    Parameters
    ----------
    runner
        Runs the processes.
    behind
        How many calls may come after the next one, at most.
    end_s
        When the last of them must have ended.
    """

    runner: Runner
    behind: int = 0
    end_s: float = inf
    _process: "_Process | None" = field(default=None, init=False)

    def run(self, call: ScriptCall, output: Output) -> ScriptResult:
        """Run one call to its end; see ``Runner``."""
        if self._process is not None and not (self._process.waits() and self._process.fits(call)):
            self.end()
        if self._process is None:
            if not (self.behind and call.turns and read_options(call.script).together):
                return self.runner.run(call, output)
            self._process = _Process(self.runner, call, output, self.end_s)
        else:
            self._process.hand(call, output)
        process = self._process
        if not process.asks():
            self._process = None
            return process.result()
        if self.behind:
            return ScriptResult(0)
        self._process = None
        process.finish()
        return process.result()

    def end(self) -> None:
        """End the process there is: no call of the next batch is a turn of it."""
        process, self._process = self._process, None
        if process is None:
            return
        process.finish()
        try:
            code = process.result().exit_code
        except SparkletError as error:
            _log.warning("a script failed after its last turn, whose result stands: %s", error)
            return
        if code != 0:
            _log.warning("a script exited with %d after its last turn, whose result stands", code)


class _Process:
    """One process of a script and the call whose turn it is."""

    def __init__(self, runner: Runner, call: ScriptCall, output: Output, end_s: float) -> None:
        from concurrent.futures import ThreadPoolExecutor  # no cold start pays for it

        self._call, self._output, self._next_output = call, output, output
        self._end_s, self._last_end_s = call.end_s, call.deadline_s
        self._asked = False
        self._dir = TaskDir(call.work_dir.parent, f"{call.work_dir.name.removeprefix('task-')}-turns")
        folder = self._dir.__enter__()
        self._ask, self._tell = _named_pipe(folder / ASK), _named_pipe(folder / TELL)
        self._ended, ended = os.pipe()
        shared = replace(
            call,
            work_dir=folder,
            deadline_s=end_s,
            moving_end_s=lambda: self._end_s(),
            env={**call.env, TURNS: str(folder)},
        )
        pool = ThreadPoolExecutor(1, "turns")
        self._run: Future[ScriptResult] = pool.submit(runner.run, shared, self._pass_on)
        self._run.add_done_callback(lambda _: os.close(ended))
        pool.shutdown(wait=False)
        self._waiting = poll()
        self._waiting.register(self._ask, POLLIN)
        self._waiting.register(self._ended)

    def waits(self) -> bool:
        """Whether the script waits for its next turn."""
        return self._asked and not self._run.done()

    def fits(self, call: ScriptCall) -> bool:
        """Whether this process would do for a call: the same script for the same purpose, no larger an input."""
        first = self._call
        alike = (call.turns, call.script, call.py_files) == (first.turns, first.script, first.py_files)
        return alike and call.input_size.weighed_bytes <= max(first.input_size.weighed_bytes, SMALL_BYTES)

    def hand(self, call: ScriptCall, output: Output) -> None:
        """Begin the next turn."""
        self._end_s, self._last_end_s = call.end_s, call.deadline_s
        self._next_output = output
        (self._dir.path / TURN).write_text(json.dumps({"args": call.args, "env": dict(call.env)}), encoding="ascii")
        self._answer(NEXT)

    def asks(self) -> bool:
        """Wait until the script asks for another turn, or has ended; whether it asks."""
        ready = {fd for fd, _ in self._waiting.poll()}
        self._asked = self._ask in ready
        if self._asked:
            self._end_s = lambda: inf  # until it is answered, time is not the script's
            os.read(self._ask, 4096)
        return self._asked

    def finish(self) -> None:
        """Tell the script that there is no further turn; one that does not wait for any is ended."""
        if self._asked:
            end_s = max(self._last_end_s, time.time() + LEAST_END_S)
            self._end_s = lambda: end_s
            self._answer(NO_MORE)
        else:
            self._end_s = lambda: 0.0

    def result(self) -> ScriptResult:
        """How the process ended, once it has; see ``Runner.run``."""
        try:
            return self._run.result()
        finally:
            for fd in (self._ask, self._tell, self._ended):
                os.close(fd)
            self._dir.__exit__(None, None, None)

    def _answer(self, what: bytes) -> None:
        self._asked = False
        os.write(self._tell, what)

    def _pass_on(self, stream: Stream, line: bytes) -> None:
        """The script's lines to whose turn it is, as the script itself says in between."""
        if not line.endswith(TURN_MARK):
            self._output(stream, line)
            return
        if rest := line.removesuffix(TURN_MARK):
            self._output(stream, rest)
        self._output = self._next_output


def _named_pipe(path: Path) -> int:
    """A pipe that is open at both ends, so that nobody waits for the other to open or sees an end that is none."""
    os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

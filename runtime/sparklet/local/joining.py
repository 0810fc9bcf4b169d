"""How clients come to a stack and how they end it: one at a time through the door, then many inside.

Who comes takes ``start.lock`` alone, then ``clients.lock`` with the others, then looks for the host. The host ends when
it gets ``clients.lock`` alone, and holds it to its end: who comes meanwhile waits, then starts the next.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sparklet.errors import LocalStackError
from sparklet.local import environment, processes
from sparklet.local.stack_options import StackOptions
from sparklet.local.state import Lock, StateDir, is_locked, read_json, write_json

Progress = Callable[[str], None]

STARTS_WITHIN_S = 240.0
ENDS_WITHIN_S = 360.0
_POLL_S = 0.05


@contextmanager
def alone_at_the_door(state: StateDir, progress: Progress) -> Iterator[None]:
    """Alone among those who start, join or stop the stack."""
    with Lock(state.start_lock) as lock:
        if not lock.try_exclusive():
            progress("waiting for another sparklet that starts or stops the local stack")
            if not lock.exclusive(STARTS_WITHIN_S + ENDS_WITHIN_S):
                raise LocalStackError(f"another process holds {state.start_lock} for too long; end it, then try again")
        yield


def join_or_start(state: StateDir, options: StackOptions, hold: Lock, progress: Progress) -> Any:
    """Hold the lock with others and be inside a stack that runs; what its host published.

    A stack that nobody else uses, and that was wanted otherwise, is ended and started anew.

    Raises
    ------
    LocalStackError
        If it does not start, or an earlier one does not end.
    """
    alone = hold.try_exclusive()
    if not is_locked(state.host_lock):
        state.keep_file.unlink(missing_ok=True)  # of a host that was killed
    elif alone and options.processing and not state.keep_file.exists() and _deviates(state, options):
        progress("ending the local stack to deploy it anew")
        end_host(state)
    _share(hold, progress)
    if options.keep:
        state.keep_file.touch()
    if is_locked(state.host_lock) and (document := _await_info(state)) is not None:
        progress(f"joined the local stack at {document['endpoint_url']}")
        return document
    return _start(state, options, progress)


def _deviates(state: StateDir, options: StackOptions) -> bool:
    document = published(state)
    return document is None or bool(differences_between(options.order(), document["order"]))


def _share(hold: Lock, progress: Progress) -> None:
    """Hold the lock with others; while a host ends it is the host's."""
    end_s = time.monotonic() + ENDS_WITHIN_S
    if not hold.try_shared():
        progress("waiting for the earlier local stack to end")
        while not hold.try_shared():
            if time.monotonic() > end_s:
                raise LocalStackError("the earlier local stack does not end; `sparklet stop` ends it")
            time.sleep(_POLL_S)


def _start(state: StateDir, options: StackOptions, progress: Progress) -> Any:
    progress(f"starting the local stack ({options.workers} workers, state in {state.root})")
    started_s = time.monotonic()
    for stale in (state.failure_file, state.info_file):  # of a host that was killed
        stale.unlink(missing_ok=True)
    write_json(state.order_file, _next_order(state, options))
    host = _spawn_host(state)
    while os.waitpid(host, os.WNOHANG) == (0, 0):
        if (document := published(state)) is not None:
            progress(f"local stack ready at {document['endpoint_url']} after {time.monotonic() - started_s:.1f} s")
            return document
        if time.monotonic() > started_s + STARTS_WITHIN_S:
            processes.kill_tree(host)
            raise LocalStackError(f"the local stack did not start within {STARTS_WITHIN_S:.0f} s; see {state.log}")
        time.sleep(_POLL_S)
    raise LocalStackError(why_it_ended(state))


def _next_order(state: StateDir, options: StackOptions) -> dict[str, Any]:
    """What the host is to deploy; somebody who only reads leaves the deployment as it was."""
    order, last = options.order(), read_json(state.order_file)
    if options.processing or last is None or last.get("version") != order["version"]:
        return order
    return {**last, "processing": False}


def _spawn_host(state: StateDir) -> int:
    """Start the host in a session of its own, so that Ctrl-C in the terminal is not meant for it."""
    log = str(state.log / "host.log")
    files: list[Any] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    command = [sys.executable, "-P", "-m", "sparklet.local.host", str(state.root)]
    return os.posix_spawn(sys.executable, command, environment.of_host(), file_actions=files, setsid=True)


def published(state: StateDir) -> Any:
    """What the running host says of its stack; None if none runs, or it is not ready yet."""
    if not is_locked(state.host_lock):
        return None
    document = read_json(state.info_file)
    return document if document and document["host_pid"] == _host_pid(state) else None


def _host_pid(state: StateDir) -> int:
    """The pid of the host that holds the lock; 0 if it has not said it yet."""
    return int(state.host_lock.read_text() or 0)


def _await_info(state: StateDir) -> Any:
    """What the running host published, once it has; None if it ends before."""
    end_s = time.monotonic() + STARTS_WITHIN_S
    while is_locked(state.host_lock) and time.monotonic() < end_s:
        if (document := published(state)) is not None:
            return document
        time.sleep(_POLL_S)
    return None


def end_host(state: StateDir) -> bool:
    """Have the host end everything; by force if it does not."""
    if not is_locked(state.host_lock):
        return False
    told, end_s = 0, time.monotonic() + ENDS_WITHIN_S
    while is_locked(state.host_lock):
        pid = _host_pid(state)
        if pid and pid != told:
            processes.signal_process(pid, signal.SIGTERM)
            told = pid
        if time.monotonic() > end_s:
            raise LocalStackError(f"the local stack's host (pid {pid}) does not end; see {state.log}, then kill it")
        time.sleep(_POLL_S)
    return True


def differences_between(wanted: Mapping[str, Any], runs: Mapping[str, Any]) -> tuple[str, ...]:
    """What was wanted otherwise than it runs, in words."""
    names = [name for name in wanted if name != "processing" and wanted[name] != runs.get(name)]
    return tuple(
        f"{name} differs" if isinstance(wanted[name], dict) else f"{name}: {runs.get(name)} instead of {wanted[name]}"
        for name in names
    )


def why_it_ended(state: StateDir) -> str:
    """What the last host left as its reason, with the remedy."""
    try:
        return state.failure_file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return (
            f"the local stack was ended from outside; the next command starts it again (log: {state.log / 'host.log'})"
        )

"""Attach to the stack of a state folder, or start it; end it.

A client takes ``start.lock`` alone, then ``clients.lock`` with the others, then looks for the host. The host ends when
it gets ``clients.lock`` alone, and holds it to its end: a client that comes meanwhile waits, and starts the next host.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sparklet.errors import LocalStackError
from sparklet.local import environment
from sparklet.local.emulator_packages import ensure_emulator
from sparklet.local.lock import POLL_S, Lock, is_locked
from sparklet.local.state import StateDir, read_json, write_json
from sparklet.model.quantities import count_text
from sparklet.spark.processes import kill_tree, signal_process

Progress = Callable[[str], None]

STARTS_WITHIN_S = 240.0
ENDS_WITHIN_S = 360.0


@contextmanager
def start_lock(state: StateDir, progress: Progress) -> Iterator[None]:
    """A block during which no other client starts, attaches to or stops the stack."""
    with Lock(state.start_lock) as lock:
        waits = partial(progress, "waiting for another sparklet that starts or stops the local stack")
        if not lock.exclusive(STARTS_WITHIN_S + ENDS_WITHIN_S, waits):
            raise LocalStackError(f"another process holds {state.start_lock} for too long; end it, then try again")
        yield


def attach_or_start(
    state: StateDir, request: Mapping[str, Any], hold: Lock, progress: Progress, *, keep: bool, replace_kept: bool
) -> Any:
    """Take the lock that clients share, start the stack if necessary; return the document that its host published.

    A stack that differs from the request is ended and started anew if it has no other client; a kept one only with
    ``replace_kept``. With ``keep`` it outlives its clients. LocalStackError if it does not start or end.
    """
    # The start lock keeps new clients away, so this tells whether there are others. An ending host holds the clients'
    # lock alone, too.
    alone, is_kept = hold.exclusive(), state.keep_file.exists() and not replace_kept
    if not is_locked(state.host_lock):
        state.keep_file.unlink(missing_ok=True)  # of a host that was killed
    # A client that only reads takes any deployment as it is.
    elif alone and request["processing"] and not is_kept:
        document = published(state)
        if document is None or differences_between(request, document["request"]):
            progress("ending the local stack to deploy it anew")
            end_host(state)
    # Before the look for a host: a host that finds the lock held does not end for lack of clients.
    share(hold, progress)
    if keep:
        state.keep_file.touch()
    if (document := _await_info(state)) is not None:
        progress(f"attached to the local stack at {document['endpoint_url']}")
        return document
    return _start(state, request, progress)


def share(hold: Lock, progress: Progress) -> None:
    """Take the lock with others; an ending host holds it alone."""
    if not hold.shared(ENDS_WITHIN_S, partial(progress, "waiting for the earlier local stack to end")):
        raise LocalStackError("the earlier local stack does not end; `sparklet stop` ends it")


def _start(state: StateDir, request: Mapping[str, Any], progress: Progress) -> Any:
    packages = ensure_emulator(progress, offline=bool(os.environ.get("SPARKLET_OFFLINE")))
    progress(f"starting the local stack ({count_text(request['workers'], 'worker')}, state in {state.root})")
    started_s = time.monotonic()
    for stale in (state.failure_file, state.info_file):  # of a host that was killed
        stale.unlink(missing_ok=True)
    write_json(state.request_file, _next_request(request, read_json(state.request_file)))
    host = _spawn_host(state, packages)
    while os.waitpid(host, os.WNOHANG) == (0, 0):
        if (document := published(state)) is not None:
            progress(f"local stack ready at {document['endpoint_url']} after {time.monotonic() - started_s:.1f} s")
            return document
        if time.monotonic() > started_s + STARTS_WITHIN_S:
            kill_tree(host)
            raise LocalStackError(f"the local stack did not start within {STARTS_WITHIN_S:.0f} s; see {state.log}")
        time.sleep(POLL_S)
    raise LocalStackError(why_it_ended(state))


def _next_request(request: Mapping[str, Any], last: Any) -> Mapping[str, Any]:
    """The host's next request; a client that only reads leaves the deployment as it was."""
    if request["processing"] or last is None or last.get("version") != request["version"]:
        return request
    return {**last, "processing": False}


def _spawn_host(state: StateDir, packages: Path) -> int:
    """Start the host in a session of its own, which Ctrl-C in the terminal does not reach."""
    log = str(state.log / "host.log")
    files: list[Any] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    # -P keeps the user's folder off the path, where a json.py would replace Python's own.
    command = [sys.executable, "-P", "-m", "sparklet.local.host", str(state.root), str(packages)]
    return os.posix_spawn(sys.executable, command, environment.of_host(), file_actions=files, setsid=True)


def published(state: StateDir) -> Any:
    """The document that the running host published; None if no host runs, or it is not ready yet."""
    if not is_locked(state.host_lock):
        return None
    document = read_json(state.info_file)
    # A host that was killed leaves its document to the next one, which has another pid.
    return document if document and document["host_pid"] == _host_pid(state) else None


def _host_pid(state: StateDir) -> int:
    """The pid of the host that holds the lock; 0 if it has not written it yet."""
    return int(state.host_lock.read_text() or 0)


def _await_info(state: StateDir) -> Any:
    """The document of the running host, as soon as it is published; None if the host ends before."""
    end_s = time.monotonic() + STARTS_WITHIN_S
    while is_locked(state.host_lock) and time.monotonic() < end_s:
        if (document := published(state)) is not None:
            return document
        time.sleep(POLL_S)
    return None


def end_host(state: StateDir) -> bool:
    """End the host and its stack; False if none runs."""
    if not is_locked(state.host_lock):
        return False
    signalled, end_s = 0, time.monotonic() + ENDS_WITHIN_S
    while is_locked(state.host_lock):
        pid = _host_pid(state)
        # Until a host has written its pid, the file may have an earlier one's: the true one gets the signal later.
        if pid and pid != signalled:
            signal_process(pid, signal.SIGTERM)
            signalled = pid
        if time.monotonic() > end_s:
            raise LocalStackError(f"the local stack's host (pid {pid}) does not end; see {state.log}, then kill it")
        time.sleep(POLL_S)
    return True


def differences_between(request: Mapping[str, Any], runs: Mapping[str, Any]) -> tuple[str, ...]:
    """The differences between a client's request and the running stack, in words."""
    names = [name for name in request if name != "processing" and request[name] != runs.get(name)]
    return tuple(
        f"{name} differs" if isinstance(request[name], dict) else f"{name}: {runs.get(name)} instead of {request[name]}"
        for name in names
    )


def why_it_ended(state: StateDir) -> str:
    """The reason that the last host left, with the remedy."""
    try:
        return state.failure_file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return (
            f"the local stack was ended from outside; the next command starts it again (log: {state.log / 'host.log'})"
        )

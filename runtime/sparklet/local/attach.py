"""Attach to the stack of a state folder, start it, or stop it.

A client takes ``start.lock`` (exclusive), then ``clients.lock`` (shared with other clients), then looks for the host.
The host stops when it gets ``clients.lock`` exclusively, and holds this lock until it has ended. A client that comes
during that time waits, and starts the next host.
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
    """Keep other clients from starting, attaching to or stopping the stack during the block."""
    with Lock(state.start_lock) as lock:
        report_waiting = partial(progress, "waiting for another sparklet that starts or stops the local stack")
        if not lock.exclusive(STARTS_WITHIN_S + ENDS_WITHIN_S, report_waiting):
            raise LocalStackError(f"another process holds {state.start_lock} for too long; end it, then try again")
        yield


def attach_or_start(
    state: StateDir,
    request: Mapping[str, Any],
    clients_lock: Lock,
    progress: Progress,
    *,
    keep: bool,
    replace_kept: bool,
) -> Any:
    """Take the lock that clients share, and start the stack if none runs. Returns the document that its host published.

    A running stack that differs from the request is stopped and started anew if it has no other client; a kept stack
    only with ``replace_kept``. With ``keep`` the stack outlives its clients. LocalStackError if it does not start or
    stop.
    """
    # True if there is no other client: the start lock keeps new clients away. A host that is stopping holds this lock.
    is_only_client = clients_lock.exclusive()
    is_kept = state.keep_file.exists() and not replace_kept
    if not is_locked(state.host_lock):
        state.keep_file.unlink(missing_ok=True)  # left by a host that was killed
    # A client that only reads uses any deployment as it is.
    elif is_only_client and request["processing"] and not is_kept:
        document = published_document(state)
        if document is None or differences_between(request, document["request"]):
            progress("ending the local stack to deploy it anew")
            end_host(state)
    # Taken before the check for a host: while a client holds this lock, the host does not stop for lack of clients.
    share(clients_lock, progress)
    if keep:
        state.keep_file.touch()
    if (document := _await_document(state)) is not None:
        progress(f"attached to the local stack at {document['endpoint_url']}")
        return document
    return _start(state, request, progress)


def share(clients_lock: Lock, progress: Progress) -> None:
    """Take the clients' lock together with others; wait until a host that is stopping releases it."""
    if not clients_lock.shared(ENDS_WITHIN_S, partial(progress, "waiting for the earlier local stack to end")):
        raise LocalStackError("the earlier local stack does not end; end it with `sparklet stop`")


def _start(state: StateDir, request: Mapping[str, Any], progress: Progress) -> Any:
    """Start the host; return its document as soon as it is published. LocalStackError if the host fails or is slow."""
    packages = ensure_emulator(progress, offline=bool(os.environ.get("SPARKLET_OFFLINE")))
    progress(f"starting the local stack ({count_text(request['workers'], 'worker')}, state in {state.root})")
    started_s = time.monotonic()
    for stale_file in (state.failure_file, state.info_file):  # left by a host that was killed
        stale_file.unlink(missing_ok=True)
    write_json(state.request_file, _next_request(request, read_json(state.request_file)))
    host = _spawn_host(state, packages)
    while os.waitpid(host, os.WNOHANG) == (0, 0):
        if (document := published_document(state)) is not None:
            progress(f"local stack ready at {document['endpoint_url']} after {time.monotonic() - started_s:.1f} s")
            return document
        if time.monotonic() > started_s + STARTS_WITHIN_S:
            kill_tree(host)
            raise LocalStackError(f"the local stack did not start within {STARTS_WITHIN_S:.0f} s; see {state.log}")
        time.sleep(POLL_S)
    raise LocalStackError(why_it_ended(state))


def _next_request(request: Mapping[str, Any], last_request: Any) -> Mapping[str, Any]:
    """The request for the next host: the last request again if this client only reads, else this client's own."""
    if request["processing"] or last_request is None or last_request.get("version") != request["version"]:
        return request
    return {**last_request, "processing": False}


def _spawn_host(state: StateDir, packages: Path) -> int:
    """Start the host in a session of its own, which Ctrl-C in the terminal does not reach; return its pid."""
    log = str(state.log / "host.log")
    files: list[Any] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    # -P keeps the user's folder off the path, where a json.py would replace Python's own.
    command = [sys.executable, "-P", "-m", "sparklet.local.host", str(state.root), str(packages)]
    return os.posix_spawn(sys.executable, command, environment.host_env(), file_actions=files, setsid=True)


def published_document(state: StateDir) -> Any:
    """The document that the running host published; None if no host runs or if the host is not ready yet."""
    if not is_locked(state.host_lock):
        return None
    document = read_json(state.info_file)
    # A document with another pid was left by an earlier host that was killed.
    return document if document and document["host_pid"] == _host_pid(state) else None


def _host_pid(state: StateDir) -> int:
    """The pid of the host that holds the lock; 0 if the host has not written its pid yet."""
    return int(state.host_lock.read_text() or 0)


def _await_document(state: StateDir) -> Any:
    """Wait until the host has written its document; None if no host runs, or if it ends or takes too long before."""
    end_s = time.monotonic() + STARTS_WITHIN_S
    while is_locked(state.host_lock) and time.monotonic() < end_s:
        if (document := published_document(state)) is not None:
            return document
        time.sleep(POLL_S)
    return None


def end_host(state: StateDir) -> bool:
    """Stop the host and its stack, and wait for their end; return whether one ran."""
    if not is_locked(state.host_lock):
        return False
    signalled_pid, end_s = 0, time.monotonic() + ENDS_WITHIN_S
    while is_locked(state.host_lock):
        pid = _host_pid(state)
        # A host that is starting has not written its pid yet: the file may still have the pid of an earlier host.
        if pid and pid != signalled_pid:
            signal_process(pid, signal.SIGTERM)
            signalled_pid = pid
        if time.monotonic() > end_s:
            raise LocalStackError(f"the local stack's host (pid {pid}) does not end; see {state.log}, then kill it")
        time.sleep(POLL_S)
    return True


def differences_between(request: Mapping[str, Any], running_request: Mapping[str, Any]) -> tuple[str, ...]:
    """The differences between a client's request and the request of the running stack, each in words."""
    return tuple(
        f"{name} differs" if isinstance(value, dict) else f"{name}: {running_request.get(name)} instead of {value}"
        for name, value in request.items()
        if name != "processing" and value != running_request.get(name)
    )


def why_it_ended(state: StateDir) -> str:
    """Why the last host ended, with the remedy. If the host recorded no failure, it was ended from outside."""
    try:
        return state.failure_file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return (
            f"the local stack was ended from outside; the next command starts it again (log: {state.log / 'host.log'})"
        )

"""The host: a process that starts the emulator, deploys into it, and stops it when no client is left.

Clients hold a shared lock, which the kernel releases however they end. The host reaps orphaned processes: a worker's
JVM cannot outlive the worker, nor a worker the emulator.

A client starts it as ``python -m sparklet.local.host STATE_DIR PACKAGES``; PACKAGES is the folder of the emulator's
packages.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from sparklet.aws.clients import AwsClients
from sparklet.errors import LocalStackError
from sparklet.local import environment
from sparklet.local.deploy import Deployed, deploy, load_template, localise, parameters_of, restart_executions, to_json
from sparklet.local.emulator_packages import EMULATOR, emulator_python
from sparklet.local.environment import HEALTH_PATH, LEAST_WAIT_S, PROCESSING_PATH, REGION, SAVE_PATH, send_request
from sparklet.local.lock import POLL_S, Lock
from sparklet.local.process_engine import ProcessRunner
from sparklet.local.state import StateDir, read_json, write_json
from sparklet.spark.processes import become_subreaper, kill_tree

WATCH_S = 0.5
SERVER_STARTS_WITHIN_S = 130.0  # longer than the emulator's own limit
SAVED_WITHIN_S = 600.0
KILLED_END_WITHIN_S = 10.0
SERVER_ENDS_WITHIN_S = 320.0  # longer than the emulator's own limit, within which it also saves its state

REMEDY = "see {log}; the next `sparklet run` starts from the state saved last"


def end_children(spared: Collection[int] = ()) -> bool:
    """Kill this process' children except ``spared``, with their descendants, and reap them; return whether any existed.

    The next call finds a child again that has not ended yet.
    """
    import psutil

    pids = [child.pid for child in psutil.Process().children() if child.pid not in spared]
    for pid in pids:
        kill_tree(pid)
        os.waitpid(pid, os.WNOHANG)
    return bool(pids)


class Host:
    """Runs an emulator and its deployment, from start to end."""

    def __init__(self, state: StateDir, packages: Path) -> None:
        self._state, self._packages = state, packages
        self._clients = Lock(state.clients_lock)
        self._ending = False
        self._server: subprocess.Popen[bytes] | None = None

    def request_end(self, signal_number: int, frame: FrameType | None) -> None:
        """Have ``run`` stop the stack; this is the handler of SIGTERM."""
        self._ending = True

    def run(self, request: Mapping[str, Any]) -> None:
        """Start and deploy the stack, publish its document, and serve clients until the end.

        LocalStackError if one of these steps fails, or if the emulator ends by itself.
        """
        try:
            endpoint_url, token = self._start(request["worker_env"])
            clients = AwsClients(endpoint_url=endpoint_url, region=REGION, attempts=1, least_wait_s=LEAST_WAIT_S)
            deployed = self._deploy(clients, request)
            # The regular saves leave out the deployment, so it is saved here, before a client uses it.
            send_request(endpoint_url, token, SAVE_PATH, SAVED_WITHIN_S)
            if request["processing"]:
                send_request(endpoint_url, token, PROCESSING_PATH)
                restart_executions(clients, deployed.run_machine)
            address_fields = {"endpoint_url": endpoint_url, "token": token, "host_pid": os.getpid()}
            document = {**address_fields, "deployed": asdict(deployed), "request": dict(request)}
            # ``info_file`` is written last: clients use the stack as soon as this file exists.
            for path in (self._state.last_file, self._state.info_file):
                write_json(path, document)
            env = environment.emulator_env(self._state, endpoint_url, token, request["worker_env"])
            deployment_env = {"SPARKLET_BUCKET": deployed.bucket, "SPARKLET_LEDGER_TABLE": deployed.ledger_table}
            self._watch(ProcessRunner(self._state, {**env, **deployment_env, "SPARKLET_RUNNER": request["runner"]}))
        except LocalStackError as error:
            # Written before ``_end``: clients read this file as soon as ``_end`` has deleted ``info_file``.
            self._state.failure_file.write_text(str(error), encoding="utf-8")
            raise
        finally:
            self._end()

    def _start(self, worker_env: Mapping[str, str]) -> tuple[str, str]:
        """Start the emulator; return its address and token."""
        token = secrets.token_urlsafe(24)
        # The emulator inherits the host's listening socket. So no other process can take the port meanwhile, and early
        # requests wait.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            endpoint_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            env = environment.emulator_env(self._state, endpoint_url, token, worker_env)
            command = emulator_python(self._packages, EMULATOR, str(os.getpid()), str(listener.fileno()))
            with open(self._state.aws_log, "wb") as log:
                self._server = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, pass_fds=[listener.fileno()]
                )
        os.environ.update(environment.client_env(endpoint_url, token))
        send_request(endpoint_url, token, HEALTH_PATH, SERVER_STARTS_WITHIN_S)
        return endpoint_url, token

    def _deploy(self, clients: AwsClients, request: Mapping[str, Any]) -> Deployed:
        worker_env = environment.function_env(self._state, request["worker_env"])
        # On the local stack only clients start workers of engines, so the functions get no engines.
        worker_env = {**worker_env, "SPARKLET_ENGINES": ""}
        parameters = parameters_of(request)
        template = localise(load_template(), parameters, request["handlers"], worker_env)
        return deploy(clients, to_json(template), parameters, request["workers"])

    def _watch(self, tasks: ProcessRunner) -> None:
        """Run requested workers and reap orphans until the stack is to end. LocalStackError if the emulator ends."""
        assert self._server is not None
        while not self._ending and not self._is_unused():
            time.sleep(WATCH_S)
            spared = (self._server.pid, *tasks.handle_requests())
            # All other children are orphans of dead workers.
            end_children(spared)
            if (code := self._server.poll()) is not None:
                end_text = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
                raise LocalStackError(f"the emulator of AWS {end_text}; {REMEDY.format(log=self._state.aws_log)}")

    def _is_unused(self) -> bool:
        """Whether the stack is not kept and has no client. If so, the host holds the clients' lock until its end."""
        if self._state.keep_file.exists() or not self._clients.exclusive():
            return False
        # A client may have written the file after the first check, and then released its lock.
        if self._state.keep_file.exists():
            self._clients.release()
            return False
        return True

    def _end(self) -> None:
        """Stop the emulator, which saves its state first, and kill all other descendants of this process."""
        # Deleted first, so that no client uses a stack that is ending.
        self._state.info_file.unlink(missing_ok=True)
        if self._server is not None and self._server.poll() is None:
            self._server.terminate()
            try:
                self._server.wait(SERVER_ENDS_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._server.kill()
        # The children of a killed process become children of this one, so one round is not enough.
        end_s = time.monotonic() + KILLED_END_WITHIN_S
        while end_children() and time.monotonic() < end_s:
            time.sleep(POLL_S)


def main() -> None:
    """Run as the host of a state folder, unless it has a host already."""
    state = StateDir(Path(sys.argv[1]))
    lock = Lock(state.host_lock)
    # Waits a little, since clients that check for a host take the lock for a moment.
    if not lock.exclusive(within_s=5):
        return
    state.host_lock.write_text(str(os.getpid()))
    os.chdir(state.root)
    become_subreaper()
    request = read_json(state.request_file)
    state.delete_leftovers(processing=request["processing"])
    host = Host(state, Path(sys.argv[2]))
    signal.signal(signal.SIGTERM, host.request_end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        host.run(request)
    except LocalStackError as error:
        print(error, file=sys.stderr)
    except BaseException as error:
        # Clients show this reason.
        reason = f"the local stack's host failed: {error!r}; see {state.log / 'host.log'}"
        state.failure_file.write_text(reason, encoding="utf-8")
        raise


if __name__ == "__main__":
    main()

"""The host: a process that starts the emulator, deploys into it, and ends both when no client is left.

Clients hold a shared lock, which the kernel releases however they end. The host reaps orphans below it: a worker's JVM
cannot outlive the worker, nor a worker the emulator.

A client starts it as ``python -m sparklet.local.host STATE_DIR PACKAGES``, the latter the emulator's.
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
from sparklet.local.environment import HEALTH_PATH, LEAST_WAIT_S, PROCESSING_PATH, REGION, SAVE_PATH, ask
from sparklet.local.lock import POLL_S, Lock
from sparklet.local.process_engine import ProcessRunner
from sparklet.local.state import StateDir, read_json, write_json
from sparklet.spark.processes import become_subreaper, kill_tree

WATCH_S = 0.5
SERVER_STARTS_WITHIN_S = 130.0  # it gives up earlier by itself
SAVED_WITHIN_S = 600.0
KILLED_END_WITHIN_S = 10.0
SERVER_ENDS_WITHIN_S = 320.0  # it saves its state, and gives up earlier by itself

REMEDY = "see {log}; the next `sparklet run` starts from the state saved last"


def end_children(spared: Collection[int] = ()) -> bool:
    """Kill the other children of this process, with all below them, and take their exit codes; False if there is none.

    A child that takes time to end is there at the next call again.
    """
    import psutil

    pids = [child.pid for child in psutil.Process().children() if child.pid not in spared]
    for pid in pids:
        kill_tree(pid)
        os.waitpid(pid, os.WNOHANG)
    return bool(pids)


class Host:
    """An emulator and its deployment, from start to end."""

    def __init__(self, state: StateDir, packages: Path) -> None:
        self._state, self._packages = state, packages
        self._clients = Lock(state.clients_lock)
        self._ending = False
        self._server: subprocess.Popen[bytes] | None = None

    def request_end(self, signal_number: int, frame: FrameType | None) -> None:
        """End the stack: the handler of SIGTERM."""
        self._ending = True

    def run(self, request: Mapping[str, Any]) -> None:
        """Start, deploy, publish, wait for the end; LocalStackError if that fails, or the emulator ends by itself."""
        try:
            endpoint_url, token = self._start(request["worker_env"])
            clients = AwsClients(endpoint_url=endpoint_url, region=REGION, attempts=1, least_wait_s=LEAST_WAIT_S)
            deployed = self._deploy(clients, request)
            # The saver leaves out the deployment, so it is saved before anybody uses it.
            ask(endpoint_url, token, SAVE_PATH, SAVED_WITHIN_S)
            if request["processing"]:
                ask(endpoint_url, token, PROCESSING_PATH)
                restart_executions(clients, deployed.run_machine)
            published = {"endpoint_url": endpoint_url, "token": token, "host_pid": os.getpid()}
            document = {**published, "deployed": asdict(deployed), "request": dict(request)}
            # ``info_file`` is last: clients use the stack as soon as it is there.
            for path in (self._state.last_file, self._state.info_file):
                write_json(path, document)
            env = environment.of_emulator(self._state, endpoint_url, token, request["worker_env"])
            deployment_env = {"SPARKLET_BUCKET": deployed.bucket, "SPARKLET_LEDGER_TABLE": deployed.ledger_table}
            self._watch(ProcessRunner(self._state, {**env, **deployment_env, "SPARKLET_RUNNER": request["runner"]}))
        except LocalStackError as error:  # written first: clients read it as soon as the end begins
            self._state.failure_file.write_text(str(error), encoding="utf-8")
            raise
        finally:
            self._end()

    def _start(self, worker_env: Mapping[str, str]) -> tuple[str, str]:
        """Start the emulator; return its address and token."""
        token = secrets.token_urlsafe(24)
        # The host listens, the emulator inherits the socket: nobody takes the port between, early requests wait.
        with socket.create_server(("127.0.0.1", 0)) as listening:
            endpoint_url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            env = environment.of_emulator(self._state, endpoint_url, token, worker_env)
            command = emulator_python(self._packages, EMULATOR, str(os.getpid()), str(listening.fileno()))
            with open(self._state.aws_log, "wb") as log:
                self._server = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, pass_fds=[listening.fileno()]
                )
        os.environ.update(environment.of_client(endpoint_url, token))
        ask(endpoint_url, token, HEALTH_PATH, SERVER_STARTS_WITHIN_S)
        return endpoint_url, token

    def _deploy(self, clients: AwsClients, request: Mapping[str, Any]) -> Deployed:
        worker_env = environment.of_workers(self._state, request["worker_env"])
        worker_env = {**worker_env, "SPARKLET_ENGINES": ""}  # only clients start workers, those of ``process``, too
        parameters = parameters_of(request)
        template = localise(load_template(), parameters, request["handlers"], worker_env)
        return deploy(clients, to_json(template), parameters, request["workers"])

    def _watch(self, tasks: ProcessRunner) -> None:
        assert self._server is not None
        while not self._ending and not self._unused():
            time.sleep(WATCH_S)
            spared = (self._server.pid, *tasks.look())
            end_children(spared)  # orphans of dead workers, reaped by the host
            if (code := self._server.poll()) is not None:
                how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
                raise LocalStackError(f"the emulator of AWS {how}; {REMEDY.format(log=self._state.aws_log)}")

    def _unused(self) -> bool:
        """Whether no client holds the lock, and the stack is not kept; then the host keeps the lock to its end."""
        if self._state.keep_file.exists() or not self._clients.exclusive():
            return False
        if self._state.keep_file.exists():  # written just before its client left
            self._clients.release()
            return False
        return True

    def _end(self) -> None:
        """End the emulator, which saves its state first, and all processes below this one."""
        # First, so that no client uses a stack that is ending.
        self._state.info_file.unlink(missing_ok=True)
        if self._server is not None and self._server.poll() is None:
            self._server.terminate()
            try:
                self._server.wait(SERVER_ENDS_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._server.kill()
        # What a killed process leaves behind becomes a child of this one, so one look is not enough.
        end_s = time.monotonic() + KILLED_END_WITHIN_S
        while end_children() and time.monotonic() < end_s:
            time.sleep(POLL_S)


def main() -> None:
    """Run as the host of a state folder, if there is none."""
    state = StateDir(Path(sys.argv[1]))
    lock = Lock(state.host_lock)
    if not lock.exclusive(within_s=5):  # a client may be testing the lock
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
    except BaseException as error:  # for the clients
        reason = f"the local stack's host failed: {error!r}; see {state.log / 'host.log'}"
        state.failure_file.write_text(reason, encoding="utf-8")
        raise


if __name__ == "__main__":
    main()

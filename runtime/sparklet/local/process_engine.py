"""The local stack's engine: one worker at a time, with the machine's memory and without the functions' time limit.

A client requests a worker by a file, ``tasks/TOKEN.json``. The host runs the worker, then writes how it ended into
``TOKEN.ended`` and deletes the request. Each start of the stack begins without requests.
"""

import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparklet.errors import RemoteTaskError
from sparklet.local.state import StateDir, read_json, write_json
from sparklet.model import Failure
from sparklet.ports import Engine

ONE_SHARD = "sparklet.engines.one_shard"  # the image's command `shard`


@dataclass(frozen=True)
class LocalProcesses(Engine):
    """The ``Engine`` of the stack's clients: it requests workers from the host."""

    folder: Path
    traces_inputs: bool = True

    def start(self, token: str, command: Sequence[str]) -> str:
        """Request a worker, once for each token."""
        request = self.folder / f"{token}.json"
        # A checker that died before it recorded the worker requests it again by the same token, even if it has ended.
        if not request.exists() and not request.with_suffix(".ended").exists():
            if any(self.folder.glob("*.json")):
                reason = (
                    "this engine's worker is busy: the local stack runs one at a time, and starts this shard afterwards"
                )
                raise RemoteTaskError(reason, "throttled")
            write_json(request, command)
        return token

    def stopped(self, task_ids: Sequence[str]) -> Mapping[str, Failure]:
        """The workers whose requests the host has deleted, with the causes."""
        files = {task_id: self.folder / f"{task_id}.ended" for task_id in task_ids}
        # A start of the stack for processing deletes all requests, so workers of an earlier host have stopped, too.
        return {
            task_id: Failure("Stopped", ended_file.read_text() if ended_file.exists() else "the local stack ended")
            for task_id, ended_file in files.items()
            if not ended_file.with_suffix(".json").exists()
        }

    def stop(self, task_id: str) -> None:
        """Have the host send the worker SIGTERM."""
        (self.folder / f"{task_id}.stop").touch()


class ProcessRunner:
    """The host's part of the engine: runs the requested workers, one at a time."""

    def __init__(self, state: StateDir, env: Mapping[str, str]) -> None:
        self._state, self._env = state, env
        self._running: tuple[Path, subprocess.Popen[bytes]] | None = None

    def handle_requests(self) -> Collection[int]:
        """Record that the worker has ended, stop it, or start the next one. Returns the running worker's pid if any."""
        if self._running:
            request, process = self._running
            if process.poll() is not None:
                # In this order, since ``stopped`` reads the file .ended as soon as the request is deleted.
                request.with_suffix(".ended").write_text(f"exit status {process.returncode}; see {request.stem} in log")
                request.unlink(missing_ok=True)
                self._running = None
            elif request.with_suffix(".stop").exists():
                process.terminate()
        if not self._running and (next_request := next(self._state.tasks.glob("*.json"), None)):
            self._running = next_request, self._start_worker(next_request)
        return (self._running[1].pid,) if self._running else ()

    def _start_worker(self, request: Path) -> "subprocess.Popen[bytes]":
        name = f"worker-{request.stem}.log"  # a name that `sparklet logs` reads
        command = [sys.executable, "-P", "-m", ONE_SHARD, *read_json(request)[1:]]
        env = {**self._env, "AWS_LAMBDA_LOG_STREAM_NAME": name}
        with (self._state.log / name).open("wb") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)

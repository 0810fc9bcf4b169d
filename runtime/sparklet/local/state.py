"""The state folder: what lies where, and the locks that say who uses it.

The kernel gives a lock back however its holder ends, also by SIGKILL, so the locks, not the files, are
the truth: ``host.lock`` is held while a stack runs, ``clients.lock`` (shared) by everyone who uses it.
"""

import fcntl
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sparklet.worker.guards import delete_tree

STATE_DIR_VARIABLE = "SPARKLET_STATE_DIR"
_MOST_LOGS = 60  # of worker processes


@dataclass(frozen=True, slots=True)
class StateDir:
    """Paths in a state folder."""

    root: Path

    @property
    def host_lock(self) -> Path:
        """Held by the host for its whole life; its text is the host's pid."""
        return self.root / "host.lock"

    @property
    def clients_lock(self) -> Path:
        """Held, shared, by every client."""
        return self.root / "clients.lock"

    @property
    def start_lock(self) -> Path:
        """Held while somebody starts, joins or stops the stack."""
        return self.root / "start.lock"

    @property
    def info_file(self) -> Path:
        """Written when the stack is ready, deleted when it ends."""
        return self.root / "stack.json"

    @property
    def order_file(self) -> Path:
        """What the next host is to start and deploy."""
        return self.root / "order.json"

    @property
    def keep_file(self) -> Path:
        """While it is there, the stack outlives its clients."""
        return self.root / "keep"

    @property
    def failure_file(self) -> Path:
        """Why the last host ended, if it did not end because it should."""
        return self.root / "failure.txt"

    @property
    def no_config(self) -> Path:
        """An empty file: AWS's SDK for Java complains of /dev/null, with a stack trace, in every worker's log."""
        return self.root / "no-aws-config"

    @property
    def services(self) -> Path:
        """What the stand-in keeps of its services: ledger, queues, functions, the deployment."""
        return self.root / "services"

    @property
    def objects(self) -> Path:
        """The stand-in's S3."""
        return self.root / "s3"

    @property
    def scratch(self) -> Path:
        """The workers' own ``/tmp``; emptied at every start."""
        return self.root / "scratch"

    @property
    def tmp(self) -> Path:
        """TMPDIR of the stand-in; emptied at every start."""
        return self.root / "tmp"

    @property
    def log(self) -> Path:
        """``host.log``, ``aws.log`` and one file for each worker process."""
        return self.root / "log"

    @property
    def aws_log(self) -> Path:
        """What the stand-in itself has to say."""
        return self.log / "aws.log"

    def create(self) -> None:
        """Make the folder; only its owner may look into it."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o700)
        for folder in (self.services, self.objects, self.scratch, self.tmp, self.log):
            folder.mkdir(exist_ok=True)
        self.no_config.touch()

    def sweep(self) -> None:
        """Delete what an earlier host left in passing; only the host may, while it holds its lock."""
        for folder in (self.scratch, self.tmp):
            delete_tree(folder)
            folder.mkdir(exist_ok=True)
        for path in (self.info_file, self.failure_file):
            path.unlink(missing_ok=True)
        if self.aws_log.exists():
            self.aws_log.replace(self.aws_log.with_name("aws.earlier.log"))
        logs = sorted(self.log.glob("*-*"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in logs[_MOST_LOGS:]:
            path.unlink(missing_ok=True)


def default_state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """``SPARKLET_STATE_DIR``, else the user's state folder."""
    if named := environ.get(STATE_DIR_VARIABLE):
        return Path(named).expanduser().absolute()
    from platformdirs import user_state_path

    return user_state_path("sparklet")


def write_json(path: Path, document: Any) -> None:
    """Write a file that only its owner reads; it appears whole or not at all."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)
    draft.replace(path)


def read_json(path: Path) -> Any:
    """The document in a file, or None if there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


class Lock:
    """An advisory lock on a file, exclusive or shared, given back when it is closed or its process ends."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def try_exclusive(self) -> bool:
        """Take it alone, if nobody else has it."""
        return self._try(fcntl.LOCK_EX)

    def try_shared(self) -> bool:
        """Take it together with others, if nobody has it alone."""
        return self._try(fcntl.LOCK_SH)

    def exclusive(self, within_s: float) -> bool:
        """Take it alone, waiting for others to give it back; False if they did not."""
        end_s = time.monotonic() + within_s
        while not self.try_exclusive():
            if time.monotonic() > end_s:
                return False
            time.sleep(0.05)
        return True

    def release(self) -> None:
        """Give it back; it can be taken again."""
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def write(self, text: str) -> None:
        """Say something in the file, for those who find it locked."""
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, text.encode(), 0)

    def close(self) -> None:
        """Give it back for good."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _try(self, how: int) -> bool:
        try:
            fcntl.flock(self._file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock on this file alone."""
    if not path.exists():
        return False
    with Lock(path) as lock:
        return not lock.try_shared()

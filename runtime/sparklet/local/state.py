"""The state folder: its files and logs.

What runs is determined by locks, not by the existence of files: ``host.lock`` is held while a stack runs, and
``clients.lock`` (shared) by each client.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from sparklet.errors import LocalStackError, LogsError, SettingsError
from sparklet.model import MIB
from sparklet.spark.owned import delete_own, make_own, refuse_foreign

STATE_DIR_VARIABLE = "SPARKLET_STATE_DIR"
OPTION = f"--state-dir or {STATE_DIR_VARIABLE}"
DISK_REMEDY = f"make room there, or name another folder with {OPTION}"
MIN_START_BYTES = 128 * MIB  # a stack is not started if less is free on the disk
_MAX_LOGS = 60  # log files of worker processes
MAX_BYTES_A_READ = 4 * MIB
ACCOUNT = "000000000000"  # the emulator's
LOCAL_PATHS = "local-paths"
WORKER_LOGS = ("worker-*.log.1", "worker-*.log")


class StateDir:
    """The paths in a state folder. SettingsError if the folder is used for something else (``owned``)."""

    def __init__(self, root: Path) -> None:
        self.root = root = root.expanduser().absolute()
        refuse_foreign(root, OPTION)
        self.host_lock = root / "host.lock"  # held by the host; its text is the host's pid
        self.clients_lock = root / "clients.lock"  # held, shared, by every client
        self.start_lock = root / "start.lock"  # held by a client that starts, attaches to or stops the stack
        self.info_file = root / "stack.json"  # written when the stack is ready, deleted when it ends
        self.last_file = root / "last.json"  # the same content; not deleted when the stack ends
        self.request_file = root / "request.json"  # what the next host is to start and deploy
        self.keep_file = root / "keep"  # while this file exists, the stack outlives its clients
        self.failure_file = root / "failure.txt"  # why the last host failed, if it did
        self.no_config = root / "no-aws-config"  # empty; AWS's SDK for Java logs a stack trace if it gets /dev/null
        self.services = root / "services"  # the emulator's ledger, queues, functions, deployment
        self.objects = root / "s3"  # the emulator's S3
        self.scratch = root / "scratch"  # the workers' own /tmp; emptied at every start
        self.tmp = root / "tmp"  # TMPDIR of the emulator; emptied at every start
        self.tasks = root / "tasks"  # requests for workers of single shards; emptied at every start
        self.fill_lock = root / "fill.lock"  # held by a client that fills a run's local output
        self.local_paths = root / LOCAL_PATHS  # a file for each run that was started from this folder
        self.log = root / "log"  # host.log, aws.log and a file for each worker process, named like its log stream
        self.aws_log = self.log / "aws.log"  # the emulator's own output

    def object_file(self, bucket: str, key: str = "") -> Path:
        """The emulator's file for an object, whose key must be a plain path; without a key, the bucket's folder."""
        return self.objects / ACCOUNT / bucket / key

    def refuse_full_disk(self) -> None:
        """Raise LocalStackError if the disk has too little room for a stack to start; create nothing."""
        existing_folder = next(folder for folder in (self.root, *self.root.parents) if folder.exists())
        usage = shutil.disk_usage(existing_folder)
        if usage.free < MIN_START_BYTES:
            raise LocalStackError(
                f"the disk of the state folder {self.root} is full: {usage.free // MIB} MiB of {usage.total // MIB} "
                f"are free, {MIN_START_BYTES // MIB} MiB are needed; {DISK_REMEDY}"
            )

    def create(self) -> None:
        """Create the folder, which only its owner can read."""
        make_own(self.root, OPTION, 0o700)
        for folder in (self.services, self.objects, self.scratch, self.tmp, self.tasks, self.log, self.local_paths):
            folder.mkdir(0o700, exist_ok=True)
        self.no_config.touch()

    def delete_leftovers(self, *, processing: bool = True) -> None:
        """Delete an earlier host's temporary files; those of workers only if this host has workers (``processing``).

        Only a host that holds its lock is allowed to call this.
        """
        for folder in (self.scratch, self.tmp, self.tasks) if processing else ():
            delete_own(folder)
            folder.mkdir(0o700, exist_ok=True)
        for path in (self.info_file, self.failure_file):
            path.unlink(missing_ok=True)
        if self.aws_log.exists():
            self.aws_log.replace(self.aws_log.with_name("aws.earlier.log"))
        logs = sorted(self.log.glob("*-*"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in logs[_MAX_LOGS:]:
            path.unlink(missing_ok=True)


def user_folder(kind: Literal["state", "cache"], named_folder: Path | None = None) -> Path:
    """The ``named_folder``, else SPARKLET_STATE_DIR or SPARKLET_CACHE_DIR, else the platform's usual folder of a user.

    SettingsError if none of these is set and the user has no home folder.
    """
    try:
        if folder := named_folder or os.environ.get(f"SPARKLET_{kind.upper()}_DIR"):
            return Path(folder).expanduser().absolute()
        import platformdirs

        return Path(getattr(platformdirs, f"user_{kind}_dir")("sparklet"))
    except RuntimeError as error:  # there is neither HOME nor an entry of the user in passwd
        raise SettingsError(
            "this user has no home folder: set SPARKLET_STATE_DIR and SPARKLET_CACHE_DIR to folders it may write to"
        ) from error


def write_json(path: Path, document: Any) -> None:
    """Write a document to a file that only its owner can read. The file is replaced in one step."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    # The mode is set at creation, since one of these files has the emulator's token.
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)
    draft.replace(path)


def read_json(path: Path) -> Any:
    """The document in a file; None if there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


class FileLogs:
    """``WorkerLogs`` in the log folder: a file for each worker process, and one for the earlier part of a long log."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def streams(self, run_id: str, shard: int | None, since_s: float) -> Mapping[str, float]:
        """The names of the files written since ``since_s``, oldest first, each with 0.0: it is read from its start."""
        recent_paths = []
        for path in chain.from_iterable(map(self._folder.glob, WORKER_LOGS)):
            with suppress(FileNotFoundError):  # the file was moved or deleted meanwhile
                recent_paths += [path] if path.stat().st_mtime >= since_s else []
        # By the time in the name; of one log the earlier part (.log.1) comes first.
        names = sorted((path.name.removesuffix(".1"), path.suffix != ".1", path.name) for path in recent_paths)
        return {name: 0.0 for _, _, name in names}

    def read(self, stream: str, after: str, since_s: float) -> tuple[Sequence[str], str]:
        """The next whole lines of a file, and the position after them. A truncated file is read from its start."""
        path, start = self._folder / Path(stream).name, int(after or 0)
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < start:
                    start = 0
                file.seek(start)
                chunk = file.read(MAX_BYTES_A_READ)
        except OSError as error:
            raise LogsError(f"the log {path} cannot be read: {error.strerror}") from error
        whole_bytes = chunk.rfind(b"\n") + 1
        # A line that is still being written is left for the next read, unless it is as long as a whole read.
        if not whole_bytes and len(chunk) == MAX_BYTES_A_READ:
            whole_bytes = len(chunk)
        lines = chunk[:whole_bytes].decode("utf-8", "replace").removesuffix("\n").split("\n") if whole_bytes else []
        return lines, str(start + whole_bytes)

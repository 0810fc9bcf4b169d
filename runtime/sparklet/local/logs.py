"""The logs of the local stack's workers: a file for each worker process, and one earlier part of a long one."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparklet.errors import LogsError

MAX_BYTES_A_READ = 4 * 1024 * 1024
WORKER_LOGS = ("worker-*.log.1", "worker-*.log")


class FileLogs:
    """``WorkerLogs`` in the local stack's log folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def streams(self, run_id: str, shard: int | None, since_s: float) -> Mapping[str, float]:
        """Names of the files that were written to since, oldest first; all are read from their beginning."""
        paths = [path for pattern in WORKER_LOGS for path in self._folder.glob(pattern)]
        found = [path for path in paths if path.exists() and path.stat().st_mtime >= since_s]
        names = sorted((path.name.removesuffix(".1"), path.suffix != ".1", path.name) for path in found)
        return {name: 0.0 for _, _, name in names}  # by the time in it, an earlier stretch before the later one

    def read(self, stream: str, after: str, since_s: float) -> tuple[Sequence[str], str]:
        """The next whole lines of a file; one that was cut meanwhile is read from its beginning."""
        path, start = self._folder / Path(stream).name, int(after or 0)
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < start:
                    start = 0
                file.seek(start)
                chunk = file.read(MAX_BYTES_A_READ)
        except OSError as error:
            raise LogsError(f"the log {path} cannot be read: {error.strerror}") from error
        whole = chunk.rfind(b"\n") + 1 or (len(chunk) if len(chunk) == MAX_BYTES_A_READ else 0)
        lines = chunk[:whole].decode("utf-8", "replace").removesuffix("\n").split("\n") if whole else []
        return lines, str(start + whole)

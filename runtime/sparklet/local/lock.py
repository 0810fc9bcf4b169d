"""Locks on local files. The kernel releases a lock however its holder ends, so it needs no clock and no clean-up.

This module imports only the standard library: the image's build uses it without the rest of Sparklet.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

POLL_S = 0.05


class Lock(AbstractContextManager["Lock"]):
    """An advisory lock on a file, exclusive or shared; released at the end of the block, or of the process.

    A program that inherits ``descriptor`` holds the lock, too.
    """

    def __init__(self, path: Path) -> None:
        # Closed on exec, since every program that inherits the descriptor would hold the lock.
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def exclusive(self, within_s: float = 0.0, on_wait: Callable[[], None] = lambda: None) -> bool:
        """Take the lock alone, within ``within_s``; return whether it was taken. Calls ``on_wait`` once if it waits."""
        return self._take(fcntl.LOCK_EX, within_s, on_wait)

    def shared(self, within_s: float = 0.0, on_wait: Callable[[], None] = lambda: None) -> bool:
        """Take the lock together with other shared holders; the arguments and the result are as for ``exclusive``."""
        return self._take(fcntl.LOCK_SH, within_s, on_wait)

    def release(self) -> None:
        """Release the lock; it can be taken again."""
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def _take(self, mode: int, within_s: float, on_wait: Callable[[], None]) -> bool:
        end_s, is_waiting = time.monotonic() + within_s, False
        while True:
            try:
                # Polled, since a blocking flock has no time limit.
                fcntl.flock(self.descriptor, mode | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() >= end_s:
                    return False
                if not is_waiting:
                    on_wait()
                is_waiting = True
                time.sleep(POLL_S)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock on this file exclusively."""
    # ``Lock`` would create the file, and a check should change nothing.
    if not path.exists():
        return False
    # Shared, so that two processes that check at the same moment do not see each other as the holder.
    with Lock(path) as lock:
        return not lock.shared()


@contextmanager
def incoming_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder in ``folder``. The caller must hold a lock: leftovers of killed holders are deleted."""
    # Under the caller's lock, no living process uses the folders that are found here.
    for leftover_folder in folder.glob(".incoming-*"):
        shutil.rmtree(leftover_folder, ignore_errors=True)  # noqa: TID251 - this file is used alone
    with tempfile.TemporaryDirectory(prefix=".incoming-", dir=folder, ignore_cleanup_errors=True) as name:
        yield Path(name)

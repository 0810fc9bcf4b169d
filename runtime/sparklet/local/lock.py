"""Locks on local files. The kernel releases a lock however its holder ends, so it needs no clock and no clean-up.

Only the standard library: the image's build uses this file without the rest of Sparklet.
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
    """An advisory lock on a file, exclusive or shared, released at the end of its block, or of its process.

    A program that gets ``descriptor`` holds it, too.
    """

    def __init__(self, path: Path) -> None:
        # Closed on exec: flock locks the open file, so a program that inherits the descriptor would hold it.
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def exclusive(self, within_s: float = 0.0, waits: Callable[[], None] = lambda: None) -> bool:
        """Take it alone; False if others still hold it by then. ``waits`` is called once if it has to wait."""
        return self._take(fcntl.LOCK_EX, within_s, waits)

    def shared(self, within_s: float = 0.0, waits: Callable[[], None] = lambda: None) -> bool:
        """Take it together with others; False if another process still holds it alone by then; ``waits`` as above."""
        return self._take(fcntl.LOCK_SH, within_s, waits)

    def release(self) -> None:
        """Release it; it can be taken again."""
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def _take(self, how: int, within_s: float, waits: Callable[[], None]) -> bool:
        end_s, waiting = time.monotonic() + within_s, False
        while True:
            try:
                # It polls, since a flock that blocks knows no time limit.
                fcntl.flock(self.descriptor, how | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() >= end_s:
                    return False
                if not waiting:
                    waits()
                waiting = True
                time.sleep(POLL_S)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock on this file alone."""
    # ``Lock`` would create the file, and a mere look should change nothing.
    if not path.exists():
        return False
    # Shared: two that look at the same moment must not take each other for the holder.
    with Lock(path) as lock:
        return not lock.shared()


@contextmanager
def incoming(folder: Path) -> Iterator[Path]:
    """A folder in ``folder`` for what a lock's holder makes there; those of killed holders are deleted."""
    # The caller holds the folder's lock, so nobody alive works in what is found here.
    for left_over in folder.glob(".incoming-*"):
        shutil.rmtree(left_over, ignore_errors=True)  # noqa: TID251 - this file is used alone
    with tempfile.TemporaryDirectory(prefix=".incoming-", dir=folder, ignore_cleanup_errors=True) as name:
        yield Path(name)

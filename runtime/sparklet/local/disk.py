"""The emulator's state on disk: it is saved while the emulator runs; objects that do not fit are refused."""

import logging
import os
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Collection
from pathlib import Path

from sparklet.local import ministack_patches
from sparklet.local.state import DISK_REMEDY
from sparklet.model import MIB
from sparklet.spark.processes import die_with_parent

CHANGING = ("sqs", "dynamodb", "s3", "stepfunctions")  # S3's buckets only: its objects are on disk at once
EVERY_S = 3.0
SHARE = 4  # a pause is at least four times as long as saving
RESERVE_BYTES = 64 * MIB  # kept free for the ledger and the queues
_POLL_S = 0.01


class Saver:
    """Saves changes every few seconds from a forked child, which has the state of one instant."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()  # two writers would write the same draft
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="saver", daemon=True)

    def start(self) -> None:
        """Begin to save."""
        self._thread.start()

    def stop(self) -> None:
        """Save no more."""
        self._ended.set()
        self._thread.join()

    def save_all(self) -> None:
        """Save everything, the deployment included; OSError if that fails."""
        self._save(())

    def _run(self) -> None:
        pause_s = EVERY_S
        while not self._ended.wait(pause_s):
            started_s = time.monotonic()
            try:
                self._save(CHANGING)
            except OSError:
                logging.getLogger(__name__).exception("the state could not be saved; the next attempt may succeed")
            pause_s = max(EVERY_S, SHARE * (time.monotonic() - started_s))

    def _save(self, services: Collection[str]) -> None:
        with self._lock:
            parent, child = os.getpid(), os.fork()
            if child == 0:
                _write(services, parent)
            while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
                time.sleep(_POLL_S)
            if ended[1] != 0:
                raise OSError(f"the state cannot be saved in {self._folder} (status {ended[1]}): is the disk full?")


def _write(services: Collection[str], parent: int) -> None:
    """In the child: write its copy of the state, and end. It takes no lock that another thread may hold."""
    try:
        logging.disable()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with_parent(parent)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # the server's sockets: its port must not stay open here
        ministack_patches.write_state(services)
        os._exit(0)
    except BaseException:  # noqa: BLE001 - no caller may go on in this copy of the process
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(1)


def refusal(folder: Path, wanted_bytes: int) -> str:
    """The error, in S3's XML, of a write of so many bytes that does not fit on the disk; "" if it fits.

    The emulator would only log the failure and keep such an object in memory, where the stack's end would lose it.
    """
    free = shutil.disk_usage(folder).free
    if free >= ministack_patches.uploaded_bytes() + wanted_bytes + RESERVE_BYTES:
        return ""
    message = f"the disk of the state folder {folder.parent} is full ({free // MIB} MiB free); {DISK_REMEDY}"
    escaped = message.replace("&", "&amp;").replace("<", "&lt;")
    return f"<Error><Code>DiskFull</Code><Message>{escaped}</Message></Error>"

"""Saves the stand-in's state while it runs, from a forked child: one instant, and nobody waits for it.

ministack itself writes its state only when it ends in an orderly way.
"""

import copy
import json
import logging
import os
import signal
import threading
import time
import traceback
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ministack import app as ministack
from ministack.core import persistence

from sparklet.local import processes

CHANGING = (
    "sqs",
    "dynamodb",
    "s3",
    "stepfunctions",
)  # objects themselves are on disk at once; this is what S3 knows of buckets
EVERY_S = 3.0
SHARE = 4  # of five seconds at most one is spent saving
_POLL_S = 0.01


class Saver:
    """Saves what changes, now and then."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # two writers would share a draft
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="saver", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Save no more."""
        self._ended.set()
        self._thread.join()

    def save_all(self) -> None:
        """Save everything, the deployment included; OSError if that fails."""
        self._save(ministack._build_persistence_save_dict().keys())

    def _run(self) -> None:
        pause_s = EVERY_S
        while not self._ended.wait(pause_s):
            started_s = time.monotonic()
            try:
                self._save(CHANGING)
            except OSError:
                logging.getLogger(__name__).exception("the state could not be saved; the next attempt may succeed")
            pause_s = max(EVERY_S, SHARE * (time.monotonic() - started_s))

    def _save(self, names: Collection[str]) -> None:
        with self._lock:
            child = os.fork()
            if child == 0:
                _write(names)
            while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
                time.sleep(_POLL_S)
            if ended[1] != 0:
                raise OSError(
                    f"the state cannot be saved in {persistence.STATE_DIR} (status {ended[1]}): is the disk full?"
                )


def _write(names: Collection[str]) -> None:
    """What the child does: write its copy of the state, and end. It takes no lock that another thread may have held."""
    try:
        logging.disable()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        processes.tell_when_parent_dies(signal.SIGKILL)
        _close_inherited()
        copy.deepcopy = _itself  # type: ignore[assignment]  # this copy of the state is the child's own already
        services = ministack._build_persistence_save_dict()
        for name in names:
            if (state := services[name]()) is not None:  # None: it has nothing to say, what it said earlier stands
                _write_service(name, state)
        os._exit(0)
    except BaseException:  # noqa: BLE001 - nobody above may go on in this copy of the process
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(1)


def _write_service(name: str, state: Any) -> None:
    """As ministack's own ``save_state`` does, but that it encodes in one go, in C, and that a failure is one."""
    document = {"__ministack_format__": persistence._state_format_version(name), "payload": state}
    path = Path(persistence.STATE_DIR) / f"{name}.json"
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(document, default=persistence._json_default))
    draft.replace(path)


def _itself(value: Any, memo: dict[int, Any] | None = None, nil: Any = None) -> Any:
    return value


def _close_inherited() -> None:
    """Close the server's sockets: its port must not stay open here when it ends."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers
        if int(name) > 2:
            try:
                os.close(int(name))
            except OSError:
                continue  # the one that listed the others

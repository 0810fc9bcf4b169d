"""One writer at a time, for a table format whose jars have no lock for S3.

The lease is a small Delta table: delta-rs takes each version by a conditional write, in a folder and in S3. Its one
transaction, ``lease``, counts in milliseconds since 1970 until when the lease is held.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from deltalake import CommitProperties, DeltaTable, Field, Schema, Transaction
from deltalake.exceptions import CommitFailedError, TableNotFoundError
from deltalake.schema import PrimitiveType

from sparklet.job.errors import CommitConflictError
from sparklet.tables.staged_files import delta_place

LEASE_S = 30.0
MAX_WAIT_S = 300.0
LEASE = "lease"


@contextmanager
def lease(uri: str) -> Iterator[None]:
    """Hold the lease at a URI until the end of the block.

    CommitConflictError if others hold it for five minutes, or if it was lost within the block: then nobody knows who
    has written meanwhile.
    """
    end_s = time.monotonic() + MAX_WAIT_S
    held_ms = [_in_ms(LEASE_S)]
    while not _set(uri, held_ms[0]):
        if time.monotonic() > end_s:
            raise CommitConflictError(f"the lease {uri} was held by others for {MAX_WAIT_S:.0f} s")
        time.sleep(random.uniform(0.1, 0.5))
        held_ms[0] = _in_ms(LEASE_S)
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(LEASE_S / 3) and _set(uri, later_ms := _in_ms(LEASE_S), held_ms[0]):
            held_ms[0] = later_ms

    renewing = threading.Thread(target=renew, daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        released = _set(uri, 0, held_ms[0])
    if not released:
        raise CommitConflictError(f"the lease {uri} was lost")


def _set(uri: str, until_ms: int, held_ms: int | None = None) -> bool:
    """Hold the lease until then, if it is free, or the one that this process has set to ``held_ms``."""
    place, options = delta_place(uri)
    try:
        try:
            table = DeltaTable(place, storage_options=options)
        except TableNotFoundError:
            columns = Schema([Field("nothing", PrimitiveType("string"))])
            table = DeltaTable.create(place, columns, mode="ignore", storage_options=options)
        found_ms = table.transaction_version(LEASE) or 0
        if found_ms > time.time() * 1000 if held_ms is None else found_ms != held_ms:
            return False
        properties = CommitProperties(app_transactions=[Transaction(LEASE, until_ms)])
        table.create_write_transaction([], "append", table.schema(), commit_properties=properties)
    except CommitFailedError:  # another writer was faster; not for long, if the lease is ours
        return held_ms is not None and _set(uri, until_ms, held_ms)
    return True


def _in_ms(delay_s: float) -> int:
    return int((time.time() + delay_s) * 1000)

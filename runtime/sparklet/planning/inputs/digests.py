"""Which objects were met already, by digests of their names."""

import hashlib
import sqlite3

from sparklet.ports.deployment import scratch

CACHE_KIB = 64 * 1024  # holds about two million


class Digests:
    """Names of objects that were met already; a file holds them once they are many."""

    def __init__(self) -> None:
        # "": a private file, created when the cache is full, gone with the connection or the process
        self._file = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for statement in (
            # The file ends with the process, so there is nothing to restore; and one transaction that is never
            # committed writes nothing as long as the digests fit into the cache.
            "PRAGMA journal_mode = OFF",
            f"PRAGMA cache_size = -{CACHE_KIB}",
            "CREATE TABLE met (digest BLOB PRIMARY KEY) WITHOUT ROWID",
            "BEGIN",
        ):
            self._file.execute(statement)

    def add(self, *name: str) -> bool:
        """Add an object, named by its address, version and the like; whether it is new."""
        return self._do("INSERT OR IGNORE INTO met VALUES (?)", name).rowcount == 1

    def discard(self, *name: str) -> None:
        """Forget an object."""
        self._do("DELETE FROM met WHERE digest = ?", name)

    def has(self, *name: str) -> bool:
        """Whether an object was added."""
        return self._do("SELECT 1 FROM met WHERE digest = ?", name).fetchone() is not None

    def _do(self, statement: str, name: tuple[str, ...]) -> sqlite3.Cursor:
        text = "".join(f"{len(part)}:{part}" for part in name)  # no two names make the same text
        digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
        with scratch("the digests of objects", sqlite3.OperationalError):
            return self._file.execute(statement, (digest,))

    def close(self) -> None:
        """Delete the file."""
        self._file.close()

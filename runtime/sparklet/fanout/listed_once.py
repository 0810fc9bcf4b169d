"""Folders that are listed once for a request, which looks at its input and then plans it."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import fields
from operator import attrgetter
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from sparklet.errors import ObjectStoreError
from sparklet.fanout.scratch import scratch_error
from sparklet.ports import ObjectInfo, ObjectStore
from sparklet.s3_uri import split_uri

IN_MEMORY_BYTES = 8 * 2**20
MAX_KEPT_BYTES = 256 * 2**20  # a million objects and more; those behind them are listed anew
_fields = attrgetter(*(field.name for field in fields(ObjectInfo)))


class ListedOnce:
    """A store of which whole folders are listed once, kept in ``files``; all else is asked of it each time."""

    def __init__(self, store: ObjectStore, files: ExitStack) -> None:
        self._store, self._files = store, files
        self._listings: dict[str, tuple[IO[bytes], Iterator[ObjectInfo]]] = {}  # as far as kept, and what follows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def list(self, prefix_uri: str, start_after: str = "") -> Iterator[ObjectInfo]:
        """The objects as they were when each was listed first; those after a key, as they are."""
        read_bytes = MAX_KEPT_BYTES if start_after else 0
        if prefix_uri not in self._listings:
            file = self._files.enter_context(SpooledTemporaryFile(IN_MEMORY_BYTES))  # noqa: SIM115 - it does
            self._listings[prefix_uri] = file, self._store.list(prefix_uri)
        while read_bytes < MAX_KEPT_BYTES:
            if not (line := self._line(prefix_uri, read_bytes)):
                return
            read_bytes += len(line)
            info = ObjectInfo(*json.loads(line))
            start_after = split_uri(info.uri)[1]
            yield info
        yield from self._store.list(prefix_uri, start_after)

    def _line(self, prefix_uri: str, place: int) -> bytes:
        file, rest = self._listings[prefix_uri]
        try:
            file.seek(place)
            if not (line := file.readline()) and (info := next(rest, None)):
                line = json.dumps(_fields(info)).encode() + b"\n"
                file.write(line)
        except ObjectStoreError:
            del self._listings[prefix_uri]  # nobody may take what was listed until now for all of it
            raise
        except OSError as error:
            raise scratch_error("what was listed", error) from error
        return line

"""One listing of each folder for a whole request: its check of the input and its plan read the same."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cache
from operator import attrgetter
from tempfile import SpooledTemporaryFile
from typing import IO, Any, cast

from sparklet.errors import ObjectStoreError
from sparklet.model import split_uri
from sparklet.model.options import MIB
from sparklet.ports import ObjectInfo, ObjectStore
from sparklet.ports.deployment import Deployment, scratch

IN_MEMORY_BYTES = 8 * MIB
MAX_KEPT_BYTES = 256 * MIB  # a million objects and more; those after them are listed again
_fields = attrgetter(*(each.name for each in fields(ObjectInfo)))


@contextmanager
def listing_once(at: Deployment) -> Iterator[Deployment]:
    """The same deployment for one request, which lists each folder of its input once."""
    with ExitStack() as files:
        yield replace(at, listed=cache(lambda access: cast(ObjectStore, ListedOnce(at.inputs(access), files))))


@dataclass(frozen=True)
class ListedOnce:
    """A store that lists each folder once and keeps the listing in ``files``; it forwards everything else."""

    _store: ObjectStore
    _files: ExitStack
    _listings: dict[str, tuple[IO[bytes], Iterator[ObjectInfo]]] = field(default_factory=dict)  # kept, and what follows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def list(self, prefix_uri: str, start_after: str = "") -> Iterator[ObjectInfo]:
        """The objects as they were at the first listing; those after a key as they are now."""
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
            with scratch("what was listed"):
                file.seek(place)
                if not (line := file.readline()) and (info := next(rest, None)):
                    line = json.dumps(_fields(info)).encode() + b"\n"
                    file.write(line)
        except ObjectStoreError:
            del self._listings[prefix_uri]  # what was listed until now is not all of it
            raise
        return line

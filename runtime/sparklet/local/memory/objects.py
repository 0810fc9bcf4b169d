"""Objects in a dictionary."""

import hashlib
import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparklet.clock import SystemClock
from sparklet.errors import ObjectChangedError, ObjectNotFoundError, ObjectStoreError
from sparklet.ports import Clock, ObjectInfo
from sparklet.s3_uri import split_uri

PAGE_KEYS = 1000


@dataclass(frozen=True, slots=True)
class _Object:
    body: bytes
    info: ObjectInfo


class MemoryObjectStore:
    """An ``ObjectStore`` in memory.

    Parameters
    ----------
    clock
        Gives objects their time.
    buckets
        The buckets there are; None: every bucket is there.
    """

    def __init__(self, clock: Clock | None = None, buckets: Iterable[str] | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._buckets = None if buckets is None else frozenset(buckets)
        self._objects: dict[str, _Object] = {}
        self._uris: list[str] = []  # sorted by code point, which is the order of UTF-8 and so S3's
        self._lock = threading.RLock()

    def list(self, prefix_uri: str, start_after: str = "") -> Iterator[ObjectInfo]:
        """All objects below a prefix in key order; each page sees what is there when it is asked for."""
        bucket, _ = self._checked(prefix_uri)
        last = f"s3://{bucket}/{start_after}" if start_after else ""
        while page := self._page(prefix_uri if "/" in prefix_uri.removeprefix("s3://") else f"{prefix_uri}/", last):
            yield from page
            last = page[-1].uri

    def _page(self, prefix: str, last: str) -> Sequence[ObjectInfo]:
        with self._lock:
            start = max(bisect_left(self._uris, prefix), bisect_right(self._uris, last))
            uris = self._uris[start : start + PAGE_KEYS]
            return [self._objects[uri].info for uri in uris if uri.startswith(prefix)]

    def head(self, uri: str) -> ObjectInfo:
        """Size and ETag of an object."""
        return self._object(uri).info

    def get(self, uri: str, offset: int = 0, length: int | None = None, etag: str = "") -> bytes:
        """An object's bytes, or a range."""
        found = self._object(uri)
        if etag and etag != found.info.etag:
            raise ObjectChangedError(f"{uri} has the ETag {found.info.etag}, not {etag}: it was replaced")
        return found.body[offset:] if length is None else found.body[offset : offset + length]

    def put(self, uri: str, body: bytes, create_only: bool = False) -> str:
        """Write an object; its ETag."""
        self._checked(uri)
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        with self._lock:
            if uri not in self._objects:
                insort(self._uris, uri)
            elif create_only:
                raise ObjectChangedError(f"{uri} is there already")
            self._objects[uri] = _Object(body, ObjectInfo(uri, len(body), etag, self._clock.now_s()))
        return etag

    def download(self, uri: str, path: Path, etag: str = "") -> None:
        """Write an object to a file; the file appears whole or not at all."""
        body = self.get(uri, etag=etag)
        partial = path.with_name(f".{path.name}.{threading.get_ident()}")
        try:
            partial.write_bytes(body)
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise ObjectStoreError(f"{uri} could not be written to {path}: {error}") from error

    def upload(self, path: Path, uri: str) -> None:
        """Write a file to an object."""
        try:
            body = path.read_bytes()
        except OSError as error:
            raise ObjectStoreError(f"{path} could not be read for {uri}: {error}") from error
        self.put(uri, body)

    def delete(self, uri: str) -> None:
        """Delete an object; nothing happens if it is not there."""
        self._checked(uri)
        with self._lock:
            if self._objects.pop(uri, None):
                del self._uris[bisect_left(self._uris, uri)]

    def _object(self, uri: str) -> _Object:
        self._checked(uri)
        with self._lock:
            found = self._objects.get(uri)
        if found is None:
            raise ObjectNotFoundError(f"{uri} is not there")
        return found

    def _checked(self, uri: str) -> tuple[str, str]:
        bucket, key = split_uri(uri)
        if self._buckets is not None and bucket not in self._buckets:
            raise ObjectNotFoundError(f"{uri}: there is no bucket {bucket}")
        return bucket, key

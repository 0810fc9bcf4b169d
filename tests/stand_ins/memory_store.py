"""An object store in memory."""

import hashlib
import threading
import uuid
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from sparklet.errors import ObjectChangedError, ObjectForbiddenError, ObjectNotFoundError, ObjectStoreError
from sparklet.ledger.clock import SystemClock
from sparklet.model import SCHEME, split_uri
from sparklet.ports import Clock, ObjectInfo, only_within

PAGE_KEYS = 1000


@dataclass(frozen=True, slots=True)
class _Object:
    body: bytes
    info: ObjectInfo
    deleted: bool = False  # a delete marker


class MemoryObjectStore:
    """An ``ObjectStore`` in memory.

    Parameters
    ----------
    buckets
        The buckets that exist; if it is None, every bucket exists.
    versioned
        Buckets that keep every version of an object.
    regions
        Regions of buckets outside this store's own.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        buckets: Iterable[str] | None = None,
        versioned: Iterable[str] = (),
        regions: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._clock: Clock = clock or SystemClock()
        self.buckets = None if buckets is None else frozenset(buckets)
        self._versioned = frozenset(versioned)
        self.regions = regions
        self.objects: dict[str, _Object] = {}
        self._uris: list[str] = []  # sorted by code point, which is the order of UTF-8 and so S3's
        self._versions: dict[str, list[_Object]] = {}  # newest last; delete markers too
        self._lock = threading.RLock()

    def list(self, prefix_uri: str, start_after: str = "") -> Iterator[ObjectInfo]:
        """All objects below a prefix in key order; each page has the state of the moment when it is read."""
        bucket, _ = self._checked(prefix_uri)
        last = f"s3://{bucket}/{start_after}" if start_after else ""
        while page := self._page(_whole(prefix_uri), last):
            yield from page
            last = page[-1].uri

    def _page(self, prefix: str, last: str) -> Sequence[ObjectInfo]:
        with self._lock:
            start = max(bisect_left(self._uris, prefix), bisect_right(self._uris, last))
            uris = self._uris[start : start + PAGE_KEYS]
            return [replace(self.objects[uri].info, owner="") for uri in uris if uri.startswith(prefix)]

    def versions(self, uri: str) -> Sequence[str]:
        """The ids of a key's versions and delete markers, newest first."""
        return [each.info.version_id for each in reversed(self._versions[uri])]

    def head(self, uri: str, version_id: str = "") -> ObjectInfo:
        """Size and ETag of an object."""
        return self._object(uri, version_id).info

    def head_all(self, addresses: Sequence[tuple[str, str]]) -> Iterator[ObjectInfo | None]:
        """``head`` of each address; None for each object that does not exist."""
        for address in addresses:
            try:
                yield self.head(*address)
            except ObjectNotFoundError:
                yield None

    def foreign_region(self, uri: str) -> str:
        """The region of a URI's bucket; "" if it is this store's own."""
        return self.regions.get(self._checked(uri)[0], "")

    def archive(self, uri: str, archived: bool = True) -> None:
        """Archive an object, so that it cannot be read; or, with False, restore it."""
        with self._lock:
            found = self._object(uri, "")
            self.objects[uri] = replace(found, info=replace(found.info, archived=archived))

    def get(self, uri: str, offset: int = 0, length: int | None = None, etag: str = "", version_id: str = "") -> bytes:
        """An object's bytes, or a range of them."""
        found = self._object(uri, version_id)
        if etag and etag != found.info.etag:
            raise ObjectChangedError(f"{uri} has the ETag {found.info.etag}, not {etag}: it was replaced")
        if found.info.archived:
            raise ObjectForbiddenError(f"{uri} is archived: restore it, then try again")
        return found.body[offset:] if length is None else found.body[offset : offset + length]

    def get_all(self, uris: Iterable[str]) -> Iterator[bytes]:
        """The bytes of each object."""
        return map(self.get, uris)

    def put(self, uri: str, body: bytes, create_only: bool = False) -> str:
        """Write an object; return its ETag."""
        bucket, _ = self._checked(uri)
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        with self._lock:
            if uri not in self.objects:
                insort(self._uris, uri)
            elif create_only:
                raise ObjectChangedError(f"{uri} is there already")
            info = ObjectInfo(uri, len(body), etag, self._clock.now_s())
            self.objects[uri] = _Object(body, info)
            if bucket in self._versioned:
                self._keep(uri, body, info)
        return etag

    def _keep(self, uri: str, body: bytes, info: ObjectInfo, *, deleted: bool = False) -> None:
        kept = self._versions.setdefault(uri, [])
        kept.append(_Object(body, replace(info, version_id=uuid.uuid4().hex), deleted))

    def download(self, uri: str, path: Path, etag: str = "", version_id: str = "") -> None:
        """Write an object to a file; the file appears whole or not at all."""
        body = self.get(uri, etag=etag, version_id=version_id)
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
        """Delete an object; nothing happens if it does not exist."""
        bucket, _ = self._checked(uri)
        with self._lock:
            if self.objects.pop(uri, None):
                del self._uris[bisect_left(self._uris, uri)]
            if bucket in self._versioned:
                self._keep(uri, b"", ObjectInfo(uri, 0, "", self._clock.now_s()), deleted=True)

    def copy_all(
        self, pairs: Iterable[tuple[ObjectInfo, str]], owner: str = "", replaces: Callable[[str], bool] | None = None
    ) -> None:
        """Copy objects; ObjectChangedError if a target has another owner that ``replaces`` does not accept."""
        for source, target in pairs:
            body = self.get(source.uri)
            with self._lock:
                there = self.objects.get(target)
                if owner and there and there.info.owner != owner and not (replaces and replaces(there.info.owner)):
                    raise ObjectChangedError(f"{target} is there already, of {there.info.owner or 'nobody known'}")
                self.put(target, body)
                copied = self.objects[target]
                self.objects[target] = replace(copied, info=replace(copied.info, owner=owner))

    def delete_all(self, uris: Iterable[str], within: str) -> None:
        """Delete objects below a prefix."""
        for uri in only_within(uris, within):
            self.delete(uri)

    def _object(self, uri: str, version_id: str) -> _Object:
        self._checked(uri)
        with self._lock:
            found = self._version(uri, version_id) if version_id else self.objects.get(uri)
        if found is None or found.deleted:
            version = f"has no version {version_id} that can be read" if version_id else "is not there"
            raise ObjectNotFoundError(f"{uri} {version}")
        return found

    def _version(self, uri: str, version_id: str) -> _Object | None:
        return next((each for each in self._versions.get(uri, ()) if each.info.version_id == version_id), None)

    def _checked(self, uri: str) -> tuple[str, str]:
        bucket, key = split_uri(uri)
        if self.buckets is not None and bucket not in self.buckets:
            raise ObjectNotFoundError(f"{uri}: there is no bucket {bucket}")
        return bucket, key


def _whole(prefix_uri: str) -> str:
    """Return the prefix with a slash behind the bucket's name, if it ends there."""
    return prefix_uri if "/" in prefix_uri.removeprefix(SCHEME) else f"{prefix_uri}/"

"""Fetches scripts: only from allowed prefixes, always the version that is there now, never a stale one."""

import hashlib
import re
from pathlib import Path

from sparklet.errors import (
    ObjectForbiddenError,
    ObjectNotFoundError,
    ObjectStoreError,
    ScriptFetchError,
)
from sparklet.model import ScriptRef
from sparklet.ports import ObjectStore
from sparklet.settings import check_script

_COPY = re.compile(r"/([0-9a-f]{64})/[^/]+$")


class ScriptCache:
    """Scripts on local disk, by content.

    Parameters
    ----------
    folder
        Where scripts are kept between tasks. A file is used again only if its bytes still have the digest
        they were fetched with, so that no task can leave another script behind under that name.
    allowed
        Prefixes (``s3://bucket/folder/``) that a script may come from.
    """

    def __init__(self, store: ObjectStore, folder: Path, allowed: tuple[str, ...]) -> None:
        self._store = store
        self._folder = folder
        self._allowed = allowed
        self._digests: dict[Path, str] = {}

    def fetch(self, uri: str) -> Path:
        """The script at ``uri`` as it is there now, pinned by its ETag.

        Raises
        ------
        ScriptNotAllowedError, ScriptFetchError
        """
        check_script(uri, self._allowed)
        try:
            etag = self._store.head(uri).etag
        except ObjectStoreError as error:
            raise _fetch_error(uri, error) from error
        return self._file(uri, hashlib.sha256(f"{uri}\n{etag}".encode()).hexdigest(), etag=etag)

    def fetch_ref(self, script: ScriptRef) -> tuple[Path, tuple[Path, ...]]:
        """A run's script and its py-files, exactly those that were planned: their digests are kept, or in the URI."""
        check_script(script.uri, self._allowed)
        path = self._file(script.uri, script.sha256, sha256=script.sha256)
        extra = [
            self._file(uri, hashlib.sha256(uri.encode()).hexdigest(), sha256=_digest_in(uri)) for uri in script.py_files
        ]
        return path, tuple(extra)

    def _file(self, uri: str, key: str, *, etag: str = "", sha256: str = "") -> Path:
        path = self._folder / key / uri.rsplit("/", 1)[-1]
        if path in self._digests and path.exists() and _digest(path) == self._digests[path]:
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._store.download(uri, path, etag=etag)
        except ObjectStoreError as error:
            raise _fetch_error(uri, error) from error
        digest = _digest(path)
        if sha256 and digest != sha256:
            path.unlink()
            raise ScriptFetchError(
                f"a script changed after planning: {uri} has the digest {digest[:12]}…, not {sha256[:12]}…",
                retryable=False,
            )
        self._digests[path] = digest
        return path


def _digest_in(uri: str) -> str:
    """The digest under which planning put a copy, ``…/<sha256>/<name>``; "" if it lies elsewhere."""
    found = _COPY.search(uri)
    return found[1] if found else ""


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _fetch_error(uri: str, error: ObjectStoreError) -> ScriptFetchError:
    permanent = isinstance(error, ObjectNotFoundError | ObjectForbiddenError)
    return ScriptFetchError(f"the script {uri} could not be fetched: {error}", retryable=not permanent)

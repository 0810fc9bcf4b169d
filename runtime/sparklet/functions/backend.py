"""The port behind ``LambdaExecutor``: who performs calls, with which options, and where large contents are stored."""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

from sparklet.errors import PayloadError
from sparklet.functions.calls import CODECS, Call, Codec, Contents, TryResult
from sparklet.ports import ObjectStore

STORED_S = 3600.0  # a content that this process has stored is not stored again for so long


class Backend(Protocol):
    """Performs calls, several at a time. Its methods may be called from any thread."""

    key: bytes  # signs calls and answers
    contents: Contents  # the store of large contents
    inline_bytes: int  # the largest content that a call or an answer itself can have
    sizes: Sequence[int]  # the memory of its workers in MB, from small to large; at least one; 0: no limit
    slots: int  # how many calls it takes at a time
    max_timeout_s: float  # the longest time limit of a call
    waiting_s: float  # how long a call can wait for a worker; after this and the call's own time its caller gives up

    def start(self, call: Call, size: int, done: Callable[[TryResult], None]) -> None:
        """Begin a call on a worker of ``sizes[size]``; ``done`` is called once with the result, from any thread.

        If the result is a RemoteTaskError, its reason (``killed``, ``memory``, ``timeout``, ``throttled``) decides on a
        further try. Raises RemoteTaskError after ``close``.
        """

    def give_up(self, call: Call) -> None:
        """Stop the call if possible: its caller has stopped waiting, and ignores a later result."""

    def close(self) -> None:
        """Stop all workers at once. Can be called twice."""


@dataclass(frozen=True)
class Options:
    """How an executor runs tasks.

    Parameters
    ----------
    codec
        ``json``: functions are sent by name, arguments as JSON. ``pickle``: functions by name, arguments as pickles.
        ``cloudpickle``: functions also by value.
    timeout_s
        The time limit of one try; the backend's maximum if it is None.
    memory_mb
        The least memory of a worker; the first try has the smallest such worker.
    sizes
        The workers' sizes in MB that are tried, from small to large; all that have ``memory_mb`` if it is empty.
    retries
        How many further tries follow an exception of ``retry_on``. If that has RemoteTaskError, calls whose worker was
        killed are tried again, too.
    offload_arguments, offload_result
        Whether arguments or results of any size are sent through the contents' folder (S3); large ones always are.

    Raises
    ------
    ValueError
        If there is no such codec, ``retries`` is negative, or ``timeout_s`` not positive.
    """

    codec: Codec = "pickle"
    timeout_s: float | None = None
    memory_mb: int = 0
    sizes: Sequence[int] = ()
    retries: int = 2
    retry_on: type[BaseException] | tuple[type[BaseException], ...] = ()
    offload_arguments: bool = False
    offload_result: bool = False

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise ValueError(f"codec is {self.codec!r}; it must be one of {', '.join(CODECS)}")
        if self.retries < 0 or (self.timeout_s is not None and self.timeout_s <= 0):
            raise ValueError("retries must not be negative, and timeout_s must be positive")

    def for_function(self, function: Callable[..., Any] | str, **more: Any) -> Self:
        """These options, overridden by the options of the function's ``remote`` decorator, then by ``more``."""
        remote_options = getattr(function, "options", {}) if getattr(function, "is_remote", False) else {}
        return replace(self, **{**remote_options, **more})

    def sizes_of(self, sizes_mb: Sequence[int]) -> list[int]:
        """The indexes of the backend's sizes that may be tried; PayloadError if there are none."""

        def is_allowed(size_mb: int) -> bool:
            if self.sizes:
                return size_mb in self.sizes
            has_no_limit = size_mb == 0
            return has_no_limit or size_mb >= self.memory_mb

        if not (indexes := [index for index, size_mb in enumerate(sizes_mb) if is_allowed(size_mb)]):
            option = f"sizes={list(self.sizes)}" if self.sizes else f"memory_mb={self.memory_mb}"
            raise PayloadError(f"{option}: no worker has this memory; the workers have {list(sizes_mb)} MB")
        return indexes


@dataclass(frozen=True)
class FolderContents:
    """``Contents`` in a local folder, which is made when the first content is put."""

    folder: Path

    def put(self, name: str, content: bytes) -> str:
        """Write a content unless the folder has it already; return its URI."""
        path = self.folder / name
        if not path.exists():
            self.folder.mkdir(mode=0o700, exist_ok=True)
            # Written under another name and renamed, so that no other reader or writer of the digest sees half a file.
            draft = path.with_suffix(f".{secrets.token_hex(8)}")
            draft.write_bytes(content)
            draft.rename(path)
        return path.as_uri()

    def get(self, uri: str) -> bytes:
        """Read a content."""
        path = self.folder / uri.rpartition("/")[2]
        if uri != path.as_uri() or not path.exists():
            raise PayloadError(f"{uri} is not there")
        return path.read_bytes()


@dataclass(frozen=True)
class StoredContents:
    """``Contents`` in a folder of an object store, where they expire by the operator's rule."""

    store: ObjectStore
    folder_uri: str  # ends in "/"
    _put_s: dict[str, float] = field(default_factory=dict)  # when this process stored each content, by name

    def put(self, name: str, content: bytes) -> str:
        """Write a content unless this process has written it within ``STORED_S``; return its URI."""
        uri = f"{self.folder_uri}{name}"
        # Written again after that time, since the bucket's rule deletes contents a week after they were stored.
        if time.monotonic() - self._put_s.get(name, -STORED_S) >= STORED_S:
            self.store.put(uri, content)
            self._put_s[name] = time.monotonic()
        return uri

    def get(self, uri: str) -> bytes:
        """Read a content."""
        if uri.rpartition("/")[0] != self.folder_uri.rstrip("/"):
            raise PayloadError(f"{uri} lies outside {self.folder_uri}")
        return self.store.get(uri)

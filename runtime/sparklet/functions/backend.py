"""The port behind ``LambdaExecutor``: where calls are performed, how, and where their large contents lie."""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

from sparklet.errors import PayloadError
from sparklet.functions.calls import CODECS, Call, Codec, Contents, End
from sparklet.ports import ObjectStore

STORED_S = 3600.0  # for so long after storing a content it is not stored again


class Backend(Protocol):
    """Performs calls, several at a time. Its methods may be called from any thread."""

    key: bytes  # signs calls and answers
    contents: Contents  # where large contents lie
    inline_bytes: int  # of a content in a call or in an answer
    sizes: Sequence[int]  # memory of its workers in MB, from small to large; at least one
    slots: int  # calls that it takes at a time
    max_timeout_s: float  # of a call
    waiting_s: float  # of a call for a worker; after that and its own time the caller gives it up

    def start(self, call: Call, size: int, done: Callable[[End], None]) -> None:
        """Begin a call on a worker of ``sizes[size]``; ``done`` gets its end once, from any thread.

        An end that is a RemoteTaskError has a reason: ``killed``, ``memory``, ``timeout``, ``throttled``.
        RemoteTaskError after ``close``.
        """

    def give_up(self, call: Call) -> None:
        """End the call if possible: its caller has stopped waiting, and ignores what ``done`` gets."""

    def close(self) -> None:
        """End all workers at once. May be called twice."""


@dataclass(frozen=True)
class Options:
    """The options by which tasks are executed.

    Parameters
    ----------
    codec
        ``json``; ``pickle``: functions by name, arguments pickled; ``cloudpickle``: functions by value, too.
    timeout_s
        The time limit of one try; None: the backend's maximum.
    memory_mb
        The least memory of the first try's worker; 0: the smallest worker.
    sizes
        The workers' sizes in MB that may be tried; empty: all from the first on.
    retries
        Further tries after an exception of ``retry_on``; name RemoteTaskError there for killed workers.
    offload_arguments, offload_result
        Whether they travel through the contents' folder (S3) whatever their size; large ones always do.

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
            raise ValueError(f"codec is {self.codec!r}; it must be {', '.join(CODECS)}")
        if self.retries < 0 or (self.timeout_s is not None and self.timeout_s <= 0):
            raise ValueError("retries must not be negative, and timeout_s must be positive")

    def of(self, function: Callable[..., Any] | str, **more: Any) -> Self:
        """The options of a function: these, overridden by those of ``remote``, overridden by ``more``."""
        remote_options = getattr(function, "options", {}) if getattr(function, "is_remote", False) else {}
        return replace(self, **{**remote_options, **more})

    def sizes_of(self, sizes_mb: Sequence[int]) -> list[int]:
        """The indexes of the backend's sizes that may be tried; PayloadError if there are none."""

        def allowed(size_mb: int) -> bool:
            return size_mb in self.sizes if self.sizes else size_mb >= self.memory_mb or not size_mb

        if not (indexes := [index for index, size_mb in enumerate(sizes_mb) if allowed(size_mb)]):
            raise PayloadError(f"no worker has {self.sizes or self.memory_mb} MB: there are {sizes_mb}")
        return indexes


@dataclass(frozen=True)
class FolderContents:
    """``Contents`` in a local folder, which the first content makes."""

    folder: Path

    def put(self, name: str, content: bytes) -> str:
        """Write a content, unless it is there."""
        path = self.folder / name
        if not path.exists():
            self.folder.mkdir(mode=0o700, exist_ok=True)
            # By a rename, so that whoever reads or writes the same digest meanwhile sees all of it or nothing.
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
    """``Contents`` in a folder of an object store, which an operator lets expire."""

    store: ObjectStore
    folder_uri: str  # ends in "/"
    _put_s: dict[str, float] = field(default_factory=dict)  # when this process stored a content, by its name

    def put(self, name: str, content: bytes) -> str:
        """Write a content, unless this process did so within ``STORED_S``."""
        uri = f"{self.folder_uri}{name}"
        # Not once for ever: the bucket's rule deletes contents a week after they were stored.
        if time.monotonic() - self._put_s.get(name, -STORED_S) >= STORED_S:
            self.store.put(uri, content)
            self._put_s[name] = time.monotonic()
        return uri

    def get(self, uri: str) -> bytes:
        """Read a content."""
        if uri.rpartition("/")[0] != self.folder_uri.rstrip("/"):
            raise PayloadError(f"{uri} lies outside {self.folder_uri}")
        return self.store.get(uri)

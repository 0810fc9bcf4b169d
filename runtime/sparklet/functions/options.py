"""How tasks are done."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from sparklet.errors import PayloadError
from sparklet.functions.calls import CODECS, Codec


@dataclass(frozen=True)
class Options:
    """How tasks are done.

    Parameters
    ----------
    codec
        ``json``; ``pickle``: functions by name, arguments pickled; ``cloudpickle``: functions by value, too.
    timeout_s
        Of one try; None: the most that the backend allows.
    memory_mb
        Of the first try's worker, at least; 0: the smallest.
    sizes
        The workers' sizes in MB that may be tried; empty: all from the first on.
    retries
        Further tries after an exception of ``retry_on``. RemoteTaskError there means a worker that was killed.
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
        """The options of a function: these, over them what ``remote`` was given for it, over that ``more``."""
        own = getattr(function, "options", {}) if getattr(function, "is_remote", False) else {}
        return replace(self, **{**own, **more})

    def sizes_of(self, sizes_mb: Sequence[int]) -> list[int]:
        """Which of a backend's sizes may be tried, by their places; PayloadError if none may."""
        found = [
            place
            for place, size_mb in enumerate(sizes_mb)
            if (size_mb in self.sizes if self.sizes else size_mb >= self.memory_mb or not size_mb)
        ]
        if not found:
            raise PayloadError(f"no worker has {self.sizes or self.memory_mb} MB: there are {sizes_mb}")
        return found

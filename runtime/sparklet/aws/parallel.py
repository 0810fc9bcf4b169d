"""A few threads over many small calls, in bounded memory."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

CHUNK_ITEMS = 16


class Intake(Generic[T]):
    """One iterable that several threads take from, a chunk at a time, so that the lock is no bottleneck.

    As a context manager it closes when a thread leaves with an error: the others then stop after what they hold.
    """

    def __init__(self, items: Iterable[T], chunk: int = CHUNK_ITEMS) -> None:
        self._items = iter(items)
        self._chunk = chunk
        self._lock = threading.Lock()
        self._closed = False

    def __iter__(self) -> Iterator[T]:
        while chunk := self._take():
            yield from chunk

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._closed = True

    def _take(self) -> list[T]:
        with self._lock:
            return [] if self._closed else list(islice(self._items, self._chunk))


def in_parallel(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """``function`` of every item, in order, ``threads`` at a time; what nobody asks for any more is not begun."""
    waiting = iter(items)
    first = list(islice(waiting, 2))
    if len(first) < 2:
        yield from map(function, first)
        return
    pool = ThreadPoolExecutor(threads)
    try:
        ahead: deque[Future[R]] = deque()
        for item in chain(first, waiting):
            ahead.append(pool.submit(function, item))
            if len(ahead) >= 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)

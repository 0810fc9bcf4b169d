"""A few threads over many small calls, in bounded memory."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(
    function: Callable[[T], R], items: Iterable[T], threads: int, ahead: int = 2
) -> Generator[R, None, None]:
    """``function`` of every item, in order, by ``threads``, with ``ahead`` items begun for each of them."""
    waiting = iter(items)
    # For one item a pool of threads would cost more than it saves.
    first = list(islice(waiting, 2))
    if len(first) < 2:
        yield from map(function, first)
        return
    pool = ThreadPoolExecutor(threads)
    try:
        begun: deque[Future[R]] = deque()
        for item in chain(first, waiting):
            begun.append(pool.submit(function, item))
            if len(begun) >= ahead * threads:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        # Also if the consumer stops early or a call fails: what has not begun never does.
        pool.shutdown(cancel_futures=True)

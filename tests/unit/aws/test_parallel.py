"""What the few threads over many calls promise."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from sparklet.aws.parallel import Intake, in_parallel


def test_threads_take_every_item_once() -> None:
    intake = Intake(range(1_000), chunk=7)

    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(lambda _: list(intake), range(4)))

    assert sorted(item for items in taken for item in items) == list(range(1_000))


def test_no_more_is_taken_than_is_worked_on() -> None:
    """Memory does not grow with the source."""
    given = 0

    def source() -> Iterator[int]:
        nonlocal given
        for number in range(1_000):
            given += 1
            yield number

    items = iter(Intake(source(), chunk=5))
    next(items)

    assert given == 5


def test_an_error_in_one_thread_stops_the_others() -> None:
    intake = Intake(range(10**9), chunk=1)
    failed = threading.Event()

    def fail() -> None:
        with intake:
            next(iter(intake))
            failed.set()
            raise OSError("broken")

    def work() -> int:
        failed.wait()
        with intake:
            return sum(1 for _ in intake)

    with ThreadPoolExecutor(2) as pool:
        working, failing = pool.submit(work), pool.submit(fail)

    assert working.result() < 10**6
    with pytest.raises(OSError, match="broken"):
        failing.result()


def test_answers_come_in_order() -> None:
    assert list(in_parallel(lambda n: n * n, range(100), threads=4)) == [n * n for n in range(100)]
    assert list(in_parallel(lambda n: n * n, [3], threads=4)) == [9]
    assert list(in_parallel(lambda n: n * n, [], threads=4)) == []


def test_items_that_are_never_consumed_are_not_started() -> None:
    begun = []

    def note(number: int) -> int:
        begun.append(number)
        return number

    answers = in_parallel(note, range(1_000), threads=2)
    assert next(answers) == 0
    answers.close()  # type: ignore[attr-defined]

    assert len(begun) < 10


def test_an_error_reaches_the_consumer() -> None:
    def refuse(number: int) -> int:
        raise OSError(f"not {number}")

    with pytest.raises(OSError, match="not 0"):
        list(in_parallel(refuse, range(10), threads=3))

"""Calls in a few threads: bounded look-ahead, order, errors."""

import pytest

from sparklet.aws.clients import in_parallel


def test_no_more_items_are_taken_than_are_worked_on() -> None:
    """So memory does not grow with the source."""
    source = iter(range(1_000))

    next(in_parallel(lambda n: n, source, threads=4))

    assert next(source) <= 8


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
    answers.close()

    assert len(begun) < 10


def test_an_error_reaches_the_consumer() -> None:
    def refuse(number: int) -> int:
        raise OSError(f"not {number}")

    with pytest.raises(OSError, match="not 0"):
        list(in_parallel(refuse, range(10), threads=3))

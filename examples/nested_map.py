"""A map whose tasks map themselves: count the primes of each range, whose parts each task shares out among threads. ::

    python examples/nested_map.py --ranges 4 --length 20000

A task has no executor until it opens one: ``threads`` shares its own memory; ``lambda`` would call further workers, for
which the task's role needs the stack's caller policy.
"""

import argparse

from sparklet import LambdaExecutor, remote


def primes_between(first: int, after: int) -> int:
    """How many primes there are from ``first`` to before ``after``."""
    return sum(
        number > 1 and all(number % each for each in range(2, int(number**0.5) + 1)) for number in range(first, after)
    )


@remote(timeout_s=300)
def primes_of(first: int, length: int, parts: int = 4) -> int:
    """The same for a whole range, its parts at the same time."""
    starts = range(first, first + length, -(-length // parts))
    ends = [*starts[1:], first + length]
    with LambdaExecutor("threads", max_workers=parts, codec="cloudpickle") as inner:
        return sum(inner.map(primes_between, starts, ends))


def main() -> None:
    """Read the arguments, print each range's primes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranges", type=int, default=4)
    parser.add_argument("--length", type=int, default=20_000)
    parser.add_argument("--backend", default="processes")
    given = parser.parse_args()
    firsts = range(0, given.ranges * given.length, given.length)
    with LambdaExecutor(given.backend, codec="cloudpickle"):
        for first, count in zip(firsts, primes_of.map(firsts, [given.length] * given.ranges), strict=True):
            print(f"{first}: {count}")


if __name__ == "__main__":
    main()

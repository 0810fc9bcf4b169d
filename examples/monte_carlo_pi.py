"""Estimate pi from random points, in many workers at once. ::

python examples/monte_carlo_pi.py --tasks 20 --points 1000000
python examples/monte_carlo_pi.py --backend lambda     # sam/functions.yaml, with Codec=cloudpickle
"""

import argparse
import random
from itertools import repeat

from sparklet import LambdaExecutor, RemoteTaskError, progress, remote


@remote(timeout_s=120, retries=2, retry_on=RemoteTaskError)  # again if its worker was killed: it has no effects
def points_inside(seed: int, points: int) -> int:
    """How many random points of the unit square lie in the circle."""
    generator = random.Random(seed)
    return sum(generator.random() ** 2 + generator.random() ** 2 < 1 for _ in range(points))


def estimate(tasks: int, points: int) -> float:
    """Pi, from ``tasks`` calls of ``points`` points."""
    counts = points_inside.map(range(tasks), repeat(points))
    inside: int = sum(progress(counts, tasks, "points"))
    return 4 * inside / (tasks * points)


def main() -> None:
    """Read the arguments, print pi."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--points", type=int, default=200_000)
    parser.add_argument("--backend", default="processes")
    given = parser.parse_args()
    with LambdaExecutor(given.backend, codec="cloudpickle") as executor:
        print(f"pi is about {estimate(given.tasks, given.points):.4f}")
        print(executor.stats())


if __name__ == "__main__":
    main()

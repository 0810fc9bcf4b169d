"""One side's turn of ``benchmarks.map``: warm workers, then a map of each case; prints what each took.

    python benchmarks/jobs/map_calls.py sparklet|stand_in|process_pool|lithops WORKERS CASE=CALLS …

Only the side's own library is imported: Lithops lives in ``.venv-bench``.
"""

import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import process_tree

NAP_S = 0.5
WARM_UP_S = 0.2
Map = Callable[[Callable[[Any], Any], Iterable[Any]], list[Any]]


def no_op(value: int) -> int:
    """What costs nothing: all of its time is overhead."""
    return value


def nap(value: int) -> int:
    """Half a second without CPU time."""
    time.sleep(NAP_S)
    return value


def warm_up(value: int) -> int:
    """Long enough that each worker gets one."""
    time.sleep(WARM_UP_S)
    return value


CASES = {"no_op": no_op, "nap": nap}


@contextmanager
def _sparklet(workers: int) -> Iterator[Map]:
    from sparklet.functions.executor import LambdaExecutor

    with LambdaExecutor("processes", max_workers=workers) as executor:
        yield lambda function, values: list(executor.map(function, values))


@contextmanager
def _process_pool(workers: int) -> Iterator[Map]:
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield lambda function, values: list(executor.map(function, values))


@contextmanager
def _lithops(workers: int) -> Iterator[Map]:
    """The job runner of ``version: 1``: a process for each map, in which so many workers share its calls."""
    from lithops import LocalhostExecutor

    config = {
        "lithops": {"log_level": "WARNING"},
        "localhost": {"version": 1, "worker_processes": workers, "runtime": sys.executable},
    }
    with LocalhostExecutor(config=config) as executor:

        def mapped(function: Callable[[Any], Any], values: Iterable[Any]) -> list[Any]:
            executor.map(function, list(values))
            return list(executor.get_result(show_progressbar=False))

        yield mapped


@contextmanager
def _stand_in(workers: int) -> Iterator[Map]:
    """Functions deployed in the local stack: the stand-in's share is in the figures."""
    from benchmarks.jobs import map_calls  # functions are known by this name there
    from sparklet.functions.executor import LambdaExecutor
    from tests.functional.functions.conftest import STACK, deployed_functions

    with (
        tempfile.TemporaryDirectory() as folder,
        deployed_functions(Path(folder), "benchmarks.*"),
        LambdaExecutor("lambda", stack=STACK, max_workers=workers) as executor,
    ):
        yield lambda function, values: list(executor.map(getattr(map_calls, function.__name__), values))


SIDES = {"sparklet": _sparklet, "stand_in": _stand_in, "process_pool": _process_pool, "lithops": _lithops}


def main() -> None:
    """Print ``{case: {"wall_s", "cpu_s"}}``; a wrong result is none."""
    side, workers, *cases = sys.argv[1:]
    found = {}
    with SIDES[side](int(workers)) as mapped:
        mapped(warm_up, range(int(workers)))
        for case in cases:
            name, _, calls = case.partition("=")
            cpu_s = process_tree.cpu_s(os.getpid())
            began_s = time.perf_counter()
            values = mapped(CASES[name], range(int(calls)))
            wall_s = time.perf_counter() - began_s
            found[name] = {"wall_s": wall_s, "cpu_s": process_tree.cpu_s(os.getpid()) - cpu_s}
            if values != list(range(int(calls))):
                raise SystemExit(f"{side}: wrong results of {name}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()

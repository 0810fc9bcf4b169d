"""What does an output for each input cost, compared with one Spark job over all of them? About ten minutes.

A year of flights, a file a day: packed, with an output for each file (``--output-per input``), by workers that have
done a shard before; and in one spark-submit with as many cores, its start included. The script is
``spark_scripts/flights_daily.py``. Which shapes of jobs are one Spark job for all inputs of a shard (``native=``), and
which are done input by input (``fallback=``), is on standard error.

    python -m benchmarks.per_input [--days 365] [--workers 2] [--rounds 5]
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.comparison import SPARKLET, Case, Run, document, options, publish, say
from benchmarks.facts import ROOT
from benchmarks.fan_out import ONE_JOB, Year
from benchmarks.rivals import SparkSubmit, parameters, plain
from spark_scripts.demo.flights_data import make_flights
from sparklet.local.environment import host_env
from sparklet.local.spark_installation import worker_environment
from tests.functional.worker.test_by_input import HEAD, MIXED, NATIVE

QUESTION = "What does an output for each input cost, compared with one Spark job over all of them?"
DAYS = 365
SHAPED = 4  # inputs of the one shard of each shape


def main() -> None:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--days", type=int, default=DAYS, help="day files, up to 365")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    with staged(given.days, given.workers) as (year, rival):
        case = compared(year, rival, given.workers, given.rounds)
        shapes = shaped(year, given.workers)
    say(" ".join(f"{way}={len(bodies)}" for way, bodies in shapes.items()))
    known = {"workers": given.workers, "rivals": {ONE_JOB: parameters([rival])["plain"]}, **shapes}
    publish(document("per_input", QUESTION, known, [case]))


@contextmanager
def staged(days: int, workers: int) -> Iterator[tuple[Year, SparkSubmit]]:
    """The files, a stack with warm workers, and the rival."""
    with tempfile.TemporaryDirectory(prefix="sparklet-bench-") as name:
        year = Year(Path(name), make_flights(ROOT / "build" / "demo" / "data"), days)
        with year.stack(workers):
            yield year, plain({**host_env(), **worker_environment(1, say)}, year.folder)


def compared(year: Year, rival: SparkSubmit, workers: int, rounds: int) -> Case:
    """Both sides in turns; each begins as often as the other."""
    case = Case(f"{year.days} files", [ONE_JOB])
    for turn in range(rounds):
        for side in (SPARKLET, ONE_JOB) if turn % 2 else (ONE_JOB, SPARKLET):
            case.add(side, rival.run(year.one_job()) if side == ONE_JOB else _by_input(year, workers))
    return case


def _by_input(year: Year, workers: int) -> Run:
    """Run it packed, two shards a worker."""
    run, _ = year.run(workers, "--output-per", "input", "--max-objects", str(-(-year.days // (2 * workers))))
    outputs = list(year.output.glob("*.parquet"))
    if len(outputs) != year.days:
        raise SystemExit(f"{year.days} files have {len(outputs)} outputs")
    return run


def shaped(year: Year, workers: int) -> dict[str, list[str]]:
    """Last lines of scripts that are one job for a shard's inputs, and of those that are done input by input."""
    found: dict[str, list[str]] = {"native": [], "fallback": []}
    (folder := year.folder / "shaped").mkdir()
    for number in range(SHAPED):
        lines = [f"{number},{row % 3},{row}" for row in range(40)]
        (folder / f"{number}.csv").write_text("\n".join(["src,k,v", *lines, ""]))
    for body in (*NATIVE, *MIXED):
        (year.folder / "shape.py").write_text(HEAD + body)
        told = year.cli_run("shaped", workers, "--output-per", "input", script="shape.py")
        found["native" if told["shards"]["total"] == 1 else "fallback"].append(body.replace("\n", "; "))
    return found


if __name__ == "__main__":
    main()

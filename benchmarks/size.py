"""From what size on does a shard need Spark at all? Seconds and memory, by format and size.

One file of sales, a filter, a grouping, Parquet written: by a worker that has done an event before (``sparklet``), by
one that has to start (``sparklet_cold``), by one spark-submit with all settings at their defaults (``plain``), and by
DuckDB and Polars, each in a process of its own with its imports. All have the machine's cores, and are told the
columns' types.

    python -m benchmarks.size [--sizes-mb 1 10 50 128 400] [--formats csv parquet] [--budget-s 420] [--quick]
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

from benchmarks.comparison import SPARKLET, Case, document, publish, say
from benchmarks.facts import ROOT
from benchmarks.function import MEMORY_MB, Environment, Function, function
from benchmarks.rivals import SparkSubmit, parameters, plain
from benchmarks.workload import JOBS, Job, WrongOutputError

COLD = "sparklet_cold"
RIVALS = ("plain", "duckdb", "polars", COLD)
QUESTION = "From what size on does a shard need Spark at all?"
PYTHON = ROOT / ".venv-bench" / "bin" / "python"
SAMPLED_EVERY_S = 0.02  # DuckDB and Polars may need less than the 0.2 s between two looks at the others
IN_PROCESS = JOBS / "filter_group_in_process.py"


@dataclass
class SizedJob(Job):
    """The query over one file."""

    file: Path = Path()
    expected: dict[str, Any] = field(default_factory=dict)

    @property
    def script(self) -> Path:
        """The same whatever the size."""
        return JOBS / "filter_group.py"

    def event(self, side: str) -> dict[str, Any]:
        """Its file and its output."""
        return {**super().event(side), "input": str(self.file)}

    @classmethod
    def of(cls, folder: Path, kind: str, megabytes: int) -> "SizedJob":
        """The job with its data, which is made."""
        file = folder / f"{megabytes}.{kind}"
        command = [str(PYTHON), str(IN_PROCESS), "make", str(file), "--megabytes", str(megabytes)]
        made = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        return cls(f"{kind}, {megabytes} MB", folder, _check, shares_output=False, file=file, expected=made)


def _check(job: Job, output: Path) -> None:
    assert isinstance(job, SizedJob)
    table = parquet.read_table(output)
    found = sum(table["sales"].to_pylist()), table.num_rows, sum(table["amount"].to_pylist())
    wanted = tuple(job.expected[name] for name in ("sales", "groups", "amount"))
    if found[:2] != wanted[:2] or abs(found[2] - wanted[2]) > 1e-6 * wanted[2]:
        raise WrongOutputError(f"{job.name}: {found}, not {wanted}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes-mb", type=int, nargs="+", default=[1, 10, 50, 128, 400])
    parser.add_argument("--formats", nargs="+", choices=["csv", "parquet"], default=["csv", "parquet"])
    parser.add_argument("--budget-s", type=float, default=420, help="no case is begun that would not fit")
    parser.add_argument("--quick", action="store_true", help="1 and 10 MB")
    options = parser.parse_args()
    sizes = [1, 10] if options.quick else sorted(options.sizes_mb)
    with tempfile.TemporaryDirectory(prefix="sparklet-bench-") as name:
        jobs = [SizedJob.of(Path(name), kind, size) for size in sizes for kind in options.formats]
        with function(Path(name), list(jobs)) as worker:
            rivals = _rivals(worker, Path(name))
            cases = _measure(worker, rivals, jobs, options.budget_s)
        left_out = sorted({job.name for job in jobs} - {case.name for case in cases})
        known = {
            "function_memory_mb": MEMORY_MB,
            "rows": {job.name: job.expected["rows"] for job in jobs},
            "left_out_for_time": left_out,
            "rivals": parameters(rivals[:1]),
        }
        publish(document("size", QUESTION, known, cases))


def _rivals(worker: Function, folder: Path) -> list[SparkSubmit]:
    python = [str(PYTHON), str(IN_PROCESS)]
    env = dict(os.environ)
    in_process = [SparkSubmit(side, [*python, side], env, folder, SAMPLED_EVERY_S) for side in ("duckdb", "polars")]
    return [plain(worker.env, folder), *in_process]


def _measure(worker: Function, rivals: Sequence[SparkSubmit], jobs: Sequence[SizedJob], budget_s: float) -> list[Case]:
    """Rounds over all cases, the small ones first; in the first round a case is left out if it would not fit.

    What a case will take is known from the round before; at first, from the format's smaller sizes.
    """
    began_s, cases, took_s = time.monotonic(), dict[str, Case](), dict[str, float]()
    with worker.environment() as warm:
        for job in jobs[:2]:
            warm.run(job)  # cold
        for turn in range(1000):
            for job in jobs:
                smaller_s = [each_s for name, each_s in took_s.items() if _kind(name) == _kind(job.name)]
                expected_s = took_s.get(job.name, 1.5 * max(smaller_s, default=0.0))
                if time.monotonic() - began_s + expected_s > budget_s:
                    if turn:
                        return list(cases.values())
                    say(f"{job.name} is left out: it would not fit")
                    continue
                case_s = time.monotonic()
                _one(worker, warm, rivals, job, cases.setdefault(job.name, Case(job.name, RIVALS)), turn)
                took_s[job.name] = time.monotonic() - case_s
    return list(cases.values())


def _kind(name: str) -> str:
    return name.partition(",")[0]


def _one(
    worker: Function, warm: Environment, rivals: Sequence[SparkSubmit], job: SizedJob, case: Case, turn: int
) -> None:
    """One run on each side; who begins changes."""
    by_name = {rival.side: rival for rival in rivals}
    sides = [SPARKLET, *RIVALS]
    for side in sides if turn % 2 else reversed(sides):
        if side == SPARKLET:
            case.add(side, warm.run(job))
        elif side == COLD:
            with worker.environment() as fresh:
                case.add(side, fresh.run(job))
        else:
            case.add(side, by_name[side].run(job))


if __name__ == "__main__":
    main()

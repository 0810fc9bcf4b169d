"""From what size on does a shard need Spark at all? Seconds and memory, by format and size.

One file of sales, a filter, a grouping, Parquet written: by a worker that has done an event before (``sparklet``), by
one that has to start (``sparklet_cold``), by one spark-submit with all settings at their defaults (``plain``), and by
DuckDB and Polars, each in a process of its own with its imports. All have the machine's cores, and are told the
columns' types.

    python -m benchmarks.size [--sizes-mb 1 10 50 128 400] [--formats csv parquet] [--rounds 5]
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

from benchmarks.comparison import SPARKLET, Case, document, options, publish
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
    parser = options(__doc__)
    parser.add_argument("--sizes-mb", type=int, nargs="+", default=[1, 10, 50, 128, 400])
    parser.add_argument("--formats", nargs="+", choices=["csv", "parquet"], default=["csv", "parquet"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sparklet-bench-") as name:
        jobs = [SizedJob.of(Path(name), kind, size) for size in sorted(given.sizes_mb) for kind in given.formats]
        with function(Path(name), list(jobs)) as worker:
            rivals = _rivals(worker, Path(name))
            cases = _measure(worker, rivals, jobs, given.rounds)
        known = {
            "function_memory_mb": MEMORY_MB,
            "rows": {job.name: job.expected["rows"] for job in jobs},
            "rivals": parameters(rivals[:1]),
        }
        publish(document("size", QUESTION, known, cases))


def _rivals(worker: Function, folder: Path) -> list[SparkSubmit]:
    python = [str(PYTHON), str(IN_PROCESS)]
    env = dict(os.environ)
    in_process = [SparkSubmit(side, [*python, side], env, folder, SAMPLED_EVERY_S) for side in ("duckdb", "polars")]
    return [plain(worker.env, folder), *in_process]


def _measure(worker: Function, rivals: Sequence[SparkSubmit], jobs: Sequence[SizedJob], rounds: int) -> list[Case]:
    """Rounds over all cases, the small ones first."""
    cases = {job.name: Case(job.name, RIVALS) for job in jobs}
    with worker.environment() as warm:
        for job in jobs[:2]:
            warm.run(job)  # cold
        for turn in range(rounds):
            for job in jobs:
                _one(worker, warm, rivals, job, cases[job.name], turn)
    return list(cases.values())


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

"""What does a fan-out cost beyond the script's own work, and how does it compare with one Spark job over all files?

A year of flights, a file a day: once as a run of the local stack, a shard a file, by workers that have done a shard
before; once as one spark-submit over all files with as many cores, its start included. The script is
``spark_scripts/flights_daily.py``; of a shard it also notes when it began and ended.

Overhead of a shard: from its claim to the ledger's answer that it succeeded, less the time in the script; also step
by step: ``claim`` (a write to the ledger), ``prepare`` (its line of the plan, the script, a folder), ``begin`` (until
the script's first line), ``end`` (what the script leaves behind is cleaned), ``report`` (a write to the ledger). Gap:
from a worker's success to its next claim, which is the stand-in's queue and invocation, not the worker's. Efficiency:
the time in the script of all shards over workers × wall time, from the run's creation to its end.

    python -m benchmarks.fan_out [--days 365] [--workers 2] [--rounds 5]
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

from benchmarks import process_tree
from benchmarks.comparison import SPARKLET, Case, Run, document, options, publish, say
from benchmarks.facts import ROOT
from benchmarks.process_tree import MemoryPeak
from benchmarks.rivals import LIMIT_S, parameters, plain
from benchmarks.workload import Job
from spark_scripts.demo.flights_data import FlightsData, make_flights
from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.local.environment import host_env
from sparklet.local.spark_installation import worker_environment
from sparklet.local.stack import running
from sparklet.local.state import StateDir
from sparklet.model import ShardRecord

ONE_JOB = "one_job"
QUESTION = "What does a fan-out cost beyond the script's own work, compared with one Spark job over all files?"
MEMORY_MB = 3008
STEPS = ("claim", "prepare", "begin", "end", "report")
BEGIN = "import time\n_BEGAN_S = time.time()\n"
END = """
    import json, os, pathlib
    _job = Job.from_args()
    _note = {{"began_s": _BEGAN_S, "ended_s": time.time(), "run_id": _job.run_id, "shard": _job.shard}}
    pathlib.Path({folder!r}, f"{{_job.run_id}}-{{_job.shard}}-{{_job.attempt}}.json").write_text(json.dumps(_note))
"""


def main() -> None:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--days", type=int, default=365, help="day files, up to 365")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    case, shares = Case(f"{given.days} files", [ONE_JOB]), list[Shares]()
    with tempfile.TemporaryDirectory(prefix="sparklet-bench-") as name:
        year = Year(Path(name), make_flights(ROOT / "build" / "demo" / "data"), given.days)
        rival = plain({**host_env(), **worker_environment(1, say)}, year.folder)
        with year.stack(given.workers):
            for turn in range(given.rounds):
                for side in (SPARKLET, ONE_JOB) if turn % 2 else (ONE_JOB, SPARKLET):
                    if side == ONE_JOB:
                        case.add(side, rival.run(year.one_job()))
                    else:
                        run, found = year.fan_out(given.workers)
                        case.add(side, run)
                        shares.append(found)
                        say(str(found))
    known = {"workers": given.workers, "rounds": given.rounds, "rivals": {ONE_JOB: parameters([rival])["plain"]}}
    told = document("fan_out", QUESTION, known, [case])
    told["cases"][0]["shards"] = [share.document() for share in shares]
    publish(told)


@dataclass(frozen=True)
class Shares:
    """Where the time of a fan-out's shards went."""

    efficiency: float
    seconds: Mapping[str, Sequence[float]]  # by what they were spent on

    def document(self) -> dict[str, Any]:
        """Medians, and the 90th percentiles."""
        told = {
            f"{name}_s": {
                "median": round(statistics.median(values), 3),
                "p90": round(statistics.quantiles(values, n=10)[-1], 3),
            }
            for name, values in self.seconds.items()
        }
        return {"efficiency": round(self.efficiency, 3), "shards": len(self.seconds["script"]), **told}

    def __str__(self) -> str:
        return json.dumps(self.document())


@dataclass
class Year:
    """The files, the scripts, and the two ways to do them."""

    folder: Path
    data: FlightsData
    days: int
    turns: int = 0

    def __post_init__(self) -> None:
        self.rows = 0
        for place in ("flights", "few", "notes"):
            (self.folder / place).mkdir()
        for number, day in enumerate(self.data.days[: self.days]):
            shutil.copy(day, self.folder / "flights")
            self.rows += len(day.read_bytes().splitlines()) - 1
            if number < 8:
                shutil.copy(day, self.folder / "few")
        source = (ROOT / "spark_scripts" / "flights_daily.py").read_text()
        (self.folder / "shard.py").write_text(BEGIN + source + END.format(folder=str(self.folder / "notes")))
        (self.folder / "all.py").write_text(source)

    # --- one job ---

    def one_job(self) -> "OneJob":
        """All files in one Spark job."""
        return OneJob("all", self.folder, lambda job, path: self._verify(path), shares_output=False, data=self.data)

    @property
    def output(self) -> Path:
        """Of the last run."""
        return self.folder / f"out-{self.turns}"

    def _verify(self, output: Path) -> None:
        files = list(output.rglob("*.parquet"))
        rows = sum(parquet.read_metadata(file).num_rows for file in files)
        if rows != self.rows:
            raise SystemExit(f"{output.name} holds {rows} rows of {self.rows}")

    # --- a shard a file ---

    @contextmanager
    def stack(self, workers: int) -> Iterator[None]:
        """A local stack whose workers have done some shards."""
        try:
            self.cli_run("few", workers, "--max-objects", "1")
            yield
        except BaseException:
            subprocess.run(self._command("stop"), cwd=ROOT, check=False)
            raise
        self._cli("stop")

    def fan_out(self, workers: int) -> tuple[Run, Shares]:
        """Run it, and say what the ledger and the script have noted."""
        run, told = self.run(workers, "--max-objects", "1")
        stack = running(self.folder / "state")
        assert stack
        os.environ.update(stack.env)
        ledger = DynamoLedger(AwsClients(endpoint_url=stack.endpoint_url), stack.ledger_table)
        records = list(ledger.shards.list(told["run_id"]))
        return run, self._shares(records, StateDir(self.folder / "state").log, told["duration_s"] * workers)

    def run(self, workers: int, *options: str) -> tuple[Run, Any]:
        """What a run of the files took, and its result."""
        stack = running(self.folder / "state")
        assert stack
        before_s = process_tree.cpu_s(stack.host_pid)
        with MemoryPeak().sampled(stack.host_pid, LIMIT_S) as peak:
            told = self.cli_run("flights", workers, *options)
        cpu_s = process_tree.cpu_s(stack.host_pid) - before_s
        self._verify(self.output)
        return Run(told["duration_s"], cpu_s, peak.mb), told

    def _shares(self, records: Sequence[ShardRecord], log_dir: Path, worker_s: float) -> Shares:
        run_id = records[0].run_id
        notes = [json.loads(file.read_text()) for file in (self.folder / "notes").glob(f"{run_id}-*")]
        began_s, ended_s = ({note["shard"]: note[name] for note in notes} for name in ("began_s", "ended_s"))
        logged = _logged(log_dir, run_id)
        found: dict[str, list[float]] = {name: [] for name in ("script", "overhead", *STEPS, "gap")}
        for record in records:
            at, number = logged[record.number], record.number
            times = [record.started_s, at["claim answered"], at["script started"], began_s[number]]
            times += [ended_s[number], at["script ended"], at["shard succeeded"]]
            steps = [later - earlier for earlier, later in pairwise(times)]
            found["script"].append(steps.pop(3))
            found["overhead"].append(sum(steps))
            for name, step_s in zip(STEPS, steps, strict=True):
                found[name].append(step_s)
        for stream in {record.log_stream for record in records}:
            own = sorted((r for r in records if r.log_stream == stream), key=lambda r: r.started_s)
            found["gap"] += [later.started_s - logged[r.number]["shard succeeded"] for r, later in pairwise(own)]
        return Shares(sum(found["script"]) / worker_s, found)

    def cli_run(self, inputs: str, workers: int, *options: str, script: str = "shard.py") -> Any:
        """The result of a run of a folder's files."""
        self.turns += 1
        tables = ["--param-file", f"airlines={self.data.airlines}", "--param-file", f"planes={self.data.planes}"]
        where = ["--input", str(self.folder / inputs), "--output", str(self.output)]
        how = [*options, "--workers", str(workers), "--memory", str(MEMORY_MB), "--keep-stack", "--json"]
        return json.loads(self._cli("run", str(self.folder / script), *where, *tables, *how))

    def _cli(self, *words: str) -> bytes:
        return subprocess.run(self._command(*words), cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "sparklet.cli", *words, "--state-dir", str(self.folder / "state")]


def _logged(log_dir: Path, run_id: str) -> dict[int, dict[str, float]]:
    """When the workers wrote what about each shard of a run."""
    found: dict[int, dict[str, float]] = {}
    for file in log_dir.rglob("*"):
        for line in file.read_text(errors="replace").splitlines() if file.is_file() else ():
            if line.startswith("{") and f'"{run_id}"' in line:
                told = json.loads(line)
                if "shard" in told and "message" in told:
                    found.setdefault(told["shard"], {})[told["message"]] = datetime.fromisoformat(
                        told["time"]
                    ).timestamp()
    return found


@dataclass
class OneJob(Job):
    """The same script over all files at once."""

    data: FlightsData | None = None

    @property
    def script(self) -> Path:
        """The script itself."""
        return self.folder / "all.py"

    def event(self, side: str) -> dict[str, Any]:
        """Its inputs, its output and its tables."""
        assert self.data
        output = self._output(side)
        shutil.rmtree(output, ignore_errors=True)
        return {
            "inputs": [str(self.folder / "flights")],
            "output_path": str(output),
            "params": {"airlines": str(self.data.airlines), "planes": str(self.data.planes)},
        }


if __name__ == "__main__":
    main()

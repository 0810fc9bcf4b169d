"""How much of the workers' time goes into shards when a year of flights is fanned out?

Runs the demo's job through the command line on a local stack of its own and reads what the ledger says:
``efficiency`` is the sum of all shards' task time over workers × wall time, from the run's creation to the last
shard's end, the workers' cold start included. Prints JSON.

    python -m benchmarks.demo_efficiency [--days 365] [--workers 2]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.facts import ROOT, facts
from spark_scripts.demo.flights_data import make_flights


def measure(days: int, workers: int) -> dict[str, Any]:
    """Fan ``days`` day files out over ``workers`` workers."""
    with tempfile.TemporaryDirectory(prefix="sparklet-bench-") as name:
        home = Path(name)
        data = make_flights(ROOT / "build" / "demo" / "data")
        flights = home / "flights"
        flights.mkdir()
        for day in data.days[:days]:
            shutil.copy(day, flights)
        tables = ["--file", f"airlines={data.airlines}", "--file", f"planes={data.planes}"]
        where = ["--input", str(flights), "--output", str(home / "out"), "--state-dir", str(home / "state")]
        how = ["--max-objects", "1", "--workers", str(workers), "--json"]
        script = str(ROOT / "spark_scripts" / "flights_daily.py")
        started_s = time.monotonic()
        command = [sys.executable, "-m", "sparklet.cli", "run", script, *where, *tables, *how]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        command_s = time.monotonic() - started_s
        stop = [sys.executable, "-m", "sparklet.cli", "stop", "--state-dir", str(home / "state")]
        subprocess.run(stop, stdout=subprocess.DEVNULL, check=True)  # its host is still saving when the command ends
        told = json.loads(done.stdout)
    return {
        "shards": told["shards"],
        "rows": told["rows"],
        "workers": workers,
        "task_s": told["task_s"],
        "run_s": told["duration_s"],
        "command_s": round(command_s, 1),
        "task_s_per_shard": round(told["task_s"] / told["shards"]["total"], 3),
        "efficiency": round(told["task_s"] / (workers * told["duration_s"]), 3),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=365, help="day files, up to 365")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    figures = measure(arguments.days, arguments.workers)
    print(json.dumps({"benchmark": "demo_efficiency", **facts(), **figures}, indent=2))


if __name__ == "__main__":
    main()

"""All benchmarks one after the other: ``make bench``, about a quarter of an hour on two idle cores.

Each writes its document to benchmarks/results/<name>.json; then the page is written from all there are. Each also
runs alone, and with more time it repeats more often: ``make bench ARGS='--only starts image --times 3'``. How long each
took is said at the end.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import process_tree
from benchmarks.comparison import as_text, say
from benchmarks.facts import ROOT

RESULTS = ROOT / "benchmarks" / "results"
ENDS_WITHIN_S = 30.0
REPORTER = ROOT / ".venv-bench" / "bin" / "python"


@dataclass(frozen=True)
class Benchmark:
    """A script of this folder and the time it may take."""

    name: str
    idle_s: int  # what it takes in all on two idle cores, by the runs that it does at least
    budget_s: int = 0  # what its --budget-s is set to; 0: it has none. What it does before it measures comes on top
    options: tuple[str, ...] = ()
    limit_s: int = 600  # it is ended after that, however busy the machine is

    def run(self, times: float) -> None:
        """Measure and keep the result; CalledProcessError or TimeoutExpired if there is none."""
        say(f"=== {self.name}")
        budget = ["--budget-s", str(self.budget_s * times)] if self.budget_s else []
        command = [sys.executable, "-m", f"benchmarks.{self.name}", *self.options, *budget]
        limit_s = self.limit_s + self.budget_s * (times - 1)
        found = json.loads(_output(command, limit_s))
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{self.name}.json").write_text(as_text(found) + "\n")


def _output(command: Sequence[str], limit_s: float) -> bytes:
    """What a benchmark prints; if it must be ended, it first ends what it has started."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            output, _ = process.communicate(timeout=limit_s)
        except BaseException:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(ENDS_WITHIN_S)
            except subprocess.TimeoutExpired:
                process_tree.end(process.pid)
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return output


BENCHMARKS = (
    Benchmark("starts", 310, 220),
    Benchmark("restored", 370, 220, limit_s=1200),
    Benchmark("image", 110, 90, ("--invocations", "6")),
    Benchmark("size", 105, 85, ("--sizes-mb", "1", "10", "128", "400")),
    Benchmark("fan_out", 55, options=("--days", "60")),
    Benchmark("planning_rate", 45, options=("--objects", "5000", "--rounds", "2")),
    Benchmark("planning_memory", 20, options=("--objects", "10000", "300000")),
)
"""All take 1,015 s. A budget below what two rounds need is kept to the least number of rounds."""


def main() -> None:
    """Run those that are asked for; progress goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[each.name for each in BENCHMARKS], help="some of them")
    parser.add_argument("--times", type=float, default=1, help="so many times the time, for more repetitions")
    options = parser.parse_args()
    failed, took = list[str](), list[str]()
    for each in BENCHMARKS:
        if options.only and each.name not in options.only:
            continue
        began_s = time.monotonic()
        try:
            each.run(options.times)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            say(f"{each.name}: {error}")
            failed.append(each.name)
        took.append(
            f"{each.name} {time.monotonic() - began_s:.0f} s of {each.idle_s + each.budget_s * (options.times - 1):.0f}"
        )
    say(f"took: {', '.join(took)}")
    subprocess.run([REPORTER, "-m", "benchmarks.report"], cwd=ROOT, check=True)
    if failed:
        raise SystemExit(f"no new figures for {', '.join(failed)}: see above")


if __name__ == "__main__":
    main()

"""All benchmarks one after the other: ``make bench``, under a quarter of an hour on two idle cores.

Each writes its document to benchmarks/results/<name>.json; then the page is written from all there are. Each also
runs alone, and with more time it repeats more often: ``make bench ARGS='--only cold warm --times 3'``.
"""

import argparse
import json
import signal
import subprocess
import sys
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
    budget_s: int = 0  # what its --budget-s is set to; 0: it has none
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
    Benchmark("cold", 180),
    Benchmark("warm", 190),
    Benchmark("image", 100),
    Benchmark("size", 130),
    Benchmark("fan_out"),
    Benchmark("planning_rate"),
    Benchmark("planning_memory", options=("--objects", "10000", "1000000")),
)


def main() -> None:
    """Run those that are asked for; progress goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[each.name for each in BENCHMARKS], help="some of them")
    parser.add_argument("--times", type=float, default=1, help="so many times the time, for more repetitions")
    options = parser.parse_args()
    failed = []
    for each in BENCHMARKS:
        if options.only and each.name not in options.only:
            continue
        try:
            each.run(options.times)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            say(f"{each.name}: {error}")
            failed.append(each.name)
    subprocess.run([REPORTER, "-m", "benchmarks.report"], cwd=ROOT, check=True)
    if failed:
        raise SystemExit(f"no new figures for {', '.join(failed)}: see above")


if __name__ == "__main__":
    main()

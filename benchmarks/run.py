"""All benchmarks one after the other, at the sizes that docs/benchmarks.md states: ``make bench``.

Each writes its document to build/bench/<name>.json. At the end they go to benchmarks/results, for a new result would
make the tree unclean for the next one; then the page and README's figures are written from all of them. They are
figures only if all are of one machine and one commit, so this begins only on a clean tree (``--dirty``: to try it) and
has at least five rounds of each side. How long each took is printed last.

    python -m benchmarks.run [--only starts image] [--rounds 5]
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks import process_tree
from benchmarks.comparison import ROUNDS, as_text, options, say
from benchmarks.facts import ROOT, facts
from benchmarks.report import ORDER

RESULTS = ROOT / "benchmarks" / "results"
MEASURED = ROOT / "build" / "bench"
ENDS_WITHIN_S = 30.0
LIMIT_S = 3600.0  # of one benchmark; it is ended after that, however busy the machine is
REPORTER = ROOT / ".venv-bench" / "bin" / "python"


def main() -> None:
    """Run the given ones; progress goes to standard error."""
    parser = options(__doc__)
    parser.add_argument("--only", nargs="+", choices=ORDER, default=ORDER, help="some of them")
    parser.add_argument("--dirty", action="store_true", help="measure changes that are not committed, to try them")
    given = parser.parse_args()
    if facts()["commit"].endswith("+") and not given.dirty:
        raise SystemExit("files differ from the commit: a figure is of a clean tree; commit, or try with --dirty")
    if given.rounds < ROUNDS:
        say(f"{given.rounds} rounds make no figure, which needs {ROUNDS}")
    MEASURED.mkdir(parents=True, exist_ok=True)
    done, took = list[str](), list[str]()
    for name in given.only:
        say(f"=== {name}")
        began_s = time.monotonic()
        try:
            command = [sys.executable, "-m", f"benchmarks.{name}", "--rounds", str(given.rounds)]
            found = json.loads(_output(command))
            (MEASURED / f"{name}.json").write_text(as_text(found) + "\n")
            done.append(name)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            say(f"{name}: {error}")
        took.append(f"{name} {time.monotonic() - began_s:.0f} s")
    say(f"took: {', '.join(took)}")
    for name in done:
        shutil.copy(MEASURED / f"{name}.json", RESULTS)
    subprocess.run([REPORTER, "-m", "benchmarks.report"], cwd=ROOT, check=True)
    if failed := [name for name in given.only if name not in done]:
        raise SystemExit(f"no new figures for {', '.join(failed)}: see above")


def _output(command: Sequence[str]) -> bytes:
    """What a benchmark prints; if it must be ended, it first ends what it has started."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            output, _ = process.communicate(timeout=LIMIT_S)
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


if __name__ == "__main__":
    main()

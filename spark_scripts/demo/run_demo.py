"""The demo: a year of real flights through the whole path, then an independent check of what came out.

``make demo`` fans 365 day files out, 46 a shard, each with an output of its own (``EACH=1``: one a shard; ``DAYS=90``:
about 90 of them). ``make demo POISON=1`` spoils three of them first, five a shard, and shows that bad files fail alone
(``--isolate``), each with its true cause, but a script that hangs with its whole shard. A repaired script leaves one
FAILED file, which is mended at last. ``make demo INPUT=inventory`` finds the files through an S3 Inventory, several to
a shard; ``make demo
ONE_FILE=1`` has the whole year in one CSV, cut into ranges of lines. ``DISPATCH_MODE=loop``, ``map`` or ``inline``
has a state machine drive the run; where the same demo was dispatched in another mode before, the manifests of both
must be equal up to ids and times. ``TABLE=iceberg``, ``delta`` or ``hudi`` appends all day files to one table, in one
commit. ``ROUTE=standalone`` starts a Spark cluster (a master and a worker), to which two files above the limit go; a
driver there is killed on the way. Every run goes through the command line, as a user's would.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from spark_scripts.demo.flights_check import Check, compare, compare_files  # noqa: E402
from spark_scripts.demo.flights_data import FlightsData, make_flights, some_days  # noqa: E402
from spark_scripts.demo.flights_inventory import put_inventory  # noqa: E402
from spark_scripts.demo.flights_table import FlightsTable  # noqa: E402
from spark_scripts.demo.manifests_check import differences, keep_manifests, shard_count  # noqa: E402
from spark_scripts.demo.standalone_cluster import standalone_cluster  # noqa: E402
from sparklet.errors import SparkletError  # noqa: E402
from sparklet.local.stack import LocalStack, StackOptions, running  # noqa: E402
from sparklet.local.state import user_folder  # noqa: E402

BUILD = ROOT / "build" / "demo"
OUTPUT = BUILD / "output"
SCRIPT = ROOT / "spark_scripts" / "flights_daily.py"
POISONED_SCRIPT = ROOT / "spark_scripts" / "demo" / "flights_poisoned.py"

CORRUPT, HANGS, VANISHES = "2013-03-03.csv", "2013-06-06.csv", "2013-12-30.csv"
EXPECTED_CAUSES = {CORRUPT: "malformed line", HANGS: "deadline", VANISHES: "no such file|does not exist"}  # patterns
POISON_TIMEOUT_S = 40  # so that the hanging shard is ended soon
ONE_FILE_SHARD, ONE_FILE_SHARDS = "2MB", range(12, 21)
LEFT_OUT = 2  # what the inventory lists beside the day files: an empty object, and one file a second time
EACH = 5  # day files a shard, where some fail or all go to one table
MANY = 46  # where each has an output of its own: a shard's own second and a half is the work of so many
INVENTORY_SHARD = "1MB"  # of about twelve day files
SCRATCH_MB, LARGE, LARGE_DAYS = 1, 2, 16  # so many files of so many days each are above that, five days are not
ROUTE_DAYS = 45  # by default
REGISTERED = "Registering app"  # a driver has reached the cluster's master, by its log
DISPATCH_MODES = ("queue", "loop", "map", "inline")
ALL_WELL, FAILURES = 0, 2


class DemoError(Exception):
    """The demo did not show what it should."""


@dataclass(frozen=True)
class Demo:
    """One demonstration: its input, its run, its clock."""

    data: FlightsData
    run_id: str
    started_s: float
    mode: str = "queue"
    kind: str = "days"  # which demonstration, of how many days, how many a shard: only equal ones are compared
    each: int = EACH  # day files a shard
    table: FlightsTable | None = None  # where the rows go; None: Parquet files
    by_day: bool = False  # whether each day's file has an output of its own

    def sparklet(self, *arguments: str, expect: int = ALL_WELL) -> Any:
        """Call the command line with --json; its progress is shown as it comes, its document is the answer."""
        command = [sys.executable, "-m", "sparklet.cli", *arguments, "--json"]
        say("$ sparklet " + " ".join(_short(a) for a in arguments))
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
            try:
                answer, _ = process.communicate()
            except KeyboardInterrupt:
                process.wait()
                raise
        if process.returncode == 130:
            raise KeyboardInterrupt
        if process.returncode != expect:
            raise DemoError(f"sparklet {arguments[0]} ended with exit code {process.returncode}, expected {expect}")
        return json.loads(answer)

    def run_days(self, script: Path, flights: Path, each: int, *options: str, expect: int = ALL_WELL) -> Any:
        """Fan a folder of day files out, so many a shard."""
        return self.run(script, "--input", str(flights), "--max-objects", str(each), *options, expect=expect)

    def run(self, script: Path, *options: str, expect: int = ALL_WELL) -> Any:
        """Fan the flights out."""
        where = ["--output", str(OUTPUT), "--overwrite", "--run-id", self.run_id]
        where += ["--output-per", "input"] if self.by_day else []
        if self.table:
            where += ["--table", self.table.name]
            for name, value in self.table.catalog.items() if self.table.format == "iceberg" else ():
                where += ["--env", f"PYICEBERG_CATALOG__ICEBERG__{name.upper()}={value}"]
        tables = ("--param-file", f"airlines={self.data.airlines}", "--param-file", f"planes={self.data.planes}")
        return self.sparklet("run", str(script), *where, *tables, "--dispatch-mode", self.mode, *options, expect=expect)

    def check(self, result: Any, rows: int, shard_count: int) -> None:
        """Compare the output with the independent computation and say the last line."""
        if self.table:
            found = self.table.snapshots()
            snapshots = Check("snapshots", "1", str(found.count))
            comparison = compare_files(found.files, self.data, first=[snapshots])
        else:
            comparison = compare(OUTPUT, self.data, by_day=self.by_day)
        if not comparison.ok:
            raise DemoError("the output differs from the independent computation, see above")
        shards = result["shards"]
        say(f"table: {self.table.name}" if self.table else f"output: {OUTPUT}")
        wall_s = time.monotonic() - self.started_s
        say(f"time: {wall_s:.0f} s, {result['task_s']:.0f} s of work in {shards['total']} shards")
        if (shards["succeeded"], result["rows"], comparison.rows) != (shard_count, rows, rows):
            raise DemoError(f"{shards['succeeded']} shards report {result['rows']} rows, {comparison.rows} were found")
        compare_modes(self)
        say(f"demo ok: shards={shards['total']} succeeded={shards['succeeded']} failed={shards['failed']} rows={rows}")


def demonstrate(demo: Demo) -> None:
    """The plain demo: everything succeeds."""
    result = demo.run_days(SCRIPT, demo.data.flights, demo.each)
    demo.check(result, demo.data.rows, -(-len(demo.data.days) // demo.each))


def demonstrate_one_file(demo: Demo) -> None:
    """The year in one file: its ranges of lines are shards, and a day may lie in two of them.

    The script works row by row, so the check is that of the day files: it compares the rows of all shards together.
    """
    year = one_file(demo.data.days, BUILD / "one-file" / "flights-2013.csv")
    say(f"one file: {year}, {year.stat().st_size} bytes")
    result = demo.run(SCRIPT, "--input", str(year), "--split", "csv", "--shard-size", ONE_FILE_SHARD)
    total = result["shards"]["total"]
    if total not in ONE_FILE_SHARDS:
        raise DemoError(f"the file should have become 12 to 20 shards, not {total}")
    demo.check(result, demo.data.rows, total)


def demonstrate_inventory(demo: Demo) -> None:
    """The day files are in a bucket already and found through an S3 Inventory, which also lists what is left out."""
    with LocalStack.attach(StackOptions(state_dir=user_folder("state"), processing=False)) as stack:
        manifest = put_inventory(stack.deployment().store, stack.info.bucket, f"input/{demo.run_id}", demo.data.days)
    say(f"inventory: {manifest}")
    result = demo.run(SCRIPT, "--list", manifest, "--list-format", "s3-inventory", "--shard-size", INVENTORY_SHARD)
    if result["objects"] != len(demo.data.days) or sum(result["skipped"].values()) != LEFT_OUT:
        raise DemoError(f"{result['objects']} objects were planned, {result['skipped']} left out")
    say("  left out: " + ", ".join(f"{count} {reason}" for reason, count in sorted(result["skipped"].items())))
    demo.check(result, demo.data.rows, result["shards"]["total"])


def demonstrate_route(demo: Demo) -> None:
    """Two large files go to a Spark cluster, the others to the local workers; together they are one run.

    The first driver on the cluster is killed. Its shard is done again there, and once.
    """
    folder = BUILD / "route"
    shutil.rmtree(folder, ignore_errors=True)
    days, rest = demo.data.days[: LARGE * LARGE_DAYS], demo.data.days[LARGE * LARGE_DAYS :]
    for number in range(LARGE):
        one_file(days[number * LARGE_DAYS :][:LARGE_DAYS], folder / "flights" / f"large-{number}" / "days.csv")
    (folder / "flights" / "days").mkdir()
    for day in rest:
        shutil.copy(day, folder / "flights" / "days")
    with standalone_cluster(folder, workers=1) as master:
        say(f"cluster: {master}; {LARGE} files of {LARGE_DAYS} days each are above {SCRATCH_MB} MiB")
        conf = {"spark.executor.memory": "1g", "spark.executor.extraJavaOptions": "-XX:+UseSerialGC"}
        os.environ["SPARKLET_ENGINES"] = json.dumps({"standalone": {"master": master, "conf": conf}})
        os.environ["SPARKLET_WORKER_SCRATCH_MB"] = str(SCRATCH_MB)  # which a function's shard must fit into
        route = ("--too-large", "engine", "--group-by", "prefix")
        with beside(partial(kill_first_driver, demo.run_id, folder / "master.log")):
            result = demo.run_days(SCRIPT, folder / "flights", demo.each, *route)
    check_routes(demo, (folder / "master.log").read_text().count(REGISTERED))
    demo.check(result, demo.data.rows, LARGE - (-len(rest) // demo.each))


def kill_first_driver(run_id: str, master_log: Path, done: threading.Event) -> None:
    """Kill the first driver of a run that reaches the cluster."""
    while not done.wait(0.05):
        if REGISTERED in master_log.read_text(errors="replace") and kill_driver(run_id):
            return


def kill_driver(run_id: str) -> bool:
    """Kill the JVM below the run's worker for single shards; whether there was one."""
    for worker in psutil.process_iter():
        with suppress(psutil.Error):
            command = worker.cmdline()
            if "sparklet.engines.one_shard" in command and run_id in command:
                for process in worker.children(recursive=True):
                    if process.name() == "java":
                        process.kill()
                        say("killed: the first driver on the cluster, by SIGKILL")
                        return True
    return False


def check_routes(demo: Demo, drivers: int) -> None:
    """The large shards were done by the cluster, one of them at a second attempt; all others by the local workers."""
    shards = demo.sparklet("status", demo.run_id, "--shards")["shard_list"]
    there = [shard for shard in shards if shard["engine"] == "standalone"]
    if {shard["shard"] for shard in there} != set(range(len(shards) - LARGE, len(shards))):
        raise DemoError(f"the cluster should have done the {LARGE} large shards, not {there}")
    attempts = sorted(shard["attempts"] for shard in there)
    if attempts != [1, 2] or drivers != sum(attempts):
        raise DemoError(f"a killed driver makes one attempt more, but there were {attempts}, and {drivers} drivers")
    say(f"  {len(there)} shards on the cluster in {drivers} attempts, {len(shards) - len(there)} by local workers")


def spread(data: FlightsData, count: int) -> list[str]:
    """The names of about so many days, evenly over the year, and of those that are spoilt."""
    step = max(1, len(data.days) // count)
    return sorted({day.name for day in data.days[::step]} | set(EXPECTED_CAUSES))


def one_file(days: Sequence[Path], path: Path) -> Path:
    """Day files in one, their header once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for number, day in enumerate(days):
            header, lines = day.read_bytes().split(b"\n", 1)
            file.write(lines if number else header + b"\n" + lines)
    return path


def demonstrate_poison(demo: Demo) -> None:
    """Three spoilt files: they fail with their true causes, everything else succeeds; repaired, the run completes.

    Bad files fail alone, within their shards of several files. One that makes the script hang takes its shard along.
    """
    folder = BUILD / "poisoned"
    shutil.rmtree(folder, ignore_errors=True)
    flights = Path(shutil.copytree(demo.data.flights, folder / "flights"))
    corrupt(flights / CORRUPT)
    say(f"poison: {CORRUPT} has a broken line, {VANISHES} vanishes after planning, the script hangs on {HANGS}")
    py_files = ("--py-files", str(SCRIPT), "--param", f"hang_on={HANGS}")
    limits = ("--timeout", str(POISON_TIMEOUT_S), "--max-attempts", "2", "--isolate")
    with beside(partial(vanish, demo.run_id, VANISHES)):
        result = demo.run_days(POISONED_SCRIPT, flights, demo.each, *py_files, *limits, expect=FAILURES)
    check_causes(demo, result)
    shards = result["shards"]["total"]  # with those into which the failing ones were split
    before = demo.sparklet("status", demo.run_id, "--shards", expect=FAILURES)
    say("repair: the vanished file put back, a script that does not hang")
    result = demo.sparklet("redrive", demo.run_id, "--script", str(SCRIPT), expect=FAILURES)
    check_all_but(demo, result, CORRUPT)
    say("repair: the broken file mended")
    shutil.copy(demo.data.flights / CORRUPT, flights / CORRUPT)
    result = demo.sparklet("redrive", demo.run_id)
    check_untouched(before, demo.sparklet("status", demo.run_id, "--shards"))
    demo.check(result, demo.data.rows, shards)


def check_all_but(demo: Demo, result: Any, name: str) -> None:
    """One file has FAILED, and the rows of all others are there."""
    failed = [shard for shard in result_shards(demo) if shard["state"] == "FAILED"]
    if [shard["objects"] for shard in failed] != [1] or result["shards"]["failed"] != 1:
        raise DemoError(f"{name} alone should have failed, but: {failed}")
    others = [day.name for day in demo.data.days if day.name != name]
    comparison = compare(OUTPUT, some_days(demo.data, BUILD / "all-but-one", others), by_day=demo.by_day)
    if not comparison.ok:
        raise DemoError("the output differs from the independent computation, see above")
    say(f"  one FAILED file of {len(demo.data.days)}, {name}; the {comparison.rows} rows of all others are there")


def result_shards(demo: Demo) -> Any:
    """The shards of a run in which some have failed."""
    return demo.sparklet("status", demo.run_id, "--shards", expect=FAILURES)["shard_list"]


def corrupt(day: Path) -> None:
    """Cut a line in the middle of a file, as an upload that broke off and went on would."""
    lines = day.read_bytes().splitlines(keepends=True)
    middle = len(lines) // 2
    lines[middle] = lines[middle][: len(lines[middle]) // 2] + b"\x00\xff\n"
    day.write_bytes(b"".join(lines))


@contextmanager
def beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Do some work beside the block, whose end sets the event."""
    done = threading.Event()
    thread = threading.Thread(target=work, args=[done], daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def vanish(run_id: str, name: str, done: threading.Event) -> None:
    """Delete an input object as soon as the run's plan is sealed."""
    state = user_folder("state")
    while not done.wait(0.5):
        if running(state) is None:
            continue  # the command line has not started it yet
        try:
            with LocalStack.attach(StackOptions(state_dir=state, processing=False)) as stack:
                run = stack.deployment().ledger.runs.get(run_id)
                if run.sealed:
                    stack.deployment().store.delete_all([f"{run.inputs[0]}{name}"], run.inputs[0])
                    return
        except SparkletError:
            continue  # not planned yet


def check_causes(demo: Demo, result: Any) -> None:
    """The spoilt files have failed, each with its true cause, and bad ones alone."""
    shards = result["shards"]
    if (shards["failed"], shards["succeeded"]) != (3, shards["total"] - 3):
        raise DemoError(f"3 shards should have failed and the others succeeded, but: {shards}")
    for name, cause in EXPECTED_CAUSES.items():
        uri = f"{result['inputs'][0]}{name}"
        (fate,) = demo.sparklet("status", demo.run_id, "--object", uri)["shards"]
        told = f"{fate['error_class']}: {fate['error_message']}"
        if fate["state"] != "FAILED" or not re.search(cause, told.lower()):
            raise DemoError(f"{name} should have failed because of {cause!r}, but is {fate['state']}: {told}")
        if name != HANGS and fate["objects"] != 1:
            raise DemoError(f"{name} should have failed alone, and not with all {fate['objects']} files of its shard")
        say(f"  {name}: FAILED after {fate['attempts']} attempts, {told}")


def check_untouched(before: Any, after: Any) -> None:
    """The redrive did not do a finished shard again."""
    attempts = {shard["shard"]: shard["attempt_id"] for shard in after["shard_list"]}
    finished = [shard for shard in before["shard_list"] if shard["state"] == "SUCCEEDED"]
    if redone := [s["shard"] for s in finished if attempts[s["shard"]] != s["attempt_id"]]:
        raise DemoError(f"the redrive did finished shards again: {redone}")
    say(f"  {len(finished)} finished shards were not touched")


def compare_modes(demo: Demo) -> None:
    """Keep this run's manifests, and hold them against those of the same demo dispatched in another mode."""
    kept = BUILD / "manifests" / demo.kind
    with LocalStack.attach(StackOptions(state_dir=user_folder("state"), processing=False)) as stack:
        store = stack.deployment().store
        keep_manifests(store.get, f"s3://{stack.info.bucket}/runs/{demo.run_id}/", kept / demo.mode)
    for other in DISPATCH_MODES:
        if other == demo.mode or not (kept / other / "manifest.json").exists():
            continue
        if found := list(differences(kept / demo.mode, kept / other)):
            for each in found[:10]:
                say(f"  {each}")
            raise DemoError(f"the manifests of {demo.mode} and {other} differ in {len(found)} places")
        say(f"manifests: {shard_count(kept / other)} shards, {demo.mode} and {other} equal up to ids and times")


def say(text: str) -> None:
    """A line of the demo's own."""
    print(text, flush=True)


def _short(argument: str) -> str:
    shown = argument.replace(f"{ROOT}/", "")
    return f"'{shown}'" if " " in shown else shown


DEMONSTRATIONS = {
    "days": demonstrate,
    "one-file": demonstrate_one_file,
    "inventory": demonstrate_inventory,
    "poison": demonstrate_poison,
    "route": demonstrate_route,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; exit code 0 only if everything was as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--poison", action="store_true", help="spoil three files, then repair and redrive")
    kinds.add_argument("--one-file", action="store_true", help="the year in one CSV, cut into ranges of lines")
    kinds.add_argument("--input", choices=["inventory"], help="find the files through an S3 Inventory")
    kinds.add_argument("--route", choices=["standalone"], help="large files to a Spark cluster that is started for it")
    parser.add_argument("--dispatch-mode", choices=DISPATCH_MODES, default="queue", help="as of sparklet run")
    parser.add_argument("--days", type=int, metavar="N", help="about N days of the year instead of all")
    parser.add_argument("--table", choices=["iceberg", "delta", "hudi"], help="append to one table, in one commit")
    parser.add_argument("--each", type=int, metavar="N", help="day files a shard")
    asked = parser.parse_args(argv)
    named = {"poison": asked.poison, "one-file": asked.one_file, "route": asked.route}
    kind = asked.input or next((kind for kind, wanted in named.items() if wanted), "days")
    started_s = time.monotonic()
    say("the real flights of 2013: one CSV a day")
    data = make_flights(BUILD / "data")
    if days := asked.days or (ROUTE_DAYS if asked.route else 0):
        data = some_days(data, BUILD / "some-days", spread(data, days))
    say(f"  {data.rows} flights in {len(data.days)} files, {data.flights}")
    run_id = f"demo-{time.strftime('%Y%m%dt%H%M%S', time.gmtime())}"
    table = FlightsTable(asked.table, BUILD / "tables" / asked.table) if asked.table else None
    if table:
        table.clear()
    by_day = kind in ("days", "poison") and not table
    each = asked.each or (MANY if by_day and kind == "days" else EACH)
    comparable = "-".join(filter(None, [kind, asked.table, str(len(data.days)), str(each)]))
    demo = Demo(data, run_id, started_s, asked.dispatch_mode, comparable, each, table, by_day)
    try:
        DEMONSTRATIONS[kind](demo)
    except DemoError as error:
        say(f"demo FAILED: {error}")
        return 1
    except KeyboardInterrupt:
        say("demo interrupted")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

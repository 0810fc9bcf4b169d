"""The demo: processes a year of real flights, and then checks the output by an independent computation.

``make demo`` fans out 365 day files, 46 in a shard, each with an output of its own. ``EACH=1`` sets the files in a
shard, ``DAYS=90`` takes about 90 of the days. Other demos:

- ``POISON=1`` first spoils three files, with five in a shard. It shows that bad files fail alone (``--isolate``), each
  with its true cause, while a script that hangs fails its whole shard. A redrive with a repaired script leaves one
  FAILED file, which is mended at last.
- ``INPUT=inventory`` finds the files through an S3 Inventory, several in a shard.
- ``ONE_FILE=1`` has the whole year in one CSV file, which is cut into ranges of lines.
- ``DISPATCH_MODE=loop``, ``map`` or ``inline`` lets a state machine drive the run. If the same demo was dispatched in
  another mode before, the manifests of both must be equal up to ids and times.
- ``TABLE=iceberg``, ``delta`` or ``hudi`` appends all day files to one table, in one commit.
- ``ROUTE=standalone`` starts a Spark cluster (a master and a worker) for two files above the limit, and kills a driver
  there while it works.

Every run is started by the command line, as by a user.
"""

from __future__ import annotations

import argparse
import json
import math
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
POISON_TIMEOUT_S = 40  # short, so that the hanging shard is ended soon
ONE_FILE_SHARD, ONE_FILE_SHARDS = "2MB", range(12, 21)
LEFT_OUT = 2  # entries of the inventory that are no day files: an empty object, and one file a second time
EACH = 5  # day files in a shard, if some fail or all go to one table
MANY = 46  # day files in a shard, if each has its own output: their work takes as long as a shard itself, 1.5 s
INVENTORY_SHARD = "1MB"  # about twelve day files
SCRATCH_MB, LARGE, LARGE_DAYS = 1, 2, 16  # two files of 16 days each are larger than 1 MiB; five days are not
ROUTE_DAYS = 45  # by default
REGISTERED = "Registering app"  # the master logs this when a driver has reached it
DISPATCH_MODES = ("queue", "loop", "map", "inline")
ALL_WELL, FAILURES = 0, 2


class DemoError(Exception):
    """A result of the demo is not as it should be."""


@dataclass(frozen=True)
class Demo:
    """One demonstration: its input, its run, and the time when it started."""

    data: FlightsData
    run_id: str
    started_s: float
    mode: str = "queue"
    kind: str = "days"  # its name, days, and files in a shard: only runs with the same are compared
    each: int = EACH  # day files in a shard
    table: FlightsTable | None = None  # the table for the rows; if None, they go to Parquet files
    by_day: bool = False  # whether each day's file has an output of its own

    def sparklet(self, *arguments: str, expect: int = ALL_WELL) -> Any:
        """Call the command line with --json, and return its document; its progress is shown meanwhile."""
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
        """Fan out a folder of day files, ``each`` of them in a shard."""
        return self.run(script, "--input", str(flights), "--max-objects", str(each), *options, expect=expect)

    def run(self, script: Path, *options: str, expect: int = ALL_WELL) -> Any:
        """Start a run on the flights, and wait for its end."""
        where = ["--output", str(OUTPUT), "--overwrite", "--run-id", self.run_id]
        where += ["--output-per", "input"] if self.by_day else []
        if self.table:
            where += ["--table", self.table.name]
            for name, value in self.table.catalog.items() if self.table.format == "iceberg" else ():
                where += ["--env", f"PYICEBERG_CATALOG__ICEBERG__{name.upper()}={value}"]
        tables = ("--param-file", f"airlines={self.data.airlines}", "--param-file", f"planes={self.data.planes}")
        return self.sparklet("run", str(script), *where, *tables, "--dispatch-mode", self.mode, *options, expect=expect)

    def check(self, result: Any, rows: int, shard_count: int) -> None:
        """Compare the output with the independent computation, the manifests with other modes; print the results."""
        if self.table:
            snapshots = self.table.snapshots()
            snapshot_check = Check("snapshots", "1", str(snapshots.count))
            comparison = compare_files(snapshots.files, self.data, earlier_checks=[snapshot_check])
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
    """The plain demo: all shards succeed."""
    result = demo.run_days(SCRIPT, demo.data.flights, demo.each)
    demo.check(result, demo.data.rows, -(-len(demo.data.days) // demo.each))


def demonstrate_one_file(demo: Demo) -> None:
    """The year in one file: its ranges of lines are shards, and a day can be in two of them.

    The script works row by row, so the check is the same as for day files: it compares the rows of all shards together.
    """
    year = one_file(demo.data.days, BUILD / "one-file" / "flights-2013.csv")
    say(f"one file: {year}, {year.stat().st_size} bytes")
    result = demo.run(SCRIPT, "--input", str(year), "--split", "csv", "--shard-size", ONE_FILE_SHARD)
    total = result["shards"]["total"]
    if total not in ONE_FILE_SHARDS:
        raise DemoError(f"the file should have become 12 to 20 shards, not {total}")
    demo.check(result, demo.data.rows, total)


def demonstrate_inventory(demo: Demo) -> None:
    """The day files are in a bucket already. An S3 Inventory lists them, and two entries that the plan leaves out."""
    with LocalStack.attach(StackOptions(state_dir=user_folder("state"), processing=False)) as stack:
        manifest = put_inventory(stack.deployment().store, stack.info.bucket, f"input/{demo.run_id}", demo.data.days)
    say(f"inventory: {manifest}")
    result = demo.run(SCRIPT, "--list", manifest, "--list-format", "s3-inventory", "--shard-size", INVENTORY_SHARD)
    if result["objects"] != len(demo.data.days) or sum(result["skipped"].values()) != LEFT_OUT:
        raise DemoError(f"{result['objects']} objects were planned, {result['skipped']} left out")
    say("  left out: " + ", ".join(f"{count} {reason}" for reason, count in sorted(result["skipped"].items())))
    demo.check(result, demo.data.rows, result["shards"]["total"])


def demonstrate_route(demo: Demo) -> None:
    """In one run two large files go to a Spark cluster, and the other files to the local workers.

    The first driver on the cluster is killed. Its shard is tried again on the cluster, and its rows are there once.
    """
    folder = BUILD / "route"
    shutil.rmtree(folder, ignore_errors=True)
    days, other_days = demo.data.days[: LARGE * LARGE_DAYS], demo.data.days[LARGE * LARGE_DAYS :]
    for number in range(LARGE):
        one_file(days[number * LARGE_DAYS :][:LARGE_DAYS], folder / "flights" / f"large-{number}" / "days.csv")
    (folder / "flights" / "days").mkdir()
    for day in other_days:
        shutil.copy(day, folder / "flights" / "days")
    with standalone_cluster(folder, workers=1) as master:
        say(f"cluster: {master}; {LARGE} files of {LARGE_DAYS} days each are above {SCRATCH_MB} MiB")
        conf = {"spark.executor.memory": "1g", "spark.executor.extraJavaOptions": "-XX:+UseSerialGC"}
        os.environ["SPARKLET_ENGINES"] = json.dumps({"standalone": {"master": master, "conf": conf}})
        os.environ["SPARKLET_WORKER_SCRATCH_MB"] = str(SCRATCH_MB)  # a function's shard must fit into this
        route = ("--too-large", "engine", "--group-by", "prefix")
        with beside(partial(kill_first_driver, demo.run_id, folder / "master.log")):
            result = demo.run_days(SCRIPT, folder / "flights", demo.each, *route)
    check_routes(demo, (folder / "master.log").read_text().count(REGISTERED))
    demo.check(result, demo.data.rows, LARGE + math.ceil(len(other_days) / demo.each))


def kill_first_driver(run_id: str, master_log: Path, block_ended: threading.Event) -> None:
    """Kill the first driver of a run that reaches the cluster."""
    while not block_ended.wait(0.05):
        if REGISTERED in master_log.read_text(errors="replace") and kill_driver(run_id):
            return


def kill_driver(run_id: str) -> bool:
    """Kill the JVM below the run's worker for single shards; return whether there was one."""
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
    """Check that the cluster did the large shards, one of them at a second attempt, and local workers the others."""
    shards = demo.sparklet("status", demo.run_id, "--shards")["shard_list"]
    on_cluster = [shard for shard in shards if shard["engine"] == "standalone"]
    if {shard["shard"] for shard in on_cluster} != set(range(len(shards) - LARGE, len(shards))):
        raise DemoError(f"the cluster should have done the {LARGE} large shards, not {on_cluster}")
    attempts = sorted(shard["attempts"] for shard in on_cluster)
    if attempts != [1, 2] or drivers != sum(attempts):
        raise DemoError(f"a killed driver makes one attempt more, but there were {attempts}, and {drivers} drivers")
    local = len(shards) - len(on_cluster)
    say(f"  {len(on_cluster)} shards on the cluster in {drivers} attempts, {local} by local workers")


def spread(data: FlightsData, count: int) -> list[str]:
    """The names of about ``count`` days, evenly over the year, and of the days whose files are spoilt."""
    step = max(1, len(data.days) // count)
    return sorted({day.name for day in data.days[::step]} | set(EXPECTED_CAUSES))


def one_file(days: Sequence[Path], path: Path) -> Path:
    """Write day files into one file, with the header once; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for number, day in enumerate(days):
            header, lines = day.read_bytes().split(b"\n", 1)
            file.write(lines if number else header + b"\n" + lines)
    return path


def demonstrate_poison(demo: Demo) -> None:
    """Three files are spoilt: they fail with their true causes, and all others succeed; after repairs the run succeeds.

    Bad files fail alone, although they are in shards of several files. A file on which the script hangs fails a shard.
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
    shards = result["shards"]["total"]  # with the shards into which failing shards were split
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
    """Check that one file has FAILED, and that the rows of all other files are in the output."""
    failed_shards = [shard for shard in result_shards(demo) if shard["state"] == "FAILED"]
    if [shard["objects"] for shard in failed_shards] != [1] or result["shards"]["failed"] != 1:
        raise DemoError(f"{name} alone should have failed, but: {failed_shards}")
    other_names = [day.name for day in demo.data.days if day.name != name]
    comparison = compare(OUTPUT, some_days(demo.data, BUILD / "all-but-one", other_names), by_day=demo.by_day)
    if not comparison.ok:
        raise DemoError("the output differs from the independent computation, see above")
    say(f"  one FAILED file of {len(demo.data.days)}, {name}; the {comparison.rows} rows of all others are there")


def result_shards(demo: Demo) -> Any:
    """The shards of a run of which some have failed."""
    return demo.sparklet("status", demo.run_id, "--shards", expect=FAILURES)["shard_list"]


def corrupt(day: Path) -> None:
    """Cut off a line in the middle of a file, as an interrupted upload that was continued."""
    lines = day.read_bytes().splitlines(keepends=True)
    middle = len(lines) // 2
    lines[middle] = lines[middle][: len(lines[middle]) // 2] + b"\x00\xff\n"
    day.write_bytes(b"".join(lines))


@contextmanager
def beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Do some work in a thread during the block; the end of the block sets the event."""
    block_ended = threading.Event()
    thread = threading.Thread(target=work, args=[block_ended], daemon=True)
    thread.start()
    try:
        yield
    finally:
        block_ended.set()
        thread.join()


def vanish(run_id: str, name: str, block_ended: threading.Event) -> None:
    """Delete an input object as soon as the run's plan is sealed."""
    state = user_folder("state")
    while not block_ended.wait(0.5):
        if running(state) is None:
            continue  # the command line has not started the stack yet
        try:
            with LocalStack.attach(StackOptions(state_dir=state, processing=False)) as stack:
                run = stack.deployment().ledger.runs.get(run_id)
                if run.sealed:
                    stack.deployment().store.delete_all([f"{run.inputs[0]}{name}"], run.inputs[0])
                    return
        except SparkletError:
            continue  # the run is not planned yet


def check_causes(demo: Demo, result: Any) -> None:
    """Check that the spoilt files have failed, each with its true cause, and that bad files failed alone."""
    shards = result["shards"]
    if (shards["failed"], shards["succeeded"]) != (3, shards["total"] - 3):
        raise DemoError(f"3 shards should have failed and the others succeeded, but: {shards}")
    for name, cause in EXPECTED_CAUSES.items():
        uri = f"{result['inputs'][0]}{name}"
        (shard,) = demo.sparklet("status", demo.run_id, "--object", uri)["shards"]
        error = f"{shard['error_class']}: {shard['error_message']}"
        if shard["state"] != "FAILED" or not re.search(cause, error.lower()):
            raise DemoError(f"{name} should have failed because of {cause!r}, but is {shard['state']}: {error}")
        if name != HANGS and shard["objects"] != 1:
            raise DemoError(f"{name} should have failed alone, and not with all {shard['objects']} files of its shard")
        say(f"  {name}: FAILED after {shard['attempts']} attempts, {error}")


def check_untouched(before: Any, after: Any) -> None:
    """Check that the redrive did not run a finished shard again."""
    attempts = {shard["shard"]: shard["attempt_id"] for shard in after["shard_list"]}
    finished = [shard for shard in before["shard_list"] if shard["state"] == "SUCCEEDED"]
    if redone_shards := [s["shard"] for s in finished if attempts[s["shard"]] != s["attempt_id"]]:
        raise DemoError(f"the redrive did finished shards again: {redone_shards}")
    say(f"  {len(finished)} finished shards were not touched")


def compare_modes(demo: Demo) -> None:
    """Keep this run's manifests, and compare them with those of the same demo in other dispatch modes."""
    folder = BUILD / "manifests" / demo.kind
    with LocalStack.attach(StackOptions(state_dir=user_folder("state"), processing=False)) as stack:
        store = stack.deployment().store
        keep_manifests(store.get, f"s3://{stack.info.bucket}/runs/{demo.run_id}/", folder / demo.mode)
    for other in DISPATCH_MODES:
        if other == demo.mode or not (folder / other / "manifest.json").exists():
            continue
        if lines := list(differences(folder / demo.mode, folder / other)):
            for line in lines[:10]:
                say(f"  {line}")
            raise DemoError(f"the manifests of {demo.mode} and {other} differ in {len(lines)} places")
        say(f"manifests: {shard_count(folder / other)} shards, {demo.mode} and {other} equal up to ids and times")


def say(text: str) -> None:
    """Print a line of the demo itself, between the lines of the command line."""
    print(text, flush=True)


def _short(argument: str) -> str:
    short_argument = argument.replace(f"{ROOT}/", "")
    return f"'{short_argument}'" if " " in short_argument else short_argument


DEMONSTRATIONS = {
    "days": demonstrate,
    "one-file": demonstrate_one_file,
    "inventory": demonstrate_inventory,
    "poison": demonstrate_poison,
    "route": demonstrate_route,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; return exit code 0 only if all results were as they should be."""
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
    options = parser.parse_args(argv)
    flags = {"poison": options.poison, "one-file": options.one_file, "route": options.route}
    kind = options.input or next((name for name, is_set in flags.items() if is_set), "days")
    started_s = time.monotonic()
    say("the real flights of 2013: one CSV a day")
    data = make_flights(BUILD / "data")
    if days := options.days or (ROUTE_DAYS if options.route else 0):
        data = some_days(data, BUILD / "some-days", spread(data, days))
    say(f"  {data.rows} flights in {len(data.days)} files, {data.flights}")
    run_id = f"demo-{time.strftime('%Y%m%dt%H%M%S', time.gmtime())}"
    table = FlightsTable(options.table, BUILD / "tables" / options.table) if options.table else None
    if table:
        table.clear()
    by_day = kind in ("days", "poison") and not table
    each = options.each or (MANY if by_day and kind == "days" else EACH)
    comparable = "-".join(filter(None, [kind, options.table, str(len(data.days)), str(each)]))
    demo = Demo(data, run_id, started_s, options.dispatch_mode, comparable, each, table, by_day)
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

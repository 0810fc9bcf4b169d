"""``make scale``: plan, work, check and account for many shards, clean and with faults; see the package.

The last line is ``shards=… succeeded=… failed=… lost=… duplicated=…`` of the last pass; the exit code is 1 if anything
is off in any of them. What is off is named above it. Raw figures: build/scale.json, or printed with ``--json``.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.facts import ROOT, facts
from benchmarks.planning_rate import stand_in
from benchmarks.scale.account import Account, Executions, account, unexplained
from benchmarks.scale.faults import Faults
from benchmarks.scale.notes import read_notes
from benchmarks.scale.world import BUCKET, DATA, SCRIPT, World, set_environment
from sparklet.aws.clients import AwsClients
from sparklet.aws.object_store import S3ObjectStore
from sparklet.model import ShardState
from sparklet.planning.new_run import new_run
from sparklet.planning.plan_files import shards_of
from sparklet.ports.deployment import Deployment

CLEAN_TIMEOUT_S, FAULTY_TIMEOUT_S = 60.0, 8.0
FAULTY_VISIBILITY_S = 12
LATE_S = 10.0
QUEUE_BEARS = 20_000  # messages: whatever is done to ministack's queue takes as long as the queue is
FILLERS = 4
_steps: list["subprocess.Popen[str]"] = []
SCRIPT_BODY = b"print('never run: the runner only notes what it was asked to do')\n"


def main() -> None:
    """Run the passes and print."""
    options = _options()
    set_environment()
    signal.signal(signal.SIGTERM, _end)
    passes: list[dict[str, Any]] = []
    document: dict[str, Any] = {}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="scale-") as folder, stand_in(Path(folder)) as endpoint:
        for world in _worlds(options, endpoint, folder):
            passes.append(_pass(world))
            document = {"benchmark": "scale", "passes": passes, **facts()}
            if options.out.suffix != ".jsonl":
                options.out.write_text(json.dumps(document, indent=2) + "\n")  # each time: the next pass may not end
    if options.out.suffix == ".jsonl":
        with options.out.open("a") as out:
            print(json.dumps(document), file=out)
    if options.json:
        print(json.dumps(document, indent=2))
    print(passes[-1]["line"], flush=True)
    sys.exit(not all(each["good"] for each in passes))


def _end(*_: object) -> None:
    """Not without ending what was started: steps first, which are waited for."""
    for process in _steps:
        process.terminate()
    sys.exit("ended")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument(
        "--passes",
        nargs="+",
        default=["map:10000", "clean", "faults"],
        metavar="NAME[:SHARDS]",
        help="map: by a Map before messages, with faults; clean; faults",
    )
    parser.add_argument("--share", type=float, default=0.01, help="of the shards, for each kind of fault")
    parser.add_argument("--seed", type=int, default=2013)
    parser.add_argument("--pollers", type=int, default=4 * (os.cpu_count() or 1))
    parser.add_argument("--rate", type=float, default=90.0, help=f"messages a second, above {QUEUE_BEARS} shards")
    parser.add_argument("--json", action="store_true", help="print all figures before the last line")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build" / "scale.json", help="to a .jsonl, which grows by a line a run"
    )
    options = parser.parse_args()
    if unknown := [each for each in options.passes if each.partition(":")[0] not in ("map", "clean", "faults")]:
        parser.error(f"there is no pass {unknown[0]}")
    return options


def _worlds(options: argparse.Namespace, endpoint: str, folder: str) -> Iterator[World]:
    """The passes, one after the other, each with its input there."""
    filled: set[int] = set()
    for each in options.passes:
        name, _, size = each.partition(":")
        faults = 0.0 if name == "clean" else options.share
        world = World(
            endpoint=endpoint,
            folder=folder,
            name=name,
            shards=int(size or options.shards),
            pollers=options.pollers,
            timeout_s=FAULTY_TIMEOUT_S if faults else CLEAN_TIMEOUT_S,
            visibility_s=FAULTY_VISIBILITY_S if faults else round(6 * CLEAN_TIMEOUT_S),
            dispatch="map" if name == "map" else "queue",
            rate_per_s=options.rate if name != "map" and int(size or options.shards) > QUEUE_BEARS else 0.0,
            seed=options.seed,
            faults=faults,
        )
        if not filled:
            _prepare(world)
        if world.shards not in filled:
            _fill(world)
        filled.add(world.shards)
        yield world


# --- one pass ---


def _pass(world: World) -> dict[str, Any]:
    """Plan → queue → worker → ledger → check → manifests, and what came of it.

    The clean pass does one after the other, so that each step's time is its own. With faults, or where messages are
    sent at a rate, workers and checker begin with the first part of the plan, as they do in life.
    """
    clients = world.clients()
    world.create(clients)
    _tell(f"{world.name}: {world.shards} shards")
    new_run(world.deployment(clients), world.request())
    with ThreadPoolExecutor(1) as beside:
        planning = beside.submit(_step, "plan", world)
        if not world.faults and not world.rate_per_s:
            planning.result()
        started_s = time.perf_counter()
        with _mapping(world) as working:
            watched = _step("watch", world, lambda: working() and not (planning.done() and planning.exception()))
            worked_s = time.perf_counter() - started_s
            drained_s, left = _drained(world, clients)
        planned = planning.result()
    manifests = _step("manifests", world)
    started_s = time.perf_counter()
    deployment = world.deployment(clients)
    result, faults = _account(world, deployment, manifests)
    for problem in result.problems():
        print(f"{world.name}: {problem}", flush=True)
    _tell(f"{world.name}: {result.line}")
    return {
        "pass": world.name,
        "line": result.line,
        "good": result.good,
        "seconds": {
            "plan": planned["took_s"],
            "work": round(worked_s, 1),
            "late messages": round(drained_s, 1),
            "manifests": manifests["took_s"],
            "account": round(time.perf_counter() - started_s, 1),
        },
        "planned_per_s": round(world.shards / planned["took_s"]),
        "worked_per_s": round(world.shards / worked_s),
        "left_hidden": left,  # messages of workers that died, not seen again yet
        "executions": result.executions,
        "repeated": result.repeated,
        "faults": faults,
        "plan": planned,
        "watch": watched,
        "manifests": manifests,
        "problems": result.problems(),
        "world": asdict(world),
    }


def _step(step: str, world: World, working: Callable[[], bool] = lambda: True) -> dict[str, Any]:
    """Do a step in a process of its own; its last line, and what its checks said at several stages of the run.

    It is given up once what it waits for is not ``working`` any more.
    """
    command = [sys.executable, "-m", "benchmarks.scale.steps", step, world.to_json()]
    said: dict[str, Any] = {}
    checks: list[dict[str, Any]] = []
    told_s = time.monotonic()
    log = world.notes / f"{step}.log"
    with (
        log.open("ab") as errors,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        _steps.append(process)
        for line in process.stdout or ():
            said = json.loads(line)
            if "check_s" in said:
                checks.append(said)
            if time.monotonic() - told_s > 10 or "problem" in said or "restarted_because" in said:
                told_s = time.monotonic()
                _tell(f"{world.name}: {step}: {line.strip()}")
            if not working():
                process.terminate()
    if process.returncode or not said.pop("done", False):
        raise SystemExit(f"{world.name}: the step {step} failed ({process.returncode}):\n{log.read_text()[-3000:]}")
    return {**said, **({"stages": _stages(checks, world.shards)} if checks else {})}


def _stages(checks: list[dict[str, Any]], shards: int) -> Mapping[str, Any]:
    """The first check, those nearest to a quarter, half and three quarters, and the last: it ends the run."""
    before_end = checks[:-1] or checks
    near = {
        f"{percent} %": min(before_end, key=lambda c: abs(c["succeeded"] + c["failed"] - shards * percent / 100))
        for percent in (0, 25, 50, 75)
    }
    return {**near, "the end": checks[-1]}


@contextmanager
def _mapping(world: World) -> Iterator[Callable[[], bool]]:
    """Pollers and workers, as long as this lasts; a function that says whether they work."""
    command = [sys.executable, "-m", "benchmarks.scale.mapping", world.to_json()]
    log = world.notes / "mapping.log"
    with log.open("ab") as errors, subprocess.Popen(command, cwd=ROOT, stdout=errors, stderr=errors) as process:
        try:
            yield lambda: process.poll() is None
        finally:
            process.terminate()
            process.wait()
            if process.returncode:
                _tell(f"{world.name}: the mapping failed ({process.returncode}):\n{log.read_text()[-3000:]}")
    if process.returncode:
        raise SystemExit(1)


def _drained(world: World, clients: AwsClients) -> tuple[float, int]:
    """Let messages that are left over be delivered, and turned away; how long that took, and how many are still hidden.

    Some are hidden for more than a minute, until a lease that is over can be taken over: they are not waited for.
    """
    names: Any = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    started_s = time.perf_counter()
    while True:
        url = world.queue_url(clients)
        found = clients.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        visible, hidden = (int(found[name]) for name in names)
        took_s = time.perf_counter() - started_s
        if not visible and (not hidden or took_s > LATE_S):
            return took_s, hidden
        time.sleep(0.5)


def _account(world: World, deployment: Deployment, manifests: Mapping[str, Any]) -> tuple[Account, dict[str, int]]:
    done, faults = Executions.of(read_notes(world.notes)), Faults(world.seed, world.faults)
    records = list(deployment.ledger.shards.list(world.run_id))
    result = account(
        [world.object_name(number) for number in range(world.shards)],
        _planned(world, deployment),
        records,
        _listed(world, deployment),
        done,
        frozenset(number for number in range(world.shards) if faults.poisoned(number)),
    )
    winners = {record.number: record.attempt_id for record in records if record.state is ShardState.SUCCEEDED}
    result.duplicated += unexplained(done, winners)
    ended = json.loads(deployment.store.get(deployment.run_uri(world.run_id, "manifest.json")))["run"]
    if ended["rows"] != result.succeeded or ended["counts"]["total"] != world.shards:
        result.wrong.append(f"the manifest has {ended['rows']} rows and {ended['counts']}")
    if result.repeated and not world.faults:
        result.wrong.append(f"{result.repeated} executions too many, though nothing went wrong")
    if not manifests["same_bytes"]:
        result.wrong.append("the manifests written again have other bytes")
    return result, dict(sorted(done.faults.items()))


def _planned(world: World, deployment: Deployment) -> Iterator[tuple[int, str]]:
    for part in deployment.ledger.runs.parts(world.run_id):
        for shard in shards_of(deployment, world.run_id, part):
            (item,) = shard.objects
            yield shard.number, item.uri


def _listed(world: World, deployment: Deployment) -> Iterator[tuple[int, str]]:
    document = json.loads(deployment.store.get(deployment.run_uri(world.run_id, "manifest.json")))
    for entries in document["ResultFiles"].values():
        for entry in entries:
            for line in json.loads(deployment.store.get(f"s3://{deployment.bucket}/{entry['Key']}")):
                yield line["Shard"], line["Status"]


# --- the input ---


def _prepare(world: World) -> None:
    """The buckets, and the script."""
    clients = world.clients()
    for name in (BUCKET, DATA):
        clients.s3.create_bucket(Bucket=name)
    S3ObjectStore(clients).put(SCRIPT, SCRIPT_BODY)


def _fill(world: World) -> None:
    """One object for each shard; by plain HTTP, which takes a third of the time: it is not what is measured."""
    _tell(f"putting {world.shards} objects")
    host = urlsplit(world.endpoint).netloc

    def put(first: int) -> None:
        with closing(HTTPConnection(host, timeout=60)) as connection:
            for number in range(first, world.shards, FILLERS):
                connection.request("PUT", f"/{world.object_name(number).removeprefix('s3://')}", b"x")
                answer = connection.getresponse()
                if answer.read() or answer.status != HTTPStatus.OK:
                    raise SystemExit(f"the stand-in did not take an object: {answer.status}")

    with ThreadPoolExecutor(FILLERS) as pool:
        list(pool.map(put, range(FILLERS)))


def _tell(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

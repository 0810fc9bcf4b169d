"""Writes to PostgreSQL under kills, lost hosts, cut connections, zombies and double deliveries: is each row there once?

A *trial* is one shard, appended and upserted by ``job.jdbc_write`` in worker processes with real Spark. Its
seed chooses faults, and at which statement they strike: a proxy before PostgreSQL reads its messages
(``tests/stand_ins/postgresql_proxy``), so the product needs no hooks. Then the tables are compared with the truth.

    python -m benchmarks.jdbc_kills [--seeds 0:100] [--workers 3] [--minutes 60] [--out build/jdbc_kills.jsonl]

Twenty trials share a server. The last line is ``trials=… kill=… … lost=… duplicated=… wrong=…``.
"""

import argparse
import itertools
import json
import os
import queue
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3

from benchmarks.chaos.world import free_of_aws
from benchmarks.facts import ROOT, facts
from benchmarks.reliability import jdbc_line
from tests.stand_ins.ministack import ministack
from tests.stand_ins.postgresql import PostgreSQL, driver, postgresql
from tests.stand_ins.postgresql_proxy import Proxy, Strike

TIMEOUT_S, ROWS, SHARED = 1.5, 500, 50
TRIALS_A_SERVER = 20
FAULTS = ("kill", "kill", "kill", "lost host", "cut", "zombie", "twice")
STEPS = (
    *(("SELECT pg_advisory_xact_lock", side) for side in ("before", "after")),
    *(("COPY", side) for side in ("before", "within", "after")),
    *(("INSERT INTO sparklet_commits", side) for side in ("before", "after")),
    *(("COMMIT", side) for side in ("before", "before", "after", "after")),
)
TABLES = """
CREATE ROLE writer LOGIN PASSWORD '{password}';
GRANT ALL ON SCHEMA public TO writer;
CREATE TABLE appended (id bigint, shard int, text text);
CREATE TABLE upserted (id bigint PRIMARY KEY, shard int, text text);
GRANT ALL ON appended, upserted TO writer"""
PASSWORD = "a pass'word of the writer's"
SECRET = "writers"
REGION = "us-east-1"


def main() -> None:
    """Try, print, and fail unless each row is there once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0:100", metavar="FIRST:END")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=24 * 60.0, help="no server begins later")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "jdbc_kills.jsonl")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker)
        return
    free_of_aws()
    first, _, end = options.seeds.partition(":")
    until_s, results = time.monotonic() + options.minutes * 60, []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for start in range(int(first), int(end), TRIALS_A_SERVER):
        seeds = range(start, min(start + TRIALS_A_SERVER, int(end)))
        if time.monotonic() < until_s:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, options.out.open("a") as out:
                results.append(campaign(Path(folder), [trial(seed) for seed in seeds], options.workers))
                print(json.dumps({"seeds": [start, seeds.stop], **results[-1], **facts()}), file=out)
            print(jdbc_line(results), flush=True)
    sys.exit(not jdbc_line(results).endswith("lost=0 duplicated=0 wrong=0"))


# --- a worker process ---


def work(name: str) -> None:
    """Write the shards that standard input names, and answer each."""
    from sparklet.job import Job
    from sparklet.job.errors import SparkletError

    small = {"spark.ui.enabled": "false", "spark.driver.memory": "512m", "spark.master": "local[1]"}
    small["spark.driver.extraJavaOptions"] = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
    spark = Job().spark(name, small)
    database: dict[str, Any] = {
        "url": f"{os.environ['DATABASE_URL']}?ApplicationName={name}",
        "credentials": f"secretsmanager:{SECRET}",
        "timeout_s": TIMEOUT_S,
    }
    print(json.dumps("ready"), flush=True)
    for text in sys.stdin:
        shard, attempt = json.loads(text)
        event = {"sparklet": {"run": "r", "identity": "r@1", "shard": shard, "attempt": attempt, "generation": 0}}
        job = Job.from_args(["--event", json.dumps(event)], {})
        own, of_all = spark.range(shard * ROWS, (shard + 1) * ROWS), spark.range(SHARED)
        columns = ["id", f"{shard} AS shard", f"concat('row\\t', id, '\\n of ', {shard}) AS text"]
        try:
            rows = job.jdbc_write(own.selectExpr(*columns), "public.appended", **database)
            job.jdbc_write(of_all.selectExpr(*columns), "upserted", keys="id", order_by="shard", **database)
            print(json.dumps({"rows": rows}), flush=True)
        except SparkletError as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)


@dataclass
class Worker:
    """A worker process, as the campaign sees it."""

    name: str
    environment: dict[str, str]
    log: Path
    answers: "queue.SimpleQueue[Any]" = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        command = [sys.executable, "-m", "benchmarks.jdbc_kills", "--worker", self.name]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # its JVM is in the group, too
            )
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout
        for text in self.process.stdout:
            self.answers.put(json.loads(text))
        self.answers.put("ended")

    def send(self, document: Any) -> None:
        """Give it work."""
        assert self.process.stdin
        with suppress(OSError):
            self.process.stdin.write(json.dumps(document).encode() + b"\n")
            self.process.stdin.flush()

    def signal(self, number: int) -> None:
        """Send a signal to process and JVM."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def close(self) -> None:
        """Kill it."""
        self.signal(signal.SIGKILL)
        self.process.wait()


# --- the campaign ---


@dataclass
class Trial:
    """One shard, and the faults of its first attempts."""

    shard: int
    faults: list[tuple[str, str, str]]
    attempts: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    done: threading.Event = field(default_factory=threading.Event)
    answers: list[Any] = field(default_factory=list)


def trial(seed: int) -> Trial:
    """A trial, all of it from its seed."""
    chosen = random.Random(seed)
    faults = [(chosen.choice(FAULTS), *chosen.choice(STEPS)) for _ in range(chosen.choice((3, 4, 5)))]
    # Within a COPY a server waits for a living kernel's client without limit (docs/guide/databases.md).
    return Trial(
        seed, [(kind, step, "after" if (kind, side) == ("zombie", "within") else side) for kind, step, side in faults]
    )


class Campaign:
    """Workers that take trials from a queue until all are done."""

    def __init__(self, folder: Path, proxy: Proxy, environment: dict[str, str], trials: Sequence[Trial]) -> None:
        self.struck: Counter[str] = Counter()
        self.errors: list[str] = []
        self._folder, self._proxy, self._environment, self._trials = folder, proxy, environment, trials
        self._names = (f"worker-{number}" for number in itertools.count())
        self._waiting: queue.SimpleQueue[Trial] = queue.SimpleQueue()
        for each in trials:
            self._waiting.put(each)

    def run_slot(self) -> None:
        """Be a worker, or the next one in its place, until no trial is left."""
        worker = self._worker()
        while not all(each.done.is_set() for each in self._trials):
            try:
                each = self._waiting.get(timeout=0.2)
            except queue.Empty:
                continue
            if worker.process.poll() is not None:
                worker = self._worker()
            self._attempt(each, worker)
        worker.close()

    def _worker(self) -> Worker:
        worker = Worker(next(self._names), self._environment, self._folder / "workers.log")
        if worker.answers.get(timeout=240) != "ready":
            raise RuntimeError((self._folder / "workers.log").read_text()[-3000:])
        return worker

    def _attempt(self, each: Trial, worker: Worker) -> None:
        """One delivery of a trial; it comes back unless it has succeeded."""
        kind, step, side = fault = each.faults.pop(0) if each.faults else ("", "", "")
        has_struck = threading.Event()

        def do_strike() -> None:
            has_struck.set()
            self._strike(kind, side, each, worker)

        if kind == "twice":
            self._waiting.put(each)
            self.struck[kind] += 1
        elif kind:
            self._proxy.strike(worker.name, Strike(step, side, do_strike, go_on=kind == "zombie"))
        worker.send([each.shard, str(next(each.attempts))])
        answer = worker.answers.get(timeout=240)
        if answer == "ended":
            worker.process.wait()
            self._waiting.put(each)
        elif "error" in answer:
            self.errors.append(answer["error"])
            if kind not in ("", "twice") and not has_struck.is_set():
                each.faults.insert(0, fault)  # the attempt ended before that statement, on a busy machine
            self._waiting.put(each)
        else:
            each.answers.append(answer["rows"])
            each.done.set()

    def _strike(self, kind: str, side: str, each: Trial, worker: Worker) -> None:
        """What happens in the middle of a statement; the connection is held meanwhile.

        The server does not hear of a lost host, but within a COPY its keepalives, which the proxy's kernel answers,
        would have ended the session after 2 T.
        """
        self.struck[kind] += 1
        if kind == "zombie":
            worker.signal(signal.SIGSTOP)
            self._waiting.put(each)
            each.done.wait(timeout=20)
            worker.signal(signal.SIGCONT)
        elif kind != "cut":
            worker.signal(signal.SIGKILL)
            time.sleep((2 if side == "within" else 4) * TIMEOUT_S if kind == "lost host" else 0)


def campaign(folder: Path, trials: Sequence[Trial], workers: int) -> dict[str, Any]:
    """Do the trials; what came of it."""
    with postgresql() as server, _account(folder) as environment:
        for statement in TABLES.format(password=PASSWORD.replace("'", "''")).split(";"):
            server.ask(statement)
        proxy = Proxy(server.port)
        url = server.url.replace(str(server.port), str(proxy.port))
        runs = Campaign(folder, proxy, {**environment, "DATABASE_URL": url}, trials)
        with ThreadPoolExecutor(workers) as slots:
            ending = [slots.submit(runs.run_slot) for _ in range(workers)]
            for each in ending:
                each.result()
        proxy.close()
        return {
            "trials": len(trials),
            "faults": dict(runs.struck),
            "errors": dict(Counter(error[:80] for error in runs.errors)),
            **compared(server, [each.shard for each in trials]),
        }


def compared(server: PostgreSQL, shards: Sequence[int]) -> dict[str, int]:
    """The tables against the truth."""
    truth = {(n, shard, f"row\t{n}\n of {shard}") for shard in shards for n in range(shard * ROWS, (shard + 1) * ROWS)}
    found = Counter(server.ask("SELECT id, shard, text FROM appended"))
    last = max(shards)
    wanted = {(number, last, f"row\t{number}\n of {last}") for number in range(SHARED)}
    upserted = server.ask("SELECT id, shard, text FROM upserted")
    commits = server.ask("SELECT commit_id FROM sparklet_commits")
    left = server.ask("SELECT relname FROM pg_class WHERE relname LIKE 'sparklet_rows%'")
    return {
        "lost": len(truth - found.keys()),
        "duplicated": sum(found.values()) - len(found),
        "wrong": len(found.keys() - truth)
        + len(wanted.symmetric_difference(upserted))
        + abs(len(commits) - 2 * len(shards))
        + len(left),
    }


@contextmanager
def _account(folder: Path) -> Iterator[dict[str, str]]:
    """A stand-in for AWS with the writers' secret; the environment of workers."""
    with ministack(folder) as endpoint:
        aws = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": REGION}
        account: dict[str, Any] = {"endpoint_url": endpoint, "region_name": REGION}
        account |= {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        text = json.dumps({"username": "writer", "password": PASSWORD})
        boto3.client("secretsmanager", **account).create_secret(Name=SECRET, SecretString=text)
        yield {
            **{name: value for name, value in os.environ.items() if not name.startswith("SPARKLET_")},
            **aws,
            "AWS_ENDPOINT_URL": endpoint,
            "SPARKLET_JARS": str(driver()),
            "TMPDIR": str(folder),
        }


if __name__ == "__main__":
    main()

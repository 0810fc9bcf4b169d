"""Do batches of a stream reach a table once each, whatever is killed? Thousands of batches, some of them fatal.

A stream of three shards is delivered as Lambda does it with a parallelization factor of two: each half of a shard in
order, by one worker at a time, in batches of other sizes at each try. Of the deliveries 3 % are killed at a random
moment (SIGKILL), 1 % are stopped and go on while another worker has the same records; 15 % begin with records that came
before. Iceberg's old snapshots are expired now and then. At the end the table's rows are compared with the records, by
a reader that is not Spark (Hudi: by Spark).

    python -m benchmarks.stream_soak [--formats delta,iceberg,hudi] [--batches 10000] [--hudi-batches 500] [--spark]

``--source sqs`` delivers messages of queues instead, in any order; in a tenth of the batches the script fails one, and
it comes again with those behind it, which the table has. Above 60 workers are killed by ``--batches 400 --killed 0.1``.

Workers of Delta and Hudi, and with ``--spark`` all, call ``job.append`` in a session of Spark; those of Iceberg write
the staged files with pyarrow, which is ten times as fast: all that follows, what is committed and how, is the same. The
tables and the state are in ``--folder``: a campaign that was cut off goes on there.
"""

import argparse
import base64
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.chaos.__main__ import names
from benchmarks.facts import ROOT, facts
from sparklet.job import Job

FORMATS = ("delta", "iceberg", "hudi")
KINESIS, SQS = "kinesis", "sqs"
SHARDS, LANES = 3, 2
FIRST, STEP = 49590338271490256608559692538361571095921575989136588898, 2**80  # numbers of Kinesis
KILLED, STOPPED, REPEATED = 0.03, 0.01, 0.15
FAILED = 0.1  # of batches of messages, one of them
EXPIRED = 0.02  # after so many batches into Iceberg, its old snapshots
MAX_RECORDS, MAX_REPEATED = 20, 30
STOP_S = {"delta": 3.0, "iceberg": 3.0, "hudi": 45.0}  # at most; a lease of Hudi's writers is 30 s


@dataclass
class Lane:
    """A part of a shard whose records come in order; ``position``: how many the stream need not deliver again."""

    shard: int
    number: int
    position: int = 0
    is_busy: bool = False

    def event(self, begin: int, end: int, source: str) -> dict[str, Any]:
        """The batch of some of its records."""
        ids = [(self.shard, LANES * place + self.number) for place in range(begin, end)]
        if source == SQS:
            random.shuffle(ids)
        return {"Records": [(_message if source == SQS else _record)(*each) for each in ids]}


@dataclass
class Campaign:
    """The deliveries of a stream to one table."""

    format: str
    batches: int = 0
    kills: int = 0
    stops: int = 0
    lanes: list[Lane] = field(default_factory=lambda: [Lane(s, n) for s in range(SHARDS) for n in range(LANES)])

    @property
    def records(self) -> set[tuple[int, int]]:
        """Those of all batches that succeeded."""
        return {(lane.shard, LANES * place + lane.number) for lane in self.lanes for place in range(lane.position)}


def _record(shard: int, number: int) -> dict[str, Any]:
    data = base64.b64encode(json.dumps({"shard": shard, "id": number}).encode()).decode()
    sequence, name = str(FIRST + STEP * number), f"shardId-{shard:012d}"
    stream = "arn:aws:kinesis:us-east-1:123456789012:stream/soak"
    kinesis = {"sequenceNumber": sequence, "partitionKey": "p", "data": data, "approximateArrivalTimestamp": 1.5e9}
    return {
        "eventSource": "aws:kinesis",
        "eventSourceARN": stream,
        "eventID": f"{name}:{sequence}",
        "kinesis": kinesis,
    }


def _message(queue: int, number: int) -> dict[str, Any]:
    return {
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:us-east-1:123456789012:soak-{queue}",
        "messageId": f"message-{number}",
        "body": json.dumps({"shard": queue, "id": number}),
        "attributes": {"SentTimestamp": str(1_500_000_000_000 + 50 * number)},
    }


def _name(record: dict[str, Any]) -> str:
    return str(record.get("messageId") or record["eventID"])


def main() -> None:
    """Deliver, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", type=names(FORMATS), default=FORMATS, metavar="NAME,…")
    parser.add_argument("--source", choices=(KINESIS, SQS), default=KINESIS)
    parser.add_argument("--batches", type=int, default=10_000, help="of Delta and Iceberg")
    parser.add_argument("--hudi-batches", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--spark", action="store_true", help="Iceberg through Spark, too")
    parser.add_argument("--killed", type=float, default=KILLED, help="share of the deliveries")
    parser.add_argument("--minutes", type=float, default=24 * 60.0, help="no delivery begins later")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "stream-soak")
    parser.add_argument("--out", type=Path, help="the result; by default results.json in the folder")
    parser.add_argument("--worker", metavar="FORMAT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _work(options.worker, options.folder, options.spark or options.worker != "iceberg")
        return
    until_s = time.monotonic() + 60 * options.minutes
    results = [_soaked(format_, options, until_s) for format_ in options.formats]
    out = options.out or options.folder / "results.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"results": results, **facts()}, indent=1) + "\n")
    lost, duplicated = (sum(result[name] for result in results) for name in ("lost", "duplicated"))
    print(f"batches={sum(result['batches'] for result in results)} lost={lost} duplicated={duplicated}", flush=True)
    sys.exit(bool(lost or duplicated))


def _soaked(format_: str, options: argparse.Namespace, until_s: float) -> dict[str, Any]:
    """The result for one format."""
    folder = options.folder / format_
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "state.json"
    campaign = Campaign(format_)
    if state.exists():
        document = json.loads(state.read_text())
        campaign = Campaign(**{**document, "lanes": [Lane(**{**lane, "is_busy": False}) for lane in document["lanes"]]})
    batches = options.hudi_batches if format_ == "hudi" else options.batches
    dice = random.Random(f"{options.seed}/{campaign.batches}")
    deliveries = Deliveries(campaign, batches, until_s, dice, options.killed, state, options.source)
    command = [sys.executable, "-m", "benchmarks.stream_soak", "--worker", format_, "--folder", str(options.folder)]
    command += ["--spark"] if options.spark else []
    os.environ.update(_catalog(folder.absolute()))  # in time for pyiceberg, which reads them when it is imported
    with ThreadPoolExecutor(options.workers) as workers:
        list(workers.map(lambda _: deliveries.run(command), range(options.workers)))
    with _worker(command) as reader:
        rows = reader.ask({"read": True})
    if not isinstance(rows, list):
        sys.exit(f"The {format_} table cannot be read: {rows}")
    found = Counter(map(tuple, rows))
    lost = len(campaign.records - found.keys())
    duplicated = sum(count - 1 for count in found.values())
    result = {"format": format_, "spark": options.spark or format_ != "iceberg", "records": len(campaign.records)}
    result |= {name: getattr(campaign, name) for name in ("batches", "kills", "stops")}
    print(" ".join(f"{name}={value}" for name, value in result.items()), f"{lost=} {duplicated=}", flush=True)
    return {**result, "lost": lost, "duplicated": duplicated}


def _catalog(place: Path) -> dict[str, str]:
    """The variables that name Iceberg's catalog in a folder."""
    catalog = {"TYPE": "sql", "URI": f"sqlite:///{place}/catalog.db", "WAREHOUSE": f"file://{place}/warehouse"}
    return {f"PYICEBERG_CATALOG__ICEBERG__{name}": value for name, value in catalog.items()}


# --- the mapping: delivers, kills, and delivers again ---


class Deliveries:
    """Delivers batches until enough have succeeded."""

    def __init__(
        self,
        campaign: Campaign,
        batches: int,
        until_s: float,
        dice: random.Random,
        killed: float,
        state: Path,
        source: str,
    ) -> None:
        self._source = source
        self._campaign, self._batches, self._until_s, self._dice, self._state = campaign, batches, until_s, dice, state
        self._strikes = {"kill": killed, "stop": STOPPED, "": 1 - killed - STOPPED}
        self._lock = threading.Lock()
        self._usual_s = 0.5  # a delivery takes
        self._saved = 0

    def run(self, command: list[str]) -> None:
        """Deliver by one worker after the other, as they are killed."""
        while self._goes_on():
            with _worker(command) as worker:
                while self._goes_on() and self._deliver(worker):
                    pass

    def _goes_on(self) -> bool:
        return self._campaign.batches < self._batches and time.monotonic() < self._until_s

    def _deliver(self, worker: "_Worker") -> bool:
        """One delivery; whether the worker lives."""
        with self._lock:
            dice = self._dice
            lane = dice.choice([lane for lane in self._campaign.lanes if not lane.is_busy])
            lane.is_busy = True
            again = dice.randint(1, MAX_REPEATED) if dice.random() < REPEATED else 0
            begin, end = max(0, lane.position - again), lane.position + dice.randint(1, MAX_RECORDS)
            strike = dice.choices(list(self._strikes), list(self._strikes.values()))[0]
            delay_s, stopped_s = dice.uniform(0, self._usual_s), dice.uniform(1, STOP_S[self._campaign.format])
        started_s = time.monotonic()
        if strike:
            timer = threading.Timer(delay_s, worker.kill if strike == "kill" else worker.stop)
            timer.start()
        event = lane.event(begin, end, self._source)
        answer = worker.ask({"event": event}, patience_s=delay_s + 1 if strike == "stop" else None)
        took_s = time.monotonic() - started_s
        if strike:
            timer.cancel()
        if strike == "kill" and answer is not None:  # too late for the commit: then before its answer
            worker.kill()
            answer = None
        with self._lock:
            lane.is_busy = False
            if isinstance(answer, list):  # the numbers of failed messages
                end = min(((number - lane.number) // LANES for number in answer), default=end)
                lane.position = max(lane.position, end)
                self._campaign.batches += 1
                self._usual_s += (took_s - self._usual_s) / 10 if not strike else 0
            elif strike:
                self._campaign.kills += strike == "kill"
                self._campaign.stops += strike == "stop"
            self._save()
        if worker.is_stopped:
            time.sleep(stopped_s)  # meanwhile the lane's records go to another worker
            worker.go_on()
            if answer is None:
                worker.answer()
        return worker.lives and strike != "kill"

    def _save(self) -> None:
        partial = self._state.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self._campaign)))
        partial.replace(self._state)
        if (done := self._campaign.batches) % 500 == 0 and done > self._saved:
            self._saved = done
            print(f"[{time.strftime('%H:%M:%S')}] {self._campaign.format}: {done} batches", flush=True)


class _Worker:
    """A worker's process."""

    def __init__(self, command: list[str]) -> None:
        pipe, env = subprocess.PIPE, {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env, start_new_session=True)
        self._answers: list[Any] = []
        self._answered = threading.Condition()
        self.is_stopped, self.lives = False, True
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def ask(self, question: Any, patience_s: float | None = None) -> Any:
        """The answer; None if the worker died, or has not answered in time."""
        assert self._process.stdin
        try:
            print(json.dumps(question), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            return None
        return self.answer(patience_s)

    def answer(self, patience_s: float | None = None) -> Any:
        """The answer to what was asked."""
        with self._answered:
            self._answered.wait_for(lambda: self._answers or not self.lives, patience_s)
            return self._answers.pop(0) if self._answers else None

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)

    def stop(self) -> None:
        self.is_stopped = True
        os.killpg(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        self.is_stopped = False
        os.killpg(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        if self._process.poll() is None:
            self.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with suppress(BrokenPipeError):
                    pipe.close()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            with self._answered:
                self._answers.append(json.loads(line))
                self._answered.notify()
        with self._answered:
            self.lives = False
            self._answered.notify()


@contextmanager
def _worker(command: list[str]) -> Iterator[_Worker]:
    worker = _Worker(command)
    try:
        worker.answer()  # it is ready
        yield worker
    finally:
        worker.close()


# --- the worker ---


def _work(format_: str, folder: Path, with_spark: bool) -> None:
    """Answer questions until there are no more."""
    answers, sys.stdout = sys.stdout, sys.stderr
    place = (folder / format_).absolute()
    sys.argv = ["soak.py"]  # the writer's name, in every process
    write = _with_spark(format_, place) if with_spark else _with_pyarrow(format_, place)
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        answer: Any = None
        try:
            answer = write(question.get("event"))
        except Exception as error:  # noqa: BLE001 - as Lambda: the batch comes again
            answer = f"{type(error).__name__}: {error}"
            print(answer[:300], file=sys.stderr)
        print(json.dumps(answer), file=answers, flush=True)


def _with_pyarrow(format_: str, place: Path) -> Any:
    """What ``job.append`` does, but for the staged files."""
    from sparklet.connectors.tables.commit import commit
    from sparklet.connectors.tables.stream_batch import batch_of
    from tests.functional.tables.lakes import Lake, rows_of

    lake = Lake(format_, f"file://{place}", {})
    spark: Any = None

    def write(event: Any) -> Any:
        if event is None:
            return lake.rows("shard", "id")
        job, failed = Job(event=event), list[str]()
        batch = batch_of(job, lake.table, None, spark, False)
        assert batch
        if "messageId" in event["Records"][0] and random.random() < FAILED:
            failed = job.fail_message(_name(random.choice(event["Records"])), "bad")
        frame: Any = SimpleNamespace(limit=lambda _: None, where=lambda _: None)
        batch.new_rows(frame, job, lake.table)
        answer = [int(name.partition("-")[2]) for name in failed]
        if not batch.new:
            return answer
        rows = [
            json.loads(record.get("body") or base64.b64decode(record["kinesis"]["data"]))
            for record in event["Records"]
            if _name(record) not in (*batch.old, *failed)
        ]
        folder = random.SystemRandom().getrandbits(60)  # of its own among all workers
        staged = lake.stage(folder, rows_of(shard=[row["shard"] for row in rows], id=[row["id"] for row in rows]))
        root = batch.opened.root or f"{lake.place}/warehouse/db/t/data"
        planned = lake.commit(batch.name, staged, records=batch.new, chains_folder=f"{root}/{batch.folder}")
        commit(planned, spark, batch.opened)
        if format_ == "iceberg" and random.random() < EXPIRED:
            _expire(f"{lake.table}".partition(":")[2])
        return answer

    return write


def _expire(table: str) -> None:
    """Forget snapshots of more than a minute ago, beside other writers; whoever streams into Iceberg has to."""
    from pyiceberg.exceptions import CommitFailedException

    from sparklet.connectors.tables.pyiceberg_catalog import load

    with suppress(CommitFailedException):  # another has committed meanwhile
        old = datetime.now(UTC) - timedelta(minutes=1)
        load().load_table(table).maintenance.expire_snapshots().older_than(old).commit()


def _with_spark(format_: str, place: Path) -> Any:
    from sparklet.local.jars import ensure_jars
    from sparklet.local.spark_installation import jar_cache, stack_file

    found = ensure_jars(stack_file(), jar_cache(), ["s3a", format_, "sqlite"], progress=lambda _: None)
    os.environ["SPARKLET_JARS"] = os.pathsep.join(map(str, found))
    quiet = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false", "spark.master": "local[1]"}
    quiet["spark.driver.extraJavaOptions"] = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
    spark = Job().spark("soak", {**quiet, "spark.sql.shuffle.partitions": "1"})
    spark.sparkContext.setLogLevel("OFF")
    table = "iceberg:db.t" if format_ == "iceberg" else f"{format_}:{place}/t"

    def write(event: Any) -> Any:
        if event is None:
            rows = (
                spark.table("iceberg.db.t") if format_ == "iceberg" else spark.read.format(format_).load(f"{place}/t")
            )
            return [list(row) for row in rows.select("shard", "id").collect()]
        job = Job(event=event)
        job.append(job.records(spark, "json", "shard LONG, id LONG"), table)
        return []

    return write


if __name__ == "__main__":
    main()

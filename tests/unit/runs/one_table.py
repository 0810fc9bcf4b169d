"""A run of shards into one table in memory: real workers and checkers, with faults at any call of a port."""

import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sparklet.errors import SparkletError
from sparklet.events import parse_event
from sparklet.ledger.rules import LEASE_GRACE_S, LEASE_S
from sparklet.log import Log
from sparklet.model import Run, RunOptions, ShardState
from sparklet.ports.deployment import Deployment
from sparklet.runs.checker import check
from sparklet.settings import worker_settings
from sparklet.spark.runner import Deadline, Output, Runner, ScriptCall, ScriptResult
from sparklet.worker.executor import Executor, ScriptCache
from sparklet.worker.shards import ShardClaims
from sparklet.worker.worker import Worker
from tests.stand_ins.memory import FakeClock
from tests.world import BUCKET, KilledError, World, ledger_of

RUN = "run-1"
ROUND_S = LEASE_S + LEASE_GRACE_S + 15
ROUNDS = 40
ENDLESS_S = 1e6
PLACE = "s3://lake/t"
Row = tuple[int, str]  # a shard, and the attempt that wrote it
Fails = Callable[[int], ScriptResult | None]


class DuplicateRowError(AssertionError):
    """A row is in the table twice."""


@dataclass
class MemoryTable:
    """Rows by commit ids; each commit is one atomic step from the version that its writer has read."""

    commits: dict[str, frozenset[Row]] = field(default_factory=dict)
    upserts: bool = False  # a shard's row takes the place of the one that it wrote before

    def load(self) -> frozenset[str]:
        """The current version: the ids of its commits."""
        return frozenset(self.commits)

    def add(self, read: frozenset[str], commit_id: str, rows: frozenset[Row]) -> bool:
        """Commit if nobody has committed since version ``read``. Return whether the rows were committed."""
        if read != self.load():
            return False
        if not self.upserts and {shard for shard, _ in rows} & {shard for shard, _ in self.rows}:
            raise DuplicateRowError(f"{commit_id} adds {sorted(rows)} to {sorted(self.rows)}")
        self.commits[commit_id] = rows
        return True

    @property
    def rows(self) -> frozenset[Row]:
        rows = [row for rows in self.commits.values() for row in rows]
        return frozenset(dict(rows).items() if self.upserts else rows)


@dataclass
class Seam:
    """Counts the calls of all actors through all ports, and runs a fault before the calls that have one."""

    faults: dict[int, Callable[[], None]] = field(default_factory=dict)  # by the number of the call
    calls: int = 0
    names: list[str] = field(default_factory=list)

    def port(self, port: object) -> Any:
        return _Port(port, self)


class _Port:
    def __init__(self, port: object, seam: Seam) -> None:
        self._port, self._seam = port, seam

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method, seam = getattr(self._port, name), self._seam

        def call(*args: Any, **kwargs: Any) -> Any:
            seam.calls += 1
            seam.names.append(name)
            seam.faults.get(seam.calls, _nothing)()
            answer = method(*args, **kwargs)
            return iter(list(answer)) if isinstance(answer, Iterator) else answer

        return call


def _nothing() -> None: ...


def succeeds(shard: int) -> ScriptResult | None:
    return None


@dataclass
class Trial(Runner):
    """A run of some shards into one table, with workers and checkers whose calls go through a seam."""

    scratch: Path
    seam: Seam = field(default_factory=Seam)
    table: MemoryTable = field(default_factory=MemoryTable)
    fails: Fails = succeeds  # how a shard's script ends; None if it succeeds. Shard -1 stands for the commit script
    twice: bool = False  # every message is delivered twice
    at_once: int = 10  # messages that workers take between two checks
    scripts: int = 0  # how often the shards' script ran
    world: World = field(default_factory=lambda: World(clock=FakeClock(time.time())))  # deadlines are of real time

    def __post_init__(self) -> None:
        raw = self.world.deployment
        through = self.seam.port
        ledger = ledger_of(raw.ledger, through)
        self.deployment: Deployment = replace(raw, store=through(raw.store), queue=through(raw.queue), ledger=ledger)
        settings = worker_settings(
            {"SPARKLET_BUCKET": BUCKET, "SPARKLET_LEDGER_TABLE": "t", "SPARKLET_SCRATCH": str(self.scratch)}
        )
        cache = ScriptCache(raw.store, settings.scratch / "scripts", ("s3://",))
        executor = Executor(settings, self, cache)
        self.worker = Worker(executor, ShardClaims(self.deployment, executor), None, Log(io.BytesIO()))
        self._table = through(self.table)

    def enter(self, shards: int, **options: Any) -> Run:
        """Plan a run with one object a shard, and seal its plan."""
        self.world.put(shards)
        return self.world.plan(options=RunOptions(max_objects=1, max_attempts=2, **options))

    # --- the scripts, as a Runner ---

    def start(self) -> None: ...

    def run(self, call: ScriptCall, output: Output) -> ScriptResult:
        event = json.loads(call.args[1])
        if event["sparklet"]["run"] != RUN:
            return self.fails(-1) or self._commit(event)
        self.scripts += 1
        shard, attempt = event["sparklet"]["shard"], event["sparklet"]["attempt"]
        folder = f"{PLACE}/sparklet/{shard}-{attempt}"
        self.deployment.store.put(f"{folder}/a.parquet", b"rows")
        mode = "upsert" if self.table.upserts else "append"
        write = {"table": f"delta:{PLACE}", "folder": folder, "files": [["a.parquet", 4]], "mode": mode}
        outcome = {"rows": 1, "writes": [write]}
        if failed := self.fails(shard):
            return failed
        Path(call.env["SPARKLET_OUTCOME_FILE"]).write_text(json.dumps(outcome))
        return ScriptResult(0)

    def _commit(self, event: Mapping[str, Any]) -> ScriptResult:
        """Do with the commit files what ``sparklet.connectors.tables.commit`` does."""
        for number, uri in enumerate(event["inputs"]):
            header, *shards = map(json.loads, Path(uri.removeprefix("file://")).read_bytes().splitlines())
            assert (header["commit"], header["run_id"]) == (number, RUN)
            if number in event["params"]["commits_made"]:
                continue
            for write in (each for shard in shards for each in shard["writes"]):
                self.deployment.store.head(f"{write['folder']}/{write['files'][0][0]}")
            rows = frozenset((shard["shard"], shard["attempt"]) for shard in shards)
            commit_id = f"{header['identity']}/commit-{number}"
            while rows and commit_id not in (read := self._table.load()):
                if self._table.add(read, commit_id, rows):
                    break
        return ScriptResult(0)

    def close(self) -> None: ...

    # --- the actors ---

    def work(self) -> None:
        """Do every visible message; a worker that is killed leaves its message to the queue."""
        for message in list(self.world.queue.receive(self.at_once)):
            for _ in range(1 + self.twice):
                record = {"messageId": message.message_id, "receiptHandle": message.receipt, "body": message.body}
                event = {"Records": [{**record, "eventSource": "aws:sqs", "attributes": {}}]}
                with suppress(KilledError):
                    deadline = Deadline.within(ENDLESS_S, 10, self.world.clock.now_s())
                    (outcome,) = self.worker.do(parse_event(event), deadline, "request")
                    if outcome.acknowledged:
                        self.world.queue.delete(message.receipt)

    def check_all(self) -> None:
        """Check every open run, as the scheduled checker does; an error of one run is left to the next round."""
        with suppress(KilledError):
            for run in [run for run in self.world.ledger.runs.unfinalized() if not run.state.ended]:
                with suppress(SparkletError):
                    check(self.deployment, run.run_id)

    def go_on(self, rounds: int = ROUNDS) -> Run:
        """Check and work until the run has ended. AssertionError if it has not after ``rounds``."""
        for _ in range(rounds):
            self.check_all()
            self.work()
            self.check_all()
            if self.run_now.state.ended:
                return self.run_now
            self.world.clock.advance(ROUND_S)
        raise AssertionError(f"not ended: {self.run_now.state}, {self.world.ledger.shards.count(RUN)}")

    def repeat(self, action: Callable[[Deployment], object]) -> None:
        """Do an operator's command, and repeat the command if it was killed."""
        try:
            action(self.deployment)
        except KilledError:
            with suppress(SparkletError):  # what is done already is no longer possible
                action(self.world.deployment)

    # --- what must be true ---

    @property
    def run_now(self) -> Run:
        return self.world.ledger.runs.get(RUN)

    def winners(self) -> frozenset[Row]:
        records = self.world.ledger.shards.list(RUN, ShardState.SUCCEEDED)
        return frozenset((record.number, record.winner) for record in records)

    def commit_sets(self) -> Sequence[frozenset[Row]]:
        """The rows of each commit file."""
        files = self.world.keys(self.world.deployment.run_uri(RUN, "_commit-"))
        bodies = (self.world.store.get(uri).splitlines()[1:] for uri in files)
        return [frozenset((each["shard"], each["attempt"]) for each in map(json.loads, lines)) for lines in bodies]

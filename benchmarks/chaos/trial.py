"""One trial: enter a run, deliver its messages, let go wrong what its plan says, wait for its end, and judge."""

import io
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet as parquet
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import CommitFailedException

from benchmarks.chaos.engine import NAME as ENGINE
from benchmarks.chaos.plans import ENGINES as IN_ENGINES
from benchmarks.chaos.plans import (
    ESCALATED,
    FOREIGN,
    ISOLATED,
    OF_FILES,
    OF_OUTPUTS,
    PER_INPUT,
    REPLACED,
    RIVALLED,
    STRUCK,
    Plan,
)
from benchmarks.chaos.reader import S3
from benchmarks.chaos.readers import ENGINES, CannotReadError, Readers, Row
from benchmarks.chaos.strikes import Strikes
from benchmarks.chaos.workers import ENDED, STOPPED, Pool, Worker
from benchmarks.chaos.world import DATA, World
from sparklet.errors import SparkletError
from sparklet.model import RunOptions, RunState, ShardRecord, ShardState
from sparklet.planning.new_run import new_run
from sparklet.planning.plan_files import planned_shard
from sparklet.planning.planner import plan as plan_run
from sparklet.planning.request import RunRequest
from sparklet.runs.checker import check
from sparklet.runs.redrive import redrive
from tests.stand_ins.read_queues import Received, readable

SCRIPT = Path(__file__).with_name("jobs") / "into_one_table.py"
ROWS = (3, 25)  # of a shard, at least and at most
FILES = 20  # of a shard, where each has its own fate; with --isolate up to MOST_BAD of them are bad
MOST_BAD, MALFORMED = 2, "x,not a number\n"
CHECK_S, POLL_S = 2.0, 1.0
QUIET_S = 2.5  # after the last write
PATIENCE_S, SHARD_S = 1200.0, 5.0  # for a run's end, and for each of its shards
MAX_ATTEMPTS, MAX_REDRIVES = 12, 4
MAX_LATER_S = 6.0  # until a message is delivered again
ZOMBIE_S = 60.0  # for the answer of a worker that is awake again
COLUMNS = pyarrow.schema({"id": pyarrow.int32(), "name": pyarrow.string()})
REFUSED = "CommittedBeforeException"  # plain: an earlier attempt has added the shard's rows
GOOD = (RunState.SUCCEEDED, RunState.SUCCEEDED_WITH_FAILURES)


@dataclass(frozen=True)
class _Zombie:
    """A worker that is stopped."""

    worker: Worker
    shard: tuple[str, int]
    attempt: str
    wake: str  # when: one of strikes.WAKES


@dataclass
class Trial:
    """A run under its plan's faults."""

    plan: Plan
    world: World
    pool: Pool
    readers: Readers
    again: Callable[["Trial", Received], None]  # delivers a message once more
    rows: dict[str, dict[int, Counter[Row]]] = field(default_factory=dict)  # the truth, by run and shard
    files: dict[str, bool] = field(default_factory=dict)  # of shards with many: whether each is good
    beside: Counter[Row] = field(default_factory=Counter)  # the truth, of a foreign writer
    outputs: dict[str, list[Row]] = field(default_factory=dict)  # the truth, by files that have an output each
    replaced: int = 0  # how often these were
    problems: list[str] = field(default_factory=list)
    causes: list[str] = field(default_factory=list)  # why attempts failed, as the ledger has it
    partial: int = 0
    polls: int = 0
    redrives: int = 0
    invocations: int = 0
    _zombies: list["_Zombie"] = field(default_factory=list)
    _doubled: set[str] = field(default_factory=set)
    _ended: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _busy: int = 0

    def __post_init__(self) -> None:
        self.strikes = Strikes(self.plan, self._stopped)
        name = self.plan.name
        self.catalog = f"sqlite:///{self.world.folder}/{name}.db" if self.plan.format == "iceberg" else ""
        self.place = f"db.{name.replace('-', '_')}" if self.catalog else f"s3://{DATA}/{name}/table"

    # --- the run ---

    def run(self) -> dict[str, Any]:
        """The trial's result."""
        started_s = time.monotonic()
        self._enter(self.plan.name)
        poller = threading.Thread(target=self._poll, daemon=True)
        poller.start()
        state = self._watch(started_s + PATIENCE_S + SHARD_S * self.plan.shards)
        self._ended.set()
        poller.join()
        self._settle()
        result = self._judged(state)
        result["seconds"] = round(time.monotonic() - started_s, 1)
        return result

    def _enter(self, run_id: str) -> None:
        """Put a run's inputs there, and plan it."""
        at, dice = self.world.deployment, random.Random(f"{run_id.removeprefix('chaos-')}/rows")
        first, rows = 1000 * self.plan.shards * len(self.rows), dict[int, Counter[Row]]()
        for shard in range(self.plan.shards):
            count = dice.randint(*ROWS) * self.plan.commits
            found = [(first + 1000 * shard + number, f"row {number} of {shard}") for number in range(count)]
            rows[shard] = Counter(found)
            if self.plan.kind in OF_FILES:
                self._put_files(f"s3://{DATA}/{run_id}/in/{shard:03d}", found, dice)
                continue
            lines = "".join(f"{id_},{name}\n" for id_, name in found)
            at.store.put(f"s3://{DATA}/{run_id}/in/{shard:03d}.csv", f"id,name\n{lines}".encode())
        self.rows[run_id] = rows
        self._plan(run_id, self._options())

    def _plan(self, run_id: str, options: RunOptions) -> None:
        at, of = self.world.deployment, self.plan.name if self.files else run_id
        request = RunRequest(
            script=str(SCRIPT),
            inputs=(f"s3://{DATA}/{of}/in/",),
            output_uri=f"s3://{DATA}/{of}/out/",
            run_id=run_id,
            name=of,
            params={
                "way": self.plan.way,
                **({} if self.plan.kind in OF_OUTPUTS else {"table": f"{self.plan.format}:{self.place}"}),
                "kind": self.plan.kind,
                "commits": self.plan.commits,
                "named": self.plan.dice("named").random() < 0.5,
                "mixed": self.plan.kind == PER_INPUT and self.plan.dice("mixed").random() < 0.5,
            },
            env=self._catalog_env(),
            options=options,
        )
        plan_run(at, new_run(at, request).run_id)

    def _put_files(self, prefix: str, rows: list[Row], dice: random.Random) -> None:
        """A shard's rows in its good files, and bad files between them, each with a good row, too."""
        bad = set(dice.sample(range(FILES), dice.randint(0, MOST_BAD))) if self.plan.kind == ISOLATED else set()
        good = [number for number in range(FILES) if number not in bad]
        for number in range(FILES):
            mine = [row for place, row in enumerate(rows) if good[place % len(good)] == number]
            lines = [f"{id_},{name}\n" for id_, name in mine] if number in good else ["-1,of a bad file\n", MALFORMED]
            self._put_file(f"{prefix}-{number:02d}.csv", mine, lines, is_good=number in good)

    def _put_file(self, uri: str, rows: list[Row], lines: list[str], *, is_good: bool = True) -> None:
        self.world.deployment.store.put(uri, "".join(["id,name\n", *lines]).encode())
        self.files[uri], self.outputs[uri] = is_good, rows

    def _options(self) -> RunOptions:
        if self.plan.kind == ISOLATED:
            bad = list(self.files.values()).count(False)
            more = {"isolate": True, "tolerated_failure_count": bad}
            return RunOptions(max_objects=FILES, max_attempts=self.plan.strikes + 1, **more)  # type: ignore[arg-type]
        if self.plan.kind in OF_OUTPUTS:
            options = RunOptions(max_objects=FILES, max_attempts=MAX_ATTEMPTS, output_per="input")
            return replace(options, incremental=True) if self._is_incremental else options
        if self.plan.kind not in IN_ENGINES:
            return RunOptions(max_objects=1, max_attempts=MAX_ATTEMPTS)
        too_large = "engine" if self.plan.kind == ESCALATED else "refuse"
        return RunOptions(max_objects=1, max_attempts=MAX_ATTEMPTS, engine=ENGINE, too_large=too_large)

    def _catalog_env(self) -> Mapping[str, str]:
        if not self.catalog:
            return {}
        prefix, warehouse = "PYICEBERG_CATALOG__ICEBERG__", f"s3://{DATA}/{self.plan.name}/warehouse"
        return {f"{prefix}TYPE": "sql", f"{prefix}URI": self.catalog, f"{prefix}WAREHOUSE": warehouse}

    def _watch(self, until_s: float) -> str:
        """Check the run until it has ended well; its last state."""
        if "checker" in STRUCK.get(self.plan.kind, ()) or self.plan.kind == "record":
            self._check_elsewhere(until_s)
        while time.monotonic() < until_s:
            self._wake_zombies()
            self._enter_rival()
            states = [self._checked(run_id) for run_id in list(self.rows)]
            if all(state in GOOD for state in states):
                if self.plan.kind != REPLACED or self.replaced == len(REPLACED_BY):
                    return str(states[0])
                REPLACED_BY[self.replaced](self)
                self.replaced += 1
                self.strikes.anew()
            if self.redrives > MAX_REDRIVES:
                break
            time.sleep(CHECK_S)
        state = str(self.world.deployment.ledger.runs.get(self.plan.name).state)
        self.problems.append(f"the run is {state} after {self.redrives} redrives")
        return state

    def _enter_rival(self) -> None:
        """Begin the other run: at once where committers shall meet, else when the first one was struck."""
        kind, entered = self.plan.kind, self.plan.rival in self.rows
        if kind in RIVALLED and not entered and (kind == "two committers" or self.strikes.struck):
            self._enter(self.plan.rival)

    def _checked(self, run_id: str) -> RunState | None:
        """Check a run, and redrive it if it has ended badly; its state, None if that is not known any more."""
        try:
            run = check(self.world.deployment, run_id).run
            if not run.state.ended or (run.state in GOOD and not self._has_unsplit(run_id)):
                return run.state
            failed = self.world.deployment.ledger.shards.list(run_id, ShardState.FAILED)
            if all(record.error_class == REFUSED for record in failed):
                return RunState.SUCCEEDED_WITH_FAILURES  # all rows are there; a redrive would add them again
            self.redrives += 1
            if self.redrives <= MAX_REDRIVES:
                redrive(self.world.deployment, run_id)
            return None
        except SparkletError as error:
            self.problems.append(f"check: {error}")
            return None

    def _has_unsplit(self, run_id: str) -> bool:
        """Whether a shard has FAILED with all its files, since its last attempt was killed before it could be split."""
        failed = self.world.deployment.ledger.shards.list(run_id, ShardState.FAILED) if self.files else ()
        return any(record.object_count > 1 for record in failed)

    # --- what replaces outputs ---

    @property
    def _is_incremental(self) -> bool:
        return self.plan.kind == REPLACED and self.plan.dice("incremental").random() < 0.5

    def do_shards_again(self) -> None:
        """Some, after their files have changed, which an incremental run would refuse."""
        dice, at = self.plan.dice("again"), self.world.deployment
        records = [each for each in at.ledger.shards.list(self.plan.name) if each.state is not ShardState.SPLIT]
        chosen = dice.sample(records, dice.randint(1, len(records)))
        for record in () if self._is_incremental else chosen:
            self._change([each.uri for each in planned_shard(at, record).objects], dice)
        self.rows[self.plan.name] = {0: Counter(row for rows in self.outputs.values() for row in rows)}
        redrive(at, self.plan.name, [record.number for record in chosen])

    def run_once_more(self) -> None:
        """Over the same files, some of which have changed: all of them, or those."""
        changed = self._change(list(self.files), self.plan.dice("once more"))
        taken = changed if self._is_incremental else self.files
        self.rows[self.plan.rival] = {0: Counter(row for uri in taken for row in self.outputs[uri])}
        options = self._options()
        self._plan(self.plan.rival, options if self._is_incremental else replace(options, existing="overwrite"))

    def _change(self, uris: list[str], dice: random.Random) -> list[str]:
        """Let some files have other rows, at least one; which."""
        changed = dice.sample(uris, dice.randint(1, len(uris)))
        for uri in changed:
            rows = [(dice.randint(10**8, 10**9), f"changed {number}") for number in range(dice.randint(1, 3))]
            self._put_file(uri, rows, [f"{id_},{name}\n" for id_, name in rows])
        return changed

    def _check_elsewhere(self, until_s: float) -> None:
        """Have processes of their own check the run, one after the other, until it has ended or enough were killed."""
        for _ in range(self.plan.strikes):
            checker = self.pool.checker(self.plan.name, self.strikes.of("checker"))
            while checker.alive and time.monotonic() < until_s:
                time.sleep(CHECK_S)
            self.pool.dispose(checker)
            if self.world.deployment.ledger.runs.get(self.plan.name).state.ended:
                break

    def _settle(self) -> None:
        """Wake who sleeps, and wait for whoever still works on this run."""
        if self.plan.kind == "late committer" and self.catalog:
            self._expire_snapshots()
        self._wake_zombies(at_once=True)
        end_s = time.monotonic() + ZOMBIE_S
        while self._busy and time.monotonic() < end_s:
            time.sleep(0.1)

    def _expire_snapshots(self) -> None:
        """Forget all snapshots but the current one, as whoever looks after the table may."""
        self._iceberg().load_table(self.place).maintenance.expire_snapshots().older_than(datetime.now(UTC)).commit()

    def _iceberg(self) -> Catalog:
        s3 = {f"s3.{name}": self.world.info.env[variable] for name, variable in S3.items()}
        return load_catalog("iceberg", type="sql", uri=self.catalog, **s3)

    def _append_beside(self) -> None:
        """A row by a library that is not Spark's; one whose commit another has overtaken is no row."""
        row = (-1 - len(self.beside), "of a foreign writer")
        rows = pyarrow.Table.from_pylist([dict(zip(COLUMNS.names, row, strict=True))], COLUMNS)
        options = {name.lower(): value for name, value in self.world.info.env.items() if name.startswith("AWS_")}
        try:
            if self.catalog:
                self._iceberg().load_table(self.place).append(rows)
            else:
                table = DeltaTable(self.place, storage_options={**options, "aws_allow_http": "true"})
                write_deltalake(table, rows, mode="append")
        except (CommitFailedError, CommitFailedException) as error:
            self.causes.append(f"beside: {error}"[:500])
            return
        self.beside[row] += 1

    # --- its messages ---

    def deliver(self, message: Received, role: str) -> None:
        """Invoke a worker with a message, and delete it if the worker says so; a mapping's part."""
        with self._lock:
            self._busy += 1
            double = self.plan.kind.startswith("twice") and message.body not in self._doubled
            self._doubled.add(message.body)
        try:
            if double and self.plan.kind == "twice at once":
                self._note_double(role)
                self.again(self, message)
            done = self._invoke(message, role)
            if done and double and self.plan.kind == "twice, later":
                self._note_double(role)
                threading.Timer(self.plan.dice(role).uniform(0, MAX_LATER_S), self.again, [self, message]).start()
        finally:
            with self._lock:
                self._busy -= 1

    def _note_double(self, role: str) -> None:
        self.strikes.struck.append(f"{role}: {self.plan.kind}")

    def _invoke(self, message: Received, role: str) -> bool:
        worker = self.pool.take()
        worker.decide = self.strikes.of(role)
        cancel = self.strikes.kill_at_a_time(role, worker)
        record = {
            "eventSource": "aws:sqs",
            "messageId": message.message_id,
            "receiptHandle": message.receipt,
            "body": message.body,
            "attributes": {"ApproximateReceiveCount": str(message.receive_count)},
        }
        self.invocations += 1
        answer = worker.invoke({"Records": [record]})
        cancel()
        self.pool.give_back(worker, answer)
        if answer in (ENDED, STOPPED) or "error" in answer or answer["answer"]["batchItemFailures"]:
            return False
        readable(self.world.deployment.queue).delete(message.receipt)
        return True

    # --- zombies ---

    def _stopped(self, worker: Worker, role: str, wake: str) -> None:
        who, _, number = role.partition(" ")
        shard = (self.plan.name, int(number)) if who == "shard" else (f"{self.plan.name}-commit-{number}", 0)
        attempt = self.world.deployment.ledger.shards.get(*shard).attempt_id
        with self._lock:
            self._zombies.append(_Zombie(worker, shard, attempt, wake))

    def _wake_zombies(self, *, at_once: bool = False) -> None:
        """Wake each whose time has come: another attempt has its shard, or has ended it, or the run has ended."""
        for zombie in list(self._zombies):
            record = self.world.deployment.ledger.shards.get(*zombie.shard)
            another = record.attempt_id != zombie.attempt
            ready = {"claimed": another, "succeeded": another and record.state is ShardState.SUCCEEDED, "ended": False}
            if at_once or ready[zombie.wake]:
                self._zombies.remove(zombie)
                with self._lock:
                    self._busy += 1
                threading.Thread(target=self._wake, args=[zombie.worker], daemon=True).start()

    def _wake(self, worker: Worker) -> None:
        worker.wake()
        worker.answer(ZOMBIE_S)
        self.pool.dispose(worker)
        with self._lock:
            self._busy -= 1

    # --- the readers ---

    def _poll(self) -> None:
        """Read the table whenever something was written: half a commit must never be seen."""
        engine = ENGINES[self.plan.format][0]
        while self.plan.kind not in OF_OUTPUTS and not self._ended.wait(POLL_S):
            if time.monotonic() > self.strikes.written_s + QUIET_S:
                continue
            try:
                found = self.readers.read(engine, self.plan.format, self.place, self.catalog)
            except CannotReadError as error:
                self.problems.append(f"while it ran: {error}"[:500])
                continue
            self.polls += 1
            if found and self.plan.kind == FOREIGN:
                self._append_beside()
            if found and not self._whole(found):
                self.partial += 1
                self.problems.append(f"a reader saw {found.total()} rows of {self._truth().total()}")

    def _truth(self) -> Counter[Row]:
        return sum((rows for shards in list(self.rows.values()) for rows in shards.values()), Counter(self.beside))

    def _whole(self, found: Counter[Row]) -> bool:
        """Whether only whole commits are seen: of each shard all rows, or none; staged: of all shards of a run."""
        of_runs = [shards.values() for shards in list(self.rows.values())]
        of_shards = [rows for shards in of_runs for shard in shards for rows in self._committed(shard)]
        commits = [sum(each, Counter()) for each in of_runs] if self.plan.way == "staged" else of_shards
        return all(rows <= found or not rows & found for rows in commits)

    def _committed(self, rows: Counter[Row]) -> list[Counter[Row]]:
        """A shard's rows by the commit that adds them."""
        numbers = range(self.plan.commits)
        return [Counter({row: n for row, n in rows.items() if row[0] % len(numbers) == number}) for number in numbers]

    def _judged(self, state: str) -> dict[str, Any]:
        """Compare table or outputs and ledger with the truth."""
        if self.plan.kind in OF_OUTPUTS:
            lost, duplicated = self._judge_outputs()
        else:
            lost, duplicated = self._judge_table()
        return {
            **{name: getattr(self.plan, name) for name in ("seed", "format", "way", "kind")},
            "struck": self.strikes.struck,
            "lost": lost,
            "duplicated": duplicated,
            "partial": self.partial,
            "unaccounted": sum(self._unaccounted(run_id) for run_id in self.rows),
            "state": state,
            "redrives": self.redrives,
            "beside": self.beside.total(),
            "invocations": self.invocations,
            "polls": self.polls,
            "problems": self.problems,
            "causes": self.causes,
        }

    def _judge_table(self) -> tuple[int, int]:
        """How many rows are missing, and how many too often, for the reader that sees most of them."""
        truth, lost, duplicated = self._truth(), 0, 0
        for engine in ENGINES[self.plan.format]:
            try:
                found = self.readers.read(engine, self.plan.format, self.place, self.catalog) or Counter()
            except CannotReadError as error:
                self.problems.append(f"at the end: {error}"[:500])
                found = Counter()
            missing, extra = (truth - found).total(), (found - truth).total()
            if missing or extra:
                self.problems.append(f"{engine}: {missing} rows are missing, {extra} are there too often")
            lost, duplicated = max(lost, missing), max(duplicated, extra)
        return lost, duplicated

    def _judge_outputs(self) -> tuple[int, int]:
        """The same of rows in the outputs of their files; a row below another name is missing and too often."""
        truth = Counter((uri.rpartition("/")[2], row) for uri, rows in self.outputs.items() for row in rows)
        found = self._outputs()
        missing, extra = truth - found, found - truth
        if missing or extra:
            self.problems.append(f"outputs lack {dict(missing)}, and have {dict(extra)} besides"[:500])
        return missing.total(), extra.total()

    def _outputs(self) -> Counter[tuple[str, Row]]:
        """Each row that is published, with the file below whose name it stands."""
        rows, folder = Counter[tuple[str, Row]](), f"s3://{DATA}/{self.plan.name}/out/"
        for info in self.world.deployment.store.list(folder):
            name = info.uri.removeprefix(folder)
            if name.endswith(".parquet"):
                table = parquet.read_table(io.BytesIO(self.world.deployment.store.get(info.uri)))
                found = ((row["id"], row["name"]) for row in table.to_pylist())
                rows.update((name.replace(".parquet", ".csv"), row) for row in found)
        return rows

    def _wrong_files(self, records: list[ShardRecord]) -> list[str]:
        """Files that are not in exactly one shard, good ones not SUCCEEDED, and bad ones not FAILED alone."""
        fates: dict[str, list[ShardRecord]] = {uri: [] for uri in self.files}
        for record in records:
            for each in (
                () if record.state is ShardState.SPLIT else planned_shard(self.world.deployment, record).objects
            ):
                fates[each.uri].append(record)

        def is_right(uri: str, found: list[ShardRecord]) -> bool:
            alone = [(each.state, each.object_count) for each in found] == [(ShardState.FAILED, 1)]
            return [each.state for each in found] == [ShardState.SUCCEEDED] if self.files[uri] else alone

        return [uri for uri, found in fates.items() if not is_right(uri, found)]

    def _unaccounted(self, run_id: str) -> int:
        """Shards of which the ledger does not say what became of them, or says what is not so."""
        ledger, rows = self.world.deployment.ledger, sum(self.rows[run_id].values(), Counter()).total()
        records = list(ledger.shards.list(run_id))
        commit = self.world.deployment.known_run(f"{run_id}-commit-0")  # none if the run has not come so far
        committed = ledger.shards.list(commit.run_id) if commit else ()
        causes = {f"{each.error_class}: {each.error_message}"[:500] for each in (*records, *committed)}
        self.causes += sorted(causes - {": "})
        is_part = run_id == self.plan.rival and self._is_incremental
        if self.files and not is_part and (wrong := self._wrong_files(records)):
            self.problems.append(f"{len(wrong)} files are not accounted for: {', '.join(wrong[:3])}")
            return len(wrong)
        refused = [record for record in records if record.error_class == REFUSED]
        ended = [record for record in records if record.state is ShardState.SUCCEEDED or record in refused]
        run, bad = ledger.runs.get(run_id), list(self.files.values()).count(False)
        wanted = (run.shard_count or 0) - bad
        if run.state in GOOD and len(ended) == wanted:
            told = sum(record.rows or 0 for record in ended)
            if told != rows and not refused:
                self.problems.append(f"the ledger says {told} rows of {run_id}, and there are {rows}")
                return 1
        return wanted - len(ended)


REPLACED_BY = (Trial.do_shards_again, Trial.run_once_more)
"""What follows, one after the other, each once all runs have ended well."""

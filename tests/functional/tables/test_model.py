"""A table that runs, messages, streams and other writers change is compared with a simple model.

Hypothesis chooses what happens and when, also between a committer's load of the table and its commit. Committers die,
get no response, or commit late. After each step the table has exactly the rows of the model (``expected``). A refusal
is right only if the model allows it, and leaves the table unchanged.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from pyspark.sql import SparkSession

from tests.functional.tables.conftest import configure_catalog, sqlite
from tests.functional.tables.lakes import Lake
from tests.functional.tables.runs_of_table import Asked, Runs
from tests.functional.tables.shared_table import DAYS, NAMES, SharedTable

OBJECTS = st.lists(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(DAYS), st.integers(0, 9)), min_size=1, max_size=2),
    min_size=1,
    max_size=3,
)
EVOLUTIONS = st.tuples(
    st.sampled_from(["replace", "drop", "rename"]), st.sampled_from(NAMES[:2]), st.sampled_from(["string", "double"])
)
OTHERS = [*(2 * ["append", "evolve", "roll back", "late commit"]), "evolve", "evolve", "compact", "expire", "property"]
MODES = {"log": "append", "keyed": "upsert", "replaced": "overwrite_partitions"}  # the mode of runs, by kind of table
WHICH = st.integers(0, 30)
# How the next committer fails, and what other writers do once it has loaded the table.
DISTURBED = st.tuples(
    st.sampled_from(["", "", "before", "after", "unheard"]), st.none() | st.sampled_from(OTHERS), WHICH, EVOLUTIONS
)


class Tables(RuleBasedStateMachine):
    """All writers of a table."""

    format: ClassVar[str] = "delta"

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(tempfile, "tempdir", "/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.folder = tempfile.TemporaryDirectory(prefix="tables-")
        place = f"file://{self.folder.name}/lake"
        configure_catalog(place, self.patch, **sqlite(Path(self.folder.name)))
        self.lake = Lake(self.format, place, {})

    @initialize(kind=st.sampled_from(list(MODES)), partitioned=st.booleans(), exists=st.booleans())
    def there_is_a_table(self, kind: str, partitioned: bool, exists: bool) -> None:
        self.kind, self.last_id = kind, 100  # ids are never used twice, as a table with upserts has each key once
        self.table = SharedTable(self.lake, partitioned or self.kind == "replaced")
        self.runs = Runs(Path(self.folder.name, "scratch"), table=self.table)
        self.runs.watch(self.patch)
        if exists:
            self.table.create(self._rows(2))

    def _rows(self, count: int) -> Sequence[Any]:
        self.last_id += count
        return [self.table.row(self.last_id - number, DAYS[number % 2]) for number in range(count)]

    @rule(
        asked=st.builds(
            Asked,
            mode=st.just(""),
            objects=OBJECTS,
            ordered=st.booleans(),
            failing=st.sampled_from([None, 0, 1]),
            commit_every=st.booleans(),
            isolate=st.booleans(),
        ),
        at_once=st.booleans(),
    )
    def a_run_begins(self, asked: Asked, at_once: bool) -> None:
        """Start a run and let it end if ``at_once``, else let it only stage its rows."""
        self.runs.start(replace(asked, mode=MODES[self.kind]))
        self.runs.at_once = 1 if asked.commit_every else 10
        self.runs.work()
        if at_once:
            self.runs.work_until_all_ended()

    @rule(disturbed=DISTURBED, twice=st.booleans())
    def all_runs_work(self, disturbed: Any, twice: bool) -> None:
        self.runs.twice = twice
        self._disturb(*disturbed)
        self.runs.work_until_all_ended()
        self._disturb("")

    def _disturb(self, end: str, between: str | None = None, *arguments: Any) -> None:
        self.runs.end = end
        self.runs.between = (lambda: self._other(between, *arguments)) if between else None

    @precondition(lambda self: self.runs.asked)
    @rule(which=WHICH, now=st.booleans())
    def somebody_redrives(self, which: int, now: bool) -> None:
        self.runs.redrive(which)
        if now:
            self.runs.work_until_all_ended()

    @precondition(lambda self: self.kind == "log" and self.table.exists)
    @rule(first=st.integers(0, 3), count=st.integers(0, 4), of_messages=st.booleans(), disturbed=DISTURBED)
    def a_batch_comes(self, first: int, count: int, of_messages: bool, disturbed: Any) -> None:
        """Deliver stream records or queue messages, or an SNS message if ``count`` is 0."""
        self._disturb(*disturbed)
        if count:
            self.runs.batch(first, first + count - 1, of_messages=of_messages)
        else:
            self.runs.message(first % 2)
        self._disturb("")

    @precondition(lambda self: self.table.exists)
    @rule(action=st.sampled_from(OTHERS), which=WHICH, evolution=EVOLUTIONS)
    def another_writer_acts(self, action: str, which: int, evolution: Any) -> None:
        self._other(action, which, evolution)
        self.table.compare()

    def _other(self, action: str, which: int, evolution: Any) -> None:
        actions: dict[str, Callable[[], None]] = {
            "append": lambda: self.table.append(self._rows(1 + which % 2)),
            "evolve": lambda: self.table.evolve(*evolution),
            "compact": self.table.compact,
            "roll back": lambda: self.table.roll_back(which),
            "expire": self.table.expire,
            "property": lambda: self.table.set_property("delta.checkpointInterval", "2"),
            "late commit": lambda: self.runs.commit_again(which),
        }
        actions[action]()

    def teardown(self) -> None:
        """Let all runs end without further faults, and compare."""
        try:
            if hasattr(self, "runs"):
                self.runs.work_until_all_ended()
                self.runs.compare_ends()
                self.table.compare()
        finally:
            self.patch.undo()
            self.folder.cleanup()


class IcebergTables(Tables):
    format = "iceberg"


class BesideSpark(Tables):
    """A Delta table for which Spark writes checkpoints of the log."""

    spark: ClassVar[Any] = None

    @precondition(lambda self: self.table.exists)
    @rule()
    def spark_writes_a_checkpoint(self) -> None:
        log = self.spark._jvm.org.apache.spark.sql.delta.DeltaLog
        log.clearCache()
        log.forTable(self.spark._jsparkSession, self.lake.table.place).checkpoint()
        self.table.compare()


def run(machine: type[Tables], examples: int, steps: int) -> None:
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large]
    options = settings(max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=quiet)
    run_state_machine_as_test(machine, settings=options)


FULL = pytest.param(2_000, 30, marks=[pytest.mark.campaign, pytest.mark.timeout(7200)], id="full")


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.parametrize(("examples", "steps"), [pytest.param(6, 10, id="small"), FULL])
def test_an_iceberg_table_holds_what_the_model_says(spark: SparkSession, examples: int, steps: int) -> None:
    """Full size, over an hour: ``make pytest ARGS='-n 0 -m campaign tests/functional/tables/test_model.py'``."""
    run(IcebergTables, examples, steps)


@pytest.mark.spark
@pytest.mark.slow
@pytest.mark.parametrize(("examples", "steps"), [pytest.param(3, 10, id="small"), FULL])
def test_a_delta_table_holds_what_the_model_says(spark: SparkSession, examples: int, steps: int) -> None:
    """Other writers include Spark, which writes checkpoints of the log."""
    BesideSpark.spark = spark
    run(BesideSpark, examples, steps)

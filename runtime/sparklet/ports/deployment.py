"""``Deployment``: the ports that planning, checking, recovery and the worker's shards work on."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sparklet.errors import ObjectChangedError, RunNotFoundError, ScratchFullError, SettingsError, ShardNotFoundError
from sparklet.model import Access, Run, RunOptions, ShardRecord
from sparklet.ports import Clock, Engine, Ledger, Notifier, ObjectStore, TaskQueue
from sparklet.ports.metrics import Meter, Metric

T = TypeVar("T")
Catalog = Callable[[str, RunOptions, ObjectStore], tuple[Mapping[str, Any], bytes]]
A_WHILE_S = 120.0  # see ``Deployment.within_time_limit``


@contextmanager
def scratch(content: str, error_type: type[Exception] = OSError) -> Iterator[None]:
    """Raise errors of temporary files as ScratchFullError; ``content`` is what the files hold, for the message."""
    try:
        yield
    except error_type as error:
        raise ScratchFullError(
            f"{content} could not be kept in {tempfile.gettempdir()}: {error}; free space there, or set TMPDIR"
        ) from error


def put_once(store: ObjectStore, *objects: tuple[str, bytes]) -> None:
    """Write each object unless it exists: if another writer was faster, its object stays."""
    for uri, body in objects:
        with suppress(ObjectChangedError):
            store.put(uri, body, create_only=True)


@dataclass(frozen=True, slots=True)
class Deployment:
    """The ports that planning, checking, recovery and the worker's shards work on.

    A composition root makes it: ``runs.handlers`` and ``worker.handler`` in Lambda, else ``local.stack`` and the
    command line.
    """

    bucket: str  # holds runs/<run_id>/ and dead-letters/
    store: ObjectStore
    ledger: Ledger
    queue: TaskQueue  # for the messages of shards
    clock: Clock  # the ledger's, since the machine's clock may be wrong
    open_inputs: Callable[[Access], ObjectStore] | None = None  # opens a store for inputs that need another access

    notifier: Notifier | None = None  # for the ends of runs, and of tasks of the API
    meter: Meter | None = None  # None: nothing is measured
    engines: Mapping[str, Engine] = field(default_factory=dict)  # by name, the cheapest first
    starts_workers: bool = True  # whether to start engines' workers: on AWS only the checker function is allowed to
    functions: Callable[[], Mapping[str, str]] | None = None  # the settings of their scripts; None: not known
    input_of: Callable[[str], Any] | None = None  # the input of an execution, by its ARN
    catalog: Catalog | None = None  # a table's entry, and its objects as a list in JSON Lines; for planning

    def inputs(self, access: Access) -> ObjectStore:
        """The store to read a run's input from."""
        if access == Access():
            return self.store
        if self.open_inputs is None:
            raise SettingsError("this deployment reads inputs with its own access only, not with another role or payer")
        return self.open_inputs(access)

    def known_run(self, run_id: str) -> Run | None:
        """The run of this id; None if there is none."""
        try:
            return self.ledger.runs.get(run_id)
        except RunNotFoundError:
            return None

    def known_shard(self, run_id: str, number: int) -> ShardRecord | None:
        """The shard of this number; None if it is not in the ledger, or not yet."""
        try:
            return self.ledger.shards.get(run_id, number)
        except ShardNotFoundError:
            return None

    def function_settings(self) -> Mapping[str, str] | None:
        """The settings of the functions' scripts; None if they are not known, or the caller has no permission."""
        try:
            return self.functions() if self.functions else None
        except SettingsError:
            return None

    def measure(self, metric: Metric, value: float = 1) -> None:
        """Add to a metric, if there is a meter."""
        if self.meter is not None:
            self.meter.add(metric, value)

    def within_time_limit(self, records: Iterator[T]) -> Iterator[T]:
        """Yield records (or numbers) until ``A_WHILE_S`` seconds have passed, but at least one.

        A function's time is limited: the caller's next check goes on with the rest.
        """
        until_s = self.clock.now_s() + A_WHILE_S
        for record in records:
            # The time is checked after the yield, so that each check makes progress, however long the first took.
            yield record
            if self.clock.now_s() >= until_s:
                return

    @property
    def runs_uri(self) -> str:
        """The folder that has a folder for each run."""
        return f"s3://{self.bucket}/runs/"

    def run_uri(self, run_id: str, name: str = "") -> str:
        """The address of a run's file, or of its folder."""
        return f"{self.runs_uri}{run_id}/{name}"

    def part_uri(self, run_id: str, part: str) -> str:
        """The address of a plan part, from which the worker reads its shard."""
        return self.run_uri(run_id, f"plan/{part}")

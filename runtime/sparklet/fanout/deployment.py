"""One deployed Sparklet, as what plans and watches its runs sees it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Self, cast

from sparklet.errors import RunNotFoundError, SettingsError
from sparklet.fanout.listed_once import ListedOnce
from sparklet.metrics import Meter, Metric
from sparklet.model import Access, Run
from sparklet.ports import Clock, Ledger, Notifier, ObjectStore, TaskQueue, TaskStore


@dataclass(frozen=True, slots=True)
class Deployment:
    """The ports that planning, checking and recovery work on.

    A composition root makes one: ``fanout.handlers`` in Lambda, ``local.stack`` and the command line elsewhere.
    """

    bucket: str  # runs/<run_id>/ and dead-letters/ lie in it
    store: ObjectStore
    ledger: Ledger
    queue: TaskQueue  # of shard messages
    clock: Clock
    open_inputs: Callable[[Access], ObjectStore] | None = None  # stores for inputs that need another access

    tasks: TaskStore | None = None  # of the asynchronous API; only its dead-letter messages need them
    notifier: Notifier | None = None  # of the ends of runs, and of tasks of the API
    dead_letters: TaskQueue | None = None  # the dead-letter queue; only its depth is read
    meter: Meter | None = None  # None: nobody collects what is measured
    listed: Callable[[Access], ObjectStore] | None = None  # see ``listing_once``

    def inputs(self, access: Access) -> ObjectStore:
        """The store to read a run's input from."""
        if self.listed is not None:
            return self.listed(access)
        if access == Access():
            return self.store
        if self.open_inputs is None:
            raise SettingsError("this deployment reads inputs with its own access only, not with another role or payer")
        return self.open_inputs(access)

    @contextmanager
    def listing_once(self) -> Iterator[Self]:
        """The same for one request, which looks at its input and then plans it: folders are listed for both at once."""
        with ExitStack() as files:
            yield replace(self, listed=cache(lambda access: cast(ObjectStore, ListedOnce(self.inputs(access), files))))

    def known_run(self, run_id: str) -> Run | None:
        """The run of this id; None if there is none."""
        try:
            return self.ledger.runs.get(run_id)
        except RunNotFoundError:
            return None

    def measure(self, metric: Metric, value: float = 1) -> None:
        """Measure something, where it is collected."""
        if self.meter is not None:
            self.meter.add(metric, value)

    @property
    def runs_uri(self) -> str:
        """Below this every run keeps its own files."""
        return f"s3://{self.bucket}/runs/"

    def run_uri(self, run_id: str, name: str = "") -> str:
        """A file of a run, or its folder."""
        return f"{self.runs_uri}{run_id}/{name}"

    def part_uri(self, run_id: str, part: str) -> str:
        """A plan part; the worker reads its shard from there."""
        return self.run_uri(run_id, f"plan/{part}")

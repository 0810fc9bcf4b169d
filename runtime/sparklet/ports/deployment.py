"""The ports that planning, checking and recovery work on, and a store that lists each folder once."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cache
from operator import attrgetter
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Self, cast

from sparklet.errors import ObjectStoreError, RunNotFoundError, ScratchFullError, SettingsError
from sparklet.metrics import Meter, Metric
from sparklet.model import MIB, Access, Run, split_uri
from sparklet.ports import Clock, Engine, Ledger, Notifier, ObjectInfo, ObjectStore, TaskQueue, TaskStore

WITHDRAWN = {"microvm": "Lambda MicroVMs are withdrawn"}
"""Engines that there were: open runs and schedules may still name them."""
IN_MEMORY_BYTES = 8 * MIB
MAX_KEPT_BYTES = 256 * MIB  # a million objects and more; those after them are listed again
_fields = attrgetter(*(each.name for each in fields(ObjectInfo)))


def scratch_error(what: str, error: Exception) -> ScratchFullError:
    """The error of a temporary file that could not be written."""
    return ScratchFullError(
        f"{what} could not be kept in {tempfile.gettempdir()}: {error}; free space there, or set TMPDIR"
    )


@dataclass(frozen=True, slots=True)
class Deployment:
    """The ports that planning, checking and recovery work on.

    A composition root makes one: ``runs.handlers`` in Lambda, ``local.stack`` and the command line elsewhere.
    """

    bucket: str  # holds runs/<run_id>/ and dead-letters/
    store: ObjectStore
    ledger: Ledger
    queue: TaskQueue  # of shard messages
    clock: Clock  # the ledger's, if the machine's may be wrong
    open_inputs: Callable[[Access], ObjectStore] | None = None  # stores for inputs that need another access

    tasks: TaskStore | None = None  # of the asynchronous API; only its dead-letter messages need them
    notifier: Notifier | None = None  # of the ends of runs, and of tasks of the API
    meter: Meter | None = None  # None: nothing is measured
    listed: Callable[[Access], ObjectStore] | None = None  # see ``listing_once``
    engines: Mapping[str, Engine] = field(default_factory=dict)  # by name, see ``larger``
    starts_workers: bool = True  # in them: on AWS only the checker function may
    functions: Callable[[], Mapping[str, str]] | None = None  # what their scripts are set to; None: that is not known

    @property
    def larger(self) -> str:
        """The usual engine, the first, for shards that are too much for a function; "": there is none."""
        return next(iter(self.engines), "")

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
        """The same deployment for one request, whose check of the input and plan share one listing of each folder."""
        with ExitStack() as files:
            yield replace(self, listed=cache(lambda access: cast(ObjectStore, ListedOnce(self.inputs(access), files))))

    def known_run(self, run_id: str) -> Run | None:
        """The run of this id; None if there is none."""
        try:
            return self.ledger.runs.get(run_id)
        except RunNotFoundError:
            return None

    def measure(self, metric: Metric, value: float = 1) -> None:
        """Add to a metric, if there is a meter."""
        if self.meter is not None:
            self.meter.add(metric, value)

    @property
    def runs_uri(self) -> str:
        """The folder in which every run has one of its own."""
        return f"s3://{self.bucket}/runs/"

    def run_uri(self, run_id: str, name: str = "") -> str:
        """A file of a run, or its folder."""
        return f"{self.runs_uri}{run_id}/{name}"

    def part_uri(self, run_id: str, part: str) -> str:
        """A plan part, from which the worker reads its shard."""
        return self.run_uri(run_id, f"plan/{part}")


@dataclass(frozen=True)
class ListedOnce:
    """A store that lists each folder once and keeps the listing in ``files``; it forwards everything else."""

    _store: ObjectStore
    _files: ExitStack
    _listings: dict[str, tuple[IO[bytes], Iterator[ObjectInfo]]] = field(default_factory=dict)  # kept, and what follows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def list(self, prefix_uri: str, start_after: str = "") -> Iterator[ObjectInfo]:
        """The objects as they were at the first listing; those after a key as they are now."""
        read_bytes = MAX_KEPT_BYTES if start_after else 0
        if prefix_uri not in self._listings:
            file = self._files.enter_context(SpooledTemporaryFile(IN_MEMORY_BYTES))  # noqa: SIM115 - it does
            self._listings[prefix_uri] = file, self._store.list(prefix_uri)
        while read_bytes < MAX_KEPT_BYTES:
            if not (line := self._line(prefix_uri, read_bytes)):
                return
            read_bytes += len(line)
            info = ObjectInfo(*json.loads(line))
            start_after = split_uri(info.uri)[1]
            yield info
        yield from self._store.list(prefix_uri, start_after)

    def _line(self, prefix_uri: str, place: int) -> bytes:
        file, rest = self._listings[prefix_uri]
        try:
            file.seek(place)
            if not (line := file.readline()) and (info := next(rest, None)):
                line = json.dumps(_fields(info)).encode() + b"\n"
                file.write(line)
        except ObjectStoreError:
            del self._listings[prefix_uri]  # what was listed until now is not all of it
            raise
        except OSError as error:
            raise scratch_error("what was listed", error) from error
        return line

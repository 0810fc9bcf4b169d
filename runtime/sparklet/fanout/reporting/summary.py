"""What a run has to show: counts, rows, bytes, time, and why shards failed; read from the ledger in one pass."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from sparklet.model import Counts, Run, RunOptions, RunState, ShardRecord, ShardState
from sparklet.ports import Shards

TOP_CAUSES = 10
MOST_CAUSES = 1000  # classes told apart while counting; the rest is counted together
OTHER_CAUSES = "(other causes)"


@dataclass(frozen=True, slots=True)
class Cause:
    """A class of failure, with the first shard that shows it."""

    error_class: str
    count: int
    example_shard: int
    example_message: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run has to show, as the ledger says it."""

    run_id: str
    state: RunState
    generation: int
    counts: Counts
    objects: int  # in all shards
    input_bytes: int  # stored bytes of all shards
    rows: int | None  # of the succeeded shards that say so; None: none does
    output_bytes: int | None  # likewise
    silent_shards: int  # succeeded shards that say nothing of their rows
    attempts: int  # in the last generation of each shard
    unrun: int  # messages that came back as dead letters though no attempt had come of them, and were sent again
    task_s: float  # time of the last attempts of ended shards, added up
    created_s: float
    changed_s: float  # when a shard last changed
    causes: tuple[Cause, ...]  # of the failed shards, most frequent first, at most 10

    @property
    def duration_s(self) -> float:
        """From the run's creation to the last change of a shard."""
        return max(0.0, self.changed_s - self.created_s)


def summarize(run: Run, shards: Shards, state: RunState | None = None) -> Summary:
    """Add up a run's shards as they stand now (strongly consistent, a whole pass), for a run that is in ``state``."""
    tally = Tally()
    for record in shards.list(run.run_id):
        tally.add(record)
    return tally.summary(run, state or run.state)


def verdict(options: RunOptions, counts: Counts) -> RunState:
    """How a run ends whose shards have all ended.

    As in Step Functions, each limit that was set must be kept; where none is set no failure is tolerated.
    A run without a single shard has failed: its input was gone before it was planned.
    """
    if not counts.total:
        return RunState.FAILED
    if not counts.failed:
        return RunState.SUCCEEDED
    tolerated = tolerated_failures(options, counts.total)
    return RunState.SUCCEEDED_WITH_FAILURES if counts.failed <= (tolerated or 0) else RunState.FAILED


def tolerated_failures(options: RunOptions, shards: int) -> int | None:
    """How many of a run's shards may fail; None where it sets no limit: then none may, but none stops it."""
    count, percentage = options.tolerated_failure_count, options.tolerated_failure_percentage
    limits = [count] if count else []
    if percentage:
        limits.append(int(percentage * shards // 100))
    return min(limits, default=None)


@dataclass(slots=True)
class Tally:
    """Adds shards up one by one; its size does not grow with their number."""

    states: dict[ShardState, int] = field(default_factory=lambda: dict.fromkeys(ShardState, 0))
    objects: int = 0
    input_bytes: int = 0
    rows: int | None = None
    output_bytes: int | None = None
    silent_shards: int = 0
    attempts: int = 0
    unrun: int = 0
    task_s: float = 0.0
    changed_s: float = 0.0
    causes: dict[str, Cause] = field(default_factory=dict)

    def add(self, record: ShardRecord) -> None:
        """Count one shard."""
        self.states[record.state] += 1
        self.objects += record.object_count
        self.input_bytes += record.size_bytes
        self.attempts += record.attempts
        self.unrun += record.unrun
        self.changed_s = max(self.changed_s, record.changed_s)
        if record.state.ended and record.attempts:
            self.task_s += record.took_s
        if record.state is ShardState.SUCCEEDED:
            self.rows = plus(self.rows, record.rows)
            self.output_bytes = plus(self.output_bytes, record.output_bytes)
            self.silent_shards += record.rows is None
        if record.state is ShardState.FAILED:
            self._add_cause(record)

    def _add_cause(self, record: ShardRecord) -> None:
        name = record.error_class or "(no cause given)"
        if name not in self.causes and len(self.causes) >= MOST_CAUSES:
            name = OTHER_CAUSES
        known = self.causes.get(name) or Cause(name, 0, record.number, record.error_message)
        self.causes[name] = Cause(name, known.count + 1, known.example_shard, known.example_message)

    @property
    def counts(self) -> Counts:
        """Shards by state."""
        return Counts(*(self.states[state] for state in ShardState))

    def summary(self, run: Run, state: RunState) -> Summary:
        """What was added up, as the summary of ``run`` in ``state``."""
        return Summary(
            run_id=run.run_id,
            state=state,
            generation=run.generation,
            counts=self.counts,
            objects=self.objects,
            input_bytes=self.input_bytes,
            rows=self.rows,
            output_bytes=self.output_bytes,
            silent_shards=self.silent_shards,
            attempts=self.attempts,
            unrun=self.unrun,
            task_s=self.task_s,
            created_s=run.created_s,
            changed_s=max(self.changed_s, run.created_s),
            causes=_most_frequent(self.causes.values()),
        )


def _most_frequent(causes: Iterable[Cause]) -> tuple[Cause, ...]:
    return tuple(sorted(causes, key=lambda cause: (-cause.count, cause.error_class))[:TOP_CAUSES])


def plus(total: int | None, more: int | None) -> int | None:
    """Add what may be unknown; None until anything is known."""
    return total if more is None else (total or 0) + more

"""What was lost, what was doubled: from the input, the workers' notes and the manifests, set against the ledger.

An execution *counts* if it is the attempt that the ledger names, or if its worker was allowed to believe so (its
message was acknowledged). Each shard must have exactly one execution that counts, of exactly its input. What else was
executed must be known not to count: given back by the handler, or ended by a fault between its work and its answer.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks.scale.notes import BACK, DIED, EXECUTED, TOLD, Note
from sparklet.model import ShardRecord, ShardState

MAX_NAMED = 10


@dataclass(frozen=True, slots=True)
class Executions:
    """What workers did, by their own notes."""

    sources: dict[tuple[int, str], str]  # by shard and attempt: the input that was executed
    told: dict[int, set[str]]  # by shard: attempts whose message was acknowledged
    back: set[tuple[int, str]]  # given back
    died: set[tuple[int, str]]  # ended by a fault
    faults: Counter[str]

    @classmethod
    def of(cls, notes: Iterable[Note]) -> "Executions":
        """Sort the notes."""
        done = cls({}, defaultdict(set), set(), set(), Counter())
        for note in notes:
            attempt, _, rest = note.detail.partition(" ")
            if note.what == EXECUTED:
                done.sources[note.shard, attempt] = rest
            elif note.what == TOLD:
                done.told[note.shard].add(attempt)
            elif note.what == BACK:
                done.back.add((note.shard, attempt))
            else:
                done.faults[f"{note.what} {rest if note.what == DIED else note.detail}".strip()] += 1
            if note.what == DIED:
                done.died.add((note.shard, attempt))
        return done


@dataclass(slots=True)
class Account:
    """What came out, with names for whatever is off."""

    shards: int = 0
    succeeded: int = 0
    failed: int = 0
    executions: int = 0
    repeated: int = 0  # executions beyond one a shard: known not to count, or they are among the doubled
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # what else is not as it should be

    @property
    def good(self) -> bool:
        """Whether everything adds up."""
        return not (self.lost or self.duplicated or self.wrong)

    @property
    def line(self) -> str:
        """The figures in one line."""
        lost, duplicated = len(self.lost), len(self.duplicated)
        counts = f"shards={self.shards} succeeded={self.succeeded} failed={self.failed}"
        return f"{counts} lost={lost} duplicated={duplicated}"

    def problems(self) -> list[str]:
        """What is off, the first of each kind."""
        kinds = {"lost": self.lost, "duplicated": self.duplicated, "wrong": self.wrong}
        return [f"{kind}: {name}" for kind, names in kinds.items() for name in names[:MAX_NAMED]]


def account(
    inputs: Sequence[str],
    planned: Iterable[tuple[int, str]],
    ledger: Iterable[ShardRecord],
    listed: Iterable[tuple[int, str]],
    done: Executions,
    to_fail: frozenset[int] = frozenset(),
) -> Account:
    """Set what happened against what was asked for.

    Parameters
    ----------
    inputs
        Addresses of all input objects.
    planned
        Shard and input, from the plan's parts.
    ledger
        All shards.
    listed
        Shard and status, from the result files of the manifest.
    to_fail
        Shards whose script fails for good; no other may fail.
    """
    found = Account()
    source_of = _planned(found, inputs, planned)
    results = _listed(found, listed)
    for record in ledger:
        found.shards += 1
        _judge(found, record, source_of.pop(record.number, None), done, record.number in to_fail)
        if results.pop(record.number, None) != record.state:
            found.wrong.append(f"shard {record.number} is {record.state}, the result files say otherwise or nothing")
    found.lost += [f"shard {number} ({source}) is not in the ledger" for number, source in source_of.items()]
    found.wrong += [f"shard {number} is in the result files only" for number in results]
    found.executions = len(done.sources)
    found.repeated = found.executions - len({number for number, _ in done.sources})
    return found


def _planned(found: Account, inputs: Sequence[str], planned: Iterable[tuple[int, str]]) -> dict[int, str]:
    """The input of each shard; objects in no shard or in two are noted."""
    source_of: dict[int, str] = {}
    times: Counter[str] = Counter()
    for number, source in planned:
        if number in source_of:
            found.duplicated.append(f"shard {number} is planned twice")
        source_of[number] = source
        times[source] += 1
    found.lost += [f"{source} is in no shard" for source in inputs if source not in times]
    found.duplicated += [f"{source} is in {count} shards" for source, count in times.items() if count > 1]
    return source_of


def _listed(found: Account, listed: Iterable[tuple[int, str]]) -> dict[int, str]:
    results: dict[int, str] = {}
    for number, status in listed:
        if number in results:
            found.duplicated.append(f"shard {number} is twice in the result files")
        results[number] = status
    return results


def _judge(found: Account, record: ShardRecord, source: str | None, done: Executions, to_fail: bool) -> None:
    """One shard: its state, and which of its executions count."""
    name = f"shard {record.number} ({source})"
    if source is None:
        found.wrong.append(f"{name} was never planned")
    told = done.told.get(record.number, set())
    counting = set(told)
    if record.state is ShardState.SUCCEEDED:
        found.succeeded += 1
        counting.add(record.attempt_id)
        if done.sources.get((record.number, record.attempt_id)) != source:
            found.lost.append(f"{name} SUCCEEDED by attempt {record.attempt_id}, which has not executed it")
    elif record.state is ShardState.FAILED:
        found.failed += 1
    else:
        found.lost.append(f"{name} is {record.state}")
    if record.state.ended and to_fail is not (record.state is ShardState.FAILED):
        found.wrong.append(f"{name} is {record.state}: {record.error_class} {record.error_message}")
    if len(counting) > 1:
        found.duplicated.append(f"{name} was done by {' and '.join(sorted(counting))}")


def unexplained(done: Executions, winners: dict[int, str]) -> list[str]:
    """Executions that do not count, and nobody knows why."""
    return [
        f"shard {shard} was executed by attempt {attempt}, which neither counts nor was given back nor died"
        for shard, attempt in done.sources
        if winners.get(shard) != attempt
        and attempt not in done.told.get(shard, ())
        and (shard, attempt) not in done.back | done.died
    ]

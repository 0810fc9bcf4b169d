"""Comparison of queue, ledger and results: what the scheduled checker measures, and where the three differ.

Nothing depends on this. A queue's numbers are approximate and a minute old, and the index lags, so ``Watch`` reports
only differences that last for several checks. ``verify`` (``status --verify``) compares one whole run: it reads all its
shards and lists its output.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from itertools import islice

from sparklet import metrics
from sparklet.errors import ObjectNotFoundError, SparkletError
from sparklet.model import SCHEME, Counts, Dispatch, Run, ShardRecord, ShardState
from sparklet.planning.deployment import Deployment
from sparklet.ports import QueueDepth
from sparklet.runs.checker import CheckReport
from sparklet.runs.log import log
from sparklet.runs.manifest import MANIFEST
from sparklet.runs.notices import finalizable

LASTING = 3  # checks in a row, so minutes
MAX_EXAMPLES = 5
MAX_LOOKED_AT = 1000  # shards that wait for engines, before one that does not
MAX_STORED = 1000  # dead-letter messages, one page of a listing
COMPARED_FOR_S = 3600.0  # after a run's end its manifest is compared for so long


class Kind(StrEnum):
    """Kinds of differences."""

    NO_MESSAGE = "NO_MESSAGE"  # PENDING shards without a message
    NOT_TAKEN = "NOT_TAKEN"  # messages wait and no worker takes any
    COUNTS = "COUNTS"  # the states do not add up to the plan
    MANIFEST = "MANIFEST"  # a manifest differs from the ledger
    NO_OUTPUT = "NO_OUTPUT"  # a shard wrote rows, and nothing is where it writes


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference between two of queue, ledger and results."""

    kind: Kind
    subject: str  # a run, or "queue"
    found: str  # what, and what to do
    count: int = 1  # shards or messages


@dataclass(slots=True)
class Watch:
    """Counts, within this process, for how many checks in a row each difference has lasted."""

    _seen: Counter[tuple[Kind, str]] = field(default_factory=Counter)

    def look(self, found: Iterable[Difference]) -> tuple[Difference, ...]:
        """Add the differences of one check; those that have lasted long enough."""
        now = {(each.kind, each.subject): each for each in found}
        self._seen = Counter({key: self._seen[key] + 1 for key in now})
        return tuple(each for key, each in now.items() if self._seen[key] >= LASTING)


def look_over(at: Deployment, unfinalized: Sequence[Run], reports: Sequence[CheckReport], watch: Watch) -> None:
    """Measure the whole deployment, report differences that last, and finalize ended runs that have none.

    ``unfinalized`` are runs as they were before this round of checks, ``reports`` those of its checks. No open run
    depends on this, so a failure is only logged.
    """
    still_open = [report for report in reports if not report.run.state.ended]
    at.measure(metrics.RUNS_OPEN, len(still_open))
    at.measure(metrics.SHARDS_PENDING, sum(report.counts.pending for report in still_open))
    at.measure(metrics.SHARDS_RUNNING, sum(report.counts.running for report in still_open))
    try:
        at.measure(metrics.OLDEST_OPEN_SHARD, max((_waiting_s(at, report) for report in still_open), default=0.0))
        at.measure(metrics.DEAD_LETTERS_STORED, stored_dead_letters(at))
        queued = [(r.run, replace(r.counts, pending=r.counts.pending - r.waiting.shards)) for r in still_open]
        found = [*queue_differences(at, queued)]
        for run in finalizable(at, unfinalized):
            differences = [*recent_manifest_differences(at, run)]
            found += differences
            if not differences:
                at.ledger.runs.finalize(run)
        lasting = watch.look(found)
    except SparkletError as error:
        log("WARNING", "queue, ledger and results could not be compared", "deployment", error=str(error))
        return
    at.measure(metrics.DIFFERENCES, len(lasting))
    for each in lasting:
        log("WARNING", "queue, ledger and results differ", **asdict(each))


def verify(at: Deployment, run_id: str) -> Iterator[Difference]:
    """All differences of one run, by a whole pass over its shards and a listing of its output."""
    run = at.ledger.runs.get(run_id)
    counts = at.ledger.shards.count(run_id)
    if run.shard_count is not None and counts.total != run.shard_count:
        found = f"the ledger has {counts.total} shards, the sealed plan {run.shard_count}"
        yield Difference(Kind.COUNTS, run_id, found, abs(counts.total - run.shard_count))
    if run.state.ended:
        yield from _in_manifest(at, run, counts)
    yield from _in_output(at, run)


def stored_dead_letters(at: Deployment) -> int:
    """How many unreadable messages are under ``dead-letters/``, by one page of a listing."""
    return sum(1 for _ in islice(at.store.list(f"{SCHEME}{at.bucket}/dead-letters/"), MAX_STORED))


def _waiting_s(at: Deployment, report: CheckReport) -> float:
    """How long the PENDING shard has waited that has waited longest, for an engine or not.

    By the index' first bucket, a sample of a large run, in which those that wait for engines come first.
    """
    if not report.counts.pending:
        return 0.0
    now_s = at.clock.now_s()
    there = at.ledger.shards.for_engines(report.run.run_id)
    first = islice(at.ledger.shards.expired(report.run.run_id, ShardState.PENDING, now_s), MAX_LOOKED_AT)
    here = (record for record in first if not record.engine)
    return max((now_s - oldest.changed_s for each in (there, here) for oldest in islice(each, 1)), default=0.0)


def queue_differences(at: Deployment, checked: Iterable[tuple[Run, Counts]]) -> Iterator[Difference]:
    """Differences between the queue's numbers and open runs; they may be gone at the next check."""
    sealed = [
        counts
        for run, counts in checked
        if run.dispatch is Dispatch.QUEUE and run.sealed and run.cancelled_s is None and not run.options.max_concurrency
    ]
    pending, running = sum(c.pending for c in sealed), sum(c.running for c in sealed)
    queue = at.queue.depth()
    dead_letters = at.dead_letters.depth().total if at.dead_letters else 0
    if missing := missing_messages(pending, running, queue, dead_letters):
        found = (
            f"{missing} of {pending} PENDING shards have no message: the queue holds {queue.visible} visible, "
            f"{queue.in_flight} in flight, {queue.delayed} delayed, {running} shards are RUNNING; the checker sends "
            "lost messages again by itself"
        )
        yield Difference(Kind.NO_MESSAGE, "queue", found, missing)
    if queue.visible and not queue.in_flight and not running:
        found = (
            f"{queue.visible} messages wait and no worker receives any: check whether the worker's mapping is enabled, "
            "and for throttling (sparklet doctor --stack names contradicting settings)"
        )
        yield Difference(Kind.NOT_TAKEN, "queue", found, queue.visible)


def missing_messages(pending: int, running: int, queue: QueueDepth, dead_letters: int = 0) -> int:
    """How many PENDING shards have no message, at least.

    Each RUNNING shard is taken to hold one of the messages in flight; a dead-letter message counts, too. Messages
    of ended or unknown shards hide missing ones; up to 2 % are ignored, since the numbers are approximate.
    """
    free = queue.visible + queue.delayed + max(0, queue.in_flight - running) + dead_letters
    missing = pending - free
    return missing if missing > pending // 50 else 0


def recent_manifest_differences(at: Deployment, run: Run) -> Iterator[Difference]:
    """Differences between ledger and manifest of a run that ended within the hour."""
    if run.ended_s and run.ended_s > at.clock.now_s() - COMPARED_FOR_S and run.shard_count is not None:
        yield from _in_manifest(at, run, at.ledger.shards.glance(run.run_id))


def _in_manifest(at: Deployment, run: Run, counts: Counts) -> Iterator[Difference]:
    remedy = f"sparklet watch {run.run_id} writes it again"
    try:
        document = json.loads(at.store.get(at.run_uri(run.run_id, MANIFEST)))
        items = document["ItemCounts"]
        listed = Counts(*(int(items[name]) for name in ("Pending", "Running", "Succeeded", "Failed")))
        state, generation = document["Status"], document["RedriveCount"]
    except ObjectNotFoundError:
        yield Difference(Kind.MANIFEST, run.run_id, f"the run has ended and has no manifest; {remedy}")
        return
    except (ValueError, KeyError, TypeError):
        yield Difference(Kind.MANIFEST, run.run_id, f"its manifest is not what was written; delete it, then {remedy}")
        return
    if (listed, state, generation) != (counts, str(run.state), run.generation):
        found = f"its manifest says {state} {_numbers(listed)}, the ledger {run.state} {_numbers(counts)}"
        yield Difference(Kind.MANIFEST, run.run_id, f"{found}; delete the manifest, then {remedy}")


def _numbers(counts: Counts) -> str:
    return f"({counts.succeeded} succeeded, {counts.failed} failed, {counts.open} open)"


def _in_output(at: Deployment, run: Run) -> Iterator[Difference]:
    """One listing of the output, then one pass over the shards; one byte of memory for each shard."""
    if not run.output_uri.startswith(SCHEME) or run.shard_count is None:
        return
    has_data, folder = bytearray(run.shard_count), f"{run.output_uri.rstrip('/')}/{run.shard_prefix}"
    for info in at.store.list(folder):
        number, _, name = info.uri[len(folder) :].partition("/")
        if name and not name.rpartition("/")[2].startswith(("_", ".")) and int(number) < run.shard_count:
            has_data[int(number)] = 1
    lacking, examples = 0, list[str]()
    for record in at.ledger.shards.list(run.run_id, ShardState.SUCCEEDED):
        if record.rows and not has_data[record.number] and not _elsewhere(at, run, record):
            lacking += 1
            if lacking <= MAX_EXAMPLES:
                examples.append(str(record.number))
    if lacking:
        named = ", ".join([*examples, "…"] if lacking > MAX_EXAMPLES else examples)
        found = (
            f"{lacking} SUCCEEDED shards reported rows and nothing lies in {folder}… "
            f"(shards {named}): deleted since, or written elsewhere and not reported (job.report outputs=…)"
        )
        yield Difference(Kind.NO_OUTPUT, run.run_id, found, lacking)


def _elsewhere(at: Deployment, run: Run, record: ShardRecord) -> bool:
    """Whether there is an object at an address that the script reported, outside the shard's own folder."""
    own = run.shard_output(record.number)
    reported = [uri for uri in record.outputs if uri.startswith(SCHEME) and not uri.startswith(own)]
    return any(next(iter(at.store.list(uri)), None) is not None for uri in reported)

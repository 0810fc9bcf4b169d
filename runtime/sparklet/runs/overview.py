"""One look at queue, ledger and results: what the scheduled checker measures, and where the three disagree.

The ledger is the only truth and the checker replaces what is lost without asking the queue, so nothing here changes a
shard, and nothing rests on it. A queue's numbers are approximate and a minute old, and the index lags, so one sight of
a difference says nothing: ``Watch`` reports what was there several checks in a row. ``verify`` (``status --verify``)
takes the same look at one whole run: it reads all its shards and lists its output.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from itertools import islice

from sparklet.errors import ObjectNotFoundError, SparkletError
from sparklet.metrics import (
    DEAD_LETTERS_STORED,
    DIFFERENCES,
    OLDEST_OPEN_SHARD,
    RUNS_OPEN,
    SHARDS_PENDING,
    SHARDS_RUNNING,
)
from sparklet.model import Counts, Dispatch, Run, ShardRecord, ShardState
from sparklet.planning.deployment import Deployment
from sparklet.ports import QueueDepth
from sparklet.runs.checker import CheckReport
from sparklet.runs.log import log
from sparklet.runs.manifest import MANIFEST
from sparklet.runs.notices import finalizable, finalize
from sparklet.s3_uri import SCHEME

LASTING = 3  # checks in a row, so minutes
MAX_EXAMPLES = 5
MAX_LETTERS = 1000  # one page of a listing
COMPARED_FOR_S = 3600.0  # runs that ended so lately are compared with their manifests


class Kind(StrEnum):
    """What can differ."""

    NO_MESSAGE = "NO_MESSAGE"  # PENDING shards without a message
    NOT_TAKEN = "NOT_TAKEN"  # messages wait and no worker takes any
    COUNTS = "COUNTS"  # the states do not add up to the plan
    MANIFEST = "MANIFEST"  # a manifest differs from the ledger
    NO_OUTPUT = "NO_OUTPUT"  # a shard wrote rows, and nothing is where it writes


@dataclass(frozen=True, slots=True)
class Difference:
    """A disagreement of two of the three."""

    kind: Kind
    subject: str  # a run, or "queue"
    found: str  # what, and what to do
    count: int = 1  # shards or messages


@dataclass(slots=True)
class Watch:
    """Remembers, as long as its process lives, for how many checks in a row each difference was there."""

    _seen: Counter[tuple[Kind, str]] = field(default_factory=Counter)

    def look(self, found: Iterable[Difference]) -> tuple[Difference, ...]:
        """Take what one check found; what has been there for long enough."""
        now = {(each.kind, each.subject): each for each in found}
        self._seen = Counter({key: self._seen[key] + 1 for key in now})
        return tuple(each for key, each in now.items() if self._seen[key] >= LASTING)


def look_over(at: Deployment, unsettled: Sequence[Run], reports: Sequence[CheckReport], watch: Watch) -> None:
    """Measure the whole deployment, report differences that last, and settle ended runs that show none.

    No open run depends on it, so a failure is only logged.

    Parameters
    ----------
    unsettled
        The runs as they were before they were checked.
    reports
        What the checks of those that needed one have found.
    """
    still_open = [report for report in reports if not report.run.state.ended]
    at.measure(RUNS_OPEN, len(still_open))
    at.measure(SHARDS_PENDING, sum(report.counts.pending for report in still_open))
    at.measure(SHARDS_RUNNING, sum(report.counts.running for report in still_open))
    try:
        at.measure(OLDEST_OPEN_SHARD, max((_waiting_s(at, report) for report in still_open), default=0.0))
        at.measure(DEAD_LETTERS_STORED, stored_dead_letters(at))
        ended = finalizable(at, unsettled)
        found = [*queue_differences(at, [(report.run, report.counts) for report in still_open])]
        for run in ended:
            found += recent_manifest_differences(at, run)
        finalize(at, ended, {each.subject for each in found})
        lasting = watch.look(found)
    except SparkletError as error:
        log("WARNING", "queue, ledger and results could not be compared", "deployment", error=str(error))
        return
    at.measure(DIFFERENCES, len(lasting))
    for each in lasting:
        log("WARNING", "queue, ledger and results differ", **asdict(each))


def verify(at: Deployment, run_id: str) -> Iterator[Difference]:
    """Everything that can be compared of one run: a whole pass over its shards, and a listing of its output."""
    run = at.ledger.runs.get(run_id)
    counts = at.ledger.shards.count(run_id)
    if run.shard_count is not None and counts.total != run.shard_count:
        found = f"the ledger has {counts.total} shards, the sealed plan {run.shard_count}"
        yield Difference(Kind.COUNTS, run_id, found, abs(counts.total - run.shard_count))
    if run.state.ended:
        yield from _in_manifest(at, run, counts)
    yield from _in_output(at, run)


def stored_dead_letters(at: Deployment) -> int:
    """Dead-letter messages kept under ``dead-letters/`` as unreadable, as far as one page of the listing goes."""
    return sum(1 for _ in islice(at.store.list(f"{SCHEME}{at.bucket}/dead-letters/"), MAX_LETTERS))


def _waiting_s(at: Deployment, report: CheckReport) -> float:
    """How long the longest-waiting PENDING shard has waited: of the index's first bucket, a sample of a large run."""
    if not report.counts.pending:
        return 0.0
    now_s = at.clock.now_s()
    oldest = next(iter(at.ledger.shards.expired(report.run.run_id, ShardState.PENDING, now_s)), None)
    return max(0.0, now_s - oldest.changed_s) if oldest else 0.0


# --- queue and ledger -------------------------------------------------------------


def queue_differences(at: Deployment, checked: Iterable[tuple[Run, Counts]]) -> Iterator[Difference]:
    """What the queue's numbers show of open runs and their counts; each may be gone with the next look."""
    sealed = [
        counts for run, counts in checked if run.dispatch is Dispatch.QUEUE and run.sealed and run.cancelled_s is None
    ]
    pending, running = sum(c.pending for c in sealed), sum(c.running for c in sealed)
    queue = at.queue.depth()
    letters = at.dead_letters.depth().total if at.dead_letters else 0
    if missing := missing_messages(pending, running, queue, letters):
        found = (
            f"{missing} of {pending} PENDING shards have no message: the queue holds {queue.visible} visible, "
            f"{queue.in_flight} in flight, {queue.delayed} delayed, {running} shards are RUNNING; the checker sends "
            "lost messages again by itself"
        )
        yield Difference(Kind.NO_MESSAGE, "queue", found, missing)
    if queue.visible and not queue.in_flight and not running:
        found = (
            f"{queue.visible} messages wait and no worker takes any: look whether the worker's mapping is enabled, "
            "and for throttling (sparklet doctor --stack names contradicting settings)"
        )
        yield Difference(Kind.NOT_TAKEN, "queue", found, queue.visible)


def missing_messages(pending: int, running: int, queue: QueueDepth, letters: int = 0) -> int:
    """How many PENDING shards have no message, at the least.

    Each RUNNING shard is taken to hold one of the messages in flight, and a dead-letter message is still a message.
    Messages of ended shards, or of none, hide missing ones; up to 2 % are put down to the numbers being approximate.
    """
    free = queue.visible + queue.delayed + max(0, queue.in_flight - running) + letters
    missing = pending - free
    return missing if missing > pending // 50 else 0


# --- ledger and results -----------------------------------------------------------


def recent_manifest_differences(at: Deployment, run: Run) -> Iterator[Difference]:
    """How the manifest of a run that ended within the hour differs from the ledger."""
    if run.ended_s and run.ended_s > at.clock.now_s() - COMPARED_FOR_S and run.shard_count is not None:
        yield from _in_manifest(at, run, at.ledger.shards.glance(run.run_id))


def _in_manifest(at: Deployment, run: Run, counts: Counts) -> Iterator[Difference]:
    remedy = f"sparklet watch {run.run_id} writes it anew"
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
    """One listing of the output, then one pass over the shards; a byte of memory a shard."""
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
            f"(shards {named}): deleted since, or written elsewhere without being reported (job.report outputs=…)"
        )
        yield Difference(Kind.NO_OUTPUT, run.run_id, found, lacking)


def _elsewhere(at: Deployment, run: Run, record: ShardRecord) -> bool:
    """Whether something lies at one of the places that the script reported, outside the shard's own folder."""
    own = run.shard_output(record.number)
    places = [uri for uri in record.outputs if uri.startswith(SCHEME) and not uri.startswith(own)]
    return any(next(iter(at.store.list(uri)), None) is not None for uri in places)

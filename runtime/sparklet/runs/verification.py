"""Whether ledger, manifest and output of a run agree (``sparklet status RUN --verify``)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from sparklet.errors import ObjectNotFoundError
from sparklet.model import SCHEME, Counts, Run, ShardRecord, ShardState
from sparklet.ports.deployment import Deployment
from sparklet.runs.manifest import MANIFEST

MAX_EXAMPLES = 5


class DifferenceKind(StrEnum):
    """What disagrees."""

    COUNTS = "COUNTS"  # the states do not add up to the plan
    MANIFEST = "MANIFEST"  # a manifest differs from the ledger
    NO_OUTPUT = "NO_OUTPUT"  # a shard wrote rows, and nothing is where it writes


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference between ledger, manifest and output of a run."""

    kind: DifferenceKind
    subject: str  # the run
    found: str  # what, and what to do
    count: int = 1  # shards


def verify(at: Deployment, run_id: str) -> Iterator[Difference]:
    """All differences of one run, by a whole pass over its shards and a listing of its output."""
    run = at.ledger.runs.get(run_id)
    counts = at.ledger.shards.count(run_id)
    if run.shard_count is not None and counts.total != run.shard_count:
        found = f"the ledger has {counts.total} shards, the sealed plan {run.shard_count}"
        yield Difference(DifferenceKind.COUNTS, run_id, found, abs(counts.total - run.shard_count))
    if run.state.ended:
        yield from _in_manifest(at, run, counts)
    yield from _in_output(at, run)


def _in_manifest(at: Deployment, run: Run, counts: Counts) -> Iterator[Difference]:
    remedy = f"sparklet watch {run.run_id} writes it again"
    try:
        document = json.loads(at.store.get(at.run_uri(run.run_id, MANIFEST)))
        items = document["ItemCounts"]
        listed = Counts(*(int(items[name]) for name in ("Pending", "Running", "Succeeded", "Failed")))
        state, generation = document["Status"], document["RedriveCount"]
    except ObjectNotFoundError:
        yield Difference(DifferenceKind.MANIFEST, run.run_id, f"the run has ended and has no manifest; {remedy}")
        return
    except (ValueError, KeyError, TypeError):
        yield Difference(DifferenceKind.MANIFEST, run.run_id, f"its manifest is damaged; delete it, then {remedy}")
        return
    if (listed, state, generation) != (counts, str(run.state), run.generation):
        found = f"its manifest has {state} {_in_words(listed)}, the ledger {run.state} {_in_words(counts)}"
        yield Difference(DifferenceKind.MANIFEST, run.run_id, f"{found}; delete the manifest, then {remedy}")


def _in_words(counts: Counts) -> str:
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
        yield Difference(DifferenceKind.NO_OUTPUT, run.run_id, found, lacking)


def _elsewhere(at: Deployment, run: Run, record: ShardRecord) -> bool:
    """Whether there is an object at an address that the script reported, outside the shard's own folder."""
    own = run.shard_output(record.number)
    reported = [uri for uri in record.outputs if uri.startswith(SCHEME) and not uri.startswith(own)]
    return any(next(iter(at.store.list(uri)), None) is not None for uri in reported)

"""Whether ledger, manifest and output of a run agree (``sparklet status RUN --verify``)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from sparklet.errors import ObjectNotFoundError
from sparklet.model import SCHEME, Counts, Run, ShardRecord, ShardState
from sparklet.planning.inputs.selection import is_hidden
from sparklet.planning.outputs import published_files
from sparklet.ports.deployment import Deployment
from sparklet.runs.manifest import MANIFEST

MAX_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference between ledger, manifest and output of a run."""

    kind: str  # COUNTS: states and plan; MANIFEST: it and the ledger; NO_OUTPUT: of a shard that wrote rows
    subject: str  # the run
    found: str  # what, and what to do
    count: int = 1  # shards


def verify(deployment: Deployment, run_id: str) -> Iterator[Difference]:
    """All differences of one run, by a whole pass over its shards and a listing of its output."""
    run = deployment.ledger.runs.get(run_id)
    counts = deployment.ledger.shards.count(run_id)
    if run.shard_count is not None and counts.total != run.shard_count:
        message = f"the ledger has {counts.total} shards, the sealed plan {run.shard_count}"
        yield Difference("COUNTS", run_id, message, abs(counts.total - run.shard_count))
    if run.state.ended and (message := _in_manifest(deployment, run, counts)):
        yield Difference("MANIFEST", run_id, message)
    yield from _in_output(deployment, run)


def _in_manifest(deployment: Deployment, run: Run, counts: Counts) -> str:
    """How the manifest differs from the ledger, and the remedy; "" if it does not."""
    remedy = f"sparklet watch {run.run_id} writes it again"
    ledger = {"state": str(run.state), "generation": run.generation, "counts": counts.to_document()}
    try:
        document = json.loads(deployment.store.get(deployment.run_uri(run.run_id, MANIFEST)))
        manifest = {key: document["run"][key] for key in ledger}
    except ObjectNotFoundError:
        return f"the run has ended and has no manifest; {remedy}"
    except (ValueError, KeyError, TypeError):
        return f"its manifest is damaged; delete it, then {remedy}"
    if manifest == ledger:
        return ""
    differ = f"its manifest has {json.dumps(manifest)}, the ledger {json.dumps(ledger)}"
    return f"{differ}; delete the manifest, then {remedy}"


def _in_output(deployment: Deployment, run: Run) -> Iterator[Difference]:
    """One listing of the output, then one pass over the shards; one byte of memory for each shard."""
    if not run.output_uri.startswith(SCHEME) or run.shard_count is None:
        return
    has_data = bytearray(run.numbers)
    for number, info in published_files(deployment.store, run):
        if not is_hidden(info.uri[len(run.output_uri) :]) and number < run.numbers:
            has_data[number] = 1
    lacking, examples = 0, list[str]()
    for record in deployment.ledger.shards.list(run.run_id, ShardState.SUCCEEDED):
        if record.rows and not has_data[record.number] and not _elsewhere(deployment, run, record):
            lacking += 1
            if lacking <= MAX_EXAMPLES:
                examples.append(str(record.number))
    if lacking:
        named = ", ".join([*examples, "…"] if lacking > MAX_EXAMPLES else examples)
        message = (
            f"{lacking} SUCCEEDED shards reported rows and nothing lies in {run.output_uri} "
            f"(shards {named}): deleted since, or written elsewhere and not reported (job.report outputs=…)"
        )
        yield Difference("NO_OUTPUT", run.run_id, message, lacking)


def _elsewhere(deployment: Deployment, run: Run, record: ShardRecord) -> bool:
    """Whether there is an object at an address that the script reported, outside the shard's own folder."""
    own_folder = run.shard_output(record.number)
    reported = [uri for uri in record.outputs if uri.startswith(SCHEME) and not uri.startswith(own_folder)]
    return any(next(iter(deployment.store.list(uri)), None) is not None for uri in reported)

"""Returns a run's inputs page by page, in bounded memory, each with its shard, state, rows, outputs and error.

Inputs are read from the plan, a part at a time, and states from the ledger. In a run with --output-per, workers
have written a file for each shard, with the rows and outputs of each input; in other runs an input has those of its
shard.
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from typing import Any

from sparklet.app.documents import places_of
from sparklet.app.local_files import local_inputs, local_part
from sparklet.app.stack import OpenStack
from sparklet.model import Run, ShardRecord, ShardState

SHARDS_AT_ONCE = 100  # the files of so many shards are read at the same time


def input_pages(stack: OpenStack, run: Run, size: int) -> Iterator[list[dict[str, Any]]]:
    """Yield all inputs whose shards are in the ledger, in the order of shards, in pages of ``size`` inputs at most.

    Copies of local inputs have the names of the local files, and outputs their paths in the run's local folder.
    PlanError if the plan is damaged, ObjectNotFoundError if a file of the run is gone.
    """
    if size < 1:
        raise ValueError(f"a page must have at least one input, not {size}")
    local_paths, output = local_inputs(stack, run.run_id), run.output_uri.rstrip("/")
    shown_output, inputs = places_of(stack, run)[0].rstrip("/"), _inputs(stack, run)
    while page := list(islice(inputs, size)):
        for document in page:
            if isinstance(document["input"], str):
                document["input"] = str(local_part(document["input"], local_paths) or document["input"])
            document["outputs"] = [uri.replace(output, shown_output, 1) for uri in document["outputs"]]
        yield page


def _inputs(stack: OpenStack, run: Run) -> Iterator[dict[str, Any]]:
    deployment = stack.deployment
    read_part = lru_cache(maxsize=1)(deployment.store.get)  # successive shards are mostly in the same part
    records = (record for record in deployment.ledger.shards.list(run.run_id) if record.state is not ShardState.SPLIT)
    while batch := list(islice(records, SHARDS_AT_ONCE)):
        records_with_file = [
            record for record in batch if run.options.output_per and record.state is ShardState.SUCCEEDED
        ]
        files = deployment.store.get_all(
            deployment.run_uri(run.run_id, record.inputs_file) for record in records_with_file
        )
        # The first line of a file holds names of output files; each further line is an input.
        lines_by_shard = {
            record.number: body.splitlines()[1:] for record, body in zip(records_with_file, files, strict=True)
        }
        for record in batch:
            if record.number in lines_by_shard:
                yield from (_document(record, **json.loads(line)) for line in lines_by_shard[record.number])
                continue
            uri = deployment.part_uri(run.run_id, record.part)
            objects = record.planned(read_part(uri)[record.offset : record.offset + record.length], uri).objects
            outputs = record.outputs or ([run.shard_output(record.number)] if record.output_bytes else [])
            has_succeeded, is_only_input = record.state is ShardState.SUCCEEDED, len(objects) == 1
            for item in objects:
                yield _document(
                    record,
                    input=item.uri or json.loads(item.item),
                    slice=item.slice and [str(item.slice.kind), item.slice.start, item.slice.end],
                    rows=record.rows if has_succeeded and is_only_input else None,
                    outputs=outputs if has_succeeded else (),
                )


def _document(record: ShardRecord, **fields: Any) -> dict[str, Any]:
    """Return an input's document; ``fields`` are input, rows and outputs, and for a part of an object its slice."""
    has_failed = record.state is ShardState.FAILED
    return {
        "input": fields["input"],
        "slice": fields.get("slice"),
        "shard": record.number,
        "state": str(record.state),
        "rows": fields["rows"],
        "outputs": list(fields["outputs"]),
        "error_class": record.error_class if has_failed else None,
        "error_message": record.error_message if has_failed else None,
    }

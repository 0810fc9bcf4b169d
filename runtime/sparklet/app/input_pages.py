"""What each input of a run became, page by page, in bounded memory: its shard, state, rows, outputs, and why it failed.

Inputs are read from the plan, a part at a time, and states from the ledger. In a run with an output for each input,
workers have written what each input became, one file a shard; else an input has its shard's state.
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

SHARDS_AT_ONCE = 100  # whose files are read at the same time


def input_pages(stack: OpenStack, run: Run, size: int) -> Iterator[list[dict[str, Any]]]:
    """All inputs that are in the ledger so far, in the order of their shards, at most ``size`` a page.

    Copies of local files appear under the files' names, and outputs by their place in a local folder. PlanError if the
    plan is damaged, ObjectNotFoundError if a file of the run is gone.
    """
    if size < 1:
        raise ValueError(f"a page of {size} inputs is none")
    copied, output = local_inputs(stack, run.run_id), run.output_uri.rstrip("/")
    shown_output, inputs = places_of(stack, run)[0].rstrip("/"), _inputs(stack, run)
    while page := list(islice(inputs, size)):
        for document in page:
            if isinstance(document["input"], str):
                document["input"] = str(local_part(document["input"], copied) or document["input"])
            document["outputs"] = [uri.replace(output, shown_output, 1) for uri in document["outputs"]]
        yield page


def _inputs(stack: OpenStack, run: Run) -> Iterator[dict[str, Any]]:
    deployment = stack.deployment
    part = lru_cache(maxsize=1)(deployment.store.get)  # shards that follow each other are in one
    records = (record for record in deployment.ledger.shards.list(run.run_id) if record.state is not ShardState.SPLIT)
    while some := list(islice(records, SHARDS_AT_ONCE)):
        succeeded = [record for record in some if run.options.output_per and record.state is ShardState.SUCCEEDED]
        files = deployment.store.get_all(deployment.run_uri(run.run_id, record.inputs_file) for record in succeeded)
        became = {record.number: body.splitlines()[1:] for record, body in zip(succeeded, files, strict=True)}
        for record in some:
            if record.number in became:
                yield from (_document(record, **json.loads(line)) for line in became[record.number])
                continue
            uri = deployment.part_uri(run.run_id, record.part)
            objects = record.planned(part(uri)[record.offset : record.offset + record.length], uri).objects
            outputs = record.outputs or ([run.shard_output(record.number)] if record.output_bytes else [])
            is_done, is_all = record.state is ShardState.SUCCEEDED, len(objects) == 1
            for item in objects:
                yield _document(
                    record,
                    input=item.uri or json.loads(item.item),
                    slice=item.slice and [str(item.slice.kind), item.slice.start, item.slice.end],
                    rows=record.rows if is_done and is_all else None,
                    outputs=outputs if is_done else (),
                )


def _document(record: ShardRecord, **became: Any) -> dict[str, Any]:
    has_failed = record.state is ShardState.FAILED
    return {
        "input": became["input"],
        "slice": became.get("slice"),
        "shard": record.number,
        "state": str(record.state),
        "rows": became["rows"],
        "outputs": list(became["outputs"]),
        "error_class": record.error_class if has_failed else None,
        "error_message": record.error_message if has_failed else None,
    }

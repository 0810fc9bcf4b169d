"""The index of a plan: what a Map state reads, for a run with ``dispatch`` map.

The planner writes it before it seals the plan, one reference of a shard for functions a line, as JSON Lines::

    runs/<run_id>/index.jsonl    {"run_id": "daily-7", "shard": 0, "generation": 0}

Whatever a Map leaves PENDING, the checker sends through the queue (docs/decisions/0017). ``map-of-<identity>`` beside
the index says who dispatches the run first: an execution, or the queue.
"""

import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from sparklet.errors import ObjectNotFoundError
from sparklet.model import MAX_INLINE, Run, ShardState
from sparklet.ports import ObjectInfo
from sparklet.ports.deployment import Deployment, put_once, scratch

INDEX, MAP_OF, BY_QUEUE = "index.jsonl", "map-of-", "queue"


def write_index(deployment: Deployment, run: Run) -> None:
    """Write the index of a plan whose shards are all entered, in constant memory; it may be repeated."""
    with tempfile.TemporaryDirectory(prefix="sparklet-index-") as folder:
        path = Path(folder, INDEX)
        with scratch("the index of a plan"), path.open("w", encoding="utf-8") as file:
            for record in deployment.ledger.shards.list(run.run_id, ShardState.PENDING):
                if record.is_for_functions:
                    file.write(record.ref.to_body() + "\n")
        deployment.store.upload(path, deployment.run_uri(run.run_id, INDEX))


def index_info(deployment: Deployment, run: Run) -> ObjectInfo | None:
    """How large the index is, and when it was written, just before a Map could begin; None if nobody has written it."""
    with suppress(ObjectNotFoundError):
        return deployment.store.head(deployment.run_uri(run.run_id, INDEX))
    return None


def dispatches_first(deployment: Deployment, run: Run, who: str) -> bool:
    """Whether an execution, or ``BY_QUEUE``, is the first that asks, and so dispatches the run; it may ask again."""
    uri = deployment.run_uri(run.run_id, f"{MAP_OF}{run.identity}")
    put_once(deployment.store, (uri, who.encode()))
    return deployment.store.get(uri) == who.encode()


def inline_items(deployment: Deployment, run: Run) -> list[Any]:
    """The items of an index, if they are few enough for an inline Map; else none."""
    if run.numbers > MAX_INLINE:
        return []
    body = deployment.store.get(deployment.run_uri(run.run_id, INDEX))
    return [json.loads(line) for line in body.splitlines()]

"""What a run has to show, as one JSON document: check scripts read it, notices carry it."""

from typing import Any

from sparklet.fanout.reporting.summary import Summary
from sparklet.model import Run

MOST_NAMED = 20  # inputs, and lists: SNS and EventBridge take 256 KiB


def figures(run: Run, summary: Summary) -> dict[str, Any]:
    """A run's figures; times are seconds since the epoch, null where nobody knows."""
    counts = summary.counts
    return {
        "id": run.run_id,
        "name": run.name,
        "state": str(summary.state),
        "generation": run.generation,
        "parent": run.parent,
        "dispatch": str(run.dispatch),
        "inputs": list(run.inputs[:MOST_NAMED]),
        "lists": [source.uri for source in run.lists[:MOST_NAMED]],
        "output": run.output_uri,
        "counts": {**counts.by_state(), "total": counts.total},
        "objects": summary.objects,
        "skipped": dict(run.skipped),
        "input_bytes": summary.input_bytes,
        "output_bytes": summary.output_bytes,
        "rows": summary.rows,
        "silent_shards": summary.silent_shards,
        "attempts": summary.attempts,
        "created_s": summary.created_s,
        "changed_s": summary.changed_s,
        "duration_s": round(summary.duration_s, 3),
        "task_s": round(summary.task_s, 3),
        "causes": [
            {
                "class": cause.error_class,
                "count": cause.count,
                "example_shard": cause.example_shard,
                "message": cause.example_message,
            }
            for cause in summary.causes
        ],
    }

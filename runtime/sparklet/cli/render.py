"""Results of commands, as documents for --json and as tables for people."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sparklet.cli.sizes import duration_text, size_text
from sparklet.fanout.preview import PlanPreview
from sparklet.fanout.summary import Summary
from sparklet.model import Counts, Run, RunState, ShardRecord, ShardState

_STYLES = {
    RunState.SUCCEEDED: "green",
    RunState.SUCCEEDED_WITH_FAILURES: "yellow",
    RunState.FAILED: "red",
    ShardState.SUCCEEDED: "green",
    ShardState.FAILED: "red",
    ShardState.RUNNING: "cyan",
}


def counts_document(counts: Counts) -> dict[str, int]:
    """Shards by state; the states add up to the total."""
    return {
        "total": counts.total,
        "pending": counts.pending,
        "running": counts.running,
        "succeeded": counts.succeeded,
        "failed": counts.failed,
    }


def summary_document(run: Run, summary: Summary, output: str, manifest: str) -> dict[str, Any]:
    """What a run has to show."""
    return {
        "run_id": run.run_id,
        "state": str(summary.state),
        "generation": summary.generation,
        "shards": counts_document(summary.counts),
        "objects": summary.objects,
        "input_bytes": summary.input_bytes,
        "rows": summary.rows,
        "output_bytes": summary.output_bytes,
        "inputs": list(run.inputs),
        "attempts": summary.attempts,
        "task_s": round(summary.task_s, 3),
        "duration_s": round(summary.duration_s, 3),
        "output": output,
        "manifest": manifest,
        "failures": [
            {
                "error_class": c.error_class,
                "shards": c.count,
                "example_shard": c.example_shard,
                "example": c.example_message,
            }
            for c in summary.causes
        ],
    }


def summary_table(run: Run, summary: Summary, output: str, manifest: str, logs: str = "") -> RenderableType:
    """What a run has to show, for people; ``logs`` is where the workers' logs lie."""
    counts = summary.counts
    facts = Table.grid(padding=(0, 2))
    facts.add_row("run", Text(run.run_id, style="bold"))
    facts.add_row("state", Text(str(summary.state), style=_STYLES.get(summary.state, "cyan")))
    states = f"{counts.succeeded} succeeded, {counts.failed} failed"
    states += f", {counts.running} running, {counts.pending} pending" if counts.open else ""
    facts.add_row("shards", f"{counts.total}: {states}")
    facts.add_row("input", f"{summary.objects} objects, {size_text(summary.input_bytes)}")
    if summary.rows is not None:
        facts.add_row("rows", f"{summary.rows:,}")
    facts.add_row("time", f"{duration_text(summary.duration_s)} ({duration_text(summary.task_s)} of work)")
    facts.add_row("output", Text(output))
    if summary.state.ended:
        facts.add_row("manifest", Text(manifest))
    if not summary.causes:
        return facts
    causes = Table("shards", "cause", "example", title="failures", title_justify="left", show_edge=False)
    for cause in summary.causes:
        example = f"shard {cause.example_shard}: {cause.example_message}"
        causes.add_row(str(cause.count), escape(cause.error_class), escape(example))
    if logs:
        facts.add_row("logs", Text(f"{logs} (status {run.run_id} --shards --json names each shard's)"))
    return Group(facts, causes, Text(f"repair, then: sparklet redrive {run.run_id}", style="dim"))


def preview_document(preview: PlanPreview) -> dict[str, Any]:
    """What a plan would look like."""
    return {
        "shards": preview.shards,
        "objects": preview.objects,
        "input_bytes": preview.size_bytes,
        "smallest_shard_bytes": preview.smallest_shard_bytes,
        "largest_shard_bytes": preview.largest_shard_bytes,
        "most_objects_in_a_shard": preview.most_objects_in_a_shard,
        "skipped": dict(preview.skipped),
    }


def preview_table(preview: PlanPreview) -> RenderableType:
    """What a plan would look like, for people."""
    facts = Table.grid(padding=(0, 2))
    facts.add_row("shards", str(preview.shards))
    facts.add_row("objects", f"{preview.objects}, {size_text(preview.size_bytes)}")
    sizes = f"{size_text(preview.smallest_shard_bytes)} to {size_text(preview.largest_shard_bytes)}"
    facts.add_row("a shard", f"{sizes}, at most {preview.most_objects_in_a_shard} objects")
    for reason, count in sorted(preview.skipped.items()):
        facts.add_row("left out", f"{count} {reason}")
    return facts


def run_document(run: Run) -> dict[str, Any]:
    """A run in a list."""
    return {
        "run_id": run.run_id,
        "state": str(run.state),
        "generation": run.generation,
        "shards": run.shard_count,
        "objects": run.object_count,
        "input_bytes": run.size_bytes,
        "script": run.scripts[-1].source_uri,
        "created": _time(run.created_s),
        "ended": _time(run.ended_s) if run.ended_s else None,
    }


def runs_table(runs: list[Run]) -> RenderableType:
    """Runs, newest first, for people."""
    table = Table("run", "state", "shards", "script", "created (UTC)", show_edge=False)
    for run in runs:
        state = Text(str(run.state), style=_STYLES.get(run.state, "cyan"))
        shards = "?" if run.shard_count is None else str(run.shard_count)
        table.add_row(Text(run.run_id), state, shards, Text(run.scripts[-1].source_uri), _time(run.created_s))
    return table


def shard_document(record: ShardRecord) -> dict[str, Any]:
    """One shard as the ledger has it."""
    return {
        "run_id": record.run_id,
        "shard": record.number,
        "state": str(record.state),
        "generation": record.generation,
        "attempts": record.attempts,
        "attempt_id": record.attempt_id or None,
        "objects": record.object_count,
        "input_bytes": record.size_bytes,
        "rows": record.rows,
        "outputs": list(record.outputs),
        "error_class": record.error_class or None,
        "error_message": record.error_message or None,
        "changed": _time(record.changed_s),
        "log_stream": record.log_stream or None,
    }


def shards_table(records: Iterable[ShardRecord]) -> RenderableType:
    """Shards in a list, for people."""
    table = Table("shard", "state", "attempts", "rows", "cause", show_edge=False)
    for record in records:
        state = Text(str(record.state), style=_STYLES.get(record.state, ""))
        cause = f"{record.error_class}: {record.error_message}" if record.error_class else ""
        table.add_row(
            str(record.number),
            state,
            str(record.attempts),
            "" if record.rows is None else str(record.rows),
            Text(cause),
        )
    return table


def shard_table(record: ShardRecord) -> RenderableType:
    """One shard, for people."""
    facts = Table.grid(padding=(0, 2))
    for name, value in shard_document(record).items():
        if value not in (None, []):
            style = _STYLES.get(record.state, "") if name == "state" else ""
            facts.add_row(name.replace("_", " "), Text(str(value), style=style))
    return facts


def _time(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")

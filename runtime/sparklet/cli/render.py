"""Runs, shards, inputs and plans, as documents for --json and as tables for people."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sparklet.app.object_status import ObjectStatus
from sparklet.cli.console import count_text, size_text, time_text
from sparklet.model import InputObject, Run, RunState, ShardRecord, ShardState, SliceKind
from sparklet.planning.plan_preview import PlanPreview

STYLES: Mapping[str, str] = {
    RunState.SUCCEEDED: "green",
    RunState.SUCCEEDED_WITH_FAILURES: "yellow",
    RunState.FAILED: "red",
    RunState.CANCELLED: "magenta",
    ShardState.RUNNING: "cyan",  # the others as for runs
}


def add_skipped(facts: Table, skipped: Mapping[str, int]) -> None:
    """Add the objects left out, by reason; 0: the number is not known."""
    for reason, count in sorted(skipped.items()):
        facts.add_row("left out", Text(f"{count} {reason}" if count else reason))


def preview_document(preview: PlanPreview) -> dict[str, Any]:
    """A plan's preview."""
    return asdict(preview) | {"skipped": dict(preview.skipped)}


def preview_table(preview: PlanPreview) -> RenderableType:
    """A plan's preview, for people."""
    facts = Table.grid(padding=(0, 2))
    facts.add_row("shards", str(preview.shards))
    sliced = f", {preview.slices} of them slices of larger ones" if preview.slices else ""
    facts.add_row("objects", f"{preview.objects}{sliced}, {size_text(preview.size_bytes)}")
    sizes = f"{size_text(preview.smallest_shard_bytes)} to {size_text(preview.largest_shard_bytes)}"
    facts.add_row("a shard", f"{sizes}, at most {count_text(preview.most_objects_in_a_shard, 'object')}")
    facts.add_row("the largest", Text(f"shard {preview.largest_shard}, from {preview.largest_object} on"))
    if preview.oversize:
        facts.add_row(
            "too large", f"{preview.oversize} shards are larger than one function can take (--max-shard-size)"
        )
    add_skipped(facts, preview.skipped)
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
        "created": time_text(run.created_s),
        "ended": time_text(run.ended_s) if run.ended_s else None,
    }


def runs_table(runs: list[Run]) -> RenderableType:
    """Runs, newest first, for people."""
    table = Table(show_edge=False)
    table.add_column("run", overflow="fold", min_width=20, ratio=1)  # never truncated, so that it can be copied
    for column in ("state", "shards", "script", "created (UTC)"):
        table.add_column(column, overflow="fold")
    for run in runs:
        state = Text(str(run.state), style=STYLES.get(run.state, "cyan"))
        shards = "?" if run.shard_count is None else str(run.shard_count)
        script = run.scripts[-1].source_uri.rpartition("/")[2]  # the whole URI is in --json
        table.add_row(Text(run.run_id), state, shards, Text(script), time_text(run.created_s))
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
        "changed": time_text(record.changed_s),
        "log_stream": record.log_stream or None,
        "engine": record.engine or None,
        "task_id": record.task_id or None,
    }


def shards_table(records: Iterable[ShardRecord]) -> RenderableType:
    """Shards in a list, for people."""
    table = Table("shard", "state", "engine", "attempts", "rows", "cause", show_edge=False)
    for record in records:
        rows, state = "" if record.rows is None else str(record.rows), _state_text(record)
        table.add_row(str(record.number), state, record.engine, str(record.attempts), rows, _cause_text(record))
    return table


def object_document(found: ObjectStatus) -> dict[str, Any]:
    """An object's state: as a whole, and in each shard that holds it or a part of it."""
    return {
        "object": found.uri,
        "state": _whole_state(found) if found.shards else "LEFT_OUT",
        "left_out": list(dict.fromkeys(found.left_out)),
        "shards": [
            {
                **({"shard": each.shard.number, "state": None} if each.record is None else shard_document(each.record)),
                "slices": [[str(of.kind), of.start, of.end] for item in each.items if (of := item.slice)],
                "versions": [item.version_id for item in each.items if item.version_id],
            }
            for each in found.shards
        ],
    }


def object_table(found: ObjectStatus) -> RenderableType:
    """An object's state for people: in full if one shard holds it, else a line for each shard."""
    if len(found.shards) == 1 and found.shards[0].record:
        return _shard_facts(found.shards[0].record)
    table = Table("shard", "holds", "state", "attempts", "cause", show_edge=False)
    for each in found.shards:
        state, attempts, cause = Text("not in the ledger yet"), 0, Text()
        if each.record:
            state, attempts, cause = _state_text(each.record), each.record.attempts, _cause_text(each.record)
        holds = ", ".join(_part_text(item) for item in each.items)
        table.add_row(str(each.shard.number), Text(holds), state, str(attempts), cause)
    return Group(Text(f"{found.uri} lies in {len(found.shards)} shards, as a whole {_whole_state(found)}"), table)


def _state_text(record: ShardRecord) -> Text:
    return Text(str(record.state), style=STYLES.get(record.state, ""))


def _cause_text(record: ShardRecord) -> Text:
    return Text(f"{record.error_class}: {record.error_message}" if record.error_class else "")


def _part_text(item: InputObject) -> str:
    version = f" of version {item.version_id}" if item.version_id else ""
    if item.slice is None:
        return f"all{version}"
    kind, start, end = item.slice.kind, item.slice.start, item.slice.end
    what = f"bytes {start} to {end}" if kind is SliceKind.LINES else f"row groups {start} to {end - 1}"
    return f"{what}{version}"


def _whole_state(found: ObjectStatus) -> str:
    """FAILED if any part of it has; SUCCEEDED once all have; else RUNNING or PENDING."""
    states = {each.record.state if each.record else ShardState.PENDING for each in found.shards}
    by_weight = (ShardState.FAILED, ShardState.RUNNING, ShardState.PENDING, ShardState.SUCCEEDED)
    return str(next(state for state in by_weight if state in states))


def _shard_facts(record: ShardRecord) -> RenderableType:
    facts = Table.grid(padding=(0, 2))
    for name, value in shard_document(record).items():
        if value not in (None, []):
            style = STYLES.get(record.state, "") if name == "state" else ""
            earlier = "earlier " if name.startswith("error") and record.state is ShardState.SUCCEEDED else ""
            shown = ", ".join(value) if isinstance(value, list) else str(value)
            facts.add_row(earlier + name.replace("_", " "), Text(shown, style=style))
    return facts

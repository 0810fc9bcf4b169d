"""What ``explain`` shows: each cause of failure with its example, the likely reason, and the command to type."""

import shlex
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sparklet.cli.environment import Environment
from sparklet.cli.sizes import count_text
from sparklet.cli.transfer import LocalPaths, local_part
from sparklet.fanout.reporting.explain import FailureGroup

OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError")
OUT_OF_TIME = ("DeadlineExceededError",)
MOST_MEMORY_MB, MOST_TIMEOUT_S = 10240, 900


def redrive_command(env: Environment, run_id: str, group: FailureGroup) -> str:
    """The exact command that does this group's shards again; larger where size was the cause."""
    words = ["sparklet", "redrive", run_id, *group.redrive]
    name = group.error_class.rpartition(".")[2]
    if name in OUT_OF_MEMORY and env.size.memory_mb < MOST_MEMORY_MB:
        words += ["--memory", str(min(MOST_MEMORY_MB, 2 * env.size.memory_mb))]
    if name in OUT_OF_TIME and (env.local or env.size.timeout_s < MOST_TIMEOUT_S):
        longer_s = 2 * env.size.timeout_s
        words += ["--timeout", str(longer_s if env.local else min(MOST_TIMEOUT_S, longer_s))]
    return shlex.join([*words, *(("--stack", env.stack) if env.stack else ())])


def local_file(env: Environment, run_id: str, group: FailureGroup) -> str:
    """The file on this machine that the example's object was made from; "" if it was not."""
    if not env.local:
        return ""
    path = local_part(group.example_object, LocalPaths.load(env.paths_dir, run_id).inputs)
    return "" if path is None else str(path)


def group_document(env: Environment, run_id: str, group: FailureGroup) -> dict[str, Any]:
    """One cause, for --json."""
    return {
        "error_class": group.error_class,
        "message": group.pattern,
        "count": group.count,
        "shards": group.shards.text(),
        "shards_complete": group.shards.whole,
        "example_shard": group.example.number,
        "example_object": group.example_object or None,
        "example_file": local_file(env, run_id, group) or None,
        "example_message": group.example.error_message,
        "script_line": group.line,
        "came_back_unrun": group.unrun,
        "reason": group.advice.reason,
        "remedy": group.advice.remedy,
        "redrive": redrive_command(env, run_id, group),
    }


def group_table(env: Environment, run_id: str, group: FailureGroup) -> RenderableType:
    """One cause, for people."""
    title = Text(f"{count_text(group.count, 'shard')}: {group.error_class or '(no cause given)'}", style="bold red")
    facts = Table.grid(padding=(0, 2))
    shown = local_file(env, run_id, group) or group.example_object
    example = f"shard {group.example.number}" + (f", {shown}" if shown else "")
    more = group.example.object_count - 1
    facts.add_row("  example", Text(example + (f" and {more} more" if more > 0 else "")))
    facts.add_row("  says", Text(group.example.error_message))
    if group.unrun:
        facts.add_row(
            "  came back unrun", Text(f"{count_text(group.unrun, 'message')}: receives that no attempt followed")
        )
    facts.add_row("  reason", Text(group.advice.reason))
    facts.add_row("  remedy", Text(group.advice.remedy))
    facts.add_row("  then", Text(redrive_command(env, run_id, group), style="cyan"))
    return Group(title, facts, Text(""))

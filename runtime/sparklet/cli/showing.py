"""What several commands show at their end."""

from dataclasses import asdict
from typing import Any

import typer

from sparklet.cli.console import Screen
from sparklet.cli.environment import Environment
from sparklet.cli.exits import exit_code
from sparklet.cli.operating import OperatorView, follow_ups, view_document
from sparklet.cli.render import shard_document, shards_table, summary_document, summary_table
from sparklet.cli.resuming import resume_command, told_how_to_resume
from sparklet.cli.runs import watch
from sparklet.cli.transfer import LocalPaths
from sparklet.fanout.checking.differences import Difference
from sparklet.fanout.choosing.prices import Prices
from sparklet.fanout.reporting.summary import Summary
from sparklet.model import ShardRecord


def finish(env: Environment, run_id: str, screen: Screen, prices: Prices) -> None:
    """Watch a run to its end, show what came of it, and exit with its code."""
    with told_how_to_resume(env, screen, resume_command(env, run_id)):
        summary = watch(env, run_id, screen, prices)
    show_summary(env, screen, run_id, summary)
    for follower in follow_ups(env, env.at.ledger.runs.get(run_id)):
        screen.say(f"{follower.what}: {follower.standing}")
    raise typer.Exit(exit_code(summary.state))


def show_summary(
    env: Environment,
    screen: Screen,
    run_id: str,
    summary: Summary,
    records: list[ShardRecord] | None = None,
    view: OperatorView | None = None,
    differences: tuple[Difference, ...] | None = None,
) -> None:
    """A run's result, with every shard if ``records`` are given, and with what an operator sees in ``view``.

    ``differences`` between ledger, manifest and output, where they were compared.
    """
    found = env.at.ledger.runs.get(run_id)
    output = (LocalPaths.load(env.paths_dir, run_id).output if env.local else "") or found.output_uri
    manifest = env.at.run_uri(run_id, "manifest.json")
    if screen.as_json:
        listed: dict[str, Any] = (
            {} if records is None else {"shard_list": [shard_document(record) for record in records]}
        )
        more = view_document(view) if view else {}
        if differences is not None:
            listed["differences"] = [asdict(each) for each in differences]
        screen.document({**summary_document(found, summary, output, manifest), **more, **listed})
        return
    logs = str(env.state / "log") if env.state else ""
    screen.out.print(summary_table(found, summary, output, manifest, logs, view))
    if records is not None:
        screen.out.print(shards_table(records))
    if differences == ():
        screen.out.print("verified: ledger, manifest and output say the same")
    for each in differences or ():
        screen.warn(f"{each.kind}: {each.found}")

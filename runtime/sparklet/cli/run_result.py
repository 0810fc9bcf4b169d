"""A run's result, as commands show it that wait for the run's end or look at it."""

from dataclasses import asdict

import typer

from sparklet.app.costs import Prices
from sparklet.app.documents import result_document, shard_document
from sparklet.app.stack import OpenStack
from sparklet.app.start import resumable
from sparklet.app.status import RunView, follow_ups
from sparklet.app.watch import watch
from sparklet.cli.console import Screen, exit_code
from sparklet.cli.render import follow_up_text, shards_table, summary_table
from sparklet.model import ShardRecord
from sparklet.runs.verification import Difference


def finish(stack: OpenStack, run_id: str, screen: Screen, prices: Prices) -> None:
    """Watch a run until it ends, show its result and its follow-ups, and exit with its code."""
    with resumable(stack, screen, lambda: ["sparklet", "resume", run_id, *stack.command_options]):
        summary = watch(stack, run_id, screen, prices)
    run = stack.at.ledger.runs.get(run_id)
    if screen.as_json:
        screen.document(result_document(stack, run, summary))
    else:
        screen.out.print(summary_table(stack, run, summary))
    for follower in follow_ups(stack, run):
        screen.say(f"{follower['what']}: {follow_up_text(follower)}")
    raise typer.Exit(exit_code(summary.state))


def show_status(
    stack: OpenStack,
    screen: Screen,
    view: RunView,
    records: list[ShardRecord] | None,
    differences: list[Difference] | None,
) -> None:
    """Show an operator's view of a run; where given also all shards, and differences that were found."""
    if screen.as_json:
        document = view.document(stack)
        if differences is not None:
            document["differences"] = [asdict(each) for each in differences]
        if records is not None:
            document["shard_list"] = [shard_document(record) for record in records]
        screen.document(document)
        return
    screen.out.print(summary_table(stack, view.run, view.found.summary, view))
    if records is not None:
        screen.out.print(shards_table(records))
    if differences == []:
        screen.out.print("verified: ledger, manifest and output agree")
    for each in differences or ():
        screen.warn(f"{each.kind}: {each.found}")

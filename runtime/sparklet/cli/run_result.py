"""The end of commands that wait for a run's end."""

import typer

from sparklet.app.costs import Prices
from sparklet.app.documents import result_document
from sparklet.app.stack import OpenStack
from sparklet.app.start import resumable
from sparklet.app.status import follow_ups
from sparklet.app.watch import watch
from sparklet.cli.console import Screen, exit_code
from sparklet.cli.render import follow_up_text, summary_table


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

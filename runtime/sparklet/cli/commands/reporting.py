"""Commands that show a run as a page: report, ui, and Spark's own history."""

from contextlib import suppress
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Annotated

import typer

from sparklet.app.costs import load_prices
from sparklet.app.history import Known, run_history
from sparklet.app.report.document import report_document
from sparklet.app.report.events import history_server
from sparklet.app.report.page import Looks, Server, page
from sparklet.app.stack import OpenStack, open_stack
from sparklet.cli import options as opt
from sparklet.cli.console import Screen, Terminal, report_path
from sparklet.errors import PlanError
from sparklet.ledger.clock import SystemClock
from sparklet.model import Run

COUNTED = 100  # runs of a list


def report(
    run_id: opt.RunId,
    selection: opt.StackOptions,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The file to write; one in _reports/ by default."),
    ] = None,
) -> None:
    """Write a run's report: one HTML file that needs no network.

    What ran, states and pace, time and memory of shards, workers, causes of failure, cost, and advice for the next run.
    --json: the document that the page shows, on standard output.
    """
    screen, figures = Screen(selection.as_json), load_prices()
    with open_stack(selection, screen, looking=True) as stack:
        run = stack.deployment.ledger.runs.get(run_id)
        document = report_document(stack, run, figures)
    if selection.as_json:
        screen.document(document)
        return
    path = output or report_path(run)
    try:
        if not output:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(document, run_id), encoding="utf-8")
    except OSError as error:
        raise PlanError(
            f"the report {path} cannot be written: {error.strerror}; --output names another file"
        ) from error
    screen.link("report", path)


def ui(
    selection: opt.StackOptions,
    run_id: Annotated[str, typer.Argument(metavar="[RUN]", help="The run to show; by default a list of all.")] = "",
    port: opt.Port = 0,
) -> None:
    """Show runs in the browser while they go on: the report's page, kept up to date, until Ctrl-C.

    It changes nothing, and only who opens the printed address can see it.
    """
    screen, figures = Screen(selection.as_json), load_prices()

    reporters = chain([screen], repeat(replace(screen, out=Terminal(quiet=True))))  # attached, it says so once
    ended: dict[tuple[str, int], dict[str, int]] = {}  # counts of shards, which stay
    figures_by_run: Known = {}

    def counted(stack: OpenStack, run: Run, index: int) -> dict[str, object]:
        """How long a run has taken; of one of the newest also its shards' states."""
        counts = ended.get(key := (run.run_id, run.generation), {})
        if not counts and index < COUNTED:
            counts = stack.deployment.ledger.shards.glance(run.run_id).to_document()
            ended.update({key: counts} if run.state.ended else {})
        took_s = (run.ended_s or stack.deployment.clock.now_s()) - run.created_s
        return {"counts": counts, "took_s": took_s}

    def listed(stack: OpenStack) -> list[dict[str, object]]:
        runs = list(stack.deployment.ledger.runs.list())
        documents = enumerate(run_history(stack, runs, figures, figures_by_run))
        return [document | counted(stack, runs[index], index) for index, document in documents]

    def look(run_id: str) -> dict[str, object]:
        """Open the stack anew: a local one may begin or end at any time, and must not live for its page alone."""
        with open_stack(selection, next(reporters), looking=True) as stack:
            if not run_id:
                return {"runs": listed(stack)}
            return {"report": report_document(stack, stack.deployment.ledger.runs.get(run_id), figures)}

    looks = Looks(look, SystemClock())
    looks.answer(run_id)  # a mistake in the options is reported now
    try:
        server = Server(page(None, run_id or "Sparklet"), looks, port)
    except OSError as error:
        raise PlanError(f"port {port} cannot be used: {error.strerror}; --port 0 takes a free one") from error
    with server, suppress(KeyboardInterrupt):
        address = server.address(run_id)
        screen.result({"address": address}, f"open {address}  (Ctrl-C ends it)")
        server.serve_forever()


def history(
    run_id: opt.RunId,
    selection: opt.StackOptions,
    port: opt.Port = 0,
) -> None:
    """Start Spark's own History Server over the event logs of a run with --event-log, until Ctrl-C.

    It listens on this machine alone, but it asks nobody for a password: while it runs, every user of this machine can
    read these logs, which hold queries, paths and Spark's settings.
    """
    screen = Screen(selection.as_json)
    with open_stack(selection, screen, looking=True) as stack:
        stack.deployment.ledger.runs.get(run_id)
        with history_server(stack, run_id, port) as (address, process), suppress(KeyboardInterrupt):
            screen.warn("Spark's History Server asks for no password: every user of this machine can read these logs")
            screen.result({"address": address}, f"open {address}  (Ctrl-C ends it)")
            process.wait()

"""Commands that show a run as a page: report, ui, and Spark's own history."""

from contextlib import suppress
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Annotated

import typer

from sparklet.app.costs import load_prices
from sparklet.app.history import FiguresByRun, run_history
from sparklet.app.report.document import report_document
from sparklet.app.report.events import history_server
from sparklet.app.report.page import ReportCache, Server, page
from sparklet.app.stack import OpenStack, open_stack
from sparklet.cli import options as opt
from sparklet.cli.console import Screen, Terminal, report_path
from sparklet.errors import PlanError
from sparklet.ledger.clock import SystemClock
from sparklet.model import Run

COUNTED = 100  # the list shows the states of shards only for this many runs, the newest ones


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
    screen, prices = Screen(selection.as_json), load_prices()
    with open_stack(selection, screen, looking=True) as stack:
        run = stack.deployment.ledger.runs.get(run_id)
        document = report_document(stack, run, prices)
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
            f"the report {path} cannot be written: {error.strerror}; choose another file with --output"
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
    screen, prices = Screen(selection.as_json), load_prices()

    # Only the first opening of the stack reports its progress.
    reporters = chain([screen], repeat(replace(screen, out=Terminal(quiet=True))))
    ended_counts: dict[tuple[str, int], dict[str, int]] = {}  # by run and generation; they do not change any more
    figures_by_run: FiguresByRun = {}

    def live_figures(stack: OpenStack, run: Run, index: int) -> dict[str, object]:
        """Return how long a run has taken so far, and its shards by state, which are {} after the newest runs."""
        key = (run.run_id, run.generation)
        counts = ended_counts.get(key, {})
        if not counts and index < COUNTED:
            counts = stack.deployment.ledger.shards.glance(run.run_id).to_document()
            if run.state.ended:
                ended_counts[key] = counts
        took_s = (run.ended_s or stack.deployment.clock.now_s()) - run.created_s
        return {"counts": counts, "took_s": took_s}

    def run_documents(stack: OpenStack) -> list[dict[str, object]]:
        runs = list(stack.deployment.ledger.runs.list())
        documents = run_history(stack, runs, prices, figures_by_run)
        return [
            document | live_figures(stack, run, index)
            for index, (run, document) in enumerate(zip(runs, documents, strict=True))
        ]

    def read_report(run_id: str) -> dict[str, object]:
        """Read a run's report, or the list of runs for "".

        The stack is opened each time: a local stack can start or end at any time, and must not run for a page alone.
        """
        with open_stack(selection, next(reporters), looking=True) as stack:
            if not run_id:
                return {"runs": run_documents(stack)}
            return {"report": report_document(stack, stack.deployment.ledger.runs.get(run_id), prices)}

    reports = ReportCache(read_report, SystemClock())
    reports.get(run_id)  # so that mistakes in the options are reported before the address is printed
    try:
        server = Server(page(None, run_id or "Sparklet"), reports, port)
    except OSError as error:
        raise PlanError(f"port {port} cannot be used: {error.strerror}; choose a free one with --port 0") from error
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

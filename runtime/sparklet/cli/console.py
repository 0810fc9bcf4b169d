"""What every command prints: results, progress, and its exit code."""

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import typer
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from sparklet.app.costs import Prices
from sparklet.app.documents import result_document
from sparklet.app.local_files import local_folder
from sparklet.app.logs import LogLine, shown_logs
from sparklet.app.report.document import report_document
from sparklet.app.report.page import page
from sparklet.app.stack import OpenStack
from sparklet.app.start import resume_hint
from sparklet.app.status import phase_documents, view_run
from sparklet.app.watch import Lines, watch
from sparklet.cli.exit_codes import ALL_WELL, FAILURES, INCOMPLETE, USAGE
from sparklet.cli.render import Facts, phase_text, run_details, summary_table
from sparklet.errors import PlanError, SparkletError
from sparklet.model import Counts, Run, RunState
from sparklet.model.redaction import printable
from sparklet.ports import Clock

MAX_PRINTED_LINES = 200  # of scripts, while a command waits
PIPE_WIDTH = 100_000  # it has none: nothing is wrapped or cut for it
DETAILS_EVERY_S = 20.0  # at least; they need a whole pass over the ledger, which may take a twentieth of the time


def exit_code(state: RunState) -> int:
    """The exit code for a run's state; one that is open or cancelled is incomplete."""
    if state in (RunState.SUCCEEDED, RunState.SUCCEEDED_WITH_FAILURES):
        return ALL_WELL
    return FAILURES if state is RunState.FAILED else INCOMPLETE


class Terminal(Console):
    """Prints no character that controls a terminal but those of its own styles: all else may be anybody's data."""

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        width = None if (sys.stderr if stderr else sys.stdout).isatty() else PIPE_WIDTH
        usual = {"stderr": stderr, "highlight": False, "emoji": False, "soft_wrap": True, "width": width}
        super().__init__(**{**usual, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """The text of a string."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """The renderable's parts; texts, also those of cells, are replaced before anybody measures them."""
        columns = renderable.columns if isinstance(renderable, Table) else ()
        for content in (renderable, *(cell for column in columns for cell in column.cells)):
            if isinstance(content, Text):
                content.plain = printable(content.plain)
        for part in super().render(renderable, options):
            yield part if part.control else Segment(printable(part.text), part.style)


@dataclass(frozen=True)
class Screen:
    """Where a command writes.

    With ``as_json`` standard output carries one JSON document and nothing else; progress goes to standard error.
    """

    as_json: bool = False
    out: Console = field(default_factory=Terminal)
    err: Console = field(default_factory=lambda: Terminal(stderr=True))

    def say(self, text: str) -> None:
        """A line of progress."""
        (self.err if self.as_json else self.out).print(escape(text))

    def link(self, what: str, path: Path) -> None:
        """A file of this machine, which a terminal opens."""
        uri = path.absolute().as_uri()
        (self.err if self.as_json else self.out).print(Text.assemble(f"{what}: ", (uri, Style(link=uri))))

    def warn(self, text: str) -> None:
        """A warning; the command continues."""
        self.err.print(Facts(Text.assemble(("warning:", "yellow"), f" {text}")))

    def fail(self, text: str) -> None:
        """Why a command failed."""
        self.err.print(Facts(Text.assemble(("error:", "red"), f" {text}")))

    def show_bug(self, *bug: Any) -> None:
        """The traceback of an exception that nobody expected."""
        self.err.print(Text("".join(traceback.format_exception(*bug))))

    def document(self, document: Mapping[str, Any] | Sequence[Any]) -> None:
        """The command's result as JSON."""
        # json writes ASCII, so that no data controls the terminal.
        sys.stdout.write(json.dumps(document, indent=2, default=str) + "\n")
        sys.stdout.flush()

    def result(self, document: Mapping[str, Any] | Sequence[Any], *renderables: RenderableType) -> None:
        """The command's result: as JSON, or in lines and tables for people."""
        if self.as_json:
            self.document(document)
            return
        for renderable in renderables:
            self.out.print(escape(renderable) if isinstance(renderable, str) else renderable)


def confirm(screen: Screen, question: str, *, yes: bool, undone: str = "deleted") -> None:
    """End the command unless the user answers yes; PlanError with the remedy where no user can answer."""
    try:
        if yes or typer.confirm(printable(question), err=True):
            return
    except typer.Abort:
        raise PlanError(f"the question was not answered, so nothing was {undone}; add --yes") from None
    screen.say(f"nothing was {undone}")
    raise typer.Exit(USAGE)


def finish(stack: OpenStack, run_id: str, screen: Screen, prices: Prices, *, report: bool = True) -> None:
    """Watch a run until it ends, show its result, its phases and where its report is, and exit with its code."""
    is_local = stack.state is not None  # elsewhere each look at the logs is a request that is billed
    prints = shown_logs(stack, run_id, Printed(screen), screen) if is_local else nullcontext()
    with resume_hint(stack, screen, lambda: ["sparklet", "resume", run_id, *stack.command_options]), prints:
        display = RunDisplay(
            screen, run_id, stack.deployment.clock, lambda run: run_details(view_run(stack, run, prices))
        )
        summary = watch(stack, run_id, display, screen)
    run = stack.deployment.ledger.runs.get(run_id)
    report_file = keep_report(stack, run, screen, prices) if report and stack.state else None
    if screen.as_json:
        screen.document(result_document(stack, run, summary) | {"report_file": report_file})
    else:
        screen.out.print(summary_table(stack, run, summary))
    for phase in phase_documents(stack, run):
        screen.say(f"{phase['what']}: {phase_text(phase)}")
    if report_file:
        screen.link("report", Path(report_file))
    raise typer.Exit(exit_code(summary.state))


@dataclass
class Printed:
    """Shows what scripts print, each line with its shard, up to a bound."""

    screen: Screen
    shown: int = 0

    def __call__(self, line: LogLine) -> None:
        """Show a line."""
        self.shown += 1
        if self.shown <= MAX_PRINTED_LINES:
            self.screen.say(f"shard {line.shard}: {line.readable()}")
        elif self.shown == MAX_PRINTED_LINES + 1:
            self.screen.say(f"scripts print more than is shown here: sparklet logs {line.run} --follow")


def keep_report(stack: OpenStack, run: Run, screen: Screen, prices: Prices) -> str | None:
    """Write a run's report where its user looks; return its file, or None with a warning if that cannot be done."""
    path = report_path(run)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(report_document(stack, run, prices), run.run_id), encoding="utf-8")
    # The run has ended as it has: a missing report must not change the exit code.
    except (SparkletError, OSError) as error:
        screen.warn(f"there is no report: {error}")
        return None
    return str(path)


def report_path(run: Run) -> Path:
    """The file of a run's report: beside its local output, else in the working folder; a redrive has its own.

    Spark, and Sparklet as Spark, skip a folder of this name where it is in somebody's input.
    """
    beside = local_folder(run).parent
    folder = beside if run.local_output and os.access(beside, os.W_OK) else Path.cwd()
    return folder / "_reports" / f"{run.run_id}-{run.generation}.html"


class RunDisplay(Lines):
    """Shows a run's progress: live on a terminal, there with ``details`` now and then; elsewhere in plain lines."""

    def __init__(
        self, screen: Screen, run_id: str, clock: Clock, details: Callable[[Run], RenderableType] = lambda run: ""
    ) -> None:
        super().__init__(screen, run_id, clock)
        self._find_details = details
        self._details: RenderableType = ""
        self._details_s = clock.now_s() + DETAILS_EVERY_S / 2  # when they are looked for next
        console = screen.err if screen.as_json else screen.out
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, run: Run, counts: Counts) -> None:
        """Show the state as it is now."""
        if not self._live:
            super().show(run, counts)
            return
        began_s = self._clock.now_s()
        if began_s >= self._details_s and not run.state.ended:
            self._details = self._find_details(run)
            ended_s = self._clock.now_s()
            self._details_s = ended_s + max(DETAILS_EVERY_S, 20 * (ended_s - began_s))
        self.add(counts)
        self._live.update(self._picture(run, counts))

    def warn(self, text: str) -> None:
        """A warning, on a terminal above the display."""
        if self._live:
            self._live.console.print(Facts(Text.assemble(("warning:", "yellow"), f" {text}")))
        else:
            super().warn(text)

    def _picture(self, run: Run, counts: Counts) -> Group:
        ended, total = counts.succeeded + counts.failed, run.shard_count or max(1, counts.total)
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(total, ended, width=40), f"{ended}/{total}")
        details = [Text(""), self._details] if self._details and counts.open else []
        line = Text(self.line(run, counts), style="bold", no_wrap=False, overflow="fold")  # the display counts lines
        pace = Text(self.pace(counts), style="dim", no_wrap=False, overflow="fold")
        return Group(line, bar, pace, *details)

"""Prints results and progress of commands, watches runs on a screen, and chooses exit codes."""

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

MAX_PRINTED_LINES = 200  # at most this many lines that scripts print are shown while a command waits
PIPE_WIDTH = 100_000  # so wide that nothing is wrapped or cut for a pipe
# Details are read again after at least this time. Each reading is a pass over the shards; all passes together take at
# most a twentieth of the time.
DETAILS_EVERY_S = 20.0


def exit_code(state: RunState) -> int:
    """Return the exit code for a run's state; an open or cancelled run is incomplete."""
    if state in (RunState.SUCCEEDED, RunState.SUCCEEDED_WITH_FAILURES):
        return ALL_WELL
    return FAILURES if state is RunState.FAILED else INCOMPLETE


class Terminal(Console):
    """A console that prints no control characters but those of its styles, since the data can come from anybody."""

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        width = None if (sys.stderr if stderr else sys.stdout).isatty() else PIPE_WIDTH
        defaults = {"stderr": stderr, "highlight": False, "emoji": False, "soft_wrap": True, "width": width}
        super().__init__(**{**defaults, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """Render a string without control characters."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Render without control characters, which are replaced first in texts and cells, before these are measured."""
        columns = renderable.columns if isinstance(renderable, Table) else ()
        for content in (renderable, *(cell for column in columns for cell in column.cells)):
            if isinstance(content, Text):
                content.plain = printable(content.plain)
        for part in super().render(renderable, options):
            yield part if part.control else Segment(printable(part.text), part.style)


@dataclass(frozen=True)
class Screen:
    """The output of a command.

    With ``as_json`` standard output gets one JSON document and nothing else; progress goes to standard error.
    """

    as_json: bool = False
    out: Console = field(default_factory=Terminal)
    err: Console = field(default_factory=lambda: Terminal(stderr=True))

    def say(self, text: str) -> None:
        """Print a line of progress."""
        (self.err if self.as_json else self.out).print(escape(text))

    def link(self, label: str, path: Path) -> None:
        """Print a file of this machine as a link, which terminals can open."""
        uri = path.absolute().as_uri()
        (self.err if self.as_json else self.out).print(Text.assemble(f"{label}: ", (uri, Style(link=uri))))

    def warn(self, text: str) -> None:
        """Print a warning; the command continues."""
        self.err.print(Facts(Text.assemble(("warning:", "yellow"), f" {text}")))

    def fail(self, text: str) -> None:
        """Print why a command failed."""
        self.err.print(Facts(Text.assemble(("error:", "red"), f" {text}")))

    def show_bug(self, *exception: Any) -> None:
        """Print the traceback of an unexpected exception."""
        self.err.print(Text("".join(traceback.format_exception(*exception))))

    def document(self, document: Mapping[str, Any] | Sequence[Any]) -> None:
        """Print the command's result as JSON."""
        # json writes ASCII, so the document cannot have control characters.
        sys.stdout.write(json.dumps(document, indent=2, default=str) + "\n")
        sys.stdout.flush()

    def result(self, document: Mapping[str, Any] | Sequence[Any], *renderables: RenderableType) -> None:
        """Print the command's result: as JSON, or as lines and tables for people."""
        if self.as_json:
            self.document(document)
            return
        for renderable in renderables:
            self.out.print(escape(renderable) if isinstance(renderable, str) else renderable)


def confirm(screen: Screen, question: str, *, yes: bool, undone: str = "deleted") -> None:
    """End the command unless the user answers yes or ``yes`` is set; PlanError with the remedy if nobody can answer."""
    try:
        if yes or typer.confirm(printable(question), err=True):
            return
    except typer.Abort:
        raise PlanError(
            f"the question was not answered, so nothing was {undone}; to answer it beforehand, add --yes"
        ) from None
    screen.say(f"nothing was {undone}")
    raise typer.Exit(USAGE)


def finish(stack: OpenStack, run_id: str, screen: Screen, prices: Prices, *, report: bool = True) -> None:
    """Watch a run until it ends, write a local run's report, show result, phases and report, and exit with its code."""
    is_local = stack.state is not None
    # Only locally are scripts' lines shown: in a deployed stack each reading of the logs is a billed request.
    printed_lines = shown_logs(stack, run_id, ScriptOutput(screen), screen) if is_local else nullcontext()
    with resume_hint(stack, screen, lambda: ["sparklet", "resume", run_id, *stack.command_options]), printed_lines:
        display = RunDisplay(
            screen, run_id, stack.deployment.clock, lambda run: run_details(view_run(stack, run, prices))
        )
        summary = watch(stack, run_id, display, screen)
    run = stack.deployment.ledger.runs.get(run_id)
    report_file = write_report(stack, run, screen, prices) if report and is_local else None
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
class ScriptOutput:
    """Shows what scripts print, each line with its shard, up to ``MAX_PRINTED_LINES``."""

    screen: Screen
    shown: int = 0

    def __call__(self, line: LogLine) -> None:
        """Show a line; after the last line that is shown, the command that shows all lines."""
        self.shown += 1
        if self.shown <= MAX_PRINTED_LINES:
            self.screen.say(f"shard {line.shard}: {line.readable()}")
        elif self.shown == MAX_PRINTED_LINES + 1:
            self.screen.say(f"scripts print more than is shown here: sparklet logs {line.run} --follow")


def write_report(stack: OpenStack, run: Run, screen: Screen, prices: Prices) -> str | None:
    """Write a run's report to ``report_path``; return the file, or None, with a warning, if it cannot be written."""
    path = report_path(run)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(report_document(stack, run, prices), run.run_id), encoding="utf-8")
    # Only a warning, since the exit code is that of the run, with or without a report.
    except (SparkletError, OSError) as error:
        screen.warn(f"there is no report: {error}")
        return None
    return str(path)


def report_path(run: Run) -> Path:
    """Return the file for a run's report, another one after each redrive.

    The file is beside the run's local output if this folder can be written, else in the working folder. If its folder
    ``_reports`` lies in the input of a run, Spark and Sparklet skip it, since the name begins with _.
    """
    output_parent = local_folder(run).parent
    folder = output_parent if run.local_output and os.access(output_parent, os.W_OK) else Path.cwd()
    return folder / "_reports" / f"{run.run_id}-{run.generation}.html"


class RunDisplay(Lines):
    """Shows a run's progress: on a terminal live, with ``details`` that are read now and then; else in plain lines."""

    def __init__(
        self, screen: Screen, run_id: str, clock: Clock, details: Callable[[Run], RenderableType] = lambda run: ""
    ) -> None:
        super().__init__(screen, run_id, clock)
        self._read_details = details
        self._details: RenderableType = ""
        self._details_s = clock.now_s() + DETAILS_EVERY_S / 2  # when details are read next
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
        """Show the run's state as it is now."""
        if not self._live:
            super().show(run, counts)
            return
        began_s = self._clock.now_s()
        if began_s >= self._details_s and not run.state.ended:
            self._details = self._read_details(run)
            ended_s = self._clock.now_s()
            self._details_s = ended_s + max(DETAILS_EVERY_S, 20 * (ended_s - began_s))
        self.add(counts)
        self._live.update(self._picture(run, counts))

    def warn(self, text: str) -> None:
        """Print a warning, above the display if it is live."""
        if self._live:
            self._live.console.print(Facts(Text.assemble(("warning:", "yellow"), f" {text}")))
        else:
            super().warn(text)

    def _picture(self, run: Run, counts: Counts) -> Group:
        ended_count, total = counts.succeeded + counts.failed, run.shard_count or max(1, counts.total)
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(total, ended_count, width=40), f"{ended_count}/{total}")
        details = [Text(""), self._details] if self._details and counts.open else []
        # Long lines are folded here, since the display must know how many lines it has to overwrite.
        line = Text(self.line(run, counts), style="bold", no_wrap=False, overflow="fold")
        pace = Text(self.pace(counts), style="dim", no_wrap=False, overflow="fold")
        return Group(line, bar, pace, *details)

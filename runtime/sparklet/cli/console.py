"""What every command prints: results, progress, numbers for people, and its exit code."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from sparklet.errors import PlanError
from sparklet.model import RunState

ALL_WELL = 0
USAGE = 1
FAILURES = 2
INCOMPLETE = 3
INTERRUPTED = 130

EXIT_MEANINGS = {
    ALL_WELL: "all succeeded, or failed within what is tolerated",
    USAGE: "usage or set-up",
    FAILURES: "failures beyond tolerance",
    INCOMPLETE: "incomplete: still open, or cancelled",
    INTERRUPTED: "interrupted",
}

_OF_STATE = {
    RunState.SUCCEEDED: ALL_WELL,
    RunState.SUCCEEDED_WITH_FAILURES: ALL_WELL,
    RunState.FAILED: FAILURES,
}


def exit_code(state: RunState) -> int:
    """The exit code for a run's state; one that is open or cancelled is incomplete."""
    return _OF_STATE.get(state, INCOMPLETE)


@dataclass(frozen=True)
class Screen:
    """Where a command writes.

    With ``as_json`` standard output carries one JSON document and nothing else; progress goes to standard error.
    """

    as_json: bool = False
    out: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=not sys.stdout.isatty()))
    err: Console = field(
        default_factory=lambda: Console(highlight=False, stderr=True, soft_wrap=not sys.stderr.isatty())
    )

    @property
    def side(self) -> Console:
        """Where progress goes."""
        return self.err if self.as_json else self.out

    def say(self, text: str) -> None:
        """A line of progress."""
        self.side.print(escape(text))

    def warn(self, text: str) -> None:
        """A warning; the command continues."""
        self.err.print(f"[yellow]warning:[/yellow] {escape(text)}")

    def fail(self, text: str) -> None:
        """Why a command failed."""
        self.err.print(f"[red]error:[/red] {escape(text)}")

    def document(self, document: Mapping[str, Any] | list[Any]) -> None:
        """The command's result as JSON."""
        sys.stdout.write(json.dumps(document, indent=2, default=str) + "\n")
        sys.stdout.flush()

    def result(self, document: Mapping[str, Any], *lines: str) -> None:
        """The command's result: as JSON, or in lines for people."""
        if self.as_json:
            self.document(document)
            return
        for line in lines:
            self.say(line)


def confirm(screen: Screen, question: str, *, yes: bool) -> None:
    """End the command unless the user answers yes; PlanError with the remedy where no user can answer."""
    try:
        if yes or typer.confirm(question, err=True):
            return
    except typer.Abort:
        raise PlanError("the question was not answered, so nothing was deleted; add --yes") from None
    screen.say("nothing was deleted")
    raise typer.Exit(USAGE)


def count_text(count: int, what: str) -> str:
    """``1 shard``, ``2 shards``."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def size_text(size_bytes: float) -> str:
    """A size for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def time_text(time_s: float) -> str:
    """A time (UTC) for people."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")


def duration_text(duration_s: float) -> str:
    """A duration for people."""
    whole_s = round(duration_s)
    if whole_s < 60:
        return f"{duration_s:.1f} s" if duration_s < 10 else f"{whole_s} s"
    if whole_s < 3600:
        return f"{whole_s // 60} min {whole_s % 60:02d} s"
    return f"{whole_s // 3600} h {whole_s % 3600 // 60:02d} min"


def usd_text(cost: float) -> str:
    """US dollars for people: cents, and more digits only below a dollar."""
    if cost >= 1:
        return f"{cost:,.2f} USD"
    return f"{cost:.4f} USD" if cost >= 0.0001 else "< 0.0001 USD" if cost else "0 USD"

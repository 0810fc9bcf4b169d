"""What commands print: results to standard output, progress beside them, errors in a line or two."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape


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
        """Something the user should know but need not act on at once."""
        self.err.print(f"[yellow]warning:[/yellow] {escape(text)}")

    def fail(self, text: str) -> None:
        """Why a command did not do what it was asked for."""
        self.err.print(f"[red]error:[/red] {escape(text)}")

    def document(self, document: Mapping[str, Any] | list[Any]) -> None:
        """The command's result as JSON."""
        sys.stdout.write(json.dumps(document, indent=2, default=str) + "\n")
        sys.stdout.flush()

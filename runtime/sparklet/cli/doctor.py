"""The ``doctor`` command."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from sparklet.app.doctor import Finding, delete_snapshots, examine, examine_stack
from sparklet.cli import options as opt
from sparklet.cli.console import ALL_WELL, USAGE, Screen, confirm


def doctor(
    selection: opt.StackOptions,
    delete: Annotated[
        bool, typer.Option("--delete-snapshots", help="Delete the worker's unused versions with snapshots; asks first.")
    ] = False,
    yes: opt.Yes = False,
) -> None:
    """Check this machine; with --stack the settings of a deployed stack, or whether the account has room for it."""
    screen = Screen(selection.as_json)
    if delete:
        delete_snapshots(selection.stack, lambda question: confirm(screen, question, yes=yes))
    findings = examine_stack(selection.stack) if selection.stack else examine(selection.state)
    screen.result([finding.document() for finding in findings], _table(findings))
    raise typer.Exit(ALL_WELL if all(finding.good for finding in findings) else USAGE)


def _table(findings: list[Finding]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for finding in findings:
        mark = "[green]ok[/green]" if finding.good else f"[red]{finding.bad}[/red]"
        remedy = "" if finding.good or not finding.remedy else f" [dim]→ {escape(finding.remedy)}[/dim]"
        grid.add_row(mark, finding.what, escape(finding.found) + remedy)
    return grid

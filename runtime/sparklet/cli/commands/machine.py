"""Commands about this machine, or a deployed stack: doctor."""

import typer

from sparklet.cli import doctor as doctoring
from sparklet.cli import options as opt
from sparklet.cli.console import ALL_WELL, USAGE, Screen


def doctor(where: opt.Where) -> None:
    """Check what this machine has and needs; with --stack, whether its settings go together or the account has room."""
    screen = Screen(where.as_json)
    choice = where.choice()
    findings = doctoring.examine_stack(choice.stack) if choice.stack else doctoring.examine(choice)
    if where.as_json:
        screen.document([finding.document() for finding in findings])
    else:
        screen.out.print(doctoring.table(findings))
    raise typer.Exit(ALL_WELL if all(finding.good for finding in findings) else USAGE)

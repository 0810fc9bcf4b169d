"""The command that compares a script's results in two environments: certify."""

import json
from pathlib import Path
from typing import Annotated

import typer

from sparklet.certify import certificate
from sparklet.certify.compare import Difference
from sparklet.cli import options as opt
from sparklet.cli.console import Screen
from sparklet.cli.exit_codes import ALL_WELL, FAILURES, INCOMPLETE
from sparklet.errors import PlanError

EXIT_CODES = {"equal": ALL_WELL, "different": FAILURES, "not comparable": INCOMPLETE}
SHOWN = 10


def certify(
    options: opt.RequestOptions,
    selection: opt.WorkerOptions,
    against: Annotated[certificate.Against, typer.Option("--against", help="The other environment.")],
    environment: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Where that is (default: .venv-spark-4.1 or .venv-native, beside this one)."
        ),
    ] = None,
    float_tolerance: Annotated[
        float,
        typer.Option(
            min=0, max=1, metavar="X", help="Floating-point numbers are equal up to this relative difference."
        ),
    ] = 0.0,
    document: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file to write; SCRIPT-AGAINST.json by default.")
    ] = None,
) -> None:
    """Run a script here twice and once in another environment, over one plan of local files; compare what was staged.

    Types with nullability, rows as a multiset, values bit by bit, folders, declared writes and answers are compared;
    no table is written to. What differs between the first two runs is not comparable. Exit codes: 0 all equal;
    2 something differs; 3 nothing does, but not all is comparable.
    """
    screen = Screen(selection.as_json)
    of_stack = {"workers": selection.workers, "timeout_s": selection.timeout_s, "memory_mb": selection.memory_mb}
    given = {name: value for name, value in of_stack.items() if value}
    [found] = certificate.certify([options], against, screen, environment, float_tolerance, **given)
    path = document or Path(f"{Path(found.script).stem}-{against}.json")
    try:
        path.write_text(json.dumps(found.document(), indent=2), encoding="utf-8")
    except OSError as error:
        raise PlanError(f"{path} cannot be written: {error.strerror}; --document names another file") from error
    screen.result(found.document(), *_lines(found), f"document: {path}")
    raise typer.Exit(EXIT_CODES[found.verdict])


def _lines(found: certificate.Certificate) -> list[str]:
    """The certificate for people."""
    lines = [f"{found.script}: {found.verdict}"]
    for each in found.sides:
        memory = f"{each['memory_mb'] or '?'} MB" + (f", server {each['server_mb']} MB" if each["server_mb"] else "")
        lines.append(
            f"  {each['version']}: {each['seconds']} s of shards, {memory}, {each['cost_usd']:.6f} USD in Lambda"
        )
    for title, which in (("not comparable", found.not_comparable), ("different", found.differences)):
        lines += [f"{title}: {_shown(each)}" for each in which[:SHOWN]]
        lines += [f"{title}: {len(which) - SHOWN} more"] if len(which) > SHOWN else []
    return lines


def _shown(each: Difference) -> str:
    where = ", ".join(filter(None, (each.place, each.column and f"column {each.column}", each.key)))
    return f"{each.kind} at {where}: {each.first} | {each.second}"

"""``docs/guide/cli.md``, made from the commands' own help: ``python -m sparklet.cli.reference FILE``.

Beside it ``run-request.schema.json``, the JSON Schema of a document that asks for a run.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

from sparklet import __version__
from sparklet.cli.app import app
from sparklet.cli.console import EXIT_MEANINGS
from sparklet.fanout.planning.request import request_schema

SCHEMA = "run-request.schema.json"
HEAD = """# The command line

<!-- Made from the help of the commands by `make docs`; change it there. -->

`sparklet COMMAND --help` says the same in the terminal. `sparklet --install-completion` teaches your shell the commands
and options (and, for `RUN`, the runs that were started from this machine). Options may stand before or after arguments;
what follows `--` goes to the script.

Results go to standard output, progress beside them, errors in a line or two to standard error: what was wrong, why, and
what to do. `--json` leaves standard output to one JSON document. `--debug` adds the traceback of an error.
"""


def schema() -> str:
    """The JSON Schema, as it is written."""
    return json.dumps(request_schema(), indent=2, ensure_ascii=False) + "\n"


def reference() -> str:
    """The whole page."""
    group: Any = typer.main.get_command(app)
    commands = group.commands.values()
    parts = [HEAD, _exit_codes(), _contents(commands)]
    parts += [_command(group, command) for command in commands]
    return "\n".join(parts)


def _exit_codes() -> str:
    rows = "\n".join(f"| {code} | {meaning} |" for code, meaning in EXIT_MEANINGS.items())
    return f"## Exit codes\n\n| code | meaning |\n|---|---|\n{rows}\n"


def _contents(commands: Iterable[Any]) -> str:
    lines = ["## Commands", ""]
    for panel, of_panel in groupby(commands, key=lambda command: command.rich_help_panel):
        named = ", ".join(f"[`{command.name}`](#sparklet-{command.name})" for command in of_panel)
        lines.append(f"- {panel}: {named}")
    return "\n".join(lines) + "\n"


def _command(group: Any, command: Any) -> str:
    context = typer.Context(command, info_name=command.name, parent=typer.Context(group, info_name="sparklet"))
    usage = command.get_usage(context).removeprefix("Usage: ").replace("{", "").replace("}", "")
    lines = [
        f"## sparklet {command.name}",
        "",
        " ".join(command.help.split()),
        "",
        f"    {' '.join(usage.split())}",
        "",
    ]
    parameters = [each for each in command.get_params(context) if each.name != "help"]
    lines += list(_arguments([each for each in parameters if each.param_type_name == "argument"]))
    options = [each for each in parameters if each.param_type_name == "option"]
    panels = {each.rich_help_panel or "Options": None for each in options}
    for panel in panels:
        lines += list(_options(panel, [each for each in options if (each.rich_help_panel or "Options") == panel]))
    examples = [line for line in command.epilog.split("\n\n") if line.startswith(("sparklet ", "aws "))]
    lines += ["Examples:", "", "```console", *(f"$ {line}" for line in examples), "```", ""]
    return "\n".join(lines)


def _arguments(arguments: list[Any]) -> Iterator[str]:
    for each in arguments:
        yield f"- `{each.metavar}`: {each.help}"
    if arguments:
        yield ""


def _options(panel: str, options: list[Any]) -> Iterator[str]:
    yield from (f"| {panel} | |", "|---|---|")
    for each in options:
        names = ", ".join(f"`{name}`" for name in each.opts)
        value = "" if each.is_flag else f" `{_value(each)}`"
        yield f"| {names}{value} | {_cell(each)} |"
    yield ""


def _value(option: Any) -> str:
    wanted = option.type_descriptor.annotation
    kinds = [wanted, *get_args(wanted)]  # of an optional one the kind is within
    choices = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())
    return "\\|".join(choices) if choices else (option.metavar or "TEXT").replace("|", "\\|")


def _cell(option: Any) -> str:
    notes = []
    if option.show_default and option.default not in (None, "", False, ()) and not option.is_flag:
        notes.append(f"default: {option.default}")
    if option.envvar:
        notes.append(f"or {option.envvar} in the environment")
    text = (option.help or "").replace("|", "\\|")
    return text + (f" ({'; '.join(notes)})" if notes else "")


def main() -> None:
    """Write the page to the file named."""
    page = Path(sys.argv[1])
    page.write_text(reference(), encoding="utf-8")
    page.with_name(SCHEMA).write_text(schema(), encoding="utf-8")
    print(f"{sys.argv[1]}: the commands of sparklet {__version__}")


if __name__ == "__main__":
    main()

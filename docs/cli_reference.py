"""``docs/reference/commands.md``, made from the commands' own help: ``python -m docs.cli_reference FILE``.

It also writes ``docs/reference/run-request.schema.json``, the JSON Schema of a document that asks for a run.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from textwrap import fill
from typing import Any, Literal, get_args, get_origin

import typer

from sparklet import __version__
from sparklet.cli.app import app
from sparklet.cli.exit_codes import EXIT_MEANINGS
from sparklet.planning.request import KINDS, places

SCHEMA = Path(__file__).parent / "reference" / "run-request.schema.json"
HEAD = """# The command line

<!-- Made from the help of the commands by `make docs`; change it there. -->

`sparklet COMMAND --help` shows the same in the terminal. `sparklet --install-completion` adds completion of
commands, options and, for `RUN`, the runs that you started from this machine. Options may stand before or after
arguments. Results go to standard output, progress and errors to standard error.

`RUN` is a run's id; `sparklet runs` lists them. `SCRIPT` is a .py file, local or s3://, and `ARGS` go to it.
"""
SHARED_HEAD = "## Options of several commands\n"
SINGLE_OPTIONS = "Single options"
MIN_SHARED_OPTIONS = 3
COMMON_ARGUMENTS = ("RUN", "SCRIPT", "-- ARGS")  # the head says what they are
TARGET = "Where and how"  # almost all commands have these options
PROSE_WIDTH = 120
JSON_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
ELEMENTS: dict[str, dict[str, Any]] = {
    "texts": {"items": {"type": "string"}},
    "lists": {"items": {"type": ["string", "object"]}},
}

Panel = tuple[str, tuple[str, ...]]  # title, and a row for each option


def schema() -> str:
    """The JSON Schema, as it is written."""
    return json.dumps(request_schema(), indent=2, ensure_ascii=False) + "\n"


def request_schema() -> dict[str, Any]:
    """The JSON Schema of a document that requests a run."""
    properties: dict[str, Any] = {}
    for place in places().values():
        key = place.key
        if key.document:
            limits: dict[str, Any] = {"enum": list(key.choices)} if key.choices else {}
            limits |= {} if key.minimum is None else {"minimum": key.minimum}
            properties[key.name] = {**_type_of(place.kind), **limits, "description": key.help}
    properties["of_event"] = {"type": "object", "description": "Instead of inputs: an event of S3 about the input."}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A run that the planner function is asked for",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _type_of(kind: str) -> dict[str, Any]:
    types = [JSON_TYPES[each] for each in KINDS[kind].types]
    if "number" in types:
        types = ["number"]  # integers, too
    return {"type": types[0] if len(types) == 1 else types, **ELEMENTS.get(kind, {})}


def reference() -> str:
    """The whole page. Options that several commands share come once, before the commands."""
    group: Any = typer.main.get_command(app)
    commands = group.commands.values()
    contexts = {command.name: typer.Context(command, info_name=command.name) for command in commands}
    panels = {command.name: _panels(command.get_params(contexts[command.name])) for command in commands}
    counts = Counter(panel for of_command in panels.values() for panel in of_command)
    shared = [panel for panel, count in counts.items() if count > 1 and len(panel[1]) >= MIN_SHARED_OPTIONS]
    rows = Counter(
        row for of_command in panels.values() for panel in of_command if panel not in shared for row in panel[1]
    )
    shared.append((SINGLE_OPTIONS, tuple(row for row, count in rows.items() if count > 1)))
    without = ", ".join(f"`{name}`" for name, of_command in panels.items() if TARGET not in dict(of_command))
    everywhere = f"Every command but {without} has the options {_link(TARGET)}.\n"
    parts = [HEAD, _exit_codes(), _contents(commands), SHARED_HEAD, everywhere]
    parts += [f"### {title}\n\n" + _list(of_panel) for title, of_panel in shared]
    parts += [_command(group, command, panels[command.name], shared) for command in commands]
    return "\n".join(parts)


def _exit_codes() -> str:
    rows = "\n".join(f"| {code} | {meaning} |" for code, meaning in EXIT_MEANINGS.items())
    return f"## Exit codes\n\n| code | meaning |\n|---|---|\n{rows}\n"


def _contents(commands: Iterable[Any]) -> str:
    lines = ["## Commands", ""]
    for panel, of_panel in groupby(commands, key=lambda command: command.rich_help_panel):
        named = ", ".join(f"[`{command.name}`](#sparklet-{command.name})" for command in of_panel)
        lines.append(_prose(f"- {panel}: {named}", indent="  "))
    return "\n".join(lines) + "\n"


def _command(group: Any, command: Any, panels: list[Panel], shared: list[Panel]) -> str:
    context = typer.Context(command, info_name=command.name, parent=typer.Context(group, info_name="sparklet"))
    usage = command.get_usage(context).removeprefix("Usage: ").replace("{", "").replace("}", "")
    lines = [f"## sparklet {command.name}", "", _prose(command.help), "", f"    {' '.join(usage.split())}", ""]
    lines += _arguments([each for each in command.get_params(context) if each.param_type_name == "argument"])
    single = shared[-1][1]
    own = [row for panel in panels if panel not in shared for row in panel[1]]
    lines += [_list(rows)] if (rows := [row for row in own if row not in single]) else []
    links = [_link(title) for title, rows in panels if (title, rows) in shared and title != TARGET]
    names = [row.partition(":")[0].removeprefix("- ").split(" ")[0].rstrip(",") for row in own if row in single]
    links += [f"{', '.join(names)} ({_link(SINGLE_OPTIONS)})"] if names else []
    lines += [_prose(f"Further options: {', '.join(links)}."), ""] if links else []
    examples = [f"$ {line}" for line in command.epilog.split("\n\n") if line.startswith(("sparklet ", "aws "))]
    examples = [line for line in examples if " -" in line]  # the others only repeat the usage
    lines += ["```console", *examples, "```", ""] if examples else []
    return "\n".join(lines)


def _link(title: str) -> str:
    return f"[{title}](#{title.lower().replace(' ', '-')})"


def _arguments(arguments: list[Any]) -> Iterator[str]:
    explained = [f"- `{each.metavar}`: {each.help}" for each in arguments if each.metavar not in COMMON_ARGUMENTS]
    yield from explained
    if explained:
        yield ""


def _panels(parameters: list[Any]) -> list[Panel]:
    """A command's options by their panels, each option as an item of a list."""
    rows: dict[str, list[str]] = {}
    for each in parameters:
        if each.param_type_name == "option" and each.name != "help":
            names = ", ".join(f"`{name}`" for name in each.opts)
            value = "" if each.is_flag else f" `{_value(each)}`"
            rows.setdefault(each.rich_help_panel or "Options", []).append(f"- {names}{value}: {_help(each)}")
    return [(title, tuple(of_panel)) for title, of_panel in rows.items()]


def _prose(text: str, indent: str = "") -> str:
    words = " ".join(text.split())
    return fill(words, PROSE_WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _list(rows: Iterable[str]) -> str:
    return "\n".join([*(_prose(row, indent="  ") for row in rows), ""])


def _value(option: Any) -> str:
    wanted = option.type_descriptor.annotation
    kinds = [wanted, *get_args(wanted)]  # an optional one has its kind within
    choices = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())
    return "|".join(choices) if choices else (option.metavar or "TEXT")


def _help(option: Any) -> str:
    notes = []
    if option.show_default and option.default not in (None, "", False, ()) and not option.is_flag:
        notes.append(f"default: {option.default}")
    if option.envvar:
        notes.append(f"or ${option.envvar}")
    return (option.help or "") + (f" ({'; '.join(notes)})" if notes else "")


def main() -> None:
    """Write the page to the file named, and the schema."""
    page = Path(sys.argv[1])
    page.write_text(reference(), encoding="utf-8")
    SCHEMA.write_text(schema(), encoding="utf-8")
    print(f"{sys.argv[1]}: the commands of sparklet {__version__}")


if __name__ == "__main__":
    main()

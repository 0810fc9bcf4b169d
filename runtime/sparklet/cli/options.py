"""The options that several commands share.

A command's function gets options that belong together as one parameter: a dataclass, or ``RequestOptions``, the options
of all keys of a run's request (``planning.request``). ``with_single_options`` makes single options of them for typer.
"""

import copy
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import typer
from typer.main import get_current_context  # type: ignore[attr-defined]  # has no public place

from sparklet.app.stack import StackSelection
from sparklet.app.state_machines import DispatchMode
from sparklet.errors import SettingsError
from sparklet.local.state import StateDir, user_folder
from sparklet.model.options import FAILURES, INPUT, LARGE_MB, ORCHESTRATION, RUN, SHARDS
from sparklet.planning.request import places

STATE_DIR = "SPARKLET_STATE_DIR"


def known_runs(incomplete: str) -> list[str]:
    """Return ids for shell completion: runs that were started from this machine, newest first; no stack is read."""
    context = get_current_context(silent=True)  # the command's context, which already has --state-dir
    state_dir = context.params.get("state_dir") if context else None
    try:
        folder = StateDir(Path(state_dir or os.environ.get(STATE_DIR) or user_folder("state"))).local_paths
        files = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    except (OSError, SettingsError):
        return []
    return [path.stem for path in files if path.stem.startswith(incomplete)]


def last_run() -> str:
    """Return the id of the run that was started last from this machine; SettingsError if there is none."""
    if not (run_ids := known_runs("")):
        raise SettingsError("no run was started from this machine: name one; list them with `sparklet runs`")
    return run_ids[0]


RunId = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        default_factory=last_run,
        show_default="the last one that was started from this machine",
        help="The run's id; `sparklet runs` lists them.",
        autocompletion=known_runs,
    ),
]
Shards = Annotated[str, typer.Option("--shards", metavar="NUMBERS", help="Only these shards, as in 3,17,20-25.")]
Cause = Annotated[
    str,
    typer.Option(
        "--cause",
        metavar="CLASS|TEXT",
        help="Only shards that failed with this class, or these words in the message; see `sparklet explain RUN`.",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON document on standard output; progress goes to standard error.")
]
Requirements = Annotated[
    Path | None,
    typer.Option("--requirements", metavar="FILE", help="Libraries for the script, as pip takes them; wheels only."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing, only show what would be done.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before deleting.")]


DispatchModeOption = Annotated[
    DispatchMode,
    typer.Option(
        "--dispatch-mode",
        rich_help_panel=ORCHESTRATION,
        help="How shards reach workers. queue: this command plans the run and fills the queue, and the stack's checker "
        "completes it. loop: a state machine does both. map: a state machine plans the run and dispatches its shards "
        "by a Distributed Map, up to 40 by an inline Map. inline: the same, and more than 40 shards are refused.",
    ),
]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="The port on localhost; 0: any free one.")]
Report = Annotated[
    bool,
    typer.Option(
        "--report/--no-report",
        rich_help_panel="Where and how",
        help="Write the report beside a local run's manifest at its end.",
    ),
]
_memory = partial(typer.Option, "--memory", min=512, max=LARGE_MB, metavar="MB")
_timeout = partial(typer.Option, "--timeout", min=1, metavar="SECONDS")


HelpAll = Annotated[bool, typer.Option("--help-all", help="Show all options, by subject, and exit.")]


def parse_shards(text: str) -> tuple[int, ...]:
    """Return the numbers of a list such as ``3,17,20-25``; SettingsError for any other text."""
    numbers: list[int] = []
    for item in filter(None, text.replace(" ", "").split(",")):
        first, dash, last = item.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise SettingsError(f"--shards {item!r} must be a number or a range, as in 3,17,20-25")
        numbers += range(int(first), int(last or first) + 1)
    return tuple(dict.fromkeys(numbers))


@dataclass(frozen=True)
class StackOptions(StackSelection):
    """The options of every command: the stack that it works on, and how it prints."""

    PANEL: ClassVar[str] = "Where and how"

    stack: Annotated[
        str,
        typer.Option("--stack", envvar="SPARKLET_STACK", metavar="NAME", help="A deployed stack, not the local one."),
    ] = ""
    state_dir: Annotated[
        Path | None,
        typer.Option(
            "--state-dir",
            envvar=STATE_DIR,
            metavar="FOLDER",
            help="Folder of the local stack (default: the user's state folder).",
        ),
    ] = None
    as_json: AsJson = False
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False


@dataclass(frozen=True)
class WorkerOptions(StackOptions):
    """``StackOptions`` and the local stack's workers, which change only a stack that no other command uses."""

    PANEL: ClassVar[str] = "Local workers"

    workers: Annotated[
        int | None, typer.Option("--workers", min=1, metavar="N", help="Worker processes (default: one for each core).")
    ] = None
    timeout_s: Annotated[int | None, _timeout(help="Time limit of one shard (default: 900).")] = None
    memory_mb: Annotated[int | None, _memory(help="Memory of one worker (default: 3008).")] = None
    runner: Annotated[
        Literal["warm", "submit"] | None,
        typer.Option("--runner", help="warm: one JVM that is kept (default); submit: one spark-submit for each shard."),
    ] = None
    keep: Annotated[bool, typer.Option("--keep-stack", help="Leave the local stack running until `sparklet stop`.")] = (
        False
    )


@dataclass(frozen=True)
class RedriveOptions(StackOptions):
    """``StackOptions`` and the size of the workers for the redriven shards."""

    PANEL: ClassVar[str] = "Options"

    memory_mb: Annotated[int | None, _memory(help="More memory each; restarts the local stack.")] = None
    timeout_s: Annotated[int | None, _timeout(help="More time for each shard; restarts the local stack.")] = None


class RequestOptions(dict[str, Any]):
    """The options of a run's request by its keys, and the format of its lists."""


ListFormat = Annotated[
    Literal["lines", "csv", "json", "jsonl", "parquet", "s3-inventory"] | None,
    typer.Option("--list-format", help="Format of the lists (default: by their names)."),
]

KEYWORD = inspect.Parameter.KEYWORD_ONLY
PANELS = (RUN, INPUT, SHARDS, FAILURES, ORCHESTRATION)
USUAL = (
    *("inputs", "output", "table", "schema", "params", "py_files", "requirements", "overwrite", "isolate"),
    *("stack", "dry_run"),
)
"""The parameters that ``--help`` shows; ``--help-all`` shows all."""
TYPES: Mapping[str, Any] = {"flag": bool, "whole": int | None, "number": float | None} | dict.fromkeys(
    ("texts", "object", "lists", "items"), list[str] | None
)
METAVARS = {"size": "SIZE", "time": "TIME", "every": "N|TIME", "tolerance": "N|P%", "whole": "N", "role": "ARN"}
METAVARS |= {"object": "KEY=VALUE", "table": "FORMAT:PLACE"}


def with_single_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return a function for typer, with single options in place of each parameter that groups options.

    The function makes the groups of the options' values, and calls ``command`` with them.
    """
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[Callable[..., Any], list[inspect.Parameter]]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        hint = hints[name]
        if hint is RequestOptions:
            groups[name] = RequestOptions, [*_request_parameters(), _parameter("help_all", HelpAll, False)]
        elif inspect.isclass(hint) and is_dataclass(hint):
            groups[name] = hint, _fields(hint)
        else:
            parameters.append(_parameter(name, hint, parameter.default))
            continue
        parameters += groups[name][1]

    def call_command(**values: Any) -> None:
        for name, (make_group, group_parameters) in groups.items():
            # Options that were not given are left out, so that the group's own defaults apply. For these typer has the
            # default of the parameter, or [].
            value_by_name = {
                parameter.name: value
                for parameter in group_parameters
                if (value := values.pop(parameter.name)) not in (parameter.default, [])
            }
            values[name] = make_group(**value_by_name)
        command(**values)

    call_command.__name__, call_command.__doc__ = command.__name__, command.__doc__
    call_command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    signature = inspect.Signature(parameters)
    setattr(call_command, "__signature__", signature)  # noqa: B010 - typer reads it; mypy does not know it
    return call_command


def _fields(group: Any) -> list[inspect.Parameter]:
    """Return the options of a dataclass, each in the ``PANEL`` of the class that declares it."""
    bases = [base for base in reversed(group.mro()) if "PANEL" in vars(base)]
    panels = {name: base.PANEL for base in bases for name in inspect.get_annotations(base)}
    hints = get_type_hints(group, include_extras=True)
    options = [field for field in fields(group) if get_origin(hints[field.name]) is Annotated]
    return [_parameter(field.name, hints[field.name], field.default, panels[field.name]) for field in options]


def _parameter(name: str, hint: Any, default: Any, panel: str | None = None) -> inspect.Parameter:
    """Return an option or argument of a command; help shows its default unless this is empty."""
    if get_origin(hint) is Annotated:
        type_, option = get_args(hint)
        # A copy, since several commands share an option, but with different panels and defaults.
        option = copy.copy(option)
        option.rich_help_panel = option.rich_help_panel or panel
        if option.default_factory is None:
            option.show_default = default not in (None, "", False, inspect.Parameter.empty)
        hint = Annotated[type_, option]
    return inspect.Parameter(name, KEYWORD, default=default, annotation=hint)


def key_option(name: str) -> Any:
    """Return the option or argument for a key of a run's request."""
    key, option, kind, *_ = places()[name]
    if key.argument:
        return typer.Argument(metavar=key.metavar, help=key.help)
    metavar = key.metavar or METAVARS.get(kind)
    minimum = key.minimum if kind in ("whole", "number") else None
    return typer.Option(*(key.options or (option,)), metavar=metavar, min=minimum, help=key.help)


def _request_parameters() -> list[inspect.Parameter]:
    """Return the option or argument of each key of a run's request, and the option for the format of its lists."""
    parameters = []
    for key, _, kind, default, *_ in sorted(places().values(), key=lambda place: PANELS.index(place.key.panel)):
        if not key.command:
            continue
        type_: Any = Literal[key.choices] | None if key.choices else TYPES.get(kind, str | None)
        shown_default = key.shown or (default if default and kind in ("text", "whole", "number") else None)
        option_default: Any = False if kind == "flag" else shown_default
        if key.name == "script":
            type_, option_default = str, inspect.Parameter.empty
        panel = None if key.argument else key.panel
        parameters.append(_parameter(key.name, Annotated[type_, key_option(key.name)], option_default, panel))
    return [*parameters, _parameter("list_format", ListFormat, None, INPUT)]

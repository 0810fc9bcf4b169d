"""The options that several commands share, and the request of a run made of them.

A command takes options that belong together as one parameter: a dataclass, whose fields typer sees, or
``RequestOptions``, which stands for the options of all keys of a run's request (``planning.request``).
"""

import copy
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import typer

from sparklet.app.stack import LOCAL_PATHS
from sparklet.errors import PlanError, SettingsError
from sparklet.inputs.list_requests import ListRequest
from sparklet.local.state import default_state_dir
from sparklet.model.options import FAILURES, INPUT, ORCHESTRATION, RUN, SHARDS
from sparklet.model.quantities import parse_duration_s
from sparklet.planning.request import RunRequest, places, read_request
from sparklet.settings import script_environment

STANDARD_INPUT = "-"


def known_runs(incomplete: str) -> list[str]:
    """Runs for shell completion: those started from this machine; no stack is read."""
    folder = default_state_dir() / LOCAL_PATHS
    try:
        files = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    except OSError:
        return []
    return [path.stem for path in files if path.stem.startswith(incomplete)]


RunId = Annotated[
    str, typer.Argument(metavar="RUN", help="The run's id; `sparklet runs` lists them.", autocompletion=known_runs)
]
Arguments = Annotated[list[str] | None, typer.Argument(metavar="-- ARGS", help="Arguments for the script.")]
Shards = Annotated[str, typer.Option("--shards", metavar="NUMBERS", help="Only these, as in 3,17,20-25.")]
Cause = Annotated[
    str,
    typer.Option(
        "--cause",
        metavar="CLASS|TEXT",
        help="Only shards that failed with this class, or these words in the message; see `sparklet explain RUN`.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing, only show what would be done.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before deleting.")]


WantedMode = Literal["queue", "loop", "map", "inline", "auto"]
DispatchModeOption = Annotated[
    WantedMode,
    typer.Option(
        "--dispatch-mode",
        rich_help_panel=ORCHESTRATION,
        help="How shards reach workers. queue: this command plans the run and fills the queue, and the stack's checker "
        "completes it. loop: a state machine does both. map: a state machine dispatches all shards at once, in a "
        "Distributed Map. inline: the same in an inline Map, for up to 40 shards. auto: inline for up to 40 shards, "
        "loop for more.",
    ),
]
Prices = Annotated[
    Path | None,
    typer.Option(
        "--prices",
        envvar="SPARKLET_PRICES",
        metavar="FILE",
        rich_help_panel=ORCHESTRATION,
        help="Prices and limits of your own (TOML) that correct Sparklet's; see docs/guide/costs.md.",
    ),
]


Env = Annotated[
    list[str] | None,
    typer.Option("--env", metavar="KEY=VALUE", help="For the script's environment, no secrets; may be repeated."),
]


def parse_pairs(option: str, given: list[str] | None) -> dict[str, str]:
    """``key=value`` pairs; SettingsError if a pair has no ``=``, or a key comes twice."""
    pairs: dict[str, str] = {}
    for pair in given or ():
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise SettingsError(f"{option} {pair!r} must look like key=value")
        if key in pairs:
            raise SettingsError(f"{option} {key} is given twice")
        pairs[key] = value
    return pairs


def parse_shards(text: str) -> tuple[int, ...]:
    """``3,17,20-25`` as numbers; SettingsError if it is no such list."""
    numbers: list[int] = []
    for item in filter(None, text.replace(" ", "").split(",")):
        first, dash, last = item.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise SettingsError(f"--shards {item!r} must be a number or a range, as in 3,17,20-25")
        numbers += range(int(first), int(last or first) + 1)
    return tuple(dict.fromkeys(numbers))


class RequestOptions(dict[str, Any]):
    """The options of a run's request, by its keys."""


@dataclass(frozen=True)
class ListOptions:
    """How lists are read."""

    PANEL: ClassVar[str] = INPUT

    list_format: Annotated[
        Literal["lines", "csv", "json", "jsonl", "parquet", "s3-inventory"] | None,
        typer.Option("--list-format", help="Of the lists (default: by their names)."),
    ] = None
    list_path: Annotated[
        str,
        typer.Option(
            "--list-path",
            metavar="PATH",
            help="Where the addresses are: a column, or a path within JSON such as data.files[*].uri.",
        ),
    ] = ""


def run_request(options: RequestOptions, lists: ListOptions, *, dry_run: bool = False) -> RunRequest:
    """The request that a command's options make; SettingsError or PlanError with the option and the remedy."""
    given: dict[str, Any] = dict(options)
    for name in ("params", "env", "files"):
        if isinstance(given.get(name), list):  # of a command line
            given[name] = parse_pairs(places()[name].option, given[name])
    if "env" in given:
        script_environment(given["env"], "--env")
    if "since" in given:
        given["since"] = _absolute(given["since"])
    named = given.pop("inputs", [])
    given["inputs"] = [each for each in named if each != STANDARD_INPUT]
    objects = [*given.pop("lists", []), *(each for each in named if each == STANDARD_INPUT)]
    if sources := [*objects, *given.pop("items", [])]:
        given["lists"] = [_read_list(each, lists, items=n >= len(objects)) for n, each in enumerate(sources)]
    elif lists.list_format or lists.list_path:
        raise PlanError("--list-format and --list-path need a list: add --list FILE")
    if sources.count(STANDARD_INPUT) > 1:
        raise PlanError("standard input (-) can be read once only; name it once")
    request = read_request(given, command=True, dry_run=dry_run)
    local = [each for each in request.inputs if "://" not in each]
    if request.options.incremental and local:
        raise PlanError(
            f"--incremental needs inputs in S3: {local[0]} is copied to the bucket for each run; "
            "use --since for local files"
        )
    return request


def _absolute(since: str) -> str:
    """The time that is ``36h`` ago, in the form of a request; other text unchanged."""
    try:
        return (datetime.now(UTC) - timedelta(seconds=parse_duration_s(since))).isoformat()
    except SettingsError:
        return since


def _read_list(source: str | ListRequest, options: ListOptions, *, items: bool) -> ListRequest:
    """A list, with its content if it is local."""
    if isinstance(source, ListRequest):
        return source
    body, form = None, options.list_format or ("lines" if source == STANDARD_INPUT else "")
    if "://" not in source:
        try:
            body = sys.stdin.buffer.read() if source == STANDARD_INPUT else Path(source).read_bytes()
        except OSError as error:
            raise PlanError(f"the list {source} cannot be read: {error.strerror}") from error
    return ListRequest(source, body, form, options.list_path, items)


KEYWORD = inspect.Parameter.KEYWORD_ONLY
PANELS = (RUN, INPUT, SHARDS, FAILURES, ORCHESTRATION)
TYPES: Mapping[str, Any] = {"flag": bool, "whole": int | None, "number": float | None} | dict.fromkeys(
    ("texts", "object", "lists", "items"), list[str] | None
)


METAVARS = {"size": "SIZE", "time": "TIME", "every": "N|TIME", "tolerance": "N|P%", "whole": "N", "role": "ARN"}
METAVARS |= {"object": "KEY=VALUE", "table": "FORMAT:PLACE"}


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Replace each parameter that stands for several options by these; the command gets the object made of them."""
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[Callable[..., Any], list[inspect.Parameter]]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        hint = hints[name]
        if hint is RequestOptions:
            groups[name] = RequestOptions, _request_parameters()
        elif inspect.isclass(hint) and is_dataclass(hint):
            groups[name] = hint, _fields(hint)
        else:
            parameters.append(_parameter(name, hint, parameter.default))
            continue
        parameters += groups[name][1]

    def called(**given: Any) -> None:
        for name, (make, own) in groups.items():
            values = {each.name: given.pop(each.name) for each in own}
            given[name] = make(
                **{each.name: values[each.name] for each in own if values[each.name] not in (each.default, [])}
            )
        command(**given)

    called.__name__, called.__doc__ = command.__name__, command.__doc__
    called.__annotations__ = {each.name: each.annotation for each in parameters}
    setattr(called, "__signature__", inspect.Signature(parameters))  # noqa: B010 - typer reads it; mypy does not know it
    return called


def _fields(group: Any) -> list[inspect.Parameter]:
    """The options of a dataclass, in the ``PANEL`` of the class that declares them."""
    panels = {name: each.PANEL for each in reversed(group.mro()) for name in inspect.get_annotations(each)}
    hints = get_type_hints(group, include_extras=True)
    options = [each for each in fields(group) if get_origin(hints[each.name]) is Annotated]
    return [_parameter(each.name, hints[each.name], each.default, panels[each.name]) for each in options]


def _parameter(name: str, hint: Any, default: Any, panel: str | None = None) -> inspect.Parameter:
    """An option or argument of a command; help shows no empty default."""
    if get_origin(hint) is Annotated:
        kind, option = get_args(hint)
        option = copy.copy(option)
        option.rich_help_panel = option.rich_help_panel or panel
        option.show_default = default not in (None, "", False, inspect.Parameter.empty)
        hint = Annotated[kind, option]
    return inspect.Parameter(name, KEYWORD, default=default, annotation=hint)


def _request_parameters() -> list[inspect.Parameter]:
    """The option or argument of each key of a run's request."""
    parameters = []
    for key, name, kind, default, *_ in sorted(places().values(), key=lambda place: PANELS.index(place.key.panel)):
        if not key.command:
            continue
        of: Any = Literal[key.choices] | None if key.choices else TYPES.get(kind, str | None)
        shown = key.shown or (default if default and kind in ("text", "whole", "number") else None)
        option: Any = typer.Option(
            *(key.options or (name,)),
            metavar=key.metavar or METAVARS.get(kind),
            min=key.minimum if kind in ("whole", "number") else None,
            help=key.help,
            rich_help_panel=key.panel,
        )
        if key.argument:
            option = typer.Argument(metavar=key.metavar, help=key.help)
        without: Any = False if kind == "flag" else shown
        if key.name == "script":
            of, without = str, inspect.Parameter.empty
        parameters.append(_parameter(key.name, Annotated[of, option], without))
    return parameters

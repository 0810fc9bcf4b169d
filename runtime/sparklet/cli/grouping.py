"""Options that belong together, in one dataclass: a command takes it as one parameter, typer sees its fields.

Help shows them under the dataclass's ``PANEL``, where it has one, and no default where that is nothing or empty.
"""

import copy
import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Annotated, Any, get_args, get_type_hints


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Replace each parameter of a dataclass type by its fields, in place; the command gets the dataclass made."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if inspect.isclass(hint) and is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            own = get_type_hints(groups[name], include_extras=True)
            panel = getattr(groups[name], "PANEL", None)
            parameters += [_parameter(each, own[each.name], panel) for each in fields(groups[name])]
        else:
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))

    def called(**given: Any) -> None:
        made = {
            name: group(**{each.name: given.pop(each.name) for each in fields(group)}) for name, group in groups.items()
        }
        command(**given, **made)

    called.__name__, called.__doc__ = command.__name__, command.__doc__
    called.__annotations__ = {each.name: each.annotation for each in parameters}
    setattr(called, "__signature__", inspect.Signature(parameters))  # noqa: B010 - what typer reads; mypy knows it not
    return called


def _parameter(of: "Field[Any]", hint: Any, panel: str | None) -> inspect.Parameter:
    kind, option = get_args(hint)
    option = copy.copy(option)
    option.rich_help_panel = panel
    option.show_default = option.show_default and of.default not in (None, "")
    default = inspect.Parameter.empty if of.default is MISSING else of.default
    annotation = Annotated[kind, option]  # type: ignore[valid-type]  # a type known only now
    return inspect.Parameter(of.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

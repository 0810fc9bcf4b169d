"""IAM policies as this project writes them, evaluated by a few lines of our own: the referee of the stand-in's."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.unit.template.reading import as_list

OPERATORS = ("StringEquals", "StringLike", "Bool", "ArnLike", "ArnEquals")  # all of them match patterns, or plain text


@dataclass(frozen=True)
class Call:
    """One request that somebody made with a role."""

    role: str  # its name
    action: str
    resource: str
    keys: Mapping[str, str] = field(default_factory=dict)  # condition keys, in lower case
    allowed: bool = True  # by the stand-in


@dataclass(frozen=True)
class Grant:
    """The smallest thing that a statement allows: one action, on one resource pattern, under one value a condition."""

    role: str
    sid: str
    action: str
    resource: str
    conditions: tuple[tuple[str, str], ...] = ()  # key in lower case, pattern

    def covers(self, call: Call) -> bool:
        """Whether this grant allows the call."""
        return (
            call.role == self.role
            and matches(self.action.lower(), call.action.lower())
            and matches(self.resource, call.resource)
            and all(key in call.keys and matches(pattern, call.keys[key]) for key, pattern in self.conditions)
        )

    def __str__(self) -> str:
        given = "".join(f" if {key} is {pattern}" for key, pattern in self.conditions)
        return f"{self.sid}: {self.action} on {self.resource}{given}"


def matches(pattern: str, text: str) -> bool:
    """Whether a pattern of IAM's (``*`` and ``?``) covers a text."""
    return re.fullmatch("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern), text, re.S) is not None


def grants(role: str, statement: Mapping[str, Any]) -> Iterator[Grant]:
    """What an ``Allow`` statement grants, one by one.

    Raises
    ------
    ValueError
        If it is written in a way that this reader does not know: better no verdict than a wrong one.
    """
    unknown = statement.keys() - {"Sid", "Effect", "Action", "Resource", "Condition"}
    if statement["Effect"] == "Deny" and statement.get("Condition") == {"Null": {"lambda:SourceFunctionArn": "false"}}:
        return  # of calls of a function's own code, which makes none of these
    if statement["Effect"] != "Allow" or unknown:
        raise ValueError(f"{role}: a statement that this reader does not know: {dict(statement)}")
    choices: list[tuple[tuple[str, str], ...]] = [()]
    for operator, condition in statement.get("Condition", {}).items():
        if operator.startswith("ForAllValues:"):
            continue  # of keys that are lists, which the stand-in checks, but does not record
        if operator not in OPERATORS:
            raise ValueError(f"{role}: a condition that this reader does not know: {operator}")
        for key, values in condition.items():
            choices = [(*chosen, (key.lower(), value)) for chosen in choices for value in as_list(values)]
    for action in as_list(statement["Action"]):
        for resource in as_list(statement["Resource"]):
            for chosen in choices:
                yield Grant(role, statement.get("Sid", ""), action, resource, chosen)

"""IAM policies as this project writes them, evaluated by a small reader of our own to check the stand-in's verdicts."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.unit.template.reading import as_list

OPERATORS = ("StringEquals", "StringLike", "Bool", "ArnLike", "ArnEquals")  # all of them match patterns, or plain text


@dataclass(frozen=True)
class Call:
    """One request to AWS with a role's credentials."""

    role: str  # the role's name
    action: str
    resource: str
    keys: Mapping[str, str] = field(default_factory=dict)  # condition keys, in lower case
    allowed: bool = True  # the stand-in's verdict


@dataclass(frozen=True)
class Grant:
    """The smallest unit of a statement: one action on one resource pattern, with one value for each condition."""

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
        conditions = "".join(f" if {key} is {pattern}" for key, pattern in self.conditions)
        return f"{self.sid}: {self.action} on {self.resource}{conditions}"


def matches(pattern: str, text: str) -> bool:
    """Whether an IAM pattern (with ``*`` and ``?``) covers a text."""
    return re.fullmatch("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern), text, re.S) is not None


def grants(role: str, statement: Mapping[str, Any]) -> Iterator[Grant]:
    """The single grants of an ``Allow`` statement.

    Raises
    ------
    ValueError
        If the statement has a form that this reader does not know: better no verdict than a wrong one.
    """
    unknown = statement.keys() - {"Sid", "Effect", "Action", "Resource", "Condition"}
    if statement["Effect"] == "Deny" and statement.get("Condition") == {"Null": {"lambda:SourceFunctionArn": "false"}}:
        return  # denies calls by a function's own code, which never makes these calls
    if statement["Effect"] != "Allow" or unknown:
        raise ValueError(f"{role}: a statement that this reader does not know: {dict(statement)}")
    choices: list[tuple[tuple[str, str], ...]] = [()]
    for operator, condition in statement.get("Condition", {}).items():
        if operator.startswith("ForAllValues:"):
            continue  # its keys are lists, which the stand-in checks but does not record
        if operator not in OPERATORS:
            raise ValueError(f"{role}: a condition that this reader does not know: {operator}")
        for key, values in condition.items():
            choices = [(*conditions, (key.lower(), value)) for conditions in choices for value in as_list(values)]
    for action in as_list(statement["Action"]):
        for resource in as_list(statement["Resource"]):
            for conditions in choices:
                yield Grant(role, statement.get("Sid", ""), action, resource, conditions)

"""What a ruleset of DQDL says; a rule that is not here is refused by its name, before anything is computed."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, NoReturn

from awsglue import lacking
from awsglue.dynamicframe import try_cast

if TYPE_CHECKING:
    from pyspark.sql import Column

TEXT = r'"(?:[^"\\]|\\.)*"'
# A text is one token: a # or a bracket in it is no comment and no sign. The dot takes a quote that is never closed.
TOKEN = re.compile(rf'#[^\n]*|\s+|{TEXT}|[!<>]=|[=<>(),\[\]]|[^\s"#!<>=(),\[\]]+|.')
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?")
KEYWORDS = {"NULL": None, "EMPTY": "", "WHITESPACES_ONLY": re.compile(r"^\s+$")}
COMPARED = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
COMPARED |= {"=": operator.eq, "!=": operator.ne}
OF_ROWS = ("ColumnLength", "ColumnValues")  # their condition is about each row
KINDS = {  # how many texts they may have, and whether they have a condition
    "RowCount ColumnCount": (range(1), True),
    "ColumnExists IsComplete": (range(1, 2), False),
    "IsUnique IsPrimaryKey": (range(1, 99), False),
    "Uniqueness": (range(1, 99), True),
    "Completeness CustomSql DistinctValuesCount Mean StandardDeviation Sum": (range(1, 2), True),
    "ColumnLength ColumnValues": (range(1, 2), True),
}
RULES = {name: needs for names, needs in KINDS.items() for name in names.split()}


@dataclass(frozen=True)
class Condition:
    """``> 0``, ``between 1 and 5``, ``not in ["a", NULL]``, ``matches "[a-z]+"`` and the like."""

    operator: str
    values: tuple[Any, ...]
    negated: bool = False

    @property
    def orders(self) -> bool:
        """Whether it compares numbers by size."""
        return self.operator in ("between", ">", ">=", "<", "<=") and isinstance(self.values[0], float)

    def holds(self, number: float) -> bool:
        """Whether a number meets it."""
        if self.operator == "between":
            return bool(self.values[0] < number < self.values[1]) != self.negated
        if self.operator == "in":
            return (number in self.values) != self.negated
        return bool(COMPARED[self.operator](number, self.values[0]))

    def column(self, column: Column) -> Column:
        """Whether a row's value meets it, which is never null."""
        from pyspark.sql.functions import coalesce, lit

        # ``_equals`` is never null, so ``!=`` and ``not in`` hold for a null, as in Glue.
        if self.operator in ("in", "=", "!="):
            condition = reduce(operator.or_, (_equals(column, value) for value in self.values))
            return ~condition if self.negated or self.operator == "!=" else condition
        if self.operator == "matches":
            # rlike finds a match anywhere, a rule's pattern is for the whole text.
            condition = column.cast("string").rlike(f"^(?:{self.values[0]})$")
            condition = ~condition if self.negated else condition
        elif self.operator == "between":
            low, high = self.values
            condition = (column <= low) | (column >= high) if self.negated else (column > low) & (column < high)
        else:
            condition = COMPARED[self.operator](column, self.values[0])
        # A null meets none of these conditions, nor their negations: for it both are null.
        return coalesce(condition, lit(False))


def _equals(column: Column, value: Any) -> Column:
    from pyspark.sql.functions import coalesce, lit

    if value is None:
        return column.isNull()
    if isinstance(value, re.Pattern):
        return coalesce(column.cast("string").rlike(value.pattern), lit(False))
    # A text that is no number equals none; a plain cast would fail the script on Spark 4.
    return coalesce(try_cast(column, "double" if isinstance(value, float) else "string") == value, lit(False))


ALL = Condition("=", (1.0,))


@dataclass(frozen=True)
class Rule:
    """A rule; with ``parts`` it is ``and`` or ``or`` of others."""

    text: str
    kind: str
    names: tuple[str, ...] = ()
    of_row: Condition = ALL  # of ``OF_ROWS``
    limit: Condition = ALL  # of its metrics, which are numbers of all rows
    where: str = ""
    parts: tuple[Rule, ...] = ()

    @property
    def leaves(self) -> list[Rule]:
        """The rules of which it consists."""
        return [leaf for part in self.parts for leaf in part.leaves] or [self]

    @property
    def value(self) -> Column:
        """The value of a row that the rule checks."""
        from pyspark.sql.functions import coalesce, col, length, lit

        column = col(f"`{self.names[0]}`")
        return coalesce(length(column), lit(0)) if self.kind == "ColumnLength" else column


def rules_of(ruleset: str) -> list[Rule]:
    """The rules of ``Rules = […]``; ``Analyzers = […]`` has none. ValueError if it is not DQDL."""
    reader, all_rules = _Reader(ruleset), list[Rule]()
    while reader.ahead:
        section = reader.next("Rules", "Analyzers")
        reader.next("=")
        rules = reader.listed(reader.rule if section == "Rules" else reader.analyzer)
        all_rules += rules if section == "Rules" else []
        reader.has(",")
    return all_rules


class _Reader:
    def __init__(self, ruleset: str) -> None:
        texts = [match[0] for match in TOKEN.finditer(ruleset)]
        self._tokens = [text for text in texts if text.strip() and not text.startswith("#")]
        self._at = 0

    @property
    def ahead(self) -> str:
        """The next token; "" at the end."""
        return "".join(self._tokens[self._at : self._at + 1])

    def next(self, *expected_tokens: str) -> str:
        """Read the next token, which is one of these; any, if there are none."""
        if not (token := self.ahead) or (expected_tokens and token not in expected_tokens):
            self._refuse(" or ".join(expected_tokens) or "more")
        self._at += 1
        return token

    def has(self, token: str) -> bool:
        """Read the next token if it is this one."""
        self._at += (is_next := self.ahead == token)
        return is_next

    def _refuse(self, expected: str) -> NoReturn:
        read = " ".join(self._tokens[max(0, self._at - 8) : self._at])
        raise ValueError(f"the ruleset has {self.ahead or 'its end'} after {read!r} in place of {expected}")

    def _text_since(self, first: int) -> str:
        """The text of the tokens from ``first`` up to here, in Glue's spelling."""
        text = " ".join(self._tokens[first : self._at])
        return re.sub(rf"({TEXT})|(?<=[(\[]) | (?=[)\],])", r"\1", text)

    def listed(self, read: Any) -> list[Any]:
        """What ``read`` reads, separated by commas, in brackets."""
        self.next("[")
        entries = []
        while not self.has("]"):
            entries.append(read())
            if self.ahead != "]":
                self.next(",")
        return entries

    def analyzer(self) -> None:
        """Skip an analyzer, which only measures."""
        while self.ahead not in (",", "]", ""):
            self.next()

    def rule(self) -> Rule:
        """A rule, or several in brackets."""
        first = self._at
        if self.ahead != "(":
            return self._single_rule()
        rule = self._bracketed()
        while self.ahead in ("and", "or"):
            kind, parts = self.next(), (rule, self._bracketed())
            rule = Rule(self._text_since(first), kind, parts=parts)
        return rule

    def _bracketed(self) -> Rule:
        self.next("(")
        rule = self.rule()
        self.next(")")
        return rule

    def _texts(self) -> Iterator[str]:
        while self.ahead.startswith('"'):
            yield self._value("")

    def _single_rule(self) -> Rule:
        first, kind = self._at, self.next()
        if kind not in RULES:
            raise lacking(f"rule {kind}", f"{', '.join(sorted(RULES))}, or conditions on frame.toDF()")
        counts, compares = RULES[kind]
        names = tuple(self._texts())
        if len(names) not in counts:
            self._refuse(f"{'a column' if counts.stop > 1 else 'the condition'} of {kind}")
        of_row, limit = ALL, self._condition(kind) if compares else ALL
        if kind in OF_ROWS:
            of_row, limit = limit, ALL
            if self.has("with"):
                self.next("threshold")
                limit = self._condition("threshold")
        where = "".join(self._texts()) if self.has("where") else ""
        # What is not read, such as labels, could change the rule's meaning.
        if self.ahead not in (",", "]", ")"):
            raise lacking(f"rule {self._text_since(first)} {self.ahead}", "the rule without it")
        return Rule(self._text_since(first), kind, names, of_row, limit, where)

    def _condition(self, kind: str) -> Condition:
        if self.ahead in (",", "]", ")"):
            raise lacking(f"rule {kind} without a condition", f"{kind} with one, such as > 0")
        negated = self.has("not")
        texts = ["matches"] if kind == "ColumnValues" else []
        sign = self.next("between", "in", *texts, *([] if negated else COMPARED))
        if sign == "in":
            return Condition(sign, tuple(self.listed(lambda: self._value(kind))), negated)
        values = [self._value(kind)]
        if sign == "between":
            self.next("and")
            values.append(self._value(kind))
        return Condition(sign, tuple(values), negated)

    def _value(self, kind: str) -> Any:
        """A text, or a number, or of ``ColumnValues`` a keyword."""
        token = self.next()
        if token.startswith('"') and kind in ("", "ColumnValues"):
            return re.sub(r'\\(["\\])', r"\1", token[1:-1])
        if token in KEYWORDS and kind == "ColumnValues":
            return KEYWORDS[token]
        if not NUMBER.fullmatch(token):
            raise lacking(
                f"value {token} of {kind}", "numbers, and for ColumnValues texts, NULL, EMPTY, WHITESPACES_ONLY"
            )
        return float(token)

"""Parses rulesets of Glue's language DQDL; an unknown rule is refused by its name, before anything is computed."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, NoReturn

from awsglue import lack_error
from awsglue.dynamicframe import try_cast

if TYPE_CHECKING:
    from pyspark.sql import Column

TEXT = r'"(?:[^"\\]|\\.)*"'
# A text is one token: a # in it begins no comment, and a bracket in it is no sign. The dot matches an unclosed quote.
TOKEN = re.compile(rf'#[^\n]*|\s+|{TEXT}|[!<>]=|[=<>(),\[\]]|[^\s"#!<>=(),\[\]]+|.')
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?")
KEYWORDS = {"NULL": None, "EMPTY": "", "WHITESPACES_ONLY": re.compile(r"^\s+$")}
COMPARISONS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
COMPARISONS |= {"=": operator.eq, "!=": operator.ne}
ROW_RULES = ("ColumnLength", "ColumnValues")  # rules with a condition on each row
KINDS = {  # by rules: how many texts a rule can have, and whether it has a condition
    "RowCount ColumnCount": (range(1), True),
    "ColumnExists IsComplete": (range(1, 2), False),
    "IsUnique IsPrimaryKey": (range(1, 99), False),
    "Uniqueness": (range(1, 99), True),
    "Completeness CustomSql DistinctValuesCount Mean StandardDeviation Sum": (range(1, 2), True),
    "ColumnLength ColumnValues": (range(1, 2), True),
}
RULES = {name: syntax for names, syntax in KINDS.items() for name in names.split()}


@dataclass(frozen=True)
class Condition:
    """``> 0``, ``between 1 and 5``, ``not in ["a", NULL]``, ``matches "[a-z]+"`` and the like."""

    operator: str
    values: tuple[Any, ...]
    negated: bool = False

    @property
    def compares_sizes(self) -> bool:
        """Whether the condition compares numbers by size."""
        return self.operator in ("between", ">", ">=", "<", "<=") and isinstance(self.values[0], float)

    def holds(self, number: float) -> bool:
        """Whether a number meets the condition."""
        if self.operator == "between":
            return bool(self.values[0] < number < self.values[1]) != self.negated
        if self.operator == "in":
            return (number in self.values) != self.negated
        return bool(COMPARISONS[self.operator](number, self.values[0]))

    def column(self, column: Column) -> Column:
        """Return whether a column's value meets the condition: true or false, never null."""
        from pyspark.sql.functions import coalesce, lit

        # ``_equals`` is never null, so ``!=`` and ``not in`` hold for a null, as in Glue.
        if self.operator in ("in", "=", "!="):
            condition = reduce(operator.or_, (_equals(column, value) for value in self.values))
            return ~condition if self.negated or self.operator == "!=" else condition
        if self.operator == "matches":
            # rlike finds a match anywhere, but a rule's pattern has to match the whole text.
            condition = column.cast("string").rlike(f"^(?:{self.values[0]})$")
            condition = ~condition if self.negated else condition
        elif self.operator == "between":
            low, high = self.values
            condition = (column <= low) | (column >= high) if self.negated else (column > low) & (column < high)
        else:
            condition = COMPARISONS[self.operator](column, self.values[0])
        # For a null the condition and its negation are null, and so a null meets neither.
        return coalesce(condition, lit(False))


def _equals(column: Column, value: Any) -> Column:
    """Return whether a column's value equals the value or keyword of a rule: true or false, never null."""
    from pyspark.sql.functions import coalesce, lit

    if value is None:
        return column.isNull()
    if isinstance(value, re.Pattern):
        return coalesce(column.cast("string").rlike(value.pattern), lit(False))
    # A text that is not a number equals no number; on Spark 4 a plain cast would fail the script.
    return coalesce(try_cast(column, "double" if isinstance(value, float) else "string") == value, lit(False))


ALL = Condition("=", (1.0,))


@dataclass(frozen=True)
class Rule:
    """A rule. If it has ``parts``, its kind is ``and`` or ``or``, which combines the parts."""

    text: str
    kind: str
    names: tuple[str, ...] = ()
    row_condition: Condition = ALL  # on each row, for ``ROW_RULES``
    limit: Condition = ALL  # on the rule's metrics, which are numbers about all rows
    where: str = ""
    parts: tuple[Rule, ...] = ()

    @property
    def leaves(self) -> list[Rule]:
        """The single rules that the rule consists of."""
        return [leaf for part in self.parts for leaf in part.leaves] or [self]

    @property
    def value(self) -> Column:
        """The value in a row that the rule checks."""
        from pyspark.sql.functions import coalesce, col, length, lit

        column = col(f"`{self.names[0]}`")
        return coalesce(length(column), lit(0)) if self.kind == "ColumnLength" else column


def rules_of(ruleset: str) -> list[Rule]:
    """Return the rules of each ``Rules = […]``; ``Analyzers = […]`` are skipped. ValueError if it is not DQDL."""
    parser, all_rules = _Parser(ruleset), list[Rule]()
    while parser.upcoming:
        section = parser.read("Rules", "Analyzers")
        parser.read("=")
        if section == "Rules":
            all_rules += parser.read_list(parser.read_rule)
        else:
            parser.read_list(parser.skip_analyzer)
        parser.read_if(",")
    return all_rules


class _Parser:
    def __init__(self, ruleset: str) -> None:
        texts = [match[0] for match in TOKEN.finditer(ruleset)]
        self._tokens = [text for text in texts if text.strip() and not text.startswith("#")]
        self._position = 0

    @property
    def upcoming(self) -> str:
        """The next token, which stays unread; "" at the end."""
        return "".join(self._tokens[self._position : self._position + 1])

    def read(self, *expected_tokens: str) -> str:
        """Read and return the next token; ValueError if there are expected tokens, and it is none of them."""
        if not (token := self.upcoming) or (expected_tokens and token not in expected_tokens):
            self._refuse(" or ".join(expected_tokens) or "more")
        self._position += 1
        return token

    def read_if(self, token: str) -> bool:
        """Read the next token if it is ``token``, and return whether it is."""
        is_next = self.upcoming == token
        self._position += int(is_next)
        return is_next

    def _refuse(self, expected: str) -> NoReturn:
        read_text = " ".join(self._tokens[max(0, self._position - 8) : self._position])
        raise ValueError(f"the ruleset has {self.upcoming or 'its end'} after {read_text!r} in place of {expected}")

    def _text_since(self, first: int) -> str:
        """Return the tokens from ``first`` to here as Glue writes them: no space after ( and [, before ) ] and ,."""
        text = " ".join(self._tokens[first : self._position])
        # A quoted text is matched as a whole and put back, so that the spaces in it stay.
        return re.sub(rf"({TEXT})|(?<=[(\[]) | (?=[)\],])", r"\1", text)

    def read_list(self, read_entry: Any) -> list[Any]:
        """Read entries in square brackets that are separated by commas."""
        self.read("[")
        entries = []
        while not self.read_if("]"):
            entries.append(read_entry())
            if self.upcoming != "]":
                self.read(",")
        return entries

    def skip_analyzer(self) -> None:
        """Skip an analyzer, which checks nothing."""
        while self.upcoming not in (",", "]", ""):
            self.read()

    def read_rule(self) -> Rule:
        """Read a single rule, or rules in round brackets with ``and`` or ``or`` between them."""
        first = self._position
        if self.upcoming != "(":
            return self._read_single_rule()
        rule = self._read_bracketed_rule()
        while self.upcoming in ("and", "or"):
            kind, parts = self.read(), (rule, self._read_bracketed_rule())
            rule = Rule(self._text_since(first), kind, parts=parts)
        return rule

    def _read_bracketed_rule(self) -> Rule:
        self.read("(")
        rule = self.read_rule()
        self.read(")")
        return rule

    def _read_texts(self) -> Iterator[str]:
        while self.upcoming.startswith('"'):
            yield self._read_value("")

    def _read_single_rule(self) -> Rule:
        first, kind = self._position, self.read()
        if kind not in RULES:
            raise lack_error(f"rule {kind}", f"{', '.join(sorted(RULES))}, or conditions on frame.toDF()")
        counts, has_condition = RULES[kind]
        names = tuple(self._read_texts())
        if len(names) not in counts:
            self._refuse(f"{'a column' if counts.stop > 1 else 'the condition'} of {kind}")
        row_condition, limit = ALL, self._read_condition(kind) if has_condition else ALL
        if kind in ROW_RULES:
            row_condition, limit = limit, ALL
            if self.read_if("with"):
                self.read("threshold")
                limit = self._read_condition("threshold")
        where = "".join(self._read_texts()) if self.read_if("where") else ""
        # Anything else, such as labels, is refused: it could change the rule's meaning.
        if self.upcoming not in (",", "]", ")"):
            raise lack_error(f"rule {self._text_since(first)} {self.upcoming}", "the rule without it")
        return Rule(self._text_since(first), kind, names, row_condition, limit, where)

    def _read_condition(self, kind: str) -> Condition:
        if self.upcoming in (",", "]", ")"):
            raise lack_error(f"rule {kind} without a condition", f"{kind} with one, such as > 0")
        negated = self.read_if("not")
        text_operators = ["matches"] if kind == "ColumnValues" else []
        sign = self.read("between", "in", *text_operators, *([] if negated else COMPARISONS))
        if sign == "in":
            return Condition(sign, tuple(self.read_list(lambda: self._read_value(kind))), negated)
        values = [self._read_value(kind)]
        if sign == "between":
            self.read("and")
            values.append(self._read_value(kind))
        return Condition(sign, tuple(values), negated)

    def _read_value(self, kind: str) -> Any:
        """Read a number; for ``ColumnValues`` also a text or a keyword. ``kind`` is "" if a text is expected."""
        token = self.read()
        if token.startswith('"') and kind in ("", "ColumnValues"):
            return re.sub(r'\\(["\\])', r"\1", token[1:-1])
        if token in KEYWORDS and kind == "ColumnValues":
            return KEYWORDS[token]
        if not NUMBER.fullmatch(token):
            raise lack_error(
                f"value {token} of {kind}", "numbers, and for ColumnValues texts, NULL, EMPTY, WHITESPACES_ONLY"
            )
        return float(token)

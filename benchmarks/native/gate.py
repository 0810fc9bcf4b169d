"""A gate: which constructs a plan or a query has, and whether all of them were equal where they were tried.

Constructs of a Connect plan come from its protobuf, those of SQL from its words. A construct that has once differed in
silence, on any type, is closed; one that was never tried is, too.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

CALL = re.compile(r"(\w+)\(")
CAST = re.compile(r"\bAS (STRING|INT|BIGINT|SMALLINT|DOUBLE|FLOAT|DECIMAL|BOOLEAN|DATE|TIMESTAMP)\b(?=[^)]*\))", re.I)
WORDS = {
    r"\bJOIN\b": "join",
    r"\bGROUP BY\b": "aggregate",
    r"\bORDER BY\b": "sort",
    r"\bWHERE\b": "filter",
    r"\b(UNION|INTERSECT|EXCEPT)\b": "set_op",
    r"\bDISTINCT\b": "deduplicate",
    r"\bLIMIT\b": "limit",
    r"\bOVER\b": "window",
    r"\b(UN)?PIVOT\b": "pivot",
    r"\|\|": "fn:concat",
    r"\bCASE\b": "fn:when",
    r"\bLIKE\b": "fn:like",
    r"\bIN \(": "fn:in",
    r"[\w)] [+] ": "fn:+",
    r"[\w)] - ": "fn:-",
    r"[\w)] [*] ": "fn:*",
    r"[\w)] / ": "fn:/",
    r"[\w)] % ": "fn:%",
    r"[\w)] = ": "fn:==",
    r"[\w)] < ": "fn:<",
    r"[\w)] > ": "fn:>",
}
SAME = {"fn:&": "fn:and", "fn:date_trunc": "fn:trunc", "fn:array_sort": "fn:sort_array"}
PLAIN = {"relation:project", "relation:subquery_alias", "relation:with_columns", "relation:drop", "relation:to_df"}
SYNTAX = {
    "decimal",
    "partition",
    "over",
    "in",
    "values",
    "select",
    "and",
    "or",
    "as",
    "array",
    "struct",
    "where",
    "rollup",
    "sets",
}


def of_sql(query: str) -> set[str]:
    """The constructs of a query, or of an expression."""
    calls = {f"fn:{name.lower()}" for name in CALL.findall(query) if name.lower() not in {*SYNTAX, "cast"}}
    casts = {f"cast:{name.lower()}" for name in CAST.findall(query)} if "CAST(" in query.upper() else set()
    return calls | casts | {name for pattern, name in WORDS.items() if re.search(pattern, query, re.I)}


OF_MESSAGES: Mapping[str, Callable[[Any], Iterable[str]]] = {
    "Relation": lambda found: [f"relation:{found.WhichOneof('rel_type')}"],
    "Expression": lambda found: [f"expression:{found.WhichOneof('expr_type')}"],
    "UnresolvedFunction": lambda found: [f"fn:{found.function_name.lower()}"],
    "Cast": lambda found: [f"cast:{found.type_str or found.type.WhichOneof('kind')}".partition("(")[0].lower()],
    "ExpressionString": lambda found: of_sql(found.expression),
    "SQL": lambda found: of_sql(found.query),
    "DataSource": lambda found: [
        f"read:{found.format}",
        f"schema:{found.format}.{'given' if found.schema else 'guessed'}",
        *(f"option:{found.format}.{name.lower()}" for name in found.options),
    ],
    "WriteOperation": lambda found: [
        f"write:{found.source}",
        *(f"written:{found.source}.{name.lower()}" for name in found.options),
        *(["write:partitioned"] if found.partitioning_columns else []),
    ],
    "CommonInlineUserDefinedFunction": lambda found: ["udf"],
}


def of_plan(message: Any) -> Iterator[str]:
    """The constructs of a Connect plan's message, however deep."""
    yield from OF_MESSAGES.get(message.DESCRIPTOR.name, lambda found: [])(message)
    for field, value in message.ListFields():
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for each in (value,) if hasattr(value, "DESCRIPTOR") else value:
                yield from of_plan(each)


EQUIVALENT = {
    "relation:join": "join",
    "relation:aggregate": "aggregate",
    "relation:sort": "sort",
    "relation:filter": "filter",
}
EQUIVALENT |= {"relation:set_op": "set_op", "relation:deduplicate": "deduplicate", "relation:limit": "limit"}
EQUIVALENT |= {"expression:window": "window"}
STRUCTURE = {
    f"expression:{name}"
    for name in (
        "alias",
        "unresolved_attribute",
        "literal",
        "unresolved_function",
        "cast",
        "sort_order",
        "expression_string",
        "unresolved_star",
        "lambda_function",
        "unresolved_named_lambda_variable",
    )
}
STRUCTURE |= {
    "relation:read",
    "relation:sql",
    "relation:local_relation",
    "read:parquet",
    "write:parquet",
    "schema:parquet.guessed",
    "schema:text.guessed",
    *PLAIN,
}


def normal(constructs: Iterable[str]) -> set[str]:
    """The same names for what SQL and plans call differently, without what every plan has."""
    return {EQUIVALENT.get(each, SAME.get(each, each)) for each in constructs} - STRUCTURE


def learn(tried: Mapping[str, Collection[str]], verdicts: Mapping[str, str]) -> set[str]:
    """The constructs that the gate lets through: in a case that was equal, and in none that was different."""
    equal = {each for name, has in tried.items() if verdicts.get(name) == "equal" for each in has}
    return equal - {
        each for name, has in tried.items() if verdicts.get(name) in ("different", "lenient") for each in has
    }

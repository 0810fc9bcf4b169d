"""Conditions on partitions: Glue's grammar, and nothing else."""

import operator
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparklet.connectors.data_catalog.conditions import NULL, matching
from sparklet.job.errors import TableError

COLUMNS = [("day", "date"), ("region", "string"), ("hour", "int"), ("order", "varchar(8)"), ("rate", "decimal(5,2)")]
ROWS = [
    ("2026-01-01", "eu", "9", "a", "1.50"),
    ("2026-01-02", "us", "10", "b", "1.5"),
    ("2026-02-01", "EU", "11", "it's", "12"),
    (NULL, "eu", "09", "", "0.1"),
]


@pytest.mark.parametrize(
    ("where", "matched"),
    [
        ("", [0, 1, 2, 3]),
        ("day >= '2026-01-02'", [1, 2]),
        ("DAY < '2026-02-01' and Region = 'eu'", [0]),
        ("hour > 9", [1, 2]),  # compared as a number
        ("hour = 9", [0, 3]),
        ("hour IN (9, 11)", [0, 2, 3]),
        ("hour between 10 and 11", [1, 2]),
        ("hour NOT BETWEEN 10 AND 11", [0, 3]),
        ("rate = 1.5", [0, 1]),
        ("region LIKE 'e%'", [0, 3]),  # LIKE is case-sensitive
        ("region <> 'eu'", [1, 2]),
        ("NOT (region = 'eu' OR region = 'us')", [2]),
        ("day IS NULL", [3]),
        ("day IS NOT NULL AND hour <= 9", [0]),
        ("order = 'it''s'", [2]),  # a column named like an SQL keyword, and a quote
        ("order = ''", [3]),
        ("hour > -1 AND (day='2026-01-01')", [0]),
    ],
)
def test_partitions_match_as_in_glue(where: str, matched: list[int]) -> None:
    assert matching(where, COLUMNS, ROWS) == matched


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("amount > 3", "amount"),
        ("day != '2026-01-01'", "!="),
        ("day >= current_date", "current_date"),
        ("upper(region) = 'EU'", "upper"),
        ('region = "eu"', '"eu"'),
        ("region = 'eu'; DROP TABLE partitions", ";"),
        ("region = (SELECT name FROM sqlite_master)", "select"),
        ("region = 'eu' -- all", "--"),
        ("hour + 1 = 2", "+"),
        ("region = 'eu", 'has "\'"'),
        ("hour =", "incomplete"),
        ("hour = = 1", "syntax"),
        ("day BETWEEN '2026-01-01'", "incomplete"),
        ("(hour = 1", "incomplete"),
    ],
)
def test_a_condition_that_glue_does_not_know_is_refused(where: str, message: str) -> None:
    with pytest.raises(TableError) as refused:
        matching(where, COLUMNS, ROWS)

    assert message in str(refused.value) and where in str(refused.value)


OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
Rows = list[tuple[int, str]]
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4)
COMPARED = st.tuples(st.sampled_from(sorted(OPERATORS)), st.integers(-3, 3), st.sampled_from(sorted(OPERATORS)), TEXTS)


@given(st.lists(st.tuples(st.integers(-3, 3), TEXTS), max_size=6), COMPARED, st.sampled_from(["AND", "OR"]))
def test_numbers_and_texts_compare_as_in_python(rows: Rows, compared: Any, joined: str) -> None:
    of_number, number, of_text, text = compared
    quoted = text.replace("'", "''")
    join = all if joined == "AND" else any

    found = matching(f"n {of_number} {number} {joined} t {of_text} '{quoted}'", [("n", "bigint"), ("t", "string")],
                     [(str(n), t) for n, t in rows])  # fmt: skip

    wanted = [join([OPERATORS[of_number](n, number), OPERATORS[of_text](t, text)]) for n, t in rows]
    assert found == [place for place, fits in enumerate(wanted) if fits]

"""Conditions on partitions, in the small grammar that Glue allows; SQLite evaluates them."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing

from sparklet.job.errors import TableError

Columns = Sequence[Sequence[str]]  # pairs of a name and a Hive type
NULL = "__HIVE_DEFAULT_PARTITION__"
WORDS = frozenset({"and", "or", "not", "in", "between", "like", "is", "null"})
GRAMMAR = "it can have partition columns, numbers, 'texts', = <> < <= > >= AND OR NOT IN BETWEEN LIKE IS NULL, brackets"
NUMBERS = re.compile("tinyint|smallint|int|bigint|long|decimal|float|double")
_TOKEN = re.compile(r"'(?:[^']|'')*'|-?(?<!\d)\d+(?:\.\d+)?\b|<=|>=|<>|[=<>(),]|[A-Za-z_]\w*|\s+")


def matching(where: str, columns: Columns, rows: Sequence[Sequence[str]]) -> list[int]:
    """Return the indexes of the rows that match, of all rows without ``where``. TableError if it is no condition."""
    if not where:
        return list(range(len(rows)))
    condition = _quoted_condition(where, columns)
    # By these types SQLite compares numbers as numbers (9 is below 10), and dates as texts, which are in order, too.
    definitions = ", ".join(f'"{name}" {"NUMERIC" if NUMBERS.match(type_) else "TEXT"}' for name, type_ in columns)
    values = ([None if value == NULL else value for value in row] for row in rows)
    with closing(sqlite3.connect(":memory:")) as database:
        # By default SQLite's LIKE ignores case; Glue's does not.
        database.execute("PRAGMA case_sensitive_like = ON")
        database.execute(f"CREATE TABLE partitions ({definitions})")
        database.executemany(f"INSERT INTO partitions VALUES ({', '.join('?' * len(columns))})", values)
        try:
            # The condition has only words of the grammar and quoted columns: ``_quoted_condition`` refuses all else.
            cursor = database.execute(f"SELECT rowid FROM partitions WHERE {condition}")
            return [number - 1 for (number,) in cursor]
        except sqlite3.Error as error:
            raise TableError(f"the condition {where!r} cannot be read: {error}; {GRAMMAR}") from None


def _quoted_condition(where: str, columns: Columns) -> str:
    """Return the condition with its columns in quotes; TableError if it has anything that is not in the grammar."""
    names = {name.lower() for name, _ in columns}
    if not_a_token := _TOKEN.sub("", where):
        raise TableError(f"the condition {where!r} has {not_a_token[:20]!r}; {GRAMMAR}")

    def quoted(token: re.Match[str]) -> str:
        word = token[0].lower()
        if not word.isidentifier() or (word in WORDS and word not in names):
            return token[0]
        if word not in names:
            raise TableError(
                f"the condition {where!r} has {word}; the partition columns are {', '.join(sorted(names))}"
            )
        return f'"{word}"'

    return _TOKEN.sub(quoted, where)

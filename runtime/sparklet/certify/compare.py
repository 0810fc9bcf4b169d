"""Compares what two runs over the same plan have staged: a value is equal to itself, bit by bit, and to nothing else.

All NaN are one value. Rows have no order, nor have the entries of a map. Rows without an equal one are paired by the
columns that have the same values on both sides, their key, so that a difference can be told by column.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from sparklet.certify.staged import Dataset

NONE = "(none)"
FAILURE, ROW, VALUE = "failure", "row", "value"
Fact = tuple[str, str, str]  # kind; place: the shard, and the folder; column
Texts = tuple[str, ...]  # a row's canonical ones


@dataclass(frozen=True)
class Staged:
    """What a run has staged."""

    facts: Mapping[Fact, str]  # all but the rows: failures, answers, writes, folders, types
    folders: Mapping[str, Dataset]  # by place


@dataclass(frozen=True)
class Difference:
    """One thing on both sides."""

    kind: str
    place: str
    column: str
    key: str  # of a row; "" if its other columns differ, too
    first: str
    second: str

    @property
    def fact(self) -> Fact:
        """What cannot be compared if the first side differs so from itself."""
        return self.kind, self.place, self.column


def differences(
    first: Staged, second: Staged, tolerance: float = 0.0, ignored: Collection[Fact] = ()
) -> Iterator[Difference]:
    """What differs, except what is ``ignored``; floating-point numbers are equal up to a relative ``tolerance``."""
    failed = {place for kind, place, _ in (*first.facts, *second.facts) if kind == FAILURE}
    for fact in dict.fromkeys((*first.facts, *second.facts)):
        one, other = first.facts.get(fact, NONE), second.facts.get(fact, NONE)
        alone = NONE in (one, other) if fact[0] == FAILURE else one != other and fact[1].partition(",")[0] not in failed
        if alone and fact not in ignored:
            yield Difference(*fact, "", one, other)
    for place in sorted(first.folders.keys() & second.folders.keys()):
        sides = first.folders[place], second.folders[place]
        if (ROW, place, "") not in ignored:
            kinds = [{(path.partition(".")[0], path, kind) for path, (kind, _) in side.types.items()} for side in sides]
            left = {name for name, *_ in kinds[0] ^ kinds[1]} | {
                name for kind, at, name in ignored if (kind, at) == (VALUE, place)
            }
            yield from _of_rows(place, *sides, tolerance, [name for name in sides[0].names if name not in left])


def unstable(first: Staged, again: Staged, tolerance: float = 0.0) -> dict[Fact, Difference]:
    """What differs between two runs of one side, each with its first difference: it can be compared with nothing."""
    found: dict[Fact, Difference] = {}
    while noise := {each.fact: each for each in reversed([*differences(first, again, tolerance, found)])}:
        found |= noise
    return found


def _of_rows(
    place: str, first: Dataset, second: Dataset, tolerance: float, names: Sequence[str]
) -> Iterator[Difference]:
    """Rows of which the other side has fewer, by the columns that differ, where they can be paired."""
    counts: list[Counter[Texts]] = []
    values: dict[Texts, tuple[Any, ...]] = {}
    for side in (first, second):
        at = [side.names.index(name) for name in names]
        kept = [tuple(row[n] for n in at) for row in side.rows]
        texts = [tuple(map(canonical, row)) for row in kept]
        counts.append(Counter(texts))
        values.update(zip(texts, kept, strict=True))
    lone = [[*(counts[0] - counts[1]).elements()], [*(counts[1] - counts[0]).elements()]]
    keys = [n for n in range(len(names)) if _is_key(n, *lone)]
    groups: dict[Texts, tuple[list[Texts], list[Texts]]] = defaultdict(lambda: ([], []))
    for n, rows in enumerate(lone):
        for row in sorted(rows, key=lambda each: [_order(value) for value in values[each]]):
            groups[tuple(row[key] for key in keys)][n].append(row)
    for key, group in groups.items():
        told = ", ".join(f"{names[n]}={each}" for n, each in zip(keys, key, strict=True))
        for one, other in zip_longest(*group):
            if one is None or other is None:
                yield Difference(
                    ROW, place, "", told, *(NONE if row is None else ", ".join(row) for row in (one, other))
                )
                continue
            for n, name in enumerate(names):
                if not equal(values[one][n], values[other][n], tolerance):
                    yield Difference(VALUE, place, name, told, one[n], other[n])


def _is_key(column: int, first: Sequence[Texts], second: Sequence[Texts]) -> bool:
    """Whether the side with fewer lone rows has no value in a column that the other has not."""
    ones, others = (Counter(row[column] for row in side) for side in (first, second))
    return (ones & others).total() == min(len(first), len(second))


def _order(value: Any) -> tuple[float, str]:
    """Numbers by their size, so that close ones are paired."""
    is_number = isinstance(value, float) and not math.isnan(value)
    return (value, "") if is_number else (math.inf, canonical(value))


def canonical(value: Any) -> str:
    """A text that two values of one type have in common only if they are equal, bit by bit."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {canonical(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        if value and isinstance(value[0], tuple):  # a map
            return "{" + ", ".join(sorted(f"{canonical(key)} → {canonical(each)}" for key, each in value)) + "}"
        return "[" + ", ".join(map(canonical, value)) + "]"
    if isinstance(value, bytes):
        with suppress(UnicodeDecodeError):
            return repr(value.decode())
    return "null" if value is None else repr(value)


def equal(first: Any, second: Any, tolerance: float) -> bool:
    """Whether two values are equal, and floating-point numbers, however nested, within a relative tolerance."""
    if canonical(first) == canonical(second):
        return True
    if not tolerance or type(first) is not type(second):
        return False
    if isinstance(first, float):
        return math.isclose(first, second, rel_tol=tolerance)
    if isinstance(first, dict):
        return all(equal(each, second[name], tolerance) for name, each in first.items())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second, [tolerance] * len(first)))
    return False

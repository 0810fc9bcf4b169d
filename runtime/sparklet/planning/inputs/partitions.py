"""Columns that folders like ``day=2026-01-01`` give to the objects below them, as Spark's readers discover them.

A shard reads some of an input's objects, but the columns and their types are those that one job over the whole input
would find: ``id=1`` is a number, unless there is ``id=a``. Since Spark takes a column's type from all its values, the
plan keeps a folder for each kind of value, and the worker shows Spark an empty file in those that the shard lacks
(docs/decisions/0070).
"""

import glob
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from itertools import accumulate
from urllib.parse import unquote

from sparklet.errors import UnplannableError
from sparklet.model import PUBLISHED

NULL = "__HIVE_DEFAULT_PARTITION__"
MAX_EXAMPLES = 200  # there are some forty kinds of values
MAX_PRECISION = 38

_WHOLE = re.compile(r"[+-]?\d+")
_NUMBER, _HEX = r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", r"0[xX]([\da-fA-F]+\.?[\da-fA-F]*|\.[\da-fA-F]+)[pP][+-]?\d+"
_DECIMAL = re.compile(f"[+-]?{_NUMBER}")  # as Java's BigDecimal, in the digits of any script
_DOUBLE = re.compile(rf"[\0- ]*[+-]?(NaN|Infinity|({_NUMBER}|{_HEX})[fFdD]?)[\0- ]*", re.ASCII)  # as Java's parseDouble
_TIME = re.compile(r"(\d{4}|-\d{4}|[+-]\d{5,})(-\d\d-\d\d)( \d\d:\d\d:\d\d(\.\d)?)?", re.ASCII)


@lru_cache(maxsize=128)  # a listing goes through one folder after the other
def partition_root(folder: str, inputs: tuple[str, ...]) -> str:
    """The input folder of objects in a folder, which ends in /, that lies below ones like ``day=1`` in it; else "".

    A folder of the output of a run, ``shard=RUN_TIME_NNNNNN``, is no column.
    """
    root = _root(folder, inputs)
    return root if root and columns_of(folder[len(root) :])[1] else ""


def _root(uri: str, inputs: Sequence[str]) -> str:
    """The folder below which an object's partitions begin, if it has any; "" outside of the inputs' folders."""
    root = next((input_uri for input_uri in inputs if input_uri.endswith("/") and uri.startswith(input_uri)), "")
    for folder in accumulate(f"{name}/" for name in uri[len(root) :].split("/")[:-1] if root and "=" in uri):
        if PUBLISHED.fullmatch(folder[:-1].rpartition("/")[2]):
            return _root(uri, [root + folder])
    return root


def columns_of(path: str) -> tuple[str, list[tuple[str, str]]]:
    """The folder of the partitions, and an object's partition columns: names, and values as they are written.

    Spark reads a path from its end: nothing may lie between columns.
    """
    columns: list[tuple[str, str]] = []
    folders = path.split("/")[:-1]
    while folders:
        name, equals, value = folders[-1].partition("=")
        if equals and name and value:
            columns.insert(0, (unquote(name), value))
        elif columns:
            break
        folders.pop()
    return "/".join(folders), columns


def seen_partitions(uris: Sequence[str], inputs: tuple[str, ...], examples: Sequence[str]) -> dict[str, str]:
    """The roots of objects in partitions, and of ``examples`` with kinds of values that those lack, by address."""
    roots = {uri: root for uri in uris if (root := partition_root(uri[: uri.rfind("/") + 1], inputs))}
    seen = {kind for uri, root in roots.items() for kind in _kinds(uri, root)}
    # Only kinds that the shard lacks: each example costs the worker an empty file in Spark's listing.
    for folder in examples if roots else ():
        root = partition_root(folder, inputs)
        if root in roots.values() and not seen.issuperset(_kinds(folder, root)):
            roots[folder] = root
    return roots


def _kinds(uri: str, root: str) -> Iterator[tuple[str, str, str]]:
    return ((root, name, value_kind(value)) for name, value in columns_of(uri[len(root) :])[1])


class Partitions:
    """The partitions of a run's input: one example for each kind of value of each column."""

    def __init__(self, inputs: Sequence[str]) -> None:
        self._inputs = inputs
        self._first: dict[str, tuple[str, str, list[str]]] = {}  # by root: an object, folder and names of its columns
        self._kinds: dict[tuple[str, str, str], str] = {}  # (root, column, kind) -> folder
        self._last = ""

    @property
    def examples(self) -> tuple[str, ...]:
        """A folder for each kind of value, few in all."""
        return tuple(dict.fromkeys(self._kinds.values()))[:MAX_EXAMPLES]

    def add(self, uri: str) -> None:
        """Count an object's partition; UnplannableError where one job could not read it together with those before."""
        folder = uri[: uri.rfind("/") + 1]
        # A listing goes through one folder after the other, so most objects need no look of their own.
        if folder == self._last or not (root := _root(uri, self._inputs)):
            return
        within, columns = columns_of(uri[len(root) :])
        names = [name for name, _ in columns]
        self._last, first = folder, self._first.setdefault(root, (uri, within, names))
        if bool(names) != bool(first[2]):
            beside, other = (first[0], uri) if names else (uri, first[0])
            input_folder = next(
                input_uri for input_uri in self._inputs if input_uri.endswith("/") and uri.startswith(input_uri)
            )
            pattern = f"/{glob.escape(beside[len(input_folder) : beside.rfind('/') + 1])}*"
            raise UnplannableError(
                f"{beside} lies beside folders of columns, such as that of {other}: one Spark job over {input_folder} "
                f"drops or refuses it; leave it out with --exclude '{pattern}', or give it to a run of its own "
                "(--include)"
            )
        if first[1:] != (within, names):
            raise UnplannableError(
                f"{first[0]} lies in folders of the columns {', '.join(first[2])} below {root}{first[1]}, and {uri} in "
                f"those of {', '.join(names)} below {root}{within}: Spark refuses to read them together; give the "
                "folders to separate runs, or choose some with --include"
            )
        for kind in _kinds(folder, root):
            self._kinds.setdefault(kind, folder)


def value_kind(value: str) -> str:
    """The type that Spark infers from a partition's value, as it is written in the folder's name (PartitioningUtils).

    Spark takes a column's type from those of all its values, not from the values.
    """
    # Spark's types in its order: integer, long, decimal, double, time, date; the first that takes a value is its type.
    if value == NULL:
        return "null"
    for bits in (32, 64) if _WHOLE.fullmatch(value) else ():
        if -(1 << bits - 1) <= int(value) < 1 << bits - 1:
            return f"int{bits}"
    with suppress(InvalidOperation):  # an exponent too large for Python, and for Java
        # NaN has no number as its exponent, so what Java refuses becomes no decimal. Nor do digits behind the point, or
        # more than 38 before it: Spark takes these for doubles.
        _, digits, exponent = Decimal(value if _DECIMAL.fullmatch(value) else "NaN").as_tuple()
        if isinstance(exponent, int) and 0 <= exponent <= MAX_PRECISION - len(digits):
            return f"decimal{len(digits) + exponent}"
    if _DOUBLE.fullmatch(value):
        return "double"
    time = _TIME.fullmatch(unquote(value))
    with suppress(ValueError):
        if time and (time[3] or "%" not in value):  # Spark unescapes times, and not dates
            # Python knows the years 1 to 9999 only; the calendar repeats after 400 years.
            datetime.fromisoformat(f"{2000 + int(time[1]) % 400}{time[2]}{time[3] or ''}")
            return value if len(time[1]) > 6 else "timestamp" if time[3] else "date"  # where it ends only Spark knows
    return "text"

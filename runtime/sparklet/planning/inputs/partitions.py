"""Columns that folders like ``day=2026-01-01`` give to the objects below them, as Spark's readers discover them.

A shard reads some of an input's objects, but the columns and their types must be those that one job over the whole
input would find: ``id=1`` is a number, unless there is also ``id=a``. Spark takes a column's type from all its values.
So the plan keeps an example folder for each kind of value, and the worker shows Spark an empty file in the examples
whose kinds the shard lacks (docs/decisions/0070).
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
MAX_EXAMPLES = 200  # of folders; there are some forty kinds of values
MAX_PRECISION = 38

_WHOLE = re.compile(r"[+-]?\d+")
_NUMBER, _HEX = r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", r"0[xX]([\da-fA-F]+\.?[\da-fA-F]*|\.[\da-fA-F]+)[pP][+-]?\d+"
_DECIMAL = re.compile(f"[+-]?{_NUMBER}")  # as Java's BigDecimal, in the digits of any script
_DOUBLE = re.compile(rf"[\0- ]*[+-]?(NaN|Infinity|({_NUMBER}|{_HEX})[fFdD]?)[\0- ]*", re.ASCII)  # as Java's parseDouble
_TIME = re.compile(r"(\d{4}|-\d{4}|[+-]\d{5,})(-\d\d-\d\d)( \d\d:\d\d:\d\d(\.\d)?)?", re.ASCII)


@lru_cache(maxsize=128)  # objects of one folder follow each other in a listing
def partition_root(folder: str, inputs: tuple[str, ...]) -> str:
    """The input folder below which a folder (with a slash at its end) has columns such as ``day=1``; "" if it has none.

    A folder that a run has published, ``shard=RUN_TIME_NNNNNN``, is not a column: columns are looked for below it.
    """
    root = _root(folder, inputs)
    return root if root and columns_of(folder[len(root) :])[1] else ""


def _root(uri: str, inputs: Sequence[str]) -> str:
    """The folder below which an object's partitions begin, if it has any; "" if it is in no folder of the inputs."""
    root = next((input_uri for input_uri in inputs if input_uri.endswith("/") and uri.startswith(input_uri)), "")
    for folder in accumulate(f"{name}/" for name in uri[len(root) :].split("/")[:-1] if root and "=" in uri):
        if PUBLISHED.fullmatch(folder[:-1].rpartition("/")[2]):
            return _root(uri, [root + folder])
    return root


def columns_of(path: str) -> tuple[str, list[tuple[str, str]]]:
    """The folder above an object's partition columns, and the columns: names, and values as they are written.

    Spark reads a path from its end: it skips folders below the columns, and stops at the first folder above them.
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
    """The root (see ``partition_root``) of each object that is in a partition, by the object's address.

    Also those of ``examples`` that have kinds of values which none of the objects has.
    """
    roots = {uri: root for uri in uris if (root := partition_root(uri[: uri.rfind("/") + 1], inputs))}
    seen = {kind for uri, root in roots.items() for kind in _kinds(uri, root)}
    # Only kinds that the shard lacks, since each example is an empty file in Spark's listing.
    for folder in examples if roots else ():
        root = partition_root(folder, inputs)
        if root in roots.values() and not seen.issuperset(_kinds(folder, root)):
            roots[folder] = root
    return roots


def _kinds(uri: str, root: str) -> Iterator[tuple[str, str, str]]:
    """Root, name and kind of value of each partition column of an object or folder."""
    return ((root, name, value_kind(value)) for name, value in columns_of(uri[len(root) :])[1])


class Partitions:
    """The partitions of a run's input: one example for each kind of value of each column."""

    def __init__(self, inputs: Sequence[str]) -> None:
        self._inputs = inputs
        # By root: the first object, the folder above its columns, and their names.
        self._first: dict[str, tuple[str, str, list[str]]] = {}
        self._kinds: dict[tuple[str, str, str], str] = {}  # (root, column, kind) -> folder
        self._last = ""

    @property
    def examples(self) -> tuple[str, ...]:
        """A folder for each kind of value of each column, at most MAX_EXAMPLES."""
        return tuple(dict.fromkeys(self._kinds.values()))[:MAX_EXAMPLES]

    def add(self, uri: str) -> None:
        """Note an object's partition; UnplannableError if one job could not read it with the objects before."""
        folder = uri[: uri.rfind("/") + 1]
        # Objects of one folder follow each other in a listing, so most need no check of their own.
        if folder == self._last or not (root := _root(uri, self._inputs)):
            return
        parent, columns = columns_of(uri[len(root) :])
        names = [name for name, _ in columns]
        self._last, first = folder, self._first.setdefault(root, (uri, parent, names))
        first_uri, first_parent, first_names = first
        if bool(names) != bool(first_names):
            stray_uri, other = (first_uri, uri) if names else (uri, first_uri)
            input_folder = next(
                input_uri for input_uri in self._inputs if input_uri.endswith("/") and uri.startswith(input_uri)
            )
            pattern = f"/{glob.escape(stray_uri[len(input_folder) : stray_uri.rfind('/') + 1])}*"
            raise UnplannableError(
                f"{stray_uri} is not in a folder of columns, as {other} is: one Spark job over {input_folder} would "
                f"drop or refuse the first one; leave it out with --exclude '{pattern}', or give it to a run of its "
                "own (--include)"
            )
        if (first_parent, first_names) != (parent, names):
            raise UnplannableError(
                f"{first_uri} has the columns {', '.join(first_names)} as folders below {root}{first_parent}, and "
                f"{uri} has {', '.join(names)} below {root}{parent}: Spark refuses to read them together; give the "
                "folders to separate runs, or choose some with --include"
            )
        for kind in _kinds(folder, root):
            self._kinds.setdefault(kind, folder)


def value_kind(value: str) -> str:
    """The type that Spark infers from a partition's value as it is written in the folder's name (PartitioningUtils).

    A column's type follows from the types of all its values; the values themselves do not matter.
    """
    # In Spark's order: integer, long, decimal, double, time, date; the first type that fits is the value's type.
    if value == NULL:
        return "null"
    for bits in (32, 64) if _WHOLE.fullmatch(value) else ():
        if -(1 << bits - 1) <= int(value) < 1 << bits - 1:
            return f"int{bits}"
    with suppress(InvalidOperation):  # raised for an exponent that is too large for Python, and for Java
        # What Java refuses is NaN here, whose exponent is not a number. To Spark, values with digits behind the point,
        # or with more than 38 before it, are doubles.
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
            if len(time[1]) > 6:  # a year for which only Spark knows whether it fits: the value is a kind of its own
                return value
            return "timestamp" if time[3] else "date"
    return "text"

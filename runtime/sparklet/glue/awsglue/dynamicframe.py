"""``DynamicFrame``, as far as it is a DataFrame: one schema, no choice types, no error records.

The arguments that every method of Glue has besides, ``transformation_ctx``, ``info``, ``stageThreshold`` and
``totalThreshold``, change nothing: there are no bookmarks, and Spark's reader decides what is an error.

Records of JSON lack the keys that their lines lack; of these Spark makes nulls, as of nulls. So frames that were read
from JSON are ``sparse``: what is null in a row is missing in its record.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING, Any

from . import lacking, missing

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

SHARED = ("count", "printSchema", "show")  # with DataFrame
WHOLE = ("array", "map", "struct")  # types that a mapping names without their elements
AS_STRUCTS = "spark.sql.pyspark.inferNestedDictAsStruct.enabled"
__getattr__ = missing


class DynamicRecord(dict[str, Any]):
    """A row for functions of ``Filter`` and ``Map``: ``record["id"]`` or ``record.id``, else KeyError."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python's own question, as of copy()
            raise AttributeError(name)
        return self[name]

    __setattr__ = dict.__setitem__


def _record(value: Any, sparse: bool) -> Any:
    """A value of a row with its structs as records."""
    if isinstance(value, list):
        return [_record(each, sparse) for each in value]
    if not hasattr(value, "asDict"):
        return value
    fields = value.asDict().items()
    return DynamicRecord({name: _record(each, sparse) for name, each in fields if not (sparse and each is None)})


class DynamicFrame:
    """A DataFrame with methods of Glue's DynamicFrame."""

    def __init__(self, frame: DataFrame, glue_ctx: Any, name: str = "", sparse: bool = False) -> None:
        self._frame, self.glue_ctx, self.name, self._sparse = frame, glue_ctx, name, sparse

    def __getattr__(self, name: str) -> Any:
        if name in SHARED:
            return getattr(self._frame, name)
        raise lacking(f"DynamicFrame.{name}")

    @classmethod
    def fromDF(cls, dataframe: DataFrame, glue_ctx: Any, name: str = "") -> DynamicFrame:
        """A DynamicFrame of a DataFrame."""
        return cls(dataframe, glue_ctx, name)

    def toDF(self, options: None = None) -> DataFrame:
        """The DataFrame."""
        return self._frame

    def select_fields(self, paths: str | Sequence[str], *_: Any, **hints: Any) -> DynamicFrame:
        """These columns alone."""
        return self._of(self._frame.select(*[f"`{name}`" for name in self._columns(paths)]))

    def drop_fields(self, paths: str | Sequence[str], *_: Any, **hints: Any) -> DynamicFrame:
        """All other columns."""
        return self._of(self._frame.drop(*self._columns(paths)))

    def rename_field(self, oldName: str, newName: str, *_: Any, **hints: Any) -> DynamicFrame:
        """One column under another name."""
        return self._of(self._frame.withColumnRenamed(*self._columns([oldName, newName])))

    def filter(self, f: Callable[[Any], Any], *_: Any, **hints: Any) -> DynamicFrame:
        """The rows for which a function of Python is true; conditions of ``toDF().filter`` are faster."""
        from pyspark.sql.functions import struct, udf

        sparse = self._sparse

        def holds(row: Any) -> bool:
            try:
                return bool(f(_record(row, sparse)))
            except (KeyError, TypeError, ValueError):  # a missing key, or None > 1: Glue drops the row
                return False

        row = struct(*[f"`{name}`" for name in self._frame.columns])
        return self._of(self._frame.filter(udf(holds, "boolean", useArrow=False)(row)))

    def map(self, f: Callable[[Any], Any], *_: Any, **hints: Any) -> DynamicFrame:
        """Each row as a function of Python changes its record; types are Python's: an int is a bigint.

        Spark must know columns before rows, so the function runs twice for each row. A row that it fails for fails the
        script, where Glue has an error record.
        """
        frame, sparse = self._frame, self._sparse
        rows = frame.rdd.map(lambda row: _changed(f(_record(row, sparse))))
        if rows.isEmpty():
            return self
        spark, before = frame.sparkSession, frame.sparkSession.conf.get(AS_STRUCTS)
        spark.conf.set(AS_STRUCTS, "true")
        try:
            found = spark.createDataFrame(rows, samplingRatio=1.0)  # of all rows
        finally:
            spark.conf.set(AS_STRUCTS, before)
        names = dict.fromkeys(name for name in [*frame.columns, *found.columns] if name in found.columns)
        return self._of(found.select(*[f"`{name}`" for name in names]))

    def drop_null_fields(self, *_: Any, **hints: Any) -> DynamicFrame:
        """All columns but those that have no type; from JSON also those that are null in every row."""
        from pyspark.sql.functions import col, count, lit

        empty = [name for name, type_ in self._frame.dtypes if type_ == "void"]
        if self._sparse:
            names = self._frame.columns
            total, *filled = self._frame.agg(count(lit(1)), *[count(col(f"`{name}`")) for name in names]).head()
            empty = [name for name, number in zip(names, filled, strict=True) if total and not number]
        return self._of(self._frame.drop(*empty))

    def join(
        self, paths1: str | Sequence[str], paths2: str | Sequence[str], frame2: DynamicFrame, *_: Any, **hints: Any
    ) -> DynamicFrame:
        """The pairs of rows with equal keys; a column of ``frame2`` whose name is taken has a dot before it."""
        from pyspark.sql.functions import col

        left, right = self._frame, frame2._frame
        taken, names = {name.lower() for name in left.columns}, {}
        for name in right.columns:
            dots = next(dots for dots in range(len(taken) + 1) if f"{'.' * dots}{name}".lower() not in taken)
            names[name] = f"{'.' * dots}{name}"
        pairs = zip(self._columns(paths1), self._columns(paths2), strict=True)
        keys = [col(f"`{one}`") == col(f"`{names[other]}`") for one, other in pairs]
        return self._of(left.join(right.toDF(*names.values()), reduce(and_, keys)))

    def apply_mapping(
        self, mappings: Sequence[tuple[str, str, str, str]], case_sensitive: bool = False, *_: Any, **hints: Any
    ) -> DynamicFrame:
        """These columns alone, each as ``(source, its type, target, its type)``; a dot reaches into a struct."""
        tree: dict[str, Any] = {}
        for source, source_type, target, target_type in [mappings] if isinstance(mappings, tuple) else mappings:
            *parents, name = (part.strip("`") for part in re.findall("`[^`]*`|[^.`]+", target))
            fields = reduce(lambda node, parent: node.setdefault(parent, {}), parents, tree)
            fields[name] = self._cast(source, source_type, target_type)
        return self._of(self._frame.select(*_columns_of(tree)))

    def _cast(self, source: str, source_type: str, target_type: str) -> Column:
        from pyspark.sql.functions import col

        column = col(f"`{source}`" if source in self._frame.columns else source)
        if source_type == target_type in WHOLE:
            return column
        cast = getattr(type(column), "try_cast", type(column).cast)  # Spark 4's cast fails, Glue's is null
        return cast(column, target_type)

    def _columns(self, paths: str | Sequence[str]) -> list[str]:
        """Names of columns; only a DataFrame reaches into structs."""
        names = [paths] if isinstance(paths, str) else paths
        for name in names:
            if "." in name and not name.startswith("`") and name not in self._frame.columns:
                raise lacking(f"fields in structs, such as {name},", "withField() and dropFields() of toDF()'s columns")
        return [name.strip("`") for name in names]

    def _of(self, frame: DataFrame) -> DynamicFrame:
        return DynamicFrame(frame, self.glue_ctx, self.name, self._sparse)


def _changed(record: Any) -> Any:
    """What a function of ``Map`` returned."""
    if isinstance(record, Mapping):
        return dict(record)
    raise ValueError(f"the function of Map returned {type(record).__name__}, not a record")


def _columns_of(tree: Mapping[str, Any]) -> Iterator[Column]:
    """The columns of a mapping's targets; a mapping in it is a struct."""
    from pyspark.sql.functions import struct

    for name, node in tree.items():
        yield (struct(*_columns_of(node)) if isinstance(node, Mapping) else node).alias(name)

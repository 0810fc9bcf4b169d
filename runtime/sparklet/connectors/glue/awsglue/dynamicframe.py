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
SAME_HERE = ("make_cols", "make_struct")  # of choices, which a column of one type has not
AS_STRUCTS = "spark.sql.pyspark.inferNestedDictAsStruct.enabled"
__getattr__ = missing
__all__ = ["DynamicFrame", "DynamicFrameCollection", "DynamicRecord"]


class DynamicRecord(dict[str, Any]):
    """A row for functions of ``Filter`` and ``Map``: ``record["id"]`` or ``record.id``, else KeyError."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python's own question, as of copy()
            raise AttributeError(name)
        return self[name]

    __setattr__ = dict.__setitem__


def try_cast(column: Column, type_: str) -> Column:
    """Null where the value does not fit: Spark 4's cast fails, Glue's does not."""
    cast: Column = getattr(type(column), "try_cast", type(column).cast)(column, type_)
    return cast


def _record(value: Any, sparse: bool) -> Any:
    """A value of a row with its structs as records."""
    if isinstance(value, list):
        return [_record(element, sparse) for element in value]
    if not hasattr(value, "asDict"):
        return value
    fields = value.asDict().items()
    return DynamicRecord({name: _record(field, sparse) for name, field in fields if not (sparse and field is None)})


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

    def schema(self) -> Any:
        """The columns, as types of ``awsglue.gluetypes``, which are Spark's."""
        return self._frame.schema

    def getNumPartitions(self) -> int:
        """The number of partitions of the rows."""
        parts: int = self._frame.rdd.getNumPartitions()
        return parts

    def coalesce(self, num_partitions: int, shuffle: bool = False, *_: Any, **hints: Any) -> DynamicFrame:
        """The rows in at most that many partitions, each of which is written as one file."""
        return self.repartition(num_partitions) if shuffle else self._of(self._frame.coalesce(num_partitions))

    def repartition(self, num_partitions: int, *_: Any, **hints: Any) -> DynamicFrame:
        """The rows in that many partitions."""
        return self._of(self._frame.repartition(num_partitions))

    def union(self, other_frame: DynamicFrame, *_: Any, **hints: Any) -> DynamicFrame:
        """The rows of both frames, with columns matched by name; a column that one frame lacks is null there."""
        return self._of(self._frame.unionByName(other_frame._frame, allowMissingColumns=True))

    def select_fields(self, paths: str | Sequence[str], *_: Any, **hints: Any) -> DynamicFrame:
        """These columns alone."""
        return self._of(self._frame.select(*[f"`{name}`" for name in self._columns(paths)]))

    def drop_fields(self, paths: str | Sequence[str], *_: Any, **hints: Any) -> DynamicFrame:
        """All other columns."""
        return self._of(self._frame.drop(*self._columns(paths)))

    def rename_field(self, oldName: str, newName: str, *_: Any, **hints: Any) -> DynamicFrame:
        """The frame with one column renamed."""
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
        # Without useArrow=False Spark 4's udf reads the function's type hints, and warns of those it does not know.
        return self._of(self._frame.filter(udf(holds, "boolean", useArrow=False)(row)))

    def map(self, f: Callable[[Any], Any], *_: Any, **hints: Any) -> DynamicFrame:
        """Each row as a function of Python changes its record; types are Python's: an int is a bigint.

        Spark must know columns before rows, so the function runs twice for each row. A row that it fails for fails the
        script, where Glue has an error record.
        """
        frame, sparse = self._frame, self._sparse
        rows = frame.rdd.map(lambda row: _checked_record(f(_record(row, sparse))))
        # No row, no types: Spark refuses to infer a schema.
        if rows.isEmpty():
            return self
        # A dict would become a map, whose values have one type.
        spark, before = frame.sparkSession, frame.sparkSession.conf.get(AS_STRUCTS)
        spark.conf.set(AS_STRUCTS, "true")
        try:
            # Of all rows: a sample would lose keys in silence.
            changed_frame = spark.createDataFrame(rows, samplingRatio=1.0)
        finally:
            spark.conf.set(AS_STRUCTS, before)
        # Spark sorts the keys of dicts; the frame's columns keep their order.
        names = dict.fromkeys(
            name for name in [*frame.columns, *changed_frame.columns] if name in changed_frame.columns
        )
        return self._of(changed_frame.select(*[f"`{name}`" for name in names]))

    def drop_null_fields(self, *_: Any, **hints: Any) -> DynamicFrame:
        """All columns but those that have no type; from JSON also those that are null in every row."""
        from pyspark.sql.functions import col, count, lit

        empty = [name for name, type_ in self._frame.dtypes if type_ == "void"]
        if self._sparse:
            names = self._frame.columns
            total, *filled = self._frame.agg(count(lit(1)), *[count(col(f"`{name}`")) for name in names]).head()
            # In a frame without rows every column would count as empty.
            empty = [name for name, number in zip(names, filled, strict=True) if total and not number]
        return self._of(self._frame.drop(*empty))

    def resolveChoice(
        self,
        specs: Sequence[tuple[str, str]] | tuple[str, str] | None = None,
        choice: str = "",
        database: str | None = None,
        table_name: str | None = None,
        *_: Any,
        **hints: Any,
    ) -> DynamicFrame:
        """The frame with the columns of ``specs`` cast; every column has one type already, so there is no choice."""
        if (specs is None) == (not choice):
            raise ValueError("resolveChoice needs specs or choice, and not both")
        if choice == "match_catalog":
            specs = self.glue_ctx.catalog_casts(database, table_name, self._frame.columns)
        elif choice:
            specs = [] if choice.partition(":")[0] in (*SAME_HERE, "cast", "project") else [("*", choice)]
        frame = self._frame
        for path, action in [specs] if isinstance(specs, tuple) else specs or ():
            way, _, type_ = action.partition(":")
            if way in SAME_HERE:
                continue
            if way not in ("cast", "project") or not type_:
                raise lacking(f"resolveChoice by {action}", "cast:type, project:type, make_cols or make_struct")
            (name,) = self._columns(path)
            frame = frame.withColumn(name, try_cast(frame[f"`{name}`"], type_))
        return self._of(frame)

    def gs_derived(self, colName: str, expr: str, *_: Any, **hints: Any) -> DynamicFrame:
        """The columns and one more, or another in its place: the value of an expression of SQL."""
        from pyspark.sql import functions

        return self._of(self._frame.withColumn(colName, functions.expr(expr)))

    def unnest(self, *_: Any, **hints: Any) -> DynamicFrame:
        """Fields of structs as columns with dots in their names."""
        return self._of(self._frame.select(*_unnested(self._frame.schema)))

    def relationalize(
        self, root_table_name: str, staging_path: str = "", options: Any = None, *_: Any, **hints: Any
    ) -> DynamicFrameCollection:
        """The rows without nested columns, and a frame ``NAME_COLUMN`` for each array, joined by its ``id``."""
        frames = _relationalized(self._frame, root_table_name, root_table_name)
        return DynamicFrameCollection({name: self._of(frame) for name, frame in frames.items()}, self.glue_ctx)

    def join(
        self, paths1: str | Sequence[str], paths2: str | Sequence[str], frame2: DynamicFrame, *_: Any, **hints: Any
    ) -> DynamicFrame:
        """The pairs of rows with equal keys; a column of ``frame2`` whose name is taken has a dot before it."""
        from pyspark.sql.functions import col

        left, right = self._frame, frame2._frame
        # For Spark names that differ in case alone are the same.
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
        return column if source_type == target_type in WHOLE else try_cast(column, target_type)

    def _columns(self, paths: str | Sequence[str]) -> list[str]:
        """Names of columns; only a DataFrame reaches into structs."""
        names = [paths] if isinstance(paths, str) else paths
        for name in names:
            if "." in name and not name.startswith("`") and name not in self._frame.columns:
                raise lacking(f"fields in structs, such as {name},", "withField() and dropFields() of toDF()'s columns")
        return [name.strip("`") for name in names]

    def _of(self, frame: DataFrame) -> DynamicFrame:
        return DynamicFrame(frame, self.glue_ctx, self.name, self._sparse)


class DynamicFrameCollection:
    """Frames by their names."""

    def __init__(self, dynamic_frames: Mapping[str, DynamicFrame] | Sequence[DynamicFrame], glue_ctx: Any) -> None:
        if not isinstance(dynamic_frames, Mapping):
            dynamic_frames = {frame.name: frame for frame in dynamic_frames}
        self._frames = dict(dynamic_frames)
        self._glue_ctx = glue_ctx

    def __getattr__(self, name: str) -> Any:
        if name in ("keys", "values"):
            return getattr(self._frames, name)
        raise lacking(f"DynamicFrameCollection.{name}")

    def __getitem__(self, key: str) -> DynamicFrame:
        return self._frames[key]

    def __len__(self) -> int:
        return len(self._frames)

    def select(self, key: str, *_: Any, **hints: Any) -> DynamicFrame:
        """A frame; one without rows and columns if there is none, as in Glue."""
        if key not in self._frames:
            return DynamicFrame(self._glue_ctx.createDataFrame([], "struct<>"), self._glue_ctx, key)
        return self._frames[key]


def _unnested(type_: Any, column: str = "", name: str = "") -> Iterator[Column]:
    from pyspark.sql.functions import col

    if type_.typeName() == "struct":
        for field in type_:
            at = (f"{column}.`{field.name}`", f"{name}.{field.name}") if column else (f"`{field.name}`", field.name)
            yield from _unnested(field.dataType, *at)
    else:
        yield col(column).alias(name)


def _relationalized(frame: DataFrame, root: str, name: str) -> dict[str, DataFrame]:
    """A frame, and those of its arrays, whose rows have ``id``, ``index`` and a column ``ARRAY.val``."""
    from pyspark.sql.functions import col, monotonically_increasing_id, posexplode, when

    flat = frame.select(*_unnested(frame.schema))
    arrays = [column for column, type_ in flat.dtypes if type_.startswith("array")]
    if not arrays:
        return {name: flat}
    # The ids depend on how rows are partitioned: computed anew for each frame they would not join.
    flat = flat.withColumn("_id", monotonically_increasing_id()).localCheckpoint(eager=False)
    ids = {column: when(col(f"`{column}`").isNotNull(), col("_id")) for column in arrays}
    frames = {name: flat.withColumns(ids).drop("_id")}
    for column in arrays:
        rows = flat.select(col("_id").alias("id"), posexplode(f"`{column}`").alias("index", f"{column}.val"))
        frames |= _relationalized(rows, root, f"{root}_{column}")
    return frames


def _checked_record(record: Any) -> Any:
    if isinstance(record, Mapping):
        return dict(record)
    raise ValueError(f"the function of Map returned {type(record).__name__}, not a record")


def _columns_of(tree: Mapping[str, Any]) -> Iterator[Column]:
    """The columns of a mapping's targets; a mapping in it is a struct."""
    from pyspark.sql.functions import struct

    for name, node in tree.items():
        yield (struct(*_columns_of(node)) if isinstance(node, Mapping) else node).alias(name)

"""The part of Glue's ``DynamicFrame`` that a DataFrame can do: one schema, no choice types, no error records.

In Glue every method has the further arguments ``transformation_ctx``, ``info``, ``stageThreshold`` and
``totalThreshold``. Here they change nothing: there are no bookmarks, and Spark's reader decides what is an error.

In Glue a record of JSON has only the keys of its line. In Spark's rows a missing key is null, like a key whose value
is null. So frames that were read from JSON are ``sparse``: a field that is null in a row is missing in the row's
record.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING, Any

from . import lack_error, refuse_import

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

SHARED = ("count", "printSchema", "show")  # methods that are DataFrame's own
NESTED = ("array", "map", "struct")  # types that a mapping names without their elements
NO_OPS = ("make_cols", "make_struct")  # actions on choice types, which no column has here
DICTS_AS_STRUCTS = "spark.sql.pyspark.inferNestedDictAsStruct.enabled"
__getattr__ = refuse_import
__all__ = ["DynamicFrame", "DynamicFrameCollection", "DynamicRecord"]


class DynamicRecord(dict[str, Any]):
    """A row for the functions of ``Filter`` and ``Map``: ``record["id"]`` or ``record.id``, else KeyError."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # looked up by Python itself, for example in copy()
            raise AttributeError(name)
        return self[name]

    __setattr__ = dict.__setitem__


def try_cast(column: Column, type_: str) -> Column:
    """Cast a column, to null where the value does not fit, as Glue does: Spark 4's plain cast would fail."""
    cast: Column = getattr(type(column), "try_cast", type(column).cast)(column, type_)
    return cast


def _record(value: Any, sparse: bool) -> Any:
    """Return a row or a value of a row with its structs as records; without null fields if ``sparse``."""
    if isinstance(value, list):
        return [_record(element, sparse) for element in value]
    if not hasattr(value, "asDict"):
        return value
    fields = value.asDict().items()
    return DynamicRecord({name: _record(field, sparse) for name, field in fields if not (sparse and field is None)})


class DynamicFrame:
    """A DataFrame with the methods of Glue's DynamicFrame."""

    def __init__(self, frame: DataFrame, glue_ctx: Any, name: str = "", sparse: bool = False) -> None:
        self._frame, self.glue_ctx, self.name, self._sparse = frame, glue_ctx, name, sparse

    def __getattr__(self, name: str) -> Any:
        if name in SHARED:
            return getattr(self._frame, name)
        raise lack_error(f"DynamicFrame.{name}")

    @classmethod
    def fromDF(cls, dataframe: DataFrame, glue_ctx: Any, name: str = "") -> DynamicFrame:
        """Make a DynamicFrame of a DataFrame."""
        return cls(dataframe, glue_ctx, name)

    def toDF(self, options: None = None) -> DataFrame:
        """Return the DataFrame."""
        return self._frame

    def schema(self) -> Any:
        """Return the columns as types of ``awsglue.gluetypes``, which are Spark's types."""
        return self._frame.schema

    def getNumPartitions(self) -> int:
        """Return the number of partitions of the rows."""
        parts: int = self._frame.rdd.getNumPartitions()
        return parts

    def coalesce(self, num_partitions: int, shuffle: bool = False, *_: Any, **hints: Any) -> DynamicFrame:
        """Return the rows in at most ``num_partitions`` partitions, each of which is written as one file."""
        return self.repartition(num_partitions) if shuffle else self._with_frame(self._frame.coalesce(num_partitions))

    def repartition(self, num_partitions: int, *_: Any, **hints: Any) -> DynamicFrame:
        """Return the rows in ``num_partitions`` partitions."""
        return self._with_frame(self._frame.repartition(num_partitions))

    def union(self, other_frame: DynamicFrame, *_: Any, **hints: Any) -> DynamicFrame:
        """Return the rows of both frames, with columns matched by name; a column that one frame lacks is null."""
        return self._with_frame(self._frame.unionByName(other_frame._frame, allowMissingColumns=True))

    def select_fields(self, paths: str | Sequence[str], *_: Any, **hints: Any) -> DynamicFrame:
        """Return the frame with only these columns."""
        return self._with_frame(self._frame.select(*[f"`{name}`" for name in self._columns(paths)]))

    def drop_fields(self, paths: str | Sequence[str], *_: Any, **hints: Any) -> DynamicFrame:
        """Return the frame without these columns."""
        return self._with_frame(self._frame.drop(*self._columns(paths)))

    def rename_field(self, oldName: str, newName: str, *_: Any, **hints: Any) -> DynamicFrame:
        """Return the frame with one column renamed."""
        return self._with_frame(self._frame.withColumnRenamed(*self._columns([oldName, newName])))

    def filter(self, f: Callable[[Any], Any], *_: Any, **hints: Any) -> DynamicFrame:
        """Return the rows for which a Python function is true. A condition in ``toDF().filter`` is faster."""
        from pyspark.sql.functions import struct, udf

        sparse = self._sparse

        def holds(row: Any) -> bool:
            try:
                return bool(f(_record(row, sparse)))
            except (KeyError, TypeError, ValueError):  # a missing key, or None > 1: Glue drops the row
                return False

        row = struct(*[f"`{name}`" for name in self._frame.columns])
        # Without useArrow=False Spark 4's udf would read the function's type hints, and warn of unknown ones.
        return self._with_frame(self._frame.filter(udf(holds, "boolean", useArrow=False)(row)))

    def map(self, f: Callable[[Any], Any], *_: Any, **hints: Any) -> DynamicFrame:
        """Return the rows as a Python function changes their records; types are Python's: an int is a bigint.

        Spark must know the columns before the rows, so the function runs twice for each row. If it fails for a row, the
        script fails; Glue would make an error record.
        """
        frame, sparse = self._frame, self._sparse
        rows = frame.rdd.map(lambda row: _checked_record(f(_record(row, sparse))))
        # Without rows Spark has no values to infer types from.
        if rows.isEmpty():
            return self
        # By default Spark makes a map of a dict, whose values would all get the same type.
        spark, before = frame.sparkSession, frame.sparkSession.conf.get(DICTS_AS_STRUCTS)
        spark.conf.set(DICTS_AS_STRUCTS, "true")
        try:
            # The schema is inferred from all rows: a sample would silently lose keys.
            changed_frame = spark.createDataFrame(rows, samplingRatio=1.0)
        finally:
            spark.conf.set(DICTS_AS_STRUCTS, before)
        # Spark sorts the keys of dicts; the frame's columns keep their order.
        names = dict.fromkeys(
            name for name in [*frame.columns, *changed_frame.columns] if name in changed_frame.columns
        )
        return self._with_frame(changed_frame.select(*[f"`{name}`" for name in names]))

    def drop_null_fields(self, *_: Any, **hints: Any) -> DynamicFrame:
        """Return the frame without columns that have no type; from JSON also without columns that are always null."""
        from pyspark.sql.functions import col, count, lit

        empty = [name for name, type_ in self._frame.dtypes if type_ == "void"]
        if self._sparse:
            names = self._frame.columns
            total, *value_counts = self._frame.agg(count(lit(1)), *[count(col(f"`{name}`")) for name in names]).head()
            # In a frame without rows every column would count as empty.
            empty = [name for name, values in zip(names, value_counts, strict=True) if total > 0 and values == 0]
        return self._with_frame(self._frame.drop(*empty))

    def resolveChoice(
        self,
        specs: Sequence[tuple[str, str]] | tuple[str, str] | None = None,
        choice: str = "",
        database: str | None = None,
        table_name: str | None = None,
        *_: Any,
        **hints: Any,
    ) -> DynamicFrame:
        """Return the frame with the columns of ``specs`` cast. Each column has one type, so no choice is resolved."""
        if (specs is None) == (not choice):
            raise ValueError("resolveChoice needs specs or choice, and not both")
        if choice == "match_catalog":
            specs = self.glue_ctx.catalog_casts(database, table_name, self._frame.columns)
        elif choice:
            # There is no choice to which the action could apply; an unknown action is refused below.
            specs = [] if choice.partition(":")[0] in (*NO_OPS, "cast", "project") else [("*", choice)]
        frame = self._frame
        for path, action in [specs] if isinstance(specs, tuple) else specs or ():
            verb, _, type_ = action.partition(":")
            if verb in NO_OPS:
                continue
            if verb not in ("cast", "project") or not type_:
                raise lack_error(f"resolveChoice by {action}", "cast:type, project:type, make_cols or make_struct")
            (name,) = self._columns(path)
            frame = frame.withColumn(name, try_cast(frame[f"`{name}`"], type_))
        return self._with_frame(frame)

    def gs_derived(self, colName: str, expr: str, *_: Any, **hints: Any) -> DynamicFrame:
        """Return the frame with a column added or replaced by the value of an SQL expression."""
        from pyspark.sql import functions

        return self._with_frame(self._frame.withColumn(colName, functions.expr(expr)))

    def unnest(self, *_: Any, **hints: Any) -> DynamicFrame:
        """Return the frame with the fields of structs as columns, which have dots in their names."""
        return self._with_frame(self._frame.select(*_unnested_columns(self._frame.schema)))

    def relationalize(
        self, root_table_name: str, staging_path: str = "", options: Any = None, *_: Any, **hints: Any
    ) -> DynamicFrameCollection:
        """Return the rows without nested columns, and for each array a frame ``NAME_COLUMN``, joined by its ``id``."""
        frames = _relational_frames(self._frame, root_table_name, root_table_name)
        return DynamicFrameCollection({name: self._with_frame(frame) for name, frame in frames.items()}, self.glue_ctx)

    def join(
        self, paths1: str | Sequence[str], paths2: str | Sequence[str], frame2: DynamicFrame, *_: Any, **hints: Any
    ) -> DynamicFrame:
        """Return the pairs of rows with equal keys. Columns of ``frame2`` get dots before names that are taken."""
        from pyspark.sql.functions import col

        left, right = self._frame, frame2._frame
        # For Spark names that differ only in case are the same.
        taken, names = {name.lower() for name in left.columns}, {}
        for name in right.columns:
            dots = next(dots for dots in range(len(taken) + 1) if f"{'.' * dots}{name}".lower() not in taken)
            names[name] = f"{'.' * dots}{name}"
        pairs = zip(self._columns(paths1), self._columns(paths2), strict=True)
        conditions = [col(f"`{left_key}`") == col(f"`{names[right_key]}`") for left_key, right_key in pairs]
        return self._with_frame(left.join(right.toDF(*names.values()), reduce(and_, conditions)))

    def apply_mapping(
        self, mappings: Sequence[tuple[str, str, str, str]], case_sensitive: bool = False, *_: Any, **hints: Any
    ) -> DynamicFrame:
        """Return only the columns ``(source, its type, target, its type)``; a dot in a name reaches into a struct."""
        tree: dict[str, Any] = {}
        for source, source_type, target, target_type in [mappings] if isinstance(mappings, tuple) else mappings:
            *parents, name = (part.strip("`") for part in re.findall("`[^`]*`|[^.`]+", target))
            fields = reduce(lambda node, parent: node.setdefault(parent, {}), parents, tree)
            fields[name] = self._cast(source, source_type, target_type)
        return self._with_frame(self._frame.select(*_mapped_columns(tree)))

    def _cast(self, source: str, source_type: str, target_type: str) -> Column:
        from pyspark.sql.functions import col

        column = col(f"`{source}`" if source in self._frame.columns else source)
        return column if source_type == target_type in NESTED else try_cast(column, target_type)

    def _columns(self, paths: str | Sequence[str]) -> list[str]:
        """Return the names of columns; AttributeError for a field in a struct, which only a DataFrame can change."""
        names = [paths] if isinstance(paths, str) else paths
        for name in names:
            if "." in name and not name.startswith("`") and name not in self._frame.columns:
                otherwise = "withField() and dropFields() of toDF()'s columns"
                raise lack_error(f"fields in structs, such as {name},", otherwise)
        return [name.strip("`") for name in names]

    def _with_frame(self, frame: DataFrame) -> DynamicFrame:
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
        raise lack_error(f"DynamicFrameCollection.{name}")

    def __getitem__(self, key: str) -> DynamicFrame:
        return self._frames[key]

    def __len__(self) -> int:
        return len(self._frames)

    def select(self, key: str, *_: Any, **hints: Any) -> DynamicFrame:
        """Return the frame of a name; a frame without rows and columns if there is none, as in Glue."""
        if key not in self._frames:
            return DynamicFrame(self._glue_ctx.createDataFrame([], "struct<>"), self._glue_ctx, key)
        return self._frames[key]


def _unnested_columns(type_: Any, column: str = "", name: str = "") -> Iterator[Column]:
    """Yield the columns of a type that has no struct: ``column`` is the SQL that reaches it, ``name`` its new name."""
    from pyspark.sql.functions import col

    if type_.typeName() == "struct":
        for field in type_:
            column_and_name = (f"`{field.name}`", field.name)
            if column:
                column_and_name = (f"{column}.`{field.name}`", f"{name}.{field.name}")
            yield from _unnested_columns(field.dataType, *column_and_name)
    else:
        yield col(column).alias(name)


def _relational_frames(frame: DataFrame, root: str, name: str) -> dict[str, DataFrame]:
    """Return a frame and the frames of its arrays, by name; an array's rows have ``id``, ``index``, ``ARRAY.val``."""
    from pyspark.sql.functions import col, monotonically_increasing_id, posexplode, when

    flat = frame.select(*_unnested_columns(frame.schema))
    arrays = [column for column, type_ in flat.dtypes if type_.startswith("array")]
    if not arrays:
        return {name: flat}
    # The ids depend on how rows are partitioned. If each frame computed its own, they would not match.
    flat = flat.withColumn("_id", monotonically_increasing_id()).localCheckpoint(eager=False)
    ids = {column: when(col(f"`{column}`").isNotNull(), col("_id")) for column in arrays}
    frames = {name: flat.withColumns(ids).drop("_id")}
    for column in arrays:
        rows = flat.select(col("_id").alias("id"), posexplode(f"`{column}`").alias("index", f"{column}.val"))
        frames |= _relational_frames(rows, root, f"{root}_{column}")
    return frames


def _checked_record(record: Any) -> Any:
    """Return what a function of ``Map`` has returned; ValueError if it is not a record."""
    if isinstance(record, Mapping):
        return dict(record)
    raise ValueError(f"the function of Map returned a {type(record).__name__}, not a record")


def _mapped_columns(tree: Mapping[str, Any]) -> Iterator[Column]:
    """Yield the columns of a tree of targets; a mapping within the tree is a struct."""
    from pyspark.sql.functions import struct

    for name, node in tree.items():
        yield (struct(*_mapped_columns(node)) if isinstance(node, Mapping) else node).alias(name)

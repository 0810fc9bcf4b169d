"""``DynamicFrame``, as far as it is a DataFrame: one schema, no choice types, no error records.

The arguments that every method of Glue has besides, ``transformation_ctx``, ``info``, ``stageThreshold`` and
``totalThreshold``, change nothing: there are no bookmarks, and Spark's reader decides what is an error.

Records of JSON lack the keys that their lines lack; of these Spark makes nulls, as of nulls. So frames that were read
from JSON are ``sparse``: what is null in a row is missing in its record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from . import lacking, missing

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

SHARED = ("count", "printSchema", "show")  # with DataFrame
WHOLE = ("array", "map", "struct")  # types that a mapping names without their elements
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
    def fromDF(cls, dataframe: DataFrame, glue_ctx: Any, name: str) -> DynamicFrame:
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

    def apply_mapping(
        self, mappings: Sequence[tuple[str, str, str, str]], case_sensitive: bool = False, *_: Any, **hints: Any
    ) -> DynamicFrame:
        """These columns alone, each as ``(source, its type, target, its type)``; a source may lie in a struct."""
        return self._of(self._frame.select(*[self._mapped(*mapping) for mapping in mappings]))

    def _mapped(self, source: str, source_type: str, target: str, target_type: str) -> Column:
        from pyspark.sql.functions import col

        (name,) = self._columns([target])
        column = col(f"`{source}`" if source in self._frame.columns else source)
        return (column if source_type == target_type in WHOLE else column.cast(target_type)).alias(name)

    def _columns(self, paths: str | Sequence[str]) -> list[str]:
        """Names of columns; only a DataFrame reaches into structs."""
        names = [paths] if isinstance(paths, str) else paths
        for name in names:
            if "." in name and not name.startswith("`") and name not in self._frame.columns:
                raise lacking(f"fields in structs, such as {name},", "withField() and dropFields() of toDF()'s columns")
        return [name.strip("`") for name in names]

    def _of(self, frame: DataFrame) -> DynamicFrame:
        return DynamicFrame(frame, self.glue_ctx, self.name, self._sparse)

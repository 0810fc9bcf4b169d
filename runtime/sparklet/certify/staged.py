"""Reads what shards have staged, without Spark: a folder's files as columns with types, and as rows."""

import gzip
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparklet.errors import SettingsError

if TYPE_CHECKING:
    import pyarrow as pa

LINES = ("line",), {"line": ("binary", False)}  # columns of files of text
SPARK_NAMES = {  # of pyarrow's types
    "int8": "tinyint",
    "int16": "smallint",
    "int32": "int",
    "int64": "bigint",
    "bool": "boolean",
    "date32[day]": "date",
    "timestamp[ns]": "timestamp",  # INT96
    "timestamp[us]": "timestamp_ntz",
    "large_string": "string",
    "string_view": "string",
    "binary_view": "binary",
}


@dataclass(frozen=True)
class Dataset:
    """The rows of one folder. Dates are days and times units since 1970, texts are bytes, maps lists of pairs."""

    names: tuple[str, ...]
    types: Mapping[str, tuple[str, bool]]  # Spark's, and whether there may be null; nested ones by path: tags.element
    rows: tuple[tuple[Any, ...], ...]


def read_folder(paths: Iterable[Path]) -> Dataset:
    """All files of a folder, Parquet, ORC or lines of text; SettingsError if they differ in their columns."""
    read = [_read(path) for path in sorted(paths)]
    if any((each.names, each.types) != (read[0].names, read[0].types) for each in read):
        raise SettingsError(f"the files in {min(paths).parent} have different columns: certify needs a folder for each")
    return Dataset(read[0].names, read[0].types, tuple(row for each in read for row in each.rows))


def _read(path: Path) -> Dataset:
    try:
        from pyarrow import orc, parquet
    except ImportError as error:
        raise SettingsError("certify reads files with pyarrow: pip install 'sparklet[lists]'") from error
    if path.suffix == ".parquet":
        return dataset(parquet.read_schema(path), parquet.ParquetFile(path, coerce_int96_timestamp_unit="us").read())
    if path.suffix == ".orc":
        return dataset((table := orc.ORCFile(path).read()).schema, table)
    body = path.read_bytes()
    return Dataset(
        *LINES, tuple((each,) for each in (gzip.decompress(body) if path.suffix == ".gz" else body).splitlines())
    )


def dataset(schema: "pa.Schema", table: "pa.Table") -> Dataset:
    """The types of ``schema``, in which INT96 is still known, and the rows of ``table``."""
    import pyarrow as pa

    numbers = pa.schema([each.with_type(_as_numbers(each.type)) for each in table.schema])
    columns = [column.to_pylist() for column in table.cast(numbers).columns]
    rows = tuple(zip(*columns, strict=True)) if columns else ((),) * table.num_rows
    types = {path: each for field in schema for path, each in _types(field, field.name)}
    return Dataset(tuple(schema.names), types, rows)


def _types(field: "pa.Field", path: str) -> Iterator[tuple[str, tuple[str, bool]]]:
    """The types of a field and of what is nested in it, by path."""
    from pyarrow import types as kinds

    of, inner, name = field.type, {}, ""
    if kinds.is_struct(of):
        name, inner = "struct", {each.name: each for each in of}
    elif kinds.is_map(of):
        name, inner = "map", {"key": of.key_field, "value": of.item_field}
    elif kinds.is_list(of):
        name, inner = "array", {"element": of.value_field}
    elif kinds.is_decimal(of):
        name = f"decimal({of.precision},{of.scale})"
    elif kinds.is_timestamp(of) and of.tz:
        name = "timestamp"
    yield path, (name or SPARK_NAMES.get(str(of), str(of)), field.nullable)
    for part, each in inner.items():
        yield from _types(each, f"{path}.{part}")


def _as_numbers(of: "pa.DataType") -> "pa.DataType":
    """A type with numbers for times, of which Python knows not all, and bytes for texts, which may be no UTF-8."""
    import pyarrow as pa

    if pa.types.is_struct(of):
        return pa.struct([each.with_type(_as_numbers(each.type)) for each in of])
    if pa.types.is_map(of):
        return pa.map_(_as_numbers(of.key_type), of.item_field.with_type(_as_numbers(of.item_type)))
    if pa.types.is_list(of):
        return pa.list_(of.value_field.with_type(_as_numbers(of.value_type)))
    if pa.types.is_string(of):
        return pa.binary()
    return pa.int64() if pa.types.is_timestamp(of) else pa.int32() if pa.types.is_date32(of) else of

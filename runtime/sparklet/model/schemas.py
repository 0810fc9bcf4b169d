"""The schemas of a shard: of the files that Spark has written, and those that Spark has inferred from input.

Our Java classes ``AttemptCommit`` and ``InferredTypes`` report the first and the second. A schema's name is made of
digests of the schema. The shard's item has the names, each with one file as an example; the schema itself is in a file
of the run's folder. So shards are compared by names alone. Two schemas of one output have the same name if readers see
no difference, or if one job over all input might have written both (docs/decisions/0075).
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

from sparklet.model.shards import SCHEMAS, s3_address

MAX_OUTPUTS, MAX_READERS = 8, 16  # of a shard
BY_NAME, BY_PLACE = ("parquet", "orc", "avro"), ("csv",)
"""Formats whose readers find columns by name and know their types; and formats without types, read by position."""
INTEGER, DECIMAL = (r"^((tiny|small|)int(?==?$)|decimal\(\d+,0\)(?==$))", "bigint"), (r"^decimal\(\d+,", "decimal(")
"""Patterns of types, each with the type that is compared in its place, since the values are the same.

For a decimal without fraction that is so only if a shard has used just its text: Python has another class for it.
"""
NUMBER, TIME = (r"^(bigint|float|double|decimal).*", "number"), (r"^(date|timestamp).*", "time")
TEXT = "="  # ends a type if the shard has used the values only as texts, as they are in the file
READ = "read\0"  # begins a report about a reader
SQL = {"byte": "tinyint", "short": "smallint", "integer": "int", "long": "bigint"}


class Schema(NamedTuple):
    """The columns of one output, or the columns that one reader has inferred."""

    subject: str  # an output's folder below the shard's ("": that one itself), or a digest of a reader's options
    format: str
    columns: Mapping[str, str]  # types by name; of a format in BY_PLACE only the names, whose order counts
    partitions: Sequence[str] = ()  # columns that are folders
    is_inferred: bool = False
    is_whole: bool = True  # whether it is a difference if only one of two schemas has a column

    @property
    def name(self) -> str:
        """A digest of the output or reader, and a digest of the whole schema."""
        source = [self.subject, self.format, self.is_inferred]
        return f"{_digest(source)[:8]}-{_digest([*source, [*self.columns.items()], self.partitions])[:12]}"

    @property
    def file(self) -> str:
        """The file in the run's folder that holds the schema, as a list in JSON."""
        return f"{SCHEMAS}{self.name}.json"

    def difference(self, other: "Schema") -> str:
        """How the other schema of the same output or reader differs, in words."""
        mine, theirs = self.columns, other.columns
        differences = [
            f"{name} is {mine[name]} and {theirs[name]}".replace(TEXT, "")
            for name in mine
            if name in theirs and clash((mine[name], theirs[name]))
        ]
        sides = (("first", mine, theirs), ("second", theirs, mine)) if self.is_whole else ()
        for side, columns, others in sides:
            if only := [f"{name} {type_}".rstrip() for name, type_ in columns.items() if name not in others]:
                differences.append(f"only the {side} has {', '.join(only)}")
        if self.partitions != other.partitions:
            partitions = (", ".join(schema.partitions) or "nothing" for schema in (self, other))
            differences.append(f"partitions by {' and '.join(partitions)}")
        return "; ".join(differences) or f"columns in the order {', '.join(mine)} and {', '.join(theirs)}"


def output_schemas(report_by_job: Mapping[str, str], uris: Sequence[str], folder: str) -> list[tuple[Schema, str]]:
    """The schemas of the files at ``uris`` in a shard's ``folder``, each with one of its files.

    ``report_by_job`` has the reports of Spark's write jobs by the jobs' ids, which are also in the names of the files.
    """
    schema_by_name = dict[str, tuple[Schema, str]]()
    for job, report in sorted(item for item in report_by_job.items() if not item[1].startswith(READ)):
        format_, columns, output = report.split("\n", 2)
        output = s3_address(output).rstrip("/")
        file = next((uri for uri in uris if job in uri.rpartition("/")[2]), "")
        is_compared = format_ in (*BY_NAME, *BY_PLACE) and ':"void"' not in columns  # a void column has no type yet
        if is_compared and file.startswith(f"{output}/") and output.startswith(folder):
            folders = file[len(output) + 1 :].split("/")[:-1]
            partitions = [unquote(name.partition("=")[0]).lower() for name in folders]
            fields = [(name, type_) for name, type_ in _fields(json.loads(columns)) if name.lower() not in partitions]
            if format_ in BY_NAME:
                compared_columns = dict(sorted(fields))
            else:
                compared_columns = dict.fromkeys((name.lower() for name, _ in fields), "")
            schema = Schema(output[len(folder) + 1 :], format_, compared_columns, partitions)
            schema_by_name.setdefault(schema.name, (schema, file[len(folder) + 1 :]))
    outputs = sorted({schema[:2] for schema, _ in schema_by_name.values()})[:MAX_OUTPUTS]
    return [(schema, file) for schema, file in schema_by_name.values() if schema[:2] in outputs]


def reader_schemas(
    reports: Iterable[str], objects: Mapping[str, str], folders: Sequence[str]
) -> list[tuple[Schema, str]]:
    """The schemas that a shard's readers have inferred, each with one of the inputs that were read.

    ``reports`` are those of ``InferredTypes``, which name one object for each reader and query; for ``objects`` see
    ``ExecutionResult``; ``folders`` are the run's inputs. If there are several, readers are also compared by folder,
    since a script may read each folder by itself. A column that a reader has inferred with several types, as in a loop
    over files, is not compared: one job over all input would also see several.
    """
    readers = dict[tuple[str, str, bool], tuple[str, defaultdict[str, set[str]]]]()
    for _, format_, options, key, *words in (report.split("\0") for report in reports if report.startswith(READ)):
        # An object that is not an input is the same for all shards.
        if uri := objects.get(key):
            folder = [next(filter(uri.startswith, folders), "")] if len(folders) > 1 else []
            is_whole = format_ in BY_NAME and "mergeschema=true" not in options.lower()
            for subject in {_digest([options]), _digest([options, *folder])}:
                _, types = readers.setdefault((subject[:12], format_, is_whole), (uri, defaultdict(set)))
                for path, type_ in zip(map(str.lower, words[::2]), words[1::2], strict=True):
                    types[path].add(re.sub(*DECIMAL, re.sub(*INTEGER, type_)))
    schemas = list[tuple[Schema, str]]()
    for (subject, format_, is_whole), (uri, types) in sorted(readers.items())[:MAX_READERS]:
        # A plain type sorts before the same type with TEXT: if a shard has used the type itself once, the plain one
        # counts.
        columns = {
            path: min(column_types)
            for path, column_types in sorted(types.items())
            if len({*map(_without_mark, column_types)}) == 1
        }
        if columns and (len(columns) == len(types) or not is_whole):
            schemas.append((Schema(subject, format_, columns, (), True, is_whole), uri))
    return schemas


def clash(types: Iterable[str]) -> tuple[str, ...]:
    """Two of a column's types in several shards that one job over all input would not have read as two types.

    () if there are none, or if one job would have read the column as text, which is all that the shards have used.
    """
    # In reverse order, so that "int" replaces "int=": some shard has used it as a type.
    type_by_name = {_without_mark(type_): type_ for type_ in sorted(types, reverse=True)}
    used_as_types = [type_ for type_ in type_by_name.values() if type_ != "string" and TEXT not in type_]
    # For types of several kinds one job can only take text.
    kinds = {re.sub(*NUMBER, re.sub(*TIME, name)) for name in type_by_name}
    if len(type_by_name) < 2 or (len(kinds) > 1 and not used_as_types):
        return ()
    first = [*used_as_types, *type_by_name.values()][0]
    return first, next(type_ for type_ in type_by_name.values() if type_ != first)


def _without_mark(type_: str) -> str:
    return type_.removesuffix(TEXT)


def _fields(struct: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The names of a struct's fields, as they are spelled in the files, and their types."""
    return [(field["name"], _type(field["type"])) for field in struct["fields"]]


def _type(type_: Any) -> str:
    """A type in Spark's JSON as SQL writes it, its fields sorted, without what readers ignore: nulls and comments."""
    if isinstance(type_, str):
        return SQL.get(type_, type_)
    match type_["type"]:
        case "struct":
            return f"struct<{','.join(f'{name}:{inner}' for name, inner in sorted(_fields(type_)))}>"
        case "array":
            return f"array<{_type(type_['elementType'])}>"
        case "map":
            return f"map<{_type(type_['keyType'])},{_type(type_['valueType'])}>"
    return _type(type_["sqlType"])  # a user-defined type


def _digest(values: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()

"""The schemas of what a shard has written by Spark, and inferred, as ``AttemptCommit`` and ``InferredTypes`` tell them.

A shard's item has their names, each with one of its files. What is behind a name lies in a file of the run's folder, so
who compares shards compares names. Two schemas of one output have the same name if readers see no difference, or if one
job over all input may have written both (docs/decisions/0075).
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
"""Formats whose readers find columns by name, and know their types; and those without types."""
INTEGER, DECIMAL = (r"^((tiny|small|)int(?==?$)|decimal\(\d+,0\)(?==$))", "bigint"), (r"^decimal\(\d+,", "decimal(")
"""Patterns of types whose values are the same by another type; to Python a decimal is another object than an int."""
NUMBER, TIME = (r"^(bigint|float|double|decimal).*", "number"), (r"^(date|timestamp).*", "time")
TEXT = "="  # behind a type of which a shard needs nothing but the text, which is the file's own
READ = "read\0"  # how what is told of a reader begins
SQL = {"byte": "tinyint", "short": "smallint", "integer": "int", "long": "bigint"}


class Schema(NamedTuple):
    """The columns of one output, or those that one reader has inferred."""

    subject: str  # an output's folder below the shard's, "": that itself; or a reader, by its options
    format: str
    columns: Mapping[str, str]  # types by name; in their order and without types where readers go by place
    partitions: Sequence[str] = ()  # columns that are folders
    is_inferred: bool = False
    is_whole: bool = True  # whether a column that only one of two has is a difference

    @property
    def name(self) -> str:
        """A digest of the output or the reader, then one of all."""
        of = [self.subject, self.format, self.is_inferred]
        return f"{_digest(of)[:8]}-{_digest([*of, [*self.columns.items()], self.partitions])[:12]}"

    @property
    def file(self) -> str:
        """The file in the run's folder that holds it, as a list in JSON."""
        return f"{SCHEMAS}{self.name}.json"

    def difference(self, other: "Schema") -> str:
        """How the other schema of the same output or reader differs, in words."""
        mine, theirs = self.columns, other.columns
        differences = [
            f"{name} is {mine[name]} and {theirs[name]}".replace(TEXT, "")
            for name in mine
            if name in theirs and clash((mine[name], theirs[name]))
        ]
        for which, these, others in (("first", mine, theirs), ("second", theirs, mine)) if self.is_whole else ():
            if only := [f"{name} {type_}".rstrip() for name, type_ in these.items() if name not in others]:
                differences.append(f"only the {which} has {', '.join(only)}")
        if self.partitions != other.partitions:
            partitions = (", ".join(schema.partitions) or "nothing" for schema in (self, other))
            differences.append(f"partitions by {' and '.join(partitions)}")
        return "; ".join(differences) or f"columns in the order {', '.join(mine)} and {', '.join(theirs)}"


def output_schemas(written: Mapping[str, str], uris: Sequence[str], folder: str) -> list[tuple[Schema, str]]:
    """The schemas of what lies in a shard's ``folder``, each with one of the files, whose addresses are ``uris``.

    ``written``: by the ids of Spark's write jobs, which are in the files' names, what these have told.
    """
    schema_by_name = dict[str, tuple[Schema, str]]()
    for job, report in sorted(item for item in written.items() if not item[1].startswith(READ)):
        format_, columns, output = report.split("\n", 2)
        output = s3_address(output).rstrip("/")
        file = next((uri for uri in uris if job in uri.rpartition("/")[2]), "")
        is_compared = format_ in (*BY_NAME, *BY_PLACE) and ':"void"' not in columns  # a void column has no type yet
        if is_compared and file.startswith(f"{output}/") and output.startswith(folder):
            apart = [unquote(segment.partition("=")[0]).lower() for segment in file[len(output) + 1 :].split("/")[:-1]]
            file_columns = [(name, type_) for name, type_ in _fields(json.loads(columns)) if name.lower() not in apart]
            typed = (
                dict(sorted(file_columns))
                if format_ in BY_NAME
                else dict.fromkeys((name.lower() for name, _ in file_columns), "")
            )
            schema = Schema(output[len(folder) + 1 :], format_, typed, apart)
            schema_by_name.setdefault(schema.name, (schema, file[len(folder) + 1 :]))
    outputs = sorted({schema[:2] for schema, _ in schema_by_name.values()})[:MAX_OUTPUTS]
    return [(schema, file) for schema, file in schema_by_name.values() if schema[:2] in outputs]


def reader_schemas(
    reports: Iterable[str], objects: Mapping[str, str], folders: Sequence[str]
) -> list[tuple[Schema, str]]:
    """What a shard's readers have inferred, each with one of its inputs.

    ``reports``: by ``InferredTypes``, an object for each reader and query; ``objects``: see ``ExecutionResult``;
    ``folders``: the run's inputs. Where there are several, readers are also compared by folder, since a script may read
    them apart. A column that a reader sees with several types, as in a loop over files, is not compared: so it would be
    in one job.
    """
    readers = dict[tuple[str, str, bool], tuple[str, defaultdict[str, set[str]]]]()
    for _, format_, options, key, *words in (report.split("\0") for report in reports if report.startswith(READ)):
        if uri := objects.get(key):  # else it is not an input, and the same for all shards
            folder = [next(filter(uri.startswith, folders), "")] if len(folders) > 1 else []
            is_whole = format_ in BY_NAME and "mergeschema=true" not in options.lower()
            for subject in {_digest([options]), _digest([options, *folder])}:
                _, types = readers.setdefault((subject[:12], format_, is_whole), (uri, defaultdict(set)))
                for path, type_ in zip(map(str.lower, words[::2]), words[1::2], strict=True):
                    types[path].add(re.sub(*DECIMAL, re.sub(*INTEGER, type_)))
    schemas = list[tuple[Schema, str]]()
    for (subject, format_, is_whole), (uri, types) in sorted(readers.items())[:MAX_READERS]:
        # A plain type sorts before the same one whose text alone was needed: where a shard needed the type once, that
        # counts.
        columns = {path: min(seen) for path, seen in sorted(types.items()) if len({*map(_bare, seen)}) == 1}
        if columns and (len(columns) == len(types) or not is_whole):
            schemas.append((Schema(subject, format_, columns, (), True, is_whole), uri))
    return schemas


def clash(types: Iterable[str]) -> tuple[str, ...]:
    """Two types that one job would make alike; () if there are none, or if it would take all as text, as shards did."""
    # In reverse, so that of "int=" and "int" the latter stays, which somebody needed as a type.
    bare = {_bare(type_): type_ for type_ in sorted(types, reverse=True)}
    odd = [type_ for type_ in bare.values() if type_ != "string" and TEXT not in type_]
    kinds = {re.sub(*NUMBER, re.sub(*TIME, type_)) for type_ in bare}  # several: Spark has but text for all of them
    if len(bare) < 2 or (len(kinds) > 1 and not odd):
        return ()
    first = odd[0] if odd else next(iter(bare.values()))
    return first, next(type_ for type_ in bare.values() if type_ != first)


def _bare(type_: str) -> str:
    return type_.removesuffix(TEXT)


def _fields(struct: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names, spelled as in the files from which readers take names, and types."""
    return [(field["name"], _type(field["type"])) for field in struct["fields"]]


def _type(type_: Any) -> str:
    """A type of Spark's JSON in SQL's words, without what does not concern readers: nulls, comments, order by name."""
    if isinstance(type_, str):
        return SQL.get(type_, type_)
    match type_["type"]:
        case "struct":
            return f"struct<{','.join(f'{name}:{inner}' for name, inner in sorted(_fields(type_)))}>"
        case "array":
            return f"array<{_type(type_['elementType'])}>"
        case "map":
            return f"map<{_type(type_['keyType'])},{_type(type_['valueType'])}>"
    return _type(type_["sqlType"])  # a user's own


def _digest(values: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()

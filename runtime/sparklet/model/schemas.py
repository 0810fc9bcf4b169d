"""The schemas of what a shard has written by Spark, as ``AttemptCommit.java`` tells them.

A shard's item has their names, each with one of its files. What is behind a name lies in a file of the run's folder, so
who compares shards compares names. Two schemas of one output have the same name if readers see no difference, or if one
job over all input may have written both (docs/decisions/0075).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

from sparklet.model.shards import SCHEMAS, s3_address

MAX_OUTPUTS = 8  # of a shard
BY_NAME, BY_PLACE = ("parquet", "orc", "avro"), ("csv",)
"""Formats whose readers find columns by name, and know their types; and those without types."""
SQL = {"byte": "tinyint", "short": "smallint", "integer": "int", "long": "bigint"}


class OutputSchema(NamedTuple):
    """The columns of one output."""

    folder: str  # below the shard's; "": that itself
    format: str
    columns: Mapping[str, str]  # types by name; in their order and without types where readers go by place
    partitions: Sequence[str] = ()  # columns that are folders

    @property
    def name(self) -> str:
        """A digest of the output, then one of all."""
        return f"{_digest(self[:2])[:8]}-{_digest([*self[:2], [*self.columns.items()], self.partitions])[:12]}"

    @property
    def file(self) -> str:
        """The file in the run's folder that holds it, as a list in JSON."""
        return f"{SCHEMAS}{self.name}.json"

    def difference(self, other: "OutputSchema") -> str:
        """What the other schema of the same output has instead, in words."""
        mine, theirs = self.columns, other.columns
        found = [
            f"{name} is {mine[name]} and {theirs[name]}" for name in mine if theirs.get(name, mine[name]) != mine[name]
        ]
        for which, these, others in (("first", mine, theirs), ("second", theirs, mine)):
            if only := [f"{name} {type_}".rstrip() for name, type_ in these.items() if name not in others]:
                found.append(f"only the {which} has {', '.join(only)}")
        if self.partitions != other.partitions:
            each = (", ".join(schema.partitions) or "nothing" for schema in (self, other))
            found.append(f"partitions by {' and '.join(each)}")
        return "; ".join(found) or f"columns in the order {', '.join(mine)} and {', '.join(theirs)}"


def output_schemas(written: Mapping[str, str], uris: Sequence[str], folder: str) -> list[tuple[OutputSchema, str]]:
    """The schemas of what lies in a shard's ``folder``, each with one of the files, whose addresses are ``uris``.

    ``written``: by the ids of Spark's write jobs, which are in the files' names, what these have told.
    """
    found = dict[str, tuple[OutputSchema, str]]()
    for job, told in sorted(written.items()):
        format_, columns, output = told.split("\n", 2)
        output = s3_address(output).rstrip("/")
        file = next((uri for uri in uris if job in uri.rpartition("/")[2]), "")
        is_compared = format_ in (*BY_NAME, *BY_PLACE) and ':"void"' not in columns  # a void column has no type yet
        if is_compared and file.startswith(f"{output}/") and output.startswith(folder):
            apart = [unquote(each.partition("=")[0]).lower() for each in file[len(output) + 1 :].split("/")[:-1]]
            own = [(name, type_) for name, type_ in _fields(json.loads(columns)) if name.lower() not in apart]
            typed = dict(sorted(own)) if format_ in BY_NAME else dict.fromkeys((name.lower() for name, _ in own), "")
            schema = OutputSchema(output[len(folder) + 1 :], format_, typed, apart)
            found.setdefault(schema.name, (schema, file[len(folder) + 1 :]))
    outputs = sorted({schema[:2] for schema, _ in found.values()})[:MAX_OUTPUTS]
    return [(schema, file) for schema, file in found.values() if schema[:2] in outputs]


def _fields(struct: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names, as they are spelled in files that tell names to readers, and types."""
    return [(each["name"], _type(each["type"])) for each in struct["fields"]]


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

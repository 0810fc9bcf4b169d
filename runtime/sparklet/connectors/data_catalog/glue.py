"""Glue's Data Catalog: a table's entry, its partitions, and for a run's plan the partitions' objects."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from itertools import repeat
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from sparklet.connectors.data_catalog.conditions import NULL, matching
from sparklet.connectors.data_catalog.entries import NEW_TABLES, SELF_DESCRIBING, Entry, entry_of
from sparklet.job.errors import DatabaseError, TableError

if TYPE_CHECKING:
    from sparklet.model import RunOptions
    from sparklet.ports import ObjectStore

Place = tuple[str, tuple[str, ...]]  # a folder or file, and the values of its partition
# The limits of GetPartitions and BatchCreatePartition in Glue's API reference
PAGE = 1000  # partitions in one answer
PARTITIONS = 100  # that one call adds
# UpdateTable accepts these fields of a table; it refuses others that GetTable returns, such as CreateTime.
FIELDS = ("Name", "Description", "Owner", "Retention", "StorageDescriptor", "PartitionKeys", "Parameters", "TableType")
THREADS = 16
MAX_ENTRY_BYTES = 200_000  # the ledger's item of a run holds 400 kB
REFUSED = {
    "AccessDeniedException": "it needs glue:GetDatabase, glue:GetTable, glue:GetPartitions, and in Lake Formation all "
    "columns; for tables of its own a script has Spark's database default",
    "EntityNotFoundException": "there is none of that name in this account and region",
    "InvalidInputException": "Glue refuses the condition",
}
NOT_FROM_GLUE = ("UnrecognizedClientException", "405")  # the keys, or the endpoint, are another store's
TRIES = 20  # of a change that other shards make at the same time
CONNECT_TIMEOUT_S = 5
_IN_FOLDERS = re.compile(r"[\x00-\x1f\x7f\"#%'*/:=?\\{[\]^]")  # characters that Spark and Hive write as %XX
_HIDDEN = re.compile(r"(^|/)[_.]")  # files and folders that Athena and Spark leave out


class GlueCatalog:
    """The tables of this account and region; ``clients`` has a client ``glue``."""

    def __init__(self, clients: Any) -> None:
        self._clients = clients

    @classmethod
    def of_script(cls) -> GlueCatalog:
        """Return the catalog by boto3's own client, which AWS's platforms have; DatabaseError if it has no region."""
        import boto3
        from botocore.config import Config

        # In a network without a route to Glue the script should not wait for five minutes, which is the default.
        config = Config(connect_timeout=CONNECT_TIMEOUT_S)
        with _own_errors("a script's tables"):
            client = boto3.client("glue", region_name=os.environ.get("AWS_REGION"), config=config)
        return cls(SimpleNamespace(glue=client))

    def partitions(self, name: str, where: str) -> tuple[Entry, list[Place]]:
        """Return a table's entry, and the folders of the partitions that match the condition, with their values.

        The condition is evaluated by Glue, and then by ``matching``, since stand-ins for Glue ignore it. A table
        without partitions is one folder and allows no condition; a Delta or Iceberg table does, for its reader.
        """
        database, _, table = name.partition(".")
        if not table or "." in table:
            raise TableError(f"{name!r} names no table: write DATABASE.TABLE")
        with _own_errors(name):
            document = self._clients.glue.get_table(DatabaseName=database, Name=table)["Table"]
        entry = entry_of(name, document)
        if not entry.keys:
            if where and entry.format not in SELF_DESCRIBING:
                raise TableError(f"the table {name} has no partitions for the condition {where!r}: filter its rows")
            return entry, [(entry.location, ())]
        matching(where, entry.keys, ())  # refuses a wrong condition before Glue gets it
        request = {"DatabaseName": database, "TableName": table, **({"Expression": where} if where else {})}
        pages = self._clients.glue.get_paginator("get_partitions")
        places: list[Place] = []
        with _own_errors(name):
            for page in pages.paginate(**request, ExcludeColumnSchema=True, PaginationConfig={"PageSize": PAGE}):
                places += [_place(entry, document, partition) for partition in page["Partitions"]]
        return entry, [places[number] for number in matching(where, entry.keys, [values for _, values in places])]

    def refuse_missing(self, name: str) -> None:
        """Raise TableError unless the database, or the table DATABASE.TABLE, exists."""
        database, _, table = name.partition(".")
        with _own_errors(name):
            if table:
                self._clients.glue.get_table(DatabaseName=database, Name=table)
            else:
                self._clients.glue.get_database(Name=database)

    def keep_table(
        self, name: str, uri: str, kind: str, columns: Sequence[tuple[str, str]], keys: Sequence[str], *, change: bool
    ) -> None:
        """Create the table of a folder, or add columns to it if ``change``. Shards can do this at the same time.

        TableError if the table exists with another folder, format, keys or types.
        """
        if kind not in NEW_TABLES:
            raise TableError(f"the table {name} cannot be made of {kind}: write {', '.join(NEW_TABLES)}")
        database, _, table = name.lower().partition(".")
        location, types = f"s3://{uri.partition('://')[2].rstrip('/')}/", dict(columns)
        fields: list[Any] = [{"Name": key, "Type": type_} for key, type_ in columns if key not in keys]
        stored: dict[str, Any] = {"Location": location, "Columns": fields}
        stored["InputFormat"], stored["OutputFormat"], serde = NEW_TABLES[kind]
        stored["SerdeInfo"] = {"SerializationLibrary": serde}
        new: dict[str, Any] = {"Name": table, "TableType": "EXTERNAL_TABLE", "Parameters": {"classification": kind}}
        new |= {"StorageDescriptor": stored, "PartitionKeys": [{"Name": key, "Type": types[key]} for key in keys]}
        glue = self._clients.glue
        for _ in range(TRIES):
            # If another shard creates the table after get_table, the next round compares with that shard's table.
            with _own_errors(name), suppress(glue.exceptions.AlreadyExistsException):
                try:
                    document = glue.get_table(DatabaseName=database, Name=table)["Table"]
                except glue.exceptions.EntityNotFoundException:
                    glue.create_table(DatabaseName=database, TableInput=new)
                    return
                entry = entry_of(name, document)
                type_by_column = {column[0]: column[1] for column in (*entry.columns, *entry.keys)}
                reasons = {
                    # Compared without the scheme, since the entry may have s3a://.
                    f"lies in {entry.location}": f"{entry.location.rstrip('/')}/".partition("://")[2] != location[5:],
                    f"has {entry.format}": entry.format != kind,
                    f"has the partitions {entry.keys}": [key for key, _ in entry.keys] != list(keys),
                    "has columns of other types": change
                    and any(type_by_column.get(key, type_.lower()) != type_.lower() for key, type_ in columns),
                }
                if why := next((reason for reason, holds in reasons.items() if holds), ""):
                    raise TableError(f"the table {name} {why}: choose another, delete it, or cast the frame's columns")
                new_fields = [field for field in fields if field["Name"] not in type_by_column]
                if not new_fields or not change:
                    return
                document["StorageDescriptor"]["Columns"] += new_fields
                changed = {key: document[key] for key in FIELDS if document.get(key)}
                # With the version Glue refuses the update if the table has been changed since it was read. Then the
                # next round reads the other change first.
                version = {key: document[key] for key in ("VersionId",) if key in document}
                with suppress(glue.exceptions.ConcurrentModificationException):
                    glue.update_table(DatabaseName=database, TableInput=changed, **version)
                    return
        raise DatabaseError(f"the table {name} was changed by another writer during each try to update it; try again")

    def keep_partitions(self, name: str, keys: Sequence[str], values: Sequence[Sequence[str | None]]) -> None:
        """Add those partitions in the table's folder that the table does not have yet."""
        database, _, table = name.lower().partition(".")
        with _own_errors(name):
            stored = self._clients.glue.get_table(DatabaseName=database, Name=table)["Table"]["StorageDescriptor"]
            partitions = []
            for partition in values:
                # Spark, as Hive, gives nulls and empty texts the same folder.
                texts = [NULL if value in (None, "") else str(value) for value in partition]
                names = (f"{key}={_IN_FOLDERS.sub(_percent_code, text)}/" for key, text in zip(keys, texts))
                location = f"{stored['Location'].rstrip('/')}/{''.join(names)}"
                partitions.append({"Values": texts, "StorageDescriptor": {**stored, "Location": location}})
            for start in range(0, len(partitions), PARTITIONS):
                answer = self._clients.glue.batch_create_partition(
                    DatabaseName=database, TableName=table, PartitionInputList=partitions[start : start + PARTITIONS]
                )
                errors = [error["ErrorDetail"] for error in answer.get("Errors", ())]
                # A partition that exists was added by another shard, or by an earlier attempt.
                if failed := [detail for detail in errors if detail["ErrorCode"] != "AlreadyExistsException"]:
                    raise DatabaseError(f"Glue's catalog has not added all partitions of {name}: {failed[0]}")

    def objects(self, table: str, options: RunOptions, store: ObjectStore) -> tuple[Mapping[str, Any], bytes]:
        """Return a table's entry, and the objects of its partitions as a list in JSON Lines, for a run's plan.

        Names that begin with _ or . are left out, as by Athena and Spark.
        """
        entry, places = self.partitions(table, options.where)
        folders = [f"s3://{folder.partition('://')[2].rstrip('/')}/" for folder, _ in places]
        # A folder is directly before the first folder inside it. The objects of both would be planned twice.
        ordered = sorted(folders)
        remedy = f"give split {entry.split}" if entry.split else "leave split out"
        reasons = {
            f"not all its {entry.format} files are rows; have a script read it, job.table({table!r}, where=…), in a "
            "run over --items such as days": entry.format in SELF_DESCRIBING,
            "not all of it is in S3": not all(re.match("s3[an]?://.", folder) for folder, _ in places),
            "a partition is in the folder of another partition": any(map(str.startswith, ordered[1:], ordered)),
            f"its format is {entry.format}: {remedy}": options.split not in ("", entry.split),
            "it has too many columns": len(json.dumps(entry.columns)) > MAX_ENTRY_BYTES,
        }
        if why := next((reason for reason, holds in reasons.items() if holds), ""):
            raise TableError(f"the table {table} cannot be a run's input: {why}")
        with ThreadPoolExecutor(THREADS) as pool:
            rows = pool.map(_list_rows, repeat(store), folders, (values for _, values in places))
            return asdict(entry), b"".join(rows)


def _percent_code(match: re.Match[str]) -> str:
    return f"%{ord(match[0]):02X}"


def _place(entry: Entry, table: Mapping[str, Any], partition: Mapping[str, Any]) -> Place:
    """Return a partition's folder and values; TableError if the partition cannot be read as the table is."""
    # Glue's answer has no columns (ExcludeColumnSchema): all partitions have the table's columns.
    columns = {"Columns": table["StorageDescriptor"]["Columns"]}
    partition_entry = entry_of(
        entry.name, {**table, "StorageDescriptor": {**partition["StorageDescriptor"], **columns}}
    )
    if replace(partition_entry, location=entry.location) != entry:
        raise TableError(
            f"the partition {partition['Values']} of {entry.name} has another format or other properties than the "
            "table: leave it out by a condition, or repair it"
        )
    return f"{partition_entry.location.rstrip('/')}/", tuple(partition["Values"])


def _list_rows(store: ObjectStore, folder: str, values: tuple[str, ...]) -> bytes:
    """Return the objects of a partition as rows of a list in JSON Lines."""
    rows = []
    for info in store.list(folder):
        # Only names below the folder count: the table's own folder may have such a name.
        if not _HIDDEN.search(info.uri[len(folder) :]):
            row = {"uri": info.uri, "size": info.size_bytes, "etag": info.etag, "partition": values}
            row["last_modified"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(info.modified_s))
            row["storage_class"] = "GLACIER" if info.archived else ""
            rows.append(json.dumps(row).encode() + b"\n")
    return b"".join(rows)


@contextmanager
def _own_errors(name: str) -> Iterator[None]:
    """Raise boto3's errors as TableError or DatabaseError.

    These get no cause, since a shard reports the innermost cause, and boto3's error has no remedy.
    """
    from botocore import exceptions

    unreachable = (
        *(exceptions.EndpointConnectionError, exceptions.ConnectTimeoutError, exceptions.SSLError),
        *(exceptions.ProxyConnectionError, exceptions.NoCredentialsError, exceptions.NoRegionError),
    )
    try:
        yield
    except (exceptions.BotoCoreError, exceptions.ClientError) as error:
        code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
        # A TableError fails the shard at once, since a retry would not help; after a DatabaseError it is tried again.
        if code in REFUSED:
            raise TableError(f"{name} cannot be read in Glue's catalog: {REFUSED[code]}: {error}") from None
        database_error = DatabaseError(f"Glue's catalog gives no answer about {name}: {error}")
        database_error.unreachable = isinstance(error, unreachable) or code in NOT_FROM_GLUE
        raise database_error from None

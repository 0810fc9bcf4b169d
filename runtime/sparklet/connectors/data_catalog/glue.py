"""Glue's Data Catalog: a table's entry, its partitions, and for a run's plan their objects."""

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
from sparklet.connectors.data_catalog.entries import KEPT, MADE, OF_THEIR_OWN, Entry, entry_of
from sparklet.job.errors import DatabaseError, TableError

if TYPE_CHECKING:
    from sparklet.model import RunOptions
    from sparklet.ports import ObjectStore

Place = tuple[str, tuple[str, ...]]  # a folder or file, and the values of its partition
# Glue's own limits of GetPartitions and BatchCreatePartition (its API reference)
PAGE = 1000  # partitions
PARTITIONS = 100  # that one call adds
THREADS = 16
MAX_ENTRY_BYTES = 200_000  # the ledger's item of a run holds 400 kB
REFUSED = {
    "AccessDeniedException": "it needs glue:GetDatabase, glue:GetTable, glue:GetPartitions, and in Lake Formation all "
    "columns; for tables of its own a script has Spark's database default",
    "EntityNotFoundException": "there is none of that name in this account and region",
    "InvalidInputException": "Glue refuses the condition",
}
NOT_GLUES = ("UnrecognizedClientException", "405")  # keys of another store, or its own endpoint
TRIES = 20  # of a change that other shards make, too
CONNECT_TIMEOUT_S = 5
_IN_FOLDERS = re.compile(r"[\x00-\x1f\x7f\"#%'*/:=?\\{[\]^]")  # what Spark and Hive write as %XX
_HIDDEN = re.compile(r"(^|/)[_.]")  # from Athena and Spark


class GlueCatalog:
    """The tables of this account and region; ``clients`` has a client ``glue``."""

    def __init__(self, clients: Any) -> None:
        self._clients = clients

    @classmethod
    def of_script(cls) -> GlueCatalog:
        """With boto3's own client, which every platform of AWS has; DatabaseError if that knows no region."""
        import boto3
        from botocore.config import Config

        # In a network that does not lead to Glue nobody waits for five minutes.
        config = Config(connect_timeout=CONNECT_TIMEOUT_S)
        with _asking("a script's tables"):
            client = boto3.client("glue", region_name=os.environ.get("AWS_REGION"), config=config)
        return cls(SimpleNamespace(glue=client))

    def partitions(self, name: str, where: str) -> tuple[Entry, list[Place]]:
        """A table's entry, and the folders of its partitions that match, with their values.

        ``matching`` looks at them after Glue, whose stand-in ignores conditions. A table without partitions is one
        folder, and takes no condition, unless it is Delta's or Iceberg's, whose readers evaluate it.
        """
        database, _, table = name.partition(".")
        if not table or "." in table:
            raise TableError(f"{name!r} names no table: write DATABASE.TABLE")
        with _asking(name):
            document = self._clients.glue.get_table(DatabaseName=database, Name=table)["Table"]
        entry = entry_of(name, document)
        if not entry.keys:
            if where and entry.format not in OF_THEIR_OWN:
                raise TableError(f"the table {name} has no partitions for the condition {where!r}: filter its rows")
            return entry, [(entry.location, ())]
        matching(where, entry.keys, ())  # refuses a wrong one
        request = {"DatabaseName": database, "TableName": table, **({"Expression": where} if where else {})}
        pages = self._clients.glue.get_paginator("get_partitions")
        places: list[Place] = []
        with _asking(name):
            for page in pages.paginate(**request, ExcludeColumnSchema=True, PaginationConfig={"PageSize": PAGE}):
                places += [_place(entry, document, partition) for partition in page["Partitions"]]
        return entry, [places[number] for number in matching(where, entry.keys, [values for _, values in places])]

    def refuse_missing(self, name: str) -> None:
        """TableError unless there is such a database, or DATABASE.TABLE."""
        database, _, table = name.partition(".")
        with _asking(name):
            if table:
                self._clients.glue.get_table(DatabaseName=database, Name=table)
            else:
                self._clients.glue.get_database(Name=database)

    def keep_table(
        self, name: str, uri: str, kind: str, columns: Sequence[tuple[str, str]], keys: Sequence[str], *, change: bool
    ) -> None:
        """Make a table of a folder, or add columns if ``change``; shards that do it together come to the same.

        TableError if there is a table of another folder, format, keys or types.
        """
        if kind not in MADE:
            raise TableError(f"the table {name} cannot be made of {kind}: write {', '.join(MADE)}")
        database, _, table = name.lower().partition(".")
        location, types = f"s3://{uri.partition('://')[2].rstrip('/')}/", dict(columns)
        fields: list[Any] = [{"Name": key, "Type": type_} for key, type_ in columns if key not in keys]
        stored: dict[str, Any] = {"Location": location, "Columns": fields}
        stored["InputFormat"], stored["OutputFormat"], serde = MADE[kind]
        stored["SerdeInfo"] = {"SerializationLibrary": serde}
        made: dict[str, Any] = {"Name": table, "TableType": "EXTERNAL_TABLE", "Parameters": {"classification": kind}}
        made |= {"StorageDescriptor": stored, "PartitionKeys": [{"Name": key, "Type": types[key]} for key in keys]}
        glue = self._clients.glue
        for _ in range(TRIES):
            # Another shard may make the table after the look: the next round compares with that one.
            with _asking(name), suppress(glue.exceptions.AlreadyExistsException):
                try:
                    document = glue.get_table(DatabaseName=database, Name=table)["Table"]
                except glue.exceptions.EntityNotFoundException:
                    glue.create_table(DatabaseName=database, TableInput=made)
                    return
                entry = entry_of(name, document)
                type_by_column = {column[0]: column[1] for column in (*entry.columns, *entry.keys)}
                reasons = {
                    # Without the scheme, since an entry may say s3a.
                    f"lies in {entry.location}": f"{entry.location.rstrip('/')}/".partition("://")[2] != location[5:],
                    f"has {entry.format}": entry.format != kind,
                    f"has the partitions {entry.keys}": [key for key, _ in entry.keys] != list(keys),
                    "has columns of other types": change
                    and any(type_by_column.get(key, of.lower()) != of.lower() for key, of in columns),
                }
                if why := next((reason for reason, holds in reasons.items() if holds), ""):
                    raise TableError(f"the table {name} {why}: choose another, delete it, or cast the frame's columns")
                more = [field for field in fields if field["Name"] not in type_by_column]
                if not more or not change:
                    return
                document["StorageDescriptor"]["Columns"] += more
                # UpdateTable refuses what GetTable adds, such as CreateTime.
                changed = {key: document[key] for key in KEPT if document.get(key)}
                version = {key: document[key] for key in ("VersionId",) if key in document}  # else another's is lost
                # Somebody has changed the table since: their columns are read before these are added.
                with suppress(glue.exceptions.ConcurrentModificationException):
                    glue.update_table(DatabaseName=database, TableInput=changed, **version)
                    return
        raise DatabaseError(f"the table {name} is changed all the time by others")

    def keep_partitions(self, name: str, keys: Sequence[str], values: Sequence[Sequence[str | None]]) -> None:
        """Add partitions of a table's folder that are not there."""
        database, _, table = name.lower().partition(".")
        with _asking(name):
            stored = self._clients.glue.get_table(DatabaseName=database, Name=table)["Table"]["StorageDescriptor"]
            added = []
            for partition in values:
                # Spark, as Hive, gives nulls and empty texts the same folder.
                texts = [NULL if value in (None, "") else str(value) for value in partition]
                names = (f"{key}={_IN_FOLDERS.sub(_escaped, text)}/" for key, text in zip(keys, texts))
                location = f"{stored['Location'].rstrip('/')}/{''.join(names)}"
                added.append({"Values": texts, "StorageDescriptor": {**stored, "Location": location}})
            for start in range(0, len(added), PARTITIONS):
                answer = self._clients.glue.batch_create_partition(
                    DatabaseName=database, TableName=table, PartitionInputList=added[start : start + PARTITIONS]
                )
                failed = [error["ErrorDetail"] for error in answer.get("Errors", ())]
                # A partition that is there is another shard's, or of an earlier attempt.
                if other := [detail for detail in failed if detail["ErrorCode"] != "AlreadyExistsException"]:
                    raise DatabaseError(f"Glue's catalog has not added all partitions of {name}: {other[0]}")

    def objects(self, table: str, options: RunOptions, store: ObjectStore) -> tuple[Mapping[str, Any], bytes]:
        """A table's entry, and the objects of its partitions as a list in JSON Lines, for a run's plan.

        Names that begin with _ or . are left out, as Athena and Spark do.
        """
        entry, places = self.partitions(table, options.where)
        folders = [f"s3://{folder.partition('://')[2].rstrip('/')}/" for folder, _ in places]
        # Sorted, a folder stands directly before the first that lies in it. Objects of both would be planned twice.
        ordered = sorted(folders)
        remedy = f"give split {entry.split}" if entry.split else "leave split out"
        reasons = {
            f"files of {entry.format} are not its rows; have a script read it, job.table({table!r}, where=…), in a run "
            "over --items such as days": entry.format in OF_THEIR_OWN,
            "not all of it lies in S3": not all(re.match("s3[an]?://.", folder) for folder, _ in places),
            "a partition lies in another one's folder": any(map(str.startswith, ordered[1:], ordered)),
            f"its format is {entry.format}: {remedy}": options.split not in ("", entry.split),
            "it has too many columns": len(json.dumps(entry.columns)) > MAX_ENTRY_BYTES,
        }
        if why := next((reason for reason, holds in reasons.items() if holds), ""):
            raise TableError(f"the table {table} cannot be a run's input: {why}")
        with ThreadPoolExecutor(THREADS) as pool:
            listed = pool.map(_listed, repeat(store), folders, (values for _, values in places))
            return asdict(entry), b"".join(listed)


def _escaped(match: re.Match[str]) -> str:
    return f"%{ord(match[0]):02X}"


def _place(entry: Entry, table: Mapping[str, Any], partition: Mapping[str, Any]) -> Place:
    """A partition's folder and values; TableError if it is not read as the table is."""
    # The answer has no columns (ExcludeColumnSchema): the table's count for all partitions.
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


def _listed(store: ObjectStore, folder: str, values: tuple[str, ...]) -> bytes:
    """The objects of a partition as rows of a list."""
    rows = []
    for info in store.list(folder):
        # Only below the folder: the table's own place may have such a name.
        if not _HIDDEN.search(info.uri[len(folder) :]):
            row = {"uri": info.uri, "size": info.size_bytes, "etag": info.etag, "partition": values}
            row["last_modified"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(info.modified_s))
            row["storage_class"] = "GLACIER" if info.archived else ""
            rows.append(json.dumps(row).encode() + b"\n")
    return b"".join(rows)


@contextmanager
def _asking(name: str) -> Iterator[None]:
    """Raise errors of boto3 as ours alone: of a chain, a shard's cause is the first, which says no remedy."""
    from botocore import exceptions

    unreachable = (
        *(exceptions.EndpointConnectionError, exceptions.ConnectTimeoutError, exceptions.SSLError),
        *(exceptions.ProxyConnectionError, exceptions.NoCredentialsError, exceptions.NoRegionError),
    )
    try:
        yield
    except (exceptions.BotoCoreError, exceptions.ClientError) as error:
        code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
        # A TableError ends the shard at once, as no attempt would do better; a throttled call is tried again.
        if code in REFUSED:
            raise TableError(f"{name} cannot be read in Glue's catalog: {REFUSED[code]}: {error}") from None
        answer = DatabaseError(f"Glue's catalog gives no answer about {name}: {error}")
        answer.unreachable = isinstance(error, unreachable) or code in NOT_GLUES
        raise answer from None

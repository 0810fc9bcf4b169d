"""Which records of a stream a table holds, however the stream was cut into batches.

The records that one writer has committed of one shard (Kinesis), partition (Kafka) or stream (DynamoDB) are a *chain*:
a linked list of files below the table's root. A *link* has the numbers of one commit's records, and the ranges of up to
MAX_RANGES commits before it. A commit of the table sets the number of the last link, and fails if another writer has
set it since. So a table gets rows and their records in one step.

The ranges tell which links have to be read, usually only the last one. They do not replace the numbers: with a
parallelization factor the batches of one shard interleave, and a repeated batch may begin and end at other records.
The messages of a queue are a chain, too, by numbers that begin with their time; every MAX_RANGES commits the links of
old messages are deleted.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Collection, Mapping
from contextlib import closing
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from py4j.protocol import Py4JJavaError

from sparklet.job.commit_ids import KEPT_DAYS, MESSAGES
from sparklet.job.errors import CommitStateUnknownError
from sparklet.job.session import hadoop_path, java_class

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CHAIN = "records/"  # how the names of chains begin
CHANGES = f"{CHAIN}changes"  # a name that all commits which replace rows set, so that each is based on the one before
MAX_RANGES = 100


def committed_records(
    spark: SparkSession, folder: str, name: str, records: Collection[int], table: Any
) -> dict[int, int]:
    """Return the records of a batch that the table already has, each with the number of the link that lists it."""
    record_numbers, link_numbers = frozenset(records), dict[int, int]()
    head = table.find_name(name)
    link_number = head and head[1]
    while link_number is not None:
        link = links_of(spark, folder, link_number)[name]
        for first, last, number in link["ranges"]:
            if first <= max(record_numbers) and last >= min(record_numbers):
                range_records = record_numbers.intersection(accumulate(links_of(spark, folder, number)[name]["steps"]))
                link_numbers.update(dict.fromkeys(range_records, number))
        # Earlier links are read only if they can have a record that is as great as the batch's least one.
        link_number = link["before"] if link["last_before"] >= min(record_numbers) else None
    return link_numbers


def extend(spark: SparkSession, folder: str, records: Mapping[str, Collection[int]], table: Any) -> dict[str, int]:
    """Append a link to each chain, in one new file. Return, by chain, the number that the commit must set in the table.

    Every MAX_RANGES commits of a queue's messages, this also deletes the links of old messages.
    """
    # Each try has its own number: if the answer to a commit is lost, the number in the table shows whose commit it was.
    number = random.getrandbits(60)
    links = {name: _link(spark, folder, name, sorted(records[name]), table.find_name(name), number) for name in records}
    path, file_system = hadoop_path(spark, f"{folder}/{number:015x}.json.gz")
    # The file is written before the commit that sets its number. After a kill in between no chain leads to the file.
    with closing(spark._jvm.java.util.zip.GZIPOutputStream(file_system.create(path))) as stream:
        stream.write(json.dumps(links).encode())
    for name, link in links.items():
        if name.startswith(f"{CHAIN}{MESSAGES}/") and len(link["ranges"]) == 1 and link["before"]:
            # The commit is not made yet, so the previous link, which is the table's present head, must stay.
            _delete_old_links(spark, folder, f"{link['before']:015x}")
    return dict.fromkeys(records, number)


def _delete_old_links(spark: SparkSession, folder: str, head: str) -> None:
    """Delete the links of messages that no queue can deliver any more, except for the chain's head."""
    path, file_system = hadoop_path(spark, folder)
    oldest_ms = 1000 * (time.time() - KEPT_DAYS * 86400)
    for file in file_system.listStatus(path):
        if file.getModificationTime() < oldest_ms and not file.getPath().getName().startswith(head):
            file_system.delete(file.getPath(), False)


def _link(
    spark: SparkSession, folder: str, name: str, records: list[int], head: tuple[str, int] | None, number: int
) -> dict[str, Any]:
    """Return a new link. ``ranges``: for each of up to MAX_RANGES links its first record, last record and number.

    The new link's own range comes last. ``before``: the number of the link with earlier ranges; ``last_before``: the
    greatest record in them. ``steps``: the differences between this link's records.
    """
    link = links_of(spark, folder, head[1])[name] if head else {"ranges": [], "before": None, "last_before": -1}
    if head and len(link["ranges"]) >= MAX_RANGES:
        last = max(link["last_before"], *(last for _, last, _ in link["ranges"]))
        link = {"ranges": [], "before": head[1], "last_before": last}
    steps = [later - earlier for earlier, later in zip([0, *records], records)]  # noqa: B905 - Python 3.9
    return {**link, "ranges": [*link["ranges"], [records[0], records[-1], number]], "steps": steps}


@lru_cache(maxsize=8)
def links_of(spark: SparkSession, folder: str, number: int) -> Any:
    """Return the links of a commit, by chain; they never change."""
    path, file_system = hadoop_path(spark, uri := f"{folder}/{number:015x}.json.gz")
    try:
        with closing(spark._jvm.java.util.zip.GZIPInputStream(file_system.open(path))) as stream:
            return json.loads(spark._jvm.org.apache.commons.io.IOUtils.toString(stream, "UTF-8"))
    except Py4JJavaError as error:
        if java_class(error) != "FileNotFoundException":
            raise
        raise CommitStateUnknownError(f"{uri}, the list of the records that the table has, is gone") from error

"""Which records of a stream a table holds, however the stream was cut into batches.

The records that one writer has committed of one shard (Kinesis), partition (Kafka) or stream (DynamoDB) are a *chain*:
a linked list of files below the table's root. A *link* has the numbers of one commit's records, and the ranges of up to
MAX_RANGES commits before it. A commit of the table sets the number of the last link, and fails if another writer has
set it since. So a table gets rows and their records in one step.

The ranges say which links to read, usually the last one alone. They do not replace the numbers: with a parallelization
factor the batches of one shard interleave, and a repeated batch may begin and end elsewhere. Messages of a queue are a
chain, too, by numbers that begin with their time; every MAX_RANGES commits its oldest links are deleted.
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
CHANGES = f"{CHAIN}changes"  # set by all commits that replace rows, so that each has seen those before it
MAX_RANGES = 100


def found(spark: SparkSession, folder: str, name: str, records: Collection[int], table: Any) -> dict[int, int]:
    """The records of a batch that the table has, each with its link."""
    record_numbers, links, head = frozenset(records), dict[int, int](), table.made(name)
    at = head and head[1]
    while at is not None:
        link = links_of(spark, folder, at)[name]
        for first, last, number in link["ranges"]:
            if first <= max(record_numbers) and last >= min(record_numbers):
                range_records = record_numbers.intersection(accumulate(links_of(spark, folder, number)[name]["steps"]))
                links.update(dict.fromkeys(range_records, number))
        # If no record before this link is as great as the least of the batch, earlier links need not be read.
        at = link["before"] if link["last_before"] >= min(record_numbers) else None
    return links


def extend(spark: SparkSession, folder: str, records: Mapping[str, Collection[int]], table: Any) -> dict[str, int]:
    """Store a link behind the last one of each chain; the names and numbers that the commit must set."""
    # Of this try alone: if the answer to a commit is lost, the number in the table tells whose commit it was.
    number = random.getrandbits(60)
    links = {name: _link(spark, folder, name, sorted(records[name]), table.made(name), number) for name in records}
    path, files = hadoop_path(spark, f"{folder}/{number:015x}.json.gz")
    # Before the commit that points to it: a kill in between leaves a file to which no chain leads.
    with closing(spark._jvm.java.util.zip.GZIPOutputStream(files.create(path))) as stream:
        stream.write(json.dumps(links).encode())
    for name, link in links.items():
        if name.startswith(f"{CHAIN}{MESSAGES}/") and len(link["ranges"]) == 1 and link["before"]:
            # The commit is not made yet, so the table's present head, the link before, must stay.
            _forget(spark, folder, f"{link['before']:015x}")
    return dict.fromkeys(records, number)


def _forget(spark: SparkSession, folder: str, head: str) -> None:
    """Delete a chain's links, but for its head, of messages that no queue can deliver any more."""
    path, files = hadoop_path(spark, folder)
    end_ms = 1000 * (time.time() - KEPT_DAYS * 86400)
    for file in files.listStatus(path):
        if file.getModificationTime() < end_ms and not file.getPath().getName().startswith(head):
            files.delete(file.getPath(), False)


def _link(
    spark: SparkSession, folder: str, name: str, records: list[int], head: tuple[str, int] | None, number: int
) -> dict[str, Any]:
    """``ranges``: first, last and number of links, its own the last; ``before``: the link with those before."""
    link = links_of(spark, folder, head[1])[name] if head else {"ranges": [], "before": None, "last_before": -1}
    if head and len(link["ranges"]) >= MAX_RANGES:
        last = max(link["last_before"], *(last for _, last, _ in link["ranges"]))
        link = {"ranges": [], "before": head[1], "last_before": last}
    steps = [later - earlier for earlier, later in zip([0, *records], records)]  # noqa: B905 - Python 3.9
    return {**link, "ranges": [*link["ranges"], [records[0], records[-1], number]], "steps": steps}


@lru_cache(maxsize=8)
def links_of(spark: SparkSession, folder: str, number: int) -> Any:
    """The links of a commit, by chain; they never change."""
    path, files = hadoop_path(spark, uri := f"{folder}/{number:015x}.json.gz")
    try:
        with closing(spark._jvm.java.util.zip.GZIPInputStream(files.open(path))) as stream:
            return json.loads(spark._jvm.org.apache.commons.io.IOUtils.toString(stream, "UTF-8"))
    except Py4JJavaError as error:
        if java_class(error) != "FileNotFoundException":
            raise
        raise CommitStateUnknownError(f"{uri} is gone, the list of the records that the table has") from error

"""A batch of a stream for a table: which of its records are new to the table, and which rows are made of these."""

from __future__ import annotations

import os
from typing import Any

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession

from sparklet.job.catalogs import catalog_properties, in_table_bucket
from sparklet.job.commit_ids import records_by_chain, records_of
from sparklet.job.errors import TableError
from sparklet.job.fields import JobFields, Table
from sparklet.streams.records import without_records
from sparklet.tables.chains import CHAIN, found
from sparklet.tables.commit import OpenTable, open_table
from sparklet.tables.declaration import CHAINS


class Batch:
    """The records of a job's event, for the writes of one label to one table in the state ``opened``.

    ``new``: by chain, the numbers of the records that the table lacks. ``is_read``: whether ``Job.records`` has left
    out the others, so that the rows are made from ``opened``.
    """

    def __init__(self, job: JobFields, table: Table, label: str, spark: SparkSession) -> None:
        (kind, *_), counted = records_of(job.event) or ("",), records_by_chain(job, label)
        warehouse = job.params.get("warehouse")
        place = catalog_properties(os.environ, warehouse).get("warehouse", "")
        if table.format == "iceberg" and in_table_bucket(place):
            raise TableError(
                f"{table} is in S3 Tables, where Sparklet cannot store which records of a stream it has: name another "
                "catalog, such as glue:s3://BUCKET/FOLDER"
            )
        self.opened: OpenTable = open_table(table, lambda: spark, warehouse)
        self.new: dict[str, tuple[int, ...]] = {}
        self.old, ranges = list[str](), list[str]()
        for chain, (name, numbers) in counted.items():
            chain = f"{CHAIN}{chain}"
            links = found(f"{self.opened.root}/{CHAINS}", chain, numbers, self.opened)
            self.old += [f"{name}:{number}" for number in sorted(links)]
            if new := tuple(sorted(numbers.difference(links))):
                self.new[chain] = new
                ranges.append(f"{name}:{new[0]}-{new[-1]}")
        self.name = f"{kind}/{','.join(ranges)}"  # for people, in the table's history
        self.is_read = self.is_written = False

    def new_rows(self, frame: DataFrame, event: Any, table: Table) -> DataFrame:
        """The rows whose records the table lacks; TableError if rows do not show their records."""
        if not self.new:
            return frame.limit(0)
        try:
            return without_records(frame, event, self.old)
        except AnalysisException as error:
            if self.is_read:
                return frame
            raise TableError(
                f"{table} has {len(self.old)} records of this batch, and rows of aggregates or joins do not show their "
                f"records: read them with job.records(…, table={str(table)!r})"
            ) from error


def batch_of(job: JobFields, table: Table, label: str | None, spark: SparkSession, is_read: bool) -> Batch | None:
    """The batch for a direct write, or for reading what is new; None if the event is no batch that counts.

    TableError if this script has written it to the table already, or has read only what is new to another table.
    """
    if not records_by_chain(job, label or ""):
        return None
    batches, key = job.outcome.batches, (str(table), label or "")
    batch: Batch | None = batches.get(key)
    if batch and batch.is_written:
        raise TableError(f"this script has written the batch to {table} already: give the second write a label")
    if batch and batch.is_read and not is_read:
        return batch
    if not is_read and job.outcome.has_left_out:
        raise TableError(f"the records were read for {' and '.join(name for name, _ in batches)}, not for {table}")
    batch = batches[key] = Batch(job, table, label or "", spark)
    batch.is_read = is_read
    return batch

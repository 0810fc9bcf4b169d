"""A batch of a stream or a queue for a table: the records that the table lacks, and the rows made of them."""

from __future__ import annotations

import os

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession

from sparklet.connectors.streams import without_records
from sparklet.connectors.tables.chains import CHAIN, committed_records
from sparklet.connectors.tables.commit import OpenTable, open_table
from sparklet.connectors.tables.declaration import CHAINS
from sparklet.job.catalogs import catalog_properties, in_table_bucket
from sparklet.job.commit_ids import MESSAGES, failed_numbers, labels, records_by_chain, records_of
from sparklet.job.errors import TableError
from sparklet.job.fields import JobFields, Table


class Batch:
    """The records of a job's event, for the writes of one label to one table in the state ``opened``.

    ``new``: by chain, the numbers of the records that the table lacks. ``old``: the labels of all other records.
    ``is_read``: whether ``Job.records`` has left out the old records, so that the rows are valid only for ``opened``.
    """

    def __init__(self, job: JobFields, table: Table, label: str, spark: SparkSession) -> None:
        (kind, *_), by_chain = records_of(job.event) or ("",), records_by_chain(job, label)
        self.opened: OpenTable = open_table(table, spark)
        self.new: dict[str, tuple[int, ...]] = {}
        self.old, ranges = list[str](), list[str]()
        for chain, (name, numbers) in by_chain.items():
            # A queue's chain has its own folder, since its old links are deleted.
            self.folder = f"{CHAINS}/{chain}" if kind == MESSAGES else CHAINS
            chain = f"{CHAIN}{chain}"
            old = committed_records(spark, f"{self.opened.root}/{self.folder}", chain, numbers, self.opened)
            self.old += labels(job.event, name, old)
            if new := tuple(sorted(numbers.difference(old))):
                self.new[chain] = new
                bounds = (labels(job.event, name, [number])[0].removeprefix(f"{name}:") for number in (new[0], new[-1]))
                ranges.append(f"{name}:{'-'.join(bounds)}")
        self.name = f"{kind}/{','.join(ranges)}"  # for people, in the table's history
        self.is_read = self.is_written = False

    def new_rows(self, frame: DataFrame, job: JobFields, table: Table) -> DataFrame:
        """Return the frame without the rows of records that the table has, or that the script has reported as failed.

        Failed records are also removed from ``new``. TableError if Spark cannot tell which records the rows are made
        of. Then the worker is told which records the table has, and repeats the script without them.
        """
        failed = failed_numbers(job)
        self.new = {
            name: new for name, numbers in self.new.items() if (new := tuple(n for n in numbers if n not in failed))
        }
        if not self.new:
            return frame.limit(0)
        try:
            return without_records(frame, job.event, [*self.old, *labels(job.event, "", failed)])
        except AnalysisException as error:
            if self.is_read or not self.old:  # the script itself leaves out messages that it reports as failed
                return frame
            job.outcome.give("committed", self.old)
            raise TableError(
                f"{table} has {len(self.old)} records of this batch, and rows of aggregates or joins do not show their "
                f"records: read them with job.records(…, table={str(table)!r})"
            ) from error


def batch_of(job: JobFields, table: Table, label: str | None, spark: SparkSession, is_read: bool) -> Batch | None:
    """Return the batch for a direct write, or for reading the records that the table lacks.

    None if the write is identified by a commit id instead. TableError if the table cannot store records, if this script
    has written the batch to it already, or if the script has read only the records that another table lacked.
    """
    if not (by_chain := records_by_chain(job, label or "")):
        return None
    warehouse = catalog_properties(os.environ, job.params.get("warehouse")).get("warehouse", "")
    if table.format == "iceberg" and in_table_bucket(warehouse):
        first_chain, *_ = by_chain
        if len(job.event.get("Records", ())) == 1 and first_chain.startswith(MESSAGES):
            return None  # a single message is identified by its commit's id
        raise TableError(
            f"{table} is in S3 Tables, where Sparklet cannot store which records of a batch it has: name another "
            "catalog, such as glue:s3://BUCKET/FOLDER"
        )
    batches, key = job.outcome.batches, (str(table), label or "")
    batch: Batch | None = batches.get(key)
    if batch and batch.is_written:
        raise TableError(f"this script has written the batch to {table} already: give the second write a label")
    # The rows were made of the records that this state of the table lacked, so the commit must begin with it.
    if batch and batch.is_read and not is_read:
        return batch
    # The script has not read the records that the other table has, but this table may lack them.
    if not is_read and job.outcome.has_left_out:
        raise TableError(f"the records were read for {' and '.join(name for name, _ in batches)}, not for {table}")
    batch = batches[key] = Batch(job, table, label or "", spark)
    batch.is_read = is_read
    return batch

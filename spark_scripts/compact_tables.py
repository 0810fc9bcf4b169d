"""Maintenance: the small files of tables → few large ones. The tables' rows do not change.

Readers and appends to Delta and Iceberg can go on meanwhile; a Hudi table has one writer at a time. For Delta in S3 use
a run: only its commits are safe while others write. ::

    python spark_scripts/compact_tables.py --table delta:s3://bucket/people
    sparklet run spark_scripts/compact_tables.py --items tables.txt …       # a table a line, FORMAT:PLACE
"""

from sparklet.job import Job


def main() -> None:
    """Compact the tables, and answer how many files fewer each has."""
    job = Job.from_args()
    job.answer({table: compact(job, table) for table in job.items or [job.table]})


def compact(job: Job, table: str) -> int:
    """Compact one table; return how many files fewer it has."""
    form, _, place = table.partition(":")
    spark = job.spark()
    if form == "delta":
        [result] = spark.sql(f"OPTIMIZE delta.`{place}`").collect()
        return int(result.metrics.numFilesRemoved) - int(result.metrics.numFilesAdded)
    if form == "iceberg":
        arguments = f"table => '{place}', options => map('min-input-files', '2')"  # Iceberg's default is 5
        [counts] = spark.sql(f"CALL iceberg.system.rewrite_data_files({arguments})").collect()
        return int(counts.rewritten_data_files_count) - int(counts.added_data_files_count)
    count_before = len(spark.read.format("hudi").load(place).inputFiles())
    spark.sql(f"CALL run_clustering(path => '{place}', op => 'scheduleAndExecute')")
    return count_before - len(spark.read.format("hudi").load(place).inputFiles())


if __name__ == "__main__":
    main()

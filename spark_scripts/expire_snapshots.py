"""Maintenance: remove old versions of tables, and delete the files that only those versions use.

Parameter ``days`` (default 7): younger versions can still be read. It must be at least 5: files that a run has staged
are deleted, too, and a run can be committed for four days. ::

    python spark_scripts/expire_snapshots.py --table iceberg:db.people --param days=30
    sparklet run spark_scripts/expire_snapshots.py --items tables.txt …     # a table a line, FORMAT:PLACE

In Iceberg and Hudi tables the script leaves files that no version has ever used, such as files of killed attempts;
docs/guide/tables.md tells what deletes these. In Delta tables it deletes them, and also the files that a run has staged
but not committed: a run that failed so long ago cannot be completed by a redrive.
"""

import hashlib
import time

from sparklet.job import Job, expect

MIN_DAYS = 5


def main() -> None:
    """Remove old versions of the tables, and answer how many files of each were deleted."""
    job = Job.from_args()
    days = int(job.params.get("days", 7))
    expect(days >= MIN_DAYS, f"days is {days}; it must be at least {MIN_DAYS}")
    job.answer({table: expire(job, table, days) for table in job.items or [job.table]})


def expire(job: Job, table: str, days: int) -> int:
    """Clean one table; return how many files were deleted."""
    form, _, place = table.partition(":")
    spark = job.spark()
    if form == "delta":
        # Without this Delta demands seven days.
        spark.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
        command = f"VACUUM delta.`{place}` RETAIN {days * 24} HOURS"
        count = int(spark.sql(f"{command} DRY RUN").count())
        spark.sql(command)
        return count
    if form == "iceberg":
        oldest_kept = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time.time() - days * 24 * 3600))
        arguments = f"table => '{place}', older_than => TIMESTAMP '{oldest_kept}'"
        [counts] = spark.sql(f"CALL iceberg.system.expire_snapshots({arguments})").collect()
        return sum(int(counts[name]) for name in counts.asDict() if name.endswith("files_count"))
    name = f"hudi_{hashlib.sha256(place.encode()).hexdigest()[:8]}"  # the procedure run_clean takes no path
    spark.sql(f"CREATE TABLE IF NOT EXISTS {name} USING hudi LOCATION '{place}'")
    arguments = f"table => '{name}', clean_policy => 'KEEP_LATEST_BY_HOURS', hours_retained => {days * 24}"
    return sum(int(row.total_files_deleted) for row in spark.sql(f"CALL run_clean({arguments})").collect())


if __name__ == "__main__":
    main()

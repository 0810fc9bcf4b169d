"""What table formats take for granted on a cluster and what one machine with small tables wants instead.

One answer for Lambda's workers and for scripts that start Spark themselves on a laptop; see docs/guide/tables.md.
Nothing here is written into a table: another writer, or this one on a cluster, finds the same table.
"""

from __future__ import annotations

SMALL_TABLES = {
    # Delta rebuilds a log's state in 50 partitions (tasks), whatever its size. Four hold the paths of some 100,000
    # files in a heap of 512 MB. Other sources do not know the option.
    "spark.databricks.delta.snapshotPartitions": "4",
}

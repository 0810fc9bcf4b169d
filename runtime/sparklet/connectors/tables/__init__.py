"""Tables of Iceberg, Delta and Hudi: each row exactly once.

The way of a write, module by module:

1. ``staging``: the script's ``job.append`` and its like. ``layout`` finds the table's place and partitions, ``columns``
   fits the frame's columns to the table's; then the format's own writer makes an append's files (for Iceberg in an
   ``iceberg_draft``), or Spark Parquet files that the commit reads.
2. ``declaration``: the write as JSON, in the script's outcome. The run collects the declarations of all shards.
3. ``commit``: the script of the commit run, or a direct commit, makes all writes to a table one ``Commit``.
   ``changes`` reads rows that are written anew, and picks an upsert's last one of each key.
4. The table's format, behind the protocol ``commit.OpenTable`` and chosen by name in ``commit.open_table``: ``iceberg``
   (with ``iceberg_draft`` for all changes), ``delta`` or ``hudi``.

A batch of a stream is known by its records: ``stream_batch`` finds the new ones in a table's ``chains``.
"""

"""Writes to tables of Iceberg, Delta and Hudi, which get each row exactly once.

A write goes through these modules:

1. ``staging``: the script's ``job.append`` and the like. ``layout`` finds the table's location and partitions;
   ``columns`` fits the frame's columns to the table's columns. Then the format's own writer makes the files of an
   append (for Iceberg in an ``iceberg_draft``), or Spark makes Parquet files, whose rows the commit reads.
2. ``declaration``: the write as JSON, in the script's outcome. The run collects the declarations of all shards.
3. ``commit``: the script of the commit run, or a direct commit, makes one ``Commit`` of all writes to a table.
   ``changes`` reads rows that are written anew, and chooses one row for each key of an upsert.
4. The table's format, behind the protocol ``commit.OpenTable`` and chosen by name in ``commit.open_table``: ``iceberg``
   (with ``iceberg_draft`` for all changes), ``delta`` or ``hudi``.

A batch of a stream is identified by the numbers of its records. A table keeps these numbers in ``chains``, where
``stream_batch`` looks up which records the table already has.
"""

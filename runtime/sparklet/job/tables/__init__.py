"""Writes to tables: staged by shards, committed once. See ``docs/tables.md``."""

"""A run's output, and its figures, for scripts that judge or follow it."""

import json
from pathlib import Path

import duckdb


def shards_of(folder: Path, *values: str) -> str:
    """What a run wrote: for each SQL list of rows (id, name) a shard; its output."""
    for number, rows in enumerate(values):
        shard = folder / f"shard={number:06d}"
        shard.mkdir(parents=True)
        table = f"SELECT id, name::VARCHAR AS name FROM (VALUES {rows}) AS t(id, name)"
        duckdb.sql(table).write_parquet(str(shard / "part-0.parquet"))
        (shard / "_SUCCESS").touch()
    return f"file://{folder}"


def figures_of(folder: Path, output: str, rows: int | None) -> Path:
    """The figures of a run, as a worker fetches them."""
    counts = {"pending": 0, "running": 0, "succeeded": 2, "failed": 0, "total": 2}
    file = folder / "00000-summary-0.json"
    file.write_text(json.dumps({"id": "run-1", "output": output, "counts": counts, "rows": rows, "silent_shards": 0}))
    return file

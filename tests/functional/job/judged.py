"""Write the output of a run and its summary, for scripts that check or follow the run."""

import json
from pathlib import Path

import duckdb


def shards_of(folder: Path, *values: str) -> str:
    """Write the output of a run with one shard for each SQL list of rows (id, name); return the output's address."""
    for number, rows in enumerate(values):
        shard = folder / f"shard={number:06d}"
        shard.mkdir(parents=True)
        table = f"SELECT id, name::VARCHAR AS name FROM (VALUES {rows}) AS t(id, name)"
        duckdb.sql(table).write_parquet(str(shard / "part-0.parquet"))
        (shard / "_SUCCESS").touch()
    return f"file://{folder}"


def figures_of(folder: Path, output: str, rows: int | None) -> Path:
    """Write the summary of a run, as a worker fetches it; return the file."""
    counts = {"pending": 0, "running": 0, "succeeded": 2, "failed": 0, "total": 2}
    file = folder / "00000-summary-0.json"
    file.write_text(json.dumps({"id": "run-1", "output": output, "counts": counts, "rows": rows, "silent_shards": 0}))
    return file

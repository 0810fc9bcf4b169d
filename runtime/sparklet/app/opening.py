"""Where a run's result is, and a line that shows it: of DuckDB for local files, else of Spark or pyiceberg."""

from importlib.util import find_spec
from shutil import which

from sparklet.job.catalogs import ICEBERG_CATALOG, catalog_properties
from sparklet.job.fields import Table
from sparklet.model import Run, RunKind, RunState
from sparklet.planning.outputs import published_files
from sparklet.ports.deployment import Deployment

IN_DUCKDB = ("parquet", "csv", "json")  # formats, as Spark and the names of its files have them
FORMATS = (*IN_DUCKDB, "orc", "avro")


def table_text(run: Run) -> str:
    """The run's table, with the catalog that the run names for it; "" without a table."""
    named = _catalog(run) if run.table.startswith("iceberg:") else {}
    location = named.get("uri") or named.get("warehouse")
    return f"{run.table} in the catalog {location}" if location else run.table


def uncommitted_text(deployment: Deployment, run: Run) -> str:
    """What a run that ended without success has committed: nothing, or not all; "" if it succeeded, or has no table."""
    if run.state not in (RunState.FAILED, RunState.CANCELLED) or not run.table or run.table.startswith("parquet:"):
        return ""
    if (commit := deployment.ledger.runs.followers(run).get(RunKind.COMMIT)) is None:
        return "nothing was committed"
    return f"not all was committed: {commit.run_id} was the last commit, it is {commit.state}"


def how_to_open(deployment: Deployment, run: Run, folder: str) -> str:
    """A line that shows what an ended run has written to its table, or to its output ``folder``; "" if nothing."""
    if not run.state.ended:
        return ""
    if run.table and not run.table.startswith("parquet:"):
        return _table(run) if run.state is not RunState.FAILED else ""
    paths = (info.uri.split("/") for _, info in published_files(deployment.store, run) if info.size_bytes)
    name = next((path[-1] for path in paths if not any(part.startswith(("_", ".")) for part in path)), "")
    opened, kind = "", next((kind for kind in FORMATS if f".{kind}" in name), "")
    if kind in IN_DUCKDB and "://" not in folder:
        opened = _duckdb(f"'{folder}/**/*{name[name.rindex(f'.{kind}') :]}'")
    return opened or f'spark.read.format("{kind}").load("{folder}")' if kind else ""


def _table(run: Run) -> str:
    table = Table.parse(run.table)
    if table.format == "iceberg":
        uri = _catalog(run).get("uri", "")
        if not uri.startswith("sqlite:"):
            return f'spark.table("{ICEBERG_CATALOG}.{table.place}")'
        scan = f"load_catalog('it', uri='{uri}').load_table('{table.place}').scan(limit=10).to_arrow()"
        return f'python -c "from pyiceberg.catalog import load_catalog; print({scan})"'
    opened = ""
    if table.format == "delta" and table.place.startswith("file://"):
        opened = _duckdb(f"delta_scan('{table.place.removeprefix('file://')}')")
    return opened or f'spark.read.format("{table.format}").load("{table.place}")'


def _duckdb(source: str) -> str:
    """A line for the DuckDB that is installed here: its command, or its Python package; "" without either."""
    if which("duckdb"):
        return f'duckdb -c "FROM {source} LIMIT 10"'
    return f'python -c "import duckdb; duckdb.sql(\\"FROM {source} LIMIT 10\\").show()"' if find_spec("duckdb") else ""


def _catalog(run: Run) -> dict[str, str]:
    return catalog_properties(run.env, run.params.get("warehouse"))

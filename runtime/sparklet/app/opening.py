"""Shows how other tools read a run's result: statements for Athena, and a command for DuckDB, Spark or pyiceberg.

If the folders of an output name no values (KEY=VALUE), Athena reads all files below the output as one table. Else each
folder is a partition that a statement adds.
"""

import re
from importlib.util import find_spec
from io import BytesIO
from shutil import which
from typing import Any
from urllib.parse import unquote

from sparklet.errors import PlanError
from sparklet.job.catalogs import ICEBERG_CATALOG, catalog_properties
from sparklet.job.fields import Table
from sparklet.model import Run, RunKind, RunState
from sparklet.planning.commit_files import commit_files, tables_in
from sparklet.planning.outputs import published_files
from sparklet.ports import ObjectInfo, ObjectStore
from sparklet.ports.deployment import Deployment

# Formats of files, by Spark's names, which are also the files' suffixes.
DUCKDB_FORMATS = ("parquet", "csv", "json")
FORMATS = (*DUCKDB_FORMATS, "orc", "avro")


def table_text(run: Run) -> str:
    """Return the run's table, with the catalog that the run names for an Iceberg table; "" without a table."""
    catalog = _catalog(run) if run.table.startswith("iceberg:") else {}
    location = catalog.get("uri") or catalog.get("warehouse")
    return f"{run.table} in the catalog {location}" if location else run.table


def uncommitted_text(deployment: Deployment, run: Run) -> str:
    """Return a text on how much a failed or cancelled run has committed; "" for any other run, or without a table."""
    if run.state not in (RunState.FAILED, RunState.CANCELLED) or not run.table or run.table.startswith("parquet:"):
        return ""
    if (commit := deployment.ledger.runs.followers(run).get(RunKind.COMMIT)) is None:
        return "nothing was committed"
    return f"not all was committed: {commit.run_id} was the last commit, it is {commit.state}"


def how_to_open(deployment: Deployment, run: Run, folder: str) -> str:
    """Return a command that shows rows of an ended run's table, or of its output ``folder``.

    "" if the run is open, if it has a table and failed, or if it has written no file in a known format.
    """
    if not run.state.ended:
        return ""
    if run.table and not run.table.startswith("parquet:"):
        return _command_for_table(run) if run.state is not RunState.FAILED else ""
    paths = (info.uri.split("/") for _, info in published_files(deployment.store, run) if info.size_bytes)
    name = next((path[-1] for path in paths if not any(part.startswith(("_", ".")) for part in path)), "")
    file_format = next((file_format for file_format in FORMATS if f".{file_format}" in name), "")
    if not file_format:
        return ""
    command = ""
    if file_format in DUCKDB_FORMATS and "://" not in folder:
        suffix = name[name.rindex(f".{file_format}") :]
        command = _duckdb_command(f"'{folder}/**/*{suffix}'")
    return command or f'spark.read.format("{file_format}").load("{folder}")'


def _command_for_table(run: Run) -> str:
    """Return a command that shows rows of the run's table: for a shell if Python or DuckDB reads it, else for Spark."""
    table = Table.parse(run.table)
    if table.format == "iceberg":
        uri = _catalog(run).get("uri", "")
        if not uri.startswith("sqlite:"):
            return f'spark.table("{ICEBERG_CATALOG}.{table.place}")'
        scan = f"load_catalog('it', uri='{uri}').load_table('{table.place}').scan(limit=10).to_arrow()"
        return f'python -c "from pyiceberg.catalog import load_catalog; print({scan})"'
    command = ""
    if table.format == "delta" and table.place.startswith("file://"):
        command = _duckdb_command(f"delta_scan('{table.place.removeprefix('file://')}')")
    return command or f'spark.read.format("{table.format}").load("{table.place}")'


def _duckdb_command(source: str) -> str:
    """Return a command for the installed DuckDB, its command line or else its Python package; "" without both."""
    if which("duckdb"):
        return f'duckdb -c "FROM {source} LIMIT 10"'
    if find_spec("duckdb"):
        return f'python -c "import duckdb; duckdb.sql(\\"FROM {source} LIMIT 10\\").show()"'
    return ""


def _catalog(run: Run) -> dict[str, str]:
    return catalog_properties(run.env, run.params.get("warehouse"))


MAX_FOOTERS = 500  # columns are read from at most this many files, spread over all
TAIL_BYTES = 64 * 1024  # most footers fit into so many bytes
PARTITIONS_PER_STATEMENT = 100  # a statement for Athena can have 256 KiB
NOTES = {
    "iceberg": "Its commits keep its catalog up to date; Athena reads it there, if that is Glue's or S3 Tables'.",
    "hudi": "Athena reads it once Hudi's own tools have synchronized it with Glue's catalog.",
}
TYPES = {"int8": "tinyint", "int16": "smallint", "int32": "int", "int64": "bigint", "bool": "boolean"}
TYPES |= {"date32[day]": "date", **{name: name for name in ("float", "double", "string", "binary", "timestamp")}}
# Files that Athena and Spark skip, and markers of folders, which have no name.
_HIDDEN = re.compile(r"(.*/)?([_.].*)?")
# The database, if a folder is named DATABASE.db, and the table.
_DELTA = re.compile(r".*?(?:([^/]+)\.db/)?([^/]+)")


def ddl(deployment: Deployment, run: Run, name: str = "") -> list[dict[str, Any]]:
    """Return the statements for each table and for the output of an ended run, or a note why there are none.

    ``name`` is the table's name in Athena, by default from the table's path or the run. PlanError if the run is open or
    has written nothing, if its files do not make one table, or if ``name`` is given and there are several tables.
    """
    if not run.state.ended:
        raise PlanError(f"the run {run.run_id} is {run.state}: wait for its end, since it may still write")
    documents = []
    for table in sorted(tables_in(deployment.store, commit_files(deployment, run)), key=str):
        match = _DELTA.fullmatch(table.place) if table.format == "delta" else None
        table_name = name or ".".join(filter(None, match.groups())) if match else ""
        location = f"LOCATION {_sql_text(f'{table.place}/')}\nTBLPROPERTIES ('table_type'='DELTA')"
        create = f"CREATE EXTERNAL TABLE IF NOT EXISTS {_sql_name(table_name)}\n{location}"
        statements = [create] if match else []
        documents.append({"of": str(table), "note": NOTES.get(table.format, ""), "statements": statements})
    base = f"{run.output_uri.rstrip('/')}/"
    if files := [
        info for _, info in published_files(deployment.store, run) if not _HIDDEN.fullmatch(info.uri[len(base) :])
    ]:
        if other_file := next((info.uri for info in files if not info.uri.endswith(".parquet")), ""):
            raise PlanError(f"the output holds {other_file}; statements can be printed only for Parquet")
        table_name = _sql_name(name or run.name or run.run_id)
        per_input = bool(run.options.output_per)
        statements = _output_statements(deployment.store, base, files, table_name, per_input=per_input)
        has_partitions = len(statements) > 1
        note = "The partitions are this run's: print them for each run, and after a redrive." if has_partitions else ""
        documents.append({"of": base, "note": note, "statements": statements})
    if not documents or (name and len(documents) > 1):
        why = f"has {len(documents)} tables, and --name names one" if documents else "has written no file and no table"
        raise PlanError(f"the run {run.run_id} {why}")
    return documents


def _output_statements(
    store: ObjectStore, base: str, files: list[ObjectInfo], table: str, *, per_input: bool
) -> list[str]:
    """Return the statement that creates the table of an output, then those that add its partitions."""
    example_by_folder = {info.uri[len(base) :].rpartition("/")[0]: info.uri for info in files}
    # The layout of a folder is its path without values: day=1/hour=2 has the layout day=/hour=.
    example_by_layout = {re.sub("=[^/]*", "=", folder): uri for folder, uri in example_by_folder.items()}
    if per_input:  # folders that only have the name of an input's folder are no partitions
        example_by_layout = {"/".join(re.findall("[^/]+=", layout)): uri for layout, uri in example_by_layout.items()}
    if len(example_by_layout) > 1:
        examples = ", ".join([*example_by_layout.values()][:2])
        raise PlanError(f"files in folders of different kinds cannot be one table: {examples}")
    [layout] = example_by_layout
    keys = [unquote(key).lower() for key in re.findall("([^/]+)=", layout)]
    columns = _columns(store, files[:: -(-len(files) // MAX_FOOTERS)])
    create = f"CREATE EXTERNAL TABLE IF NOT EXISTS {table} (\n  "
    create += ",\n  ".join(f"`{name}` {type_name}" for name, type_name in columns.items() if name not in keys) + "\n)\n"
    # Without --output-per the first key is that of the shards' folders, shard=…; alone it makes no partitions.
    is_partitioned = len(keys) > (0 if per_input else 1)
    if is_partitioned:
        create += f"PARTITIONED BY ({', '.join(f'`{key}` string' for key in keys)})\n"
    partitions = []
    for folder in example_by_folder if is_partitioned else ():
        values = (_sql_text(unquote(value)) for value in re.findall("=([^/]*)", folder))
        pairs = ", ".join(f"`{key}`={value}" for key, value in zip(keys, values, strict=True))
        partitions.append(f"  PARTITION ({pairs}) LOCATION {_sql_text(f'{base}{folder}/')}")
    starts = range(0, len(partitions), PARTITIONS_PER_STATEMENT)
    groups = (partitions[start : start + PARTITIONS_PER_STATEMENT] for start in starts)
    alter_statements = ("\n".join([f"ALTER TABLE {table} ADD IF NOT EXISTS", *group]) for group in groups)
    return [f"{create}STORED AS PARQUET\nLOCATION {_sql_text(base)}", *alter_statements]


def _columns(store: ObjectStore, files: list[ObjectInfo]) -> dict[str, str]:
    """Return the columns of all files with their Athena types; PlanError if two files disagree on a column's type."""
    try:
        import pyarrow as pa
    except ImportError:
        raise PlanError(
            "the columns of files are read with pyarrow, which is not installed: pip install 'sparklet[lists]'"
        ) from None
    try:
        schema = pa.unify_schemas([_schema(store, info) for info in files])
    except (pa.ArrowException, OSError) as error:
        raise PlanError(f"the columns of {files[0].uri} and {len(files) - 1} more do not agree: {error}") from error
    # Athena and Glue's catalog know names in lower case only.
    return {column.name.lower(): _type_name(column.type) for column in schema}


def _schema(store: ObjectStore, info: ObjectInfo) -> Any:
    """Read a Parquet file's columns from its footer: pyarrow needs only this part of the file."""
    from pyarrow import parquet

    tail = store.get(info.uri, max(0, info.size_bytes - TAIL_BYTES))
    # The last eight bytes of a Parquet file are the length of its footer, in four bytes, and PAR1.
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if len(tail) < length <= info.size_bytes:
        tail = store.get(info.uri, info.size_bytes - length)
    return parquet.read_schema(BytesIO(tail)).remove_metadata()


def _type_name(arrow_type: Any) -> str:
    """Return the name that Athena and Glue's catalog have for a pyarrow type; PlanError if they have no such type."""
    from pyarrow import types

    if types.is_dictionary(arrow_type):
        return _type_name(arrow_type.value_type)
    if types.is_struct(arrow_type):
        return f"struct<{','.join(f'{field.name}:{_type_name(field.type)}' for field in arrow_type)}>"
    if types.is_map(arrow_type):
        return f"map<{_type_name(arrow_type.key_type)},{_type_name(arrow_type.item_type)}>"
    if types.is_list(arrow_type) or types.is_large_list(arrow_type) or types.is_list_view(arrow_type):
        return f"array<{_type_name(arrow_type.value_type)}>"
    if types.is_decimal(arrow_type):
        return f"decimal({arrow_type.precision},{arrow_type.scale})"
    is_timestamp = types.is_timestamp(arrow_type)
    plain_name = "timestamp" if is_timestamp else str(arrow_type).removeprefix("large_").removesuffix("_view")
    if plain_name not in TYPES:
        raise PlanError(f"Athena has no type for {arrow_type}: cast the column in the script")
    return TYPES[plain_name]


def _sql_name(name: str) -> str:
    """Return ``table`` or ``database.table`` as quoted names of Athena, with _ for other characters."""
    return ".".join(f"`{re.sub('[^A-Za-z0-9_]', '_', part).lower()}`" for part in name.split("."))


def _sql_text(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"

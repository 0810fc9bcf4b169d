"""How others read the result of a run: Athena's statements, and a line for DuckDB, Spark or pyiceberg.

An output whose folders name no values is a table of one folder, below which Athena reads all files. Else each folder is
a partition that a statement adds.
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

IN_DUCKDB = ("parquet", "csv", "json")  # formats, as Spark and the names of its files have them
FORMATS = (*IN_DUCKDB, "orc", "avro")


def table_text(run: Run) -> str:
    """The run's table, with the catalog that the run names for it; "" without a table."""
    named = _catalog(run) if run.table.startswith("iceberg:") else {}
    location = named.get("uri") or named.get("warehouse")
    return f"{run.table} in the catalog {location}" if location else run.table


def uncommitted_text(deployment: Deployment, run: Run) -> str:
    """How much an unsuccessful run has committed, nothing or a part; "" if it succeeded, or has no table."""
    if run.state not in (RunState.FAILED, RunState.CANCELLED) or not run.table or run.table.startswith("parquet:"):
        return ""
    if (commit := deployment.ledger.runs.followers(run).get(RunKind.COMMIT)) is None:
        return "nothing was committed"
    return f"not all was committed: {commit.run_id} was the last commit, it is {commit.state}"


def how_to_open(deployment: Deployment, run: Run, folder: str) -> str:
    """A line to type that shows the rows of an ended run's table, or of its output ``folder``; "" if it wrote none."""
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


MAX_FOOTERS = 500  # files whose columns are read, spread over all
TAIL_BYTES = 64 * 1024  # most footers lie within
PARTITIONS_PER_STATEMENT = 100  # Athena takes 256 KiB a statement
NOTES = {
    "iceberg": "Its commits keep its catalog up to date; Athena reads it there, if that is Glue's or S3 Tables'.",
    "hudi": "Athena reads it once Hudi's own tools have synchronized it with Glue's catalog.",
}
TYPES = {"int8": "tinyint", "int16": "smallint", "int32": "int", "int64": "bigint", "bool": "boolean"}
TYPES |= {"date32[day]": "date", **{name: name for name in ("float", "double", "string", "binary", "timestamp")}}
_HIDDEN = re.compile(r"(.*/)?([_.].*)?")  # from Athena and Spark; and markers of folders
_DELTA = re.compile(r".*?(?:([^/]+)\.db/)?([^/]+)")


def ddl(deployment: Deployment, run: Run, name: str = "") -> list[dict[str, Any]]:
    """The statements for each table and the output of a run that has ended, or a note why there are none.

    PlanError if the run is open or has written nothing, or if its files do not make one table.
    """
    if not run.state.ended:
        raise PlanError(f"the run {run.run_id} is {run.state}: wait for its end, for it may still write")
    documents = []
    for table in sorted(tables_in(deployment.store, commit_files(deployment, run)), key=str):
        match = _DELTA.fullmatch(table.place) if table.format == "delta" else None
        table_name = name or ".".join(filter(None, match.groups())) if match else ""
        location = f"LOCATION {_text(f'{table.place}/')}\nTBLPROPERTIES ('table_type'='DELTA')"
        made = [f"CREATE EXTERNAL TABLE IF NOT EXISTS {_named(table_name)}\n{location}"] if match else []
        documents.append({"of": str(table), "note": NOTES.get(table.format, ""), "statements": made})
    base = f"{run.output_uri.rstrip('/')}/"
    if files := [
        info for _, info in published_files(deployment.store, run) if not _HIDDEN.fullmatch(info.uri[len(base) :])
    ]:
        if other := next((info.uri for info in files if not info.uri.endswith(".parquet")), ""):
            raise PlanError(f"the output holds {other}; there are statements for Parquet alone")
        of_inputs = bool(run.options.output_per)  # their own folders are no partitions
        made = _of_output(deployment.store, base, files, _named(name or run.name or run.run_id), of_inputs=of_inputs)
        note = "The partitions are this run's: print them for each run, and after a redrive." if made[1:] else ""
        documents.append({"of": base, "note": note, "statements": made})
    if not documents or (name and len(documents) > 1):
        why = f"has {len(documents)} tables, and --name names one" if documents else "has written no file and no table"
        raise PlanError(f"the run {run.run_id} {why}")
    return documents


def _of_output(store: ObjectStore, base: str, files: list[ObjectInfo], table: str, *, of_inputs: bool) -> list[str]:
    folders = {info.uri[len(base) :].rpartition("/")[0]: info.uri for info in files}  # with an example each
    kinds = {re.sub("=[^/]*", "=", folder): uri for folder, uri in folders.items()}
    if of_inputs:
        kinds = {"/".join(re.findall("[^/]+=", kind)): uri for kind, uri in kinds.items()}
    if len(kinds) > 1:
        two = ", ".join([*kinds.values()][:2])
        raise PlanError(f"files in folders of different kinds make no table together: {two}")
    by = [unquote(key).lower() for key in re.findall("([^/]+)=", next(iter(kinds)))]
    columns = _columns(store, files[:: -(-len(files) // MAX_FOOTERS)])
    create = f"CREATE EXTERNAL TABLE IF NOT EXISTS {table} (\n  "
    create += ",\n  ".join(f"`{key}` {type_}" for key, type_ in columns.items() if key not in by) + "\n)\n"
    if is_partitioned := len(by) > (not of_inputs):  # else each folder is a shard's
        create += f"PARTITIONED BY ({', '.join(f'`{key}` string' for key in by)})\n"
    added = []
    for folder in folders if is_partitioned else ():
        values = (_text(unquote(value)) for value in re.findall("=([^/]*)", folder))
        named = ", ".join(f"`{key}`={value}" for key, value in zip(by, values, strict=True))
        added.append(f"  PARTITION ({named}) LOCATION {_text(f'{base}{folder}/')}")
    groups = (added[n : n + PARTITIONS_PER_STATEMENT] for n in range(0, len(added), PARTITIONS_PER_STATEMENT))
    adding = ("\n".join([f"ALTER TABLE {table} ADD IF NOT EXISTS", *group]) for group in groups)
    return [f"{create}STORED AS PARQUET\nLOCATION {_text(base)}", *adding]


def _columns(store: ObjectStore, files: list[ObjectInfo]) -> dict[str, str]:
    """The columns of all these files with their types; PlanError if they do not fit each other."""
    try:
        import pyarrow as pa
    except ImportError:
        raise PlanError("the columns of files are read with pyarrow: pip install 'sparklet[lists]'") from None
    try:
        schema = pa.unify_schemas([_schema(store, info) for info in files])
    except (pa.ArrowException, OSError) as error:
        raise PlanError(f"the columns of {files[0].uri} and {len(files) - 1} more do not agree: {error}") from error
    # Athena and Glue's catalog know names in lower case only.
    return {column.name.lower(): _type_name(column.type) for column in schema}


def _schema(store: ObjectStore, info: ObjectInfo) -> Any:
    """A file's columns by its footer, which is all that pyarrow asks for."""
    from pyarrow import parquet

    tail = store.get(info.uri, max(0, info.size_bytes - TAIL_BYTES))
    # A file of Parquet ends with its footer's length, four bytes, and PAR1.
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if len(tail) < length <= info.size_bytes:
        tail = store.get(info.uri, info.size_bytes - length)
    return parquet.read_schema(BytesIO(tail)).remove_metadata()


def _type_name(of: Any) -> str:
    """What Athena and Glue's catalog call a type of pyarrow's; PlanError if they have none."""
    from pyarrow import types

    if types.is_dictionary(of):
        return _type_name(of.value_type)
    if types.is_struct(of):
        return f"struct<{','.join(f'{field.name}:{_type_name(field.type)}' for field in of)}>"
    if types.is_map(of):
        return f"map<{_type_name(of.key_type)},{_type_name(of.item_type)}>"
    if types.is_list(of) or types.is_large_list(of) or types.is_list_view(of):
        return f"array<{_type_name(of.value_type)}>"
    if types.is_decimal(of):
        return f"decimal({of.precision},{of.scale})"
    plain = "timestamp" if types.is_timestamp(of) else str(of).removeprefix("large_").removesuffix("_view")
    if plain not in TYPES:
        raise PlanError(f"Athena has no type for {of}: cast the column in the script")
    return TYPES[plain]


def _named(name: str) -> str:
    """``db.flights``, or ``flights`` in the database that is chosen, as Athena writes it."""
    return ".".join(f"`{re.sub('[^A-Za-z0-9_]', '_', part).lower()}`" for part in name.split("."))


def _text(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"

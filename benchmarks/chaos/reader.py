"""The independent reader: reads a table as somebody does who has never heard of Sparklet.

It runs in .venv-reader (``make reader-venv``), which holds no Sparklet and no Spark, and answers JSON lines:

    {"engine": "duckdb", "format": "delta", "place": "s3://bucket/table"}
    {"engine": "pyiceberg", "format": "iceberg", "place": "db.table", "catalog": "sqlite:////tmp/catalog.db"}

    {"rows": [[1, "a"], …]}    {"rows": null}: there is no table    {"error": "…"}
"""

import importlib
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import urlopen

import duckdb

EXTENSIONS = ("httpfs", "avro", "iceberg", "delta")
S3 = {  # PyIceberg's names, and the environment's
    "endpoint": "AWS_ENDPOINT_URL",
    "access-key-id": "AWS_ACCESS_KEY_ID",
    "secret-access-key": "AWS_SECRET_ACCESS_KEY",
    "session-token": "AWS_SESSION_TOKEN",
    "region": "AWS_REGION",
}
Request = Mapping[str, str]
Rows = list[list[Any]]


def main() -> None:
    """Answer a line for each line."""
    reading: Mapping[tuple[str, str], Callable[[Request], Rows | None]] = {
        ("duckdb", "delta"): Duck().delta,
        ("duckdb", "iceberg"): Duck().iceberg,
        ("delta-rs", "delta"): delta_rs,
        ("pyiceberg", "iceberg"): pyiceberg,
    }
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any]
        try:
            answer = {"rows": reading[request["engine"], request["format"]](request)}
        except Exception as error:  # noqa: BLE001 - whatever an engine raises is its answer
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


class Duck:
    """DuckDB with the extensions that PyPI has; it downloads nothing and remembers nothing of earlier reads."""

    def __init__(self) -> None:
        self._duck = duckdb.connect(config={"autoinstall_known_extensions": False})
        for name in EXTENSIONS:
            package = Path(str(importlib.import_module(f"duckdb_extension_{name}").__file__)).parent
            self._duck.execute(f"LOAD '{package}/extensions/v{duckdb.__version__}/{name}.duckdb_extension'")
        self._duck.execute("SET enable_external_file_cache = false")
        at = urlsplit(os.environ["AWS_ENDPOINT_URL"])
        secret = {
            "key_id": os.environ["AWS_ACCESS_KEY_ID"],
            "secret": os.environ["AWS_SECRET_ACCESS_KEY"],
            "session_token": os.environ["AWS_SESSION_TOKEN"],
            "region": os.environ["AWS_REGION"],
            "endpoint": at.netloc,
            "url_style": "path",
        }
        given = ", ".join(f"{name} '{value}'" for name, value in secret.items())
        self._duck.execute(f"CREATE SECRET (TYPE s3, {given}, use_ssl false)")

    def delta(self, request: Request) -> Rows | None:
        """All rows of a Delta table."""
        if delta_table(request["place"]) is None:
            return None
        return self._rows(f"delta_scan('{request['place']}')")

    def iceberg(self, request: Request) -> Rows | None:
        """All rows of an Iceberg table."""
        metadata = metadata_location(request)
        return None if metadata is None else self._rows(f"iceberg_scan('{metadata}')")

    def _rows(self, table: str) -> Rows:
        return [list(row) for row in self._duck.execute(f"SELECT id, name FROM {table}").fetchall()]


def delta_rs(request: Request) -> Rows | None:
    """All rows of a Delta table, by delta-rs."""
    table = delta_table(request["place"])
    return None if table is None else as_rows(table.to_pyarrow_table(columns=["id", "name"]))


def delta_table(place: str) -> Any:
    """The table; None if there is none."""
    from deltalake import DeltaTable

    options = {"aws_allow_http": "true"}
    return DeltaTable(place, storage_options=options) if DeltaTable.is_deltatable(place, options) else None


def pyiceberg(request: Request) -> Rows | None:
    """All rows of an Iceberg table, by PyIceberg."""
    from pyiceberg.table import StaticTable

    metadata = metadata_location(request)
    if metadata is None:
        return None
    table = StaticTable.from_metadata(metadata, {f"s3.{name}": os.environ[given] for name, given in S3.items()})
    return as_rows(table.scan(selected_fields=("id", "name")).to_arrow())


def as_rows(table: Any) -> Rows:
    """The rows of an Arrow table."""
    return [[row["id"], row["name"]] for row in table.to_pylist()]


def metadata_location(request: Request) -> str | None:
    """Where the catalog says that the table's metadata is now; read by the catalog's own interface, SQL or HTTP."""
    catalog, (namespace, name) = request["catalog"], request["place"].rsplit(".", 1)
    if catalog.startswith("sqlite:///"):
        return _by_sql(catalog.removeprefix("sqlite:///"), namespace, name)
    return _by_http(f"{catalog}/v1/namespaces/{quote(namespace)}/tables/{quote(name)}")


def _by_sql(file: str, namespace: str, name: str) -> str | None:
    if not Path(file).exists():
        return None
    query = "SELECT metadata_location FROM iceberg_tables WHERE table_namespace = ? AND table_name = ?"
    connection = sqlite3.connect(f"file:{quote(file)}?mode=ro", uri=True, timeout=30)
    try:
        found = connection.execute(query, (namespace, name)).fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return None
        raise
    finally:
        connection.close()
    return found and str(found[0])


def _by_http(address: str) -> str | None:
    from urllib.error import HTTPError

    try:
        with urlopen(address, timeout=30) as answer:
            return str(json.load(answer)["metadata-location"])
    except HTTPError as error:
        if error.code == 404:
            return None
        raise


if __name__ == "__main__":
    main()

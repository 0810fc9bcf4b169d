"""Whether commits can write to a run's table, for the plan, which has no JVM: by Iceberg's catalog or Delta's log."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from pyarrow import fs, parquet

from sparklet.connectors.tables.declaration import refuse_delta, refuse_iceberg, refuse_part
from sparklet.job.errors import TableError
from sparklet.job.fields import Table
from sparklet.job.session import s3_environment


def refusal(table: str, warehouse: str) -> str:
    """Why no commit can write to a table of Iceberg or Delta; "" if one can."""
    parsed = Table.parse(table)
    try:
        if parsed.format == "delta":
            _check_delta(parsed)
        elif parsed.format == "iceberg":
            _check_iceberg(parsed, warehouse or None)
    except TableError as error:
        return str(error)
    return ""


def _check_delta(table: Table) -> None:
    """TableError by the newest protocol and metadata in the table's log; without a log there is no table."""
    newest = dict[str, Mapping[str, Any]]()
    for action in _actions(table.place):
        newest = {**action, **newest}
        if newest.keys() >= {"protocol", "metaData"}:
            features = newest["protocol"].get("writerFeatures") or ()
            refuse_delta(table, features, dict(newest["metaData"].get("configuration") or ()))
            return


def _actions(uri: str) -> Iterator[dict[str, Mapping[str, Any]]]:
    """What the files of a Delta log say of protocol and metadata, the newest first."""
    if uri.startswith("s3"):
        endpoint, region = s3_environment(os.environ)
        system, root = fs.S3FileSystem(endpoint_override=endpoint or None, region=region or None), uri.split("://")[1]
    else:
        system, root = fs.LocalFileSystem(), uri.removeprefix("file://")
    names = ("protocol", "metaData")
    files = system.get_file_info(fs.FileSelector(f"{root.rstrip('/')}/_delta_log", allow_not_found=True))
    for path in sorted((file.path for file in files), reverse=True):
        rows: list[dict[str, Any]] = []
        if path.endswith(".json"):
            with system.open_input_stream(path) as stream:
                # Not ``splitlines``: JSON may hold what Unicode has for ends of lines.
                rows = [json.loads(line) for line in stream.read().decode().split("\n") if line]
        elif path.endswith(".parquet"):
            rows = parquet.read_table(path, columns=[*names], filesystem=system).to_pylist()
        for row in rows:
            yield {name: row[name] for name in names if row.get(name)}


def _check_iceberg(table: Table, warehouse: str | None) -> None:
    """TableError if the table has a feature that no commit can respect; a table of another kind is the JVM's matter."""
    from pydantic import ValidationError
    from pyiceberg.exceptions import NoSuchTableError

    from sparklet.connectors.tables.pyiceberg_catalog import load

    catalog = load(warehouse)
    with suppress(ValidationError):
        try:
            metadata = catalog.load_table(table.place).metadata
        except NoSuchTableError:
            refuse_part(table.place, catalog.table_exists)
        else:
            refuse_iceberg(table, metadata.format_version, metadata.properties)

"""Lists as others write them, in every format; S3 Inventories with manifest, checksum and data files."""

import csv
import gzip
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet

from sparklet.ports import ObjectStore

MANIFEST = "s3://lists/inv/data/daily/2026-11-20T01-00Z/manifest.json"
SCHEMA = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag, StorageClass"
Row = Mapping[str, Any]


def written(form: str, rows: Sequence[Any]) -> bytes:
    """A list with these rows: addresses, or columns, None in one where a row has no value."""
    if form == "lines":
        return "\n".join(rows).encode()
    if form == "json":
        return json.dumps(rows).encode()
    if form == "jsonl":
        return "\n".join(map(json.dumps, rows)).encode()
    if form == "csv":
        writer = csv.DictWriter(text := io.StringIO(), [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), sink := io.BytesIO(), row_group_size=2)
    return sink.getvalue()


def inventory_row(key: str, size: int | None = 4, **more: Any) -> dict[str, Any]:
    """A row as S3 Inventory has it."""
    row = {"Bucket": "data", "Key": key, "VersionId": "", "IsLatest": True, "IsDeleteMarker": False, "Size": size}
    modified = datetime(2026, 11, 19, 12, tzinfo=UTC)
    return {**row, "LastModifiedDate": modified, "ETag": f"etag-{key}", "StorageClass": "STANDARD", **more}


def write_inventory(
    store: ObjectStore, form: str, files: Sequence[Sequence[Row]], schema: str = SCHEMA, bucket: str = "lists"
) -> str:
    """Write an inventory with these data files; the address of its manifest."""
    columns = schema.split(", ")
    manifest_uri = MANIFEST.replace("s3://lists/", f"s3://{bucket}/")
    listed = []
    for number, rows in enumerate(files):
        body = data_file(form, rows, columns)
        key = f"inv/data/daily/data/{number}.{'csv.gz' if form == 'CSV' else form.lower()}"
        store.put(f"s3://{bucket}/{key}", body)
        listed.append({"key": key, "size": len(body), "MD5checksum": hashlib.md5(body).hexdigest()})
    manifest = {
        "sourceBucket": "data",
        "destinationBucket": f"arn:aws:s3:::{bucket}",
        "version": "2016-11-30",
        "creationTimestamp": "1795136400000",
        "fileFormat": form,
        "fileSchema": schema if form == "CSV" else "message s3.inventory {}",
        "files": listed,
    }
    write_manifest(store, manifest_uri, manifest)
    return manifest_uri


def write_manifest(store: ObjectStore, uri: str, manifest: Any) -> None:
    body = json.dumps(manifest).encode()
    store.put(uri, body)
    store.put(uri.replace("manifest.json", "manifest.checksum"), f"{hashlib.md5(body).hexdigest()}\n".encode())


def data_file(form: str, rows: Sequence[Row], columns: Sequence[str]) -> bytes:
    """Rows as a data file; keys URL-encoded in CSV, and only there."""
    if form == "CSV":
        text = io.StringIO()
        writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
        for row in rows:
            writer.writerow([_csv_cell(name, row[name]) for name in columns])
        return gzip.compress(text.getvalue().encode())
    types = {"size": pa.int64(), "is_latest": pa.bool_(), "is_delete_marker": pa.bool_()}
    types["last_modified_date"] = pa.timestamp("ms", tz="UTC")
    names = [_snake_case(name) for name in columns]
    schema = pa.schema([(name, types.get(name, pa.string())) for name in names])
    cells = [dict(zip(names, map(row.__getitem__, columns), strict=True)) for row in rows]
    table = pa.Table.from_pylist(cells, schema)
    sink = io.BytesIO()
    if form == "ORC":
        pyarrow.orc.write_table(table, sink, stripe_size=1024, batch_size=8)
    else:
        pyarrow.parquet.write_table(table, sink, row_group_size=3)
    return sink.getvalue()


def _snake_case(name: str) -> str:
    """A column's name as ORC and Parquet have it: ``e_tag`` for ``ETag``."""
    return re.sub(r"\B(?=[A-Z])", "_", name).lower()


def _csv_cell(name: str, value: Any) -> str:
    if name == "Key":
        return quote_plus(value, safe="/")
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

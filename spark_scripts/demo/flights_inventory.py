"""The demo's input with an S3 Inventory: day files in a bucket, a gzipped CSV that lists them, and a manifest.

The files are as in https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html: keys in the
CSV are URL-encoded, the manifest has each data file's MD5, and ``manifest.checksum`` has the manifest's own MD5.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from sparklet.ports import ObjectInfo, ObjectStore

SCHEMA = ("Bucket", "Key", "Size", "LastModifiedDate", "ETag", "StorageClass")
SNAPSHOT = "2014-01-01T01-00Z"
LISTED = "2014-01-01T01:00:00.000Z"  # the inventory's date, and the LastModifiedDate of all objects
EMPTY_DAY = "2013-02-29.csv"  # a day that did not exist: an empty object, which a plan skips and counts


def put_inventory(store: ObjectStore, bucket: str, folder: str, days: Sequence[Path]) -> str:
    """Put the day files, one empty object and an inventory of them into a bucket; return the manifest's address.

    One day is listed twice, as in an inventory that was joined from several configurations.
    """
    for day in days:
        store.upload(day, f"s3://{bucket}/{folder}/flights/{day.name}")
    store.put(f"s3://{bucket}/{folder}/flights/{EMPTY_DAY}", b"")
    objects = list(store.list(f"s3://{bucket}/{folder}/flights/"))
    table = gzip.compress(_table(bucket, [*objects, objects[0]]), mtime=0)
    data_key = f"{folder}/inventory/{bucket}/flights/data/flights.csv.gz"
    store.put(f"s3://{bucket}/{data_key}", table)
    manifest = json.dumps(
        {
            "sourceBucket": bucket,
            "destinationBucket": f"arn:aws:s3:::{bucket}",
            "version": "2016-11-30",
            "creationTimestamp": "1388538000000",
            "fileFormat": "CSV",
            "fileSchema": ", ".join(SCHEMA),
            "files": [{"key": data_key, "size": len(table), "MD5checksum": _md5(table)}],
        }
    ).encode()
    uri = f"s3://{bucket}/{folder}/inventory/{bucket}/flights/{SNAPSHOT}/manifest.json"
    store.put(uri, manifest)
    store.put(uri.removesuffix("json") + "checksum", _md5(manifest).encode())
    return uri


def _table(bucket: str, objects: Sequence[ObjectInfo]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    for each in objects:
        key = each.uri.removeprefix(f"s3://{bucket}/")
        writer.writerow([bucket, quote(key, safe="/"), each.size_bytes, LISTED, each.etag, "STANDARD"])
    return text.getvalue().encode()


def _md5(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()

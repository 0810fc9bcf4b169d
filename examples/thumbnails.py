"""Thumbnails of images in S3, one call an image; a broken image fails alone. ::

    python examples/thumbnails.py s3://bucket/images/ s3://bucket/thumbnails/ --width 64

Images are binary PPM, thumbnails PNG: both fit into a few lines without a library. With Pillow in the worker's image,
``thumbnail`` is ``Image.open(…).thumbnail(…)``.
"""

import argparse
import re
import struct
import zlib

import boto3

from sparklet import Invocation, LambdaExecutor, gather, remote

PPM = re.compile(rb"P6\s+(\d+)\s+(\d+)\s+255\s")


def thumbnail(image: bytes, width: int) -> bytes:
    """A PNG of this width, each of its pixels the mean of those that it stands for."""
    if (header := PPM.match(image)) is None:
        raise ValueError("this is no binary PPM of 8 bits")
    wide, high = int(header[1]), int(header[2])
    pixels = image[header.end() :]
    if len(pixels) != wide * high * 3:
        raise ValueError(f"{wide} × {high} pixels have {wide * high * 3} bytes, not {len(pixels)}")
    step = max(1, wide // width)
    rows = []
    for top in range(0, high - step + 1, step):
        row = bytearray(b"\0")  # no filter
        for left in range(0, wide - step + 1, step):
            lines = [pixels[3 * (y * wide + left) : 3 * (y * wide + left + step)] for y in range(top, top + step)]
            block = b"".join(lines)
            row += bytes(sum(block[colour::3]) // step**2 for colour in range(3))
        rows.append(bytes(row))
    head = struct.pack(">IIBBBBB", (len(rows[0]) - 1) // 3, len(rows), 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in parts)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@remote(memory_mb=512, timeout_s=60)
def make_thumbnail(bucket: str, key: str, target: str, width: int) -> str:
    """Read an image, write its thumbnail; where it is. Twice does no harm."""
    store = boto3.client("s3")
    image = store.get_object(Bucket=bucket, Key=key)["Body"].read()
    to_bucket, _, prefix = target.removeprefix("s3://").partition("/")
    name = f"{prefix}{key.rpartition('/')[2]}.png"
    store.put_object(Bucket=to_bucket, Key=name, Body=thumbnail(image, width), ContentType="image/png")
    return f"s3://{to_bucket}/{name}"


def main() -> None:
    """Read the arguments, print what became of each image."""
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--backend", default="processes")
    given = parser.parse_args()
    bucket, _, prefix = given.source.removeprefix("s3://").partition("/")
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
    with LambdaExecutor(given.backend, codec="cloudpickle"):
        ends = gather(Invocation(make_thumbnail, (bucket, key, given.target, given.width)) for key in keys)
    for key, end in zip(keys, ends, strict=True):
        print(f"{key}: {f'failed: {end}' if isinstance(end, BaseException) else end}")


if __name__ == "__main__":
    main()

"""A Python program that uses the local stack for runs, scripts and the examples with S3; prints one JSON document.

python from_python.py INPUT_FOLDER OUTPUT_FOLDER SCRIPT REPAIRED_SCRIPT
"""

import contextlib
import io
import json
import sys
from collections.abc import Callable
from typing import Any

import boto3

from examples import spark_per_partition, thumbnails
from sparklet import RunFailedError, Stack


def printed(main: Callable[[], None], *arguments: str) -> list[str]:
    """The lines that an example prints."""
    sys.argv = ["example", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        main()
    return sorted(output.getvalue().splitlines())


def main(folder: str, output: str, script: str, repaired: str) -> dict[str, Any]:
    """Do everything; return the results by name."""
    found: dict[str, Any] = {}
    with Stack(workers=1, quiet=True) as stack:
        bucket, store = stack.opened.deployment.bucket, boto3.client("s3")
        for key, body in {
            "sales/day=1/a.csv": b"a,b\n1,2\n3,4\n",
            "sales/day=2/a.csv": b"a,b\n5,6\n",
            "sales/day=3/a.csv": b"a,b\n7,8,9,10\n",  # does not fit its header
            "images/grey.ppm": b"P6 2 2 255\n" + bytes([7] * 12),
            "images/broken.ppm": b"P6 2 2 255\n",
        }.items():
            store.put_object(Bucket=bucket, Key=key, Body=body)
        root = f"s3://{bucket}/"
        found["thumbnails"] = printed(thumbnails.main, f"{root}images/", f"{root}small/", "--width", "1")
        found["partitions"] = printed(spark_per_partition.main, f"{root}sales/", f"{root}clean/")
        listed = store.list_objects_v2(Bucket=bucket, Prefix="clean/")["Contents"]
        found["written"] = sorted({each["Key"].split("/")[1] for each in listed if each["Key"].endswith(".parquet")})
        found["png"] = store.get_object(Bucket=bucket, Key="small/grey.ppm.png")["Body"].read()[:8].hex()

        run = stack.run(script, folder, output, max_objects=1, params={"fail_on": "001.csv"}, max_attempts=1)
        found["started"] = run.status()["shards"]["total"]
        try:
            run.result()
        except RunFailedError as error:
            found["failed"] = error.document["shards"]
        (cause,) = run.failures()
        found["cause"] = [cause["count"], cause["example_file"]]
        found["redriven"] = run.redrive(cause="to my taste", script=repaired).result()["shards"]
        found["run_id"] = run.run_id
    return found


if __name__ == "__main__":
    json.dump(main(*sys.argv[1:]), sys.stdout)

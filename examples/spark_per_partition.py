"""A Spark job for each partition of a folder in S3, all at once; a partition that fails fails alone. ::

    python examples/spark_per_partition.py s3://bucket/sales/ s3://bucket/clean/ --stack sparklet

Partitions are its folders, such as ``day=2026-11-20/``. Without ``--stack`` the local stack does the work. Over many
partitions a run does this with less (``sparklet.run(…, group_by=…)``): it keeps account of them across crashes.
"""

import argparse
from concurrent.futures import as_completed
from pathlib import Path

import boto3

from sparklet import Stack

SCRIPT = Path(__file__).parents[1] / "spark_scripts" / "csv_to_parquet.py"


def partitions(folder: str) -> list[str]:
    """The names of a folder's folders."""
    bucket, _, prefix = folder.removeprefix("s3://").partition("/")
    pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
    return [found["Prefix"].removeprefix(prefix) for page in pages for found in page.get("CommonPrefixes", ())]


def main() -> None:
    """Read the arguments, print what became of each partition."""
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--stack", default="")
    given = parser.parse_args()
    with Stack(given.stack) as stack:
        jobs = {
            stack.submit_script(
                SCRIPT, {"input_path": f"{given.source}{name}", "output_path": f"{given.target}{name}"}
            ): name
            for name in partitions(given.source)
        }
        for job in as_completed(jobs):
            error = job.exception()
            print(f"{jobs[job]} failed: {error}" if error else f"{jobs[job]} done")


if __name__ == "__main__":
    main()

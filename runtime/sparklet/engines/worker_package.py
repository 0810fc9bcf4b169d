"""The worker as a zip for EMR Serverless, EMR and Glue: Sparklet, boto3 and boto3's dependencies, all plain Python.

Not every platform's Python has boto3. botocore's descriptions of all services take 100 MB; the zip has those that a
worker may call, and ``job.table`` of a script where the platform has none. The same sources give the same bytes.
"""

import hashlib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

from sparklet.engines.on_platform import DEPENDENCIES
from sparklet.job.bundle import packed
from sparklet.ports import ObjectStore
from sparklet.ports.deployment import put_once

PACKAGES = ("sparklet", "boto3", "botocore", "dateutil", "jmespath", "s3transfer", "six", "urllib3")
SERVICES = ("dynamodb", "glue", "s3", "secretsmanager", "sqs", "ssm", "sts")
PROGRAM, PACKAGE = "on_platform.py", "sparklet-worker.zip"
FOLDER = "engines"  # of the stack's bucket


def store_worker(store: ObjectStore, bucket: str) -> tuple[str, str]:
    """The addresses of program and package in the bucket, where they are stored once."""
    program, package = files()
    # The folder is named by the digest, so a package that a running job uses is never replaced.
    digest = hashlib.sha256(program + package).hexdigest()[:16]
    uris = tuple(f"s3://{bucket}/{FOLDER}/{digest}/{name}" for name in (PROGRAM, PACKAGE))
    put_once(store, *zip(uris, (program, package), strict=True))
    return uris[0], uris[1]


@cache
def files() -> tuple[bytes, bytes]:
    """The bytes of program and package."""
    every = (named_path for name in PACKAGES for named_path in _package(name))
    path_by_name = {name if name.startswith("sparklet/") else f"{DEPENDENCIES}/{name}": path for name, path in every}
    return path_by_name[f"sparklet/engines/{PROGRAM}"].read_bytes(), packed(path_by_name)


def _package(name: str) -> Iterator[tuple[str, Path]]:
    """The files of a package or module, with their names in the zip."""
    first = Path(str(import_module(name).__file__))
    if first.name != "__init__.py":
        yield first.name, first
        return
    described = (f"data/{service}/**/*.json*" for service in SERVICES)
    for pattern in ("**/*.py", "**/*.java", "*.pem", "data/*.json*", *described):
        for path in first.parent.glob(pattern):
            yield path.relative_to(first.parents[1]).as_posix(), path

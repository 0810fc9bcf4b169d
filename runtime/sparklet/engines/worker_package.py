"""The worker as a zip for EMR Serverless, EMR and Glue: Sparklet, boto3 and boto3's dependencies, all plain Python.

Not every platform's Python has boto3. botocore's descriptions of all services take 100 MB, so the zip has only those
of the services that a worker, or ``job.table`` in a script, may call. The same sources give the same bytes.
"""

import hashlib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from itertools import chain
from pathlib import Path

from sparklet.engines.on_platform import DEPENDENCIES
from sparklet.job.bundle import packed
from sparklet.ports import ObjectStore
from sparklet.ports.deployment import put_once

PACKAGES = ("sparklet", "boto3", "botocore", "dateutil", "jmespath", "s3transfer", "six", "urllib3")
SERVICES = ("dynamodb", "glue", "s3", "secretsmanager", "sqs", "ssm", "sts")
PROGRAM, PACKAGE = "on_platform.py", "sparklet-worker.zip"
FOLDER = "engines"  # in the stack's bucket


def store_worker(store: ObjectStore, bucket: str) -> tuple[str, str]:
    """Store the worker's program and package in the bucket, once; return their addresses."""
    program, package = files()
    # The folder's name is a digest, so that a package that a running job uses is never replaced.
    digest = hashlib.sha256(program + package).hexdigest()[:16]
    uris = tuple(f"s3://{bucket}/{FOLDER}/{digest}/{name}" for name in (PROGRAM, PACKAGE))
    put_once(store, *zip(uris, (program, package), strict=True))
    return uris[0], uris[1]


@cache
def files() -> tuple[bytes, bytes]:
    """The bytes of the program, and those of the package."""
    all_files = chain.from_iterable(map(_package_files, PACKAGES))
    path_by_name = {
        name if name.startswith("sparklet/") else f"{DEPENDENCIES}/{name}": path for name, path in all_files
    }
    return path_by_name[f"sparklet/engines/{PROGRAM}"].read_bytes(), packed(path_by_name)


def _package_files(name: str) -> Iterator[tuple[str, Path]]:
    """The files of a package or module: their names in the zip, and their paths."""
    module_file = Path(str(import_module(name).__file__))
    if module_file.name != "__init__.py":
        yield module_file.name, module_file
        return
    descriptions = (f"data/{service}/**/*.json*" for service in SERVICES)
    for pattern in ("**/*.py", "**/*.java", "*.pem", "data/*.json*", *descriptions):
        for path in module_file.parent.glob(pattern):
            yield path.relative_to(module_file.parents[1]).as_posix(), path

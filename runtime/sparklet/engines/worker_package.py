"""The worker as a zip for Spark's platforms: Sparklet, boto3 and what that needs, all of it plain Python.

Not every platform's Python has boto3. botocore's descriptions of services are 100 MB, so only those come that a worker
may need. The same sources give the same bytes.
"""

import hashlib
import io
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path

from sparklet.errors import ObjectChangedError
from sparklet.job.bundle import write_zip
from sparklet.ports import ObjectStore

PACKAGES = ("sparklet", "boto3", "botocore", "dateutil", "jmespath", "s3transfer", "six", "urllib3")
SERVICES = ("dynamodb", "s3", "secretsmanager", "sqs", "ssm", "sts")
PROGRAM, PACKAGE = "on_platform.py", "sparklet-worker.zip"
FOLDER = "engines"  # of the stack's bucket


def stored(store: ObjectStore, bucket: str) -> tuple[str, str]:
    """The addresses of program and package in the bucket; they are put there unless they are there."""
    program, package = files()
    digest = hashlib.sha256(program + package).hexdigest()[:16]
    uris = tuple(f"s3://{bucket}/{FOLDER}/{digest}/{name}" for name in (PROGRAM, PACKAGE))
    for uri, content in zip(uris, (program, package), strict=True):
        with suppress(ObjectChangedError):
            store.put(uri, content, create_only=True)
    return uris[0], uris[1]


@cache
def files() -> tuple[bytes, bytes]:
    """Program and package."""
    found = dict(each for name in PACKAGES for each in _package(name))
    buffer = io.BytesIO()
    write_zip(buffer, {name: found[name].read_bytes() for name in sorted(found)})
    return found[f"sparklet/engines/{PROGRAM}"].read_bytes(), buffer.getvalue()


def _package(name: str) -> Iterator[tuple[str, Path]]:
    """The files of a package or module by their names in the zip."""
    first = Path(str(import_module(name).__file__))
    if first.name != "__init__.py":
        yield first.name, first
        return
    described = (f"data/{service}/**/*.json*" for service in SERVICES)
    for pattern in ("**/*.py", "**/*.java", "*.pem", "data/*.json*", *described):
        for path in first.parent.glob(pattern):
            yield path.relative_to(first.parents[1]).as_posix(), path

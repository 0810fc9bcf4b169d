"""The worker as a zip for Spark's platforms: Sparklet, boto3 and what that needs, all of it plain Python.

Not every platform's Python has boto3. botocore's descriptions of services are 100 MB, so only those come that a worker
may need. The same sources give the same bytes.
"""

import hashlib
import io
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import sparklet
from sparklet.errors import ObjectChangedError
from sparklet.job.bundle import write_zip
from sparklet.ports import ObjectStore

LIBRARIES = ("boto3", "botocore", "dateutil", "jmespath", "s3transfer", "six", "urllib3")
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
    root = Path(sparklet.__file__).parent
    own = (path for pattern in ("*.py", "*.java") for path in root.rglob(pattern))
    found = [(path.relative_to(root.parent).as_posix(), path) for path in own]
    found += [each for name in LIBRARIES for each in _library(name)]
    buffer = io.BytesIO()
    write_zip(buffer, {name: path.read_bytes() for name, path in sorted(found)})
    return (root / "worker" / PROGRAM).read_bytes(), buffer.getvalue()


def _library(name: str) -> Iterator[tuple[str, Path]]:
    """The files of an installed library by their names in the zip."""
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    first = Path(spec.origin)
    if first.name != "__init__.py":
        yield first.name, first
        return
    described = (f"data/{service}/**/*.json*" for service in SERVICES)
    for pattern in ("**/*.py", "*.pem", "data/*.json*", *described):
        for path in first.parent.glob(pattern):
            yield path.relative_to(first.parents[1]).as_posix(), path

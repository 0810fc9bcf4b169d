"""Objects in Amazon S3."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparklet.aws.clients import AwsClients
from sparklet.errors import ObjectChangedError, ObjectForbiddenError, ObjectNotFoundError, ObjectStoreError
from sparklet.ports import ObjectInfo
from sparklet.s3_uri import split_uri

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

CHUNK_BYTES = 1024 * 1024
CREATE_TRIES = 4


class S3Store:
    """An ``ObjectStore`` in S3.

    Parameters
    ----------
    clients
        Where its client comes from.
    """

    def __init__(self, clients: AwsClients) -> None:
        self._clients = clients

    def list(self, prefix_uri: str, start_after: str = "") -> Iterator[ObjectInfo]:
        """All objects below a prefix in key order, 1,000 a request.

        botocore asks for URL-encoded keys, since XML holds not every character, and decodes them again.
        """
        bucket, prefix = split_uri(prefix_uri)
        with _faults(prefix_uri):
            pages = self._clients.s3.get_paginator("list_objects_v2").paginate(
                Bucket=bucket, Prefix=prefix, StartAfter=start_after
            )
            for page in pages:
                for found in page.get("Contents", ()):
                    yield ObjectInfo(
                        f"s3://{bucket}/{found['Key']}",
                        found["Size"],
                        found["ETag"].strip('"'),
                        found["LastModified"].timestamp(),
                    )

    def head(self, uri: str) -> ObjectInfo:
        """Size and ETag of an object."""
        with _faults(uri):
            found = self._clients.s3.head_object(**_place(uri))
            return ObjectInfo(uri, found["ContentLength"], found["ETag"].strip('"'), found["LastModified"].timestamp())

    def get(self, uri: str, offset: int = 0, length: int | None = None, etag: str = "") -> bytes:
        """An object's bytes, or a range; a range that begins behind the end is empty."""
        request = {**_place(uri), **_match(etag)}
        if length == 0:
            self.head(uri)
            return b""
        if offset or length is not None:
            request["Range"] = f"bytes={offset}-{'' if length is None else offset + length - 1}"
        from botocore.exceptions import ClientError

        with _faults(uri):
            try:
                return self._clients.s3.get_object(**request)["Body"].read()
            except ClientError as error:
                if _code(error) == "InvalidRange":
                    return b""
                raise

    def put(self, uri: str, body: bytes, create_only: bool = False) -> str:
        """Write an object; its ETag."""
        if create_only:
            return self._create(uri, body)
        with _faults(uri):
            return self._clients.s3.put_object(**_place(uri), Body=body)["ETag"].strip('"')

    def _create(self, uri: str, body: bytes) -> str:
        """Write an object that is not there yet.

        A refusal after a try whose answer was lost may be due to that try: then the object is mine if it holds
        my bytes. A conflict (409) means that another writer is at work just now: once more, to see who was first.
        """
        from botocore.exceptions import ClientError

        with _faults(uri):
            for _ in range(CREATE_TRIES):
                try:
                    return self._clients.s3.put_object(**_place(uri), Body=body, IfNoneMatch="*")["ETag"].strip('"')
                except ClientError as error:
                    if _code(error) == "ConditionalRequestConflict":
                        continue
                    tried_again = error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
                    if tried_again and _code(error) == "PreconditionFailed" and self.get(uri) == body:
                        return self.head(uri).etag
                    raise
            raise ObjectChangedError(f"{uri} is being written by others, {CREATE_TRIES} tries met them")

    def download(self, uri: str, path: Path, etag: str = "") -> None:
        """Write an object to a file; the file appears whole or not at all."""
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        try:
            with _faults(uri), partial.open("xb") as file:
                body = self._clients.s3.get_object(**_place(uri), **_match(etag))["Body"]
                for chunk in body.iter_chunks(CHUNK_BYTES):
                    file.write(chunk)
            partial.replace(path)
        except OSError as error:
            raise ObjectStoreError(f"{uri} could not be written to {path}: {error}") from error
        finally:
            partial.unlink(missing_ok=True)

    def upload(self, path: Path, uri: str) -> None:
        """Write a file to an object, in parts if it is large."""
        from boto3.exceptions import S3UploadFailedError
        from botocore.exceptions import ClientError

        bucket, key = split_uri(uri)
        with _faults(uri):
            try:
                self._clients.s3.upload_file(os.fspath(path), bucket, key)
            except S3UploadFailedError as error:
                if isinstance(error.__context__, ClientError):
                    raise _named(uri, error.__context__) from error
                raise
            except OSError as error:
                raise ObjectStoreError(f"{path} could not be read for {uri}: {error}") from error

    def delete(self, uri: str) -> None:
        """Delete an object; nothing happens if it is not there."""
        with _faults(uri):
            self._clients.s3.delete_object(**_place(uri))


def _place(uri: str) -> dict[str, Any]:
    bucket, key = split_uri(uri)
    return {"Bucket": bucket, "Key": key}


def _match(etag: str) -> dict[str, Any]:
    return {"IfMatch": f'"{etag}"'} if etag else {}


@contextmanager
def _faults(uri: str) -> Iterator[None]:
    """Turn botocore's errors into ours, which name the object."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        raise _named(uri, error) from error
    except (BotoCoreError, Boto3Error) as error:
        raise ObjectStoreError(f"{uri}: S3 could not be used: {error}") from error


def _named(uri: str, error: "ClientError") -> ObjectStoreError:
    code = _code(error)
    if code in ("404", "NoSuchKey", "NotFound"):
        return ObjectNotFoundError(f"{uri} is not there")
    if code == "NoSuchBucket":
        return ObjectNotFoundError(f"{uri}: there is no bucket {split_uri(uri)[0]}")
    if code in ("403", "AccessDenied", "AllAccessDisabled"):
        return ObjectForbiddenError(
            f"{uri} may not be accessed with these credentials, or is not there: "
            "S3 says which only to those who may list the bucket"
        )
    if code in ("412", "PreconditionFailed"):
        return ObjectChangedError(f"{uri} was replaced, or is there already: it has not the ETag that was asked for")
    return ObjectStoreError(f"{uri}: S3 answered {code}: {error}")


def _code(error: "ClientError") -> str:
    return error.response["Error"].get("Code", "")

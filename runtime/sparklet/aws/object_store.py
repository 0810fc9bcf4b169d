"""Objects in Amazon S3.

A listing has its pages in the order of keys. One page names the next, so a million objects would be a thousand
requests in a row: the first pages of many folders are asked for side by side.
"""

import os
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, suppress
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sparklet.aws.clients import (
    FORBIDDEN,
    WRITES,
    WRONG_KEYS,
    AwsClients,
    error_code,
    explained,
    failing_with,
    in_parallel,
)
from sparklet.errors import ObjectChangedError, ObjectForbiddenError, ObjectNotFoundError, ObjectStoreError
from sparklet.model import Access, split_uri
from sparklet.ports import ObjectInfo, only_within

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

MANY_KEYS = 4000  # of a prefix, in a row
MIN_KEYS_A_FOLDER = 500  # a page each would be dear for folders of less
FOLDERS_AHEAD = 8  # pages in memory
MANY_FOLDERS = 16  # whose keys show how many the others have

Page = Mapping[str, Any]


class Lister(Protocol):
    """One request for the keys below a prefix."""

    def __call__(self, prefix: str, start_after: str = "", **more: Any) -> Page:
        """The answer of ListObjectsV2."""


def pages(lister: Lister, prefix: str, start_after: str = "", page: Page | None = None) -> Iterator[Page]:
    """All pages of a prefix; ``page``: its first, if it is there already."""
    keys, folders, last = 0, set[str](), start_after
    page = page or lister(prefix, start_after)
    while True:
        yield page
        if not page.get("IsTruncated"):
            return
        names = [entry["Key"] for entry in page.get("Contents", ())]
        keys, last = keys + len(names), _last_key(page) or last
        folders.update(name[: name.find("/", len(prefix)) + 1] for name in names)  # "": in the prefix itself
        if keys < max(MANY_KEYS, MIN_KEYS_A_FOLDER * len(folders)) or "" in folders:
            page = lister(prefix, ContinuationToken=page["NextContinuationToken"])
            continue
        small_after = yield from _by_folders(lister, prefix, last)
        if not small_after:
            return
        keys, folders, page = 0, set(), lister(prefix, small_after)


def _by_folders(lister: Lister, prefix: str, last: str) -> Generator[Page, None, str]:
    """The pages after the key ``last``, listing folders in parallel; returns the last key if the folders are small."""
    # Not by the delimiter: servers differ in whether they name a folder that the listing starts within.
    for page in pages(lister, last[: last.index("/", len(prefix)) + 1], last):
        last = _last_key(page) or last
        yield page
    keys, folders, parts = 0, 0, _parts(lister, prefix, last)
    first_pages = in_parallel(lambda part: (part[0], part[1] or lister(part[0])), parts, FOLDERS_AHEAD, ahead=1)
    # A caller may stop before the end: closing ends the threads that ask ahead.
    with closing(first_pages):
        for name, first in first_pages:
            for page in pages(lister, name, page=first):
                keys, last = keys + len(page.get("Contents", ())), _last_key(page) or last
                yield page
            folders += name.endswith("/")
            if folders >= MANY_FOLDERS and keys < MIN_KEYS_A_FOLDER * folders:
                return last
    return ""


def _last_key(page: Page) -> str:
    return page["Contents"][-1]["Key"] if page.get("Contents") else ""


def _parts(lister: Lister, prefix: str, start_after: str) -> Iterator[tuple[str, Page | None]]:
    """The folders and files directly in a prefix, after a key; a file comes with its own page."""
    page = lister(prefix, start_after, Delimiter="/")
    while True:
        names = (folder["Prefix"] for folder in page.get("CommonPrefixes", ()))
        parts: dict[str, Page | None] = {name: None for name in names if not start_after.startswith(name)}
        parts |= {entry["Key"]: {"Contents": [entry]} for entry in page.get("Contents", ())}
        # S3 answers folders and keys in two lists, each in order by itself.
        yield from sorted(parts.items(), key=lambda part: part[0])
        if not page.get("IsTruncated"):
            return
        page = lister(prefix, Delimiter="/", ContinuationToken=page["NextContinuationToken"])


ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})  # GLACIER_IR is read like any other
RESTORED: Sequence[Literal["RestoreStatus"]] = ["RestoreStatus"]
CHUNK_BYTES = 1024 * 1024
CREATE_TRIES = 4
MAX_ONE_COPY_BYTES = 256 * 1024 * 1024
COPIED_PART_BYTES = 128 * 1024 * 1024
MAX_KEYS_A_DELETE = 1000
OWNER, BYTES = "sparklet-owner", "application/octet-stream"
CONTENT_TYPES = {
    ".parquet": "application/vnd.apache.parquet",
    ".csv": "text/csv",
    ".json": "application/x-ndjson",  # Spark writes an object a line
    ".jsonl": "application/x-ndjson",
    ".txt": "text/plain",
    ".xml": "application/xml",
    ".html": "text/html",
    ".gz": "application/gzip",
    ".zst": "application/zstd",
}
# S3's answers for a version that is none of the object's, for an id of a wrong form (400), and for a delete marker
# (405)
NO_VERSION = ("400", "404", "405", "InvalidArgument", "MethodNotAllowed", "NoSuchKey", "NoSuchVersion")


class S3ObjectStore:
    """An ``ObjectStore`` in S3; with ``requester_pays`` it agrees to pay for what it reads."""

    def __init__(self, clients: AwsClients, *, requester_pays: bool = False) -> None:
        self._clients = clients
        self._payer: dict[str, Any] = {"RequestPayer": "requester"} if requester_pays else {}

    def list(self, prefix_uri: str, start_after: str = "") -> Iterator[ObjectInfo]:
        """All objects below a prefix in key order, 1,000 a request; botocore decodes the URL-encoded keys."""
        bucket, prefix = split_uri(prefix_uri)
        with _faults(prefix_uri):
            for page in pages(partial(self._page, bucket), prefix, start_after):
                for entry in page.get("Contents", ()):
                    yield _info_of_entry(bucket, entry)

    def _page(self, bucket: str, prefix: str, start_after: str = "", **more: Any) -> Page:
        more |= {"StartAfter": start_after} if start_after else {}
        return self._clients.s3.list_objects_v2(
            Bucket=bucket, Prefix=prefix, OptionalObjectAttributes=RESTORED, **more, **self._payer
        )

    def head(self, uri: str, version_id: str = "") -> ObjectInfo:
        with _faults(uri, version_id):
            return _info_of_head(uri, version_id, self._clients.s3.head_object(**self._read(uri, version_id)))

    def head_all(self, addresses: Sequence[tuple[str, str]]) -> Iterator[ObjectInfo | None]:
        """``head`` of each, as many at a time as the client has connections."""
        return in_parallel(self._head_or_none, addresses, self._clients.threads)

    def _head_or_none(self, address: tuple[str, str]) -> ObjectInfo | None:
        with suppress(ObjectNotFoundError):
            return self.head(*address)
        return None

    def foreign_region(self, uri: str) -> str:
        """The region of a URI's bucket, if it is not the client's own; S3 names it even in a refusal."""
        bucket, _ = split_uri(uri)
        with _faults(uri):
            try:
                answer: Any = self._clients.s3.head_bucket(Bucket=bucket)
            except self._clients.s3.exceptions.ClientError as error:
                if error_code(error) in ("404", "NoSuchBucket"):
                    raise ObjectNotFoundError(f"{uri}: there is no bucket {bucket}") from error
                answer = error.response
            region = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", "")
            return "" if region == self._clients.s3.meta.region_name else region

    def get(self, uri: str, offset: int = 0, length: int | None = None, etag: str = "", version_id: str = "") -> bytes:
        """An object's bytes, or a range; a range that begins behind the end is empty."""
        request = self._read(uri, version_id, etag)
        # HTTP's ranges include their last byte, so one of no bytes cannot be asked for; the HEAD still tells what is
        # not there.
        if length == 0:
            self.head(uri, version_id)
            return b""
        end = None if length is None else offset + length
        if offset or end:
            request["Range"] = f"bytes={offset}-{'' if end is None else end - 1}"
        with _faults(uri, version_id):
            try:
                answer = self._clients.s3.get_object(**request)
                body = answer["Body"].read()
                return body if answer.get("ContentRange") else body[offset:end]  # a server may ignore a range
            except self._clients.s3.exceptions.ClientError as error:
                if error_code(error) == "InvalidRange":
                    return b""
                raise

    def _read(self, uri: str, version_id: str, etag: str = "") -> dict[str, Any]:
        version = {"VersionId": version_id} if version_id else {}
        match = {"IfMatch": f'"{etag}"'} if etag else {}
        return {**_s3_key(uri), **version, **match, **self._payer}

    def get_all(self, uris: Iterable[str]) -> Iterator[bytes]:
        """``get`` of each, as many at a time as the client has connections."""
        return in_parallel(self.get, uris, self._clients.threads)

    def put(self, uri: str, body: bytes, create_only: bool = False) -> str:
        if create_only:
            return self._create(uri, body)
        with _faults(uri):
            return self._clients.s3.put_object(**_s3_key(uri), Body=body)["ETag"].strip('"')

    def _create(self, uri: str, body: bytes) -> str:
        """Write an object that is not there yet.

        A refusal after a try whose answer was lost may be due to that try: then the object is mine if it holds
        my bytes. A conflict (409) means that another writer is at work just now: once more, to see who was first.
        """
        with _faults(uri):
            for _ in range(CREATE_TRIES):
                try:
                    return self._clients.s3.put_object(**_s3_key(uri), Body=body, IfNoneMatch="*")["ETag"].strip('"')
                except self._clients.s3.exceptions.ClientError as error:
                    if error_code(error) == "ConditionalRequestConflict":
                        continue
                    tried_again = error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
                    if tried_again and error_code(error) == "PreconditionFailed" and self.get(uri) == body:
                        return self.head(uri).etag
                    raise
            raise ObjectChangedError(f"{uri} is being written by others; {CREATE_TRIES} tries failed")

    def download(self, uri: str, path: Path, etag: str = "", version_id: str = "") -> None:
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        try:
            with _faults(uri, version_id), partial.open("xb") as file:
                body = self._clients.s3.get_object(**self._read(uri, version_id, etag))["Body"]
                for chunk in body.iter_chunks(CHUNK_BYTES):
                    file.write(chunk)
            partial.replace(path)
        except OSError as error:
            raise ObjectStoreError(f"{uri} could not be written to {path}: {error}") from error
        finally:
            partial.unlink(missing_ok=True)

    def upload(self, path: Path, uri: str) -> None:
        try:
            with _faults(uri):
                self._clients.s3.upload_file(os.fspath(path), *split_uri(uri))
        except OSError as error:
            raise ObjectStoreError(f"{path} could not be read for {uri}: {error}") from error

    def copy_all(
        self, pairs: Iterable[tuple[ObjectInfo, str]], owner: str = "", replaces: Callable[[str], bool] | None = None
    ) -> None:
        """Copy objects within S3, as many at a time as the client has connections."""
        copy = partial(self._copy_owned, owner, replaces or (lambda _: False)) if owner else self._copy
        deque(in_parallel(copy, pairs, self._clients.threads), maxlen=0)

    def _copy_owned(self, owner: str, replaces: Callable[[str], bool], pair: tuple[ObjectInfo, str]) -> None:
        """Copy with one request for any size; if its answer comes too late, the next try sees who owns the object.

        A conflict (409) means that another writer is at work just now.
        """
        source, target = pair
        # Metadata can only be replaced as a whole, and with it goes the type: so that is set anew, by the name.
        name = target.rpartition("/")[2].lower()
        kind = next((kind for suffix, kind in CONTENT_TYPES.items() if name.endswith(suffix)), BYTES)
        request: Any = {
            "CopySource": _s3_key(source.uri),
            **_s3_key(target),
            "MetadataDirective": "REPLACE",
            "Metadata": {OWNER: owner},
            "ContentType": kind,
        }
        request |= {"StorageClass": source.storage_class} if source.storage_class else {}
        condition: Any = {"IfNoneMatch": "*"}
        for _ in range(CREATE_TRIES):
            try:
                with _faults(target):
                    self._clients.s3.copy_object(**request, **condition)
                    return
            except ObjectNotFoundError as error:
                # S3 has one answer for a source that is gone and for an IfMatch whose target is.
                if "IfMatch" not in condition or not self._head_or_none((source.uri, "")):
                    raise ObjectNotFoundError(
                        f"{source.uri} could not be copied to {target}: it is not there"
                    ) from error
                condition = {"IfNoneMatch": "*"}  # what was to be replaced is deleted
            except ObjectChangedError:
                # What stood in the way was deleted, or another writer has not finished: the next try shows.
                if (existing_object := self._head_or_none((target, ""))) is None:
                    continue
                # An earlier try, whose answer was lost, or an earlier attempt that published for the same winner, has
                # copied it.
                if existing_object.owner == owner:
                    return
                if not replaces(existing_object.owner):
                    whose = (
                        f"written by {existing_object.owner}" if existing_object.owner else "not written by Sparklet"
                    )
                    raise ObjectChangedError(f"{target} is there already, {whose}, and is not replaced") from None
                # By this ETag a replacement fails if yet another writer has come since the look.
                condition = {"IfMatch": f'"{existing_object.etag}"'}
        raise ObjectChangedError(f"{target} is being written by others; {CREATE_TRIES} tries failed")

    def _copy(self, pair: tuple[ObjectInfo, str]) -> None:
        """Copy with one request; gigabytes in parallel parts, since S3 would answer one request after the timeout."""
        source, target = pair
        origin: Any = _s3_key(source.uri)
        try:
            with _faults(target):
                extra_args: Any = {"StorageClass": source.storage_class} if source.storage_class else {}
                if source.size_bytes <= MAX_ONE_COPY_BYTES:
                    self._clients.s3.copy_object(CopySource=origin, **_s3_key(target), **extra_args)
                    return
                from boto3.s3.transfer import TransferConfig

                extra_args["TaggingDirective"] = "COPY"  # as one request does; type and metadata are copied, too
                parts = TransferConfig(multipart_threshold=MAX_ONE_COPY_BYTES, multipart_chunksize=COPIED_PART_BYTES)
                self._clients.s3.copy(origin, *split_uri(target), ExtraArgs=extra_args, Config=parts)
        except ObjectNotFoundError as error:
            raise ObjectNotFoundError(
                f"{source.uri} could not be copied to {target}: one of them is not there"
            ) from error

    def delete_all(self, uris: Iterable[str], within: str) -> None:
        rest = only_within(uris, within)
        while batch := list(islice(rest, MAX_KEYS_A_DELETE)):
            bucket = split_uri(batch[0])[0]
            keys: Any = [{"Key": split_uri(uri)[1]} for uri in batch]
            with _faults(batch[0]):
                answer = self._clients.s3.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
            # DeleteObjects answers 200 even if single keys could not be deleted.
            for failed in answer.get("Errors", ()):
                what = ObjectForbiddenError if failed.get("Code") == "AccessDenied" else ObjectStoreError
                raise what(f"s3://{bucket}/{failed.get('Key')} could not be deleted: S3 answered {failed.get('Code')}")


def input_stores(clients: AwsClients) -> Callable[[Access], S3ObjectStore]:
    """Stores by the access that a run needs; the same one for the same access."""

    @cache
    def store(access: Access) -> S3ObjectStore:
        theirs = clients.with_role(access.role_arn) if access.role_arn else clients
        return S3ObjectStore(theirs, requester_pays=access.requester_pays)

    return store


def _info_of_entry(bucket: str, entry: Mapping[str, Any]) -> ObjectInfo:
    """An entry of a listing, which does not show whether Intelligent-Tiering has moved the object to an archive."""
    restore = entry.get("RestoreStatus", {})
    restored = "RestoreExpiryDate" in restore and not restore.get("IsRestoreInProgress")
    kind = entry.get("StorageClass", "STANDARD")
    return ObjectInfo(
        f"s3://{bucket}/{entry['Key']}",
        entry["Size"],
        entry["ETag"].strip('"'),
        entry["LastModified"].timestamp(),
        archived=kind in ARCHIVES and not restored,
        storage_class=kind if kind != "STANDARD" else "",
    )


def _info_of_head(uri: str, version_id: str, head: Mapping[str, Any]) -> ObjectInfo:
    cold = head.get("StorageClass") in ARCHIVES or "ArchiveStatus" in head
    return ObjectInfo(
        uri,
        head["ContentLength"],
        head["ETag"].strip('"'),
        head["LastModified"].timestamp(),
        version_id,
        archived=cold and 'ongoing-request="false"' not in head.get("Restore", ""),
        owner=head.get("Metadata", {}).get(OWNER, ""),
    )


def _s3_key(uri: str) -> dict[str, Any]:
    bucket, key = split_uri(uri)
    return {"Bucket": bucket, "Key": key}


def _faults(uri: str, version_id: str = "") -> AbstractContextManager[None]:
    """Turn errors of boto3 into ours, which name the object."""

    def ours(raised: Exception) -> ObjectStoreError:
        from boto3.exceptions import S3UploadFailedError
        from botocore.exceptions import ClientError

        # boto3 raises this one in place of the service's error, whose text it has and whose code it has not.
        error = raised.__context__ if isinstance(raised, S3UploadFailedError) else raised
        if isinstance(error, ClientError):
            return _error_of(uri, error, version_id)
        return ObjectStoreError(f"{uri}: S3 could not be used: {explained(raised)}")

    return failing_with(ours)


def _error_of(uri: str, error: "ClientError", version_id: str) -> ObjectStoreError:
    code = error_code(error)
    # A role is assumed within the first call to S3, so its refusal comes as that call's.
    if error.operation_name == "AssumeRole":
        return ObjectForbiddenError(
            f"{uri}: the role to read it with could not be assumed: {error}; check its name and its trust policy"
        )
    # Before the plain codes: with a version the object itself may well be there.
    if version_id and code in NO_VERSION:
        return ObjectNotFoundError(f"{uri} has no version {version_id} that can be read")
    if code in ("404", "NoSuchKey", "NotFound"):
        return ObjectNotFoundError(f"{uri} is not there")
    if code == "NoSuchBucket":
        return ObjectNotFoundError(f"{uri}: there is no bucket {split_uri(uri)[0]}")
    if code in FORBIDDEN and error.operation_name in WRITES:
        return ObjectForbiddenError(
            f"{uri} may not be accessed with these credentials; if the bucket's policy demands an encryption, deploy "
            "with the parameter WriteEncryption"
        )
    if code in FORBIDDEN:
        return ObjectForbiddenError(
            f"{uri} may not be accessed with these credentials, or is not there: "
            "S3 shows which only to those who may list the bucket"
        )
    if code in WRONG_KEYS:
        return ObjectForbiddenError(f"{uri} may not be accessed: {explained(error)}")
    if code == "InvalidObjectState":
        return ObjectForbiddenError(f"{uri} is archived: restore it, then try again")
    if code in ("412", "PreconditionFailed", "ConditionalRequestConflict"):
        return ObjectChangedError(f"{uri} was replaced, or is there already: its ETag is not the expected one")
    return ObjectStoreError(f"{uri}: S3 answered {code}: {explained(error)}")

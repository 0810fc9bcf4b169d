"""Objects in Amazon S3.

A listing has its pages in the order of keys. A page has the token for the next one, so a million objects would be a
thousand requests in a row. Instead, the first pages of many folders are requested in parallel.
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
    explain_error,
    failing_with,
    in_parallel,
)
from sparklet.errors import ObjectChangedError, ObjectForbiddenError, ObjectNotFoundError, ObjectStoreError
from sparklet.model import Access, split_uri
from sparklet.ports import ObjectInfo, only_within

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

MANY_KEYS = 4000  # so many keys of a prefix are listed page by page before its folders are listed in parallel
MIN_KEYS_A_FOLDER = 500  # folders with fewer keys are not listed in parallel: a request for each would be expensive
FOLDERS_AHEAD = 8  # folders whose first pages are requested in parallel, and pages in memory
MANY_FOLDERS = 16  # the mean size of this many folders shows whether the others are worth it

Page = Mapping[str, Any]


class Lister(Protocol):
    """One request for the keys below a prefix."""

    def __call__(self, prefix: str, start_after: str = "", **options: Any) -> Page:
        """The answer of S3's ListObjectsV2."""


def pages(lister: Lister, prefix: str, start_after: str = "", page: Page | None = None) -> Iterator[Page]:
    """All pages of a prefix, in the order of keys; ``page`` is the first one if it has been read already."""
    keys, folders, last_key = 0, set[str](), start_after
    page = page or lister(prefix, start_after)
    while True:
        yield page
        if not page.get("IsTruncated"):
            return
        names = [entry["Key"] for entry in page.get("Contents", ())]
        keys, last_key = keys + len(names), _last_key(page) or last_key
        folders.update(name[: name.find("/", len(prefix)) + 1] for name in names)  # "" for a file in the prefix itself
        # Folders are listed in parallel if there are many keys, in large folders, and no files beside the folders.
        if keys < max(MANY_KEYS, MIN_KEYS_A_FOLDER * len(folders)) or "" in folders:
            page = lister(prefix, ContinuationToken=page["NextContinuationToken"])
            continue
        stopped_after = yield from _pages_by_folders(lister, prefix, last_key)
        if not stopped_after:
            return
        keys, folders, page = 0, set(), lister(prefix, stopped_after)


def _pages_by_folders(lister: Lister, prefix: str, last_key: str) -> Generator[Page, None, str]:
    """Yield the pages after the key ``last_key``; folders are listed in parallel.

    Returns "" at the end of the prefix. If the folders turn out to be small it stops, and returns the last key.
    """
    # First the rest of the folder of ``last_key``: with a delimiter, some servers leave out a folder that a listing
    # starts within.
    for page in pages(lister, last_key[: last_key.index("/", len(prefix)) + 1], last_key):
        last_key = _last_key(page) or last_key
        yield page
    keys, folders, parts = 0, 0, _parts(lister, prefix, last_key)
    first_pages = in_parallel(lambda part: (part[0], part[1] or lister(part[0])), parts, FOLDERS_AHEAD, ahead=1)
    # If the caller stops before the end, closing stops the threads that request pages ahead.
    with closing(first_pages):
        for name, first_page in first_pages:
            for page in pages(lister, name, page=first_page):
                keys, last_key = keys + len(page.get("Contents", ())), _last_key(page) or last_key
                yield page
            folders += name.endswith("/")
            if folders >= MANY_FOLDERS and keys < MIN_KEYS_A_FOLDER * folders:
                return last_key
    return ""


def _last_key(page: Page) -> str:
    """The last key of a page; "" if the page is empty."""
    return page["Contents"][-1]["Key"] if page.get("Contents") else ""


def _parts(lister: Lister, prefix: str, start_after: str) -> Iterator[tuple[str, Page | None]]:
    """The folders and files directly below a prefix, in the order of names, after the key ``start_after``.

    Each folder comes with None, each file with a page that lists only this file.
    """
    page = lister(prefix, start_after, Delimiter="/")
    while True:
        names = (folder["Prefix"] for folder in page.get("CommonPrefixes", ()))
        parts: dict[str, Page | None] = {name: None for name in names if not start_after.startswith(name)}
        parts |= {entry["Key"]: {"Contents": [entry]} for entry in page.get("Contents", ())}
        # S3 returns folders and keys in two lists, each sorted by itself.
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
    ".json": "application/x-ndjson",  # Spark writes one JSON object per line
    ".jsonl": "application/x-ndjson",
    ".txt": "text/plain",
    ".xml": "application/xml",
    ".html": "text/html",
    ".gz": "application/gzip",
    ".zst": "application/zstd",
}
# S3's error codes if the object has no such version (404), an id is malformed (400), or the version is a delete marker
# (405)
NO_VERSION = ("400", "404", "405", "InvalidArgument", "MethodNotAllowed", "NoSuchKey", "NoSuchVersion")


class S3ObjectStore:
    """An ``ObjectStore`` in S3. With ``requester_pays`` the caller agrees to pay for what is read."""

    def __init__(self, clients: AwsClients, *, requester_pays: bool = False) -> None:
        self._clients = clients
        self._payer: dict[str, Any] = {"RequestPayer": "requester"} if requester_pays else {}

    def list(self, prefix_uri: str, start_after: str = "") -> Iterator[ObjectInfo]:
        """All objects below a prefix, in the order of keys, in pages of 1,000. botocore decodes URL-encoded keys."""
        bucket, prefix = split_uri(prefix_uri)
        with _object_errors(prefix_uri):
            for page in pages(partial(self._page, bucket), prefix, start_after):
                for entry in page.get("Contents", ()):
                    yield _info_of_entry(bucket, entry)

    def _page(self, bucket: str, prefix: str, start_after: str = "", **options: Any) -> Page:
        options |= {"StartAfter": start_after} if start_after else {}
        return self._clients.s3.list_objects_v2(
            Bucket=bucket, Prefix=prefix, OptionalObjectAttributes=RESTORED, **options, **self._payer
        )

    def head(self, uri: str, version_id: str = "") -> ObjectInfo:
        with _object_errors(uri, version_id):
            return _info_of_head(uri, version_id, self._clients.s3.head_object(**self._read_request(uri, version_id)))

    def head_all(self, addresses: Sequence[tuple[str, str]]) -> Iterator[ObjectInfo | None]:
        """The result of ``head`` for each address, or None for a missing object; in parallel, in order."""
        return in_parallel(self._head_or_none, addresses, self._clients.threads)

    def _head_or_none(self, address: tuple[str, str]) -> ObjectInfo | None:
        with suppress(ObjectNotFoundError):
            return self.head(*address)
        return None

    def foreign_region(self, uri: str) -> str:
        """The region of a URI's bucket; "" if it is the client's own. S3 names the region even in a refusal."""
        bucket, _ = split_uri(uri)
        with _object_errors(uri):
            try:
                answer: Any = self._clients.s3.head_bucket(Bucket=bucket)
            except self._clients.s3.exceptions.ClientError as error:
                if error_code(error) in ("404", "NoSuchBucket"):
                    raise ObjectNotFoundError(f"{uri}: there is no bucket {bucket}") from error
                answer = error.response
            region = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", "")
            return "" if region == self._clients.s3.meta.region_name else region

    def get(self, uri: str, offset: int = 0, length: int | None = None, etag: str = "", version_id: str = "") -> bytes:
        """The bytes of an object, or a range of them; b"" if the range begins behind the object's end."""
        request = self._read_request(uri, version_id, etag)
        # HTTP ranges include their last byte, so a range without bytes cannot be requested. HEAD raises the error for a
        # missing object.
        if length == 0:
            self.head(uri, version_id)
            return b""
        end = None if length is None else offset + length
        if offset or end:
            request["Range"] = f"bytes={offset}-{'' if end is None else end - 1}"
        with _object_errors(uri, version_id):
            try:
                answer = self._clients.s3.get_object(**request)
                body = answer["Body"].read()
                return body if answer.get("ContentRange") else body[offset:end]  # some servers ignore a range
            except self._clients.s3.exceptions.ClientError as error:
                if error_code(error) == "InvalidRange":
                    return b""
                raise

    def _read_request(self, uri: str, version_id: str, etag: str = "") -> dict[str, Any]:
        """The parameters of a request that reads an object: a version of it, and only with this ETag, if named."""
        version = {"VersionId": version_id} if version_id else {}
        match = {"IfMatch": f'"{etag}"'} if etag else {}
        return {**_s3_key(uri), **version, **match, **self._payer}

    def get_all(self, uris: Iterable[str]) -> Iterator[bytes]:
        """The bytes of each object, in order; as many are read in parallel as the client has connections."""
        return in_parallel(self.get, uris, self._clients.threads)

    def put(self, uri: str, body: bytes, create_only: bool = False) -> str:
        if create_only:
            return self._create(uri, body)
        with _object_errors(uri):
            return self._clients.s3.put_object(**_s3_key(uri), Body=body)["ETag"].strip('"')

    def _create(self, uri: str, body: bytes) -> str:
        """Write an object that does not exist yet; return its ETag. ObjectChangedError if it exists.

        After a try whose answer was lost, a refusal can be due to that try: then the object has the same bytes, and
        counts as written. A conflict (409) means that another writer is at work: the next try shows who was first.
        """
        with _object_errors(uri):
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
            raise ObjectChangedError(
                f"{uri} was changed by another writer during each of {CREATE_TRIES} tries; try again"
            )

    def download(self, uri: str, path: Path, etag: str = "", version_id: str = "") -> None:
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        try:
            with _object_errors(uri, version_id), draft.open("xb") as file:
                body = self._clients.s3.get_object(**self._read_request(uri, version_id, etag))["Body"]
                for chunk in body.iter_chunks(CHUNK_BYTES):
                    file.write(chunk)
            draft.replace(path)
        except OSError as error:
            raise ObjectStoreError(f"{uri} could not be written to {path}: {error}") from error
        finally:
            draft.unlink(missing_ok=True)

    def upload(self, path: Path, uri: str) -> None:
        try:
            with _object_errors(uri):
                self._clients.s3.upload_file(os.fspath(path), *split_uri(uri))
        except OSError as error:
            raise ObjectStoreError(f"{path} could not be read for {uri}: {error}") from error

    def copy_all(
        self, pairs: Iterable[tuple[ObjectInfo, str]], owner: str = "", replaces: Callable[[str], bool] | None = None
    ) -> None:
        """Copy objects within S3, as many in parallel as the client has connections.

        With ``owner`` each copy gets this owner, and replaces only objects for whose owner ``replaces`` is true
        (by default none). ObjectChangedError if it meets another object.
        """
        copy = partial(self._copy_with_owner, owner, replaces or (lambda _: False)) if owner else self._copy
        deque(in_parallel(copy, pairs, self._clients.threads), maxlen=0)

    def _copy_with_owner(self, owner: str, replaces: Callable[[str], bool], pair: tuple[ObjectInfo, str]) -> None:
        """Copy an object of any size with one request, unless the target has this ``owner`` already.

        ObjectChangedError if the target has an owner whom ``replaces`` does not allow to replace, or if other writers
        change the target during each try. A conflict (409) means that another writer is at work.
        """
        source, target = pair
        # S3 replaces all metadata, with the content type, so the type is set anew, by the target's name.
        name = target.rpartition("/")[2].lower()
        content_type = next((type_ for suffix, type_ in CONTENT_TYPES.items() if name.endswith(suffix)), BYTES)
        request: Any = {
            "CopySource": _s3_key(source.uri),
            **_s3_key(target),
            "MetadataDirective": "REPLACE",
            "Metadata": {OWNER: owner},
            "ContentType": content_type,
        }
        request |= {"StorageClass": source.storage_class} if source.storage_class else {}
        condition: Any = {"IfNoneMatch": "*"}
        for _ in range(CREATE_TRIES):
            try:
                with _object_errors(target):
                    self._clients.s3.copy_object(**request, **condition)
                    return
            except ObjectNotFoundError as error:
                # S3 returns the same error if the source is missing and if the target of an IfMatch is missing.
                if "IfMatch" not in condition or not self._head_or_none((source.uri, "")):
                    raise ObjectNotFoundError(
                        f"{source.uri} could not be copied to {target}: it is not there"
                    ) from error
                # The object that was to be replaced has been deleted.
                condition = {"IfNoneMatch": "*"}
            except ObjectChangedError:
                # No object: it was deleted meanwhile, or another writer has not finished. The next try shows which.
                if (existing_object := self._head_or_none((target, ""))) is None:
                    continue
                # The object was copied already: by an earlier try, whose answer was lost, or by an earlier attempt that
                # published for the same winner.
                if existing_object.owner == owner:
                    return
                if not replaces(existing_object.owner):
                    owner_text = (
                        f"written by {existing_object.owner}" if existing_object.owner else "not written by Sparklet"
                    )
                    raise ObjectChangedError(f"{target} is there already, {owner_text}, and is not replaced") from None
                # With this ETag the replacement fails if yet another writer replaces the object first.
                condition = {"IfMatch": f'"{existing_object.etag}"'}
        raise ObjectChangedError(
            f"{target} was changed by another writer during each of {CREATE_TRIES} tries; try again"
        )

    def _copy(self, pair: tuple[ObjectInfo, str]) -> None:
        """Copy an object with one request, or in parallel parts if it is so large that the request would time out."""
        source, target = pair
        origin: Any = _s3_key(source.uri)
        try:
            with _object_errors(target):
                extra_args: Any = {"StorageClass": source.storage_class} if source.storage_class else {}
                if source.size_bytes <= MAX_ONE_COPY_BYTES:
                    self._clients.s3.copy_object(CopySource=origin, **_s3_key(target), **extra_args)
                    return
                from boto3.s3.transfer import TransferConfig

                # Tags, like type and metadata, are copied, as a single request does by itself.
                extra_args["TaggingDirective"] = "COPY"
                parts = TransferConfig(multipart_threshold=MAX_ONE_COPY_BYTES, multipart_chunksize=COPIED_PART_BYTES)
                self._clients.s3.copy(origin, *split_uri(target), ExtraArgs=extra_args, Config=parts)
        except ObjectNotFoundError as error:
            raise ObjectNotFoundError(
                f"{source.uri} could not be copied to {target}: the object, or one of the buckets, is not there"
            ) from error

    def delete_all(self, uris: Iterable[str], within: str) -> None:
        remaining = only_within(uris, within)
        while batch := list(islice(remaining, MAX_KEYS_A_DELETE)):
            bucket = split_uri(batch[0])[0]
            keys: Any = [{"Key": split_uri(uri)[1]} for uri in batch]
            with _object_errors(batch[0]):
                answer = self._clients.s3.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
            # S3 answers 200 even if it could not delete some of the keys.
            for failure in answer.get("Errors", ()):
                code = failure.get("Code")
                error_class = ObjectForbiddenError if code == "AccessDenied" else ObjectStoreError
                raise error_class(f"s3://{bucket}/{failure.get('Key')} could not be deleted: S3 answered {code}")


def input_stores(clients: AwsClients) -> Callable[[Access], S3ObjectStore]:
    """A function that returns the store for the access that a run needs: always the same store for the same access."""

    @cache
    def store(access: Access) -> S3ObjectStore:
        store_clients = clients.with_role(access.role_arn) if access.role_arn else clients
        return S3ObjectStore(store_clients, requester_pays=access.requester_pays)

    return store


def _info_of_entry(bucket: str, entry: Mapping[str, Any]) -> ObjectInfo:
    """The object that an entry of a listing describes.

    A listing does not show whether Intelligent-Tiering has moved an object to an archive.
    """
    restore = entry.get("RestoreStatus", {})
    is_restored = "RestoreExpiryDate" in restore and not restore.get("IsRestoreInProgress")
    storage_class = entry.get("StorageClass", "STANDARD")
    return ObjectInfo(
        f"s3://{bucket}/{entry['Key']}",
        entry["Size"],
        entry["ETag"].strip('"'),
        entry["LastModified"].timestamp(),
        archived=storage_class in ARCHIVES and not is_restored,
        storage_class=storage_class if storage_class != "STANDARD" else "",
    )


def _info_of_head(uri: str, version_id: str, head: Mapping[str, Any]) -> ObjectInfo:
    """The object that the answer to a HEAD describes."""
    is_in_archive = head.get("StorageClass") in ARCHIVES or "ArchiveStatus" in head
    return ObjectInfo(
        uri,
        head["ContentLength"],
        head["ETag"].strip('"'),
        head["LastModified"].timestamp(),
        version_id,
        archived=is_in_archive and 'ongoing-request="false"' not in head.get("Restore", ""),
        owner=head.get("Metadata", {}).get(OWNER, ""),
    )


def _s3_key(uri: str) -> dict[str, Any]:
    bucket, key = split_uri(uri)
    return {"Bucket": bucket, "Key": key}


def _object_errors(uri: str, version_id: str = "") -> AbstractContextManager[None]:
    """Convert boto3's errors in the block to ObjectStoreErrors that name the object."""

    def convert(raised: Exception) -> ObjectStoreError:
        from boto3.exceptions import S3UploadFailedError
        from botocore.exceptions import ClientError

        # boto3 raises S3UploadFailedError with the text of the service's error, but without its code.
        error = raised.__context__ if isinstance(raised, S3UploadFailedError) else raised
        if isinstance(error, ClientError):
            return _error_of(uri, error, version_id)
        return ObjectStoreError(f"{uri}: S3 could not be used: {explain_error(raised)}")

    return failing_with(convert)


def _error_of(uri: str, error: "ClientError", version_id: str) -> ObjectStoreError:
    code = error_code(error)
    # A role is assumed within the first call to S3, so that call raises its refusal.
    if error.operation_name == "AssumeRole":
        return ObjectForbiddenError(
            f"{uri}: the role to read it with could not be assumed: {error}; check its name and its trust policy"
        )
    # Checked before the other codes, since the object itself can exist without this version.
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
            "S3 shows which only to users with permission to list the bucket"
        )
    if code in WRONG_KEYS:
        return ObjectForbiddenError(f"{uri} may not be accessed: {explain_error(error)}")
    if code == "InvalidObjectState":
        return ObjectForbiddenError(f"{uri} is archived: restore it, then try again")
    if code in ("412", "PreconditionFailed", "ConditionalRequestConflict"):
        return ObjectChangedError(f"{uri} was replaced, or is there already: its ETag is not the expected one")
    return ObjectStoreError(f"{uri}: S3 answered {code}: {explain_error(error)}")

"""The S3 adapter in cases that no stand-in shows: refusals, conflicts, broken bodies."""

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.response import StreamingBody
from botocore.stub import Stubber

from sparklet.aws import object_store
from sparklet.aws.clients import WRITES, AwsClients
from sparklet.aws.object_store import CREATE_TRIES, S3ObjectStore
from sparklet.aws.stacks import described_stack
from sparklet.errors import ObjectChangedError, ObjectForbiddenError, ObjectNotFoundError, ObjectStoreError
from sparklet.ports import ObjectInfo
from tests.stand_ins.http_server import QuietHandler, serving

URI = "s3://bucket/some key"


@pytest.fixture
def clients() -> AwsClients:
    return AwsClients(attempts=1)


@pytest.mark.parametrize("code", ["AccessDenied", "403"])
def test_forbidden_objects_are_named(clients: AwsClients, tmp_path: Path, code: str) -> None:
    store = S3ObjectStore(clients)
    (tmp_path / "file").write_bytes(b"x")
    with Stubber(clients.s3) as s3:
        for method in ("get_object", "head_object", "put_object", "put_object", "delete_objects", "list_objects_v2"):
            s3.add_client_error(method, code, http_status_code=403)

        for call in (
            lambda: store.get(URI),
            lambda: store.head(URI),
            lambda: store.put(URI, b""),
            lambda: store.upload(tmp_path / "file", URI),
            lambda: store.delete_all([URI], URI),
            lambda: list(store.list(URI)),
        ):
            with pytest.raises(ObjectForbiddenError, match="some key"):
                call()


def test_any_other_error_is_retryable(clients: AwsClients) -> None:
    with Stubber(clients.s3) as s3:
        s3.add_client_error("get_object", "SlowDown", "reduce your request rate", http_status_code=503)

        with pytest.raises(ObjectStoreError, match=r"some key: S3 answered SlowDown.*reduce your") as caught:
            S3ObjectStore(clients).get(URI)

    assert caught.value.retryable


def test_a_conflict_of_writers_is_retried_to_see_the_first(clients: AwsClients) -> None:
    with Stubber(clients.s3) as s3:
        s3.add_client_error("put_object", "ConditionalRequestConflict", http_status_code=409)
        s3.add_client_error("put_object", "PreconditionFailed", http_status_code=412)

        with pytest.raises(ObjectChangedError):
            S3ObjectStore(clients).put(URI, b"x", create_only=True)


def test_a_conflict_that_does_not_end_is_an_error(clients: AwsClients) -> None:
    with Stubber(clients.s3) as s3:
        for _ in range(CREATE_TRIES):
            s3.add_client_error("put_object", "ConditionalRequestConflict", http_status_code=409)

        with pytest.raises(ObjectChangedError, match="changed by another writer"):
            S3ObjectStore(clients).put(URI, b"x", create_only=True)


@pytest.fixture
def breaking_server() -> Iterator[str]:
    """The address of a server that promises 1,000 bytes of every object, and closes the connection after ten."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.send_header("ETag", '"abc"')
            self.end_headers()
            self.wfile.write(b"0123456789")

    with serving(Handler) as address:
        yield address


def test_half_an_object_is_an_error(breaking_server: str, tmp_path: Path) -> None:
    """GIVEN a connection that breaks in the middle, THEN no part of the object is treated as the whole."""
    store = S3ObjectStore(AwsClients(endpoint_url=breaking_server, attempts=1))
    (tmp_path / "target").write_bytes(b"what was there before")

    with pytest.raises(ObjectStoreError, match="some key"):
        store.get(URI)
    with pytest.raises(ObjectStoreError, match="some key"):
        store.download(URI, tmp_path / "target")

    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert (tmp_path / "target").read_bytes() == b"what was there before"


# --- versions, archives, regions, payers ---

WHEN = datetime(2026, 11, 20, tzinfo=UTC)


def listing(**more: object) -> dict[str, object]:
    return {"Key": "k", "Size": 1, "ETag": '"e"', "LastModified": WHEN, **more}


@pytest.mark.parametrize(
    ("found", "archived"),
    [
        ({}, False),
        ({"StorageClass": "STANDARD"}, False),
        ({"StorageClass": "GLACIER_IR"}, False),
        ({"StorageClass": "INTELLIGENT_TIERING"}, False),
        ({"StorageClass": "GLACIER"}, True),
        ({"StorageClass": "DEEP_ARCHIVE"}, True),
        ({"StorageClass": "GLACIER", "RestoreStatus": {"IsRestoreInProgress": True}}, True),
        (
            {"StorageClass": "GLACIER", "RestoreStatus": {"IsRestoreInProgress": False, "RestoreExpiryDate": WHEN}},
            False,
        ),
    ],
)
def test_a_listing_marks_archived_objects(clients: AwsClients, found: dict[str, object], archived: bool) -> None:
    with Stubber(clients.s3) as s3:
        asked = {"Bucket": "bucket", "Prefix": "", "OptionalObjectAttributes": ["RestoreStatus"]}
        s3.add_response("list_objects_v2", {"Contents": [listing(**found)]}, asked)
        (info,) = S3ObjectStore(clients).list("s3://bucket/")
    assert info.archived == archived


@pytest.mark.parametrize(
    ("answer", "archived"),
    [
        ({}, False),
        ({"StorageClass": "GLACIER"}, True),
        ({"StorageClass": "GLACIER", "Restore": 'ongoing-request="true"'}, True),
        ({"StorageClass": "GLACIER", "Restore": 'ongoing-request="false", expiry-date="Fri, 21 Dec"'}, False),
        ({"StorageClass": "INTELLIGENT_TIERING"}, False),
        ({"StorageClass": "INTELLIGENT_TIERING", "ArchiveStatus": "ARCHIVE_ACCESS"}, True),
        ({"StorageClass": "INTELLIGENT_TIERING", "ArchiveStatus": "DEEP_ARCHIVE_ACCESS"}, True),
    ],
)
def test_a_head_request_marks_archived_objects(clients: AwsClients, answer: dict[str, object], archived: bool) -> None:
    with Stubber(clients.s3) as s3:
        s3.add_response("head_object", {"ContentLength": 1, "ETag": '"e"', "LastModified": WHEN, **answer})
        assert S3ObjectStore(clients).head(URI).archived == archived


def test_reads_send_requester_pays_and_writes_do_not(clients: AwsClients, tmp_path: Path) -> None:
    store = S3ObjectStore(clients, requester_pays=True)
    place, payer = {"Bucket": "bucket", "Key": "some key"}, {"RequestPayer": "requester"}
    body = lambda: StreamingBody(io.BytesIO(b"x"), 1)  # noqa: E731
    prefix = {"Bucket": "bucket", "Prefix": "", "OptionalObjectAttributes": ["RestoreStatus"], **payer}
    head = {"ContentLength": 1, "ETag": '"e"', "LastModified": WHEN}
    with Stubber(clients.s3) as s3:
        s3.add_response("list_objects_v2", {}, {**prefix})
        s3.add_response("head_object", head, {**place, **payer})
        s3.add_response("get_object", {"Body": body()}, {**place, **payer, "VersionId": "v"})
        s3.add_response("get_object", {"Body": body()}, {**place, **payer, "IfMatch": '"e"'})
        s3.add_response("put_object", {"ETag": '"e"'}, {**place, "Body": b"x"})
        assert list(store.list("s3://bucket/")) == []
        store.head(URI)
        store.get(URI, version_id="v")
        store.download(URI, tmp_path / "x", etag="e")
        store.put(URI, b"x")


@pytest.mark.parametrize("refused", [False, True])
def test_a_refusal_still_reveals_the_region(refused: bool) -> None:
    clients = AwsClients(attempts=1, region="us-east-1")
    headers = {"x-amz-bucket-region": "eu-west-1"}
    with Stubber(clients.s3) as s3:
        if refused:
            s3.add_client_error("head_bucket", "403", http_status_code=403, response_meta={"HTTPHeaders": headers})
        else:
            s3.add_response("head_bucket", {"ResponseMetadata": {"HTTPHeaders": headers}})
        assert S3ObjectStore(clients).foreign_region(URI) == "eu-west-1"


@pytest.mark.parametrize("code", ["400", "404", "405", "InvalidArgument", "NoSuchVersion", "MethodNotAllowed"])
def test_a_version_that_cannot_be_read_is_reported_as_missing(clients: AwsClients, code: str) -> None:
    with Stubber(clients.s3) as s3:
        s3.add_client_error("head_object", code)
        s3.add_client_error("head_object", code)
        with pytest.raises(ObjectNotFoundError, match="some key has no version odd"):
            S3ObjectStore(clients).head(URI, "odd")
        assert list(S3ObjectStore(clients).head_all([(URI, "odd")])) == [None]


def test_only_large_objects_are_copied_in_parts(clients: AwsClients, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 takes minutes to copy gigabytes in one request, but the client waits only half a minute."""
    monkeypatch.setattr(object_store, "MAX_ONE_COPY_BYTES", 6 * 2**20)
    monkeypatch.setattr(object_store, "COPIED_PART_BYTES", 5 * 2**20)
    small, large = (ObjectInfo(URI, size, "e", 0.0) for size in (6 * 2**20, 6 * 2**20 + 1))
    store = S3ObjectStore(clients)
    described = {"ContentType": "text/csv", "Metadata": {"made-by": "us"}}
    of_large = {"ContentLength": large.size_bytes, "ETag": '"e"', **described}
    to_large = {"Bucket": "bucket", "Key": "large"}
    tags = {"TagSet": [{"Key": "team", "Value": "data lake"}]}
    with Stubber(clients.s3) as s3:
        s3.add_response("copy_object", {})
        s3.add_response("head_object", of_large)
        s3.add_response("create_multipart_upload", {"UploadId": "u"}, {**to_large, **described})
        for _ in range(2):
            s3.add_response("upload_part_copy", {"CopyPartResult": {"ETag": '"p"'}})
        s3.add_response("complete_multipart_upload", {})
        s3.add_response("get_object_tagging", tags)
        s3.add_response("put_object_tagging", {}, {**to_large, "Tagging": tags})

        store.copy_all([(small, "s3://bucket/small")])
        store.copy_all([(large, "s3://bucket/large")])

        s3.assert_no_pending_responses()


KEY = "arn:aws:kms:eu-west-1:123456789012:key/1"
ENCRYPTIONS = {
    "AES256": {"x-amz-server-side-encryption": "AES256"},
    KEY: {
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": KEY,
        "x-amz-server-side-encryption-bucket-key-enabled": "true",
    },
    "": {},
}


@pytest.mark.parametrize(("given", "headers"), ENCRYPTIONS.items())
def test_every_write_asks_for_its_encryption(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str, headers: dict[str, str]
) -> None:
    """A bucket's policy may deny a write without the headers."""
    monkeypatch.setenv("SPARKLET_WRITE_ENCRYPTION", given)
    clients, sent = AwsClients(attempts=1), dict[str, dict[str, str]]()
    monkeypatch.setattr(object_store, "MAX_ONE_COPY_BYTES", 1)
    (tmp_path / "small").write_bytes(b"x")
    (tmp_path / "large").write_bytes(b"x" * (8 * 2**20 + 1))
    small, large = (ObjectInfo(URI, size, "e", 0.0) for size in (1, 2))
    store = S3ObjectStore(clients)
    answers = {
        "CopyPartResult": {"ETag": '"p"'},
        "ETag": '"p"',
        "UploadId": "u",
        "ContentLength": 2,
        "CopyObjectResult": {},
    }

    def answer(model: Any, params: Any, **_: Any) -> Any:
        asked = {name.lower(): str(value) for name, value in params["headers"].items()}
        sent[model.name] = {name: value for name, value in asked.items() if "server-side" in name}
        return SimpleNamespace(status_code=200), {**answers, "ResponseMetadata": {"HTTPHeaders": {}}}

    clients.s3.meta.events.register_first("before-call.s3", answer)
    store.put(URI, b"x")
    assert sent.pop("PutObject") == headers
    store.put(URI, b"x", create_only=True)
    assert sent.pop("PutObject") == headers
    store.upload(tmp_path / "small", URI)
    assert sent.pop("PutObject") == headers
    store.upload(tmp_path / "large", URI)
    assert sent.pop("CreateMultipartUpload") == headers
    store.copy_all([(small, URI)])
    assert sent.pop("CopyObject") == headers
    store.copy_all([(large, URI)])
    assert sent.pop("CreateMultipartUpload") == headers


@pytest.mark.parametrize(
    ("conf", "acl"),
    [
        ({}, ""),
        ({"spark.hadoop.fs.s3a.bucket.bucket.acl.default": "BucketOwnerFullControl"}, "bucket-owner-full-control"),
        ({"spark.hadoop.fs.s3a.bucket.other.acl.default": "BucketOwnerFullControl"}, ""),
        ({"spark.hadoop.fs.s3a.acl.default": "BucketOwnerRead"}, "bucket-owner-read"),
    ],
)
def test_a_write_asks_for_the_acl_that_spark_asks_for(
    monkeypatch: pytest.MonkeyPatch, conf: dict[str, str], acl: str
) -> None:
    """Without it the owner of a bucket with ACLs could not read objects that another account writes."""
    monkeypatch.setenv("SPARKLET_SPARK_CONF", json.dumps(conf))
    clients, sent = AwsClients(attempts=1), list[str]()

    def answer(params: Any, **_: Any) -> Any:
        sent.append(params["headers"].get("x-amz-acl", ""))
        return SimpleNamespace(status_code=200), {"ETag": '"e"', "ResponseMetadata": {"HTTPHeaders": {}}}

    clients.s3.meta.events.register_first("before-call.s3", answer)

    S3ObjectStore(clients).put(URI, b"x")
    S3ObjectStore(clients).copy_all([(ObjectInfo(URI, 1, "e", 0.0), "s3://bucket/copy")])

    assert sent == [acl, acl]


def test_every_s3_write_that_can_set_encryption_is_covered(clients: AwsClients) -> None:
    model = clients.s3.meta.service_model
    takes = {
        name
        for name in model.operation_names
        if (shape := model.operation_model(name).input_shape) and "ServerSideEncryption" in shape.members
    }

    assert takes - {"CreateSession", "WriteGetObjectResponse"} == {*WRITES}  # of directory buckets, of Object Lambda


def test_a_copy_keeps_the_storage_class(clients: AwsClients) -> None:
    entry = {"Key": "a", "Size": 1, "ETag": "e", "LastModified": datetime.now(UTC), "StorageClass": "STANDARD_IA"}
    store = S3ObjectStore(clients)
    with Stubber(clients.s3) as s3:
        s3.add_response("list_objects_v2", {"Contents": [entry]})
        to = {"Bucket": "bucket", "Key": "b", "CopySource": {"Bucket": "bucket", "Key": "a"}}
        s3.add_response("copy_object", {}, {**to, "StorageClass": "STANDARD_IA"})

        store.copy_all([(info, "s3://bucket/b") for info in store.list("s3://bucket/")])

        s3.assert_no_pending_responses()


def test_a_callers_writes_use_the_encryption_of_its_stack(clients: AwsClients) -> None:
    stack = {"StackName": "s", "CreationTime": datetime.now(UTC), "StackStatus": "CREATE_COMPLETE"}
    given = {"WriteEncryption": KEY, "InputRoleExternalId": "ours"}
    parameters = [{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()]
    with Stubber(clients.cloudformation) as cloudformation:
        cloudformation.add_response("describe_stacks", {"Stacks": [{**stack, "Parameters": parameters}]})

        described_stack(clients, "s", ())

    assert clients.write_encryption == ("aws:kms", KEY)
    assert clients.with_role("arn").external_id == "ours"

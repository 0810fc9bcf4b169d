"""Objects of every odd kind through real S3 calls: each is planned and read back as it was, counted, or refused.

From the listing, or a list in each format, through ledger and plan part to the object again.
"""

import csv
import io
import json
import unicodedata
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from sparklet.app.object_status import object_status
from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.aws.object_store import S3ObjectStore, input_stores
from sparklet.aws.task_queue import SqsTaskQueue
from sparklet.errors import ObjectForbiddenError
from sparklet.inputs.list_requests import ListRequest
from sparklet.inputs.selection import Reason
from sparklet.model import Access, InputObject, Run, RunOptions, Shard
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from sparklet.planning.request import RunRequest
from sparklet.ports.deployment import Deployment
from tests.stand_ins.ledger_table import table_definition
from tests.stand_ins.memory import FakeClock
from tests.stand_ins.ministack import ministack
from tests.unit.inputs.inventories import inventory_row, write_inventory

pytestmark = pytest.mark.stack

PREFIX = "in/"
ODD = {
    "space": "with space.csv",
    "spaces at both ends": " x ",
    "plus": "plus+plus.csv",
    "percent": "100%.csv",
    "looks encoded": "a%20b%2Fc.csv",
    "hash": "hash#tag.csv",
    "question mark": "what?x=1&y=2",
    "newline": "new\nline.csv",
    "carriage return": "cr\r.csv",
    "NFC": unicodedata.normalize("NFC", "Zürich.csv"),
    "NFD": unicodedata.normalize("NFD", "Zürich.csv"),
    "emoji": "🎈/日本語.csv",
    "quotes": "quote\"and'apostrophe,comma;.csv",
    "longest": "k" * (1024 - len(PREFIX)),
    "slash at the end, with content": "trailing/",
    "double slash": "double//slash.csv",
    "slash first": "/first.csv",
    "dots": "x/../../y/./z.csv",
    "hidden with underscore": "_x.csv",
    "hidden with dot": ".x.csv",
    "glob": "[a-z]*{b}.csv",
    "backslash": "back\\slash.csv",
}


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsClients]:
    folder: Path = tmp_path_factory.mktemp("ministack")
    with pytest.MonkeyPatch.context() as patch, ministack(folder) as endpoint:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        made = AwsClients(8, endpoint_url=endpoint, region="us-east-1")
        made.dynamodb.create_table(**table_definition("ledger"))
        made.sqs.create_queue(QueueName="shards")
        yield made


@pytest.fixture
def at(clients: AwsClients) -> Deployment:
    """A bucket of the test's own, with a script."""
    bucket = f"odd-{uuid.uuid4().hex[:8]}"
    clients.s3.create_bucket(Bucket=bucket)
    store, clock = S3ObjectStore(clients), FakeClock()
    store.put(f"s3://{bucket}/job.py", b"print('x')\n")
    queue_url = clients.sqs.get_queue_url(QueueName="shards")["QueueUrl"]
    ledger = DynamoLedger(clients, "ledger", clock)
    return Deployment(bucket, store, ledger, SqsTaskQueue(clients, queue_url), clock, input_stores(clients))


def entered(
    at: Deployment, *lists: ListRequest, inputs: tuple[str, ...] | None = None, name: str = "", **options: object
) -> Run:
    """Enter and plan a run over the bucket's ``in/``, or over lists."""
    given = inputs if inputs is not None else () if lists else (f"s3://{at.bucket}/{PREFIX}",)
    request = RunRequest(
        f"s3://{at.bucket}/job.py",
        given,
        f"s3://{at.bucket}/out/{{run_id}}/",
        name=name,
        options=RunOptions(max_objects=3, hidden=True, **options),  # type: ignore[arg-type]
        lists=lists,
    )
    return plan(at, new_run(at, request).run_id, part_shards=3)


def planned(at: Deployment, run: Run) -> list[InputObject]:
    """What the shards hold, each read as a worker reads it."""
    records = at.ledger.shards.list(run.run_id)
    lines = (at.store.get(at.part_uri(run.run_id, r.part), r.offset, r.length) for r in records)
    return [item for line in lines for item in Shard.from_line(line).objects]


def put_all(at: Deployment) -> dict[str, bytes]:
    """Every odd object; bytes by address."""
    objects = {f"s3://{at.bucket}/{PREFIX}{key}": f"{kind}: {key}".encode() for kind, key in ODD.items()}
    for uri, body in objects.items():
        at.store.put(uri, body)
    return objects


def assert_read_back(at: Deployment, run: Run, objects: Mapping[str, bytes]) -> None:
    items = planned(at, run)
    assert {item.uri: at.store.get(item.uri, etag=item.etag) for item in items} == objects
    assert len(items) == len(objects) == run.object_count
    assert {item.uri: item.size_bytes for item in items} == {uri: len(body) for uri, body in objects.items()}


def test_odd_names_from_a_listing_are_read_back(at: Deployment) -> None:
    objects = put_all(at)
    run = entered(at)
    assert_read_back(at, run, objects)
    assert run.skipped == {}
    for uri in objects:
        assert [item.uri for found in object_status(at, run.run_id, uri).shards for item in found.items] == [uri]


def csv_list(uris: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([["uri"], *([uri] for uri in uris)])
    return text.getvalue().encode()


def parquet_list(uris: list[str]) -> bytes:
    import pyarrow as pa
    from pyarrow.parquet import write_table

    sink = pa.BufferOutputStream()
    write_table(pa.table({"uri": uris}), sink)
    return bytes(sink.getvalue().to_pybytes())


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("files.csv", csv_list),
        ("files.json", lambda uris: json.dumps(uris).encode()),
        ("files.jsonl", lambda uris: "\n".join(map(json.dumps, uris)).encode()),
        ("files.parquet", parquet_list),
    ],
)
def test_odd_names_from_a_list_are_read_back(at: Deployment, name: str, write: Callable[[list[str]], bytes]) -> None:
    objects = put_all(at)
    body = write([*objects, next(iter(objects)), f"s3://{at.bucket}/in/nowhere"])
    at.store.put(f"s3://{at.bucket}/lists/{name}", body)
    for given in (ListRequest(f"s3://{at.bucket}/lists/{name}"), ListRequest(name, body)):
        run = entered(at, given, missing="skip")
        assert_read_back(at, run, objects)
        assert run.skipped == {Reason.DUPLICATE: 1, Reason.MISSING: 1}


@pytest.mark.parametrize("form", ["CSV", "ORC", "Parquet"])
def test_odd_names_from_an_s3_inventory_are_read_back(at: Deployment, form: str) -> None:
    objects = put_all(at)
    rows = []
    for uri, body in objects.items():
        key = uri.split("/", 3)[3]
        rows.append(inventory_row(key, len(body), Bucket=at.bucket, ETag=at.store.head(uri).etag))
    manifest = write_inventory(at.store, form, [rows[:9], rows[9:]], bucket=at.bucket)

    run = entered(at, ListRequest(manifest))

    assert_read_back(at, run, objects)
    assert run.skipped == {}


def test_an_unreadable_object_refuses_the_run_by_name(at: Deployment) -> None:
    """GIVEN a role of another account that the bucket does not know, THEN its 403 is told and nothing is entered."""
    at.store.put(f"s3://{at.bucket}/{PREFIX}a", b"x")
    before = [info.uri for info in at.store.list(f"s3://{at.bucket}/")]
    stranger = Access(role_arn="arn:aws:iam::111122223333:role/stranger")
    listed = ListRequest("-", f"{at.bucket}/{PREFIX}a".encode())
    for inputs, lists in (
        ((f"s3://{at.bucket}/{PREFIX}",), ()),
        ((f"s3://{at.bucket}/{PREFIX}a",), ()),
        ((), (listed,)),
    ):
        request = RunRequest(
            f"s3://{at.bucket}/job.py",
            inputs,
            f"s3://{at.bucket}/out/{{run_id}}/",
            lists=lists,
            access=stranger,
            run_id="run-403",
        )
        with pytest.raises(ObjectForbiddenError, match=f"s3://{at.bucket}/{PREFIX}a? may not be accessed"):
            new_run(at, request)
    assert [info.uri for info in at.store.list(f"s3://{at.bucket}/")] == before
    assert "run-403" not in [run.run_id for run in at.ledger.runs.list()]

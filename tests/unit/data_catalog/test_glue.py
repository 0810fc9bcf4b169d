"""The calls to Glue, checked against its service model, and how the responses are read."""

import copy
import json
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.stub import Stubber

from sparklet.aws.clients import AwsClients
from sparklet.connectors.data_catalog.glue import GlueCatalog
from sparklet.errors import DatabaseError, TableError
from sparklet.model import RunOptions
from sparklet.spark.script_output import root_cause
from sparklet.worker.executor import PERMANENT_CAUSES
from tests.stand_ins.glue import MemoryGlue, partition_input, table_input
from tests.stand_ins.memory import MemoryObjectStore
from tests.unit.aws.conftest import _no_account as _no_account

TABLE = table_input("orders", "s3://lake/orders/", by="day string")
ASKED = {"DatabaseName": "sales", "TableName": "orders", "ExcludeColumnSchema": True, "MaxResults": 1000}
WHERE = "day >= '2026-01-02'"


def partition(day: str, **stored: Any) -> dict[str, Any]:
    return partition_input(TABLE, [day], f"s3://lake/orders/day={day}", **stored)


@pytest.fixture
def stub() -> Iterator[tuple[GlueCatalog, Stubber]]:
    clients = AwsClients(region="eu-west-1")
    with Stubber(clients.glue) as stubber:
        yield GlueCatalog(clients), stubber


def test_partitions_come_in_pages_and_match_the_condition(stub: tuple[GlueCatalog, Stubber]) -> None:
    catalog, glue = stub
    glue.add_response("get_table", {"Table": TABLE}, {"DatabaseName": "sales", "Name": "orders"})
    first = {"Partitions": [partition("2026-01-01"), partition("2026-01-02")], "NextToken": "more"}
    glue.add_response("get_partitions", first, {**ASKED, "Expression": WHERE})
    last = {"Partitions": [partition("2026-01-03")]}
    glue.add_response("get_partitions", last, {**ASKED, "Expression": WHERE, "NextToken": "more"})

    _, places = catalog.partitions("sales.orders", WHERE)

    assert places == [(f"s3://lake/orders/day={day}/", (day,)) for day in ("2026-01-02", "2026-01-03")]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("EntityNotFoundException", TableError),
        ("AccessDeniedException", TableError),
        ("InvalidInputException", TableError),
        ("ThrottlingException", DatabaseError),
        ("InternalServiceException", DatabaseError),
    ],
)
def test_only_a_transient_error_of_glue_is_retryable(
    stub: tuple[GlueCatalog, Stubber], code: str, error: type[Exception]
) -> None:
    catalog, glue = stub
    glue.add_client_error("get_table", code, "no")

    with pytest.raises(error, match=r"sales\.orders") as raised:
        catalog.partitions("sales.orders", "")

    cause, message = root_cause("".join(traceback.format_exception(raised.value)))
    assert (cause, cause in PERMANENT_CAUSES) == (error.__name__, error is TableError)
    assert message == str(raised.value)


@pytest.mark.parametrize("name", ["orders", "a.b.c", ".", "sales."])
def test_an_invalid_table_name_is_refused(name: str) -> None:
    with pytest.raises(TableError, match=r"DATABASE\.TABLE"):
        MemoryGlue(TABLE).catalog.partitions(name, "")


def test_a_wrong_condition_asks_for_no_partition() -> None:
    glue = MemoryGlue(TABLE)

    with pytest.raises(TableError, match="region"):
        glue.catalog.partitions("sales.orders", "region = 'eu'")

    assert len(glue.asked) == 1


def test_a_table_without_partitions_takes_no_condition() -> None:
    glue = MemoryGlue(table_input("orders", "s3://lake/orders"))

    assert glue.catalog.partitions("sales.orders", "")[1] == [("s3://lake/orders", ())]
    with pytest.raises(TableError, match="no partitions"):
        glue.catalog.partitions("sales.orders", WHERE)


def test_a_partition_of_another_format_is_refused_by_name() -> None:
    glue = MemoryGlue(TABLE)
    other = table_input("orders", "s3://lake/orders/", by="day string", form="json")
    glue.partitions = [partition_input(other, ["2026-01-01"], "s3://lake/orders/1")]

    with pytest.raises(TableError, match="2026-01-01"):
        glue.catalog.partitions("sales.orders", "")


# --- objects for a plan ---


def listed(glue: MemoryGlue, store: MemoryObjectStore, **options: Any) -> list[dict[str, Any]]:
    _, body = glue.catalog.objects("sales.orders", RunOptions(**options), store)
    return [json.loads(line) for line in body.splitlines()]


def test_each_object_has_the_values_of_its_partition() -> None:
    glue, store = MemoryGlue(TABLE), MemoryObjectStore()
    glue.partitions = [partition_input(TABLE, ["a"], "s3a://lake/1"), partition_input(TABLE, ["b"], "s3://lake/11/")]
    for key in ("1/x", "1/_SUCCESS", "1/.hidden/y", "1/deep/z", "11/x", "2/x"):
        store.put(f"s3://lake/{key}", b"data")

    rows = listed(glue, store)

    assert [(row["uri"], row["partition"]) for row in rows] == [
        ("s3://lake/1/deep/z", ["a"]),
        ("s3://lake/1/x", ["a"]),
        ("s3://lake/11/x", ["b"]),
    ]
    assert rows[0]["size"] == 4 and rows[0]["etag"] and rows[0]["last_modified"]


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (table_input("orders", "hdfs://lake/orders"), {}, "S3"),
        (table_input("orders", "s3://lake/", Parameters={"table_type": "DELTA"}), {}, "delta"),
        (table_input("orders", "s3://lake/"), {"split": "auto"}, "give split parquet"),
        (table_input("orders", "s3://lake/", form="orc"), {"split": "lines"}, "leave split out"),
        (table_input("orders", "s3://lake/", ";".join(f"c{n} string" for n in range(20_000))), {}, "columns"),
    ],
)
def test_a_table_that_cannot_be_planned_is_refused(
    table: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TableError, match=message):
        listed(MemoryGlue(table), MemoryObjectStore(), **options)


def test_a_partition_within_another_one_is_refused() -> None:
    glue = MemoryGlue(TABLE)
    glue.partitions = [partition_input(TABLE, ["a"], "s3://lake/x/"), partition_input(TABLE, ["b"], "s3://lake/x/y")]

    with pytest.raises(TableError, match="another partition"):
        listed(glue, MemoryObjectStore())


class ManyWriters:
    """A fake of Glue's calls for one table; it refuses a change if another writer has changed the table."""

    def __init__(self) -> None:
        names = ("AlreadyExistsException", "ConcurrentModificationException", "EntityNotFoundException")
        self.exceptions = SimpleNamespace(**{name: type(name, (Exception,), {}) for name in names})
        self.table: dict[str, Any] | None = None
        self.lock = threading.Lock()

    def get_table(self, **_: Any) -> dict[str, Any]:
        with self.lock:
            if self.table is None:
                raise self.exceptions.EntityNotFoundException
            return {"Table": copy.deepcopy(self.table)}

    def create_table(self, *, TableInput: dict[str, Any], **_: Any) -> None:
        with self.lock:
            if self.table is not None:
                raise self.exceptions.AlreadyExistsException
            self.table = {**copy.deepcopy(TableInput), "VersionId": "1"}

    def update_table(self, *, TableInput: dict[str, Any], VersionId: str, **_: Any) -> None:
        with self.lock:
            assert self.table is not None
            if self.table["VersionId"] != VersionId:
                raise self.exceptions.ConcurrentModificationException
            self.table = {**TableInput, "VersionId": str(int(VersionId) + 1)}


def test_shards_that_add_columns_at_once_lose_none() -> None:
    glue = ManyWriters()
    catalog = GlueCatalog(SimpleNamespace(glue=glue))
    begin = threading.Barrier(6)

    def shard(number: int) -> None:
        begin.wait()
        columns = [("id", "int"), (f"of_{number}", "string")]
        catalog.keep_table("db.t", "s3://lake/t", "json", columns, [], change=True)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(shard, range(6)))

    assert glue.table is not None
    found = {each["Name"] for each in glue.table["StorageDescriptor"]["Columns"]}
    assert found == {"id", *(f"of_{number}" for number in range(6))}


@pytest.mark.parametrize(("code", "is_glues"), [("ThrottlingException", True), ("UnrecognizedClientException", False)])
def test_a_refusal_of_foreign_keys_does_not_replace_sparks_error(
    stub: tuple[GlueCatalog, Stubber], code: str, is_glues: bool
) -> None:
    """Spark's own error is raised: a script with MinIO's keys names its own tables."""
    catalog, glue = stub
    glue.add_client_error("get_table", code)

    with pytest.raises(DatabaseError) as answer:
        catalog.refuse_missing("sales.orders")

    assert answer.value.unreachable is not is_glues

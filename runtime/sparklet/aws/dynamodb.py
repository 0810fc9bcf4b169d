"""The ledger's store in a DynamoDB table, whose outcome is always known; sam/template.yaml defines the table.

A conditional write has one of three outcomes: applied, refused (with the item that refused it), or unknown, because the
answer was lost. After an unknown one the item is read again, strongly consistent. botocore itself repeats a write after
a lost answer: if the first try was applied, the second is *refused* by it. So each write signs its items, and looks for
its sign before it believes a refusal.

A request that is refused for its rate was not applied. A partition can stay too hot for minutes, for longer than
botocore tries; so this module repeats it, more and more slowly.
"""

import heapq
import random
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from sparklet.aws.clients import AwsClients, error_code, explained, failing_with, http_status, in_parallel
from sparklet.errors import LedgerError
from sparklet.ledger import Ledger
from sparklet.ledger.clock import Clock, ServiceClock
from sparklet.ledger.store import Change, Delete, Item, Key, New, Written, holds
from sparklet.model import ShardState

if TYPE_CHECKING:
    from botocore.exceptions import BotoCoreError, ClientError

OPEN_INDEX = "open-index"
MAX_KEYS_A_BATCH = 100
MAX_DELETES_A_BATCH = 25
THROTTLED_S = 60.0  # how long a request is repeated that is refused for now
WRITERS = 8  # a put is 1 ms of Python and some 5 ms of waiting: more threads would only wait for one another
ITEMS_A_CALL = 16  # that one of them enters
CALLS_AHEAD = 8  # for each of them: a thousand shards, which are a plan part
# While the pages of up to 256 buckets are merged: so many items are read at a time, but no shorter pages. Bounds
# memory: botocore needs 10 KB for an item while it reads it.
ITEMS_AHEAD, MIN_PAGE = 4_000, 100
_CANCELED = "TransactionCanceledException"
_CONDITION = {"ConditionalCheckFailed"}  # what a transaction was cancelled for, if it gives no reasons
_NOT_NOW = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ThrottlingException",
        "TransactionConflictException",  # of a single write: a transaction was at work on the item
    }
)
_PASSING = frozenset({"ProvisionedThroughputExceeded", "ThrottlingError", "TransactionConflict"})  # of a transaction
_NEVER = {  # codes of requests that would be refused again, and what they mean
    "AccessDeniedException": ": its policy does not allow it",
    "ResourceNotFoundException": ": there is no such table or index (SPARKLET_LEDGER_TABLE, and the region)",
    _CANCELED: "",  # where it is not for a condition, nor for now
    "ValidationException": "",
}
_REFUSED: Any = {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}


class DynamoLedger(Ledger):
    """A ``Ledger`` in a DynamoDB table.

    A bulk operation makes as many calls at one time as ``clients`` have threads. ``clock`` decides when leases end;
    without one it is DynamoDB's own.
    """

    def __init__(self, clients: AwsClients, table: str, clock: Clock | None = None) -> None:
        time_ = clock or ServiceClock()
        super().__init__(DynamoStore(clients, table, time_), time_)


class DynamoStore:
    """A ``Store`` in one table; raises LedgerError for everything but a refused condition."""

    def __init__(self, clients: AwsClients, name: str, clock: Clock) -> None:
        self.name = name
        self._clients = clients
        self._clock = clock

    def get(self, key: Key) -> Item | None:
        answer = self._call("GetItem", self._clients.dynamodb.get_item, Key=key_attributes(key), ConsistentRead=True)
        return item_of(answer["Item"]) if "Item" in answer else None

    def get_many(self, keys: Iterable[Key]) -> Iterator[Item]:
        source = iter(keys)
        while batch_keys := [key_attributes(key) for key in islice(source, MAX_KEYS_A_BATCH)]:
            request, operation = {"Keys": batch_keys, "ConsistentRead": True}, self._clients.dynamodb.batch_get_item
            for answer in self._batch("BatchGetItem", operation, request, "UnprocessedKeys"):
                yield from map(item_of, answer["Responses"].get(self.name, []))

    def _batch(self, what: str, operation: Any, table_request: Any, unprocessed: str) -> Iterator[Mapping[str, Any]]:
        """The answers to a batch request, repeated with what the table has not processed yet."""
        request, tries = {self.name: table_request}, 0
        while request:
            answer = self._call(what, operation, RequestItems=request)
            yield answer
            request, tries = answer.get(unprocessed), tries + 1
            if request:
                self._back_off(tries)

    def keys(
        self, partition: str, within: tuple[str, str] | None = None, *, index: bool = False, backwards: bool = False
    ) -> Iterator[Sequence[Key]]:
        condition, values = "pk = :pk", {":pk": partition}
        if within:
            condition, values = f"{condition} AND #open BETWEEN :first AND :last", {**values, ":first": within[0]}
            values[":last"] = within[1]
        # The index holds keys alone (sam/template.yaml), so it needs no projection.
        how: dict[str, Any] = {"IndexName": OPEN_INDEX} if index else {"ProjectionExpression": "pk, sk"}
        how |= {"ScanIndexForward": False} if backwards else {}
        for page in self._pages(condition, values, Limit=MAX_KEYS_A_BATCH, **how):
            yield [(item["pk"]["S"], item["sk"]["S"]) for item in page["Items"]]

    def items(self, partitions: Sequence[str], prefix: str, state: ShardState | None = None) -> Iterator[Item]:
        """Items in order of their sort keys: the partitions merged, each read a page ahead."""
        page_items = max(MIN_PAGE, ITEMS_AHEAD // max(1, len(partitions)))  # a page ends at 1 MB anyway
        how, values = dict[str, Any](Limit=page_items), {":prefix": prefix}
        if state is not None:
            how["FilterExpression"], values[":state"] = "#state = :state", state
        condition = "pk = :pk AND begins_with(sk, :prefix)"
        with ThreadPoolExecutor(self._clients.threads) as pool:
            pages = [self._pages(condition, {":pk": partition, **values}, **how) for partition in partitions]
            yield from heapq.merge(*(_ahead(pool, partition_pages) for partition_pages in pages), key=itemgetter("sk"))

    def last(self, partition: str, prefix: str) -> Item | None:
        values = {":pk": partition, ":prefix": prefix}
        page = next(self._pages("pk = :pk AND begins_with(sk, :prefix)", values, ScanIndexForward=False, Limit=1))
        return item_of(page["Items"][0]) if page["Items"] else None

    def count(self, partitions: Sequence[str]) -> Mapping[str, int]:
        """Items by state, strongly consistent, all partitions side by side."""
        return sum(in_parallel(self._count, partitions, self._clients.threads), Counter[str]())

    def _count(self, partition: str) -> Counter[str]:
        pages = self._pages("pk = :pk", {":pk": partition}, ProjectionExpression="#state")
        return Counter(item["state"]["S"] for page in pages for item in page["Items"])

    def glance(self, partitions: Sequence[str], states: Sequence[ShardState]) -> Mapping[str, int]:
        queries = [(partition, state) for partition in partitions for state in states]
        counts_by_state: Counter[str] = Counter()
        counts = in_parallel(self._count_index, queries, self._clients.threads)
        for (_, state), count in zip(queries, counts, strict=True):
            counts_by_state[state] += count
        return counts_by_state

    def _count_index(self, query: tuple[str, ShardState]) -> int:
        condition, values = "pk = :pk AND begins_with(#open, :state)", {":pk": query[0], ":state": f"{query[1]}#"}
        pages = self._pages(condition, values, IndexName=OPEN_INDEX, Select="COUNT")
        return sum(page["Count"] for page in pages)

    def _pages(self, condition: str, values: Mapping[str, Any], **query: Any) -> Iterator[Mapping[str, Any]]:
        """The pages of a query by a key condition; strongly consistent unless it is on the index."""
        expressions = (condition, query.get("FilterExpression", ""), query.get("ProjectionExpression", ""))
        # Both are reserved words of DynamoDB. It refuses a placeholder that no expression uses, so only used ones are
        # named.
        reserved = {f"#{name}": name for name in ("state", "open") if f"#{name}" in " ".join(expressions)}
        request: dict[str, Any] = {
            **({} if "IndexName" in query else {"ConsistentRead": True}),
            "KeyConditionExpression": condition,
            "ExpressionAttributeValues": attributes(values),
            **({"ExpressionAttributeNames": reserved} if reserved else {}),
            **query,
        }
        start: dict[str, Any] = {}
        while True:
            # A page may be empty and not the last one: it ends after 1 MB that was read, and is filtered only then.
            page = self._call("Query", self._clients.dynamodb.query, **request, **start)
            yield page
            if not page.get("LastEvaluatedKey"):
                return
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}

    def add(self, items: Iterable[Item]) -> int:
        """Put each item that is not there yet, taken from the iterable as fast as they can be written."""
        source = iter(items)
        chunks = iter(lambda: list(islice(source, ITEMS_A_CALL)), [])
        threads = min(WRITERS, self._clients.threads)
        return sum(in_parallel(self._add, chunks, threads, CALLS_AHEAD))

    def _add(self, items: Sequence[Item]) -> int:
        # One put each: BatchWriteItem knows no conditions, so a restarted planner would reset shards that have ended.
        return sum(self.write(New(item)).applied for item in items)

    def write(self, *changes: Change) -> Written:
        """Make all changes, if every condition holds: one put, one update, or a transaction."""
        from botocore.exceptions import BotoCoreError, ClientError

        dynamodb: Any = self._clients.dynamodb
        first, writer = changes[0], uuid.uuid4().hex[:12]
        requests = [self._request(change, writer) for change in changes]
        if len(changes) > 1:
            call = partial(dynamodb.transact_write_items, TransactItems=requests)
        elif isinstance(first, New):
            call = partial(dynamodb.put_item, **requests[0]["Put"], **_REFUSED)
        else:
            call = partial(dynamodb.update_item, **requests[0]["Update"], **_REFUSED, ReturnValues="ALL_NEW")
        try:
            answer = self._patiently(call)
            return Written(True, item_of(answer["Attributes"]) if "Attributes" in answer else None)
        except (BotoCoreError, ClientError) as error:
            lost = None if _is_refused(error) else self._fault("a write", error)
            if lost and not _hides_the_outcome(error):
                raise lost from error
            stored_item = (getattr(error, "response", None) or {}).get("Item")
        # A refused put or update brings the item that refused it; a cancelled transaction, or no answer, brings none.
        item = item_of(stored_item) if stored_item else self.get(first.key)
        if item is not None and item.get("writer") == writer:
            return Written(True, item)
        # The condition still holds, so the request may be under way and be carried out later: neither answer would be
        # true. Once it holds no more, a late request can only be refused.
        if lost and holds(first.given, item):
            raise lost
        return Written(False, item)

    def _request(self, change: Change, writer: str) -> Any:
        if isinstance(change, New):
            item = attributes({**change.item, "writer": writer, "revision": 1})
            return {"Put": {"TableName": self.name, "Item": item, "ConditionExpression": "attribute_not_exists(pk)"}}
        request: dict[str, Any] = {"TableName": self.name, "Key": key_attributes(change.key)}
        if isinstance(change, Delete):
            return {"Delete": request}
        names = [*change.given]
        values: dict[str, Any] = {f":was_{n}": value for n, value in change.given.items() if value is not None}
        request["ConditionExpression"] = " AND ".join(
            f"#{name} = :was_{name}" if value is not None else f"attribute_not_exists(#{name})"
            for name, value in change.given.items()
        )
        if change.sets:
            sets = {**change.sets, "writer": writer}
            names += [*sets, "revision"]
            values |= {f":{name}": value for name, value in sets.items() if value is not None} | {":one": 1}
            update = "SET " + ", ".join(f"#{name} = :{name}" for name, value in sets.items() if value is not None)
            if removed := ", ".join(f"#{name}" for name, value in sets.items() if value is None):
                update += f" REMOVE {removed}"
            # The table counts: who presumes a record does not know its revision.
            request["UpdateExpression"] = f"{update} ADD #revision :one"
        request["ExpressionAttributeNames"] = {f"#{name}": name for name in names}
        if values:
            request["ExpressionAttributeValues"] = attributes(values)
        return {"Update" if change.sets else "ConditionCheck": request}

    def empty(self, partitions: Sequence[str], spared: Key | None = None) -> int:
        """Delete all items of partitions but one, side by side; how many."""
        return sum(in_parallel(partial(self._empty, spared), partitions, self._clients.threads))

    def _empty(self, spared: Key | None, partition: str) -> int:
        deleted, operation = 0, self._clients.dynamodb.batch_write_item
        spared_key = key_attributes(spared) if spared else None
        for page in self._pages("pk = :pk", {":pk": partition}, ProjectionExpression="pk, sk"):
            doomed = [{"DeleteRequest": {"Key": key}} for key in page["Items"] if key != spared_key]
            for start in range(0, len(doomed), MAX_DELETES_A_BATCH):
                batch = doomed[start : start + MAX_DELETES_A_BATCH]
                deque(self._batch("BatchWriteItem", operation, batch, "UnprocessedItems"), maxlen=0)
            deleted += len(doomed)
        return deleted

    def _call(self, what: str, operation: Any, **request: Any) -> Any:
        if "RequestItems" not in request:
            request["TableName"] = self.name
        with failing_with(partial(self._fault, what)):
            return self._patiently(partial(operation, **request))

    def _patiently(self, call: Callable[[], Any]) -> Any:
        """Call, and repeat a request that is refused for its rate or for a transaction, for up to ``THROTTLED_S``."""
        until_s, tries = self._clock.now_s() + THROTTLED_S, 0
        while True:
            sent_s = time.monotonic()
            try:
                answer = call()
                self._set_clock(answer, sent_s)
                return answer
            except self._clients.dynamodb.exceptions.ClientError as error:
                # A refusal tells the time as well, and under load there may be no other answer.
                self._set_clock(error.response, sent_s)
                if not _is_refused_for_now(error) or self._clock.now_s() >= until_s:
                    raise
            tries += 1
            self._back_off(tries)

    def _set_clock(self, answer: Any, sent_s: float) -> None:
        """Set a ``ServiceClock`` by the answer's ``Date``."""
        date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        if date and isinstance(self._clock, ServiceClock):
            self._clock.heard(parsedate_to_datetime(date).timestamp(), time.monotonic() - sent_s)

    def _fault(self, what: str, error: Exception) -> LedgerError:
        code = error_code(error)
        fault = LedgerError(f"{what} in table {self.name} failed{_NEVER.get(code, '')}: {explained(error)}")
        fault.retryable = code not in _NEVER or _is_refused_for_now(error)
        return fault

    def _back_off(self, tries: int) -> None:
        self._clock.sleep(random.uniform(0, min(2.0, 0.02 * 2 ** min(tries, 10))))


def attributes(values: Mapping[str, Any]) -> dict[str, Any]:
    """Python values as attributes."""
    return {name: _attribute(value) for name, value in values.items()}


def key_attributes(key: Key) -> dict[str, Any]:
    """An item's key as attributes."""
    return {"pk": {"S": key[0]}, "sk": {"S": key[1]}}


def _attribute(value: Any) -> dict[str, Any]:
    """A Python value as an attribute; a number with every digit, so that a float comes back as the same float."""
    if isinstance(value, str):
        return {"S": str(value)}
    # Before the numbers, since True is an int.
    if isinstance(value, bool):
        return {"BOOL": value}
    if isinstance(value, int | float):
        return {"N": repr(value)}
    if isinstance(value, Mapping):
        return {"M": attributes(value)}
    return {"L": [_attribute(nested) for nested in value]}


def item_of(stored_item: Mapping[str, Any]) -> Item:
    """A table's item with Python values."""
    return {name: _value(name, attribute) for name, attribute in stored_item.items()}


def _value(name: str, attribute: Any) -> Any:
    """An attribute's Python value: what ends with ``_s`` is a time in seconds, any other number is whole."""
    ((kind, value),) = attribute.items()
    if kind == "N":
        return float(value) if name.endswith("_s") else int(value)
    if kind == "M":
        return {key: _value(key, nested) for key, nested in value.items()}
    return tuple(_value("", nested) for nested in value) if kind == "L" else value


def _ahead(pool: ThreadPoolExecutor, pages: Iterator[Mapping[str, Any]]) -> Iterator[Item]:
    """The items of these pages; each page is read, and decoded to save memory, while the one before is consumed."""

    def read() -> list[Item] | None:
        page = next(pages, None)
        return None if page is None else list(map(item_of, page["Items"]))

    def items(coming: "Future[list[Item] | None]") -> Iterator[Item]:
        while (page := coming.result()) is not None:
            coming = pool.submit(read)
            yield from page

    return items(pool.submit(read))


def _is_refused(error: Exception) -> bool:
    """Whether a condition of the write, or of a transaction with it, does not hold."""
    if error_code(error) == _CANCELED:
        # A transaction has one code for all its ends: the reasons tell a condition from a conflict or a wrong request.
        return bool(_CONDITION & (_reasons(error) or _CONDITION))
    return error_code(error) == "ConditionalCheckFailedException"


def _hides_the_outcome(error: "BotoCoreError | ClientError") -> bool:
    """Whether a write may have been applied in spite of this error: no answer, or an error of the service's own."""
    status = http_status(error)
    return not status or status >= 500 or error_code(error) == "TransactionInProgressException"


def _is_refused_for_now(error: Exception) -> bool:
    """Whether it is refused for its rate, or for another transaction on the same item."""
    reasons = _reasons(error)
    # A condition that does not hold decides, whatever else stood in the way.
    return error_code(error) in _NOT_NOW or (bool(reasons & _PASSING) and not reasons & _CONDITION)


def _reasons(error: Exception) -> set[str]:
    response: Any = getattr(error, "response", {})
    return {reason.get("Code", "None") for reason in response.get("CancellationReasons", [])} - {"None"}

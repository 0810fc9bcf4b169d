"""The ledger's store in a DynamoDB table, which sam/template.yaml defines. The outcome of every write becomes known.

A conditional write has one of three outcomes: applied, refused (with the item that refused it), or unknown, because the
answer was lost. After an unknown outcome the item is read again, strongly consistent. botocore itself repeats a write
after a lost answer: if the first try was applied, the item that it wrote *refuses* the second. So each write puts an id
of its own into its items, and a refusal by an item with this id means that the write was applied.

A request that is refused for its rate was not applied. A partition can stay too hot for minutes, longer than botocore
repeats a request. So this module repeats it, with growing pauses.
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

from sparklet.aws.clients import AwsClients, error_code, explain_error, failing_with, http_status, in_parallel
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
THROTTLED_S = 60.0  # how long a request is repeated that is refused temporarily
WRITERS = 8  # threads; a put is 1 ms of Python and some 5 ms of waiting, so more threads would wait for one another
ITEMS_A_CALL = 16  # items that a thread adds in one call
CALLS_AHEAD = 8  # calls for each thread: together a thousand shards, as many as a plan part has
# Pages of up to 256 buckets are merged. So many items are read ahead in all, but no page is shorter than MIN_PAGE. This
# limits memory: botocore needs 10 KB for an item while it reads it.
ITEMS_AHEAD, MIN_PAGE = 4_000, 100
_CANCELED = "TransactionCanceledException"
_CONDITION_REASON = {"ConditionalCheckFailed"}  # the reason that is assumed if a cancelled transaction gives none
_THROTTLING_CODES = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ThrottlingException",
        "TransactionConflictException",  # a single write conflicts with a transaction on the same item
    }
)
_TEMPORARY_REASONS = frozenset(
    {"ProvisionedThroughputExceeded", "ThrottlingError", "TransactionConflict"}
)  # of a transaction
_FINAL_CODES = {  # error codes of requests that would be refused again, and explanations for messages
    "AccessDeniedException": ": its policy does not allow it",
    "ResourceNotFoundException": ": there is no such table or index (SPARKLET_LEDGER_TABLE, and the region)",
    _CANCELED: "",  # unless the reason is a condition, or temporary
    "ValidationException": "",
}
_RETURN_REFUSING_ITEM: Any = {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}


class DynamoLedger(Ledger):
    """A ``Ledger`` in a DynamoDB table.

    A bulk operation makes as many calls at one time as ``clients`` have threads. ``clock`` decides when leases end;
    the default is the time of DynamoDB's answers.
    """

    def __init__(self, clients: AwsClients, table: str, clock: Clock | None = None) -> None:
        time_ = clock or ServiceClock()
        super().__init__(DynamoStore(clients, table, time_), time_)


class DynamoStore:
    """A ``Store`` in one table. Every failure but a refused condition raises LedgerError."""

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

    def _batch(self, name: str, operation: Any, table_request: Any, unprocessed: str) -> Iterator[Mapping[str, Any]]:
        """Send a batch request until the table has processed all of it; yield each answer.

        ``unprocessed`` is the key of an answer that has the part of the request to send again.
        """
        request, tries = {self.name: table_request}, 0
        while request:
            answer = self._call(name, operation, RequestItems=request)
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
        # The index has keys only (sam/template.yaml), so it needs no projection.
        query: dict[str, Any] = {"IndexName": OPEN_INDEX} if index else {"ProjectionExpression": "pk, sk"}
        query |= {"ScanIndexForward": False} if backwards else {}
        for page in self._pages(condition, values, Limit=MAX_KEYS_A_BATCH, **query):
            yield [(item["pk"]["S"], item["sk"]["S"]) for item in page["Items"]]

    def items(self, partitions: Sequence[str], prefix: str, state: ShardState | None = None) -> Iterator[Item]:
        """The items of all partitions in the order of their sort keys. One page of each partition is read ahead."""
        page_items = max(MIN_PAGE, ITEMS_AHEAD // max(1, len(partitions)))  # a page ends at 1 MB anyway
        query, values = dict[str, Any](Limit=page_items), {":prefix": prefix}
        if state is not None:
            query["FilterExpression"], values[":state"] = "#state = :state", state
        condition = "pk = :pk AND begins_with(sk, :prefix)"
        with ThreadPoolExecutor(self._clients.threads) as pool:
            pages = [self._pages(condition, {":pk": partition, **values}, **query) for partition in partitions]
            yield from heapq.merge(
                *(_read_ahead(pool, partition_pages) for partition_pages in pages), key=itemgetter("sk")
            )

    def last(self, partition: str, prefix: str) -> Item | None:
        values = {":pk": partition, ":prefix": prefix}
        page = next(self._pages("pk = :pk AND begins_with(sk, :prefix)", values, ScanIndexForward=False, Limit=1))
        return item_of(page["Items"][0]) if page["Items"] else None

    def count(self, partitions: Sequence[str]) -> Mapping[str, int]:
        """The number of items by state, strongly consistent. The partitions are counted in parallel."""
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
        """The pages of a query by a key condition; strongly consistent unless it reads the index."""
        expressions = (condition, query.get("FilterExpression", ""), query.get("ProjectionExpression", ""))
        # Both are reserved words of DynamoDB, which also refuses placeholders that no expression uses.
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
            # An empty page need not be the last one: DynamoDB reads at most 1 MB for a page, and filters it only then.
            page = self._call("Query", self._clients.dynamodb.query, **request, **start)
            yield page
            if not page.get("LastEvaluatedKey"):
                return
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}

    def add(self, items: Iterable[Item]) -> int:
        """Put each item that does not exist yet; return how many were put. Reads the iterable as fast as it writes."""
        source = iter(items)
        chunks = iter(lambda: list(islice(source, ITEMS_A_CALL)), [])
        threads = min(WRITERS, self._clients.threads)
        return sum(in_parallel(self._add, chunks, threads, CALLS_AHEAD))

    def _add(self, items: Sequence[Item]) -> int:
        # A put for each item: BatchWriteItem has no conditions, so a restarted planner would reset shards that have
        # ended.
        return sum(self.write(New(item)).applied for item in items)

    def write(self, *changes: Change) -> Written:
        """Make all changes if every condition holds: by a put, an update, or a transaction for several changes.

        LedgerError if the request fails, or if it stays unknown whether it was applied.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        dynamodb: Any = self._clients.dynamodb
        first, writer = changes[0], uuid.uuid4().hex[:12]
        requests = [self._request(change, writer) for change in changes]
        if len(changes) > 1:
            call = partial(dynamodb.transact_write_items, TransactItems=requests)
        elif isinstance(first, New):
            call = partial(dynamodb.put_item, **requests[0]["Put"], **_RETURN_REFUSING_ITEM)
        else:
            call = partial(
                dynamodb.update_item, **requests[0]["Update"], **_RETURN_REFUSING_ITEM, ReturnValues="ALL_NEW"
            )
        try:
            answer = self._with_retries(call)
            return Written(True, item_of(answer["Attributes"]) if "Attributes" in answer else None)
        except (BotoCoreError, ClientError) as error:
            failure = None if _is_refused(error) else self._ledger_error("a write", error)
            if failure and not _hides_the_outcome(error):
                raise failure from error
            stored_item = (getattr(error, "response", None) or {}).get("Item")
        # The refusal of a put or an update has the item that refused it; for a transaction, or without an answer, the
        # item is read.
        item = item_of(stored_item) if stored_item else self.get(first.key)
        if item is not None and item.get("writer") == writer:
            return Written(True, item)
        # If the condition still holds, the request may still be applied, so neither result would be right. If it does
        # not hold any more, a late request can only be refused.
        if failure and holds(first.given, item):
            raise failure
        return Written(False, item)

    def _request(self, change: Change, writer: str) -> Any:
        """A change as an entry of a transaction: a Put, Update, Delete or ConditionCheck with its parameters."""
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
            # DynamoDB counts: a caller that writes without reading the record does not know its revision.
            request["UpdateExpression"] = f"{update} ADD #revision :one"
        request["ExpressionAttributeNames"] = {f"#{name}": name for name in names}
        if values:
            request["ExpressionAttributeValues"] = attributes(values)
        return {"Update" if change.sets else "ConditionCheck": request}

    def empty(self, partitions: Sequence[str], spared: Key | None = None) -> int:
        """Delete all items of the partitions, in parallel, except the item ``spared``; return how many."""
        return sum(in_parallel(partial(self._empty, spared), partitions, self._clients.threads))

    def _empty(self, spared: Key | None, partition: str) -> int:
        deleted, operation = 0, self._clients.dynamodb.batch_write_item
        spared_key = key_attributes(spared) if spared else None
        for page in self._pages("pk = :pk", {":pk": partition}, ProjectionExpression="pk, sk"):
            requests = [{"DeleteRequest": {"Key": key}} for key in page["Items"] if key != spared_key]
            for start in range(0, len(requests), MAX_DELETES_A_BATCH):
                batch = requests[start : start + MAX_DELETES_A_BATCH]
                deque(self._batch("BatchWriteItem", operation, batch, "UnprocessedItems"), maxlen=0)  # run to its end
            deleted += len(requests)
        return deleted

    def _call(self, name: str, operation: Any, **request: Any) -> Any:
        """The answer to a request; LedgerError, which names the operation, if it fails."""
        if "RequestItems" not in request:
            request["TableName"] = self.name
        with failing_with(partial(self._ledger_error, name)):
            return self._with_retries(partial(operation, **request))

    def _with_retries(self, call: Callable[[], Any]) -> Any:
        """Call; repeat the call, for up to ``THROTTLED_S``, while it is refused for its rate or for a transaction."""
        until_s, tries = self._clock.now_s() + THROTTLED_S, 0
        while True:
            sent_s = time.monotonic()
            try:
                answer = call()
                self._set_clock(answer, sent_s)
                return answer
            except self._clients.dynamodb.exceptions.ClientError as error:
                # A refusal has the time, too, and under load there might be no other answer.
                self._set_clock(error.response, sent_s)
                if not _is_refused_for_now(error) or self._clock.now_s() >= until_s:
                    raise
            tries += 1
            self._back_off(tries)

    def _set_clock(self, answer: Any, sent_s: float) -> None:
        """Set the clock by the answer's ``Date`` header, if it is a ``ServiceClock``."""
        date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        if date and isinstance(self._clock, ServiceClock):
            self._clock.correct(parsedate_to_datetime(date).timestamp(), time.monotonic() - sent_s)

    def _ledger_error(self, operation: str, error: Exception) -> LedgerError:
        """The LedgerError for the failure of an operation; retryable unless the request would be refused again."""
        code = error_code(error)
        failure = LedgerError(
            f"{operation} in table {self.name} failed{_FINAL_CODES.get(code, '')}: {explain_error(error)}"
        )
        failure.retryable = code not in _FINAL_CODES or _is_refused_for_now(error)
        return failure

    def _back_off(self, tries: int) -> None:
        self._clock.sleep(random.uniform(0, min(2.0, 0.02 * 2 ** min(tries, 10))))


def attributes(values: Mapping[str, Any]) -> dict[str, Any]:
    """Python values as DynamoDB attributes."""
    return {name: _attribute(value) for name, value in values.items()}


def key_attributes(key: Key) -> dict[str, Any]:
    """An item's key as DynamoDB attributes."""
    return {"pk": {"S": key[0]}, "sk": {"S": key[1]}}


def _attribute(value: Any) -> dict[str, Any]:
    """A Python value as a DynamoDB attribute. A number keeps all digits, so that a float is read as the same float."""
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
    """An item of the table, with Python values in place of DynamoDB attributes."""
    return {name: _value(name, attribute) for name, attribute in stored_item.items()}


def _value(name: str, attribute: Any) -> Any:
    """An attribute's Python value. A number is a float (seconds) if its name ends with ``_s``, else an int."""
    [(type_name, value)] = attribute.items()
    if type_name == "N":
        return float(value) if name.endswith("_s") else int(value)
    if type_name == "M":
        return {key: _value(key, nested) for key, nested in value.items()}
    if type_name == "L":
        return tuple(_value("", nested) for nested in value)
    return value


def _read_ahead(pool: ThreadPoolExecutor, pages: Iterator[Mapping[str, Any]]) -> Iterator[Item]:
    """The items of the pages. While one page is consumed, the next is read and decoded, which saves memory."""

    def read() -> list[Item] | None:
        page = next(pages, None)
        return None if page is None else list(map(item_of, page["Items"]))

    def items(next_page: "Future[list[Item] | None]") -> Iterator[Item]:
        while (page := next_page.result()) is not None:
            next_page = pool.submit(read)
            yield from page

    return items(pool.submit(read))


def _is_refused(error: Exception) -> bool:
    """Whether the error means that a condition of the write, or of its transaction, does not hold."""
    if error_code(error) == _CANCELED:
        # A cancelled transaction always has this code; its reasons show whether a condition is the cause.
        return bool(_CONDITION_REASON & (_reasons(error) or _CONDITION_REASON))
    return error_code(error) == "ConditionalCheckFailedException"


def _hides_the_outcome(error: "BotoCoreError | ClientError") -> bool:
    """Whether a write may have been applied in spite of the error: there is no answer, or the service itself failed."""
    status = http_status(error)
    has_no_answer = status == 0
    return has_no_answer or status >= 500 or error_code(error) == "TransactionInProgressException"


def _is_refused_for_now(error: Exception) -> bool:
    """Whether the request was refused for its rate, or for another transaction on the same item."""
    reasons = _reasons(error)
    # If a condition is among the reasons, the refusal is final, whatever the others are.
    return error_code(error) in _THROTTLING_CODES or (
        bool(reasons & _TEMPORARY_REASONS) and not reasons & _CONDITION_REASON
    )


def _reasons(error: Exception) -> set[str]:
    """The codes of the reasons why a transaction was cancelled; empty for any other error."""
    response: Any = getattr(error, "response", {})
    return {reason.get("Code", "None") for reason in response.get("CancellationReasons", [])} - {"None"}

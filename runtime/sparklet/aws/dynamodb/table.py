"""Calls to the ledger's table, whose outcome is always known.

A conditional write has one of three outcomes, see ``Written``: applied, refused (with the item that refused it), or
unknown, because the answer was lost. After an unknown one the item is read again, strongly consistent. botocore itself
repeats a write after a lost answer: if the first try was applied, the second is *refused* by it. So callers look for
their own sign in the item before they trust a refusal.

A request that is refused for its rate was not applied. A partition can stay too hot for minutes, for longer than
botocore tries; so this module repeats it, more and more slowly.
"""

import random
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from sparklet.aws.clients import AwsClients, error_code, explained
from sparklet.aws.dynamodb.items import Attributes, Item, attribute, attributes
from sparklet.clock import ServiceClock
from sparklet.errors import LedgerError
from sparklet.ports import Clock

if TYPE_CHECKING:
    from botocore.exceptions import BotoCoreError, ClientError
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef

OPEN_INDEX = "open-index"
MAX_KEYS_A_BATCH = 100
MAX_DELETES_A_BATCH = 25
THROTTLED_S = 60.0  # how long a request is repeated that is refused for now
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
_ALL_OLD = "ALL_OLD"


@dataclass(frozen=True, slots=True)
class Written:
    """The outcome of a conditional write.

    ``item`` is the item as it is now; None if there is none. ``lost`` is the fault that hides whether the write was
    applied; None if that is known.
    """

    applied: bool
    item: Item | None
    lost: LedgerError | None = None

    def carries(self, writer: str) -> bool:
        """Whether the item carries this write's sign: it was applied, whatever the answer was."""
        return self.applied or (self.item is not None and self.item.get("writer") == attribute(writer))


def new_writer() -> str:
    """A sign that one write leaves in its item, by which it is known again after a lost answer."""
    return uuid.uuid4().hex[:12]


class LedgerTable:
    """Calls to one table; raises LedgerError for everything but a refused condition."""

    def __init__(self, clients: AwsClients, name: str, clock: Clock) -> None:
        self.name = name
        self.threads = clients.threads
        self._clients = clients
        self._clock = clock

    def get(self, key: Attributes) -> Item | None:
        """An item, strongly consistent."""
        answer = self._call(
            "GetItem", self._clients.dynamodb.get_item, TableName=self.name, Key=key, ConsistentRead=True
        )
        item: Item | None = answer.get("Item")
        return item

    def get_many(self, keys: Sequence[Attributes]) -> Iterator[Item]:
        """The items of these keys that are there, strongly consistent, in any order."""
        for start in range(0, len(keys), MAX_KEYS_A_BATCH):
            wanted = {"Keys": list(keys[start : start + MAX_KEYS_A_BATCH]), "ConsistentRead": True}
            for answer in self._batch("BatchGetItem", self._clients.dynamodb.batch_get_item, wanted, "UnprocessedKeys"):
                yield from answer["Responses"].get(self.name, [])

    def _batch(self, what: str, operation: Any, wanted: Any, unprocessed: str) -> Iterator[Mapping[str, Any]]:
        """The answers to a batch request, repeated with what the table has not processed yet."""
        request, tries = {self.name: wanted}, 0
        while request:
            answer = self._call(what, operation, RequestItems=request)
            yield answer
            request, tries = answer.get(unprocessed), tries + 1
            if request:
                self._back_off(tries)

    def pages(self, condition: str, values: Mapping[str, Any], **query: Any) -> Iterator[Mapping[str, Any]]:
        """The pages of a query by a key condition; strongly consistent unless it is on the index."""
        expressions = (condition, query.get("FilterExpression", ""), query.get("ProjectionExpression", ""))
        request: dict[str, Any] = {
            "TableName": self.name,
            **({} if "IndexName" in query else {"ConsistentRead": True}),
            "KeyConditionExpression": condition,
            "ExpressionAttributeValues": attributes(values),
            **names_in(" ".join(expressions)),
            **query,
        }
        start: dict[str, Any] = {}
        while True:
            page = self._call("Query", self._clients.dynamodb.query, **request, **start)
            yield page
            if not page.get("LastEvaluatedKey"):
                return
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}

    def put_new(self, item: Attributes) -> Written:
        """Put an item if there is none of its key."""
        key: Attributes = {"pk": item["pk"], "sk": item["sk"]}
        put: Any = self.create(item)["Put"]
        return self._write(key, self._clients.dynamodb.put_item, **put, ReturnValuesOnConditionCheckFailure=_ALL_OLD)

    def update(self, key: Attributes, update: str, condition: str, values: Mapping[str, Any]) -> Written:
        """Change an item if the condition holds, with ``values`` by placeholder (and ``#state`` and its like)."""
        return self._write(
            key,
            self._clients.dynamodb.update_item,
            **self._conditional(key, condition, values, UpdateExpression=update),
            ReturnValues="ALL_NEW",
            ReturnValuesOnConditionCheckFailure=_ALL_OLD,
        )

    def change(
        self, key: Attributes, update: str, condition: str, values: Mapping[str, Any]
    ) -> "TransactWriteItemTypeDef":
        """An ``update`` as part of a transaction."""
        return {"Update": self._conditional(key, condition, values, UpdateExpression=update)}

    def condition(self, key: Attributes, condition: str, values: Mapping[str, Any]) -> "TransactWriteItemTypeDef":
        """A condition on an item that a transaction does not change."""
        return {"ConditionCheck": self._conditional(key, condition, values)}

    def _conditional(self, key: Attributes, condition: str, values: Mapping[str, Any], **update: str) -> Any:
        expressions = {"ConditionExpression": condition, **update}
        given = {"ExpressionAttributeValues": attributes(values)} if values else {}  # an empty one is refused
        return {"TableName": self.name, "Key": key, **expressions, **names_in(" ".join(expressions.values())), **given}

    def create(self, item: Attributes) -> "TransactWriteItemTypeDef":
        """The put of an item that is not there yet, as part of a transaction."""
        return {"Put": {"TableName": self.name, "Item": item, "ConditionExpression": "attribute_not_exists(pk)"}}

    def delete_many(self, keys: Sequence[Attributes]) -> int:
        """Delete the items of these keys, whatever they hold; how many keys there were."""
        for start in range(0, len(keys), MAX_DELETES_A_BATCH):
            wanted = [{"DeleteRequest": {"Key": key}} for key in keys[start : start + MAX_DELETES_A_BATCH]]
            deque(
                self._batch("BatchWriteItem", self._clients.dynamodb.batch_write_item, wanted, "UnprocessedItems"),
                maxlen=0,
            )
        return len(keys)

    def transact(self, key: Attributes, writes: Sequence["TransactWriteItemTypeDef"]) -> Written:
        """Do all writes or none; ``key`` is the item that an outcome without success shows."""
        return self._write(key, self._clients.dynamodb.transact_write_items, TransactItems=writes)

    def _write(self, key: Attributes, operation: Any, **request: Any) -> Written:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = self._patiently(operation, **request)
        except (BotoCoreError, ClientError) as error:
            if _is_refused(error):
                return Written(applied=False, item=getattr(error, "response", {}).get("Item") or self.get(key))
            fault = self._fault("a write", error)
            if not _hides_the_outcome(error):
                raise fault from error
            return Written(applied=False, item=self.get(key), lost=fault)
        return Written(applied=True, item=answer.get("Attributes"))

    def _call(self, what: str, operation: Any, **request: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return self._patiently(operation, **request)
        except (BotoCoreError, ClientError) as error:
            raise self._fault(what, error) from error

    def _patiently(self, operation: Callable[..., Any], **request: Any) -> Any:
        """Call, and repeat a request that is refused for its rate or for a transaction, for up to ``THROTTLED_S``."""
        until_s, tries = self._clock.now_s() + THROTTLED_S, 0
        while True:
            sent_s = time.monotonic()
            try:
                answer = operation(**request)
                self._set_clock(answer, sent_s)
                return answer
            except self._clients.dynamodb.exceptions.ClientError as error:
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

    def _fault(self, what: str, error: "BotoCoreError | ClientError") -> LedgerError:
        code = error_code(error)
        fault = LedgerError(f"{what} in table {self.name} failed{_NEVER.get(code, '')}: {explained(error)}")
        fault.retryable = code not in _NEVER or _is_refused_for_now(error)
        return fault

    def _back_off(self, tries: int) -> None:
        self._clock.sleep(random.uniform(0, min(2.0, 0.02 * 2 ** min(tries, 10))))


class OnTable:
    """A part of the ledger: the table and a clock."""

    def __init__(self, table: LedgerTable, clock: Clock) -> None:
        self._table = table
        self._clock = clock


def names_in(expression: str) -> dict[str, Any]:
    """The argument that explains an expression's placeholders for reserved words; none if it has none."""
    reserved = {f"#{name}": name for name in ("state", "open", "rows", "offset", "length", "schema")}
    used = {placeholder: name for placeholder, name in reserved.items() if placeholder in expression}
    return {"ExpressionAttributeNames": used} if used else {}


def _is_refused(error: Exception) -> bool:
    """Whether a condition of the write, or of a transaction with it, does not hold."""
    if error_code(error) == _CANCELED:
        return bool(_CONDITION & (_reasons(error) or _CONDITION))
    return error_code(error) == "ConditionalCheckFailedException"


def _hides_the_outcome(error: "BotoCoreError | ClientError") -> bool:
    """Whether a write may have been applied in spite of this error: no answer, or an error of the service's own."""
    response: Any = getattr(error, "response", None)
    if not response or error_code(error) == "TransactionInProgressException":
        return True
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)) >= 500


def _is_refused_for_now(error: Exception) -> bool:
    """Whether it is refused for its rate, or for another transaction on the same item."""
    reasons = _reasons(error)
    return error_code(error) in _NOT_NOW or (bool(reasons & _PASSING) and not reasons & _CONDITION)


def _reasons(error: Exception) -> set[str]:
    """Why a transaction was cancelled."""
    response: Any = getattr(error, "response", {})
    return {reason.get("Code", "None") for reason in response.get("CancellationReasons", [])} - {"None"}

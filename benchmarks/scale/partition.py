"""One partition of DynamoDB in memory, which admits so many writes a second: as strict as AWS's at its worst.

It knows what attempts at shards ask of it: ``SET`` of attributes under a condition. It has no burst capacity.
"""

import re
import threading
import time
from collections import Counter
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError

from sparklet.aws.dynamodb.attempts import DynamoAttempts
from sparklet.aws.dynamodb.items import Item
from sparklet.aws.dynamodb.table import LedgerTable
from sparklet.ports import Clock

ASSIGNED = re.compile(r"([#\w]+) = (?:\w+ \+ )?([#:\w]+)")


class Partition:
    """A DynamoDB client's part over one partition; ``items`` are its shards, by their keys."""

    def __init__(self, writes_per_s: int) -> None:
        self._most, self._second, self._left = writes_per_s, 0, 0
        self._lock = threading.Lock()
        self.items: dict[str, dict[str, Any]] = {}
        self.counts: Counter[str] = Counter()

    def attempts(self, clock: Clock) -> DynamoAttempts:
        """The real ledger's attempts in it."""
        clients: Any = SimpleNamespace(threads=1, dynamodb=self)
        return DynamoAttempts(LedgerTable(clients, "ledger", clock), clock)

    def get_item(self, Key: Any, **_: Any) -> Mapping[str, Any]:  # noqa: N803 - boto3's
        """An item."""
        with self._lock:
            return {"Item": dict(self.items[_name(Key)])}

    def update_item(self, Key: Any, UpdateExpression: str, **request: Any) -> Mapping[str, Any]:  # noqa: N803
        """Throttled, refused or written."""
        names, values = request.get("ExpressionAttributeNames", {}), request["ExpressionAttributeValues"]
        with self._lock:
            self._admit()
            item = self.items[_name(Key)]
            mine = item.get("attempt_id") == values[":me"] and item["state"] == values.get(":running")
            if "attempts = " not in UpdateExpression and not mine:
                raise _error("ConditionalCheckFailedException", Item=dict(item))
            for name, value in ASSIGNED.findall(UpdateExpression):
                found = values[value] if value.startswith(":") else item[names[value]]
                item[names.get(name, name)] = found
            return {"Attributes": dict(item)}

    def expired(self, now_s: float) -> int:
        """How many attempts a check ends now, since their leases are over."""
        with self._lock:
            running = [each for each in self.items.values() if each["state"]["S"] == "RUNNING"]
            over = [each for each in running if float(each["lease_end_s"]["N"]) < now_s]
            for each in over:
                each["attempt_id"] = {"S": ""}
                each["state"] = {"S": "PENDING"}
        return len(over)

    def _admit(self) -> None:
        if self._second != int(time.monotonic()):
            self._second, self._left = int(time.monotonic()), self._most
        self._left -= 1
        self.counts["taken" if self._left >= 0 else "throttled"] += 1
        if self._left < 0:
            raise _error("ThrottlingException")


def _name(key: Item) -> str:
    return str(key["sk"]["S"])


def _error(code: str, **more: Any) -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": 400}, **more}
    return ClientError(response, "UpdateItem")

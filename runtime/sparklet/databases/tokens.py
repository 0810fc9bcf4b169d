"""The connections that all workers share: a database's tokens, in one item of the ledger's table.

``until_3`` and ``holder_3`` say until when and by whom token 3 is held. A write is conditional on the tokens that it
changes alone, so holders of different tokens do not conflict.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from sparklet.job.errors import DatabaseError, TableError

LEDGER = "SPARKLET_LEDGER_TABLE"
MAX_WAIT_S = 300.0
SKEW_S = 1.0  # clocks differ
SETTLE_S = 0.5  # a server's process ends a moment after its connection
PASSING = re.compile("ConditionalCheck|Connect|Exceeded|InternalServer|Throttl|Time(d)?out|Unavailable")
_FREE = "(attribute_not_exists(until_{0}) OR until_{0} < :expired OR holder_{0} = :me)"
_MINE = "until_{0} > :expired AND holder_{0} = :me"


class Tokens:
    """Tokens of one holder. The server ends any statement and any idle session after ``timeout_s`` (T).

    A lease lasts 5 T and is renewed each T / 2. So a frozen holder has lost its connection 2.5 T after its last
    renewal. A holder that could not renew for 3 T closes it, and a statement may go on for T.
    """

    def __init__(self, url: str, most: int, timeout_s: float) -> None:
        self.lost: Callable[[], None] = lambda: None  # closes what the tokens are for
        self.numbers: Sequence[int] = ()
        self.end_s = 0.0  # of the lease, by this machine's clock
        self._most, self._timeout_s, self._me = most, timeout_s, uuid.uuid4().hex
        key = {"pk": {"S": f"connections#{url.partition('?')[0]}"}, "sk": {"S": "tokens"}}
        self.item, self._client = {"TableName": os.environ[LEDGER], "Key": key}, aws_client("dynamodb")

    def take(self, wanted: int) -> bool:
        """Take up to ``wanted`` tokens that are free; False if there is none, or others were faster."""
        found, expired_s = self._ask("get_item", ConsistentRead=True) or {}, time.time() - SKEW_S
        item = found.get("Item", {})
        free = [n for n in range(self._most) if float(item.get(f"until_{n}", {"N": 0})["N"]) < expired_s]
        self.numbers = random.sample(free, min(wanted, len(free)))
        return bool(free) and self._hold(5 * self._timeout_s, _FREE)

    def keep(self, ended: threading.Event) -> None:
        """Renew the tokens until the end, then give them back."""
        renewed_s = time.monotonic()
        while not ended.wait(self._timeout_s / 2):
            now_s = time.monotonic()
            with suppress(TableError):
                if self._hold(5 * self._timeout_s, _MINE):
                    renewed_s = now_s
            if now_s > renewed_s + 3 * self._timeout_s:
                self.lost()  # again and again: a connection may be made meanwhile
        with suppress(TableError):
            self._hold(SETTLE_S - SKEW_S, _MINE)

    def _hold(self, duration_s: float, condition: str) -> bool:
        numbers = {":until": time.time() + duration_s, ":expired": time.time() - SKEW_S}
        values = {":me": {"S": self._me}, **{name: {"N": repr(value)} for name, value in numbers.items()}}
        answer = self._ask(
            "update_item",
            UpdateExpression="SET " + ", ".join(f"until_{n} = :until, holder_{n} = :me" for n in self.numbers),
            ConditionExpression=" AND ".join(condition.format(n) for n in self.numbers),
            ExpressionAttributeValues=values,
        )
        if answer is not None:
            self.end_s = numbers[":until"]
        return answer is not None

    def _ask(self, operation: str, **arguments: Any) -> Any:
        """The ledger's answer; None if a retry may help, else TableError."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(self._client, operation)(**self.item, **arguments)
        except (BotoCoreError, ClientError) as error:
            code = getattr(error, "response", {}).get("Error", {}).get("Code") or type(error).__name__
            if PASSING.search(code):
                return None
            where, needed = f"the tokens in {self.item['TableName']}", "dynamodb:GetItem and dynamodb:UpdateItem"
            raise TableError(f"{where} cannot be taken, which needs {needed}: {error}") from error


@contextmanager
def tokens(url: str, most: int | None, wanted: int, timeout_s: float) -> Iterator[Tokens | None]:
    """Hold between one and ``wanted`` tokens of a database for the block; None where nothing is shared.

    DatabaseError if there is none for five minutes; TableError at once if the ledger's table refuses them for good.
    """
    if not most or not os.environ.get(LEDGER):
        yield None
        return
    held, ended, end_s = Tokens(url, most, timeout_s), threading.Event(), time.monotonic() + MAX_WAIT_S
    while not held.take(wanted):
        if time.monotonic() > end_s:
            raise DatabaseError(f"all {most} connections to {url} were in use for {MAX_WAIT_S:.0f} s")
        time.sleep(random.uniform(0.2, 1.0))
    keeping = threading.Thread(target=held.keep, args=[ended], daemon=True)
    keeping.start()
    try:
        yield held
    finally:
        ended.set()
        keeping.join()


def aws_client(service: str) -> Any:
    """A client of AWS by boto3, which every engine on AWS has."""
    import boto3

    make: Any = boto3.client
    return make(service, region_name=os.environ.get("AWS_REGION"))  # boto3 itself reads AWS_DEFAULT_REGION

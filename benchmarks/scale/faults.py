"""Faults by seed: which shards they meet is decided before anything runs, whatever the order of events."""

import json
import random
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest

CRASHES = ("claimed", "executed", "recorded")  # where a worker dies: before its work, after it, after the ledger knows
POISONED = 0.1  # of the share: scripts that fail for good, so that some shards end as FAILED
LEDGER_FAULTS = (("throttled", 1), ("throttled", 6), ("lost", 1), ("lost", 4))  # botocore tries four times
LEDGER_WEIGHTS = (4, 1, 4, 1)


class Faults:
    """What happens to which shard.

    Parameters
    ----------
    seed
        Another seed is another selection.
    share
        Of the shards (of the ledger's writes), for each kind of fault: 0.01 is one in a hundred.
    """

    def __init__(self, seed: int, share: float) -> None:
        self._seed, self._share = seed, share

    def crash(self, shard: int) -> str:
        """Where the first attempt at a shard dies; "" if it does not."""
        chosen = self._chosen("crash", shard)
        return chosen.choice(CRASHES) if chosen else ""

    def twice(self, shard: int) -> str:
        """How a shard's message is delivered twice: at once, or later; "" if it is not."""
        chosen = self._chosen("twice", shard)
        return chosen.choice(("at once", "later")) if chosen else ""

    def starved(self, shard: int) -> bool:
        """Whether the shard's first message is received again and again without an invocation, up to the DLQ."""
        return self._chosen("starved", shard, POISONED) is not None

    def poisoned(self, shard: int) -> bool:
        """Whether the script fails for good on a shard."""
        return self._chosen("poisoned", shard, POISONED) is not None

    def flaky(self, shard: int) -> bool:
        """Whether the script's first attempt fails in a way that passes."""
        return self._chosen("flaky", shard) is not None

    def ledger(self, write: str) -> tuple[str, int]:
        """What happens to a write and how many times in a row; ("", 0): nothing."""
        chosen = self._chosen("ledger", write)
        return chosen.choices(LEDGER_FAULTS, LEDGER_WEIGHTS)[0] if chosen else ("", 0)

    def _chosen(self, kind: str, key: object, part: float = 1.0) -> random.Random | None:
        if not self._share:
            return None
        dice = random.Random(f"{self._seed}/{kind}/{key}")
        return dice if dice.random() < self._share * part else None


class LedgerFaults:
    """Stands between botocore and the ledger: throttles writes of shards, or loses their answers.

    A write is chosen by what it is about (shard, and the state it wants), so a later try of the same write meets the
    rest of the same fault. What is lost was done.
    """

    def __init__(self, faults: Faults, note: Callable[[int, str], None]) -> None:
        self._faults, self._note = faults, note
        self._left: dict[str, tuple[str, int]] = {}
        self._lock = threading.Lock()
        self._session: Any = None

    def register(self, client: Any) -> None:
        """Meet the requests of a DynamoDB client."""
        client.meta.events.register("before-send.dynamodb", self)

    def __call__(self, request: "AWSPreparedRequest", event_name: str, **_: Any) -> Any:
        """An answer in the ledger's place, an error, or None: the request goes its way."""
        from botocore.exceptions import ReadTimeoutError

        operation = event_name.rpartition(".")[2]
        if operation not in ("UpdateItem", "PutItem"):
            return None
        document = json.loads(bytes(request.body))  # type: ignore[arg-type]  # DynamoDB has no streams
        sort_key = (document.get("Key") or document["Item"])["sk"]["S"]
        kind = self._next(sort_key, operation, document) if sort_key.startswith("shard#") else ""
        if not kind:
            return None
        self._note(int(sort_key.partition("#")[2]), f"{kind} {operation}")
        if kind == "throttled":
            return throttled(str(request.url))
        self._really_send(request)
        raise ReadTimeoutError(endpoint_url=request.url)

    def _next(self, sort_key: str, operation: str, document: Any) -> str:
        values = document.get("ExpressionAttributeValues", {})
        wanted = next((values[name]["S"] for name in (":wanted", ":state", ":running") if name in values), "")
        write = f"{sort_key} {operation} {wanted}"
        with self._lock:
            kind, left = self._left.get(write) or self._faults.ledger(write)
            if kind:
                self._left[write] = kind, max(0, left - 1)
        return kind if left else ""

    def _really_send(self, request: "AWSPreparedRequest") -> None:
        from botocore.httpsession import URLLib3Session

        self._session = self._session or URLLib3Session()
        self._session.send(request)


class _Body:
    """What botocore reads an answer's content from."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self) -> Iterator[bytes]:
        """All of it."""
        yield self._content


def throttled(url: str) -> Any:
    """DynamoDB's answer where a partition has no capacity left."""
    from botocore.awsrequest import AWSResponse

    error = {
        "__type": "com.amazonaws.dynamodb.v20120810#ThrottlingException",
        "message": "Throughput exceeds the current capacity of your table or index.",
    }
    headers: Any = {"content-type": "application/x-amz-json-1.0"}
    return AWSResponse(url, 400, headers, _Body(json.dumps(error).encode()))

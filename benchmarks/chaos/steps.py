"""A request's name as a step of the protocol, and which steps a worker takes when nothing goes wrong.

``steps.json`` holds the latter, in their order, for each format, way and role; ``python -m benchmarks.chaos --record``
writes it. So a trial's seed decides at which step it strikes, in every session.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from urllib.parse import parse_qs

from benchmarks.chaos.plans import ISOLATED, PER_INPUT, REPLACED
from benchmarks.chaos.proxy import Request

FILE = Path(__file__).with_name("steps.json")
LEDGER = (  # what an update of a shard sets, and which it is
    (":winner", "win"),
    (":attempts", "claim"),
    (":requeues", "requeue"),
    (":split", "ask"),
    (":state", ""),
    (":lease_end_s", "renew"),
)
STATES = {"SUCCEEDED": "succeed", "FAILED": "fail", "PENDING": "release"}
SPLITTING = {"PUT pieces": 3, "TransactWriteItems": 3, "SendMessageBatch": 3}
OF_FILES = {  # where workers and checkers of such trials are struck, and how often they come there at least
    (ISOLATED, "shard"): dict.fromkeys(
        ("claim", "ask", "GET plan part", "PUT data file", "PUT declaration", "win", "fail"), 1
    ),
    (PER_INPUT, "shard"): {
        **dict.fromkeys(("claim", "ask", "GET plan part", "win", "succeed"), 1),
        "PUT staged file": 9,
        "COPY data file": 9,
    },
    (REPLACED, "shard"): {
        **dict.fromkeys(("claim", "win", "succeed", "PUT other", "DELETE data file", "DELETE other"), 1),
        "LIST staged file": 2,
        "COPY data file": 9,
    },
    (ISOLATED, "checker"): SPLITTING,
    (PER_INPUT, "checker"): SPLITTING,
}
OBJECTS = (
    (r"/runs/[^/]+/writes/", "declaration"),
    (r"/runs/[^/]+/_commit-", "commit file"),
    (r"/runs/[^/]+/plan/split-", "pieces"),
    (r"/runs/[^/]+/plan/", "plan part"),
    (r"/runs/[^/]+/script/", "script"),
    (r"/runs/", "run's file"),
    (r"/staged/.*/_changes/", "changes"),
    (r"/staged/", "staged file"),
    (r"/_delta_log/", "Delta log"),
    (r"\.metadata\.json", "Iceberg metadata"),
    (r"/metadata/.*\.avro", "Iceberg manifest"),
    (r"/\.hoodie/metadata/", "Hudi metadata table"),
    (r"/\.hoodie/", "Hudi timeline"),
    (r"_temporary/", "temporary file"),
    (r"\.parquet", "data file"),
    (r"/in/", "input"),
)
WRITES = ("PUT", "POST", "DELETE", "COPY")


def label(request: Request) -> str:
    """What a request does, in two or three words."""
    if operation := request.operation:
        return _ledger(operation, request.body)
    path, _, query = request.path.partition("?")
    method, asked = "COPY" if "x-amz-copy-source" in request.headers else request.method, parse_qs(query)
    if "list-type" in query or "prefix" in asked:
        method, path = "LIST", f"/{asked.get('prefix', [''])[0]}"
    if method == "POST" and "delete" in query:
        method, path = "DELETE", request.body.decode("latin-1").replace("<Key>", "/")
    return f"{method} {next((name for pattern, name in OBJECTS if re.search(pattern, path)), 'other')}"


def _ledger(operation: str, body: bytes) -> str:
    if operation != "UpdateItem":
        return operation
    values = json.loads(body).get("ExpressionAttributeValues", {})
    name = next((name for part, name in LEDGER if part in values), operation)
    return name or STATES.get(values[":state"].get("S", ""), operation)


def changes(name: str) -> bool:
    """Whether a step changes something."""
    first = name.partition(" ")[0]
    return (
        first in WRITES or (name.islower() and " " not in name) or name in ("UpdateItem", "PutItem", "SendMessageBatch")
    )


@cache
def known() -> Mapping[str, Sequence[str]]:
    """The steps of each format, way and role, in their order, with repetitions."""
    found: dict[str, str] = json.loads(FILE.read_text()) if FILE.exists() else {}
    return {key: steps.split(", ") for key, steps in found.items()}


def to_strike(key: str, nth: float, *, writes: bool) -> tuple[str, int]:
    """A step and which of its occurrences, chosen by ``nth``: of those that change something, or of all requests."""
    steps = known().get(key) or ["succeed"]
    if writes:
        named = list(dict.fromkeys(step for step in steps if changes(step)))
        place, rest = divmod(nth * len(named), 1)
        return named[int(place)], int(rest * steps.count(named[int(place)])) + 1
    place = int(nth * len(steps))
    return steps[place], Counter(steps[: place + 1])[steps[place]]


def to_strike_files(kind: str, who: str, dice: random.Random) -> tuple[str, int]:
    """A step by which shards of many files are split or published, and which of its occurrences."""
    steps = OF_FILES[kind, who]
    name = dice.choice(list(steps))
    return name, dice.randint(1, steps[name])


def record(taken: Mapping[str, Sequence[str]]) -> None:
    """Write down the last attempt's, without what only time brings: renewed leases, and a checker's looking around."""
    of_protocol = {
        key: [step for step in _last_attempt(steps) if step != "renew" and (changes(step) or "/checker" not in key)]
        for key, steps in taken.items()
    }
    lines = {key: ", ".join(steps) for key, steps in {**known(), **of_protocol}.items()}
    FILE.write_text(json.dumps(lines, indent=1) + "\n")
    known.cache_clear()


def _last_attempt(steps: Sequence[str]) -> Sequence[str]:
    return steps[len(steps) - 1 - steps[::-1].index("claim") :] if "claim" in steps else steps

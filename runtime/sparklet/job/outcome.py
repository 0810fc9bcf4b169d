"""The outcome of a script, in a file for the worker.

The worker sets ``SPARKLET_OUTCOME_FILE`` to a new path for each attempt, and reads the file after the script's exit.
It holds one JSON object::

    {"rows": 842, "output_bytes": 51200, "outputs": ["s3://bucket/out/shard=000007"]}

``rows`` and ``output_bytes`` are null until the script reports them. ``answer`` (any value), ``state`` (an object) and
``writes`` (declared writes to tables, see ``sparklet.connectors.tables.declaration``) may be there, and ``direct`` once
a write that commits at once has begun. A script that never reports leaves no file. For SQS messages, ``failed`` has
the messages to deliver again, and ``committed`` has messages whose rows are in the table already, which made the script
fail. ``quality`` has the outcomes of Glue's data quality rules.
"""

from __future__ import annotations

import itertools
import json
import operator
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OUTCOME_FILE = "SPARKLET_OUTCOME_FILE"
EVENT, EVENT_FILE = "SPARKLET_EVENT", "SPARKLET_EVENT_FILE"  # the value for --event, and the path of the event's file
DIRECT = b'"direct": true'
CLAIMED = "SPARKLET_CLAIMED"  # set by a worker that has claimed the event's shard in the ledger
MAX_ANSWER_BYTES = 6 * 1024 * 1024 - 64 * 1024  # Lambda returns 6 MB at most: this and the rest of the response
MAX_STATE_BYTES = 1_000_000  # above that Lambda ends a window early


class Outcome:
    """The totals of one script, written after every report to ``path``, or to standard error if ``path`` is None."""

    def __init__(self, path: Path | None = None, *, claimed: bool = False) -> None:
        self._path = path
        self.claimed = claimed  # whether the worker owns the event's shard
        self._lock = threading.Lock()
        self.totals: dict[str, Any] = {"rows": None, "output_bytes": None, "outputs": []}
        self._labels: set[str] = set()  # of writes to tables that are made or under way
        self.batches: dict[tuple[str, str], Any] = {}  # a stream's, by table and label; see ``tables.stream_batch``
        self.has_read_all = False  # whether the script has read a batch without leaving out the records of a table

    @classmethod
    def of_environment(cls, env: Mapping[str, str] = os.environ) -> Outcome:
        """Return the outcome of ``SPARKLET_OUTCOME_FILE``: one object for each file, lest reports be lost."""
        if not (name := env.get(OUTCOME_FILE)):
            return cls()
        return _OUTCOME_BY_FILE.setdefault(name, cls(Path(name), claimed=bool(env.get(CLAIMED))))

    @property
    def has_left_out(self) -> bool:
        """Whether the script has read a batch only without the records that one table has; others may lack them."""
        return not self.has_read_all and any(batch.is_read and batch.old for batch in self.batches.values())

    @contextmanager
    def reserve_label(self, label: str | None) -> Iterator[str]:
        """Yield a label that no other write of this script has. If the block fails, the label is free again.

        Without ``label`` it is the lowest free number, so a script's writes have the same labels in every attempt.
        """
        with self._lock:
            label = label or next(str(n) for n in itertools.count(1) if str(n) not in self._labels)
            if label in self._labels:
                raise ValueError(f"this script has made a write with the label {label!r} already: choose another")
            self._labels.add(label)
        try:
            yield label
        except BaseException:
            self._labels.discard(label)
            raise

    def declare(self, write: Mapping[str, Any]) -> None:
        """Add a staged write to the totals and write them; see ``sparklet.connectors.tables.declaration``."""
        with self._lock:
            self.totals.setdefault("writes", []).append(write)
            self._write()

    def add(self, rows: int | None = None, output_bytes: int | None = None, outputs: Iterable[str] = ()) -> None:
        """Add to the totals and write them; see ``Job.report``."""
        if isinstance(outputs, str):
            raise TypeError(f"outputs is the text {outputs!r}; it must be a list of uris: [{outputs!r}]")
        new = [str(uri) for uri in outputs]
        counts = {"rows": _checked_count("rows", rows), "output_bytes": _checked_count("output_bytes", output_bytes)}
        with self._lock:
            for name, count in counts.items():
                if count is not None:
                    self.totals[name] = (self.totals[name] or 0) + count
            self.totals["outputs"] = list(dict.fromkeys(self.totals["outputs"] + new))
            self._write()

    def answer(self, document: Any) -> None:
        """Set the answer and write it; see ``Job.answer``."""
        self.give("answer", _json_value("an answer", document, MAX_ANSWER_BYTES))

    def judge(self, context: str, rules: Iterable[Mapping[str, Any]]) -> None:
        """Add the outcomes of data quality rules and write them; see ``sparklet.connectors.glue``."""
        self.give("quality", [*self.totals.get("quality", ()), {"context": context, "rules": list(rules)}])

    def keep_state(self, state: Mapping[str, Any]) -> None:
        """Set the window's state and write it; see ``Job.keep_state``."""
        self.give("state", _json_value("a window's state", dict(state), MAX_STATE_BYTES))

    def give(self, name: str, value: Any) -> None:
        """Set a field of the outcome and write it."""
        with self._lock:
            self.totals[name] = value
            self._write()

    def _write(self) -> None:
        text = json.dumps(self.totals)
        if self._path is None:
            print(f"sparklet.job report: {text}", file=sys.stderr, flush=True)
            return
        if self._path.exists() and not self._path.is_file():
            self._path.write_text(text, encoding="ascii")  # a device or a pipe must not be replaced by a file
            return
        # The file is replaced as a whole, since the worker may kill the script at any moment.
        partial = self._path.with_name(f"{self._path.name}.{os.getpid()}.partial")
        partial.write_text(text, encoding="ascii")
        partial.replace(self._path)


_OUTCOME_BY_FILE: dict[str, Outcome] = {}


def _json_value(name: str, value: Any, max_bytes: int) -> Any:
    """Return a copy of the value, as a reader of its JSON will decode it; ValueError if it is too large."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if (size_bytes := len(text.encode())) > max_bytes:
        raise ValueError(f"{name} has {size_bytes} bytes as JSON; at most {max_bytes} can be returned: write it to S3")
    return json.loads(text)


def _checked_count(name: str, value: int | None) -> int | None:
    if value is None:
        return None
    number = operator.index(value)  # numpy's integers too, but no float and no text
    if number < 0:
        raise ValueError(f"{name} is {number}; it must not be negative")
    return number

"""The shards of a run as columns, for its report: all of them, or of a large run those that matter and a fair sample.

``runs.manifest`` writes them to ``report.json`` when a run ends (docs/schemas/report.json); of an open run the command
line reads them itself.
"""

import heapq
import random
from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any

from sparklet.ledger.rules import LEASE_EXPIRED
from sparklet.model import ShardRecord, ShardState

VERSION = 1  # of report.json; raised when its reader of before would be wrong
MAX_SHARDS = 20_000  # of a larger run so many are listed at most: failed and slowest ones, and a fair sample
MAX_FAILED, MAX_SLOWEST = 4_000, 2_000
MAX_MESSAGES = 1_000  # of causes; of further ones the class alone
COLUMNS = (
    *("shard", "state", "attempts", "started_s", "took_s", "objects", "input_bytes", "output_bytes", "rows"),
    *("memory_mb", "lost", "worker", "engine", "cause"),
)
LISTED = ("worker", "engine", "cause")  # columns of numbers of entries in lists
_SHARD, _TOOK_S = COLUMNS.index("shard"), COLUMNS.index("took_s")


class ShardTable:
    """Takes shards one by one; it grows to ``most`` of them."""

    def __init__(self, created_s: float, most: int = MAX_SHARDS) -> None:
        self._created_s = created_s
        self._most, self._most_failed = most, most * MAX_FAILED // MAX_SHARDS
        self._most_slowest = most * MAX_SLOWEST // MAX_SHARDS
        self._most_fair = most - self._most_failed - self._most_slowest  # if not all can be listed
        self._count = 0
        self._all: list[tuple[Any, ...]] | None = []  # until there are too many
        self._fair: list[tuple[Any, ...]] = []
        self._failed: list[tuple[Any, ...]] = []
        self._slowest: list[tuple[float, int, tuple[Any, ...]]] = []  # a heap
        # Seeded, so a report that is written again after a crash has the same sample.
        self._random = random.Random(0)

    def add(self, record: ShardRecord) -> None:
        """Take one shard."""
        row = self._row(record)
        self._count += 1
        if self._all is not None:
            self._all.append(row)
            if len(self._all) > self._most:
                self._all = None
        if len(self._fair) < self._most_fair:
            self._fair.append(row)
        elif (index := self._random.randrange(self._count)) < self._most_fair:  # Vitter's algorithm R
            self._fair[index] = row
        if record.state is ShardState.FAILED and len(self._failed) < self._most_failed:
            self._failed.append(row)
        if row[_TOOK_S] is not None:
            # The number decides between equal times: rows hold None, and cannot be compared.
            heapq.heappush(self._slowest, (row[_TOOK_S], -record.number, row))
            if len(self._slowest) > self._most_slowest:
                heapq.heappop(self._slowest)

    def document(self) -> dict[str, Any]:
        """The table as ``report.json`` has it: a list of values for each column, and the lists that they refer to.

        ``sampled`` is 1 for the shards of a fair sample: from these alone distributions may be drawn.
        """
        fair = self._fair if self._all is None else self._all
        rows = {row[_SHARD]: row for row in (*fair, *self._failed, *(row for *_, row in self._slowest))}
        ordered = sorted(rows.values(), key=itemgetter(_SHARD))
        columns = {name: [row[index] for row in ordered] for index, name in enumerate(COLUMNS)}
        sampled = {row[_SHARD] for row in fair}
        lists = {name: _numbered(columns[name], name == "cause") for name in LISTED}
        return {
            "count": self._count,
            "complete": self._all is not None,
            "columns": columns
            | {name: numbers for name, (numbers, _) in lists.items()}
            | {"sampled": [int(row[_SHARD] in sampled) for row in ordered]},
            **{f"{name}s": entries for name, (_, entries) in lists.items()},
        }

    def _row(self, record: ShardRecord) -> tuple[Any, ...]:
        ended = record.state.ended and record.attempts
        return (
            record.number,
            str(record.state),
            record.attempts,
            round(record.started_s - self._created_s, 3) if record.attempts and record.started_s else None,
            round(record.took_s, 3) if ended else None,
            record.object_count,
            record.size_bytes,
            record.output_bytes,
            record.rows,
            record.memory_mb,
            int(record.error_class == LEASE_EXPIRED),
            (record.log_stream or record.task_id or None) if record.attempts else None,
            record.engine or None,
            (record.error_class, record.error_message) if record.error_class else None,
        )


def _numbered(values: Iterable[Any], are_causes: bool) -> tuple[list[int | None], list[Any]]:
    """Numbers in place of values, in the order in which they come, and the values."""
    number_by_value: dict[Any, int] = {}
    numbers: list[int | None] = []
    for value in values:
        if are_causes and value and value not in number_by_value and len(number_by_value) >= MAX_MESSAGES:
            value = value[0], ""
        numbers.append(None if value is None else number_by_value.setdefault(value, len(number_by_value)))
    return numbers, list(number_by_value)


def fair_values(table: Mapping[str, Any], *names: str) -> list[tuple[Any, ...]]:
    """The values of the fair sample in these columns; shards without one of them are left out."""
    columns = [table["columns"][name] for name in ("sampled", *names)]
    return [values for sampled, *values in zip(*columns, strict=True) if sampled and None not in values]  # type: ignore[misc]

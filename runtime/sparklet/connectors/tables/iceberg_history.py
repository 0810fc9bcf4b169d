"""Which of Sparklet's commits the current state of an Iceberg table has, despite roll-backs and expired snapshots.

A snapshot's summary holds the id of its commit, and the number that the commit has set. Snapshots expire, so the
table's properties hold both, too; but they stay after a roll-back. Hence each commit also sets AT, its own snapshot.
While AT is in the current state, no commit was rolled back. Once it is not, a commit counts by its own snapshot alone,
and whether one of which the snapshot has expired is there, nobody can tell.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any

from sparklet.connectors.tables.declaration import Commit
from sparklet.job.errors import CommitStateUnknownError

COMMIT_ID, MAKER = "sparklet.commit-id", "sparklet.maker"  # in a snapshot's summary
AT, COMMITS = "sparklet.at", "sparklet.commits"  # properties
DOUBTFUL = "doubtful"  # AT, once a commit was made on a state that did not show all commits before
PICKED = "source-snapshot-id"  # whose files a cherry-pick has added
MAX_UNCERTAIN_S = 4 * 86400  # without COMMITS: by default snapshots, and the ids in them, expire after 5 days
KEPT_S, MAX_KEPT = 15 * 86400, 2000  # ids of commits in COMMITS; a queue of SQS keeps its messages for 14 days

Snapshot = Mapping[str, Any]


class History:
    """Of one state of a table, as Iceberg's JSON of its metadata."""

    def __init__(self, name: str, metadata: Mapping[str, Any]) -> None:
        self._name, self._properties = name, metadata["properties"]
        self._snapshots: dict[int, Snapshot] = {each["snapshot-id"]: each for each in metadata.get("snapshots", ())}
        self._current = metadata.get("current-snapshot-id")
        self._line = self._line_of(self._current)
        there = [self._snapshots[id_] for id_ in self._line if id_ in self._snapshots]
        picked = {int(_summary(snapshot, PICKED) or 0) for snapshot in there} - {*self._line}
        self._own = {
            _number(snapshot): snapshot
            for snapshot in (*there, *(self._snapshots[id_] for id_ in picked.intersection(self._snapshots)))
            if _summary(snapshot, COMMIT_ID)
        }
        stored = json.loads(self._properties.get(COMMITS, "null"))
        self._is_whole = stored is None or self._properties.get(AT) in map(str, self._line)
        self._ids: dict[str, tuple[int, int]] = stored["ids"] if stored else {}
        # Since when all ids are known: by COMMITS, or by the snapshots, of which a table's first has the number 1.
        is_complete = len(there) == len(self._line) and all(each.get("sequence-number", 1) == 1 for each in there[-1:])
        oldest_s = 0.0 if is_complete else there[-1]["timestamp-ms"] / 1000
        # Somebody may have unset COMMITS.
        self._since_s = stored["since"] if stored else min(oldest_s, time.time() - MAX_UNCERTAIN_S)
        self._known_s = min(self._since_s, oldest_s)

    def _line_of(self, at: int | None) -> list[int]:
        """A snapshot and its ancestors; the last may have expired."""
        line = list[int]()
        while at is not None and at != -1:  # a table without snapshots
            line.append(at)
            at = self._snapshots[at].get("parent-snapshot-id") if at in self._snapshots else None
        return line

    def made(self, name: str) -> tuple[str, int] | None:
        """See ``OpenTable``; of a chain its last link."""
        if number := self._properties.get(f"sparklet.{name}"):
            return "", int(number)
        for number, snapshot in self._own.items():
            if _summary(snapshot, COMMIT_ID) == name:
                return str(snapshot["snapshot-id"]), number
        stored = self._ids.get(_short(name))
        return stored and ("", stored[0])

    def holds(self, number: int) -> bool:
        """See ``OpenTable``."""
        if number in self._own:
            return True
        for id_, snapshot in self._snapshots.items():
            # Taken out, if its line parts from the present one; of a table that was replaced by a query nobody knows.
            if _number(snapshot) == number and not {*self._line}.isdisjoint(self._line_of(id_)):
                return False
        if self._is_whole:
            return True
        raise CommitStateUnknownError(
            f"snapshots of {self._name} have expired, so a roll-back may have removed rows that are to be written now. "
            "If they are not there, write them with another label, or those of a run by a new run. If all that "
            f"Sparklet wrote is there: ALTER TABLE {self._name} SET TBLPROPERTIES ('{AT}' = '{self._current}')"
        )

    def check_age(self, commit: Commit) -> None:
        """CommitStateUnknownError for a commit that this table lacks, but may have forgotten."""
        now_s = time.time()
        if not commit.records and commit.fixed_at_s is not None and commit.fixed_at_s < self._known_s:
            raise CommitStateUnknownError(
                f"{commit.table} does not hold the commit {commit.commit_id}, but it was due "
                f"{(now_s - commit.fixed_at_s) / 86400:.0f} days ago, and the table knows its commits of the last "
                f"{(now_s - self._known_s) / 86400:.1f} days: if it lacks the rows, start a new run, or send the event "
                "anew"
            )

    def properties(self, commit: Commit, maker: int, snapshot_id: int) -> dict[str, str]:
        """Those that a commit sets with its snapshot."""
        now_s = round(time.time())
        ids = dict(self._ids)
        if not commit.records:
            ids[_short(commit.commit_id)] = maker, now_s
        ended_s = max([now_s - KEPT_S, *sorted(at_s for _, at_s in ids.values())[:-MAX_KEPT]])
        recent_ids = {name: entry for name, entry in ids.items() if entry[1] > ended_s}
        # An id that is dropped moves the time since when the list is complete (``check_age``).
        since_s = self._since_s if len(recent_ids) == len(ids) else max(self._since_s, ended_s)
        return {
            AT: str(snapshot_id) if self._is_whole else DOUBTFUL,
            COMMITS: json.dumps({"since": since_s, "ids": recent_ids}, separators=(",", ":")),
        }


def _summary(snapshot: Snapshot, name: str) -> str:
    return str(snapshot.get("summary", {}).get(name) or "")


def _number(snapshot: Snapshot) -> int:
    return int(_summary(snapshot, MAKER) or 0)


def _short(name: str) -> str:
    # Each version of the metadata repeats up to MAX_KEPT of them.
    return hashlib.sha256(name.encode()).hexdigest()[:16]

"""Which of Sparklet's commits the current state of an Iceberg table has, despite roll-backs and expired snapshots.

A snapshot's summary holds the id of its commit, and the number that the commit has set. Snapshots expire, so the
table's properties hold both, too; but they stay after a roll-back. Hence each commit also sets AT, its own snapshot,
for which the properties are right; and LOST, the numbers of commits that were missing in the state before it. If AT is
in the current state, no other commit was rolled back.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from typing import Any

from sparklet.connectors.tables.declaration import Commit
from sparklet.job.errors import CommitStateUnknownError

COMMIT_ID, MAKER = "sparklet.commit-id", "sparklet.maker"  # in a snapshot's summary
AT, LOST, COMMITS = "sparklet.at", "sparklet.lost", "sparklet.commits"  # properties
PICKED = "source-snapshot-id"  # whose files a cherry-pick has added
KEPT_S, MAX_KEPT = 15 * 86400, 2000  # ids of commits in COMMITS; a queue of SQS keeps its messages for 14 days
MAX_UNCERTAIN_S = 4 * 86400  # without COMMITS: by default snapshots, and the ids in them, expire after 5 days
EXPIRED = -1  # the parent of a snapshot whose parent pyiceberg has expired
UNKNOWN = 0  # the number of a commit whose snapshot has expired

Snapshot = Mapping[str, Any]


class History:
    """Of one state of a table, as Iceberg's JSON of its metadata; ``earlier`` reads an earlier state, None if gone."""

    def __init__(self, name: str, metadata: Mapping[str, Any], earlier: Callable[[str], Any]) -> None:
        self._name, self._metadata, self._earlier = name, metadata, earlier
        self._properties: Mapping[str, str] = metadata["properties"]
        snapshots = _by_id(metadata)
        current = metadata.get("current-snapshot-id")
        self._current = current if current in snapshots else None  # -1: the table has none yet
        lineage, before = _line(snapshots, self._current)
        picked = {int(_summary(snapshots[id_], PICKED) or 0) for id_ in lineage}
        table_snapshots = [snapshots[id_] for id_ in (*lineage, *(picked - {*lineage}).intersection(snapshots))]
        self._own = [snapshot for snapshot in table_snapshots if _summary(snapshot, COMMIT_ID)]
        self._numbers = {_number(snapshot) for snapshot in self._own}
        stored = json.loads(self._properties.get(COMMITS, "null"))
        self._oldest_s = snapshots[lineage[-1]]["timestamp-ms"] / 1000 if before else 0.0  # all since are there
        self._known_s = stored["since"] if stored else min(self._oldest_s, time.time() - MAX_UNCERTAIN_S)
        self._ids: dict[str, tuple[int, int]] = stored["ids"] if stored else {}

    def made(self, name: str) -> tuple[str, int] | None:
        """See ``OpenTable``; of a chain its last link."""
        if number := self._properties.get(f"sparklet.{name}"):
            return "", int(number)
        for snapshot in self._own:
            if _summary(snapshot, COMMIT_ID) == name:
                return str(snapshot["snapshot-id"]), _number(snapshot)
        stored = self._ids.get(_short(name))
        return stored and ("", stored[0])

    def holds(self, number: int) -> bool:
        """See ``OpenTable``."""
        if number in self._numbers:
            return True
        if number not in self._lost and UNKNOWN in self._lost:
            name = self._name
            raise CommitStateUnknownError(
                f"snapshots of {name} have expired, so a roll-back may have removed rows that are to be written now. "
                "If they are not there, write them with another label, or those of a run by a new run. If all that "
                f"Sparklet wrote is there: ALTER TABLE {name} SET TBLPROPERTIES "
                f"('{AT}' = '{self._current}', '{LOST}' = '')"
            )
        return number not in self._lost

    def check_age(self, commit: Commit) -> None:
        """CommitStateUnknownError for a commit that this table lacks, but may have forgotten."""
        known_s, now_s = min(self._known_s, self._oldest_s), time.time()
        if not commit.records and commit.fixed_at_s is not None and commit.fixed_at_s < known_s:
            raise CommitStateUnknownError(
                f"{commit.table} does not hold the commit {commit.commit_id}, but it was due "
                f"{(now_s - commit.fixed_at_s) / 86400:.0f} days ago, and the table knows its commits of the last "
                f"{(now_s - known_s) / 86400:.1f} days: if it lacks the rows, start a new run, or send the event anew"
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
        since_s = self._known_s if len(recent_ids) == len(ids) else max(self._known_s, ended_s)
        # What is in the table again, as by a cherry-pick, is no longer lost. What expired snapshots hide stays unknown.
        lost = (self._lost - self._numbers) | (self._lost & {UNKNOWN})
        return {
            AT: str(snapshot_id),
            LOST: ",".join(map(str, sorted(lost))),
            COMMITS: json.dumps({"since": since_s, "ids": recent_ids}, separators=(",", ":")),
        }

    @cached_property
    def _lost(self) -> set[int]:
        """The numbers of commits that are no longer in the table, and UNKNOWN if there may be more."""
        if AT not in self._properties:  # no commit yet, or somebody has unset it
            return (
                {UNKNOWN}
                if any(_summary(snapshot, COMMIT_ID) for snapshot in _by_id(self._metadata).values())
                else set()
            )
        lost = {int(number) for number in self._properties.get(LOST, "").split(",") if number}
        # Each older state costs a request, so they are read only until they show where the lines part.
        for snapshots in self._snapshots():
            lineage, before = _line(snapshots, self._current)
            ancestors = {*lineage, before} - {EXPIRED}
            branch, fork = _line(snapshots, int(self._properties[AT]), ancestors)
            if fork in ancestors:
                return lost | {_number(snapshots[id_]) for id_ in branch if _summary(snapshots[id_], COMMIT_ID)}
        return lost | {UNKNOWN}

    def _snapshots(self) -> Iterator[dict[int, Snapshot]]:
        """The snapshots; then with those of earlier and earlier states, as far back as the table names these."""
        yield (snapshots := _by_id(self._metadata))
        for entry in reversed(self._metadata.get("metadata-log", ())):
            if (older := self._earlier(entry["metadata-file"])) is None:
                return
            snapshots |= _by_id(older)  # with parents that were expired since
            yield snapshots


def _by_id(metadata: Mapping[str, Any]) -> dict[int, Snapshot]:
    return {snapshot["snapshot-id"]: snapshot for snapshot in metadata.get("snapshots", ())}


def _line(
    snapshots: Mapping[int, Snapshot], at: int | None, end: Collection[int | None] = ()
) -> tuple[list[int], int | None]:
    """A snapshot and its ancestors, up to the ``end``; and the one before these, None before the first of all."""
    line = list[int]()
    while at is not None and at in snapshots and at not in end:
        line.append(at)
        at = snapshots[at].get("parent-snapshot-id")
        # The first snapshot of a table has the number 1; another without a parent has lost it, by an expiry or because
        # the table was replaced: what was before is unknown.
        if at is None and snapshots[line[-1]].get("sequence-number", 1) != 1:  # the first version has no numbers
            at = EXPIRED
    return line, at


def _summary(snapshot: Snapshot, name: str) -> str:
    return str(snapshot.get("summary", {}).get(name) or "")


def _number(snapshot: Snapshot) -> int:
    return int(_summary(snapshot, MAKER) or UNKNOWN)


def _short(name: str) -> str:
    # Each version of the metadata repeats up to MAX_KEPT of them.
    return hashlib.sha256(name.encode()).hexdigest()[:16]
